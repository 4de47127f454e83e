"""Laws of the fallback chain: whatever happens inside a stage, every request gets its list, and is told."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrec.data.catalog import Catalog
from genrec.data.interactions import read_interactions
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, TemplateError
from genrec.loading import open_recommender
from genrec.rankers.base import RankRequest
from genrec.rankers.collaborative_counts import CollaborativeCounts
from genrec.rankers.popularity import PopularityRanker
from genrec.recommender import Recommender
from genrec.settings import Settings
from genrec.types import FloatArray, History, IntArray, Item, Ranking

CATALOG = Catalog.from_items([Item(f"i{number}", f"Item {number}") for number in range(8)])


class Stage:
    """A stage that ranks in catalog order, and does something else for histories with item 3."""

    source = "generative"

    def __init__(self, misbehave: Callable[[RankRequest], Ranking]) -> None:
        self._misbehave = misbehave
        self.calls = 0

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        self.calls += 1
        return [self._misbehave(one) if 3 in one.history else ranking(one, k) for one in requests]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        return [np.zeros(len(items)) - len(one.history) for one, items in zip(requests, item_indices, strict=True)]


def ranking(request: RankRequest, k: int, score: float = 1.0) -> Ranking:
    items = request.allowed.to_indices()[:k]
    return Ranking(items, np.full(len(items), score), proven=True, num_scored=len(items))


def raises(error: BaseException) -> Callable[[RankRequest], Ranking]:
    def misbehave(request: RankRequest) -> Ranking:
        raise error

    return misbehave


FAILURES: dict[str, Callable[[RankRequest], Ranking]] = {
    "the engine": raises(EngineError("the model died")),
    "a template that fails for one item": raises(TemplateError("'year' is undefined")),
    "memory": raises(MemoryError()),
    "a bug of a third party": raises(ZeroDivisionError("division by zero")),
    "minus infinity": lambda request: ranking(request, 3, -np.inf),
    "not a number": lambda request: ranking(request, 3, np.nan),
    "an item that is not allowed": lambda request: Ranking(np.array([3]), np.zeros(1), proven=True, num_scored=1),
    "an item twice": lambda request: Ranking(np.array([1, 1]), np.zeros(2), proven=True, num_scored=2),
    "no item of the catalog": lambda request: Ranking(np.array([99]), np.zeros(1), proven=True, num_scored=1),
    "no ranking": lambda request: None,  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_inside_a_stage_costs_only_its_own_request_that_stage(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One user's item must not take the list of another user, and no failure may reach the caller."""
    stage = Stage(FAILURES[failure])
    recommender = Recommender(CATALOG, [stage, PopularityRanker(np.arange(8))])
    users = [History(("i0",)), History(("i3",)), History(("i5",))]
    with caplog.at_level(logging.WARNING):
        well, ill, also_well = recommender.recommend(users, k=3)
    assert [one.stage for one in (*well.items, *also_well.items)] == ["generative"] * 6
    assert [one.stage for one in ill.items] == ["popularity"] * 3
    assert ill.failed_stages == ("generative",)
    assert [notice.code for notice in ill.notices] == ["stage_skipped"]
    assert not well.notices
    assert len([record for record in caplog.records if record.name == "genrec.rankers.failures"]) == 1


def test_a_stage_that_cannot_say_whether_it_can_rank_is_skipped() -> None:
    """`can_rank` is code of the stage, too."""

    class Broken(Stage):
        def can_rank(self, request: RankRequest) -> bool:
            raise KeyError("history")

    answer = Recommender(CATALOG, [Broken(raises(MemoryError())), PopularityRanker(np.arange(8))]).recommend(
        History(("i0",)), k=2
    )
    assert [item.stage for item in answer.items] == ["popularity"] * 2
    assert answer.notices[0].fields["error"] == "unexpected_error"


def test_interrupts_pass() -> None:
    """A user who presses Ctrl-C wants no list."""
    recommender = Recommender(CATALOG, [Stage(raises(KeyboardInterrupt())), PopularityRanker(np.arange(8))])
    with pytest.raises(KeyboardInterrupt):
        recommender.recommend(History(("i3",)), k=2)


def test_reasons_stop_at_the_deadline_between_users() -> None:
    """Reasons of many users over a large catalog must not take many times the deadline."""
    now = [0.0]

    class Slow(PopularityRanker):
        scored = 0

        def score(self, *args: Any, **options: Any) -> list[FloatArray]:
            now[0] += 1.0
            type(self).scored += 1
            return super().score(*args, **options)

    recommender = Recommender(CATALOG, [Slow(np.arange(8))], clock=lambda: now[0])
    answers = recommender.recommend([History(("i0",))] * 9, k=2, explain=True, deadline=2.5)
    assert Slow.scored == 3
    assert all(len(answer.items) == 2 for answer in answers)
    assert [bool(answer.items[0].reason) for answer in answers] == [True] * 3 + [False] * 6
    assert {notice.code for notice in answers[-1].notices} == {"explanation_skipped"}


def test_a_filter_stops_at_the_deadline_between_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long filter over a large catalog must not take many times the deadline, and is never ignored."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    recommender = Recommender(CATALOG, [PopularityRanker(np.arange(8))], clock=clock)
    one = "title != 'x'"
    assert len(recommender.recommend(History(()), k=2, where=one, deadline=1.5).items) == 2
    monkeypatch.setattr("genrec.data.filters._UNCHECKED_ROWS", 0)
    with pytest.raises(DeadlineExceededError):
        recommender.recommend(History(()), k=2, where=" and ".join([one] * 50), deadline=5.0)
    assert now[0] < 20


def test_a_failing_reason_leaves_the_list() -> None:
    """An explanation is an extra; whatever fails in it, the items are served."""

    class Unexplained(PopularityRanker):
        def score(self, *args: Any, **options: Any) -> list[FloatArray]:
            raise OverflowError

    answer = Recommender(CATALOG, [Unexplained(np.arange(8))]).recommend(History(("i0",)), k=2, explain=True)
    assert len(answer.items) == 2
    assert [notice.code for notice in answer.notices] == ["explanation_skipped"]


def test_without_a_signal_but_popularity_the_ensemble_is_popularity(tmp_path: Path) -> None:
    """Sparse data have no co-occurrence to learn from; without an encoder only popularity is left."""
    rows = [{"user_id": f"u{number}", "item_id": f"i{number}", "timestamp": 1} for number in range(8)]
    log = read_interactions(pa.Table.from_pylist(rows))
    counts = CollaborativeCounts.from_interactions(CATALOG, log)
    weights = dict.fromkeys(counts.rankers(None), 0.0)
    assert counts.blend(None, {**weights, "popularity": 1.0}) is None
    settings = Settings(model=None, encoder=None)
    recommender = open_recommender(CATALOG, log, cache=tmp_path, settings=settings)
    assert [item.stage for item in recommender.recommend("u1", k=3).items][-1] == "popularity"


def test_words_that_nothing_reads_are_told(tmp_path: Path) -> None:
    """A list by popularity looks like an answer to the words."""
    settings = Settings(model=None, encoder=None)
    recommender = open_recommender(CATALOG, None, cache=tmp_path, settings=settings)
    answer = recommender.recommend(History((), words="a red lamp"), k=3)
    assert [notice.code for notice in answer.notices] == ["words_ignored"]
    assert answer.notices[0].fields == {"words": "a red lamp"}
    assert not recommender.recommend(History(()), k=3).notices


def test_a_cache_that_cannot_be_written_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not turn what has been computed into an error; it is told once in the list."""
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{(user + step) % 8}", "timestamp": step}
        for user in range(8)
        for step in range(4)
    ]
    log = read_interactions(pa.Table.from_pylist(rows))
    settings = Settings(model=None, encoder=None)
    expected = open_recommender(CATALOG, log, cache=tmp_path / "good", settings=settings).recommend("u1", k=3)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    recommender = open_recommender(CATALOG, log, cache=tmp_path / "full", settings=settings)
    answer = recommender.recommend("u1", k=3)
    assert [item.item_id for item in answer.items] == [item.item_id for item in expected.items]
    assert [notice.code for notice in answer.notices].count("cache_not_writable") == 1
