"""What a turn costs and what failed in it is told, however many rankings and replies it took."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from genrec import Catalog, Item, PopularityRanker, Recommender
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation, TurnContext
from genrec.chat.preferences import Preferences
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.notices import Notice
from genrec.rankers.base import RankRequest
from genrec.types import Ranking, RecommendationList

N = 8
CATALOG = Catalog.from_items(Item(f"i{place}", f"Mug {place}") for place in range(N))


class CostlyRanker(PopularityRanker):
    """Popularity at seven tokens a list, with a notice; fails at the calls in `failures`."""

    source = "costly"

    def __init__(self, failures: Sequence[int] = ()) -> None:
        super().__init__(np.arange(N, 0, -1))
        self._failures, self._calls = failures, itertools.count()

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        call = next(self._calls)
        if call in self._failures:
            raise EngineError(f"call {call} failed")
        said = (Notice("history_truncated", {"shown": call, "total": 9, "max_tokens": 5}),)
        return [
            replace(ranking, prompt_tokens=7, notices=said) for ranking in super().rank(requests, k, deadline=deadline)
        ]


def last_list(stage: CostlyRanker, k: int, turns: int) -> RecommendationList:
    """The list of the last of some turns without new preferences; every reading of the clock takes a second."""
    clock = itertools.count()
    recommender = Recommender(CATALOG, [stage, PopularityRanker(np.ones(N))], clock=lambda: float(next(clock)))
    advisor, conversation = Advisor(recommender, k=k), Conversation()
    for _ in range(turns):
        conversation = advisor.update_preferences(conversation, Preferences())
    return conversation.turns[-1].recommendations


def test_a_list_with_repeats_reports_both_of_its_rankings() -> None:
    """Otherwise a failed stage, half of the tokens and half of the time of such a list are never told."""
    single, both = last_list(CostlyRanker(), k=5, turns=1), last_list(CostlyRanker(), k=5, turns=2)
    assert [item.item_id for item in both.items] == ["i5", "i6", "i7", "i0", "i1"]
    assert (both.tokens, both.seconds) == (2 * single.tokens, 2 * single.seconds)
    assert both.compared == N
    assert [notice.fields["shown"] for notice in both.notices] == [1, 2]
    assert not both.failed_stages


@pytest.mark.parametrize("failed", [1, 2])
def test_a_stage_that_failed_in_either_ranking_is_named_once(failed: int) -> None:
    """A caller who looks at the failed stages must see every failure."""
    found = last_list(CostlyRanker(failures=[failed]), k=5, turns=2)
    assert len(found.items) == 5
    assert found.failed_stages == ("costly",)
    assert [notice.code for notice in found.notices].count("stage_skipped") == 1


def test_only_a_list_that_is_too_short_says_that_few_items_are_allowed() -> None:
    """A full list that says "only 3 of the 5 requested items are allowed" is a lie about its filter."""
    codes = [notice.code for notice in last_list(CostlyRanker(), k=5, turns=2).notices]
    assert not {"few_allowed", "nothing_allowed"} & set(codes)
    short = last_list(CostlyRanker(), k=N + 2, turns=2)
    assert [notice for notice in short.notices if notice.code in ("few_allowed", "nothing_allowed")] == [
        Notice("few_allowed", {"allowed": N, "k": N + 2})
    ]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error"), KeyError("text"), EngineError("gone")])
def test_a_reply_generator_that_fails_in_any_way_is_replaced_by_the_list(error: Exception) -> None:
    """The list is ranked already; a third-party model must not take it from the user."""

    def generate(context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        on_text("I would")
        raise error

    recommender = Recommender(CATALOG, [PopularityRanker(np.arange(N))])
    turn = Advisor(recommender, k=2, reply_generator=generate).respond(Conversation(), "mug").turns[-1]
    assert turn.is_fallback_reply
    assert turn.reply.startswith("I would\n\nHow about: ")


def test_an_error_of_the_listener_ends_the_turn() -> None:
    """A server raises it when the client has gone; swallowing it would write the rest of the reply for nobody."""

    def generate(context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        on_text("I would")
        return True

    def listen(event: object) -> None:
        if isinstance(event, str):
            raise RuntimeError("disconnected")

    advisor = Advisor(Recommender(CATALOG, [PopularityRanker(np.arange(N))]), reply_generator=generate)
    with pytest.raises(RuntimeError, match="disconnected"):
        advisor.respond(Conversation(), "mug", on_event=listen)
