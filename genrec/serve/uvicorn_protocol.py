"""uvicorn's HTTP protocol, which also closes idle, oversized and unread connections.

The protocol overrides only callbacks of asyncio and httptools, which call them by their documented names, and hooks of
uvicorn, which `genrec.serve.uvicorn_server` checks at the start: a hook that uvicorn renamed would otherwise be ignored
silently.
"""

import asyncio
from http import HTTPStatus
from itertools import chain
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from genrec.serve.admission import SECURITY_HEADERS, AdmissionMiddleware, error_headers
from genrec.serve.errors import ApiError

_IO_TIMEOUT = 4.0  # seconds for a complete request head, and for the client to read a response
_MAX_HEAD_BYTES = 1 << 16  # maximum size of a request head, and of bytes that complete no part of a request
_MIN_BYTES_PER_TIMEOUT = 1 << 14  # bytes that a client must read per _IO_TIMEOUT to stay connected


class _HeadTooLargeError(Exception):
    """Aborts parsing by httptools."""


class TimeoutHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits on time and size.

    A request head must be complete within `_IO_TIMEOUT` seconds and `_MAX_HEAD_BYTES` bytes. Invalid HTTP gets an error
    response in the same format as all others. A client that does not read its responses is disconnected. Requests
    whose queue is full are rejected here, before uvicorn starts a task for them.

    Args:
        admission: decides which requests are rejected early.
        uvicorn_arguments: arguments of uvicorn's protocol.
    """

    def __init__(self, *, admission: AdmissionMiddleware, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._admission = admission

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._active_cycle: RequestResponseCycle | None = None
        self._unparsed_bytes = 0
        self._is_head_too_large = self._has_progressed = self._is_message_complete = self._has_rejected = False
        self._ignores_message = False  # the current request gets no task: it was rejected, or the connection is closing
        self._start_request_timer()

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and restart the timer if a request is incomplete."""
        self._has_progressed = self._is_message_complete = self._has_rejected = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # httptools buffers an incomplete header or trailer without reporting its size.
        self._unparsed_bytes = 0 if self._has_progressed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > _MAX_HEAD_BYTES:
            self._reject_and_close(_head_too_large())
        elif not self._is_responding and not self._is_message_complete and self._request_timer is None:
            self._start_request_timer()

    def on_message_begin(self) -> None:
        """Note the start of a request."""
        self._has_progressed, self._is_message_complete, self._ignores_message = True, False, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the timer: the head is complete, and AdmissionMiddleware has a timeout for the body."""
        self._has_progressed = True
        self._cancel_request_timer()
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > _MAX_HEAD_BYTES:
            self._is_head_too_large = True
            raise _HeadTooLargeError
        if self.transport.is_closing():  # pipelined requests after `connection: close` are ignored
            self._ignores_message = True
            return
        if (error := self._early_rejection()) is not None:
            self._has_rejected = self._ignores_message = True
            self._respond_with_error(error)
            return
        super().on_headers_complete()
        if not self.pipeline:
            self._active_cycle = self.cycle
        if self.cycle.scope["method"] != "HEAD":  # a response to HEAD has no body
            self.cycle.transport = _HeadBufferingTransport(self.cycle.transport)

    def on_body(self, body: bytes) -> None:
        """Note progress; AdmissionMiddleware limits the size of the body."""
        self._has_progressed = True
        if not self._ignores_message:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._is_message_complete = True
        if not self._ignores_message:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request; if the connection is closing, limit the time for it."""
        if self.pipeline:
            self._active_cycle = self.pipeline[-1][0]  # the request that uvicorn starts next
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_write_timer()

    def pause_writing(self) -> None:
        """Start the write timer: the client is not reading."""
        self._start_write_timer()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop the write timer: the client is reading again."""
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self._close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and mark the current request as disconnected."""
        self._cancel_request_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._disconnect_cycle()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Reject invalid HTTP, or a head that is too large."""
        error = ApiError(400, "the request is not valid HTTP/1.1", "no_http")
        self._reject_and_close(_head_too_large() if self._is_head_too_large else error)

    def _early_rejection(self) -> ApiError | None:
        """The error for a request that is rejected without a task.

        At most one per read, so that requests sent together cannot starve other connections; none behind a response
        that is pending, and none for clients that do not read.
        """
        if self._has_rejected or self._is_responding or self.flow.write_paused:
            return None
        raw_path = httptools.parse_url(self.url).path
        method = self.parser.get_method().decode("ascii")
        return self._admission.reject_early({"raw_path": raw_path, "method": method, "headers": self.headers})

    def _respond_with_error(self, error: ApiError) -> None:
        """Respond in place of the app; the body of the request is discarded."""
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.transport.write(_error_response(error, close=not keep_alive))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    @property
    def _is_responding(self) -> bool:
        return self._active_cycle is not None and not self._active_cycle.response_complete

    def _disconnect_cycle(self) -> None:
        """Mark the current request as disconnected; uvicorn itself marks only the last pipelined request."""
        if self._active_cycle is not None and self._is_responding:
            self._active_cycle.disconnected = True
            self._active_cycle.message_event.set()

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(_IO_TIMEOUT, self._close_transport)

    def _start_write_timer(self) -> None:
        """Abort the connection after `_IO_TIMEOUT`, unless the client reads enough."""
        if self._write_timer is None:
            size = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(_IO_TIMEOUT, self._check_write_progress, size)

    def _check_write_progress(self, previous_size: int) -> None:
        self._write_timer = None
        if previous_size - self.transport.get_write_buffer_size() < _MIN_BYTES_PER_TIMEOUT:
            self.transport.abort()
        else:
            self._start_write_timer()

    def _close_transport(self) -> None:
        """Close the connection once the client has read everything, or after `_IO_TIMEOUT`."""
        self.transport.close()
        self._start_write_timer()

    def _cancel_request_timer(self) -> None:
        self._unparsed_bytes = 0
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _reject_and_close(self, error: ApiError) -> None:
        """Send an error and close the connection; a response that has started is cut off."""
        has_started = self._active_cycle is not None and self._is_responding and self._active_cycle.response_started
        self._disconnect_cycle()
        if not has_started:
            self.transport.write(_error_response(error, close=True))
        self._close_transport()


class _HeadBufferingTransport(asyncio.Transport):
    """Buffers the head of a response until its body starts, so that both are sent in one write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport, self._head, self._has_started = transport, b"", False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Buffer the first write, which is the head; `100 Continue` is not part of the response."""
        if self._has_started or data.startswith(b"HTTP/1.1 100"):
            self._flush(data)
        else:
            self._has_started, self._head = True, data

    def close(self) -> None:
        """Flush the head and close."""
        self._flush(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closing."""
        return self._transport.is_closing()

    def _flush(self, data: bytes) -> None:
        data, self._head = self._head + data, b""
        if data:
            self._transport.write(data)


def _error_response(error: ApiError, *, close: bool) -> bytes:
    """A whole HTTP/1.1 response."""
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in error_headers(error).items()]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in SECURITY_HEADERS]
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + error.body


def _head_too_large() -> ApiError:
    return ApiError(431, f"the request head is too large; send at most {_MAX_HEAD_BYTES:,} bytes", "too_large")
