"""The seam to whatever orders items: batch first, filters always inside."""

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

# Scores of a whole catalog, in the precision the ranker computes them in; those of an answer are always float64.
DenseScores = NDArray[np.float32] | FloatArray

_BLOCKS_PER_ITEM = 4  # maxima looked at for each place that is wanted; more make the threshold closer, and dearer


@dataclass(frozen=True)
class RankRequest:
    """One person's request, in item indices.

    Attributes:
        history: int64 [H], items met, oldest first; may be empty.
        words: what the person says they look for; may be empty.
        allowed: which of N items may be ranked. There is no "no limit": a subset is always given.
        boost: what is added to the ranker's score of some items, or None for none.
    """

    history: IntArray
    words: str
    allowed: Subset = field(repr=False)
    boost: Boost | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        history, size = np.asarray(self.history), self.allowed.universe
        if history.size and (history.dtype.kind not in "iu" or history.min() < 0 or history.max() >= size):
            raise InputError(f"a history holds {history.tolist()[:5]}...; give item indices from 0 to {size - 1:,}")


class Ranker(Protocol):
    """Orders the allowed items of a catalog for each request.

    Attributes:
        source: the name of the step; recommendations served by it carry it, with the evidence of `Ranking` behind it.
    """

    source: str

    def can_rank(self, request: RankRequest) -> bool:
        """Whether the request gives this ranker anything to go on."""
        ...

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request, best first, ties in catalog order.

        Fewer come back only where fewer are allowed, or where the ranker knows nothing of the rest.

        Raises:
            EngineError: a model failed.
            DeadlineExceededError: the deadline passed before the answer was complete; only where answers are slow.
        """
        ...

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items, in the order given, as `rank` scores them; the filter is not applied."""
        ...


class DenseRanker(ABC):
    """A ranker that scores every item of the catalog at once, in milliseconds: it answers even after the deadline."""

    source: str

    @abstractmethod
    def can_rank(self, request: RankRequest) -> bool:
        """Whether the request gives this ranker anything to go on."""

    @abstractmethod
    def scores(self, requests: Sequence[RankRequest]) -> DenseScores:
        """float32 or float64 [U, N] before boosts; minus infinity where the ranker knows nothing of an item."""

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request; exact, so proven."""
        check_count("k", k)
        if not requests:
            return []
        rows = zip(requests, self.scores(requests), strict=True)
        return [top_k(scores, request.allowed, k, request.boost) for request, scores in rows]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items."""
        if not requests:
            return []
        rows = zip(requests, self.scores(requests), item_indices, strict=True)
        return [_boosted_scores(scores, own, request.boost) for request, scores, own in rows]


def top_k(scores: DenseScores, allowed: Subset, k: int, boost: Boost | None = None) -> Ranking:
    """The k allowed items of highest finite score, boosts added, ties in catalog order; exact, so proven.

    Two passes over N scores find a threshold and what reaches it; all else costs what `allowed` and `boost` list.

    Args:
        scores: float32 or float64 [N] before boosts; not finite where the ranker knows nothing of the item.
        allowed: of N items.
        k: list length.
        boost: added to the scores of some items.

    Raises:
        InputError: k is below 1, or `allowed` is a subset of another number of items.
    """
    check_count("k", k)
    if allowed.universe != len(scores):
        raise InputError(f"allowed is a subset of {allowed.universe:,} items; there are scores of {len(scores):,}")
    if allowed.is_allowlist or not (np.isfinite(scores.min()) and np.isfinite(scores.max())):
        places = allowed.listed if allowed.is_allowlist else np.flatnonzero(np.isfinite(scores))
        places = places[np.isfinite(scores[places]) & allowed.contains(places)]
        values, compared = _boosted_scores(scores, places, boost), len(places)
    else:
        # A boosted item is compared whatever its score is, so the others are found by their scores alone.
        lifted = np.empty(0, dtype=np.int64) if boost is None else boost.indices[allowed.contains(boost.indices)]
        places = np.concatenate([_top_allowed(scores, allowed.without(lifted), k), lifted])
        values, compared = _boosted_scores(scores, places, boost), len(allowed)
    if len(places) > 4 * k:
        # Everything that ties with the k-th stays, so that the order of ties is the catalog's.
        kth = np.partition(values, len(values) - k)[len(values) - k]
        places, values = places[values >= kth], values[values >= kth]
    best = np.lexsort((places, -values))[:k]
    return Ranking(places[best], values[best], proven=True, num_scored=compared)


def _top_allowed(scores: DenseScores, allowed: Subset, k: int) -> IntArray:
    """The k allowed of N finite scores that come first, ties in order: int64 [at least min(k, allowed)], in any order.

    Guesses how many of all places hold k allowed ones, and looks further where they do not: a beginning of the order
    that holds k allowed places holds the first k.
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
    """The `depth` of N finite scores that come first, ties in order: int64 [depth], in any order."""
    blocks = _BLOCKS_PER_ITEM * depth
    rows = len(scores) // blocks
    maxima = scores[: rows * blocks].reshape(rows, blocks).max(axis=0)
    # As many blocks reach this as places are wanted, and each of them by at least one place.
    threshold = np.partition(maxima, blocks - depth)[blocks - depth]
    places = np.flatnonzero(scores >= threshold)
    values = scores[places]
    last = np.partition(values, len(values) - depth)[len(values) - depth]
    above, equal = places[values > last], places[values == last]
    return np.concatenate([above, equal[: depth - len(above)]])


def _boosted_scores(scores: DenseScores, item_indices: IntArray, boost: Boost | None) -> FloatArray:
    values = scores[item_indices].astype(np.float64)
    return values if boost is None else values + boost.values_at(item_indices)


def scores_in_order(ranking: Ranking, item_indices: IntArray, n_items: int) -> FloatArray:
    """The scores of ranked items: float64 [k], in the order of `item_indices` [k], of a catalog of `n_items` items."""
    scores = np.empty(n_items)
    scores[ranking.item_indices] = ranking.scores
    return scores[item_indices]
