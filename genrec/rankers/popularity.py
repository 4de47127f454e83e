"""Popularity: the last stage of the fallback chain."""

from collections.abc import Sequence

import numpy as np

from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray, IntArray


class PopularityRanker(DenseRanker):
    """Scores an item by the logarithm of 1 + its number of interactions; can rank every request.

    Args:
        counts: int64 [N], interactions per item; all zero ranks in catalog order.
    """

    source = "popularity"

    def __init__(self, counts: IntArray) -> None:
        # Of equal counts only one logarithm is computed, so that they score equal on every processor.
        distinct, item = np.unique(counts, return_inverse=True)
        self._scores: FloatArray = np.log1p(distinct.astype(np.float64))[item]

    def can_rank(self, request: RankRequest) -> bool:
        """Always true: popularity does not depend on the user."""
        return True

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N], the same for all users; a read-only view of one row."""
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))
