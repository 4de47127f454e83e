"""Ranking by vectors, such as text embeddings: items similar to the history or to the query."""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec.data.subset import concat_ragged
from genrec.deadline import Deadline
from genrec.errors import InputError, check_count
from genrec.index.kernels import numpy as numpy_kernels
from genrec.index.kernels.dispatch import select_kernels
from genrec.index.vector_grid import round_to_grid
from genrec.prompting.template import one_line
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.quantized_vectors import QuantizedVectors
from genrec.types import BoolArray, Encoder, IntArray, Ranking

_MAX_USERS_COMPILED = 16  # users per batch up to which the compiled kernels are used
_MIN_ITEMS_QUANTIZED = 16_384  # items from which quantisation saves time
_MIN_ITEMS_PER_RANK = 64  # items per list position from which quantisation saves time
# Read-only like the counts of a mask: compiled kernels have one signature for read-only arrays.
_EMPTY_MASK_COUNTS = np.empty(0, dtype=np.uint32)
_EMPTY_MASK_COUNTS.flags.writeable = False


class EmbeddingRanker(DenseRanker):
    """Scores an item by the cosine of its vector and the user vector.

    The user vector is `history_weight` times the history vector plus `words_weight` times the vector of the query. The
    history vector is the sum of the item vectors, each weighted by `decay` to the power of its distance from the
    newest, scaled to length 1. Equal vectors score exactly the same; see `genrec.index.vector_grid`.

    Args:
        vectors: float32 [N, D], each of length 1, or 0 for an unknown item; stored as `vectors`, rounded to the grid.
        encoder: encodes queries into the same space; None ignores queries.
        decay: weight of a history item relative to the next newer one, above 0 and at most 1.
        words_weight: weight of the query, 0 or more; 0 ignores queries.
        history_weight: weight of the history, 0 or more; 0 ignores histories.

    Raises:
        InputError: a vector is not finite, or a weight or the decay is out of range.
    """

    source = "embedding"

    def __init__(
        self,
        vectors: NDArray[np.float32],
        *,
        encoder: Encoder | None = None,
        decay: float = 0.9,
        words_weight: float = 2.0,
        history_weight: float = 1.0,
    ) -> None:
        _check_decay(decay)
        for name, weight in (("words_weight", words_weight), ("history_weight", history_weight)):
            if not 0 <= weight < np.inf:
                raise InputError(f"{name} is {weight}; pass a number of at least 0")
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InputError(
                f"vectors must be finite and of shape (items, dimensions); these are of shape {vectors.shape}"
            )
        self.vectors, self._encoder = round_to_grid(vectors), encoder
        self._decay, self._words_weight, self._history_weight = decay, words_weight, history_weight
        self._known: BoolArray = (vectors != 0).any(axis=1)
        self._quantized: QuantizedVectors | None = None

    @property
    def reads_words(self) -> bool:
        """Whether the words of a request change its scores."""
        return self._encoder is not None and self._words_weight > 0

    def enable_quantization(self) -> None:
        """Rank with quantised vectors first from now on; lists stay exact, and take a third of the time or less.

        Quantisation takes the time of some hundred lists, and a quarter of the memory of the vectors. It is meant for
        servers that rank many small batches. Catalogs of fewer than 16,384 items are not quantised.
        """
        self._quantized = (
            QuantizedVectors.from_vectors(self.vectors) if len(self.vectors) >= _MIN_ITEMS_QUANTIZED else None
        )

    def history_and_words_rankers(self) -> "tuple[EmbeddingRanker, EmbeddingRanker]":
        """Two rankers that share the vectors: one uses histories only, the other queries only."""
        items, words = copy.copy(self), copy.copy(self)
        items._words_weight, items._history_weight = 0.0, 1.0
        words._words_weight, words._history_weight = 1.0, 0.0
        return items, words

    def with_decay(self, decay: float) -> "EmbeddingRanker":
        """A copy with another weight of older history items that shares the vectors; at 1 their order has no effect.

        Raises:
            InputError: the decay is out of range.
        """
        _check_decay(decay)
        other = copy.copy(self)
        other._decay = decay
        return other

    def reindexed(self, new_indices: IntArray, new_texts: Sequence[str]) -> "EmbeddingRanker":
        """A copy for another version of the catalog; only new items are encoded.

        Args:
            new_indices: int64 [N], the new index of each item, distinct, -1 for a removed item.
            new_texts: texts of the new items, in the order of the remaining indices; unknown without an encoder.
        """
        kept = np.flatnonzero(new_indices >= 0)
        before = np.full(len(kept) + len(new_texts), -1, dtype=np.int64)
        before[new_indices[kept]] = kept
        fresh, vectors = np.flatnonzero(before < 0), self.vectors[before]
        vectors[fresh] = self._encoder.encode(new_texts) if len(new_texts) and self._encoder is not None else 0
        other = copy.copy(self)
        other.vectors, other._known = round_to_grid(vectors), (vectors != 0).any(axis=1)
        if self._quantized is not None:
            other.enable_quantization()
        return other

    def can_rank(self, request: RankRequest) -> bool:
        """True if a history item is known, or if there is a query and it is used."""
        uses_history = self._history_weight > 0 and bool(self._known[request.history].any())
        return uses_history or (self.reads_words and bool(request.words.strip()))

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the k best allowed items of each request; exact, so proven, with quantisation as well."""
        check_count("k", k)
        fits = all(not request.boost and not request.allowed.is_allowlist for request in requests)
        if not requests or self._quantized is None or not fits or k > len(self.vectors) // _MIN_ITEMS_PER_RANK:
            return super().rank(requests, k, deadline=deadline)
        masks = {id(request.allowed.mask): request.allowed.mask for request in requests}
        if len(masks) > 1:
            return [self.rank([request], k, deadline=deadline)[0] for request in requests]
        # Each call that releases the GIL may have to wait to get it back, so there are few of them.
        users = self._user_vectors(requests)
        products, errors = self._quantized.approximate_products(users)
        (mask,) = masks.values()
        counts = _EMPTY_MASK_COUNTS if mask is None else mask.prefix_counts
        listed, offsets = concat_ragged([request.allowed.listed for request in requests])
        sizes = np.array([min(k, len(request.allowed)) for request in requests])
        compared = np.zeros(len(requests), dtype=np.int64)
        item_indices = np.empty((len(requests), sizes.max()), dtype=np.int64)
        scores = np.empty(item_indices.shape, dtype=np.float32)
        select_kernels().top_k(
            products,
            errors,
            self.vectors,
            users.astype(np.float64),
            self._known,
            counts,
            listed,
            offsets,
            item_indices,
            scores,
            sizes,
            compared,
        )
        return [
            Ranking(
                item_indices[u, :size], scores[u, :size].astype(np.float64), proven=True, num_scored=int(compared[u])
            )
            for u, size in enumerate(sizes)
        ]

    def scores(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """float32 [U, N], cosines; minus infinity for unknown items."""
        users = self._user_vectors(requests)
        cosines = np.empty((len(users), len(self.vectors)), dtype=np.float32)
        # For few users the compiled kernels read the vectors faster than BLAS; for more, threaded BLAS is faster.
        kernels = select_kernels() if len(users) <= _MAX_USERS_COMPILED else numpy_kernels
        kernels.inner_products(self.vectors, users.astype(np.float64), cosines)
        cosines[:, ~self._known] = -np.inf
        return cosines

    def _user_vectors(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """The user vectors: float32 [U, D], on the grid, of length 1, or 0 if nothing is known.

        Raises:
            InputError: a request is for another number of items, which compiled kernels would not notice.
        """
        for request in requests:
            if request.allowed.universe != len(self.vectors):
                raise InputError(
                    f"allowed is a subset of {request.allowed.universe:,} items, but there are "
                    f"{len(self.vectors):,} vectors; pass a subset of the same catalog"
                )
        users = self._history_vectors(requests)
        with_words = [row for row, request in enumerate(requests) if self.reads_words and request.words.strip()]
        if with_words and self._encoder is not None:
            texts = [one_line(requests[row].words) for row in with_words]
            users[with_words] += self._words_weight * self._encoder.encode(texts)
        return round_to_grid(_scaled_to_norm(1.0, users), max_norm=1.0)

    def _history_vectors(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """The history vectors: float32 [U, D], of length `history_weight`, or 0 if no history item is known."""
        shape = (len(requests), self.vectors.shape[1])
        if not self._history_weight:
            return np.zeros(shape, dtype=np.float32)
        sums = np.empty(shape, dtype=np.float32)
        item_indices, offsets = concat_ragged([request.history for request in requests])
        age = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(len(item_indices)) - 1
        # A table of powers: an array is raised in pieces of a length that depends on the other users of the batch.
        powers = np.array([self._decay**distance for distance in range(age.max(initial=-1) + 1)], dtype=np.float32)
        select_kernels().sum_rows(self.vectors, item_indices, offsets, powers[age], sums)
        return _scaled_to_norm(self._history_weight, sums)


def _check_decay(decay: float) -> None:
    if not 0 < decay <= 1:
        raise InputError(f"decay is {decay}; pass a number above 0 and at most 1")


def _scaled_to_norm(norm: float, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [U, D], each vector scaled to a norm; vectors of 0 stay 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * (norm / np.where(norms > 0, norms, 1.0)).astype(np.float32)
