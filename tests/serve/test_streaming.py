"""Streams of the server: who leaves is not written for, more than may talk are refused, and time that is up is said."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from genrec.chat.advisor import Occasion
from genrec.deadline import Deadline
from genrec.serve.service import Load
from tests.server import events_in, serving, shop, until

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "a lamp"}], "stream": True}
PATIENCE = 30.0


class _Typist:
    """Writes a word each time it is let, or at short intervals, and knows when it stopped."""

    def __init__(self, pause: float = 0.02) -> None:
        self._pause = pause
        self.wrote, self.ended = threading.Event(), threading.Event()
        self.words = 0

    def __call__(self, occasion: Occasion, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        self.ended.clear()
        try:
            for _ in range(int(PATIENCE / self._pause)):
                deadline.check()
                on_text("word ")
                self.words += 1
                self.wrote.set()
                self.ended.wait(self._pause)
        finally:
            self.ended.set()
        return True


def test_who_leaves_in_the_middle_is_not_written_for_any_more(tmp_path: Path) -> None:
    """Every closed tab would keep a model busy for a minute, and a place taken from somebody who is there."""
    typist = _Typist()
    with (
        serving(shop(), tmp_path, write=typist, load=Load(talks=1)) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=ASKED) as stream:
            words = (told for told in events_in(stream.iter_lines()) if told["choices"][0]["delta"].get("content"))
            assert next(words)["choices"][0]["delta"]["content"] == "word "
            assert client.post("/v1/chat/completions", json=ASKED).status_code == 429  # the only place is taken
        assert typist.ended.wait(PATIENCE / 2)
        with client.stream("POST", "/v1/chat/completions", json=ASKED) as stream:
            assert stream.status_code == 200


def test_more_than_may_talk_are_told_to_come_back(tmp_path: Path) -> None:
    """A conversation takes seconds: the hundredth in the queue would wait for minutes and be told nothing."""
    typist = _Typist()
    with (
        serving(shop(), tmp_path, write=typist) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
        ExitStack() as talks,
    ):
        pool = [threading.Thread(target=_begin, args=(address, talks)) for _ in range(Load().talks)]
        for thread in pool:
            thread.start()
        until(lambda: f"genrec_requests_inside {Load().talks + 1}.0" in client.get("/metrics").text)
        assert typist.wrote.wait(PATIENCE)
        refused = client.post("/v1/chat/completions", json=ASKED)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert client.post("/v1/recommend", json={"k": 3}).status_code == 200  # lists go on
        talks.close()
        for thread in pool:
            thread.join(PATIENCE)


def _begin(address: str, talks: ExitStack) -> None:
    """Begin a conversation that lasts until the stack is closed."""
    client = talks.enter_context(httpx.Client(base_url=address, timeout=PATIENCE))
    try:
        with client.stream("POST", "/v1/chat/completions", json=ASKED) as stream:
            list(stream.iter_lines())
    except (httpx.HTTPError, RuntimeError):
        return  # closed by the test


def test_a_reply_that_is_not_written_in_time_ends_plainly_and_says_so(tmp_path: Path) -> None:
    """A model that has slowed down must not keep people before a sentence that never ends."""
    with (
        serving(shop(), tmp_path, write=_Typist(), load=Load(turn=0.5)) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
        client.stream("POST", "/v1/chat/completions", json=ASKED) as stream,
    ):
        told = list(events_in(stream.iter_lines()))
        assert told[-1] == "[DONE]"
        assert told[-2]["genrec"] == {"fallback": True}
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in told[:-1])
        assert text.startswith("word word ")
        assert "How about: 1. [" in text
