"""Overload: further requests get status 429 at little cost, and accepted ones are answered."""

import asyncio
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import BlockingRanker, error_of, item_ids, running_server, small_pipeline, wait_until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from genrec.errors import GenrecError
from genrec.serve.admission import AdmissionMiddleware, Limits
from genrec.serve.service import ServiceConfig
from genrec.serve.uvicorn_protocol import TimeoutHttpProtocol, _HeadBufferingTransport
from genrec.serve.uvicorn_server import check_overrides

KEY = "a-key-of-more-than-sixteen"


def test_overload_returns_429_and_disconnected_requests_are_cancelled(tmp_path: Path) -> None:
    """Without a limit every request waits for all others, and closed pages cost computation."""
    slow = BlockingRanker()
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, config=ServiceConfig(max_queue=3, max_batch_size=8)
        ) as address,
        ThreadPoolExecutor(8) as pool,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        first = pool.submit(client.post, "/v1/recommend", json={})
        assert slow.entered.wait(10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/recommend", json={"k": 9}, timeout=0.3)  # waits, and leaves
        waiting = [pool.submit(client.post, "/v1/recommend", json={}) for _ in range(3)]
        wait_until(lambda: "genrec_lists_waiting 3.0" in client.get("/metrics").text)
        refused = client.post("/v1/recommend", json={})
        slow.released.set()
        assert (refused.status_code, error_of(refused)["code"], refused.headers["retry-after"]) == (
            429,
            "overloaded",
            "1",
        )
        assert [len(item_ids(answer.result())) for answer in (first, *waiting)] == [10] * 4
        assert slow.batches == [1, 3]


def test_rejected_request_keeps_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rejection must be cheap, and the client must be able to send the next request."""
    slow, tasks, own = BlockingRanker(), Counter[str](), AdmissionMiddleware.__call__

    async def counted(self: AdmissionMiddleware, scope: Any, receive: Any, send: Any) -> None:
        tasks[scope.get("raw_path", b"").decode()] += 1
        await own(self, scope, receive, send)

    monkeypatch.setattr(AdmissionMiddleware, "__call__", counted)
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, keys=[KEY], config=ServiceConfig(max_queue=1)
        ) as address,
        httpx.Client(base_url=address, timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        pending = [pool.submit(client.post, "/v1/recommend", json={})]
        assert slow.entered.wait(10)
        pending.append(pool.submit(client.post, "/v1/recommend", json={}))
        wait_until(lambda: "genrec_lists_waiting 1.0" in client.get("/metrics").text)
        ask = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        known = ask + b"Authorization: Bearer " + KEY.encode() + b"\r\n"
        ready = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as connection:
            for data, status in ((ask, b"401"), (known, b"429"), (known, b"429")):
                connection.sendall(data + b"\r\n")
                (answer,) = _read_responses(connection, 1)
                assert answer.split(b" ", 2)[1] == status
                assert b"\r\nx-content-type-options: nosniff\r\n" in answer
                assert (b"\r\nretry-after: 1\r\n" in answer) == (status == b"429")
                connection.sendall(b"{}")
            assert tasks["/v1/recommend"] == len(pending)
            rest = known + b"\r\n{}" + ready + known + b"Connection: close\r\n\r\n{}" + ready
            connection.sendall(known + b"\r\n{}" + rest)
            assert [answer.split(b" ", 2)[1] for answer in _read_responses(connection, 4)] == [
                b"429",
                b"429",
                b"200",
                b"429",
            ]
            assert connection.recv(1) == b""
        assert tasks["/v1/recommend"] == len(pending) + 2  # of what came together one is refused at once
        assert 'genrec_requests_total{route="refused",status="429"} 5.0' in client.get("/metrics").text
        slow.released.set()
        assert [len(item_ids(answer.result())) for answer in pending] == [10, 10]


def _read_responses(connection: socket.socket, count: int) -> list[bytes]:
    """Read `count` whole responses."""
    read = b""
    answers: list[bytes] = []
    while len(answers) < count:
        head, found, body = read.partition(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head).group(1)) if found else 0  # type: ignore[union-attr]
        if found and len(body) >= size:
            answers.append(read[: len(head) + 4 + size])
            read = body[size:]
            continue
        more = connection.recv(65536)
        assert more, read
        read += more
    assert not read
    return answers


def test_requests_over_the_concurrency_limit_are_rejected(tmp_path: Path) -> None:
    """Rejecting requests must cost almost nothing, or rejecting brings the server down."""
    slow = BlockingRanker()
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, limits=Limits(max_concurrent_requests=1)
        ) as address,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(httpx.post, f"{address}/v1/recommend", json={}, timeout=30)
        assert slow.entered.wait(10)
        assert httpx.get(f"{address}/v1/models").status_code == 429
        assert httpx.get(f"{address}/health/live").status_code == 200
        slow.released.set()
        assert len(item_ids(first.result())) == 10


def test_response_is_sent_in_one_write() -> None:
    """Each system call costs as much as the rest of a short response; bytes left in the buffer are lost."""
    sent: list[bytes] = []

    class _Wire(asyncio.Transport):
        def write(self, data: Any) -> None:
            sent.append(bytes(data))

        def close(self) -> None:
            sent.append(b"closed")

    transport = _HeadBufferingTransport(_Wire())
    for data in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"):
        transport.write(data)
    assert sent == [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\none", b"two"]
    for rest in (lambda wire: wire.write(b""), lambda wire: wire.close()):
        sent.clear()
        transport = _HeadBufferingTransport(_Wire())
        transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        rest(transport)
        assert sent[0] == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_idle_connection_is_closed(client: httpx.Client) -> None:
    """Idle connections would otherwise use up all connections."""
    for data in (b"", b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10) as connection:
            connection.sendall(data)
            answered = connection.recv(65536)
            assert answered == b"" or answered.startswith(b"HTTP/1.1 408 ")


def test_the_protocol_overrides_only_hooks_that_are_called() -> None:
    """A hook that uvicorn renames would be ignored silently, and with it a limit of the server."""
    own = {name for name in vars(TimeoutHttpProtocol) if not name.startswith("__")}
    assert not {name for name in own if name.startswith("_") and hasattr(HttpToolsProtocol, name)}  # private names
    hooks = [name for name in sorted(own) if not name.startswith("_")]
    check_overrides(TimeoutHttpProtocol, HttpToolsProtocol)
    for hook in hooks:
        renamed = type("Renamed", (), dict.fromkeys({*hooks, "another"} - {hook}))
        with pytest.raises(GenrecError, match=f"has no {hook} in Renamed"):
            check_overrides(TimeoutHttpProtocol, renamed)
