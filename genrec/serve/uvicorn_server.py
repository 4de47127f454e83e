"""The server: the app under uvicorn, on a socket that is bound before the slow work of a start."""

import asyncio
import gc
import socket
import sys
from functools import partial
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from genrec.errors import GenrecError
from genrec.serve.admission import AdmissionMiddleware
from genrec.serve.uvicorn_protocol import TimeoutHttpProtocol

_SEND_BUFFER_BYTES = 1 << 18  # socket send buffer; the system's default buffers megabytes for clients that do not read
_THREAD_SWITCH_INTERVAL = 0.0002  # seconds; Python's default of 5 ms delays the event loop behind ranking threads
_SHUTDOWN_TIMEOUT = 10  # seconds for running requests at shutdown


def check_overrides(protocol: type, base: type) -> None:
    """Check that each public method of a protocol overrides one of its base, which calls it.

    Raises:
        GenrecError: a method overrides nothing, because the base was changed.
    """
    unknown = sorted(name for name in vars(protocol) if not name.startswith("_") and not hasattr(base, name))
    if unknown:
        raise GenrecError(
            f"uvicorn {uvicorn.__version__} has no {', '.join(unknown)} in {base.__name__}, so it would ignore limits "
            "of this server; install another version of uvicorn, such as 0.54"
        )


def uvicorn_config(app: AdmissionMiddleware) -> uvicorn.Config:
    """The uvicorn configuration for the app.

    Raises:
        GenrecError: this version of uvicorn lacks a hook that the protocol needs.
    """
    check_overrides(TimeoutHttpProtocol, HttpToolsProtocol)
    return uvicorn.Config(
        app=app,
        http=cast(type[asyncio.Protocol], partial(TimeoutHttpProtocol, admission=app)),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # warnings only report invalid requests
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        timeout_keep_alive=15,
    )


def serve(app: AdmissionMiddleware, listen_socket: socket.socket) -> None:
    """Serve until the process is asked to stop; running requests then have `_SHUTDOWN_TIMEOUT` seconds."""
    sys.setswitchinterval(_THREAD_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # collecting the long-lived objects again would pause requests for 0.1 s
    uvicorn.Server(uvicorn_config(app)).run(sockets=[listen_socket])


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind a socket for `serve`. It refuses connections until then.

    Args:
        host: the address to bind.
        port: the port; 0 for a free one.

    Raises:
        OSError: the address is in use or not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # inherited by its connections
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
