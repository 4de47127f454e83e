"""The client of a vLLM server against servers that fail, hang, or send unexpected responses."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from backend_support import deadline_in, needs_httpx

from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError

MODELS = {"data": [{"id": "m", "max_model_len": 100}]}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler, int], None]], str]]:
    """Serve one model, and answer requests by a function of the handler and how many came before."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                send(self, 200, json.dumps(MODELS))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                counts.append(1)
                answer(self, len(counts) - 1)

            def log_message(self, *_: object) -> None: ...

        counts: list[int] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def send(handler: BaseHTTPRequestHandler, status: int, body: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


RIGHT = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token_id": 3, "logprob": -2.5}]}]}}]})
OLDER = RIGHT.replace('"token_id": 3', '"token": "token_id:3"')
EMPTY = json.dumps({"choices": []})


def ask(url: str, *, deadline: Deadline | None = None, **options: Any) -> float:
    from genrec.backends.vllm_server import VllmServerBackend

    backend = VllmServerBackend(url, model="m", vocab_size=10, **options)
    try:
        tree = backend.open([np.array([1])], deadline=deadline)
        return float(tree.log_probs(np.array([0]), np.array([3]), np.array([0, 1]))[0])
    finally:
        backend.close()


@needs_httpx
@pytest.mark.parametrize("body", [RIGHT, OLDER], ids=["0.32", "0.25"])
def test_a_lost_request_is_sent_again(serve: Any, body: str) -> None:
    """Servers are restarted and connections break; requests only read, so nothing is done twice."""

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            drop(handler)
        elif before == 1:
            send(handler, 503, "busy")
        else:
            send(handler, 200, body)

    assert ask(serve(answer)) == -2.5


@needs_httpx
@pytest.mark.parametrize(
    ("answer", "says", "requests"),
    [
        (lambda handler, _: drop(handler), "failed 4 times: RemoteProtocolError", 4),
        (lambda handler, _: send(handler, 500, "oh"), "failed 4 times: it answered 500", 4),
        (lambda handler, _: send(handler, 404, "no such path"), "rejected .*404: no such path; .*serve_options", 1),
        (lambda handler, _: send(handler, 200, "<html>"), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, "[]"), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, EMPTY), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", '"x"')), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", "-9999.0")), "returned NaN", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", "7.5")), "--logprobs-mode raw_logprobs", 1),
    ],
    ids=["drops", "fails", "refuses", "a page", "a list", "no choice", "a word", "NaN", "logits"],
)
def test_a_server_that_fails_is_named(serve: Any, answer: Any, says: str, requests: int) -> None:
    """Whoever is on call must read what failed, where, and what to do."""
    seen: list[int] = []

    def counted(handler: BaseHTTPRequestHandler, before: int) -> None:
        seen.append(before)
        answer(handler, before)

    with pytest.raises(EngineError, match=says):
        ask(serve(counted))
    assert len(seen) == requests


@needs_httpx
def test_a_server_that_is_slow_but_answers_is_waited_for(serve: Any) -> None:
    """A large batch takes long; that is no reason to throw away what has come of it."""
    from genrec.backends.vllm_server import VllmServerBackend

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.4)
        send(handler, 200, RIGHT)

    backend = VllmServerBackend(serve(answer), model="m", vocab_size=10, timeout=1.5, max_concurrency=1)
    try:
        begun = time.monotonic()
        tree = backend.open([np.array([1])] * 6)
        found = tree.log_probs(np.arange(6), np.full(6, 3), np.arange(7))
        assert found.tolist() == [-2.5] * 6
        assert time.monotonic() - begun > 1.5
    finally:
        backend.close()


@needs_httpx
@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_hangs_is_left_in_time(serve: Any, drips: bool) -> None:
    """A request without end holds its customer, and then all the others behind it."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.1):
            if drips:
                handler.wfile.write(b" ")

    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"did not answer within 1 s"):
        ask(serve(answer), timeout=1.0)
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="did not answer before the deadline"):
        ask(serve(answer), deadline=deadline_in(1.0))
    assert time.monotonic() - begun < 5
    over.set()


@needs_httpx
def test_slow_stream_is_cut_at_the_deadline(serve: Any) -> None:
    """A time-out is of each piece that is read: a connection that never ends would be lost for good."""
    from genrec.backends.vllm_server import VllmServerBackend

    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before:
            return send(handler, 200, RIGHT)
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.1):
            handler.wfile.write(b" ")

    backend = VllmServerBackend(serve(answer), model="m", vocab_size=10, max_concurrency=1)
    asked = (np.array([0]), np.array([3]), np.array([0, 1]))
    with pytest.raises(DeadlineExceededError):
        backend.open([np.array([1])], deadline=deadline_in(0.5)).log_probs(*asked)
    assert np.isfinite(backend.open([np.array([1])], deadline=deadline_in(30)).log_probs(*asked)).all()
    over.set()
    backend.close()
    with pytest.raises(EngineError, match="was closed; open another backend"):
        backend.open([np.array([1])]).log_probs(*asked)


@needs_httpx
def test_no_request_is_sent_again_after_the_deadline(serve: Any) -> None:
    """Attempts and their pauses would cost the caller the time that the next step of the ladder needs."""
    seen: list[int] = []

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        seen.append(before)
        time.sleep(0.3)
        send(handler, 503, "busy")

    with pytest.raises(DeadlineExceededError, match="before the deadline"):
        ask(serve(answer), deadline=deadline_in(0.5))
    time.sleep(1.0)
    assert len(seen) <= 2


@needs_httpx
def test_a_server_that_is_not_there_is_named() -> None:
    """The first thing that goes wrong in every installation."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"the vLLM server at 127.0.0.1:{port} failed 4 times: ConnectError"):
            ask(f"http://127.0.0.1:{port}")
