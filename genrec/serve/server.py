"""Runs the app under uvicorn, with connections that have to speak."""

import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from genrec.serve.door import App

_PATIENCE = 4.0  # seconds until a connection has to have said its first request
_GRACE = 10  # seconds that answers under way have when the server ends


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn has it, but a connection that never says a whole request is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(_PATIENCE, self._give_up)

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._waiting.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def config_of(app: App) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app=app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=15,
    )


def serve(app: App, listening: socket.socket) -> None:
    """Answer until the process is told to end; answers under way have some seconds then."""
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
