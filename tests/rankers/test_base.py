"""Rank requests and top-k selection."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ranker_support import N

from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import InputError
from genrec.rankers.base import RankRequest, top_k


def dense_case(seed: int) -> tuple[NDArray[Any], Subset, int, Boost | None]:
    """Scores with and without ties and gaps, under filters that pass many, few or only the worst items."""
    random = np.random.default_rng(seed)
    size = int(random.choice([1, 7, 300, 5000]))
    scores: NDArray[Any] = random.normal(size=size)
    if seed % 3 == 0:
        scores = random.integers(0, int(random.choice([1, 3, 50])), size).astype(np.float64)
    if seed % 5 == 0:
        scores[random.random(size) < 0.3] = random.choice([-np.inf, np.inf, np.nan])
    if seed % 2:
        scores = scores.astype(np.float32)
    share = float(random.choice([0.0, 0.02, 0.5, 1.0]))
    by_rank = np.argsort(np.argsort(-np.nan_to_num(scores), kind="stable"), kind="stable")
    passed = random.random(size) < share if random.random() < 0.5 else by_rank >= size * (1 - share)
    kinds = [
        Subset.everything(size),
        Subset.from_mask(Mask.from_bool(passed)),
        Subset.from_indices(size, np.flatnonzero(passed)),
    ]
    allowed = kinds[int(random.integers(3))]
    allowed = allowed.without(np.argsort(by_rank)[: int(random.choice([0, 1, 40, size]))])
    places = np.unique(random.integers(0, size, int(random.choice([1, 30]))))
    boost = Boost(places, random.integers(-3, 4, len(places)) * random.choice([0.5, 100.0])) if seed % 4 else None
    return scores, allowed, int(random.choice([1, 5, 60, size])), boost


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_top_k_equals_a_full_sort(first: int) -> None:
    """A threshold that drops one item too many gives a wrong list that claims to be proven."""
    for seed in range(first, first + 100):
        scores, allowed, k, boost = dense_case(seed)
        full = scores.astype(np.float64)
        if boost is not None:
            full[boost.indices] += boost.values
        places = np.flatnonzero(allowed.to_bool() & np.isfinite(scores))
        best = places[np.lexsort((places, -full[places]))][:k]
        before = scores.copy()
        ranking = top_k(scores, allowed, k, boost)
        assert ranking.item_indices.tolist() == best.tolist(), seed
        assert ranking.scores.tolist() == full[best].tolist(), seed
        assert ranking.scores.dtype == np.float64
        assert (ranking.proven, ranking.num_scored) == (True, len(places))
        np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("history", [[N], [-1], [1.5]])
def test_request_rejects_invalid_item_indices(history: list[float]) -> None:
    """Later they would be an IndexError in the middle of a batch, or another item counted from the end."""
    with pytest.raises(InputError, match=r"a history holds .*; pass item indices from 0 to"):
        RankRequest(np.array(history), "", Subset.everything(N))
