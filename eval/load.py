"""Load test of the server: python -m eval.load [rate] [overload] [raw] [--json FILE]

The server runs in its own process with 100,000 items, ranked by embeddings; the clients run in this process, on the
same cores. The load is open-loop: requests are sent on a schedule, whether or not earlier ones were answered, and
latency counts from the scheduled time, so that a stalled server cannot slow its clients down (Tene, "How NOT to Measure
Latency", 2013).

    rate      300 requests per second for 30 s
    overload  300 per second, then ten times as many for 60 s, then 300 again: accepted requests must stay fast, and
              the others must get status 429 with Retry-After
    raw       10,000 malformed requests; see `eval.raw`
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
_TIMEOUT = 30.0  # seconds to wait for responses after the last request


@dataclass
class Responses:
    """Latencies in seconds by status, and the number of 429 responses without Retry-After."""

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
    """The results of one load; times in milliseconds, memory in MB.

    Attributes:
        offered: requests per second.
        answered, refused: requests with status 200 and 429.
        other: other statuses, requests without a response, and 429 responses without Retry-After.
        p50, p99, longest: latency of status 200.
        refused_p99: latency of status 429.
        cpu: CPU time of the server per request.
        before, after: resident memory of the server.
        load: load average of the machine over one minute.
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
    """Sends one request at a time, and reports each complete response."""

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
    """Sends requests on a schedule, over keep-alive connections."""

    def __init__(self, port: int) -> None:
        self.responses = Responses()
        self._port = port
        self._idle: list[_Connection] = []
        self._in_flight: set[_Connection] = set()
        self._backlog: deque[tuple[bytes, float]] = deque()
        self._open_connections = 0

    async def run(self, rate: float, seconds: float) -> Responses:
        """Send `rate` requests per second for `seconds`, and wait for the responses."""
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
        """Record a response, and send the next request of the backlog."""
        self.responses.add(head, seconds)
        if self._backlog:
            connection.send(*self._backlog.popleft())
        else:
            self._in_flight.discard(connection)
            self._idle.append(connection)

    def on_disconnect(self, connection: _Connection) -> None:
        """Remove a closed connection."""
        self._open_connections -= 1
        self.responses.unanswered += connection in self._in_flight
        self._in_flight.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _make_request(number: int) -> bytes:
    """A request with a history of HISTORY_LENGTH random items."""
    rng = random.Random(number)
    history = [f"i{rng.randrange(ITEMS)}" for _ in range(HISTORY_LENGTH)]
    body = json.dumps({"history": history, "k": K}).encode()
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def run_load(server: ServerProcess, rate: float, seconds: float) -> LoadResult:
    """Run one load, and measure CPU time and memory of the server."""
    before, cpu = server.resident_bytes, server.cpu_seconds
    responses = asyncio.run(_LoadGenerator(server.port).run(rate, seconds))
    total = sum(map(len, responses.seconds.values()))
    return LoadResult(
        offered=rate,
        answered=responses.count(200),
        refused=responses.count(429),
        other=total
        - responses.count(200)
        - responses.count(429)
        + responses.unanswered
        + responses.missing_retry_after,
        p50=1e3 * responses.quantile(200, 0.5),
        p99=1e3 * responses.quantile(200, 0.99),
        longest=1e3 * responses.quantile(200, 1),
        refused_p99=1e3 * responses.quantile(429, 0.99),
        cpu=1e3 * (server.cpu_seconds - cpu) / max(1, total),
        before=before / 1e6,
        after=server.resident_bytes / 1e6,
        load=os.getloadavg()[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(_SCENARIOS)} (default: all)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests per second (default {RATE})")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"duration of the first load (default {SECONDS})"
    )
    parser.add_argument(
        "--count", type=int, default=RAW_REQUESTS, help=f"number of malformed requests (default {RAW_REQUESTS:,})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the malformed requests (default 0)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if unknown := set(args.what) - set(_SCENARIOS):
        parser.error(f"{', '.join(sorted(unknown))} is not a scenario; choose from {', '.join(_SCENARIOS)}")
    scenarios = args.what or _SCENARIOS
    rows: list[LoadResult] = []
    outcomes: Counter[str] = Counter()
    gc.collect()
    gc.freeze()  # collecting the clients' long-lived objects again would pause them for 0.1 s
    with running_server() as server:
        run_load(server, 50, 2)  # warm-up: compilation and imports
        loads = [(args.rate, args.seconds)] if "rate" in scenarios or "overload" in scenarios else []
        if "overload" in scenarios:
            loads += [
                (OVERLOAD_FACTOR * args.rate, OVERLOAD_SECONDS * args.seconds / SECONDS),
                (args.rate, args.seconds),
            ]
        for rate, seconds in loads:
            rows.append(run_load(server, rate, seconds))
            print(", ".join(f"{name} {value:.4g}" for name, value in asdict(rows[-1]).items()), flush=True)
        if "raw" in scenarios:
            outcomes = asyncio.run(send_malformed_requests(server.port, args.count, args.seed))
            print(", ".join(f"{name}: {count:,}" for name, count in outcomes.most_common()), flush=True)
            print(f"failures: {sum(outcomes[name] for name in FAILURES)}")
    if args.json:
        report = {"rows": [asdict(row) for row in rows], "raw": dict(outcomes)}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
