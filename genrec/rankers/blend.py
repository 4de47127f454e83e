"""Several rankers as one: the weighted sum of what each knows."""

from collections.abc import Mapping, Sequence

import numpy as np

from genrec.errors import InputError
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray


class BlendRanker(DenseRanker):
    """Scores an item by the weighted sum of its parts' scores.

    A part that cannot rank a request, or knows nothing of an item, adds nothing; an item of which no part knows
    anything is not ranked. Give each part a weight that makes its scores commensurable, found on validation data.

    Args:
        parts: rankers and their weights; a weight is above 0.
    """

    source = "blend"

    def __init__(self, parts: Mapping[DenseRanker, float]) -> None:
        if not parts or min(parts.values()) <= 0:
            raise InputError("a blend needs at least one part, each with a weight above 0")
        self._parts = dict(parts)

    def can_rank(self, request: RankRequest) -> bool:
        """Whether any part can."""
        return any(part.can_rank(request) for part in self._parts)

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N]."""
        total: FloatArray | None = None
        known = np.zeros(0, dtype=bool)
        for part, weight in self._parts.items():
            able = [row for row, request in enumerate(requests) if part.can_rank(request)]
            if not able:
                continue
            own = part.scores([requests[row] for row in able])
            if total is None:
                total = np.zeros((len(requests), own.shape[1]))
                known = np.zeros(total.shape, dtype=bool)
            finite = np.isfinite(own)
            total[able] += np.multiply(np.where(finite, own, 0.0), weight, dtype=np.float64)
            known[able] |= finite
        if total is None:
            return np.full((len(requests), requests[0].allowed.universe if requests else 0), -np.inf)
        return np.where(known, total, -np.inf)
