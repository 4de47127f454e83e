"""Streams of the server: who leaves is not written for, more than may talk are refused, and time that is up is said."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from server import parse_sse, running_server, small_pipeline, wait_until

from genrec.chat.conversation import TurnContext
from genrec.deadline import Deadline
from genrec.serve.service import ServiceConfig

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "a lamp"}], "stream": True}
PATIENCE = 30.0


class _Typist:
    """Writes a word each time it is let, or at short intervals, and knows when it stopped."""

    def __init__(self, pause: float = 0.02) -> None:
        self._pause = pause
        self.wrote, self.ended = threading.Event(), threading.Event()
        self.words = 0

    def __call__(self, occasion: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
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


def test_disconnect_stops_generation(tmp_path: Path) -> None:
    """Every closed tab would keep a model busy for a minute, and a place taken from somebody who is there."""
    typist = _Typist()
    with (
        running_server(small_pipeline(), tmp_path, generate=typist, batching=ServiceConfig(max_chats=1)) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=ASKED) as stream:
            words = (told for told in parse_sse(stream.iter_lines()) if told["choices"][0]["delta"].get("content"))
            assert next(words)["choices"][0]["delta"]["content"] == "word "
            assert client.post("/v1/chat/completions", json=ASKED).status_code == 429  # the only place is taken
        assert typist.ended.wait(PATIENCE / 2)
        with client.stream("POST", "/v1/chat/completions", json=ASKED) as stream:
            assert stream.status_code == 200


def test_chats_beyond_max_chats_are_rejected(tmp_path: Path) -> None:
    """A conversation takes seconds: the hundredth in the queue would wait for minutes and be told nothing."""
    typist = _Typist()
    with (
        running_server(small_pipeline(), tmp_path, generate=typist) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
        ExitStack() as talks,
    ):
        pool = [threading.Thread(target=_begin, args=(address, talks)) for _ in range(ServiceConfig().max_chats)]
        for thread in pool:
            thread.start()
        wait_until(lambda: f"genrec_requests_inside {ServiceConfig().max_chats + 1}.0" in client.get("/metrics").text)
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


def test_late_reply_ends_with_a_notice(tmp_path: Path) -> None:
    """A model that has slowed down must not keep people before a sentence that never ends."""
    with (
        running_server(
            small_pipeline(), tmp_path, generate=_Typist(), batching=ServiceConfig(turn_timeout=0.5)
        ) as address,
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
        client.stream("POST", "/v1/chat/completions", json=ASKED) as stream,
    ):
        told = list(parse_sse(stream.iter_lines()))
        assert told[-1] == "[DONE]"
        assert told[-2]["genrec"] == {"fallback": True}
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in told[:-1])
        assert text.startswith("word word ")
        assert "How about: 1. [" in text
