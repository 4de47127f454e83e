"""Failures of stages of every kind, with real rankers and models: they are told and logged, and cost no other list."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from ranker_support import CATALOG, COLD, HEADER, N, cooccurrence, embedding, generative, popularity

from genrec import Catalog, History, Item, PopularityRanker, Recommender, read_catalog
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import (
    ArtifactError,
    DeadlineExceededError,
    EngineError,
    InputError,
    MismatchError,
    StoreError,
    TemplateError,
)
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.prompting.template import Template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.testing import ByteTokenizer, TableBackend, TableTree
from genrec.types import FloatArray, IntArray, Ranking, RecommendationList


class UnprintableError(Exception):
    """An exception of somebody else whose text fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


FAILURES = [
    UnprintableError(),
    MemoryError(),
    RuntimeError("CUDA error"),
    ValueError("bad input"),
    KeyError("text"),
    AssertionError(),
    RecursionError(),
    ZeroDivisionError(),
    OverflowError(),
    OSError(28, "No space left on device"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    InputError("too large"),
    TemplateError("no title"),
    ArtifactError("altered"),
    MismatchError("another index"),
    StoreError("locked"),
    EngineError("gone"),
    DeadlineExceededError("late"),
    pl.exceptions.PanicException("index out of bounds"),
]
USERS = [History((f"i{place}",)) for place in range(3)]


class ScriptedRanker(PopularityRanker):
    """Popularity, but `actions` replace its methods by name; counts their calls."""

    source = "scripted"

    def __init__(self, **actions: Callable[..., Any]) -> None:
        super().__init__(np.arange(N, 0, -1))
        self.actions, self.calls = actions, dict.fromkeys(("can_rank", "rank", "score"), 0)

    def can_rank(self, request: RankRequest) -> bool:
        self.calls["can_rank"] += 1
        return bool(self.actions.get("can_rank", lambda _: True)(request))

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        self.calls["rank"] += 1
        found = super().rank(requests, k, deadline=deadline)
        return self.actions["rank"](requests, found) if "rank" in self.actions else found  # type: ignore[no-any-return]

    def score(self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline) -> Any:
        self.calls["score"] += 1
        found = super().score(requests, items, deadline=deadline)
        return self.actions["score"](requests, found) if "score" in self.actions else found


def raising(error: BaseException) -> Callable[..., Any]:
    def action(*_: object) -> Any:
        raise error

    return action


def codes(answer: RecommendationList, kind: str) -> list[object]:
    return [notice.fields["error"] for notice in answer.notices if notice.code == kind]


def stages_of(answer: RecommendationList) -> list[str]:
    return [item.stage for item in answer.items]


@pytest.mark.parametrize("method", ["can_rank", "rank"])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_stage_that_raises_anything_is_skipped_and_told(method: str, error: BaseException) -> None:
    """One bad model, template or line of code must cost its own list, never the answer."""
    recommender = Recommender(CATALOG, [ScriptedRanker(**{method: raising(error)}), popularity()])
    for answer in recommender.recommend(USERS, k=4):
        assert stages_of(answer) == ["popularity"] * 4
        assert answer.failed_stages == ("scripted",)
        code = getattr(error, "code", "out_of_memory" if isinstance(error, MemoryError) else "unexpected_error")
        assert codes(answer, "stage_skipped") == [code]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_reasons_that_cannot_be_found_leave_the_list_as_it_is(error: BaseException) -> None:
    """The list is ranked already; a reason is worth less than the answer."""
    recommender = Recommender(CATALOG, [ScriptedRanker(score=raising(error)), popularity()])
    for answer in recommender.recommend(USERS, k=4, explain=True):
        assert stages_of(answer) == ["scripted"] * 4
        assert [item.reason for item in answer.items] == [None] * 4
        assert [notice.code for notice in answer.notices] == ["explanation_skipped"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
@pytest.mark.parametrize("method", ["can_rank", "rank", "score"])
def test_requests_to_stop_the_program_are_no_failure(method: str, error: BaseException) -> None:
    """A process that cannot be interrupted must be killed."""
    recommender = Recommender(CATALOG, [ScriptedRanker(**{method: raising(error)}), popularity()])
    with pytest.raises(type(error)):
        recommender.recommend(USERS, k=4, explain=True)


@pytest.mark.parametrize(
    "arguments",
    [{"k": 0}, {"where": "price <"}, {"exclude": ["no"]}, {"only": 5}, {"deadline": -1}, {"boost": {"i1": np.nan}}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_are_refused_before_the_first_stage(arguments: dict[str, Any]) -> None:
    """What only the caller can mend must not be hidden by a later stage, nor cost the time of an earlier one."""
    stage = ScriptedRanker()
    with pytest.raises(InputError):
        Recommender(CATALOG, [stage, popularity()]).recommend(USERS, **arguments)
    assert not any(stage.calls.values())


def ranking(items: Sequence[int], scores: Sequence[float]) -> Ranking:
    return Ranking(np.array(items), np.array(scores, dtype=np.float64), proven=True, num_scored=len(items))


FAULTY_RANKINGS = {
    "repeated": ranking([4, 4], [2, 1]),
    "excluded": ranking([0, 5], [2, 1]),
    "outside": ranking([5, N], [2, 1]),
    "negative": ranking([5, -1], [2, 1]),
    "nan": ranking([5, 6], [np.nan, 1]),
    "infinite": ranking([5, 6], [np.inf, 1]),
    "minus infinite": ranking([5, 6], [-np.inf, -np.inf]),
    "too few scores": ranking([5, 6], [2]),
    "too few signals": replace(ranking([5, 6], [2, 1]), main_signals=("near",)),
    "no indices": ranking([5.5, 6.5], [2, 1]),  # type: ignore[list-item]
    "nothing": None,
}


@pytest.mark.parametrize("fault", FAULTY_RANKINGS)
def test_what_is_no_ranking_of_allowed_items_is_not_served(fault: str) -> None:
    """A faulty ranker of somebody else must not break the first guarantee: distinct, allowed items, exactly k."""
    stage = ScriptedRanker(rank=lambda requests, found: [FAULTY_RANKINGS[fault]] * len(requests))
    (answer,) = Recommender(CATALOG, [stage, popularity()]).recommend([History(("i0",))], k=4)
    assert stages_of(answer) == ["popularity"] * 4
    assert answer.failed_stages == ("scripted",)


@pytest.mark.parametrize(
    "failure",
    [*FAULTY_RANKINGS, *FAILURES],
    ids=lambda failure: failure if isinstance(failure, str) else type(failure).__name__,
)
def test_a_failure_for_one_user_costs_no_other_list(
    failure: str | BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Users are ranked in batches; one user's item must not take the list of another user."""

    def fail_for_one(requests: Sequence[RankRequest], found: list[Ranking]) -> Any:
        is_wrong = [0 in request.history for request in requests]
        if isinstance(failure, str):
            pairs = zip(is_wrong, found, strict=True)
            return [FAULTY_RANKINGS[failure] if wrong else ranked for wrong, ranked in pairs]
        if any(is_wrong):
            raise failure
        return found

    recommender = Recommender(CATALOG, [ScriptedRanker(rank=fail_for_one), popularity()])
    users = [History((f"i{place}",)) for place in (1, 0, 2)]
    with caplog.at_level(logging.WARNING):
        fine, failing, other = recommender.recommend(users, k=3)
    if isinstance(failure, DeadlineExceededError):  # the time is over for the whole batch
        assert stages_of(fine) == stages_of(failing) == stages_of(other) == ["popularity"] * 3
        assert not caplog.records
        return
    assert stages_of(fine) == stages_of(other) == ["scripted"] * 3
    assert stages_of(failing) == ["popularity"] * 3
    assert failing.failed_stages == ("scripted",)
    assert [notice.code for notice in failing.notices] == ["stage_skipped"]
    assert not fine.notices
    assert not other.notices
    assert [record.name for record in caplog.records] == ["genrec.rankers.failures"]


def test_rankings_may_come_from_a_generator() -> None:
    """A ranker of somebody else may yield its rankings, and these can be read only once."""
    stage = ScriptedRanker(rank=lambda requests, found: (own for own in found))
    for answer in Recommender(CATALOG, [stage, popularity()]).recommend(USERS, k=4):
        assert stages_of(answer) == ["scripted"] * 4


def test_an_answer_without_truth_to_whether_a_stage_can_rank_is_a_failure() -> None:
    """An array of truth values is neither; the error that it raises must cost the stage only."""

    class Vague(ScriptedRanker):
        def can_rank(self, request: RankRequest) -> Any:
            return np.array([True, False])

    for answer in Recommender(CATALOG, [Vague(), popularity()]).recommend(USERS, k=4):
        assert stages_of(answer) == ["popularity"] * 4
        assert answer.failed_stages == ("scripted",)


def test_a_stage_that_answers_for_too_few_requests_fails_for_all() -> None:
    """Lists that are handed out by position would reach the wrong users."""
    stage = ScriptedRanker(rank=lambda requests, found: found[: len(requests) // 2])
    for answer in Recommender(CATALOG, [stage, popularity()]).recommend(USERS, k=2):
        assert stages_of(answer) == ["popularity"] * 2


def test_every_kind_of_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A log without the traceback cannot be acted on, and one line a request buries it."""
    errors = iter([ValueError("a"), ValueError("b"), KeyError("c"), *map(ValueError, "defghijkl")])

    def fail(*_: object) -> Any:
        raise next(errors)

    recommender = Recommender(CATALOG, [ScriptedRanker(rank=fail), popularity()])
    with caplog.at_level(logging.INFO, "genrec"):
        for _ in range(3):
            recommender.recommend(USERS, k=2)
    found = [(record.levelname, record.exc_info[0]) for record in caplog.records if record.exc_info]
    assert found == [("ERROR", ValueError), ("ERROR", KeyError)]
    assert len(caplog.records) == 2


class UnlikelyBackend(TableBackend):
    """A model that gives no probability at all to one letter."""

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TableTree:
        return UnlikelyTree(self, prompts, deadline or Deadline.never())


class UnlikelyTree(TableTree):
    def logits(self, nodes: IntArray) -> FloatArray:
        logits = super().logits(nodes)
        logits[:, ord("b")] = -np.inf
        return logits


@pytest.mark.parametrize("strategy", ["beam", "exhaustive", "candidates"])
@pytest.mark.parametrize("score", ["model", "catalog"])
@pytest.mark.parametrize("prior", [0.0, 1.0])
@pytest.mark.parametrize("fusion_weight", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_model_of_minus_infinity_never_takes_the_answer(
    strategy: str, score: str, prior: float, fusion_weight: float
) -> None:
    """Masked tokens and overflows of half precision are ordinary; blaming the caller for them with a 400 is wrong."""
    backend = UnlikelyBackend(ByteTokenizer.vocab_size, seed=9)
    stage = generative(backend=backend, strategy=strategy, score=score, prior=prior, fusion_weight=fusion_weight)
    for answer in Recommender(CATALOG, [stage, popularity()]).recommend(USERS, k=12, explain=True):
        assert len({item.item_id for item in answer.items}) == 12
        assert np.isfinite([item.score for item in answer.items]).all()
        assert not codes(answer, "explanation_skipped")


@pytest.mark.parametrize(("memory", "stage"), [(1.0, "popularity"), (10_000.0, "generative")])
def test_a_memory_budget_too_small_for_a_batch_is_no_error_of_the_caller(memory: float, stage: str) -> None:
    """The budget belongs to the operator: what fits is ranked one by one, the rest by the next stage."""
    ranker = generative(strategy="exhaustive", prior=0.0, memory=memory)
    for answer in Recommender(CATALOG, [ranker, popularity()]).recommend(USERS, k=2):
        assert stages_of(answer) == [stage] * 2
        assert bool(answer.failed_stages) == (stage == "popularity")


@pytest.mark.parametrize("explain", [False, True])
def test_a_template_that_fails_for_one_item_costs_only_its_user(explain: bool) -> None:
    """One product without a price must not take the model's lists from everybody in the call."""
    catalog = Catalog.from_items(
        Item(f"i{place}", "ab"[place % 2] * place, {"price": place or None}) for place in range(1, 9)
    )
    catalog = catalog.revised(upsert=Catalog.from_items([Item("free", "c", {"price": None})]))
    tokenizer = ByteTokenizer()
    warm = HEADER.format("warm", '["history"]', "item") + (
        "{% block user %}{% for item in history %}{{ item.title }} {{ item.price + 1 }}{% endfor %}?{% endblock %}"
    )
    ranker = GenerativeRanker(
        CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer),
        TableBackend(tokenizer.vocab_size),
        tokenizer,
        template=Template.from_source(warm),
        cold_template=Template.from_source(COLD),
        settings=GenerativeSettings(strategy="beam"),
    )
    recommender = Recommender(catalog, [ranker, PopularityRanker(np.ones(len(catalog)))])
    users = [History(("i1",)), History(("i2", "free")), History(("i3",))]
    fine, failing, other = recommender.recommend(users, k=3, explain=explain)
    assert [set(stages_of(answer)) for answer in (fine, failing, other)] == [
        {"generative"},
        {"popularity"},
        {"generative"},
    ]
    assert codes(failing, "stage_skipped") == [TemplateError.code]
    assert not fine.notices
    assert not other.notices


def test_a_reason_that_cannot_be_written_for_one_user_costs_only_that_reason() -> None:
    """An explanation template meets every user's words, and some of them break it."""
    source = HEADER.format("reason", '["drivers", "words"]', "text") + (
        "{% block user %}Because {{ 12 // (words | length - 4) }}{% endblock %}"
    )
    recommender = Recommender(CATALOG, [embedding()], explanation=Template.from_source(source))
    fine, failing = recommender.recommend([History(words="lamps"), History(words="lamp")], k=2, explain=True)
    assert [item.reason for item in fine.items] == ["Because 12"] * 2
    assert [item.reason for item in failing.items] == [None] * 2
    assert codes(failing, "explanation_skipped") == [TemplateError.code]


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> Callable[[Sequence[RankRequest], Any], Any]:
        """An action that takes some seconds."""

        def action(_: Sequence[RankRequest], found: Any) -> Any:
            self.now += seconds
            return found

        return action


def test_a_stage_gets_no_further_batch_after_its_time_limit() -> None:
    """The work of a stage without a model grows with users and items, and many users must not make it late."""
    clock = Clock()
    stage = ScriptedRanker(rank=clock.spend(1.0))
    recommender = Recommender(CATALOG, [stage, popularity()], clock=clock)
    answers = recommender.recommend([USERS[0]] * 1000, k=2, deadline=10.0)
    assert clock.now <= 11.0  # a batch of 32 users takes a second, so 1,000 users would take 32
    served = [stages_of(answer)[0] for answer in answers]
    assert served.count("scripted") == 32 * stage.calls["rank"]
    assert all(codes(answer, "stage_skipped") == [DeadlineExceededError.code] for answer in answers[-32:])
    assert all(len(answer.items) == 2 for answer in answers)


def test_a_late_request_is_still_ranked_by_stages_that_need_no_time() -> None:
    """A request that waited too long in a queue should get its personal list, which takes milliseconds."""
    clock = itertools.count()
    stage = ScriptedRanker()
    recommender = Recommender(CATALOG, [stage, popularity()], clock=lambda: float(next(clock)))
    answers = recommender.recommend(USERS, k=2, deadline=1e-6)
    assert [stages_of(answer) for answer in answers] == [["scripted"] * 2] * 3
    assert stage.calls["rank"] == 1


def test_reasons_stop_at_the_deadline_between_users() -> None:
    """Reasons of many users over a large catalog must not take many times the deadline."""
    clock = Clock()
    stage = ScriptedRanker(score=clock.spend(1.0))
    recommender = Recommender(CATALOG, [stage, popularity()], clock=clock)
    answers = recommender.recommend([USERS[0]] * 9, k=2, explain=True, deadline=2.5)
    assert stage.calls["score"] == 3
    assert all(len(answer.items) == 2 for answer in answers)
    assert [bool(answer.items[0].reason) for answer in answers] == [True] * 3 + [False] * 6
    assert {notice.code for notice in answers[-1].notices} == {"explanation_skipped"}


def test_a_blend_checks_the_deadline_between_groups_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a million items a group is one user, and 32 of them take seconds."""
    monkeypatch.setattr("genrec.rankers.ensemble._MAX_SCORES_IN_MEMORY", N)
    clock = itertools.count()
    deadline = Deadline(2.5, lambda: float(next(clock)))
    ranker = BlendRanker({"near": cooccurrence()}, {"near": 1.0})
    requests = [RankRequest(np.array([3]), "", Subset.everything(N))] * 10
    with pytest.raises(DeadlineExceededError):
        ranker.rank(requests, 3, deadline=deadline)
    assert next(clock) <= 5
    assert len(ranker.rank(requests[:1], 3, deadline=Deadline(0.0, lambda: 1.0))) == 1


@pytest.mark.parametrize("operator", ["or", "and"])
def test_a_long_filter_over_a_large_catalog_stops_at_the_deadline(operator: str) -> None:
    """Eighty conditions over 300,000 texts take seconds; a list that ignored the filter would be worse than none."""
    size, ticking = 300_000, itertools.count()
    catalog = read_catalog(pa.table({"item_id": np.arange(size), "title": ["t"] * size}))
    stage = PopularityRanker(np.ones(size))
    late = Recommender(catalog, [stage], clock=lambda: float(next(ticking)))
    long = f" {operator} ".join("title == 't'" for _ in range(80))
    with pytest.raises(DeadlineExceededError, match="allow more time") as caught:
        late.recommend(History(), k=2, where=long, deadline=0.5)
    assert caught.value.fields["conditions"] == 4
    assert next(ticking) < 20
    assert len(late.recommend(History(), k=2, where="title == 't'", deadline=0.5).items) == 2
    in_time = Recommender(catalog, [stage], clock=lambda: 0.0)
    assert len(in_time.recommend(History(), k=2, where=long, deadline=0.5).items) == 2


@pytest.mark.parametrize(
    ("stages", "is_ignored"),
    [
        ([popularity()], True),
        ([cooccurrence(), popularity()], True),
        ([BlendRanker({"near": cooccurrence()}, {"near": 1.0}), popularity()], True),
        ([EmbeddingRanker(embedding().vectors), popularity()], True),
        ([embedding().history_and_words_rankers()[0], popularity()], True),
        ([embedding(), popularity()], False),
        ([BlendRanker({"near": cooccurrence(), "texts": embedding()}, {"near": 1.0, "texts": 1.0})], False),
        ([generative(strategy="beam"), popularity()], False),
        ([generative(strategy="beam", backend=TableBackend(260, fails=True)), popularity()], True),
    ],
)
def test_words_that_no_stage_reads_are_told(stages: list[Ranker], is_ignored: bool) -> None:
    """A search that is answered by bestsellers looks like a bad search; the caller must learn that it was none."""
    recommender = Recommender(CATALOG, stages)
    for history in ((), ("i3",)):
        notices = recommender.recommend(History(history, "a lamp"), 3).notices
        found = [notice.fields for notice in notices if notice.code == "words_ignored"]
        assert found == [{"words": "a lamp"}] * is_ignored
        notices = recommender.recommend(History(history, "  "), 3).notices
        assert "words_ignored" not in [notice.code for notice in notices]
