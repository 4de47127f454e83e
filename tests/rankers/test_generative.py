"""The LLM ranker: prompts, candidates, deadlines, main signals."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from brute import path_score
from contracts import KnownAnswer, RankerContract
from ranker_support import (
    CATALOG,
    COLD,
    EVERYTHING,
    TITLES,
    WARM,
    N,
    cooccurrence,
    generative,
    history,
    only,
    popularity,
)

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError, TokenizerMismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.notices import Notice
from genrec.prompting.template import Template
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import FloatArray


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "exhaustive", "prior": 0.0},
        {"strategy": "exhaustive", "score": "catalog"},
        {"strategy": "beam", "width": 50},
        {"strategy": "beam", "width": 5},
        {"strategy": "beam", "width": 1, "exact": True, "score": "catalog", "batch_size": 2},
        {"strategy": "beam", "width": 5, "fusion_weight": 0.7, "prior": 0.5},
        {"strategy": "candidates", "score": "catalog"},
        {"strategy": "candidates", "candidates": 5, "fusion_weight": 2.0},
        {"strategy": "candidates", "candidates": 5, "batch_size": 1},
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
class TestGenerativeRanker(RankerContract):
    subject = "GenerativeRanker"

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def ranker(self, options: dict[str, Any]) -> GenerativeRanker:
        return generative(**options)

    @pytest.fixture
    def planted(self, ranker: GenerativeRanker, options: dict[str, Any]) -> KnownAnswer:
        """Few items are allowed, so that each strategy compares all of them; the best is computed here."""
        allowed = [2, 6, 9, 13, 17]
        request = RankRequest(history(3, 8), "b", only(*allowed))
        settings, paths = ranker.settings, [(*title.encode(), ByteTokenizer.eos_token_id) for title in TITLES]
        backend = TableBackend(ByteTokenizer.vocab_size, seed=9)
        blank = ranker.render(replace(request, words="", history=history(3)))
        blank_ids = np.concatenate([blank.token_ids[:1], ByteTokenizer().encode_text("?"), blank.token_ids[-1:]])
        scores = np.array(
            [
                path_score(
                    backend, ranker.render(request).token_ids, paths[item], [paths[i] for i in allowed], settings.score
                )
                - settings.prior * path_score(backend, blank_ids, paths[item], paths, settings.score)
                for item in allowed
            ]
        )
        popular = popularity().score([request], [np.array(allowed)], deadline=Deadline.never())[0]
        scores += settings.fusion_weight * (popular - popular.mean()) / popular.std()
        return KnownAnswer(request, allowed[int(np.argmax(scores))])


class TickingClock:
    """A clock that advances by one second at each reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("strategy", ["beam", "exhaustive", "candidates"])
def test_request_after_a_missed_deadline_gets_the_same_answer(strategy: str) -> None:
    """A stopped request must not change the next one, as a half-filled prior that counts as complete would."""
    ranker, expected = (generative(strategy=strategy) for _ in range(2))
    request = RankRequest(history(3), "", EVERYTHING)
    stopped = 0
    for moment in itertools.count(1):
        try:
            ranker.rank([request], 5, deadline=Deadline(moment, TickingClock()))
            break
        except DeadlineExceededError:
            stopped += 1
    assert stopped >= 2
    (after,) = ranker.rank([request], 5, deadline=Deadline.never())
    (fresh,) = expected.rank([request], 5, deadline=Deadline.never())
    assert after.item_indices.tolist() == fresh.item_indices.tolist()
    assert after.scores.tolist() == fresh.scores.tolist()


def test_long_history_is_cut_with_a_notice() -> None:
    """The newest items matter most; the caller must learn that others were dropped."""
    backend = TableBackend(ByteTokenizer.vocab_size, context_length=24)
    ranker = generative(backend=backend, strategy="exhaustive", max_history=12)
    request = RankRequest(np.arange(N), "", EVERYTHING)
    rendered = ranker.render(request)
    newest = ",".join(TITLES[-4:])
    assert rendered.prompt[0].text.endswith(f"{newest},?")
    assert rendered.notices == (Notice("history_truncated", {"shown": 4, "total": 12, "max_tokens": 20}),)
    (ranking,) = ranker.rank([request], 3, deadline=Deadline.never())
    assert ranking.notices == rendered.notices
    with pytest.raises(EngineError, match="does not fit 20 tokens even without a history"):
        ranker.rank([replace(request, words="x" * 30)], 3, deadline=Deadline.never())


def test_repeated_history_item_is_rendered_once() -> None:
    """Repeated purchases must not push other items out of the prompt."""
    met = RankRequest(history(5, 1, 2, 5, 3, 3, 5), "", EVERYTHING)
    for step, shown in [(1, [2, 5, 3]), (2, [5, 3]), (4, [3, 5])]:
        ranker = generative(strategy="exhaustive", max_history=3, history_step=step)
        assert ranker.render(met).prompt[0].text == ",".join(TITLES[item] for item in shown) + ",?"


def test_uninformed_retriever_does_not_stop_the_model() -> None:
    """Fusion is optional: a query of a new user is ranked without it."""
    ranker = generative(strategy="exhaustive", fusion_weight=1.0).with_settings(retriever=cooccurrence())
    without_fusion = generative(strategy="exhaustive")
    for request in (RankRequest(history(), "a lamp", EVERYTHING), RankRequest(history(), "b", only(1, 2))):
        (with_fusion,) = ranker.rank([request], 5, deadline=Deadline.never())
        (without,) = without_fusion.rank([request], 5, deadline=Deadline.never())
        assert with_fusion.item_indices.tolist() == without.item_indices.tolist()
        assert with_fusion.main_signals == ()


@pytest.mark.parametrize(
    ("strategy", "fusion_weight", "expected"),
    [
        ("candidates", 0.0, set()),
        ("candidates", 1e-9, {"language model", "popularity"}),
        ("candidates", 1e9, {"language model", "popularity"}),
        ("exhaustive", 1e9, set()),
        ("beam", 1e9, set()),
    ],
)
def test_main_signal_is_the_model_or_the_retriever(strategy: str, fusion_weight: float, expected: set[str]) -> None:
    """It shows which side decides when `fusion_weight` is tuned; a wrong signal would mislead the tuning."""
    ranker = generative(strategy=strategy, fusion_weight=fusion_weight)
    request = RankRequest(history(3), "", EVERYTHING)
    (whole,) = ranker.rank([request], N, deadline=Deadline.never())
    assert set(whole.main_signals) <= expected
    for k in (1, 4):
        (ranking,) = ranker.rank([request], k, deadline=Deadline.never())
        assert len(ranking.item_indices) == len(ranking.scores) == k
        assert ranking.main_signals == whole.main_signals[:k], "the main signal of an item must not depend on k"
    if expected:
        popular = popularity().scores([request])[0]
        above = popular[whole.item_indices] > popular.mean()
        by_retriever = np.array(whole.main_signals) == "popularity"
        assert by_retriever.tolist() == above.tolist() if fusion_weight > 1 else not by_retriever.all()


def test_no_candidates_is_not_reported_as_nothing_allowed() -> None:
    """The next stage of the fallback chain fills the list, and the notice would contradict it."""
    request = RankRequest(history(3), "b", Subset.everything(N))
    ranker = generative(strategy="candidates", prior=0.0).with_settings(retriever=UninformedRanker())
    (ranking,) = ranker.rank([request], 3, deadline=Deadline.never())
    assert (len(ranking.item_indices), ranking.notices) == (0, ())
    impossible = replace(request, allowed=Subset.from_indices(N, []))
    assert ranker.rank([impossible], 3, deadline=Deadline.never())[0].notices == (Notice("nothing_allowed"),)


class UninformedRanker(DenseRanker):
    """Knows no item."""

    source = "silent"

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        return np.full((len(requests), N), -np.inf)


def test_incompatible_arguments_are_rejected() -> None:
    """With each of these the ranker would return meaningless lists."""
    index = CatalogIndex.build(CATALOG, TitleIdentifiers(), ByteTokenizer())
    arguments: dict[str, Any] = {
        "index": index,
        "backend": TableBackend(260),
        "tokenizer": ByteTokenizer(),
        "template": Template.from_source(WARM),
        "cold_template": Template.from_source(COLD),
    }
    text = Template.from_source(COLD.replace('"item"', '"text"'))
    unknown_input = Template.from_source(COLD.replace("words", "mood"))
    with_candidates = Template.from_source(COLD.replace("words", "candidates"))
    for change, error, message in [
        ({"index": replace(index, tokenizer_fingerprint="other")}, TokenizerMismatchError, "the index was built for"),
        ({"backend": TableBackend(259)}, TokenizerMismatchError, "tokenizer has 260 tokens, the model .* only 259"),
        ({}, InputError, "need a retriever"),
        ({"template": text}, InputError, "template 'cold' has output = text"),
        (
            {"cold_template": unknown_input, "retriever": popularity()},
            InputError,
            "'cold' has the input 'mood'; a ranker provides only history",
        ),
        (
            {"template": with_candidates, "settings": GenerativeSettings(strategy="beam")},
            InputError,
            "lists candidates, which beam search does not have",
        ),
    ]:
        with pytest.raises(error, match=message):
            GenerativeRanker(**{**arguments, **change})


class RoomyTokenizer(ByteTokenizer):
    """Has two control tokens more, for pictures; no prompt needs them."""

    vocab_size = 262
    control_token_ids = (*ByteTokenizer.control_token_ids, 260, 261)


def test_control_tokens_that_no_prompt_needs_may_lack_in_the_model() -> None:
    """Gemma 3 1B shares the tokenizer of its multimodal siblings, and has no embedding for pictures."""
    index = CatalogIndex.build(CATALOG, TitleIdentifiers(), RoomyTokenizer())
    templates = {"template": Template.from_source(WARM), "cold_template": Template.from_source(COLD)}
    for size in (260, 261, 262, 300):
        GenerativeRanker(index, TableBackend(size), RoomyTokenizer(), **templates, retriever=popularity())
    for size in (259, 257, 200):
        with pytest.raises(TokenizerMismatchError, match=f"tokenizer has 262 tokens, the model .* only {size}"):
            GenerativeRanker(index, TableBackend(size), RoomyTokenizer(), **templates, retriever=popularity())


def test_prompt_can_list_the_candidates() -> None:
    """A model that sees all candidates ranks them in one list, with the prior of that prompt."""
    showing = WARM.replace('"words"]', '"words", "candidates"]').replace(
        "{{ words }}", "{% for one in candidates %}{{ one.title }};{% endfor %}"
    )
    ranker = generative(strategy="candidates", candidates=4)
    index = CatalogIndex.build(CATALOG, TitleIdentifiers(), ByteTokenizer())
    ranker = GenerativeRanker(
        index, TableBackend(260), ByteTokenizer(),
        template=Template.from_source(showing), cold_template=Template.from_source(COLD),
        retriever=popularity(), settings=ranker.settings,
    )  # fmt: skip
    request = RankRequest(history(3), "", EVERYTHING)
    (proposed,) = popularity().rank([request], 4, deadline=Deadline.never())
    (ranking,) = ranker.rank([request], 4, deadline=Deadline.never())
    assert sorted(ranking.item_indices.tolist()) == sorted(proposed.item_indices.tolist())
    shown = ranker.render(request, np.sort(proposed.item_indices)).prompt[0].text
    assert shown.endswith("".join(f"{TITLES[item]};" for item in sorted(proposed.item_indices)) + "?")
