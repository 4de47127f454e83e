"""The guarantees of `Recommender`, on thousands of random requests."""

import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hostile import hostile_texts

from eval.validity import RandomRequest, random_requests, violations
from genrec import (
    Catalog,
    CatalogIndex,
    CooccurrenceRanker,
    GenerativeRanker,
    GenerativeSettings,
    GenrecError,
    History,
    Interactions,
    Item,
    PopularityRanker,
    Recommender,
    TitleIdentifiers,
    open_dataset,
    read_catalog,
    read_interactions,
    read_template,
)
from genrec.backends.base import Backend
from genrec.backends.transformers import TransformersBackend
from genrec.errors import FilterError, InputError, UnknownItemError, UnknownUserError
from genrec.notices import Notice
from genrec.prompting.tokenizer import HuggingFaceTokenizer, Tokenizer
from genrec.rankers.base import Ranker, RankRequest
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import Ranking


def build(
    catalog: Catalog, interactions: Interactions, backend: Backend, tokenizer: Tokenizer, **settings: Any
) -> Recommender:
    """A fallback chain of an LLM, co-occurrence and popularity."""
    offsets, items = interactions.to_indices(catalog)
    counting = CooccurrenceRanker(offsets, items, len(catalog))
    popularity = PopularityRanker(interactions.item_counts(catalog))
    generative = GenerativeRanker(
        CatalogIndex.build(catalog, TitleIdentifiers(max_tokens=24), tokenizer),
        backend,
        tokenizer,
        template=read_template("next-item"),
        cold_template=read_template("cold-start"),
        retriever=counting,
        settings=GenerativeSettings(**settings),
    )
    return Recommender(catalog, [generative, counting, popularity], interactions=interactions)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Interactions]:
    return open_dataset("online-retail", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def recommender(shop: tuple[Catalog, Interactions]) -> Recommender:
    return build(*shop, TableBackend(ByteTokenizer.vocab_size), ByteTokenizer(), candidates=30)


def check(recommender: Recommender, requests: Iterator[RandomRequest]) -> None:
    for request in requests:
        answer = recommender.recommend(request.history, request.k, **request.options)
        assert not violations(request, answer), request


@pytest.mark.parametrize("strategy", ["candidates", "beam", "exhaustive"])
def test_a_thousand_random_requests_get_exactly_k_allowed_items(
    shop: Any, recommender: Recommender, strategy: str
) -> None:
    """A violation breaks the first guarantee: an item that does not exist, is not allowed, repeated, or missing."""
    count = {"candidates": 1000, "beam": 30, "exhaustive": 10}[strategy]
    generative = recommender.stages[0]
    assert isinstance(generative, GenerativeRanker)
    stages: Sequence[Ranker] = [generative.with_settings(strategy=strategy, width=10), *recommender.stages[1:]]
    check(Recommender(shop[0], stages), random_requests(shop[0], count, seed=1))


def test_hostile_titles_change_nothing() -> None:
    """Titles are data: whatever they contain, lists stay complete, allowed and distinct."""
    titles = hostile_texts(10_000, seed=5)
    catalog = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(titles))
    random = np.random.default_rng(3)
    events = pa.table(
        {
            "user_id": [f"u{user}" for user in range(500) for _ in range(8)],
            "item_id": [f"i{item}" for item in random.integers(0, len(titles), 4000)],
            "timestamp": list(range(4000)),
        }
    )
    backend = TableBackend(ByteTokenizer.vocab_size)
    recommender = build(catalog, read_interactions(events), backend, ByteTokenizer(), candidates=20, prior=0.0)
    check(recommender, random_requests(catalog, 200, seed=2))


@pytest.mark.model
def test_real_model_returns_exactly_k_allowed_items(shop: Any, smollm2: Path) -> None:
    """The guarantee must hold for SmolLM2 as for a table of numbers, on the shop and on hostile titles."""
    backend, tokenizer = TransformersBackend(smollm2), HuggingFaceTokenizer.from_directory(smollm2)
    check(build(*shop, backend, tokenizer, candidates=12), random_requests(shop[0], 15, seed=3))
    titles = hostile_texts(10_000, seed=6)
    catalog = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(titles))
    events = pa.table(
        {"user_id": ["u"] * 300, "item_id": [f"i{place}" for place in range(300)], "timestamp": range(300)}
    )
    check(
        build(catalog, read_interactions(events), backend, tokenizer, candidates=8),
        random_requests(catalog, 15, seed=4),
    )


def test_one_user_many_users_and_frames_get_the_same_answer(recommender: Recommender) -> None:
    """The type of the argument must not change the recommendations."""
    users = ["12748", "17850", "13047"]
    many = recommender.recommend(users, k=5)
    alone = [recommender.recommend(user, k=5) for user in users]
    assert [answer.items for answer in many] == [answer.items for answer in alone]
    expected = [(item.user_id, item.item_id, item.rank, item.source) for answer in many for item in answer.items]
    for frame in (pd.DataFrame({"user_id": users}), pl.DataFrame({"user_id": users}), pa.table({"user_id": users})):
        result = recommender.recommend(frame, k=5)
        assert type(result) is type(frame)
        rows = pl.from_arrow(result) if isinstance(result, pa.Table) else pl.DataFrame(result)
        assert rows.columns == ["user_id", "item_id", "rank", "score", "source"]
        assert rows.select("user_id", "item_id", "rank", "source").rows() == expected


def test_a_frame_of_histories_replaces_the_loaded_histories(recommender: Recommender) -> None:
    """Otherwise the caller's interactions would be ignored in favour of the loaded ones."""
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["85123A", "22423", "85099B"]})
    result = recommender.recommend(frame, k=3, explain=True)
    assert result["user_id"].tolist() == [1, 1, 1, 2, 2, 2]
    assert not set(result["item_id"][:3]) & {"85123A", "22423"}
    assert list(result.columns) == ["user_id", "item_id", "rank", "score", "source", "reason"]
    assert result["reason"].notna().all()


def test_integer_ids_come_back_as_integers() -> None:
    """The caller joins on ids; '7' would not join with 7."""
    catalog = read_catalog(pd.DataFrame({"item_id": [7, 8, 9], "title": ["a", "b", "c"]}))
    events = read_interactions(pd.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 9], "timestamp": [1, 2, 3]}))
    recommender = Recommender(catalog, [PopularityRanker(events.item_counts(catalog))], interactions=events)
    [item] = recommender.recommend(1, k=1).items
    assert (item.user_id, item.item_id) == (1, 9)
    assert recommender.recommend("1", k=1).items[0].user_id == "1"
    assert recommender.recommend(np.int64(1), k=1).items[0].item_id == 9
    assert len(recommender.recommend([np.int64(1), np.int32(2)], k=1)) == 2


class _Failing:
    """A ranker that fails for one item in a history, as a model that runs out of memory does."""

    source = "failing"

    def __init__(self, ranker: Ranker, poison: int) -> None:
        self._ranker, self._poison = ranker, poison

    def can_rank(self, request: Any) -> bool:
        return True

    def rank(self, requests: Any, k: int, *, deadline: Any) -> Any:
        from genrec.errors import EngineError

        if any(self._poison in request.history for request in requests):
            raise EngineError("out of memory")
        return self._ranker.rank(requests, k, deadline=deadline)

    def score(self, requests: Any, items: Any, *, deadline: Any) -> Any:
        return self._ranker.score(requests, items, deadline=deadline)


def test_a_model_failure_affects_only_its_request(shop: Any) -> None:
    """A batch of 256 must not lose its LLM rankings because of one prompt."""
    catalog, interactions = shop
    popularity = PopularityRanker(interactions.item_counts(catalog))
    recommender = Recommender(catalog, [_Failing(popularity, 5), popularity])
    fine, bad = recommender.recommend([History((catalog.item_ids[1],)), History((catalog.item_ids[5],))], k=3)
    assert {item.source for item in fine.items} == {"failing"}
    assert {item.source for item in bad.items} == {"popularity"}
    assert any("out of memory" in str(notice) for notice in bad.notices)


def test_a_failed_model_falls_back_to_the_next_stage(shop: Any) -> None:
    """The third guarantee: there is always an answer, and every item names its stage."""
    tokenizer = ByteTokenizer()
    recommender = build(*shop, TableBackend(tokenizer.vocab_size, fails=True), tokenizer)
    answer = recommender.recommend("12748", k=10)
    assert len(answer.items) == 10
    assert {item.source for item in answer.items} == {"cooccurrence"}
    assert any("created with fails=True" in str(notice) for notice in answer.notices)


def test_underfilled_list_is_reported(shop: Any) -> None:
    """A chain whose last stage cannot rank the request must not look like a filter that no item passes."""
    catalog, interactions = shop
    counting = CooccurrenceRanker(*interactions.to_indices(catalog), len(catalog))
    answer = Recommender(catalog, [counting]).recommend(History(), k=3)
    assert not answer.items
    assert Notice("items_missing", {"count": 3}) in answer.notices


class _SlowBackend(TableBackend):
    """Every forward pass takes 50 ms."""

    def open(self, prompts: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return super().open(prompts, **options)


def test_passed_deadline_falls_back_to_the_next_stage(shop: Any) -> None:
    """A slow model must cost the caller the LLM's ranking, not the answer."""
    tokenizer = ByteTokenizer()
    recommender = build(*shop, _SlowBackend(tokenizer.vocab_size), tokenizer)
    answer = recommender.recommend("12748", k=10, deadline=0.01)
    assert len(answer.items) == 10
    assert {item.source for item in answer.items} == {"cooccurrence"}
    assert any(notice.fields.get("error") == "deadline_exceeded" for notice in answer.notices)


def test_new_user_gets_popular_items_and_a_reason(recommender: Recommender) -> None:
    """Without history and query there is still an honest answer."""
    answer = recommender.recommend(History(), k=4, explain=True)
    assert {item.source for item in answer.items} == {"popularity"}
    assert answer.proven
    assert all(item.reason and not item.drivers for item in answer.items)


def test_the_llm_is_skipped_for_histories_below_min_history(shop: Any, recommender: Recommender) -> None:
    """With a short history the LLM guesses, so the chain must skip it, unless there is a query."""
    generative = recommender.stages[0]
    assert isinstance(generative, GenerativeRanker)
    careful = Recommender(shop[0], [generative.with_settings(min_history=3), *recommender.stages[1:]])
    short, long, words = careful.recommend(
        [History(("85123A", "22423")), History(("85123A", "22423", "85099B")), History(words="a lamp")], k=3
    )
    assert [{item.source for item in one.items} for one in (short, long)] == [{"cooccurrence"}, {"generative"}]
    assert words.items


def test_an_incomplete_list_is_filled_by_the_next_stage(shop: Any, recommender: Recommender) -> None:
    """Co-occurrence knows few neighbours of a rare item; the list is still full, and items name their stages."""
    catalog, interactions = shop
    rare = catalog.item_ids[int(np.argmin(interactions.item_counts(catalog)))]
    answer = Recommender(catalog, recommender.stages[1:]).recommend(History((rare,)), k=3659 - 1)
    assert len(answer.items) == 3658
    assert [*dict.fromkeys(item.source for item in answer.items)] == ["cooccurrence", "popularity"]


def test_boosts_apply_in_every_stage(recommender: Recommender) -> None:
    """If only some rankers applied a boost, promotions would depend on chance."""
    for history in (History(), History(("85123A",))):
        plain = recommender.recommend(history, k=50)
        target = plain.items[-1].item_id
        first = recommender.recommend(history, k=5, boost={target: 1000.0}).items[0]
        assert first.item_id == target


def test_drivers_are_history_items_without_which_the_score_falls(recommender: Recommender) -> None:
    """A reason that is not measured is an invention."""
    answer = recommender.recommend("12748", k=3, explain=True)
    had = set(recommender.interactions.history_of("12748").item_ids)  # type: ignore[union-attr]
    for item in answer.items:
        assert item.reason
        assert all(driver.drop > 0 and driver.item_id in had for driver in item.drivers)
        assert [driver.drop for driver in item.drivers] == sorted((d.drop for d in item.drivers), reverse=True)


class _RecordingRanker:
    """Ranks the first items of the catalog, and records the requests."""

    source = "recording"

    def __init__(self) -> None:
        self.requests: list[RankRequest] = []

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Any) -> list[Ranking]:
        self.requests += requests
        front = np.arange(50)
        found = [front[request.allowed.contains(front)][: k // 2 + 1] for request in requests]
        return [Ranking(own, -own.astype(np.float64), proven=False, num_scored=len(own)) for own in found]

    def score(self, requests: Any, items: Any, *, deadline: Any) -> Any:
        raise NotImplementedError


def test_memory_per_request_does_not_grow_with_the_catalog() -> None:
    """At a million items and a thousand requests per second, one array of N values per request is too much."""
    size = 200_000
    table = pa.table({"item_id": np.arange(size), "title": [f"t{place}" for place in range(size)]})
    catalog = read_catalog(table)
    recommender = Recommender(catalog, [_RecordingRanker(), _RecordingRanker()])
    options: dict[str, Any] = {"exclude": [3, 4], "boost": {5: 1.0}, "where": "item_id != 0"}
    for own in ({}, options):
        recommender.recommend(History((1, 2)), k=10, **own)
        tracemalloc.start()
        try:
            answer = recommender.recommend(History((1, 2)), k=10, **own)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(answer.items) == 10
        assert peak < size // 2
    assert [item.item_id for item in answer.items] == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


def test_filters_are_exact_and_compiled_once(shop: Any, monkeypatch: Any) -> None:
    """Compiling a filter per request takes time in the catalog's length; a wrongly cached one gives wrong lists."""
    catalog, _ = shop
    compiled: list[Any] = []
    where = type(catalog).where

    def counted(self: Any, expression: Any, **options: Any) -> Any:
        compiled.append(expression)
        return where(self, expression, **options)

    monkeypatch.setattr(type(catalog), "where", counted)
    ranker = _RecordingRanker()
    recommender = Recommender(catalog, [ranker, PopularityRanker(np.zeros(len(catalog), dtype=np.int64))])
    ids, seen = catalog.item_ids, History((catalog.item_ids[2],))
    for expression in ("price < 5", "price > 20", "price < 5"):
        truth = where(catalog, expression)
        recommender.recommend(seen, where=expression, exclude=[ids[0]], boost={ids[9]: 2.0, ids[4]: 1.0})
        truth[[0, 2]] = False
        request = ranker.requests[-1]
        assert request.allowed.to_bool().tolist() == truth.tolist()
        assert request.boost is not None
        assert request.boost.values_at([4, 9, 5]).tolist() == [1.0, 2.0, 0.0]
        some = [1, 7, *np.flatnonzero(truth)[-5:].tolist()]
        recommender.recommend(seen, where=expression, only=[ids[place] for place in some], filter_seen=False)
        kept = [place for place in sorted(some) if where(catalog, expression)[place]]
        assert ranker.requests[-1].allowed.to_indices().tolist() == kept
    assert compiled == ["price < 5", "price > 20"]
    for number in range(16):
        recommender.recommend(seen, where=f"price < {number}")
    assert len(compiled) == 2 + 15  # "price < 5" was kept
    recommender.recommend(seen, where="price > 20")
    assert compiled[-1] == "price > 20"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, InputError, "k is 0"),
        ({"k": -3}, InputError, "k is -3"),
        ({"k": 2.5}, InputError, "k is 2.5"),
        ({"k": True}, InputError, "k is True"),
        ({"where": "price <"}, FilterError, "price <"),
        ({"where": "colour == 'red'"}, FilterError, "colour"),
        ({"only": ["nope"]}, UnknownItemError, "nope"),
        ({"only": "85123A"}, InputError, "list of item ids"),
        ({"exclude": ["nope"]}, UnknownItemError, "nope"),
        ({"boost": {"85123A": float("nan")}}, InputError, "85123A"),
        ({"boost": {"nope": 1.0}}, UnknownItemError, "nope"),
        ({"boost": {85048: 1.0, "85048": 2.0}}, InputError, "boost holds 85048 and '85048', which are the same item"),
        ({"boost": {"85123A": "much"}}, InputError, "the boost of item '85123A' is 'much'"),
        ({"deadline": 0}, InputError, "deadline is 0"),
        ({"deadline": "soon"}, InputError, "deadline is 'soon'"),
        ({"users": History("85123A")}, InputError, "tuple of item ids"),  # type: ignore[arg-type]
        ({"users": History(words=None)}, InputError, "words as text"),  # type: ignore[arg-type]
        ({"on_unknown": "guess"}, InputError, "guess"),
        ({"users": "99999"}, UnknownUserError, "99999"),
        ({"users": History(("nope",))}, UnknownItemError, "nope"),
        ({"users": 3.5}, InputError, "float"),
        ({"users": [None]}, InputError, "None"),
        ({"users": pd.DataFrame({"customer": [1]})}, InputError, "user_id"),
    ],
)
def test_invalid_arguments_are_rejected(
    recommender: Recommender, options: dict[str, Any], error: type[GenrecError], words: str
) -> None:
    """An argument that is silently ignored is a filter that is not applied."""
    users = options.pop("users", "12748")
    with pytest.raises(error, match=words):
        recommender.recommend(users, **options)


def test_unknown_users_and_items_can_be_skipped_or_fall_back(recommender: Recommender) -> None:
    """Each of the three options does what its name says, and a notice reports it."""
    skipped, known = recommender.recommend(["99999", "12748"], k=3, on_unknown="skip")
    assert not skipped.items
    assert "99999" in str(skipped.notices[0])
    assert len(known.items) == 3
    fallback = recommender.recommend("99999", k=3, on_unknown="fallback")
    assert {item.source for item in fallback.items} == {"popularity"}
    assert fallback.items[0].user_id == "99999"
    partly = recommender.recommend(History(("nope", "85123A")), k=3, on_unknown="skip")
    assert len(partly.items) == 3
    assert partly.notices[0] == Notice("unknown_history_items", {"count": 1, "total": 2})


def test_no_allowed_items_gives_an_empty_list_and_a_notice(recommender: Recommender) -> None:
    """Failing open here would recommend forbidden items."""
    answer = recommender.recommend("12748", k=3, where="price < 0")
    assert not answer.items
    assert (answer.notices[0].code, answer.notices[0].fields["allowed"]) == ("few_allowed", 0)


def test_results_before_the_deadline_are_kept(shop: Any) -> None:
    """Finished work must not be discarded because the rest was late."""
    catalog, interactions = shop
    popularity = PopularityRanker(interactions.item_counts(catalog))
    now = [0.0]

    class Ticking(PopularityRanker):
        source = "ticking"

        def rank(self, requests: Any, k: int, *, deadline: Any) -> Any:
            deadline.check()
            now[0] += 1.0
            return super().rank(requests, k, deadline=deadline)

    ticking = Ticking(interactions.item_counts(catalog))
    recommender = Recommender(catalog, [ticking, popularity], clock=lambda: now[0])
    answers = recommender.recommend([History()] * 100, k=2, deadline=3.0)
    served = [answer.items[0].source for answer in answers]
    assert served.count("ticking") in (32, 64)
    assert served == sorted(served, reverse=True)
