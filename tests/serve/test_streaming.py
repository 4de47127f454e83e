"""Streamed replies: disconnects stop generation, chats are limited, and late replies end."""

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

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "a lamp"}], "stream": True}
TIMEOUT = 30.0


class SlowWriter:
    """Writes a word at short intervals, and records when it stops."""

    def __init__(self, pause: float = 0.02) -> None:
        self._pause = pause
        self.wrote, self.ended = threading.Event(), threading.Event()
        self.words = 0

    def __call__(self, context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        self.ended.clear()
        try:
            for _ in range(int(TIMEOUT / self._pause)):
                deadline.check()
                on_text("word ")
                self.words += 1
                self.wrote.set()
                self.ended.wait(self._pause)
        finally:
            self.ended.set()
        return True


def test_disconnect_stops_generation(tmp_path: Path) -> None:
    """A closed tab would keep the model busy for a minute, and use capacity of other users."""
    writer = SlowWriter()
    with (
        running_server(small_pipeline(), tmp_path, generate=writer, config=ServiceConfig(max_chats=1)) as address,
        httpx.Client(base_url=address, timeout=TIMEOUT) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=REQUEST) as stream:
            words = (
                events for events in parse_sse(stream.iter_lines()) if events["choices"][0]["delta"].get("content")
            )
            assert next(words)["choices"][0]["delta"]["content"] == "word "
            assert client.post("/v1/chat/completions", json=REQUEST).status_code == 429  # max_chats is reached
        assert writer.ended.wait(TIMEOUT / 2)
        with client.stream("POST", "/v1/chat/completions", json=REQUEST) as stream:
            assert stream.status_code == 200


def test_chats_beyond_max_chats_are_rejected(tmp_path: Path) -> None:
    """A chat takes seconds: the hundredth in a queue would wait for minutes."""
    writer = SlowWriter()
    with (
        running_server(small_pipeline(), tmp_path, generate=writer) as address,
        httpx.Client(base_url=address, timeout=TIMEOUT) as client,
        ExitStack() as chats,
    ):
        pool = [threading.Thread(target=hold_chat, args=(address, chats)) for _ in range(ServiceConfig().max_chats)]
        for thread in pool:
            thread.start()
        wait_until(lambda: f"genrec_requests_inside {ServiceConfig().max_chats + 1}.0" in client.get("/metrics").text)
        assert writer.wrote.wait(TIMEOUT)
        refused = client.post("/v1/chat/completions", json=REQUEST)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert client.post("/v1/recommend", json={"k": 3}).status_code == 200  # lists are not affected
        chats.close()
        for thread in pool:
            thread.join(TIMEOUT)


def hold_chat(address: str, chats: ExitStack) -> None:
    """Hold a chat open until the stack is closed."""
    client = chats.enter_context(httpx.Client(base_url=address, timeout=TIMEOUT))
    try:
        with client.stream("POST", "/v1/chat/completions", json=REQUEST) as stream:
            list(stream.iter_lines())
    except (httpx.HTTPError, RuntimeError):
        return  # the test closed the client


def test_late_reply_ends_with_a_notice(tmp_path: Path) -> None:
    """A slow model must not keep users waiting for a sentence without end."""
    with (
        running_server(
            small_pipeline(), tmp_path, generate=SlowWriter(), config=ServiceConfig(turn_timeout=0.5)
        ) as address,
        httpx.Client(base_url=address, timeout=TIMEOUT) as client,
        client.stream("POST", "/v1/chat/completions", json=REQUEST) as stream,
    ):
        events = list(parse_sse(stream.iter_lines()))
        assert events[-1] == "[DONE]"
        assert events[-2]["genrec"] == {"fallback": True}
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in events[:-1])
        assert text.startswith("word word ")
        assert "How about: 1. [" in text
