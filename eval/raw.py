"""Malformed requests: the server must respond to each, or close its connection, in time.

Each request is generated from its number, so that one that breaks something can be sent again.
"""

import asyncio
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

HANG_TIMEOUT = 5.0  # seconds for a response or the end of the connection
IDLE_CLOSE_TIMEOUT = 15.0  # seconds for which a connection may stay open after the response
PATHS = ("/v1/recommend", "/v1/search", "/v1/related", "/v1/events", "/v1/chat/completions", "/v1/catalog/items")
FAILURES = ("5xx", "hang", "good request failed")
_CONCURRENCY = 100
_MAX_CONNECTIONS = 500  # including those with a response that are still open
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5])\d\d [A-Z]")
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "POST POST")


@dataclass(frozen=True)
class RawRequest:
    """The bytes for one connection, in pieces with pauses of `pause` seconds, and whether responses are read."""

    kind: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0
    reads_response: bool = True


def make_malformed_request(number: int, seed: int = 0) -> RawRequest:
    """The malformed request with this number and seed."""
    rng = random.Random(f"{seed} {number}")
    name = sorted(_KINDS)[number % len(_KINDS)]
    content = _KINDS[name](rng)
    if isinstance(content, tuple):
        return RawRequest(name, content, rng.choice((0.01, 0.2, 0.9)))
    return RawRequest(name, (content,), reads_response=name != "unread")


async def send_malformed_requests(port: int, count: int, seed: int = 0, *, hang: float = HANG_TIMEOUT) -> Counter[str]:
    """Send `count` requests concurrently, each on its own connection.

    Returns:
        The number of requests by outcome, see `outcome_of`; for outcomes in FAILURES also by request. After every
        hundred requests a valid request is sent, which must succeed.
    """
    outcomes: Counter[str] = Counter()
    connections, requests = asyncio.Semaphore(_MAX_CONNECTIONS), asyncio.Semaphore(_CONCURRENCY)

    async def send(number: int) -> None:
        async with connections:
            raw = make_malformed_request(number, seed)
            outcome = await outcome_of(port, raw, requests, hang)
            outcomes[outcome] += 1
            if outcome in FAILURES:
                outcomes[f"{outcome}: {raw.kind} {number}"] += 1
            if number % 100 == 99 and await outcome_of(port, _VALID, requests, hang) != "2xx":
                outcomes["good request failed"] += 1

    await asyncio.gather(*(send(number) for number in range(count)))
    return outcomes


async def outcome_of(port: int, raw: RawRequest, requests: asyncio.Semaphore, hang: float = HANG_TIMEOUT) -> str:
    """Send a request, and read until the server closes the connection.

    Args:
        port: a local port.
        raw: the request.
        requests: acquired until there is a response, or the connection is closed.
        hang: seconds for a response; the connection may stay open for `IDLE_CLOSE_TIMEOUT` more.

    Returns:
        "2xx" to "5xx", the class of the highest status; "closed" without a response; "hang" if the response or the
        close is late.
    """
    connection = socket.socket()
    connection.setblocking(False)
    if not raw.reads_response:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    received = bytearray()
    async with requests:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(
            sock=connection, limit=1 << 12 if not raw.reads_response else 1 << 16
        )
        try:
            is_closed = await _exchange(raw, reader, writer, received, hang)
        except TimeoutError:
            writer.close()
            return "hang"
    try:
        async with asyncio.timeout(IDLE_CLOSE_TIMEOUT + hang):
            while not is_closed:
                is_closed = await (_read(reader, received) if raw.reads_response else _is_closed(writer))
    except TimeoutError:
        return "hang"
    finally:
        writer.close()
    return max((f"{status.decode()}xx" for status in _STATUS.findall(received)), default="closed")


async def _exchange(
    raw: RawRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: bytearray, hang: float
) -> bool:
    """Send the request, and wait for a status if responses are read; returns whether the connection is closed."""
    for index, piece in enumerate(raw.pieces):
        if index:
            await asyncio.sleep(raw.pause)
        writer.write(piece)
    async with asyncio.timeout(hang):
        is_closed = False
        while raw.reads_response and not is_closed and not _STATUS.search(received):
            is_closed = await _read(reader, received)
        return is_closed


async def _is_closed(writer: asyncio.StreamWriter) -> bool:
    """Whether the server has closed a connection that is not read."""
    await asyncio.sleep(0.1)
    writer.write(b"\r\n")  # fails on a closed connection
    return writer.transport.is_closing()


async def _read(reader: asyncio.StreamReader, received: bytearray) -> bool:
    """Read more bytes; returns whether the connection is closed."""
    try:
        more = await reader.read(1 << 16)
    except ConnectionError:
        return True
    received += more
    return not more


def _post(path: str, body: bytes, *headers: str, host: str = "localhost", kind: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


_VALID = RawRequest("good", (_post("/v1/recommend", b'{"k": 3}'),))


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 7, 100, 5_000)))


def _flipped(rng: random.Random) -> bytes:
    """A valid request with some bytes changed, removed or added."""
    request = bytearray(_post(rng.choice(PATHS), b'{"k": 3, "words": "a lamp", "item_id": "i1"}'))
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(request))
        request[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    return bytes(request)


def _truncated(rng: random.Random) -> bytes:
    request = _post(rng.choice(PATHS), b'{"k": 3}')
    return request[: rng.randrange(len(request))]


def _length(rng: random.Random) -> bytes:
    lengths = ("-1", "0", "3", "99", "1e3", "0x10", "+8", "8, 8", "9" * 30, "18446744073709551616", "", "eight", "8 8")
    more = rng.choice(("", "Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 8\r\n"))
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
    return f'{head}Content-Length: {rng.choice(lengths)}\r\n\r\n{{"k": 3}}'.encode()


def _chunked(rng: random.Random) -> bytes:
    coding = rng.choice(("chunked", "Chunked", "chunked, chunked", "gzip, chunked", "xchunked", "chunked;q=1"))
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    chunks = (
        '8\r\n{"k": 3}\r\n0\r\n\r\n',
        "zz\r\n",
        "-1\r\n",
        "FFFFFFFFFFFFFFFFF\r\nx",
        '8\r\n{"k"',
        "0\r\n",
        "1\r\n{\r\n" * 50,
    )
    return f"{head}\r\nTransfer-Encoding: {coding}\r\n\r\n{rng.choice(chunks)}{rng.choice(chunks)}".encode()


def _headers(rng: random.Random) -> bytes:
    name = rng.choice(("X", "X Y", "", ":", "Ünï", "a" * 70_000, "X\x00", "Content-Type", "Expect", "Upgrade"))
    value = rng.choice(("x" * 100_000, "\x00", "\x7f\xff", "100-continue", "websocket", " \t ", "a\r\n b", "\r"))
    lines = "".join(f"{name}{place or ''}: {value}\r\n" for place in range(rng.choice((1, 2, 30))))
    return f"GET {rng.choice(PATHS)} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin-1")


def _target(rng: random.Random) -> bytes:
    targets = (
        *("*", "", "/" * 5_000, "//x/y", "http://localhost/v1/models", "/v1/../../etc/passwd", "/%00", "/%ff%fe"),
        *("/v1/users/%00/history", "/v1/users/%ff/history", "/v1/catalog/items/%2e%2e%2f", "/page/..%2fapp.py"),
        *("/page/%2e%2e/app.py", "/\xe9", "/v1/models?" + "a=" * 9_000, "/v1/models#x", "/ x", "?", "/page/\\..\\x"),
        *("/v1/catalog/items?start=9" + "9" * 400, "/v1/catalog/items?limit=nan", "/v1/catalog/items?start=%00"),
    )
    method, version = rng.choice(_METHODS), rng.choice(("1.1", "1.0", "0.9", "2.0", "9.9", "1.1.1", "x", ""))
    return f"{method} {rng.choice(targets)} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode("latin-1")


def _host(rng: random.Random) -> bytes:
    hosts = (
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:99999999",
        "[::1",
        "\xff",
        "a" * 9_000,
        "127.1",
        "@",
    )
    more = rng.choice(((), ("Host: localhost",), ("Origin: null",), ("Origin: http://localhost",)))
    return _post("/v1/recommend", b'{"k": 3}', *more, host=rng.choice(hosts))


def _json(rng: random.Random) -> bytes:
    bodies = (
        *(b"", b"{", b"nul", b'{"k": 3', b"[" * 50_000, b'{"a":' * 20_000, b'"\xff"', b'{"k": \xc3\x28}'),
        *(b'{"k": 1e999}', b'{"k": NaN}', b'{"k": ' + b"9" * 5_000 + b"}", b'{"k": 3}{"k": 3}', b"\xef\xbb\xbf{}"),
        *(b'{"words": "\\ud800"}', b'{"words": "\\u0000"}', b'{"k": 3, "k": 4}', "{}".encode("utf-16"), b"\x00"),
    )
    kind = rng.choice(("application/json", "text/plain", "application/xml", "multipart/form-data; boundary=x", ";", ""))
    return _post(rng.choice(PATHS), rng.choice(bodies), kind=kind)


def _wrong_types(rng: random.Random) -> bytes:
    """JSON with known fields and random values."""
    names = (
        *("k", "user_id", "history", "words", "where", "only", "exclude", "boost", "deadline", "explain", "item_id"),
        *("events", "items", "messages", "model", "stream", "genrec", "n", "stream_options", "on_unknown"),
    )
    body = {name: _value(rng, 0) for name in rng.sample(names, rng.randint(1, 6))}
    return _post(rng.choice(PATHS), json.dumps(body).encode())


def _value(rng: random.Random, depth: int) -> object:
    plain: list[object] = [
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        1e308,
        "",
        "x",
        "i1",
        "\x00",
        "\ud800",
        "x" * 3_000,
        "price < ",
    ]
    kind = rng.randrange(6 if depth < 4 else 4)
    if kind == 4:
        return [_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))]
    if kind == 5:
        names = ("role", "content", "type", "text", "wishes", "limits", "where", "item_id", "user_id", "title", "i1")
        return {rng.choice(names): _value(rng, depth + 1) for _ in range(3)}
    return rng.choice(plain)


def _pipelined(rng: random.Random) -> bytes:
    valid = _post("/v1/recommend", b'{"k": 3}')
    more = rng.choice((valid, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n", _noise(rng), _truncated(rng)))
    return valid * rng.choice((1, 2, 20)) + more * rng.choice((1, 3))


def _unread(rng: random.Random) -> bytes:
    """Many requests whose responses are never read."""
    size = rng.choice((500, 1_000))  # the response is long, but cheap
    return b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * size


def _slow(rng: random.Random) -> tuple[bytes, ...]:
    """A request in pieces, without the last one."""
    request = _post("/v1/recommend", b'{"k": 3, "words": "a lamp"}')
    end = rng.randrange(4, len(request))
    cut = sorted(rng.sample(range(1, end), 3))
    return tuple(request[start:stop] for start, stop in zip([0, *cut], [*cut, end], strict=True))


def _wrong_line_endings(rng: random.Random) -> bytes:
    """A request with wrong line endings."""
    request = _post("/v1/recommend", b'{"k": 3}')
    return request.replace(
        b"\r\n", rng.choice((b"\n", b"\r", b"\n\r", b"\r\n\r\n", b"\x00\r\n", b" \r\n")), rng.randint(1, 6)
    )


_KINDS: dict[str, Callable[[random.Random], bytes | tuple[bytes, ...]]] = {
    "noise": _noise,
    "flipped": _flipped,
    "half": _truncated,
    "length": _length,
    "chunked": _chunked,
    "headers": _headers,
    "target": _target,
    "host": _host,
    "json": _json,
    "types": _wrong_types,
    "pipelined": _pipelined,
    "unread": _unread,
    "slow": _slow,
    "ended": _wrong_line_endings,
}
