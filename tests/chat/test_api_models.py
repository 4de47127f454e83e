"""Conversations with a model behind an API: it reads clauses, and writes bound and free replies."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_server import MODEL, Reply, asked_text, completion, model_server, rank_by_rule, shown_titles
from ranker_support import CATALOG, popularity

from genrec import Recommendation, Recommender
from genrec.backends.api_settings import ApiSettings
from genrec.backends.openai_api import OpenAiBackend
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation
from genrec.chat.item_links import extract_item_ids
from genrec.chat.loading import advisor_builder
from genrec.chat.reply_stream import NumberedReplyStream
from genrec.decoding.grammar import GrammarCompiler
from genrec.prompting.message_tokenizer import MessageTokenizer
from genrec.rankers.listwise import ListwiseRanker

K = 3


def streamed(text: str) -> Reply:
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    events = [json.dumps({"choices": [{"delta": {"content": piece}, "finish_reason": None}]}) for piece in pieces]
    return Reply(lines=(*(f"data: {event}\n" for event in events), "data: [DONE]"))


@pytest.fixture
def advise() -> Iterator[Callable[..., tuple[Advisor, list[dict[str, Any]]]]]:
    """Make an advisor over a server that ranks by a rule, and answers everything else with a function."""
    opened: list[Callable[[], object]] = []

    def make(answer: Callable[[dict[str, Any]], Reply], **options: Any) -> tuple[Advisor, list[dict[str, Any]]]:
        def respond(body: dict[str, Any], _: int) -> Reply:
            ranks = "Put all these numbers in order" in asked_text(body)
            return rank_by_rule(body) if ranks else answer(body)

        context = model_server(respond)
        server = context.__enter__()
        backend, tokenizer = OpenAiBackend(MODEL, ApiSettings(server.url), api_key=""), MessageTokenizer()
        opened.extend([backend.close, lambda: context.__exit__(None, None, None)])
        ranker = ListwiseRanker(CATALOG, backend, tokenizer, GrammarCompiler(tokenizer), retriever=popularity())
        recommender = Recommender(CATALOG, [ranker, popularity()])
        build = advisor_builder(recommender, ranking_timeout=60.0, **options)
        return build(recommender, K), server.requests

    yield make
    for close in opened:
        close()


def test_clauses_are_read_under_their_schema(advise: Any) -> None:
    """Preferences are parsed by any model: one behind an API writes them as JSON, which is checked."""

    def answer(body: dict[str, Any]) -> Reply:
        if "response_format" in body:
            assert "Customer: " in asked_text(body)
            return completion('{"answer": {"wish": "rules out", "about": "frobs"}}')
        return completion("no")

    advisor, requests = advise(answer, parser="model")
    conversation = advisor.respond(Conversation(), "frobs make me sneeze terribly")
    (own,) = conversation.preferences.filters
    assert "'frobs' not in words(title)" in own.where
    assert any("response_format" in body for body in requests)


def test_bound_replies_follow_the_grammar_or_are_plain(advise: Any) -> None:
    """What a model writes of items is looked up; a model that cannot be held to it writes nothing."""

    def obedient(body: dict[str, Any]) -> Reply:
        grammar = body["messages"][-1]["content"]
        opening = re.search(r'open: "(.*?)"', grammar)
        assert opening is not None
        following = re.findall(r'next\d: "(.*?)"', grammar)
        clauses = [re.search(rf'clause{number}: "(.*?)"', grammar) for number in (1, 2, 3)]
        facts = ["" if clause is None else clause[1] for clause in clauses]
        starts = [opening[1], *(f"{text} [{number}]" for number, text in enumerate(following, start=2))]
        return completion("".join(f"{start}{fact}." for start, fact in zip(starts, facts, strict=True)))

    advisor, _ = advise(obedient)
    turn = advisor.respond(Conversation(), "something with a").turns[-1]
    assert len(set(extract_item_ids(turn.reply))) == K
    assert not turn.is_fallback_reply
    stubborn, requests = advise(lambda _: completion("You will love all of them!"))
    turn = stubborn.respond(Conversation(), "something with a").turns[-1]
    assert len(set(extract_item_ids(turn.reply))) == K
    assert "love" not in turn.reply
    assert len(requests) == 1 + 3


def test_free_replies_name_items_by_number(advise: Any) -> None:
    """A model that is trusted with its words still cannot name what was not recommended."""
    advisor, requests = advise(lambda _: streamed("Try [2] with [9], or again [2] and <b>[x]</b>!"), reply_mode="free")
    seen: list[str] = []
    turn = advisor.respond(Conversation(), "something with a", on_event=lambda event: seen.append(str(event))).turns[-1]
    named = extract_item_ids(turn.reply)
    assert named[0] == turn.recommendations.items[1].item_id
    assert sorted(named) == sorted(item.item_id for item in turn.recommendations.items)
    assert "[9]" not in turn.reply
    titles = [item.title for item in turn.recommendations.items]
    assert all(map(str.startswith, shown_titles(requests[-1]), titles))
    assert "response_format" not in requests[-1]


@given(st.text(alphabet="ab [](1)23\\<*_\n", max_size=40), st.integers(1, 7))
def test_a_numbered_reply_links_exactly_the_recommended_items(text: str, size: int) -> None:
    """However a text is cut into pieces, its reply names every item once, and no other."""
    items = [Recommendation(None, f"i{rank}", rank, -rank, "test", f"Title [{rank}]") for rank in (1, 2, 3)]
    encoded: Sequence[int] = list(text.encode())

    def reply(pieces: Sequence[Sequence[int]]) -> str:
        emitted: list[str] = []
        stream = NumberedReplyStream(items, emitted.append, MessageTokenizer())
        for piece in pieces:
            stream.feed(piece)
        return "".join(emitted) if stream.finish() else ""

    whole = reply([encoded])
    assert reply([encoded[at : at + size] for at in range(0, len(encoded), size)]) == whole
    if whole:
        assert sorted(extract_item_ids(whole)) == ["i1", "i2", "i3"]
