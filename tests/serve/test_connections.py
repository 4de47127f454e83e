"""Misbehaving connections over sockets: other clients are still served."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from server import BlockingRanker, running_server, small_pipeline, wait_until

from genrec.serve.admission import Limits

KEY = "a-key-of-more-than-sixteen"
HEADERS = {"authorization": f"Bearer {KEY}"}
REPEATS = 4_000


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@contextmanager
def connected(address: str, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Connections that send bytes, as many as the server takes, and read nothing."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            one.connect(("127.0.0.1", urlsplit(address).port or 0))
            one.settimeout(0.2)
            with suppress(TimeoutError, ConnectionError):  # the server may read no more of it now
                one.sendall(data)
            made.append(one)
        yield made


def is_closed(connection: socket.socket, data: bytes = b"\r\n") -> bool:
    """Whether the server has closed a connection."""
    try:
        connection.sendall(data)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False


def server_responds(client: httpx.Client) -> bool:
    return client.post("/v1/recommend", json={"k": 3}, headers=HEADERS).status_code == 200


def test_clients_that_do_not_read_are_disconnected(tmp_path: Path) -> None:
    """Each would use capacity forever, and seventy of them all of it."""
    requests = head("/v1/catalog/items", f"Authorization: Bearer {KEY}") * REPEATS
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY], limits=Limits(max_concurrent_requests=2)) as address,
        httpx.Client(base_url=address, timeout=30) as client,
        connected(address, 4, requests) as stalled,
    ):
        wait_until(lambda: server_responds(client), 15)
        wait_until(lambda: all(is_closed(one) for one in stalled), 15)


def test_page_requests_use_no_authenticated_capacity(tmp_path: Path) -> None:
    """Anyone can request the page, so anyone could lock out callers with a key."""
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY], limits=Limits(max_concurrent_requests=2)) as address,
        httpx.Client(base_url=address, timeout=30) as client,
        connected(address, 4, head("/page/page.css") * REPEATS),
    ):
        assert server_responds(client)


def test_unauthenticated_routes_accept_no_body(tmp_path: Path) -> None:
    """A thousand clients without a key could fill a gigabyte of memory."""
    lengths = ("Content-Length: 1000000", "Transfer-Encoding: chunked")
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY], limits=Limits(max_concurrent_requests=2)) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        for path in ("/", "/health/live", "/page/page.css"):
            for length in lengths:
                with connected(address, 1, head(path, length, method="POST")) as (one,):
                    one.settimeout(2)
                    assert one.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
        with connected(address, 4, head("/", lengths[0], method="POST") + b"x" * 1000):
            assert server_responds(client)


def test_header_limit_holds_while_a_response_is_pending(tmp_path: Path) -> None:
    """Headers of a pipelined request would fill the memory while a response is pending."""
    slow, line = BlockingRanker(), f"X: {'x' * 1000}\r\n".encode()
    begun = head("/v1/recommend", "Content-Type: application/json", "Content-Length: 2", method="POST") + b"{}"
    begun += head("/v1/models")[:-2]
    with (
        running_server(small_pipeline(extra_stages=[slow]), tmp_path) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        for endless in (line * 100, b"X: " + b"x" * 100_000):
            with connected(address, 1, begun) as (one,):
                assert slow.entered.wait(10)
                wait_until(lambda: is_closed(one, endless), 10)  # noqa: B023
        slow.released.set()
        assert server_responds(client)
        for data in (
            head("/v1/models", "X: " + "x" * 70_000),
            head("/" + "x" * 70_000),
        ):
            with connected(address, 1, data) as (one,):
                one.settimeout(5)
                assert one.recv(1 << 16).startswith(b"HTTP/1.1 431 ")
