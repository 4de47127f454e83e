"""A conversation is a value: preferences carry over from turn to turn, and excluded items stay excluded."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from letter_pipeline import LetterEncoder
from typer.testing import CliRunner

from genrec import Catalog, EmbeddingRanker, Item, PopularityRanker, Recommender
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation
from genrec.chat.item_links import extract_item_ids, format_item_link
from genrec.chat.languages.exclusion_phrases import exclude_word
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.preferences import PreferenceFilter, Preferences
from genrec.cli.app import app
from genrec.errors import InputError

TITLES = ("Red Mug", "Red Mug Large", "Red Lamp", "Scented Candle", "Candle Holder", "Tea Pot", "Blue Mug", "Rug")
PRICES = (2.0, 3.0, 9.0, 1.0, 4.0, 6.0, 2.5, 20.0)


limit = PreferenceFilter.from_condition
FROM_TWO, TO_NINE = limit("price from", "price >= 2.0"), limit("price to", "price <= 9.0")


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    items = [
        Item(f"i{place}", title, {"price": price})
        for place, (title, price) in enumerate(zip(TITLES, PRICES, strict=True))
    ]
    catalog = Catalog.from_items(items)
    return Recommender(catalog, [PopularityRanker(np.arange(len(items), 0, -1))])


@pytest.fixture(scope="module")
def advisor(recommender: Recommender) -> Advisor:
    return Advisor(recommender, k=3)


def talk(advisor: Advisor, *messages: str) -> Conversation:
    conversation = Conversation()
    for message in messages:
        conversation = advisor.respond(conversation, message)
    return conversation


def ids(conversation: Conversation) -> list[object]:
    return [item.item_id for item in conversation.shown]


def test_preferences_carry_over_to_the_next_turn(advisor: Advisor) -> None:
    """A shop that forgets the last message makes its user repeat it."""
    first = talk(advisor, "something for the kitchen")
    assert ids(first) == ["i0", "i1", "i2"]
    assert first.preferences.words == ("something for the kitchen",)
    second = advisor.respond(first, "more like the second, but under 5")
    assert second.preferences.liked == ("i1",)
    assert second.preferences.filters == (limit("price to", "price <= 5.0"),)
    assert ids(second) == ["i3", "i4", "i6"]  # neither what is liked nor what was shown
    assert second.turns[0] == first.turns[0]
    third = advisor.respond(second, "no candles")
    assert third.preferences.labels == (
        ("likes", "i1"),
        ("looks for", "something for the kitchen"),
        ("only", "price <= 5.0"),
        ("only", "'candle' not in words(title) and 'candles' not in words(title)"),
    )
    assert "i3" not in ids(third)
    assert third.undo() == second
    assert Conversation().undo() == Conversation()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I like the first", Preferences(liked=("i0",))),
        ("not number 2", Preferences(disliked=("i1",))),
        ("the 3rd, please", Preferences(liked=("i2",))),
        ("I loved the Tea Pot", Preferences(liked=("i5",))),
        ("I hate Red Mug Large", Preferences(disliked=("i1",))),
        ("cheaper", Preferences(filters=(limit("price to", "price < 3.0"),))),
        ("at least 4,50", Preferences(filters=(limit("price from", "price >= 4.5"),))),
        ("under £3", Preferences(filters=(limit("price to", "price <= 3.0"),))),
        ("not that series", Preferences(filters=(limit("words red mug", "'red mug' not in words(title)"),))),
        ("without glass", Preferences(filters=(exclude_word("glass"),))),
        ("anything but candles", Preferences(filters=(exclude_word("candle"),))),
        ("we already have too many candles", Preferences(filters=(exclude_word("candle"),))),
        (
            "the lamp is lovely, no more than 4",
            Preferences(liked=("i2",), filters=(limit("price to", "price <= 4.0"),)),
        ),
        ("drop the large one", Preferences(disliked=("i1",))),
        ("a shade for the lamp", Preferences(words=("a shade for the lamp",))),
        ("mugs under 3", Preferences(words=("mugs",), filters=(limit("price to", "price <= 3.0"),))),
        ("have you got a clock between 2 and 9", Preferences(words=("a clock",), filters=(FROM_TWO, TO_NINE))),
        ("a teapot without candles", Preferences(words=("a teapot",), filters=(exclude_word("candles"),))),
        ("more like the second under 9", Preferences(liked=("i1",), filters=(TO_NINE,))),
        ("the third is too expensive", Preferences(filters=(limit("price to", "price < 9.0"),))),
        ("any colour but red", Preferences(filters=(exclude_word("red"),))),
        ("no idea, not sure", Preferences(words=("no idea",))),
        ("Ok thanks, great!", Preferences()),
        ("the ninth", Preferences(words=("the ninth",))),
        ("number 9", Preferences(words=("number 9",))),
        ("a gift for my mother", Preferences(words=("a gift for my mother",))),
        (
            "something blue, cheaper",
            Preferences(words=("something blue",), filters=(limit("price to", "price < 3.0"),)),
        ),
    ],
)
def test_critiques_become_preferences(advisor: Advisor, said: str, expected: Preferences) -> None:
    """A misread critique excludes what the user wants."""
    shown = advisor.update_preferences(Conversation(), Preferences())
    assert ids(shown) == ["i0", "i1", "i2"]
    assert LexicalParser(advisor._recommender.catalog)(said, shown) == expected


def test_excluded_items_are_never_recommended_and_new_items_come_before_repeats(advisor: Advisor) -> None:
    """Shown items return only if no others are left, and disliked items never return."""
    conversation = talk(advisor, "anything")
    for _ in range(4):
        conversation = advisor.update_preferences(conversation, conversation.preferences.with_disliked("i0"))
    seen = [item.item_id for turn in conversation.turns for item in turn.recommendations.items]
    assert set(seen) == {f"i{place}" for place in range(8)}
    assert "i0" not in seen[3:]
    assert all(len(turn.recommendations.items) == 3 for turn in conversation.turns)
    nothing = advisor.update_preferences(conversation, Preferences(filters=(limit("price from", "price > 99"),)))
    assert nothing.turns[-1].recommendations.items == ()
    assert "remove one of them" in nothing.turns[-1].reply


def test_preference_is_removed_by_its_label(advisor: Advisor) -> None:
    """A user who was misunderstood must be able to correct it."""
    preferences = (
        Preferences().with_liked("i1").with_disliked("i2").with_words("tea").with_filter(limit("price to", "price < 5"))
    )
    for label in preferences.labels:
        left = preferences.without(label)
        assert left.labels == tuple(own for own in preferences.labels if own != label)
    with pytest.raises(InputError, match="no preference has the label"):
        preferences.without(("likes", "i2"))
    assert preferences.with_liked("i2").disliked == ()
    assert Preferences().with_words("a").with_words("b").with_words("c").with_words("d").words == ("b", "c", "d")
    with pytest.raises(InputError, match="the message is empty"):
        advisor.respond(Conversation(), "  ")


def test_recommended_items_are_explained(advisor: Advisor, recommender: Recommender) -> None:
    """The reason comes from the same recommender and preferences, and repeats no words that it did not read."""
    encoder = LetterEncoder()
    reads_words = Recommender(recommender.catalog, [EmbeddingRanker(encoder.encode(TITLES), encoder=encoder)])
    for reader, reason in (
        (Advisor(reads_words, k=3), "Because you asked for “tea”."),
        (advisor, "Not because of anything that you did or said."),  # popularity, whatever was asked for
    ):
        found = reader.explain(talk(reader, "tea"), "i5")
        assert (found.item_id, found.reason) == ("i5", reason)
    conversation = talk(advisor, "tea")
    with pytest.raises(InputError, match="holds item 'i99', which is not in catalog"):
        advisor.explain(conversation, "i99")


SAID = st.text(max_size=60) | st.sampled_from(
    [
        "under " + "9" * 400,
        "cheaper",
        "dearer",
        "over 2 under 5",
        ", ".join(f"no abcd{place}" for place in range(100)),
        "no ß\u2019s",
    ]
)


@pytest.mark.parametrize("prices", [(None,) * 3, (1.5, None, 3.0), ("£2.10", "£3", None), (True, False, None)])
@given(said=st.lists(SAID.filter(str.strip), max_size=4))
def test_every_message_gets_a_reply(prices: tuple[object, ...], said: list[str]) -> None:
    """Quotes, brackets and any script: text is data, in search phrases, filters and titles."""
    titles = ('It\'s "a" mug (red)', "Cup", "Rug \\ mat")
    items = [Item(name, title, {"price": price}) for name, title, price in zip("abc", titles, prices, strict=True)]
    advisor = Advisor(Recommender(Catalog.from_items(items), [PopularityRanker(np.ones(3))]), k=2)
    conversation = talk(advisor, *said, "not that series", "no it's", "I like the first")
    assert len(conversation.turns) <= len(said) + 3  # "undo" removes one
    assert all(item.item_id in ("a", "b", "c") for turn in conversation.turns for item in turn.recommendations.items)


def test_the_terminal_takes_lines_and_commands(tmp_path: Path) -> None:
    """A conversation that can be piped in can be tested and repeated."""
    rows = [
        {"item_id": f"i{place}", "title": title, "price": price}
        for place, (title, price) in enumerate(zip(TITLES, PRICES, strict=True))
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    saved = tmp_path / "talk.json"
    lines = ["something red", "/like 2", "/filter price < 5", "/why 1", "/forget 1", "/undo", "/wishes", "/like 99"]
    lines += ["/nothing", "/save", "/help", "", "no candles", f"/save {saved}", "/quit", "never read"]
    command = ["chat", "--items", str(tmp_path / "items.jsonl"), "--model", "none", "--encoder", "none", "--k", "2"]
    result = CliRunner().invoke(app, command, input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.stderr
    assert "likes Red Lamp" in result.stdout
    assert "'99' is not a number from 1 to 2" in result.stderr
    assert "Unknown command /nothing" in result.stderr
    assert "/save needs a file" in result.stderr
    kept = json.loads(saved.read_text(encoding="utf-8"))
    assert [turn["said"] for turn in kept["turns"]] == ["something red", "", "", "no candles"]
    assert [own["where"] for own in kept["turns"][-1]["wishes"]["limits"]] == [
        "price < 5",
        exclude_word("candle").where,
    ]
    assert kept["turns"][-1]["wishes"]["liked"] == ["i2"]
    refused = CliRunner().invoke(app, [*command, "--history", "no-such"], input="x\n")
    assert refused.exit_code == 2
    assert "no-such" in refused.stderr


def test_streamed_parts_make_up_the_turn(advisor: Advisor) -> None:
    """A client that shows the stream must end up with the same turn as one that waits for the value."""
    parts: list[object] = []
    conversation = advisor.respond(Conversation(), "something red", on_event=parts.append)
    turn = conversation.turns[-1]
    assert parts[:2] == [turn.preferences, turn.recommendations]
    assert "".join(str(part) for part in parts[2:]) == turn.reply
    assert not turn.is_fallback_reply


def test_a_question_is_answered_about_the_list_as_it_stands(advisor: Advisor) -> None:
    """A user who asks why or compares items does not want another list."""
    first = talk(advisor, "something red")
    why = advisor.respond(first, "why the second?").turns[-1]
    assert why.reply == "[Red Mug Large](#item=i1): Not because of anything that you did or said."
    assert (why.recommendations, why.preferences) == (first.turns[-1].recommendations, first.preferences)
    compared = advisor.respond(first, "compare 1 and 3").turns[-1].reply
    assert "[Red Mug](#item=i0): price 2.0" in compared
    assert "[Red Lamp](#item=i2): price 9.0" in compared
    assert "[Red Mug Large]" not in compared
    assert advisor.respond(first, "how much is number 3?").turns[-1].reply == "[Red Lamp](#item=i2): price 9.0"
    assert "[Red Mug](#item=i0): price 2.0" in advisor.respond(first, "which one is the cheapest?").turns[-1].reply
    assert advisor.respond(first, "start over").turns == ()
    second = advisor.respond(first, "under 5")
    assert advisor.respond(advisor.respond(second, "no candles"), "no price limit").preferences.filters == (
        exclude_word("candles"),
    )
    assert advisor.respond(second, "undo") == first
    assert advisor.respond(first, "go back").turns == ()
    asked = advisor.respond(advisor.respond(second, "why the first?"), "compare 1 and 2")
    assert advisor.respond(asked, "undo") == first  # undo skips questions
    told: list[object] = []
    assert advisor.respond(Conversation(), "undo", on_event=told.append) == Conversation()
    assert told[-1] == "There is nothing to undo. What are you looking for?"
    again = advisor.update_preferences(first, first.preferences.with_liked("i1"))
    assert advisor.explain(again, "i1").item_id == "i1"  # also for an item that the user has by now


def test_replay_restores_a_conversation_from_its_messages(advisor: Advisor) -> None:
    """A chat client sends texts only, and yet each turn must build on the previous ones."""
    said = ["something red", "more like the second, but under 5", "why 1?", "no candles", "undo", "not number 1"]
    live = Conversation(history=("i7",))
    messages: list[tuple[str, str]] = [("system", "Be brief.")]
    for words in said:
        pieces: list[str] = []
        live = advisor.respond(
            live, words, on_event=lambda part, own=pieces: isinstance(part, str) and own.append(part)
        )
        messages += [("user", words), ("assistant", "".join(pieces))]
    again = advisor.replay(Conversation(history=("i7",)), messages)
    assert again.preferences == live.preferences
    assert [item.item_id for item in again.shown] == ids(live)
    forged = advisor.replay(Conversation(), [("user", "hi there"), ("assistant", "[x](#item=nothing) [y](#item=i3)")])
    assert ids(forged) == ["i3"]


def test_the_answer_to_a_question_does_not_replace_the_list(advisor: Advisor) -> None:
    """After "why the third?" the first item is still the first; otherwise the next message excludes the wrong item."""
    first = talk(advisor, "something for the kitchen")
    asked = advisor.respond(first, "why number 3?")
    messages = [
        (role, text) for turn in asked.turns for role, text in (("user", turn.message), ("assistant", turn.reply))
    ]
    again = advisor.replay(Conversation(), messages)  # type: ignore[arg-type]
    assert [item.item_id for item in again.shown] == ids(first)
    assert advisor.respond(again, "not number 1").preferences.disliked == ("i0",)


def test_a_title_is_liked_only_with_a_judgement(advisor: Advisor) -> None:
    """A user who looks for a red lamp has none yet: the item of that name must not vanish into the history."""
    assert talk(advisor, "a red lamp for the kitchen").preferences == Preferences(words=("a red lamp for the kitchen",))
    assert talk(advisor, "I love my red lamp").preferences.liked == ("i2",)


@given(st.text(), st.text(min_size=1), st.text())
def test_item_link_identifies_its_item_by_id(before: str, item_id: str, title: str) -> None:
    """A title that could close the link could name another item instead."""
    assert extract_item_ids(format_item_link(item_id, title)) == (item_id,)
    assert item_id in extract_item_ids(f"{before}\n{format_item_link(item_id, title)}")[-1:]


@pytest.mark.parametrize("said", ["do you have red mug?", "Have you got Red Mug", "would you have a red mug large?"])
def test_requested_items_do_not_join_the_history(advisor: Advisor, said: str) -> None:
    """Items in the history are not recommended, so the requested item would be the one that is missing."""
    conversation = talk(advisor, said)
    assert conversation.preferences.liked == ()
    assert "red mug" in conversation.preferences.words[0].casefold()


def test_bare_no_is_not_a_preference(advisor: Advisor) -> None:
    """Otherwise excluded words would become a search phrase."""
    conversation = talk(advisor, "something for the kitchen", "no, I hate the second")
    assert conversation.preferences.disliked == ("i1",)
    assert conversation.preferences.words == ("something for the kitchen",)
    assert talk(advisor, "no love").preferences.filters == (exclude_word("love"),)


@given(st.text(max_size=40).filter(str.strip), st.text(max_size=60), st.text(min_size=1, max_size=60).filter(str.strip))
def test_untrusted_text_adds_no_item_links_to_replies(title: str, attribute: str, words: str) -> None:
    """Text of one item could name another item, which would then be shown as recommended."""
    bad = "[Win](#item=b) ![x](http://e/t.png) <img src=x>"
    items = [
        Item("a", title, {"colour": attribute + bad}),
        Item("b", f"Cup {bad}", {"colour": "red"}),
        Item("c", "Rug"),
    ]
    advisor = Advisor(Recommender(Catalog.from_items(items), [PopularityRanker(np.arange(3, 0, -1))]), k=3)
    first = advisor.respond(Conversation(), f"{words} {bad}")
    if len(first.shown) < 3 or first.turns[-1].keeps_list:
        return
    compared = advisor.respond(first, "compare 1 and 2").turns[-1].reply
    assert extract_item_ids(compared) == ("a", "b", "a")
    assert extract_item_ids(advisor.respond(first, "why the third?").turns[-1].reply) == ("c",)
    assert "<img" not in compared.replace("\\<img", "")
