"""Runs the app under uvicorn, with connections that have to speak."""

import asyncio
import socket
import sys
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from genrec.serve.door import App
from genrec.serve.failure import RefusedError

_PATIENCE = 4.0  # seconds until what a connection began to say has to be the head of a request
_HEAD = 1 << 16  # bytes that it may have
_SWITCH = 0.001  # seconds that the thread which ranks may keep the one that speaks waiting; Python's default is 5 ms
_GRACE = 10  # seconds that answers under way have when the server ends


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn has it, for connections that may say anything, or nothing.

    Whatever comes while no request is being answered has to become one within some seconds, and within some bytes; what
    is no HTTP is told so in the shape of every other refusal.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._unread = 0
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait for the rest of what is no request yet."""
        super().data_received(data)
        if self.transport.is_closing() or self._is_answering:
            return
        self._unread += len(data)
        if self._unread > _HEAD:
            self._end(RefusedError(431, f"a request's head may have {_HEAD:,} bytes; send less", "too_large"))
        elif self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """Stop waiting: it is a request, and the door waits for its body."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who answers."""
        self._stop()
        self._break_off()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._end(RefusedError(400, "this is no request of HTTP/1.1", "no_http"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _break_off(self) -> None:
        """Let nothing be sent any more; of requests that came together uvicorn would tell the last one alone."""
        if self._answering is not None and self._is_answering:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_PATIENCE, self.transport.close)

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
            status = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"
            length = f"content-length: {len(refusal.body)}"
            head = "\r\n".join([status, "content-type: application/json", length, "connection: close", "", ""])
            self.transport.write(head.encode() + refusal.body)
        self.transport.close()


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
    uvicorn.Server(config_of(app)).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(1024)
    except OSError:
        made.close()
        raise
    return made


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
