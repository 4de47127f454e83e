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
_LEAST = 4  # letters of a word
_WORDS = 8192  # of a vocabulary that are looked at
_CLOSEST = 64  # of these, for each cluster
_BLOCK = 4096  # points whose distances are computed at once


@dataclass(frozen=True)
class CodeReport:
    """How well codes tell items apart.

    Attributes:
        used: float64 [L], the share of each level's clusters that any item has.
        balance: float64 [L], the entropy of each level's clusters over that of W equally frequent ones.
        collisions: the share of items that needed a further token.
    """

    used: FloatArray
    balance: FloatArray
    collisions: float


class SemanticIdentifiers:
    """L tokens and an end token for every item; one more in front of the end where several items have the same L.

    Made by `SemanticIdentifiers.learn` or `load`. Which of several items with one code gets which further token follows
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
        self._encoder, self._centres, self._tokens, self._further = encoder, centres, tokens, further
        self._tokenizer_fingerprint = tokenizer_fingerprint
        digest = hashlib.sha256(f"{_KIND} {_VERSION} {tokenizer_fingerprint} {encoder.name}".encode())
        for array in (centres, tokens, further):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def learn(
        cls,
        titles: Sequence[str],
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        levels: int = 3,
        width: int = 256,
        seed: int = 0,
    ) -> Self:
        """Find the clusters of a catalog's titles, and a word for each.

        Args:
            titles: of N items.
            encoder: titles to vectors.
            tokenizer: of the model that will write the codes.
            levels: L.
            width: W, at most N.
            seed: of k-means.

        Raises:
            InputError: there are fewer titles than clusters, or fewer words than clusters.
        """
        check_count("levels", levels)
        check_count("width", width)
        if len(titles) < width:
            raise InputError(f"{len(titles):,} titles cannot fill {width:,} clusters; lower width")
        vectors = encoder.encode(titles)
        words, word_vectors = _words(tokenizer, encoder)
        if len(words) < width:
            raise InputError(f"the tokenizer has {len(words):,} words of one token, {width:,} are needed; lower width")
        left = vectors.copy()
        centres = np.empty((levels, width, vectors.shape[1]), dtype=np.float32)
        tokens = np.empty((levels, width), dtype=np.int64)
        random = np.random.default_rng(seed)
        for level in range(levels):
            centres[level], own = _cluster(left, width, random)
            tokens[level] = words[_named(vectors, own, width, word_vectors)]
            left -= centres[level][own]
        return cls(
            encoder,
            centres=centres,
            tokens=tokens,
            further=words[:width],
            tokenizer_fingerprint=tokenizer.fingerprint,
        )

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, taken: Callable[[IntArray], bool] | None = None
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
        codes = self._codes(catalog.titles)
        rows = np.take_along_axis(self._tokens, codes.T, axis=1).T
        end, met, found = np.array([tokenizer.end_id]), dict[bytes, int](), []
        for item, row in enumerate(rows):
            key = row.tobytes()
            while True:
                number = met.get(key, 0)
                met[key] = number + 1
                sequence = np.concatenate([row, self._further_tokens(number, catalog, item), end])
                if taken is None or not taken(sequence):
                    break
            found.append(sequence)
        return found

    def report(self, titles: Sequence[str]) -> CodeReport:
        """How the codes of these titles use the clusters."""
        codes = self._codes(titles)
        shares = np.stack([np.bincount(own, minlength=self._tokens.shape[1]) for own in codes.T]) / max(len(codes), 1)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        _, counts = np.unique(codes, axis=0, return_counts=True)
        return CodeReport(
            (shares > 0).mean(axis=1),
            -(shares * logs).sum(axis=1) / np.log(max(self._tokens.shape[1], 2)),
            float((counts - 1).sum() / max(len(codes), 1)),
        )

    def save(self, directory: Path) -> None:
        """Write a folder, whole or not at all: codes.safetensors, manifest.json."""
        facts = {"tokenizer": self._tokenizer_fingerprint, "encoder": self._encoder.name}
        with artifact.writing(directory, kind=_KIND, version=_VERSION, facts=facts) as folder:
            arrays: dict[str, NDArray[Any]] = {
                "centres": self._centres,
                "tokens": self._tokens,
                "further": self._further,
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
        arrays = {name: np.array(array) for name, array in artifact.map_arrays(directory / _FILE).items()}
        return cls(encoder, **arrays, tokenizer_fingerprint=facts["tokenizer"])

    def _codes(self, titles: Sequence[str]) -> IntArray:
        """int64 [N, L], the cluster of each level."""
        left = self._encoder.encode(titles).copy()
        codes = np.empty((len(left), len(self._centres)), dtype=np.int64)
        for level, centres in enumerate(self._centres):
            codes[:, level] = _nearest(left, centres)
            left -= centres[codes[:, level]]
        return codes

    def _further_tokens(self, number: int, catalog: Catalog, item: int) -> IntArray:
        """What tells the items of one code apart: nothing, then one token, then two."""
        size = len(self._further)
        if number <= size:
            return self._further[number - 1 : number] if number else self._further[:0]
        first, second = divmod(number - size - 1, size)
        if first >= size:
            raise InputError(
                f"item {catalog.item_ids[item]!r} and {number:,} others have one code; learn more levels, or wider ones"
            )
        return self._further[[first, second]]


def _words(tokenizer: Tokenizer, encoder: Encoder) -> tuple[IntArray, NDArray[np.float32]]:
    """Tokens that are a word of their own, with its space: int64 [M], and what they mean: float32 [M, D]."""
    control = set(tokenizer.control_ids)
    texts = {number: tokenizer.decode([number]) for number in range(tokenizer.vocab_size) if number not in control}
    words = {
        number: text[1:]
        for number, text in texts.items()
        if text.startswith(" ") and text[1:].isascii() and text[1:].isalpha() and text.islower() and len(text) > _LEAST
    }
    # A vocabulary's first words are its most frequent ones.
    chosen = list(words)[:_WORDS]
    return np.array(chosen, dtype=np.int64), encoder.encode([words[number] for number in chosen])


def _cluster(points: NDArray[np.float32], width: int, random: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Centres [W, D] and the cluster of each point, int64 [N]."""
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # of clusters that nobody is in; the report says how many are used
        start = "++" if len(np.unique(points, axis=0)) >= width else "points"  # what is drawn by distance has to differ
        centres, _ = kmeans2(points.astype(np.float64), width, iter=_ITERATIONS, minit=start, seed=random)
    centres = centres.astype(np.float32)
    return centres, _nearest(points, centres)


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> IntArray:
    """The nearest of W centres to each point, the first of equals: int64 [N]."""
    lengths = (centres**2).sum(axis=1) / 2
    blocks = (points[start : start + _BLOCK] for start in range(0, len(points), _BLOCK))
    found = [np.argmax(block @ centres.T - lengths, axis=1) for block in blocks]
    nearest: IntArray = np.concatenate([np.empty(0, dtype=np.int64), *found])
    return nearest


def _named(vectors: NDArray[np.float32], own: IntArray, width: int, words: NDArray[np.float32]) -> IntArray:
    """For each cluster a word of its own, as near to its members' mean as can be for all together: int64 [W]."""
    means = np.zeros((width, vectors.shape[1]))
    np.add.at(means, own, vectors)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    likeness = means @ words.T
    near = np.unique(np.argpartition(-likeness, min(_CLOSEST, len(words)) - 1, axis=1)[:, :_CLOSEST])
    columns = near if len(near) >= width else np.arange(len(words))
    _, chosen = linear_sum_assignment(-likeness[:, columns])
    named: IntArray = columns[chosen]
    return named
