"""What the server bears: python -m eval.load [rate] [overload] [raw] [--json FILE]

A server over 100,000 items in a process of its own, ranked by embeddings, and clients in this one, on the same cores.
Requests are sent at the times that a plan says, whether or not those before were answered, and a request's time counts
from its place in the plan: a server that stalls cannot hide it by slowing its clients down (Tene, "How NOT to Measure
Latency", 2013).

    rate      300 requests a second for 30 s
    overload  300 a second; ten times as many for 60 s: what is let in stays quick, the rest is told to come back; 300
    raw       10,000 requests that are no HTTP, or HTTP that means nothing; see `eval.raw`
"""

import argparse
import asyncio
import gc
import json
import os
import random
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from eval.raw import FAILURES, send_malformed_requests
from eval.served import ITEMS, ServerProcess, running_server

RATE, SECONDS, OVERLOAD_FACTOR, OVERLOAD_SECONDS = 300, 30, 10, 60
USERS, K, HISTORY_LENGTH = 2_000, 10, 10
RAW_REQUESTS = 10_000
_SCENARIOS = ("rate", "overload", "raw")
_CONNECTIONS = 512
_TIMEOUT = 30.0  # seconds until what has no answer is given up


@dataclass
class Responses:
    """What came back: seconds by status, and how many refusals did not say when to come back."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    unanswered: int = 0
    missing_retry_after: int = 0

    def add(self, head: bytes, seconds: float) -> None:
        status = int(head[9:12])
        self.seconds.setdefault(status, []).append(seconds)
        self.missing_retry_after += status == 429 and b"\r\nretry-after: " not in head

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, ()))

    def quantile(self, status: int, q: float) -> float:
        found = self.seconds.get(status)
        return float(np.quantile(found, q)) if found else float("nan")


@dataclass(frozen=True)
class LoadResult:
    """What was offered and what came of it; times in milliseconds, memory in MB.

    Attributes:
        offered: requests a second.
        answered, refused: how many got a list, and how many a 429.
        other: any other status, no answer at all, or a refusal without Retry-After.
        p50, p99, longest: of those that were answered.
        refused_p99: of those that were refused.
        cpu: of the server for each request.
        before, after: the server's resident memory.
        load: the machine's load average of the last minute.
    """

    offered: float
    answered: int
    refused: int
    other: int
    p50: float
    p99: float
    longest: float
    refused_p99: float
    cpu: float
    before: float
    after: float
    load: float


class _Connection(asyncio.Protocol):
    """Says one request after the other and tells when the answer to each is whole."""

    def __init__(self, generator: "_LoadGenerator") -> None:
        self._generator, self._scheduled_at, self._buffer = generator, 0.0, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, scheduled_at: float) -> None:
        self._scheduled_at = scheduled_at
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]):
            self._buffer.clear()
            self._generator.on_response(self, bytes(head), time.perf_counter() - self._scheduled_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.on_disconnect(self)


class _LoadGenerator:
    """Sends requests by a plan over connections that are kept."""

    def __init__(self, port: int) -> None:
        self.responses = Responses()
        self._port = port
        self._idle: list[_Connection] = []
        self._in_flight: set[_Connection] = set()
        self._backlog: deque[tuple[bytes, float]] = deque()
        self._open_connections = 0

    async def run(self, rate: float, seconds: float) -> Responses:
        """So many requests a second for some seconds."""
        requests = [_make_request(number) for number in range(USERS)]
        start, count = time.perf_counter(), int(rate * seconds)
        for number in range(count):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await self._send(requests[number % USERS], due)
        end = time.perf_counter() + _TIMEOUT
        while (self._in_flight or self._backlog) and time.perf_counter() < end:
            await asyncio.sleep(0.05)
        self.responses.unanswered += len(self._in_flight) + len(self._backlog)
        return self.responses

    async def _send(self, request: bytes, scheduled_at: float) -> None:
        if not self._idle and self._open_connections < _CONNECTIONS:
            self._open_connections += 1
            loop = asyncio.get_running_loop()
            _, made = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            self._idle.append(made)
        if not self._idle:
            self._backlog.append((request, scheduled_at))
            return
        connection = self._idle.pop()
        self._in_flight.add(connection)
        connection.send(request, scheduled_at)

    def on_response(self, connection: _Connection, head: bytes, seconds: float) -> None:
        """An answer came."""
        self.responses.add(head, seconds)
        if self._backlog:
            connection.send(*self._backlog.popleft())
        else:
            self._in_flight.discard(connection)
            self._idle.append(connection)

    def on_disconnect(self, connection: _Connection) -> None:
        """A connection ended."""
        self._open_connections -= 1
        self.responses.unanswered += connection in self._in_flight
        self._in_flight.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _make_request(number: int) -> bytes:
    """A request of somebody who met ten items."""
    drawn = random.Random(number)
    history = [f"i{drawn.randrange(ITEMS)}" for _ in range(HISTORY_LENGTH)]
    body = json.dumps({"history": history, "k": K}).encode()
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def run_load(server: ServerProcess, rate: float, seconds: float) -> LoadResult:
    """Offer so many requests a second, and look at the server meanwhile."""
    before, cpu = server.resident_bytes, server.cpu_seconds
    seen = asyncio.run(_LoadGenerator(server.port).run(rate, seconds))
    total = sum(map(len, seen.seconds.values()))
    return LoadResult(
        offered=rate,
        answered=seen.count(200),
        refused=seen.count(429),
        other=total - seen.count(200) - seen.count(429) + seen.unanswered + seen.missing_retry_after,
        p50=1e3 * seen.quantile(200, 0.5),
        p99=1e3 * seen.quantile(200, 0.99),
        longest=1e3 * seen.quantile(200, 1),
        refused_p99=1e3 * seen.quantile(429, 0.99),
        cpu=1e3 * (server.cpu_seconds - cpu) / max(1, total),
        before=before / 1e6,
        after=server.resident_bytes / 1e6,
        load=os.getloadavg()[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(_SCENARIOS)}; by default all")
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests a second (default {RATE})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of the first rate (default {SECONDS})")
    parser.add_argument("--count", type=int, default=RAW_REQUESTS, help=f"raw requests (default {RAW_REQUESTS:,})")
    parser.add_argument("--seed", type=int, default=0, help="of the raw requests (default 0)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if unknown := set(given.what) - set(_SCENARIOS):
        parser.error(f"{', '.join(sorted(unknown))} is nothing to measure; choose from {', '.join(_SCENARIOS)}")
    what = given.what or _SCENARIOS
    rows: list[LoadResult] = []
    struck: Counter[str] = Counter()
    gc.collect()
    gc.freeze()  # to look through what the clients never throw away would hold them up for 0.1 s
    with running_server() as server:
        run_load(server, 50, 2)  # what is compiled or loaded at first
        plan = [(given.rate, given.seconds)] if "rate" in what or "overload" in what else []
        if "overload" in what:
            plan += [
                (OVERLOAD_FACTOR * given.rate, OVERLOAD_SECONDS * given.seconds / SECONDS),
                (given.rate, given.seconds),
            ]
        for rate, seconds in plan:
            rows.append(run_load(server, rate, seconds))
            print(", ".join(f"{name} {value:.4g}" for name, value in asdict(rows[-1]).items()), flush=True)
        if "raw" in what:
            struck = asyncio.run(send_malformed_requests(server.port, given.count, given.seed))
            print(", ".join(f"{name}: {count:,}" for name, count in struck.most_common()), flush=True)
            print(f"wrong: {sum(struck[name] for name in FAILURES)}")
    if given.json:
        told = {"rows": [asdict(row) for row in rows], "raw": dict(struck)}
        given.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
