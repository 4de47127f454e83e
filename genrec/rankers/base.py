"""The ranker interface: requests come in batches, and filters act inside the ranker."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genrec.data.subset import Boost, Subset
from genrec.deadline import Deadline
from genrec.errors import InputError, check_count
from genrec.types import FloatArray, IntArray, Ranking

# Scores of a whole catalog in the precision of the ranker; the scores of a ranking are always float64.
DenseScores = NDArray[np.float32] | FloatArray

_MIN_KNOWN_SHARE = 8  # known items, as one in so many, from which they are compared with a threshold
_BLOCKS_PER_ITEM = 4  # block maxima per wanted item; more make the threshold tighter and slower


@dataclass(frozen=True)
class RankRequest:
    """One user's request, in item indices.

    Attributes:
        history: int64 [H], the user's items, oldest first; may be empty.
        words: the user's query; may be empty.
        allowed: which of N items may be ranked; all of them is `Subset.everything(N)`.
        boost: added to the ranker's scores of some items, or None.

    Raises:
        InputError: a history holds anything but item indices.
    """

    history: IntArray
    words: str
    allowed: Subset = field(repr=False)
    boost: Boost | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        history, size = np.asarray(self.history), self.allowed.universe
        if history.size and (history.dtype.kind not in "iu" or history.min() < 0 or history.max() >= size):
            raise InputError(f"a history holds {history.tolist()[:5]}...; pass item indices from 0 to {size - 1:,}")


class Ranker(Protocol):
    """Orders the allowed items of a catalog for each request.

    Attributes:
        source: name of the stage in recommendations, followed by the main signal of `Ranking` if there is one.
    """

    source: str

    def can_rank(self, request: RankRequest) -> bool:
        """Whether this ranker can rank the request, for example because it knows an item of the history."""
        ...

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the k best allowed items of each request.

        Args:
            requests: U requests.
            k: list length.
            deadline: when to stop.

        Returns:
            U rankings, best first, ties in catalog order; shorter than k only if fewer items are allowed, or if the
            ranker does not know the others.

        Raises:
            InputError: k is below 1.
            EngineError: a model failed.
            DeadlineExceededError: the deadline passed before the ranking was complete; slow rankers only.
        """
        ...

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """Score given items as `rank` scores them.

        Args:
            requests: U requests; their filters are not applied.
            item_indices: U arrays, int64, the items to score.
            deadline: when to stop.

        Returns:
            U arrays, float64, in the order of `item_indices`.

        Raises:
            EngineError: a model failed.
            DeadlineExceededError: the deadline passed before all items were scored; slow rankers only.
        """
        ...


class DenseRanker(ABC):
    """A ranker that scores the whole catalog in milliseconds, and so ignores the deadline."""

    source: str

    @property
    def reads_words(self) -> bool:
        """Whether the words of a request change its scores."""
        return False

    @abstractmethod
    def can_rank(self, request: RankRequest) -> bool:
        """Whether this ranker can rank the request."""

    @abstractmethod
    def scores(self, requests: Sequence[RankRequest]) -> DenseScores:
        """float32 or float64 [U, N] before boosts; minus infinity for items that the ranker does not know."""

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the k best allowed items of each request; exact, so proven. See `Ranker.rank`."""
        check_count("k", k)
        if not requests:
            return []
        pairs = zip(requests, self.scores(requests), strict=True)
        return [top_k(scores, request.allowed, k, request.boost) for request, scores in pairs]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """Score given items; see `Ranker.score`."""
        if not requests:
            return []
        pairs = zip(requests, self.scores(requests), item_indices, strict=True)
        return [_boosted_scores(scores, items, request.boost) for request, scores, items in pairs]


def top_k(scores: DenseScores, allowed: Subset, k: int, boost: Boost | None = None) -> Ranking:
    """The k allowed items with the highest finite score plus boost; exact, so proven.

    Takes two passes over N scores, to find a threshold and the scores above it. The other steps take time in the number
    of items that `allowed` and `boost` list.

    Args:
        scores: float32 or float64 [N] before boosts; not finite for items that the ranker does not know.
        allowed: subset of N items.
        k: list length.
        boost: added to the scores of some items.

    Returns:
        min(k, number of allowed items with finite scores) items, best first, ties in catalog order.

    Raises:
        InputError: k is below 1, or `allowed` is a subset of another number of items.
    """
    check_count("k", k)
    if allowed.universe != len(scores):
        raise InputError(
            f"allowed is a subset of {allowed.universe:,} items, but there are {len(scores):,} scores; pass a subset "
            "of the same catalog"
        )
    known = np.isfinite(scores)
    n_known = int(np.count_nonzero(known))
    # Minus infinity sorts below all finite scores, but few of them are found faster one by one.
    by_threshold = n_known > len(scores) // _MIN_KNOWN_SHARE and not np.isnan(scores.min()) and scores.max() < np.inf
    if allowed.is_allowlist or not by_threshold:
        items = allowed.listed if allowed.is_allowlist else np.flatnonzero(known)
        items = items[known[items] & allowed.contains(items)]
        values, compared = _boosted_scores(scores, items, boost), len(items)
    else:
        # Boosted items are always compared, so the others can be found by their scores alone.
        boosted = np.empty(0, dtype=np.int64) if boost is None else boost.indices[allowed.contains(boost.indices)]
        items = np.concatenate([_top_allowed(scores, allowed.without(boosted), k), boosted])
        items = items[known[items]]
        values, compared = _boosted_scores(scores, items, boost), len(allowed)
        if n_known < len(scores):
            compared = int(np.count_nonzero(known & allowed.to_bool()))
    if len(items) > 4 * k:
        # All items that tie with the k-th stay, so that ties are in catalog order.
        kth = np.partition(values, len(values) - k)[len(values) - k]
        items, values = items[values >= kth], values[values >= kth]
    best = np.lexsort((items, -values))[:k]
    return Ranking(items[best], values[best], proven=True, num_scored=compared)


def _top_allowed(scores: DenseScores, allowed: Subset, k: int) -> IntArray:
    """Items that include the k best allowed ones of N finite scores: int64 [at least min(k, allowed)], in any order.

    Takes the best items of the catalog, up to a depth that is likely to hold k allowed ones, and increases the depth
    until it does. The best items of the catalog that hold k allowed ones hold the k best allowed ones.
    """
    wanted = min(k, len(allowed))
    if not wanted:
        return np.empty(0, dtype=np.int64)
    few = allowed.universe // 16
    depth = wanted + len(allowed.listed)
    if allowed.mask is not None:
        depth = len(allowed.listed) + wanted * allowed.universe * 3 // (2 * allowed.mask.total) + 16
    while depth <= few:
        first = _top_by_threshold(scores, depth)
        first = first[allowed.contains(first)]
        if len(first) >= wanted:
            return first
        depth *= 4
    return allowed.to_indices()


def _top_by_threshold(scores: DenseScores, depth: int) -> IntArray:
    """The `depth` best of N finite scores, ties in catalog order: int64 [depth], in any order."""
    blocks = _BLOCKS_PER_ITEM * depth
    rows = len(scores) // blocks
    maxima = scores[: rows * blocks].reshape(rows, blocks).max(axis=0)
    # At least `depth` blocks reach this threshold, each with at least one item.
    threshold = np.partition(maxima, blocks - depth)[blocks - depth]
    items = np.flatnonzero(scores >= threshold)
    values = scores[items]
    last = np.partition(values, len(values) - depth)[len(values) - depth]
    above, equal = items[values > last], items[values == last]
    return np.concatenate([above, equal[: depth - len(above)]])


def _boosted_scores(scores: DenseScores, item_indices: IntArray, boost: Boost | None) -> FloatArray:
    values = scores[item_indices].astype(np.float64)
    return values if boost is None else values + boost.values_at(item_indices)


def scores_in_order(ranking: Ranking, item_indices: IntArray, n_items: int) -> FloatArray:
    """The scores of ranked items: float64 [k], in the order of `item_indices` [k], of a catalog of `n_items` items."""
    scores = np.empty(n_items)
    scores[ranking.item_indices] = ranking.scores
    return scores[item_indices]
