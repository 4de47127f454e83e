"""The laws that every ranker must keep. Subclass `RankerContract`, set `subject`, and give the fixtures."""

import ast
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, InputError
from genrec.rankers.base import DenseRanker, Ranker, RankRequest
from genrec.types import FloatArray, IntArray, Ranking


@dataclass(frozen=True)
class KnownAnswer:
    """A request with one right answer for a ranker that works, and that answer."""

    request: RankRequest
    item_index: int


class RankerContract:
    """Give the fixtures `ranker`, `items` (N) and `planted`; `atol` is the tolerance of its number type.

    `batch_atol` is 0 for every ranker of genrec; peers that multiply matrices of a whole batch need a tolerance.
    """

    subject: ClassVar[str]
    atol: ClassVar[float] = 1e-9
    batch_atol: ClassVar[float] = 0.0

    @pytest.fixture
    def requests(self, ranker: Ranker, items: int) -> list[RankRequest]:
        """Requests with many kinds of histories and filters, without those that the ranker cannot rank."""
        random = np.random.default_rng(3)
        all_requests = []
        for size, share in ((1, 1.0), (3, 0.5), (2, 1.0), (12, 0.2), (5, 0.9), (1, 0.05), (0, 1.0), (40, 0.7)):
            allowed = random.random(items) < share
            history = random.integers(0, items, size)
            words = "a lamp" if size % 3 == 0 else ""
            filtered = Subset.from_mask(Mask.from_bool(allowed))
            all_requests.append(RankRequest(history, words, filtered))
            all_requests.append(RankRequest(history, words, filtered.without(random.integers(0, items, 2))))
            all_requests.append(RankRequest(history, words, Subset.from_indices(items, np.flatnonzero(allowed))))
        hostile, everything = "\ud800 <|im_end|>\n{{ x }}", Subset.everything(items)
        all_requests.append(RankRequest(random.integers(0, items, 4), hostile, everything))
        all_requests.append(
            RankRequest(random.integers(0, items, 4), "", everything.without(random.integers(0, items, 3)))
        )
        all_requests.append(RankRequest(random.integers(0, items, 4), "", Subset.from_indices(items, [])))
        rankable = [request for request in all_requests if ranker.can_rank(request)]
        assert len(rankable) >= 5
        return rankable

    def rank(self, ranker: Ranker, requests: list[RankRequest], k: int) -> list[Ranking]:
        return ranker.rank(requests, k, deadline=Deadline.never())

    def score(self, ranker: Ranker, request: RankRequest, items: IntArray) -> FloatArray:
        return ranker.score([request], [items], deadline=Deadline.never())[0]

    def test_source_is_named(self, ranker: Ranker) -> None:
        """Every recommendation names its source."""
        assert ranker.source

    @pytest.mark.parametrize("k", [1, 5, 1000])
    def test_a_list_is_full_distinct_allowed_and_sorted(
        self, ranker: Ranker, requests: list[RankRequest], items: int, k: int
    ) -> None:
        """The first guarantee. A list is shorter than k only if fewer items are allowed, or known to this ranker."""
        for request, ranking in zip(requests, self.rank(ranker, requests, k), strict=True):
            found = ranking.item_indices
            known = np.isfinite(self.score(ranker, request, np.arange(items))) & request.allowed.to_bool()
            assert found.dtype == np.int64
            assert len(set(found.tolist())) == len(found) == len(ranking.scores) == min(k, int(known.sum()))
            assert request.allowed.contains(found).all()
            order = np.lexsort((found, -ranking.scores))
            assert order.tolist() == list(range(len(found)))
            assert ranking.num_scored >= len(found)

    def test_score_equals_the_scores_of_the_list(self, ranker: Ranker, requests: list[RankRequest], items: int) -> None:
        """Explanations and blends read scores item by item; they must be the scores of the list."""
        for request, ranking in zip(requests, self.rank(ranker, requests, 7), strict=True):
            np.testing.assert_allclose(
                self.score(ranker, request, ranking.item_indices), ranking.scores, atol=self.atol
            )
            backwards = self.score(ranker, request, ranking.item_indices[::-1])
            np.testing.assert_allclose(backwards[::-1], ranking.scores, atol=self.atol)

    def test_proven_means_no_allowed_item_scores_higher(
        self, ranker: Ranker, requests: list[RankRequest], items: int
    ) -> None:
        """A caller that reads `proven` need not look further."""
        for request, ranking in zip(requests, self.rank(ranker, requests, 4), strict=True):
            allowed = request.allowed.to_indices()
            scores = self.score(ranker, request, allowed)
            known = np.isfinite(scores)
            best = allowed[known][np.lexsort((allowed[known], -scores[known]))][:4]
            if ranking.proven:
                assert ranking.item_indices.tolist() == best.tolist()

    def test_the_same_request_gives_the_same_list(self, ranker: Ranker, requests: list[RankRequest]) -> None:
        """Otherwise results cannot be reproduced, and a page changes when it is reloaded."""
        for one, other in zip(self.rank(ranker, requests, 5), self.rank(ranker, requests, 5), strict=True):
            assert one.item_indices.tolist() == other.item_indices.tolist()
            assert one.scores.tolist() == other.scores.tolist()

    def test_ranking_does_not_depend_on_the_batch(self, ranker: Ranker, requests: list[RankRequest]) -> None:
        """A user's list must not depend on the other users in the batch."""
        together, reversed_ = self.rank(ranker, requests, 5), self.rank(ranker, requests[::-1], 5)[::-1]
        for index, request in enumerate(requests):
            (alone,) = self.rank(ranker, [request], 5)
            for ranking in (together[index], reversed_[index]):
                assert ranking.item_indices.tolist() == alone.item_indices.tolist()
                np.testing.assert_allclose(ranking.scores, alone.scores, rtol=0, atol=self.batch_atol)
                assert ranking.proven == alone.proven

    def test_k_below_one_raises(self, ranker: Ranker, requests: list[RankRequest]) -> None:
        """An empty list for a wrong k looks like an empty catalog."""
        for k in (0, -1):
            with pytest.raises(InputError, match=f"k is {k}; give a whole number of at least 1"):
                self.rank(ranker, requests, k)

    def test_empty_batch_gives_no_rankings(self, ranker: Ranker) -> None:
        """If earlier stages served all users, the batch is empty."""
        assert self.rank(ranker, [], 5) == []
        assert ranker.score([], [], deadline=Deadline.never()) == []

    def test_a_filter_never_shortens_a_list(self, ranker: Ranker, planted: KnownAnswer, items: int) -> None:
        """Filters act inside the ranking; a filter afterwards would shorten the list."""
        everything = replace(planted.request, allowed=Subset.everything(items))
        (whole,) = self.rank(ranker, [everything], items)
        for keep in range(1, len(whole.item_indices) + 1):
            kept = whole.item_indices[-keep:]
            mask = Mask.from_bool(np.isin(np.arange(items), kept))
            for allowed in (
                Subset.from_indices(items, kept),
                Subset.from_mask(mask),
                Subset.everything(items).without(np.setdiff1d(np.arange(items), kept)),
            ):
                (part,) = self.rank(ranker, [replace(everything, allowed=allowed)], keep)
                assert sorted(part.item_indices.tolist()) == sorted(kept.tolist())

    def test_positive_boost_moves_only_its_item(self, ranker: Ranker, planted: KnownAnswer, items: int) -> None:
        """A promoted item must move up, and the others must keep their order."""
        everything = replace(planted.request, allowed=Subset.everything(items))
        (before,) = self.rank(ranker, [everything], items)
        last = int(before.item_indices[-1])
        boosted = replace(everything, boost=Boost.from_pairs([(last, 1e6)]))
        (after,) = self.rank(ranker, [boosted], items)
        assert after.item_indices.tolist() == [last, *before.item_indices[:-1].tolist()]
        np.testing.assert_allclose(after.scores[1:], before.scores[:-1], atol=self.atol)
        assert after.scores[0] == pytest.approx(before.scores[-1] + 1e6)
        (short,) = self.rank(ranker, [boosted], 1)
        assert short.item_indices.tolist() == [last]
        assert self.score(ranker, boosted, np.array([last]))[0] == pytest.approx(after.scores[0])

    def test_negative_boost_moves_only_its_item(self, ranker: Ranker, planted: KnownAnswer, items: int) -> None:
        """A demoted item must move down, but not disappear."""
        (before,) = self.rank(ranker, [planted.request], items)
        best = int(before.item_indices[0])
        demoted = replace(planted.request, boost=Boost.from_pairs([(best, -1e6)]))
        (after,) = self.rank(ranker, [demoted], items)
        assert after.item_indices.tolist() == [*before.item_indices[1:].tolist(), best]
        assert self.rank(ranker, [demoted], 1)[0].item_indices.tolist() == before.item_indices[1:2].tolist()

    def test_boost_does_not_bypass_the_filter(self, ranker: Ranker, planted: KnownAnswer, items: int) -> None:
        """An item that is out of stock must not be recommended, whatever its boost."""
        (best,) = self.rank(ranker, [planted.request], 2)
        allowed = planted.request.allowed.without(best.item_indices[:1])
        boost = Boost.from_pairs([(int(best.item_indices[0]), 1e6)])
        (ranking,) = self.rank(ranker, [replace(planted.request, allowed=allowed, boost=boost)], items)
        assert best.item_indices[0] not in ranking.item_indices

    def test_known_answer_is_ranked_first(self, ranker: Ranker, planted: KnownAnswer) -> None:
        """A ranker can satisfy every other law and still rank at random."""
        assert ranker.can_rank(planted.request)
        (ranking,) = self.rank(ranker, [planted.request], 1)
        assert ranking.item_indices.tolist() == [planted.item_index]

    def test_passed_deadline_stops_only_slow_rankers(self, ranker: Ranker, planted: KnownAnswer) -> None:
        """The fallback goes to fast rankers at the deadline; if these failed too, only popularity would remain."""
        passed = Deadline(at=1.0, clock=lambda: 2.0)
        if isinstance(ranker, DenseRanker):
            assert len(ranker.rank([planted.request], 3, deadline=passed)[0].item_indices) == 3
            return
        with pytest.raises(DeadlineExceededError):
            ranker.rank([planted.request], 3, deadline=passed)
        with pytest.raises(DeadlineExceededError):
            ranker.score([planted.request], [np.array([planted.item_index])], deadline=passed)

    def test_arguments_are_not_modified(self, ranker: Ranker, requests: list[RankRequest], items: int) -> None:
        """The fallback chain passes the same request to the next stage."""
        boost = Boost.from_pairs((item, float(item)) for item in range(items))
        boosted = [replace(request, boost=boost) for request in requests]
        copies = copy.deepcopy(boosted)
        self.rank(ranker, boosted, 5)
        for request, was in zip(boosted, copies, strict=True):
            pairs = [
                (request.history, was.history),
                (request.allowed.listed, was.allowed.listed),
                (request.allowed.to_bool(), was.allowed.to_bool()),
                (boost.indices, was.boost.indices if was.boost else None),
                (boost.values, was.boost.values if was.boost else None),
            ]
            for one, other in pairs:
                np.testing.assert_array_equal(one, other)


def subjects(contract: str) -> set[str]:
    """The values of `subject` in all subclasses of a contract in the tests."""
    found = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and has_base(node, contract):
                found |= {
                    line.value.value
                    for line in node.body
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "subject"
                    if isinstance(line.value, ast.Constant)
                }
    return found


def has_base(node: ast.ClassDef, name: str) -> bool:
    return any(name in ast.unparse(base) for base in node.bases)


def defines(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(line, ast.FunctionDef) and line.name == name for line in node.body)
