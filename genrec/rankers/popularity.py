"""The last step of the ladder: what most people chose."""

from collections.abc import Sequence

import numpy as np

from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray, IntArray


class PopularityRanker(DenseRanker):
    """Scores an item by the logarithm of 1 + its interactions; always has an answer.

    Args:
        counts: int64 [N], interactions per item; all zero ranks in catalog order.
    """

    source = "popularity"

    def __init__(self, counts: IntArray) -> None:
        self._scores: FloatArray = np.log1p(counts.astype(np.float64))

    def can_rank(self, request: RankRequest) -> bool:
        """Always: popularity needs to know nothing of a person."""
        return True

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N], the same for everybody; a read-only view of one row."""
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))
