"""A server that speaks OpenAI's protocol and answers with a function of the request, for tests of its client.

It is a real HTTP server in this process. It stands for servers that fail, lie or cannot run here; a real one is vLLM's,
see `tests/backends/test_openai_vllm.py`.
"""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "test-model"
_NUMBERED = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
_CHOSEN = re.compile(r"^- (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Reply:
    """What the server sends: a status, a body (JSON, or text as it is), and headers.

    `delay` seconds pass before it; `lines` are sent one by one instead of the body; `drop` closes the connection.
    """

    status: int = 200
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    lines: tuple[str, ...] = ()
    drop: bool = False


def completion(text: str | None, *, finish_reason: str = "stop", **message: Any) -> Reply:
    """A successful response with a text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return Reply(body={"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


def ranking(*numbers: Any) -> Reply:
    """A response that ranks numbers."""
    return completion(json.dumps({"ranking": numbers}))


def asked_text(request: Mapping[str, Any]) -> str:
    """The text of the last message of the user in a request."""
    return [message["content"] for message in request["messages"] if message["role"] == "user"][-1]


def shown_titles(request: Mapping[str, Any]) -> list[str]:
    """The titles that a prompt numbers, in order."""
    texts = [message["content"] for message in request["messages"] if message["role"] == "user"]
    return [title for _, title in _NUMBERED.findall(texts[0])]


def rank_by_rule(request: Mapping[str, Any], rules: Mapping[str, str] | None = None) -> Reply:
    """Rank by a hash of the last chosen item and each title, in the same order in every window.

    Args:
        request: the body.
        rules: titles that stand first behind a history that ends with another title.
    """
    text = asked_text(request)
    chosen = (_CHOSEN.findall(text) or [""])[-1]
    first = (rules or {}).get(chosen)

    def key(numbered: tuple[int, str]) -> tuple[bool, str]:
        return numbered[1] != first, hashlib.sha256(f"{chosen}\n{numbered[1]}".encode()).hexdigest()

    ordered = sorted(enumerate(shown_titles(request), start=1), key=key)
    return ranking(*(number for number, _ in ordered))


class ModelServer:
    """A running server: `url`, and the bodies and headers of the requests so far."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply], models: Reply | None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.model_lists = 0  # how often the list of models was asked for
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers))
                outer.model_lists += 1
                outer._send(self, models or Reply(body={"object": "list", "data": [{"id": MODEL, "object": "model"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.requests) - 1
                outer._send(self, answer(body, number))

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop, and release the requests that wait."""
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.delay and self.stopped.wait(reply.delay):
            return
        if reply.drop:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        try:
            handler.send_response_only(reply.status)  # without the date, which a test may set
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            if reply.lines:
                handler.send_header("Connection", "close")
                handler.close_connection = True
                handler.end_headers()
                for line in reply.lines:
                    handler.wfile.write(f"{line}\n".encode())
                    handler.wfile.flush()
                return
            body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:  # the client has gone
            handler.close_connection = True


@contextmanager
def model_server(
    answer: Callable[[dict[str, Any], int], Reply], *, models: Reply | None = None
) -> Iterator[ModelServer]:
    """Run a server that answers each request for a completion with a function of its body and number.

    Args:
        answer: the function; requests are numbered from 0.
        models: the response of `/models`; by default a list with `MODEL`.
    """
    server = ModelServer(answer, models)
    try:
        yield server
    finally:
        server.close()
