"""The blend of rankers and its fitted weights."""

import numpy as np
import pytest
from ranker_support import (
    CATALOG,
    EVERYTHING,
    DenseRankerContract,
    FixedRanker,
    N,
    cooccurrence,
    embedding,
    history,
    popularity,
)

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.rankers.base import DenseRanker, Ranker, RankRequest
from genrec.rankers.collaborative import CooccurrenceRanker
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker, fit_weights
from genrec.recommender import Recommender
from genrec.types import History


class TestBlendRanker(DenseRankerContract):
    subject = "BlendRanker"
    atol = 1e-6

    @pytest.fixture
    def ranker(self) -> Ranker:
        return BlendRanker({"beside": cooccurrence(), "near": embedding()}, {"beside": 1.0, "near": 0.3})

    def test_score_is_the_weighted_sum_of_known_scores(self) -> None:
        """A ranker that does not know an item, or cannot rank a user, must not remove the item from the list."""
        counts, near = CooccurrenceRanker(np.array([0, 2]), np.array([3, 4]), N), embedding()
        ranker = BlendRanker({"beside": counts, "near": near}, {"beside": 2.0, "near": 0.5})
        requests = [RankRequest(history(3), "", EVERYTHING), RankRequest(history(9), "", EVERYTHING)]
        one, other = ranker.scores(requests)
        expected = 0.5 * near.scores(requests).astype(np.float64)
        expected[0, 4] += 2.0 * counts.scores(requests[:1])[0, 4]
        np.testing.assert_allclose([one, other], expected)
        alone = BlendRanker({"beside": counts}, {"beside": 1.0})
        assert np.flatnonzero(np.isfinite(alone.scores(requests[:1])[0])).tolist() == [4]
        assert not alone.can_rank(requests[1])

    def test_non_personalized_ranker_ranks_no_user_alone(self) -> None:
        """Popular items must not be presented as personal recommendations."""
        near = EmbeddingRanker(np.eye(N, dtype=np.float32)[[*range(N - 1), 0]] * (np.arange(N) < 9)[:, None])
        parts = {"near": near, "popular": popularity()}
        ranker = BlendRanker(parts, {"near": 1.0, "popular": 0.5}, non_personalized=["popular"])
        assert not ranker.can_rank(RankRequest(history(), "tea", EVERYTHING))
        assert not ranker.can_rank(RankRequest(history(9), "", EVERYTHING))
        request = RankRequest(history(3), "", EVERYTHING)
        (scores,) = ranker.scores([request])
        assert np.flatnonzero(np.isfinite(scores)).tolist() == list(range(9))
        np.testing.assert_allclose(scores[:9], (np.arange(9) == 3) + 0.5 * popularity().scores([request])[0, :9])

    def test_each_item_names_its_main_signal(self) -> None:
        """A source of only "blend" would neither explain a list nor show which rankers contribute."""
        counts, near = CooccurrenceRanker(np.array([0, 2]), np.array([3, 4]), N), embedding()
        ranker = BlendRanker({"beside": counts, "near": near}, {"beside": 100.0, "near": 0.5})
        request = RankRequest(history(3), "", EVERYTHING.without([3]))
        (ranking,) = ranker.rank([request], N, deadline=Deadline.never())
        assert ranking.item_indices[0] == 4
        assert ranking.main_signals[1:] == ("near",) * (N - 2), "the other ranker does not know these"
        other = BlendRanker({"beside": cooccurrence(), "near": near}, {"beside": 100.0, "near": 1e-6})
        (ranking,) = other.rank([request], 1, deadline=Deadline.never())
        assert (ranking.item_indices[0], ranking.main_signals) == (7, ("beside",))
        answer = Recommender(CATALOG, [other, popularity()]).recommend(History(("i3",)), 1)
        assert (answer.items[0].source, answer.items[0].stage) == ("blend: beside", "blend")

    def test_contribution_is_measured_against_the_mean(self) -> None:
        """A ranker that scores all items high would be the main signal of all items."""
        flat, steep = FixedRanker(np.full(N, 9.0)), FixedRanker(np.linspace(0, 1, N))
        ranker = BlendRanker({"flat": flat, "steep": steep}, {"flat": 1.0, "steep": 1.0})
        (ranking,) = ranker.rank([RankRequest(history(3), "", EVERYTHING)], N, deadline=Deadline.never())
        assert ranking.main_signals == ("steep",) * (N // 2) + ("flat",) * (N // 2)

    def test_uninformed_ranker_is_never_the_main_signal(self) -> None:
        """A user with a query but no history has no co-occurring items."""
        parts = {"near": embedding(), "beside": cooccurrence(), "popular": popularity()}
        ranker = BlendRanker(parts, dict.fromkeys(parts, 1.0), non_personalized=["popular"])
        (ranking,) = ranker.rank([RankRequest(history(), "b", EVERYTHING)], N, deadline=Deadline.never())
        assert ranking.main_signals == ("near",) * N

    def test_invalid_blends_are_rejected(self) -> None:
        """A weight of nan would disable the whole blend, and an unknown name one ranker of it."""
        ranker = popularity()
        wrong: list[tuple[dict[str, DenseRanker], dict[str, float], list[str], str]] = [
            ({}, {}, [], "rankers are none"),
            (
                {"popular": ranker},
                {"popular": 1.0},
                ["popular"],
                "non_personalized holds popular; .* at least one personalized ranker",
            ),
            ({"popular": ranker}, {"popular": 1.0}, ["poplar"], "non_personalized holds poplar"),
            ({"popular": ranker}, {"rare": 1.0}, [], "weights are for rare"),
            ({"popular": ranker}, {"popular": 0.0}, [], r"the weight of 'popular' is 0\.0"),
            ({"near": embedding(), "popular": ranker}, {"near": 1.0, "popular": float("nan")}, [], "'popular' is nan"),
            ({"popular": ranker}, {"popular": float("inf")}, [], "'popular' is inf"),
            ({"near": None}, {"near": 1.0}, [], "ranker 'near' is None"),  # type: ignore[dict-item]
        ]
        for rankers, weights, non_personalized, message in wrong:
            with pytest.raises(InputError, match=message):
                BlendRanker(rankers, weights, non_personalized=non_personalized)


def test_weights_are_recovered_from_interactions() -> None:
    """Choices drawn with known weights lead back to them; a single choice changes almost nothing."""
    random, size, true = np.random.default_rng(0), 60, np.array([1.5, 0.0, 0.7])
    tables = random.normal(size=(3, size))
    parts = [FixedRanker(table) for table in tables]
    odds = np.exp(true @ tables)
    taken = random.choice(size, 4000, p=odds / odds.sum())
    requests = [RankRequest(np.array([0]), "", Subset.everything(size))] * len(taken)
    start = np.array([1.0, 1.0, 1.0])
    np.testing.assert_allclose(fit_weights(parts, requests, taken, initial_weights=start, seed=0), true, atol=0.1)
    np.testing.assert_allclose(
        fit_weights(parts, requests[:1], taken[:1], initial_weights=start, seed=0), start, atol=0.1
    )
    assert fit_weights(parts, [], taken[:0], initial_weights=start, seed=0).tolist() == start.tolist()
    with pytest.raises(InputError, match="2 requests and 1 targets"):
        fit_weights(parts, requests[:2], taken[:1], initial_weights=start, seed=0)


@pytest.mark.parametrize("same", [-np.inf, 0.0, np.log1p(1.0), 1e9])
def test_uninformative_ranker_keeps_its_weight(same: float) -> None:
    """Nothing is learned from scores that do not distinguish items."""
    parts = [FixedRanker(np.arange(300.0)), FixedRanker(np.full(300, same))]
    requests = [RankRequest(np.array([0]), "", Subset.everything(300))] * 50
    found = fit_weights(parts, requests, np.full(50, 299), initial_weights=np.array([0.01, 3.0]), seed=0)
    assert found[0] > 0.01
    assert found[1] == 3.0
