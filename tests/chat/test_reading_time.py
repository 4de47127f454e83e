"""Reading a conversation takes bounded time for each message, and ends at its deadline."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec import Catalog, Item, PopularityRanker, Recommendation, RecommendationList, Recommender
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation, Turn
from genrec.chat.item_links import format_item_link
from genrec.chat.parsers import item_references, lexical
from genrec.chat.parsers.clauses import MAX_CLAUSES
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.parsers.model import ModelParser
from genrec.chat.parsers.title_lookup import TitleLookup, normalize_words
from genrec.chat.preferences import Preferences
from genrec.deadline import Deadline
from genrec.decoding.grammar import GrammarCompiler
from genrec.errors import DeadlineExceededError
from genrec.notices import Notice
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import TableBackend

TITLES = ("Red Mug", "The Red Lamp", "Scented Candle", "Candle Holder", "Tea Pot", "Blue Mug")
CATALOG = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(TITLES))
WORDS = ("the", "that", "red", "mug", "lamp", "candle", "holder", "one", "tea", "x")
BACKTRACKING = """
from genrec import Catalog, Item
from genrec.chat import Conversation, LexicalParser
parse = LexicalParser(Catalog.from_items([Item("i1", "Red Mug")]))
for words in ("no mugs" + " nor" * 200 + " x, candles", "no mugs" + " or nor" * 120 + " x, candles"):
    parse(words, Conversation())
"""


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(CATALOG, [PopularityRanker(np.arange(len(TITLES), 0, -1))])


def shown_items(titles: Sequence[str]) -> tuple[Recommendation, ...]:
    return tuple(Recommendation(None, f"i{place}", place + 1, 0.0, "", title) for place, title in enumerate(titles))


class CountingParser:
    """Reads each message as one search phrase, counts its calls, and takes a second of its clock for each."""

    def __init__(self) -> None:
        self.now, self.messages = 0.0, list[str]()

    def __call__(self, message: str, conversation: Conversation, deadline: Deadline) -> Preferences:
        self.messages.append(message)
        self.now += 1.0
        return replace(conversation.preferences, words=(message,))


def test_no_message_makes_the_patterns_backtrack_exponentially() -> None:
    """One message would occupy the server for years, and hold the interpreter's lock all the while."""
    subprocess.run([sys.executable, "-c", BACKTRACKING], check=True, timeout=300)


@pytest.mark.parametrize("words", ["not abc ", "except for a a ", "without glass ", "not of abc of "])
def test_rules_read_a_message_a_bounded_number_of_times(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exclusion of a message reads the rest of it again, so the time would grow with its square."""
    calls: list[str] = []
    find_exclusion = lexical.find_exclusion

    def counted(clause: str) -> Any:
        calls.append(clause)
        return find_exclusion(clause)

    monkeypatch.setattr(lexical, "find_exclusion", counted)
    message = (words * 1000)[:1000]
    preferences = LexicalParser(CATALOG)(message, Conversation())
    assert len(calls) <= 8 * MAX_CLAUSES
    assert preferences.filters  # what was read holds
    assert preferences.words  # the rest is shown as a search phrase


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.lists(st.sampled_from(TITLES), max_size=4))
def test_title_references_equal_those_of_a_search_of_all_spans(words: list[str], titles: list[str]) -> None:
    """The fast search must find what its definition says, or "the mug" would exclude another item."""
    vocabularies = [normalize_words(title).split() for title in titles]

    def is_unique(word: str) -> bool:
        return sum(word in title for title in vocabularies) == 1

    expected = set()
    for start in (place for place, word in enumerate(words) if word in ("the", "that", "this")):
        for position, title in enumerate(vocabularies):
            spans = [
                end
                for end in range(start + 2, min(len(words), start + 1 + len(title)) + 1)
                if set(words[start + 1 : end]) <= set(title)
            ]
            for end in reversed(spans):
                if is_unique(words[end - 1]) and end == start + 2 and words[end : end + 1] in (["one"], ["ones"]):
                    expected.add((start, end + 1, position))
                    break
                if is_unique(words[end - 1]) and words[end - 1] == title[-1]:
                    expected.add((start, end, position))
                    break
    assert set(item_references._title_reference_spans(words, shown_items(titles))) == expected


@given(st.lists(st.sampled_from([*WORDS, "pot", "scented"]), max_size=12))
def test_titles_in_a_sentence_equal_those_of_a_search_of_all_spans(words: list[str]) -> None:
    """A title that is missed is a judgement that is ignored."""
    keys = [normalize_words(title) for title in TITLES]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for size in range(len(words), 0, -1):
        for start in range(len(words) - size + 1):
            name, places = " ".join(words[start : start + size]), set(range(start, start + size))
            if name in keys and not places & taken:
                found[start] = keys.index(name)
                taken |= places
    assert TitleLookup(CATALOG).find_items(" ".join(words)) == [found[start] for start in sorted(found)]


def test_replay_ends_at_its_deadline(recommender: Recommender) -> None:
    """A conversation of a thousand slow messages would occupy a thread for hours; a part of it would lack wishes."""
    parser = CountingParser()
    advisor = Advisor(recommender, parser=parser)
    messages: Any = [("user", f"message {number}") for number in range(1000)]
    with pytest.raises(DeadlineExceededError):
        advisor.replay(Conversation(), messages, deadline=Deadline(5.0, lambda: parser.now))
    assert len(parser.messages) == 6
    advisor.replay(Conversation(), messages[:5], deadline=Deadline(1e6, lambda: parser.now))


def test_equal_messages_are_read_once_in_a_replay(recommender: Recommender) -> None:
    """A message that is sent forty times would cost a language model forty times."""
    parser = CountingParser()
    messages: Any = [("user", "a lamp"), ("assistant", format_item_link("i1", "The Red Lamp"))] * 40
    conversation = Advisor(recommender, parser=parser).replay(Conversation(), messages)
    assert len(conversation.turns) == 40
    assert conversation.preferences.words == ("a lamp",)
    assert len(parser.messages) == 2  # before the first list, and after it
    other: Any = [*messages, ("assistant", format_item_link("i2", "Scented Candle")), ("user", "a lamp")]
    parser.messages.clear()
    Advisor(recommender, parser=parser).replay(Conversation(), other)
    assert len(parser.messages) == 3  # the same words about another list may mean something else


def test_forged_replies_show_a_limited_number_of_items(recommender: Recommender) -> None:
    """Each item of the list is looked for in the next message: ten thousand links would make it slow."""
    items = [Item(f"n{place}", f"Mug {place}") for place in range(500)]
    many = Recommender(Catalog.from_items(items), [PopularityRanker(np.arange(len(items), 0, -1))])
    reply = " ".join(format_item_link(item.item_id, item.title) for item in items)
    conversation = Advisor(many).replay(Conversation(), [("user", "a mug"), ("assistant", reply)])
    assert [item.item_id for item in conversation.shown] == [f"n{place}" for place in range(100)]


@pytest.mark.parametrize("size", [1000, 1001, 30_000])
def test_a_list_says_how_much_of_a_long_message_was_read(recommender: Recommender, size: int) -> None:
    """A wish at the end of a long text would be ignored without a word."""
    message = ("mug " * size)[: size - 1] + "x"
    conversation = Advisor(recommender).respond(Conversation(), message)
    cut = [notice for notice in conversation.turns[-1].recommendations.notices if notice.code == "message_cut"]
    assert cut == ([Notice("message_cut", {"read": 1000, "total": size})] if size > 1000 else [])


@pytest.mark.model
def test_the_model_gets_the_deadline_of_the_turn(tokenizer: HuggingFaceTokenizer) -> None:
    """Reading would go on after the client has left, and the turn would be late."""
    deadlines: list[Deadline | None] = []

    class RecordingBackend(TableBackend):
        def generate(self, requests: Any, *, deadline: Deadline | None = None, on_tokens: Any = None) -> Any:
            deadlines.append(deadline)
            return super().generate(requests, deadline=deadline, on_tokens=on_tokens)

    parser = ModelParser(
        RecordingBackend(tokenizer.vocab_size), tokenizer, GrammarCompiler(tokenizer), LexicalParser(CATALOG)
    )
    deadline = Deadline(100.0, lambda: 0.0)
    turn = Turn("", Preferences(), RecommendationList(shown_items(TITLES), False, 0), "")
    advisor = Advisor(Recommender(CATALOG, [PopularityRanker(np.arange(len(TITLES), 0, -1))]), parser=parser)
    advisor.respond(Conversation(turns=(turn,)), "something nice for tea", deadline=deadline)
    advisor.replay(Conversation(turns=(turn,)), [("user", "something nice for tea")], deadline=deadline)
    assert deadlines == [deadline, deadline]


def test_preferences_of_many_items_equal_those_of_each(recommender: Recommender) -> None:
    """Liking a list at once and liking its items one by one are the same wish."""
    one = Preferences(liked=("a", "b"), disliked=("c", "d"))
    assert one.with_liked("c", "a", "c") == one.with_liked("c").with_liked("a").with_liked("c")
    assert one.with_disliked("a", "e") == one.with_disliked("a").with_disliked("e")
    assert one.with_liked() == replace(one)
