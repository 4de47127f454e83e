"""Items written as a few words of meaning: the same number of tokens for each, alike items alike.

An item's vector is quantised level by level, each level what the ones before it left over, and each cluster is spelled
with a word of the model's own vocabulary that means something near to it. So an adapter needs no new tokens, which
engines would not load, and a new item is written by its vector without training anything again.

Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, section 3.1 (semantic ids by
residual quantisation, a further token where they collide); here by k-means in place of an autoencoder.
Letters: N items, D dimensions, L levels, W clusters of a level.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment

from genrec import artifact
from genrec.data.catalog import Catalog
from genrec.errors import InputError, MismatchError, check_count
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Encoder, FloatArray, IntArray

_KIND, _VERSION, _FILE = "codes", 1, "codes.safetensors"
_ITERATIONS = 25  # of k-means
_MIN_WORD_LETTERS = 4  # letters of a word
_MAX_WORDS = 8192  # of a vocabulary that are looked at
_WORDS_PER_CLUSTER = 64  # of these, for each cluster
_DISTANCE_BLOCK = 4096  # points whose distances are computed at once


@dataclass(frozen=True)
class SemanticIdReport:
    """How well codes tell items apart.

    Attributes:
        utilization: float64 [L], the share of each level's clusters that any item has.
        normalized_entropy: float64 [L], the entropy of each level's clusters over that of W equally frequent ones.
        collision_rate: the share of items that needed a further token.
    """

    utilization: FloatArray
    normalized_entropy: FloatArray
    collision_rate: float


class SemanticIdentifiers:
    """L tokens and an end token for every item; one more in front of the end where several items have the same L.

    Made by `SemanticIdentifiers.train` or `load`. Which of several items with one code gets which further token follows
    their order; items that join later get the next free one.

    Attributes:
        fingerprint: of clusters, words, tokenizer and encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        centres: NDArray[np.float32],
        tokens: IntArray,
        further: IntArray,
        tokenizer_fingerprint: str,
    ) -> None:
        self._encoder, self._centroids, self._codebook_tokens, self._collision_tokens = (
            encoder,
            centres,
            tokens,
            further,
        )
        self._tokenizer_fingerprint = tokenizer_fingerprint
        digest = hashlib.sha256(f"{_KIND} {_VERSION} {tokenizer_fingerprint} {encoder.name}".encode())
        for array in (centres, tokens, further):
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
        """Find the clusters of a catalog's titles, and a word for each.

        Args:
            titles: of N items.
            encoder: titles to vectors.
            tokenizer: of the model that will write the codes.
            levels: L.
            codebook_size: W, at most N.
            seed: of k-means.

        Raises:
            InputError: there are fewer titles than clusters, or fewer words than clusters.
        """
        check_count("levels", levels)
        check_count("width", codebook_size)
        if len(titles) < codebook_size:
            raise InputError(f"{len(titles):,} titles cannot fill {codebook_size:,} clusters; lower width")
        vectors = encoder.encode(titles)
        words, word_vectors = _candidate_words(tokenizer, encoder)
        if len(words) < codebook_size:
            raise InputError(
                f"the tokenizer has {len(words):,} words of one token, {codebook_size:,} are needed; lower width"
            )
        left = vectors.copy()
        centres = np.empty((levels, codebook_size, vectors.shape[1]), dtype=np.float32)
        tokens = np.empty((levels, codebook_size), dtype=np.int64)
        random = np.random.default_rng(seed)
        for level in range(levels):
            centres[level], own = _kmeans(left, codebook_size, random)
            tokens[level] = words[_assign_words(vectors, own, codebook_size, word_vectors)]
            left -= centres[level][own]
        return cls(
            encoder,
            centres=centres,
            tokens=tokens,
            further=words[:codebook_size],
            tokenizer_fingerprint=tokenizer.fingerprint,
        )

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token.

        Raises:
            MismatchError: the codes were made for another tokenizer.
            InputError: too many items have one code.
        """
        if tokenizer.fingerprint != self._tokenizer_fingerprint:
            raise MismatchError(
                f"the codes were made for tokenizer {self._tokenizer_fingerprint[:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; learn them again"
            )
        codes = self._quantize(catalog.titles)
        rows = np.take_along_axis(self._codebook_tokens, codes.T, axis=1).T
        end, met, found = np.array([tokenizer.eos_token_id]), dict[bytes, int](), []
        for item, row in enumerate(rows):
            key = row.tobytes()
            while True:
                number = met.get(key, 0)
                met[key] = number + 1
                sequence = np.concatenate([row, self._collision_suffix(number, catalog, item), end])
                if is_taken is None or not is_taken(sequence):
                    break
            found.append(sequence)
        return found

    def report(self, titles: Sequence[str]) -> SemanticIdReport:
        """How the codes of these titles use the clusters."""
        codes = self._quantize(titles)
        shares = np.stack([np.bincount(own, minlength=self._codebook_tokens.shape[1]) for own in codes.T]) / max(
            len(codes), 1
        )
        logs = np.log(np.where(shares > 0, shares, 1.0))
        _, counts = np.unique(codes, axis=0, return_counts=True)
        return SemanticIdReport(
            (shares > 0).mean(axis=1),
            -(shares * logs).sum(axis=1) / np.log(max(self._codebook_tokens.shape[1], 2)),
            float((counts - 1).sum() / max(len(codes), 1)),
        )

    def save(self, directory: Path) -> None:
        """Write a folder, whole or not at all: codes.safetensors, manifest.json."""
        facts = {"tokenizer": self._tokenizer_fingerprint, "encoder": self._encoder.name}
        with artifact.artifact_writer(directory, kind=_KIND, version=_VERSION, metadata=facts) as folder:
            arrays: dict[str, NDArray[Any]] = {
                "centres": self._centroids,
                "tokens": self._codebook_tokens,
                "further": self._collision_tokens,
            }
            artifact.write_arrays(folder / _FILE, arrays)

    @classmethod
    def load(cls, directory: Path, encoder: Encoder) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: there is nothing, or it was altered.
            MismatchError: the codes were made with another encoder.
        """
        facts = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if facts["encoder"] != encoder.name:
            raise MismatchError(f"the codes were made with {facts['encoder']!r}, not with {encoder.name!r}; load that")
        arrays = {name: np.array(array) for name, array in artifact.mmap_arrays(directory / _FILE).items()}
        return cls(encoder, **arrays, tokenizer_fingerprint=facts["tokenizer"])

    def _quantize(self, titles: Sequence[str]) -> IntArray:
        """int64 [N, L], the cluster of each level."""
        left = self._encoder.encode(titles).copy()
        codes = np.empty((len(left), len(self._centroids)), dtype=np.int64)
        for level, centres in enumerate(self._centroids):
            codes[:, level] = _nearest_centroids(left, centres)
            left -= centres[codes[:, level]]
        return codes

    def _collision_suffix(self, number: int, catalog: Catalog, item_index: int) -> IntArray:
        """What tells the items of one code apart: nothing, then one token, then two."""
        size = len(self._collision_tokens)
        if number <= size:
            return self._collision_tokens[number - 1 : number] if number else self._collision_tokens[:0]
        first, second = divmod(number - size - 1, size)
        if first >= size:
            raise InputError(
                f"item {catalog.item_ids[item_index]!r} and {number:,} others have one code; learn more levels, or wider ones"
            )
        return self._collision_tokens[[first, second]]


def _candidate_words(tokenizer: Tokenizer, encoder: Encoder) -> tuple[IntArray, NDArray[np.float32]]:
    """Tokens that are a word of their own, with its space: int64 [M], and what they mean: float32 [M, D]."""
    control = set(tokenizer.control_token_ids)
    texts = {number: tokenizer.decode([number]) for number in range(tokenizer.vocab_size) if number not in control}
    words = {
        number: text[1:]
        for number, text in texts.items()
        if text.startswith(" ")
        and text[1:].isascii()
        and text[1:].isalpha()
        and text.islower()
        and len(text) > _MIN_WORD_LETTERS
    }
    # A vocabulary's first words are its most frequent ones.
    chosen = list(words)[:_MAX_WORDS]
    return np.array(chosen, dtype=np.int64), encoder.encode([words[number] for number in chosen])


def _kmeans(
    vectors: NDArray[np.float32], codebook_size: int, random: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Centres [W, D] and the cluster of each point, int64 [N]."""
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # of clusters that nobody is in; the report says how many are used
        start = (
            "++" if len(np.unique(vectors, axis=0)) >= codebook_size else "points"
        )  # what is drawn by distance has to differ
        centres, _ = kmeans2(vectors.astype(np.float64), codebook_size, iter=_ITERATIONS, minit=start, seed=random)
    centres = centres.astype(np.float32)
    return centres, _nearest_centroids(vectors, centres)


def _nearest_centroids(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> IntArray:
    """The nearest of W centres to each point, the first of equals: int64 [N]."""
    lengths = (centroids**2).sum(axis=1) / 2
    blocks = (vectors[start : start + _DISTANCE_BLOCK] for start in range(0, len(vectors), _DISTANCE_BLOCK))
    found = [np.argmax(block @ centroids.T - lengths, axis=1) for block in blocks]
    nearest: IntArray = np.concatenate([np.empty(0, dtype=np.int64), *found])
    return nearest


def _assign_words(
    vectors: NDArray[np.float32], clusters: IntArray, codebook_size: int, word_vectors: NDArray[np.float32]
) -> IntArray:
    """For each cluster a word of its own, as near to its members' mean as can be for all together: int64 [W]."""
    means = np.zeros((codebook_size, vectors.shape[1]))
    np.add.at(means, clusters, vectors)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    likeness = means @ word_vectors.T
    near = np.unique(
        np.argpartition(-likeness, min(_WORDS_PER_CLUSTER, len(word_vectors)) - 1, axis=1)[:, :_WORDS_PER_CLUSTER]
    )
    columns = near if len(near) >= codebook_size else np.arange(len(word_vectors))
    _, chosen = linear_sum_assignment(-likeness[:, columns])
    named: IntArray = columns[chosen]
    return named
