"""Semantic ids: identifiers of a few words, the same number for each item, in which similar items share a prefix.

An item's vector is quantised level by level; each level quantises the residual of the levels before. Each cluster is
written as a word of the model's own vocabulary with a similar meaning. So an adapter needs no new tokens, which engines
would not load, and a new item is encoded by its vector without training.

Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, section 3.1 (semantic ids by
residual quantisation, one more token where they collide); here with k-means instead of an autoencoder.
Letters: N items, D dimensions, L levels, W clusters of a level, M candidate words.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from genrec import artifact
from genrec.data.catalog import Catalog
from genrec.errors import InputError, MismatchError, check_count
from genrec.index.vector_grid import round_to_grid
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Encoder, FloatArray, IntArray

_KIND, _VERSION, _FILE = "codes", 1, "codes.safetensors"
_ARRAY_NAMES = {"centroids": "centres", "codebook_tokens": "tokens", "collision_tokens": "further"}  # in the file
_ITERATIONS = 25  # of k-means
_MIN_WORD_LETTERS = 4  # in a candidate word
_MAX_WORDS = 8192  # candidate words of a vocabulary
_WORDS_PER_CLUSTER = 64  # nearest candidate words of each cluster
_DISTANCE_BLOCK = 4096  # points whose distances are computed at once
_MAX_RESIDUAL_NORM = 4.0  # of what is left of a vector of length 1 after some levels, and of its centroids


@dataclass(frozen=True)
class SemanticIdReport:
    """How well semantic ids separate items.

    Attributes:
        utilization: float64 [L], the share of each level's clusters that have an item.
        normalized_entropy: float64 [L], the entropy of each level's cluster sizes, divided by the entropy of W clusters
            of equal size.
        collision_rate: the share of items whose L tokens are those of an earlier item.
    """

    utilization: FloatArray
    normalized_entropy: FloatArray
    collision_rate: float


class SemanticIdentifiers:
    """L tokens and an end token for every item, with collision tokens before the end if items have the same L tokens.

    Made by `SemanticIdentifiers.train` or `load`. Collision tokens are assigned in catalog order; items that are added
    later get the next free one.

    Attributes:
        fingerprint: identifies the clusters, words, tokenizer and encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        centroids: NDArray[np.float32],
        codebook_tokens: IntArray,
        collision_tokens: IntArray,
        tokenizer_fingerprint: str,
    ) -> None:
        self._encoder, self._tokenizer_fingerprint = encoder, tokenizer_fingerprint
        self._centroids, self._codebook_tokens, self._collision_tokens = centroids, codebook_tokens, collision_tokens
        digest = hashlib.sha256(f"{_KIND} {_VERSION} {tokenizer_fingerprint} {encoder.name}".encode())
        for array in (centroids, codebook_tokens, collision_tokens):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def train(
        cls,
        titles: Sequence[str],
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        levels: int = 3,
        codebook_size: int = 256,
        seed: int = 0,
    ) -> Self:
        """Cluster the titles of a catalog, and assign a word to each cluster.

        Args:
            titles: the titles of N items.
            encoder: encodes titles as vectors.
            tokenizer: the tokenizer of the model that will generate the ids.
            levels: L.
            codebook_size: W, at most N.
            seed: the seed of k-means.

        Raises:
            InputError: there are fewer titles than clusters, or fewer words than clusters.
        """
        check_count("levels", levels)
        check_count("codebook_size", codebook_size)
        if len(titles) < codebook_size:
            raise InputError(f"{len(titles):,} titles cannot fill {codebook_size:,} clusters; lower codebook_size")
        vectors = encoder.encode(titles)
        words, word_vectors = _candidate_words(tokenizer, encoder)
        if len(words) < codebook_size:
            raise InputError(
                f"the tokenizer has {len(words):,} words of one token, but {codebook_size:,} are needed; "
                "lower codebook_size"
            )
        residuals = vectors.copy()
        centroids = np.empty((levels, codebook_size, vectors.shape[1]), dtype=np.float32)
        tokens = np.empty((levels, codebook_size), dtype=np.int64)
        rng = np.random.default_rng(seed)
        for level in range(levels):
            centroids[level], clusters = _kmeans(residuals, codebook_size, rng)
            tokens[level] = words[_assign_words(vectors, clusters, codebook_size, word_vectors)]
            residuals -= centroids[level][clusters]
        return cls(
            encoder,
            centroids=centroids,
            codebook_tokens=tokens,
            collision_tokens=words[:codebook_size],
            tokenizer_fingerprint=tokenizer.fingerprint,
        )

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token.

        Raises:
            MismatchError: the semantic ids were trained for another tokenizer.
            InputError: too many items have the same tokens.
        """
        if tokenizer.fingerprint != self._tokenizer_fingerprint:
            raise MismatchError(
                f"the semantic ids were trained for tokenizer {self._tokenizer_fingerprint[:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; train them again"
            )
        codes = self._quantize(catalog.titles)
        rows = np.take_along_axis(self._codebook_tokens, codes.T, axis=1).T
        end, counts, sequences = tokenizer.answer_end, dict[bytes, int](), []
        for item, row in enumerate(rows):
            key = row.tobytes()
            while True:
                number = counts.get(key, 0)
                counts[key] = number + 1
                sequence = np.concatenate([row, self._collision_suffix(number, catalog, item), end])
                if is_taken is None or not is_taken(sequence):
                    break
            sequences.append(sequence)
        return sequences

    def report(self, titles: Sequence[str]) -> SemanticIdReport:
        """How well the semantic ids of these titles use the clusters."""
        codes = self._quantize(titles)
        shares = np.stack(
            [np.bincount(clusters, minlength=self._codebook_tokens.shape[1]) for clusters in codes.T]
        ) / max(len(codes), 1)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        _, counts = np.unique(codes, axis=0, return_counts=True)
        return SemanticIdReport(
            (shares > 0).mean(axis=1),
            -(shares * logs).sum(axis=1) / np.log(max(self._codebook_tokens.shape[1], 2)),
            float((counts - 1).sum() / max(len(codes), 1)),
        )

    def save(self, directory: Path) -> None:
        """Write a directory, completely or not at all: codes.safetensors, manifest.json."""
        metadata = {"tokenizer": self._tokenizer_fingerprint, "encoder": self._encoder.name}
        user_data = artifact.UserData("none", "clusters of the vectors of titles", 0)
        with artifact.artifact_writer(
            directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata=metadata
        ) as folder:
            arrays: dict[str, NDArray[Any]] = {_ARRAY_NAMES[name]: getattr(self, f"_{name}") for name in _ARRAY_NAMES}
            artifact.write_arrays(folder / _FILE, arrays)

    @classmethod
    def load(cls, directory: Path, encoder: Encoder) -> Self:
        """Load what `save` wrote.

        Raises:
            ArtifactError: the directory is missing, or a file was altered.
            MismatchError: the semantic ids were trained with another encoder.
        """
        manifest = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if manifest["encoder"] != encoder.name:
            raise MismatchError(
                f"the semantic ids were trained with encoder {manifest['encoder']!r}, not with {encoder.name!r}; "
                f"pass {manifest['encoder']!r}"
            )
        saved = artifact.mmap_arrays(directory / _FILE)
        arrays = {name: np.array(saved[saved_name]) for name, saved_name in _ARRAY_NAMES.items()}
        return cls(encoder, **arrays, tokenizer_fingerprint=manifest["tokenizer"])

    def _quantize(self, titles: Sequence[str]) -> IntArray:
        """int64 [N, L], the cluster of each level."""
        residuals = self._encoder.encode(titles).copy()
        codes = np.empty((len(residuals), len(self._centroids)), dtype=np.int64)
        for level, centroids in enumerate(self._centroids):
            codes[:, level] = _nearest_centroids(residuals, centroids)
            residuals -= centroids[codes[:, level]]
        return codes

    def _collision_suffix(self, number: int, catalog: Catalog, item_index: int) -> IntArray:
        """The collision tokens of item `number` with the same L tokens: none for the first, then one, then two."""
        size = len(self._collision_tokens)
        if number <= size:
            return self._collision_tokens[number - 1 : number] if number else self._collision_tokens[:0]
        first, second = divmod(number - size - 1, size)
        if first >= size:
            raise InputError(
                f"item {catalog.item_ids[item_index]!r} has the same tokens as {number:,} others; "
                "train with more levels or a larger codebook_size"
            )
        return self._collision_tokens[[first, second]]


def _candidate_words(tokenizer: Tokenizer, encoder: Encoder) -> tuple[IntArray, NDArray[np.float32]]:
    """The tokens that are a word with its leading space, int64 [M], and the vectors of the words, float32 [M, D]."""
    control = set(tokenizer.control_token_ids)
    texts = {number: text for number, text in enumerate(tokenizer.token_texts()) if number not in control}
    words = {
        number: text[1:]
        for number, text in texts.items()
        if text.startswith(" ")
        and text[1:].isascii()
        and text[1:].isalpha()
        and text.islower()
        and len(text) > _MIN_WORD_LETTERS
    }
    # The first tokens of a vocabulary are its most frequent ones.
    chosen = list(words)[:_MAX_WORDS]
    return np.array(chosen, dtype=np.int64), encoder.encode([words[number] for number in chosen])


def _kmeans(vectors: NDArray[np.float32], codebook_size: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """The centroids, float32 [W, D], and the cluster of each vector, int64 [N]."""
    from scipy.cluster.vq import kmeans2  # takes a third of a second to import

    with catch_warnings():
        simplefilter("ignore", UserWarning)  # about empty clusters; `report` counts them
        # k-means++ draws by distance, so it needs as many different vectors as clusters.
        start = "++" if len(np.unique(vectors, axis=0)) >= codebook_size else "points"
        centroids, _ = kmeans2(vectors.astype(np.float64), codebook_size, iter=_ITERATIONS, minit=start, seed=rng)
    centroids = centroids.astype(np.float32)
    return centroids, _nearest_centroids(vectors, centroids)


def _nearest_centroids(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> IntArray:
    """int64 [N], the nearest of W centroids to each vector, the first in a tie."""
    # On one grid products are exact: equal vectors have the same centroid, whatever other vectors there are.
    exact = round_to_grid(vectors, max_norm=_MAX_RESIDUAL_NORM)
    columns = round_to_grid(centroids, max_norm=_MAX_RESIDUAL_NORM).T.astype(np.float64)
    lengths = (centroids**2).sum(axis=1) / 2
    blocks = (exact[start : start + _DISTANCE_BLOCK] for start in range(0, len(vectors), _DISTANCE_BLOCK))
    found = [np.argmax(block.astype(np.float64) @ columns - lengths, axis=1) for block in blocks]
    nearest: IntArray = np.concatenate([np.empty(0, dtype=np.int64), *found])
    return nearest


def _assign_words(
    vectors: NDArray[np.float32], clusters: IntArray, codebook_size: int, word_vectors: NDArray[np.float32]
) -> IntArray:
    """int64 [W], a different word for each cluster, so that the total similarity to the clusters' means is highest."""
    means = np.zeros((codebook_size, vectors.shape[1]))
    np.add.at(means, clusters, vectors)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    similarities = means @ word_vectors.T
    near = np.unique(
        np.argpartition(-similarities, min(_WORDS_PER_CLUSTER, len(word_vectors)) - 1, axis=1)[:, :_WORDS_PER_CLUSTER]
    )
    columns = near if len(near) >= codebook_size else np.arange(len(word_vectors))
    _, chosen = linear_sum_assignment(-similarities[:, columns])
    assigned: IntArray = columns[chosen]
    return assigned
