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

from genrec.serve.admission import SECURITY_HEADERS, AdmissionMiddleware, AsgiApp, error_headers
from genrec.serve.errors import ApiError

_IO_TIMEOUT = (
    4.0  # seconds until what a connection began to say is the head of a request, and until it read what is there
)
_MAX_HEAD_BYTES = 1 << 16  # bytes that a head may have, and that may come without any part of a request being whole
_MIN_BYTES_PER_TIMEOUT = 1 << 14  # bytes that are read meanwhile where somebody reads
_SEND_BUFFER_BYTES = (
    1 << 18
)  # bytes of answers that the system keeps for who does not read; by itself it would keep megabytes
_THREAD_SWITCH_INTERVAL = 0.0002  # seconds that a thread may keep others waiting for its turn; Python's default is 5 ms
_SHUTDOWN_TIMEOUT = 10  # seconds that answers under way have when the server ends


class _HeadTooLargeError(Exception):
    """Ends what httptools reads."""


class TimeoutHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn has it, for connections that may say anything, or nothing, and read or not.

    Whatever comes while no request is being answered has to become one within some seconds, and whatever comes at any
    time within some bytes; what is no HTTP is told so in the shape of every other refusal. Who does not read what they
    asked for is cut off, so that no answer waits for them.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._active_cycle: RequestResponseCycle | None = None
        self._unparsed_bytes = 0
        self._is_head_too_large = self._has_progressed = self._is_message_complete = self._has_rejected = False
        self._start_request_timer()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait for the rest of what is no request yet."""
        self._has_progressed = self._is_message_complete = self._has_rejected = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # What httptools gathers until a header, or a line behind the body, is whole is seen nowhere else.
        self._unparsed_bytes = 0 if self._has_progressed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > _MAX_HEAD_BYTES:
            self._reject_and_close(_head_too_large())
        elif not self._is_responding and not self._is_message_complete and self._request_timer is None:
            self._start_request_timer()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._has_progressed, self._is_message_complete = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting: it is a request, and the door waits for its body."""
        self._has_progressed = True
        self._cancel_request_timer()
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > _MAX_HEAD_BYTES:
            self._is_head_too_large = True
            raise _HeadTooLargeError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body, which the door counts."""
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        self._is_message_complete = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on, or see that what is closed ends, read or not."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_write_timer()

    def pause_writing(self) -> None:
        """Too much is not read yet: it has to be, in some seconds."""
        self._start_write_timer()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It was read."""
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asks any more."""
        self._close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who answers."""
        self._cancel_request_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._disconnect_cycle()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it."""
        refusal = ApiError(400, "this is no request of HTTP/1.1", "no_http")
        self._reject_and_close(_head_too_large() if self._is_head_too_large else refusal)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing():  # what comes behind the last request is no request
            return
        self._active_cycle = cycle
        if cycle.scope["method"] != "HEAD":  # of whose answer no body comes
            cycle.transport = _HeadBufferingTransport(cycle.transport)
        # One of what came together, so that a thousand take turns with others; and none for who reads no answers.
        if (
            isinstance(app, AdmissionMiddleware)
            and not self._has_rejected
            and not self.pipeline
            and not self.flow.write_paused
        ):
            refusal = app.reject_early(cycle.scope)
            if refusal is not None:
                self._has_rejected = True
                self._respond_with_error(cycle, refusal)
                return
        super()._start_asgi_task(cycle, app)

    def _respond_with_error(self, cycle: RequestResponseCycle, error: ApiError) -> None:
        """Answer in place of the app; nothing is kept of what else comes of this request."""
        self.transport.write(_error_response(error, close=not cycle.keep_alive))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    @property
    def _is_responding(self) -> bool:
        return self._active_cycle is not None and not self._active_cycle.response_complete

    def _disconnect_cycle(self) -> None:
        """Let nothing be sent any more; of requests that came together uvicorn would tell the last one alone."""
        if self._active_cycle is not None and self._is_responding:
            self._active_cycle.disconnected = True
            self._active_cycle.message_event.set()

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(_IO_TIMEOUT, self._close_transport)

    def _start_write_timer(self) -> None:
        """End the connection in some seconds, whatever is not read by then, unless much of it is."""
        if self._write_timer is None:
            there = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(_IO_TIMEOUT, self._check_write_progress, there)

    def _check_write_progress(self, previous_size: int) -> None:
        self._write_timer = None
        if previous_size - self.transport.get_write_buffer_size() < _MIN_BYTES_PER_TIMEOUT:
            self.transport.abort()
        else:
            self._start_write_timer()

    def _close_transport(self) -> None:
        """End it once all is read, or in some seconds."""
        self.transport.close()
        self._start_write_timer()

    def _cancel_request_timer(self) -> None:
        self._unparsed_bytes = 0
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _reject_and_close(self, error: ApiError) -> None:
        """The last thing that is said; where an answer is under way, it is broken off."""
        begun = self._active_cycle is not None and self._is_responding and self._active_cycle.response_started
        self._disconnect_cycle()
        if not begun:
            self.transport.write(_error_response(error, close=True))
        self._close_transport()


class _HeadBufferingTransport(asyncio.Transport):
    """Keeps the head of an answer until some of its body comes, so that both are one message to the system."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport, self._head, self._has_started = transport, b"", False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Send it, but for the head, which comes first; a call to go on with the body is no part of the answer."""
        if self._has_started or data.startswith(b"HTTP/1.1 100"):
            self._flush(data)
        else:
            self._has_started, self._head = True, data

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


def _error_response(error: ApiError, *, close: bool) -> bytes:
    """A whole answer of HTTP/1.1."""
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in error_headers(error).items()]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in SECURITY_HEADERS]
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + error.body


def _head_too_large() -> ApiError:
    return ApiError(431, f"a request's head may have {_MAX_HEAD_BYTES:,} bytes; send less", "too_large")


def uvicorn_config(app: AsgiApp) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app=app,
        http=TimeoutHttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # warnings are about what strangers send
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        timeout_keep_alive=15,
    )


def serve(app: AsgiApp, listen_socket: socket.socket) -> None:
    """Answer until the process is told to end; answers under way have some seconds then."""
    sys.setswitchinterval(_THREAD_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # what is there now stays; to look through it for garbage again would hold up answers for 0.1 s
    uvicorn.Server(uvicorn_config(app)).run(sockets=[listen_socket])


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket for `serve`, which refuses connections until then; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # its connections have it from here
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
