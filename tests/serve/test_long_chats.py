"""Long conversations: clients send all messages with each turn, and none ends or holds up others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from server import error_of, running_server, small_pipeline

from genrec import Item
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation
from genrec.chat.item_links import format_item_link
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.preferences import Preferences
from genrec.deadline import Deadline
from genrec.recommender import Recommender
from genrec.serve.service import ServiceConfig

WAIT = 30.0
PATH = "/v1/chat/completions"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_ten_thousand_messages_are_answered_and_the_first_wish_holds(tmp_path: Path) -> None:
    """Clients resend everything, so a limit ends a conversation for ever, and a forgotten exclusion breaks a promise.

    Each message is read once: reading all of them again for each would take hours.
    """
    read: list[str] = []

    def build(recommender: Recommender, k: int) -> Advisor:
        rules = LexicalParser(recommender.catalog)

        def parse(message: str, conversation: Conversation, deadline: Deadline) -> Preferences:
            read.append(message)
            return rules(message, conversation, deadline)

        return Advisor(recommender, k=k, parser=parse)

    messages = [user("no candles"), assistant("How about this?")]
    for number in range(4_999):
        messages += [user(f"something {number}"), assistant("And this?")]
    with (
        running_server(small_pipeline(), tmp_path, build_advisor=build) as address,
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        answer = client.post(PATH, json={"messages": [*messages, user("a gift")], "genrec": {"k": 30}})
        assert answer.status_code == 200, answer.text
        assert len(read) == 5_001
        long = [user("no candles"), assistant("word " * 30_000), user("a gift " * 5_000)]
        cut = client.post(PATH, json={"messages": long, "genrec": {"k": 30}})
    for response in (answer, cut):
        titles = [item["title"] for item in response.json()["genrec"]["items"]]
        assert len(titles) == 30
        assert not [title for title in titles if "Candle" in title]
        assert [limit["about"] for limit in response.json()["genrec"]["wishes"]["limits"]] == ["word candle"]
    assert "message_cut" in [notice["code"] for notice in cut.json()["genrec"]["notice_details"]]


def test_the_server_accepts_all_preferences_that_it_has_sent(tmp_path: Path) -> None:
    """A client that sends the wishes of the last response back would get a 400 for ever once there are many."""
    items = [Item(f"n{number}", f"Bowl {number}", {"price": 1.0}) for number in range(300)]
    messages = [user("bowls")]
    for start in range(0, 300, 50):
        listed = items[start : start + 50]
        messages += [assistant(" ".join(format_item_link(item.item_id, item.title) for item in listed))]
        messages += [user("I like them all")]
    with (
        running_server(small_pipeline(extra_items=items), tmp_path) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
    ):
        wishes = client.post(PATH, json={"messages": messages}).json()["genrec"]["wishes"]
        assert wishes["liked"] == [item.item_id for item in items]
        wishes["disliked"] = [f"i{number}" for number in range(10)]
        again = client.post(PATH, json={"messages": [user("more")], "genrec": {"wishes": wishes}})
        assert again.json()["genrec"]["wishes"]["liked"] == wishes["liked"]


def test_every_exclusion_of_a_long_conversation_holds(tmp_path: Path) -> None:
    """A user who has excluded two hundred things must not be shown the first of them again."""
    said = [f"no gadget{number}" for number in range(200)]
    messages = [user("no candles"), assistant("How about this?")]
    for text in said:
        messages += [user(text), assistant("And this?")]
    with (
        running_server(small_pipeline(), tmp_path) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
    ):
        wishes: Any = None
        for _ in range(2):  # from the messages, and from the preferences of the first answer
            extension = {"k": 30, "wishes": wishes}
            answer = client.post(PATH, json={"messages": [*messages, user("a gift")], "genrec": extension})
            assert answer.status_code == 200, answer.text
            wishes = answer.json()["genrec"]["wishes"]
            assert [limit["about"] for limit in wishes["limits"]] == [
                "word candle",
                *(text.replace("no", "word") for text in said),
            ]
            titles = [item["title"] for item in answer.json()["genrec"]["items"]]
            assert len(titles) == 30
            assert not [title for title in titles if "Candle" in title]


def test_a_slow_chat_delays_no_other(tmp_path: Path) -> None:
    """One visitor whose message is slow to read would stop the chats of everybody."""
    entered, released = threading.Event(), threading.Event()

    def build(recommender: Recommender, k: int) -> Advisor:
        rules = LexicalParser(recommender.catalog)

        def parse(message: str, conversation: Conversation, deadline: Deadline) -> Preferences:
            if message == "slow":
                entered.set()
                released.wait(WAIT)
            return rules(message, conversation, deadline)

        return Advisor(recommender, k=k, parser=parse)

    with (
        running_server(small_pipeline(), tmp_path, build_advisor=build) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            slow = pool.submit(httpx.post, f"{address}{PATH}", json={"messages": [user("slow")]}, timeout=WAIT)
            assert entered.wait(WAIT)
            for _ in range(3):
                assert client.post(PATH, json={"messages": [user("a lamp")]}).status_code == 200
            assert not slow.done()
        finally:
            released.set()
        assert slow.result().status_code == 200


def test_a_conversation_that_cannot_be_read_in_time_says_so(tmp_path: Path) -> None:
    """A list that ignores the wishes of unread messages would break them without a word."""

    def build(recommender: Recommender, k: int) -> Advisor:
        def parse(message: str, conversation: Conversation, deadline: Deadline) -> Preferences:
            while deadline.remaining() >= 0:
                threading.Event().wait(0.01)
            return conversation.preferences

        return Advisor(recommender, k=k, parser=parse)

    with (
        running_server(
            small_pipeline(), tmp_path, build_advisor=build, config=ServiceConfig(turn_timeout=0.1)
        ) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
    ):
        late = client.post(PATH, json={"messages": [user("a"), assistant("b"), user("c")]})
    assert (late.status_code, error_of(late)["code"]) == (503, "deadline_exceeded")
