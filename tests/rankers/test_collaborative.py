"""Co-occurrence counts and item vectors."""

import itertools

import numpy as np
import pytest
from ranker_support import DenseRankerContract, cooccurrence, history

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.collaborative import CooccurrenceRanker, fit_pmi_vectors


class TestCooccurrenceRanker(DenseRankerContract):
    subject = "CooccurrenceRanker"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return cooccurrence()

    def test_item_without_interactions_is_not_scored(self) -> None:
        """The ranker must leave the request to the next stage instead of scoring every item 0."""
        ranker = CooccurrenceRanker(np.array([0, 2, 3]), np.array([0, 1, 2]), 4)
        everything = Subset.everything(4)
        lonely, met = RankRequest(history(3, 2), "a", everything), RankRequest(history(3, 0), "", everything)
        assert not ranker.can_rank(lonely)
        assert not ranker.can_rank(RankRequest(history(), "words", everything))
        assert ranker.can_rank(met)
        (ranking,) = ranker.rank([met], 4, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [1]

    def test_scores_equal_the_formula(self) -> None:
        """The docstring is the specification: cosines of co-occurrence and of next items, weighted by recency."""
        baskets = [[0, 1, 2], [0, 1], [2, 0], [1]]
        offsets = np.cumsum([0, *map(len, baskets)])
        ranker = CooccurrenceRanker(offsets, np.array([*itertools.chain(*baskets)]), 3, decay=0.5, next_weight=2.0)
        met = [sum(item in basket for basket in baskets) for item in range(3)]

        def link(a: int, b: int) -> float:
            beside = sum(a in basket and b in basket for basket in baskets) if a != b else 0
            after = sum(pair == (a, b) for basket in baskets for pair in itertools.pairwise(basket)) if a != b else 0
            return float((beside + 2.0 * after) / np.sqrt(met[a] * met[b]))

        (scores,) = ranker.scores([RankRequest(history(1, 0), "", Subset.everything(3))])
        expected = np.array([(0.5 * link(1, item) + link(0, item)) / 1.5 for item in range(3)])
        np.testing.assert_allclose(scores, expected, rtol=1e-6)

    def test_decay_outside_its_range_is_rejected(self) -> None:
        """Above 1 the oldest item would have the greatest weight."""
        for decay in (0.0, 1.1):
            with pytest.raises(InputError, match=f"decay is {decay}"):
                CooccurrenceRanker(np.array([0, 1]), np.array([0]), 1, decay=decay)


def test_items_with_the_same_neighbours_have_similar_vectors() -> None:
    """Red and blue lamps are never bought together, but both are bought with the same shades."""
    histories = [[0, 2, 3], [0, 3, 2], [1, 2, 3], [1, 3, 2], [4, 5, 6], [4, 6, 5], [7]] * 20
    offsets = np.cumsum([0, *map(len, histories)])
    vectors = fit_pmi_vectors(offsets, np.concatenate([np.array(one) for one in histories]), 9)
    assert vectors.shape == (9, 8)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.9
    assert abs(near[0, 4]) < 0.1
    assert near[7].tolist() == near[8].tolist() == [0.0] * 9
    lengths = np.linalg.norm(vectors[:7], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    again = fit_pmi_vectors(offsets, np.concatenate([np.array(one) for one in histories]), 9)
    np.testing.assert_allclose(again @ again.T, near, atol=1e-5)
    for size, own in ((1, [0]), (2, [0, 1]), (3, [])):
        few = fit_pmi_vectors(np.array([0, len(own)]), np.array(own, dtype=np.int64), size)
        assert np.isfinite(few).all()
        assert len(few) == size


def test_rare_items_get_vectors_from_frequent_neighbours() -> None:
    """A catalog of a million items would wait for minutes, or its rare items would have no vector at all."""
    histories = [[0, 2, 3], [0, 3, 2], [1, 2, 3], [1, 3, 2], [4, 5, 6], [4, 6, 5]] * 20 + [[7, 2, 3], [8, 2, 3], [9]]
    arrays = np.cumsum([0, *map(len, histories)]), np.concatenate([np.array(one) for one in histories])
    vectors = fit_pmi_vectors(*arrays, 10, max_contexts=7)
    assert vectors.shape == (10, 6)
    near = vectors @ vectors.T
    assert near[7, 0] > 0.9
    assert abs(near[7, 4]) < 0.1
    assert vectors[7].tolist() == vectors[8].tolist(), "items with the same counts have the same vector"
    assert not vectors[9].any(), "an item without neighbours has none"
    rarest_cut, all_items = (fit_pmi_vectors(*arrays, 10, dimension=4, max_contexts=count) for count in (9, 10))
    np.testing.assert_allclose(rarest_cut @ rarest_cut.T, all_items @ all_items.T, atol=1e-4)


def test_item_vectors_do_not_depend_on_what_a_process_computed_before() -> None:
    """A restarted server would rank with other vectors than a running one. The logs are of low rank: few users."""
    logs = [[[0, 1, 2, 9], [3, 4, 5], [2, 7, 8, 4]], [[5, 1, 6], [9, 4, 0], [2, 7, 3]]]
    arrays = [
        (np.cumsum([0, *map(len, walks)]), np.array([*itertools.chain(*walks)], dtype=np.int64)) for walks in logs
    ]
    first = fit_pmi_vectors(*arrays[0], 12)
    for _ in range(3):
        fit_pmi_vectors(*arrays[1], 12)
        assert np.array_equal(fit_pmi_vectors(*arrays[0], 12), first)
