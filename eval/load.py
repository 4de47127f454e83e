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

from eval.raw import FOUND_WRONG, strike
from eval.served import ITEMS, Served, serving

RATE, SECONDS, TIMES, LONG = 300, 30, 10, 60
PEOPLE, K, MET = 2_000, 10, 10
RAW = 10_000
_ALL = ("rate", "overload", "raw")
_CONNECTIONS = 512
_PATIENCE = 30.0  # seconds until what has no answer is given up


@dataclass
class Seen:
    """What came back: seconds by status, and how many refusals did not say when to come back."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    lost: int = 0
    without_time: int = 0

    def add(self, head: bytes, seconds: float) -> None:
        status = int(head[9:12])
        self.seconds.setdefault(status, []).append(seconds)
        self.without_time += status == 429 and b"\r\nretry-after: " not in head

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, ()))

    def quantile(self, status: int, share: float) -> float:
        found = self.seconds.get(status)
        return float(np.quantile(found, share)) if found else float("nan")


@dataclass(frozen=True)
class Row:
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

    def __init__(self, offer: "_Offer") -> None:
        self._offer, self._due, self._read = offer, 0.0, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]):
            self._read.clear()
            self._offer.take(self, bytes(head), time.perf_counter() - self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._offer.lose(self)


class _Offer:
    """Sends requests by a plan over connections that are kept."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port
        self._free: list[_Connection] = []
        self._asking: set[_Connection] = set()
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._made = 0

    async def send(self, rate: float, seconds: float) -> Seen:
        """So many requests a second for some seconds."""
        requests = [_request_of(number) for number in range(PEOPLE)]
        start, count = time.perf_counter(), int(rate * seconds)
        for number in range(count):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await self._ask(requests[number % PEOPLE], due)
        end = time.perf_counter() + _PATIENCE
        while (self._asking or self._waiting) and time.perf_counter() < end:
            await asyncio.sleep(0.05)
        self.seen.lost += len(self._asking) + len(self._waiting)
        return self.seen

    async def _ask(self, request: bytes, due: float) -> None:
        if not self._free and self._made < _CONNECTIONS:
            self._made += 1
            loop = asyncio.get_running_loop()
            _, made = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            self._free.append(made)
        if not self._free:
            self._waiting.append((request, due))
            return
        connection = self._free.pop()
        self._asking.add(connection)
        connection.ask(request, due)

    def take(self, connection: _Connection, head: bytes, seconds: float) -> None:
        """An answer came."""
        self.seen.add(head, seconds)
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self._asking.discard(connection)
            self._free.append(connection)

    def lose(self, connection: _Connection) -> None:
        """A connection ended."""
        self._made -= 1
        self.seen.lost += connection in self._asking
        self._asking.discard(connection)
        if connection in self._free:
            self._free.remove(connection)


def _request_of(number: int) -> bytes:
    """A request of somebody who met ten items."""
    drawn = random.Random(number)
    history = [f"i{drawn.randrange(ITEMS)}" for _ in range(MET)]
    body = json.dumps({"history": history, "k": K}).encode()
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def offer(server: Served, rate: float, seconds: float) -> Row:
    """Offer so many requests a second, and look at the server meanwhile."""
    before, cpu = server.memory, server.cpu
    seen = asyncio.run(_Offer(server.port).send(rate, seconds))
    total = sum(map(len, seen.seconds.values()))
    return Row(
        offered=rate,
        answered=seen.count(200),
        refused=seen.count(429),
        other=total - seen.count(200) - seen.count(429) + seen.lost + seen.without_time,
        p50=1e3 * seen.quantile(200, 0.5),
        p99=1e3 * seen.quantile(200, 0.99),
        longest=1e3 * seen.quantile(200, 1),
        refused_p99=1e3 * seen.quantile(429, 0.99),
        cpu=1e3 * (server.cpu - cpu) / max(1, total),
        before=before / 1e6,
        after=server.memory / 1e6,
        load=os.getloadavg()[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(_ALL)}; by default all")
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests a second (default {RATE})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of the first rate (default {SECONDS})")
    parser.add_argument("--count", type=int, default=RAW, help=f"raw requests (default {RAW:,})")
    parser.add_argument("--seed", type=int, default=0, help="of the raw requests (default 0)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if unknown := set(given.what) - set(_ALL):
        parser.error(f"{', '.join(sorted(unknown))} is nothing to measure; choose from {', '.join(_ALL)}")
    what = given.what or _ALL
    rows: list[Row] = []
    struck: Counter[str] = Counter()
    gc.collect()
    gc.freeze()  # to look through what the clients never throw away would hold them up for 0.1 s
    with serving() as server:
        offer(server, 50, 2)  # what is compiled or loaded at first
        plan = [(given.rate, given.seconds)] if "rate" in what or "overload" in what else []
        if "overload" in what:
            plan += [(TIMES * given.rate, LONG * given.seconds / SECONDS), (given.rate, given.seconds)]
        for rate, seconds in plan:
            rows.append(offer(server, rate, seconds))
            print(", ".join(f"{name} {value:.4g}" for name, value in asdict(rows[-1]).items()), flush=True)
        if "raw" in what:
            struck = asyncio.run(strike(server.port, given.count, given.seed))
            print(", ".join(f"{name}: {count:,}" for name, count in struck.most_common()), flush=True)
            print(f"wrong: {sum(struck[name] for name in FOUND_WRONG)}")
    if given.json:
        told = {"rows": [asdict(row) for row in rows], "raw": dict(struck)}
        given.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
