"""The seam to whatever orders items: batch first, filters always inside."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from genrec.deadline import Deadline
from genrec.types import BoolArray, FloatArray, IntArray, Ranking


@dataclass(frozen=True)
class RankRequest:
    """One person's request, in item indices.

    Attributes:
        history: int64 [H], items met, oldest first; may be empty.
        words: what the person says they look for; may be empty.
        allowed: bool [N], what may be ranked. There is no "no limit": a mask is always given.
        boost: float64 [N] added to the ranker's score, or None for none.
    """

    history: IntArray
    words: str
    allowed: BoolArray = field(repr=False)
    boost: FloatArray | None = field(default=None, repr=False)


class Ranker(Protocol):
    """Orders the allowed items of a catalog for each request.

    Attributes:
        source: the name that recommendations served by it carry.
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
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline
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
    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N] before boosts; minus infinity where the ranker knows nothing of an item."""

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request; exact, so proven."""
        if not requests:
            return []
        rows = zip(requests, self.scores(requests), strict=True)
        return [top_k(_boosted(scores, request), request.allowed, k) for request, scores in rows]

    def score(
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items."""
        if not requests:
            return []
        rows = zip(requests, self.scores(requests), items, strict=True)
        return [_boosted(scores, request)[own] for request, scores, own in rows]


def top_k(scores: FloatArray, allowed: BoolArray, k: int) -> Ranking:
    """The k allowed items of highest finite score, ties in catalog order; exact, so proven.

    Args:
        scores: float64 [N]; minus infinity where the ranker knows nothing of the item.
        allowed: bool [N].
        k: list length.
    """
    candidates = np.flatnonzero(allowed & np.isfinite(scores))
    values = scores[candidates]
    if len(candidates) > 4 * k:
        # Everything that ties with the k-th stays, so that the order of ties is the catalog's.
        kth = np.partition(values, len(values) - k)[len(values) - k]
        candidates, values = candidates[values >= kth], values[values >= kth]
    best = np.argsort(-values, kind="stable")[:k]
    return Ranking(candidates[best], values[best], proven=True, compared=int((allowed & np.isfinite(scores)).sum()))


def _boosted(scores: FloatArray, request: RankRequest) -> FloatArray:
    return scores if request.boost is None else scores + request.boost
