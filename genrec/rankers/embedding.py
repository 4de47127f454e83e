"""Items near what a person liked, or near their words, in a space of vectors, such as text embeddings."""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec.data.subset import concat_ragged
from genrec.deadline import Deadline
from genrec.errors import InputError, check_count
from genrec.index.kernels import numpy as numpy_kernels
from genrec.index.kernels.dispatch import select_kernels
from genrec.prompting.template import one_line
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.quantized_vectors import QuantizedVectors
from genrec.types import BoolArray, Encoder, IntArray, Ranking

_MAX_USERS_COMPILED = 16  # people
_MIN_ITEMS_QUANTIZED = 16_384  # items from which a screen saves time
_MIN_ITEMS_PER_RANK = 64  # items for each place of a list, by which it does
_EMPTY_MASK_COUNTS = np.empty(0, dtype=np.uint32)
_EMPTY_MASK_COUNTS.flags.writeable = False  # as those of a mask are: compiled loops tell them apart


class EmbeddingRanker(DenseRanker):
    """Scores an item by the cosine of its vector and the person's.

    The person's vector is `history_weight` times the mean of their items' vectors, each weighted by `decay` to the
    power of its distance from the newest, plus `words_weight` times the vector of their words.

    Args:
        vectors: float32 [N, D], one a item, each of length 1, or 0 for an item of which nothing is known; kept as
            `vectors`.
        encoder: encodes words into the same space; None if requests never carry words.
        decay: weight of an item over that of the next newer one, above 0 and at most 1.
        words_weight: weight of the words beside the whole history, 0 or more; with 0 they are not read.
        history_weight: weight of the whole history beside the words, 0 or more; with 0 it is not looked at.

    Raises:
        InputError: a vector is not finite, or a weight or the decay is not as it must be.
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
        if not 0 < decay <= 1:
            raise InputError(f"decay is {decay}; it lies above 0 and at most at 1")
        for name, weight in (("words_weight", words_weight), ("history_weight", history_weight)):
            if not 0 <= weight < np.inf:
                raise InputError(f"{name} is {weight}; give a number of at least 0")
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InputError(f"vectors must be finite and of shape (items, dimensions), not {vectors.shape}")
        self.vectors, self._encoder = vectors, encoder
        self._decay, self._words_weight, self._history_weight = decay, words_weight, history_weight
        self._known: BoolArray = (vectors != 0).any(axis=1)
        self._quantized: QuantizedVectors | None = None

    def enable_quantization(self) -> None:
        """Look at bytes of all items first from now on: lists stay as they are, and take a third or less of the time.

        Costs as much as some hundred lists, and a quarter of the vectors' memory more; with few items it saves nothing,
        and nothing is done. For whoever answers many, one or a few at a time.
        """
        self._quantized = (
            QuantizedVectors.from_vectors(self.vectors) if len(self.vectors) >= _MIN_ITEMS_QUANTIZED else None
        )

    def history_and_words_rankers(self) -> "tuple[EmbeddingRanker, EmbeddingRanker]":
        """Two rankers by the same vectors: one that looks at items alone, and one that reads words alone."""
        items, words = copy.copy(self), copy.copy(self)
        items._words_weight, items._history_weight = 0.0, 1.0
        words._words_weight, words._history_weight = 1.0, 0.0
        return items, words

    def reindexed(self, new_indices: IntArray, new_texts: Sequence[str]) -> "EmbeddingRanker":
        """The same over another numbering of the items; only new ones are encoded.

        Args:
            new_indices: int64 [N], the new number of each item, distinct, -1 for one that is gone.
            new_texts: of the items that get the other numbers, in their order; without an encoder nothing is known of them.
        """
        kept = np.flatnonzero(new_indices >= 0)
        before = np.full(len(kept) + len(new_texts), -1, dtype=np.int64)
        before[new_indices[kept]] = kept
        fresh, vectors = np.flatnonzero(before < 0), self.vectors[before]
        vectors[fresh] = self._encoder.encode(new_texts) if len(new_texts) and self._encoder is not None else 0
        other = copy.copy(self)
        other.vectors, other._known = vectors, (vectors != 0).any(axis=1)
        if self._quantized is not None:
            other.enable_quantization()
        return other

    def can_rank(self, request: RankRequest) -> bool:
        """Whether there is a known item or a word to start from."""
        looks = self._history_weight > 0 and bool(self._known[request.history].any())
        return looks or (self._uses_words and bool(request.words.strip()))

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request; exact, so proven: a screen only saves most of the reading."""
        check_count("k", k)
        fits = all(not request.boost and not request.allowed.is_allowlist for request in requests)
        if not requests or self._quantized is None or not fits or k > len(self.vectors) // _MIN_ITEMS_PER_RANK:
            return super().rank(requests, k, deadline=deadline)
        masks = {id(request.allowed.mask): request.allowed.mask for request in requests}
        if len(masks) > 1:
            return [self.rank([request], k, deadline=deadline)[0] for request in requests]
        # Wherever numpy or a compiled loop lets other threads run, this one waits for its next turn: so there are few.
        people = self._user_vectors(requests)
        near, errors = self._quantized.approximate_products(people)
        (mask,) = masks.values()
        counts = _EMPTY_MASK_COUNTS if mask is None else mask.prefix_counts
        listed, bounds = concat_ragged([request.allowed.listed for request in requests])
        held = np.array([min(k, len(request.allowed)) for request in requests])
        compared = np.zeros(len(requests), dtype=np.int64)
        rows = np.empty((len(requests), held.max()), dtype=np.int64)
        scores = np.empty(rows.shape, dtype=np.float32)
        select_kernels().top_k(
            near, errors, self.vectors, people, self._known, counts, listed, bounds, rows, scores, held, compared
        )
        return [
            Ranking(rows[u, :size], scores[u, :size].astype(np.float64), proven=True, num_scored=int(compared[u]))
            for u, size in enumerate(held)
        ]

    def scores(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """float32 [U, N], cosines; minus infinity for an item of which nothing is known."""
        people = self._user_vectors(requests)
        cosines = np.empty((len(people), len(self.vectors)), dtype=np.float32)
        # For a few people compiled loops read the vectors faster than BLAS does; of more it makes more, and in threads.
        loops = select_kernels() if len(people) <= _MAX_USERS_COMPILED else numpy_kernels
        loops.inner_products(self.vectors, people, cosines)
        cosines[:, ~self._known] = -np.inf
        return cosines

    def _user_vectors(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """What each person looks for: float32 [U, D], of length 1, or 0 where nothing is known.

        Raises:
            InputError: a request is about another number of items, which compiled loops would not see.
        """
        for request in requests:
            if request.allowed.universe != len(self.vectors):
                raise InputError(
                    f"allowed is a subset of {request.allowed.universe:,} items; there are vectors of "
                    f"{len(self.vectors):,}"
                )
        people = self._history_vectors(requests)
        spoken = [row for row, request in enumerate(requests) if self._uses_words and request.words.strip()]
        if spoken and self._encoder is not None:
            people[spoken] += self._words_weight * self._encoder.encode(
                [one_line(requests[row].words) for row in spoken]
            )
        return _scaled_to_norm(1.0, people)

    @property
    def _uses_words(self) -> bool:
        """Whether words count at all."""
        return self._encoder is not None and self._words_weight > 0

    def _history_vectors(self, requests: Sequence[RankRequest]) -> NDArray[np.float32]:
        """What each person met, newest most: float32 [U, D], of length `history_weight`, or 0 where nothing is."""
        shape = (len(requests), self.vectors.shape[1])
        if not self._history_weight:
            return np.zeros(shape, dtype=np.float32)
        sums = np.empty(shape, dtype=np.float32)
        rows, bounds = concat_ragged([request.history for request in requests])
        age = np.repeat(bounds[1:], np.diff(bounds)) - np.arange(len(rows)) - 1
        select_kernels().sum_rows(self.vectors, rows, bounds, (self._decay**age).astype(np.float32), sums)
        return _scaled_to_norm(self._history_weight, sums)


def _scaled_to_norm(norm: float, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 [U, D], each of a length, but for those that have none."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * (norm / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
