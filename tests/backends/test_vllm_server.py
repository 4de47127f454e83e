"""The client of a vLLM server against servers that fail, hang, or send unexpected responses."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
from backend_support import deadline_in, needs_httpx
from http_server import http_server

from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError

MODELS = {"data": [{"id": "m", "max_model_len": 100}]}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler, int], None]], str]]:
    """Start servers of one model, which respond with a function of the handler and the number of earlier requests."""
    servers = ExitStack()

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
        return servers.enter_context(http_server(Handler))

    with servers:
        yield start


def send(handler: BaseHTTPRequestHandler, status: int, body: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "https://user:pw@h/v1/x?token=secret")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


VALID = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token_id": 3, "logprob": -2.5}]}]}}]})
VALID_BEFORE_0_32 = VALID.replace('"token_id": 3', '"token": "token_id:3"')
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
@pytest.mark.parametrize("body", [VALID, VALID_BEFORE_0_32], ids=["0.32", "0.25"])
def test_lost_requests_are_sent_again(serve: Any, body: str) -> None:
    """Servers restart and connections break; requests have no side effects, so a retry is safe."""

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
    ("answer", "message", "requests"),
    [
        (lambda handler, _: drop(handler), "failed 4 times: RemoteProtocolError", 4),
        (lambda handler, _: send(handler, 500, "oh"), "failed 4 times: it answered 500", 4),
        (lambda handler, _: send(handler, 404, "no such path"), "rejected .*404: no such path; .*serve_options", 1),
        (
            lambda handler, _: redirect(handler),
            r"redirects to https://h/v1/x \(302\); that is no address",
            1,
        ),
        (lambda handler, _: send(handler, 200, "<html>"), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, "[]"), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, EMPTY), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, VALID.replace("-2.5", '"x"')), "would not send; check url", 1),
        (lambda handler, _: send(handler, 200, VALID.replace("-2.5", "-9999.0")), "returned NaN", 1),
        (lambda handler, _: send(handler, 200, VALID.replace("-2.5", "7.5")), "--logprobs-mode raw_logprobs", 1),
    ],
    ids=["drops", "fails", "rejects", "redirects", "HTML", "list", "no choice", "string", "NaN", "logits"],
)
def test_server_failures_name_cause_and_remedy(serve: Any, answer: Any, message: str, requests: int) -> None:
    """An operator needs to read what failed, where, and what to do."""
    seen: list[int] = []

    def counted(handler: BaseHTTPRequestHandler, before: int) -> None:
        seen.append(before)
        answer(handler, before)

    with pytest.raises(EngineError, match=message):
        ask(serve(counted))
    assert len(seen) == requests


@needs_httpx
def test_a_slow_server_that_makes_progress_does_not_time_out(serve: Any) -> None:
    """A large batch takes long; finished requests must not be thrown away."""
    from genrec.backends.vllm_server import VllmServerBackend

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.4)
        send(handler, 200, VALID)

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
@pytest.mark.parametrize("trickles", [False, True])
def test_a_hanging_server_times_out(serve: Any, trickles: bool) -> None:
    """A request without a timeout blocks its caller, and then all callers in the queue."""
    stop = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.1):
            if trickles:
                handler.wfile.write(b" ")

    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"did not answer within 1 s"):
        ask(serve(answer), timeout=1.0)
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="did not answer before the deadline"):
        ask(serve(answer), deadline=deadline_in(1.0))
    assert time.monotonic() - begun < 5
    stop.set()


@needs_httpx
def test_slow_stream_is_cut_at_the_deadline(serve: Any) -> None:
    """httpx's timeout applies to each chunk, so an endless response would occupy a connection forever."""
    from genrec.backends.vllm_server import VllmServerBackend

    stop = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before:
            return send(handler, 200, VALID)
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.1):
            handler.wfile.write(b" ")

    backend = VllmServerBackend(serve(answer), model="m", vocab_size=10, max_concurrency=1)
    asked = (np.array([0]), np.array([3]), np.array([0, 1]))
    with pytest.raises(DeadlineExceededError):
        backend.open([np.array([1])], deadline=deadline_in(0.5)).log_probs(*asked)
    assert np.isfinite(backend.open([np.array([1])], deadline=deadline_in(30)).log_probs(*asked)).all()
    stop.set()
    backend.close()
    with pytest.raises(EngineError, match="was closed; open another backend"):
        backend.open([np.array([1])]).log_probs(*asked)


@needs_httpx
def test_no_request_is_sent_again_after_the_deadline(serve: Any) -> None:
    """Retries after the deadline would use the time that the next stage of the fallback chain needs."""
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
def test_an_unreachable_server_is_named() -> None:
    """This is the most common error of a new installation."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"the vLLM server at 127.0.0.1:{port} failed 4 times: ConnectError"):
            ask(f"http://127.0.0.1:{port}")
