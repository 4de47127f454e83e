"""The popularity ranker."""

import numpy as np
import pytest
from contracts import KnownAnswer
from ranker_support import EVERYTHING, DenseRankerContract, N, history, popularity

from genrec.deadline import Deadline
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.popularity import PopularityRanker


class TestPopularityRanker(DenseRankerContract):
    subject = "PopularityRanker"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return popularity()

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        counts = np.random.default_rng(4).integers(0, 6, N)
        return KnownAnswer(RankRequest(history(), "", EVERYTHING), int(np.argmax(counts)))

    def test_popularity_ranks_every_request(self, ranker: Ranker) -> None:
        """It is the last stage of the fallback chain."""
        assert ranker.can_rank(RankRequest(history(), "", EVERYTHING))

    def test_without_interactions_items_are_in_catalog_order(self) -> None:
        """A new shop still gets a list."""
        ranker = PopularityRanker(np.zeros(N, dtype=np.int64))
        (ranking,) = ranker.rank([RankRequest(history(), "", EVERYTHING.without([0]))], 3, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [1, 2, 3]
