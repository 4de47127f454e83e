"""Runs the app under uvicorn, with connections that have to speak."""

import asyncio
import gc
import socket
import sys
from http import HTTPStatus
from itertools import chain
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from genrec.serve.admission import HEADERS, App, Door, headers_of
from genrec.serve.errors import RefusedError

_PATIENCE = (
    4.0  # seconds until what a connection began to say is the head of a request, and until it read what is there
)
_HEAD = 1 << 16  # bytes that a head may have, and that may come without any part of a request being whole
_SLOWEST = 1 << 14  # bytes that are read meanwhile where somebody reads
_UNSENT = 1 << 18  # bytes of answers that the system keeps for who does not read; by itself it would keep megabytes
_SWITCH = 0.0002  # seconds that a thread may keep others waiting for its turn; Python's default is 5 ms
_GRACE = 10  # seconds that answers under way have when the server ends


class _TooLargeError(Exception):
    """Ends what httptools reads."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn has it, for connections that may say anything, or nothing, and read or not.

    Whatever comes while no request is being answered has to become one within some seconds, and whatever comes at any
    time within some bytes; what is no HTTP is told so in the shape of every other refusal. Who does not read what they
    asked for is cut off, so that no answer waits for them.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        self._unsent: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._unread = 0
        self._is_too_large = self._moved = self._is_whole = self._refused = False
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait for the rest of what is no request yet."""
        self._moved = self._is_whole = self._refused = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # What httptools gathers until a header, or a line behind the body, is whole is seen nowhere else.
        self._unread = 0 if self._moved else self._unread + len(data)
        if self._unread > _HEAD:
            self._end(_too_large())
        elif not self._is_answering and not self._is_whole and self._waiting is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._moved, self._is_whole = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting: it is a request, and the door waits for its body."""
        self._moved = True
        self._stop()
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > _HEAD:
            self._is_too_large = True
            raise _TooLargeError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body, which the door counts."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        self._is_whole = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on, or see that what is closed ends, read or not."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._hurry()

    def pause_writing(self) -> None:
        """Too much is not read yet: it has to be, in some seconds."""
        self._hurry()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It was read."""
        if self._unsent is not None and not self.transport.is_closing():
            self._unsent.cancel()
            self._unsent = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asks any more."""
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who answers."""
        self._stop()
        if self._unsent is not None:
            self._unsent.cancel()
        self._break_off()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it."""
        refusal = RefusedError(400, "this is no request of HTTP/1.1", "no_http")
        self._end(_too_large() if self._is_too_large else refusal)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing():  # what comes behind the last request is no request
            return
        self._answering = cycle
        if cycle.scope["method"] != "HEAD":  # of whose answer no body comes
            cycle.transport = _Joined(cycle.transport)
        # One of what came together, so that a thousand take turns with others; and none for who reads no answers.
        if isinstance(app, Door) and not self._refused and not self.pipeline and not self.flow.write_paused:
            refusal = app.refuse_at_once(cycle.scope)
            if refusal is not None:
                self._refused = True
                self._refuse(cycle, refusal)
                return
        super()._start_asgi_task(cycle, app)

    def _refuse(self, cycle: RequestResponseCycle, refusal: RefusedError) -> None:
        """Answer in place of the app; nothing is kept of what else comes of this request."""
        self.transport.write(_written(refusal, close=not cycle.keep_alive))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _break_off(self) -> None:
        """Let nothing be sent any more; of requests that came together uvicorn would tell the last one alone."""
        if self._answering is not None and self._is_answering:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_PATIENCE, self._close)

    def _hurry(self) -> None:
        """End the connection in some seconds, whatever is not read by then, unless much of it is."""
        if self._unsent is None:
            there = self.transport.get_write_buffer_size()
            self._unsent = self.loop.call_later(_PATIENCE, self._look, there)

    def _look(self, before: int) -> None:
        self._unsent = None
        if before - self.transport.get_write_buffer_size() < _SLOWEST:
            self.transport.abort()
        else:
            self._hurry()

    def _close(self) -> None:
        """End it once all is read, or in some seconds."""
        self.transport.close()
        self._hurry()

    def _stop(self) -> None:
        self._unread = 0
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _end(self, refusal: RefusedError) -> None:
        """The last thing that is said; where an answer is under way, it is broken off."""
        begun = self._answering is not None and self._is_answering and self._answering.response_started
        self._break_off()
        if not begun:
            self.transport.write(_written(refusal, close=True))
        self._close()


class _Joined(asyncio.Transport):
    """Keeps the head of an answer until some of its body comes, so that both are one message to the system."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport, self._head, self._is_begun = transport, b"", False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Send it, but for the head, which comes first; a call to go on with the body is no part of the answer."""
        if self._is_begun or data.startswith(b"HTTP/1.1 100"):
            self._flush(data)
        else:
            self._is_begun, self._head = True, data

    def close(self) -> None:
        """End it, with all that is kept sent."""
        self._flush(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it ends."""
        return self._transport.is_closing()

    def _flush(self, data: bytes) -> None:
        data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)


def _written(refusal: RefusedError, *, close: bool) -> bytes:
    """A whole answer of HTTP/1.1."""
    lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers_of(refusal).items()]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in HEADERS]
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + refusal.body


def _too_large() -> RefusedError:
    return RefusedError(431, f"a request's head may have {_HEAD:,} bytes; send less", "too_large")


def config_of(app: App) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app=app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # warnings are about what strangers send
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=15,
    )


def serve(app: App, listening: socket.socket) -> None:
    """Answer until the process is told to end; answers under way have some seconds then."""
    sys.setswitchinterval(_SWITCH)
    gc.collect()
    gc.freeze()  # what is there now stays; to look through it for garbage again would hold up answers for 0.1 s
    uvicorn.Server(config_of(app)).run(sockets=[listening])


def bind(host: str, port: int) -> socket.socket:
    """A socket for `serve`, which refuses connections until then; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)  # its connections have it from here
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
