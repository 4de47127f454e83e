"""Reasons are measured on the history that the ranker used, by leaving out one item at a time."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from genrec.data.catalog import Catalog
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.prompting.renderer import newest_distinct
from genrec.prompting.template import Template
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.explain import WindowedRanker, find_drivers
from genrec.rankers.fallback import PendingRequest
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import FloatArray, IntArray, Item

N = 30
EVERYTHING = Subset.everything(N)
CATALOG = Catalog.from_items([Item(f"i{place}", f"t{place}") for place in range(N)], name="numbers")
HEADER = '{{#\nname = "{0}"\nversion = 1\ninputs = {1}\noutput = "{2}"\n#}}\n'
WARM = HEADER.format("warm", '["history"]', "item") + (
    "{% block user %}{% for item in history %}{{ item.title }},{% endfor %}?{% endblock %}"
)
COLD = HEADER.format("cold", '["words"]', "item") + "{% block user %}{{ words }}?{% endblock %}"
REASON = HEADER.format("reason", '["drivers", "words"]', "text") + (
    "{% block user %}{% for one in drivers %}{{ one.title }} {% endfor %}{% endblock %}"
)
HISTORIES = [np.arange(size) for size in range(1, N)] + [np.arange(40) % 7, np.array([5, 1, 2, 5, 3, 3, 5])]


class RecordingRanker(GenerativeRanker):
    """Records the requests that it scores."""

    def score(
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        self.requests = list(requests)
        return super().score(requests, items, deadline=deadline)


def recording_ranker(**options: Any) -> RecordingRanker:
    tokenizer = ByteTokenizer()
    return RecordingRanker(
        CatalogIndex.build(CATALOG, TitleIdentifiers(), tokenizer),
        TableBackend(tokenizer.vocab_size, seed=9),
        tokenizer,
        template=Template.from_source(WARM),
        cold_template=Template.from_source(COLD),
        settings=GenerativeSettings(strategy="exhaustive", prior=0.0, **options),
    )


class FullHistoryRanker(DenseRanker):
    """Scores all items by the whole history, older items more, and records the requests."""

    source = "whole"

    def __init__(self) -> None:
        self.requests: list[RankRequest] = []

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        self.requests = list(requests)
        return np.array([np.full(N, (N - request.history).sum(), dtype=np.float64) for request in requests])


@pytest.mark.parametrize(("max_history", "history_step"), [(12, 4), (3, 1), (3, 2), (3, 4), (20, 4), (20, 7), (1, 1)])
def test_reasons_are_measured_on_the_ranked_prompt(max_history: int, history_step: int) -> None:
    """A reason from another prompt than the ranked one is an invention."""
    ranker = recording_ranker(max_history=max_history, history_step=history_step)
    assert isinstance(ranker, WindowedRanker)
    for met in HISTORIES[::3]:
        request = RankRequest(met, "", EVERYTHING)
        find_drivers(ranker, request, np.array([0]), CATALOG)
        first, *others = [ranker.render(one).prompt[0].text.removesuffix("?") for one in ranker.requests]
        assert first == ranker.render(request).prompt[0].text.removesuffix("?")
        shown = first.split(",")[:-1]
        assert 0 < len(shown) <= max_history
        expected = sorted("".join(f"{title}," for title in shown if title != left_out) for left_out in shown)
        assert sorted(others) == expected


def test_rankers_without_a_window_are_measured_on_the_whole_history() -> None:
    """A history cut for prompts would explain a list that this ranker never made."""
    ranker = FullHistoryRanker()
    assert not isinstance(ranker, WindowedRanker)
    for met in HISTORIES:
        request = RankRequest(met, "", EVERYTHING)
        (drivers,) = find_drivers(ranker, request, np.array([4]), CATALOG)
        np.testing.assert_array_equal(ranker.requests[0].history, met)
        tried = newest_distinct(met, 12)
        for item, one in itertools.zip_longest(tried, ranker.requests[1:]):
            np.testing.assert_array_equal(one.history, met[met != item])
        drops = {f"i{item}": float((met == item).sum() * (N - item)) for item in tried}
        assert {one.item_id: one.drop for one in drivers} == drops
        assert [one.drop for one in drivers] == sorted(drops.values(), reverse=True)


def test_each_item_is_explained_by_its_own_ranker() -> None:
    """A list that two rankers filled has two kinds of reasons."""
    windowed, full, met = recording_ranker(max_history=3, history_step=2), FullHistoryRanker(), np.arange(20)
    task = PendingRequest("u", RankRequest(met, "", EVERYTHING), 4, [])
    for ranker in (windowed, full):
        (ranking,) = ranker.rank([task.remaining_request], 2, deadline=Deadline.never())
        task.add_ranking(ranker, ranking)
    task.explain(CATALOG, Template.from_source(REASON), Deadline.never())
    answer = task.to_recommendation_list(CATALOG, (), 0.0)
    assert not task.notices
    assert [item.source for item in answer.items] == ["generative"] * 2 + ["whole"] * 2
    shown = {f"i{item}" for item in windowed.visible_history(met)}
    assert all({one.item_id for one in item.drivers} <= shown for item in answer.items[:2])
    assert all({one.item_id for one in item.drivers} == {f"i{i}" for i in range(8, 20)} for item in answer.items[2:])


def test_nothing_is_scored_without_history_or_items() -> None:
    """An unnecessary scoring takes time from other requests."""
    ranker = recording_ranker()
    new_user = RankRequest(np.empty(0, dtype=np.int64), "lamp", EVERYTHING)
    assert find_drivers(ranker, new_user, np.array([1, 2]), CATALOG) == [(), ()]
    assert find_drivers(ranker, RankRequest(np.arange(3), "", EVERYTHING), np.empty(0, dtype=int), CATALOG) == []
    assert not hasattr(ranker, "requests")
