"""What every request passes before anything else sees it: who asks, how often, how much, and whether there is room.

Written against ASGI itself, so that what is refused costs next to nothing. Source: ASGI specification, "HTTP &
WebSocket ASGI Message Format".
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from genrec.serve.auth import Bucket, Keys
from genrec.serve.errors import RefusedError
from genrec.serve.telemetry import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_LOGGER = logging.getLogger(__name__)
OPEN = ("/", "/health/live")
"""What is answered without a key, and where the house is full, too."""

_OPEN_UNDER = "/page/"
_NOTICED = 0.5  # seconds after which it is known of every connection that it is lost
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""With every answer."""


@dataclass(frozen=True)
class Room:
    """How much is let in.

    Attributes:
        body: bytes of a request.
        inside: requests that are answered at the same time; more are told to come back.
        patience: seconds that a body may take to arrive.
    """

    body: int = 1 << 20
    inside: int = 64
    patience: float = 4.0


class Door:
    """Lets requests in to an app.

    Without keys only this machine may ask: by its own names, so that no page of another site reaches it through a
    browser (DNS rebinding), and from pages of its own.

    Args:
        app: what answers.
        keys: who may ask.
        room: how much is let in.
        is_full: whether a request to an address would be refused by what answers, once it was read.
        metrics: count what happens.
        clock: seconds, rising.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        room: Room,
        is_full: Callable[[str], bool],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._app, self._keys, self._room, self._metrics, self._clock = app, keys, room, metrics, clock
        self._is_full = is_full
        self._inside = 0

    def refuse_at_once(self, scope: Mapping[str, Any]) -> RefusedError | None:
        """What a request is told that could not be answered whoever asks; None of every other.

        Otherwise whatever is too much would cost a task each, and those who were let in would wait for all of them.
        """
        path = scope["raw_path"].decode("ascii")
        if scope["method"] != "POST" or not self._is_full(path):
            return None
        refusal = self._refuse_caller(path, dict(scope["headers"])) or RefusedError.busy()
        self._metrics.answered("refused", refusal.status, None)
        return refusal

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Ids within an address may hold anything, slashes too, so routes are found before it is decoded.
        scope["path"] = scope["raw_path"].decode("ascii")
        start, told = self._clock(), _Told(send)
        refusal = self._refuse(scope)
        if refusal is not None:
            await _send(told, refusal)
            self._metrics.answered("refused", refusal.status, None)
            return
        # What anybody may have takes no place from those who have a key.
        taken = int(not _is_open(scope["path"]))
        self._inside += taken
        self._metrics.entered()
        try:
            await self._let_in(scope, receive, told)
        finally:
            self._inside -= taken
            self._metrics.left()
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.answered(route, told.status, self._clock() - start)

    def _refuse(self, scope: MutableMapping[str, Any]) -> RefusedError | None:
        headers = dict(scope["headers"])
        refusal = self._refuse_caller(scope["path"], headers)
        if refusal is not None:
            return refusal
        length = int(_digits(headers.get(b"content-length")))
        if _is_open(scope["path"]):
            # A body would be kept until it is whole, for everybody and without a limit of how many.
            return RefusedError.too_large(0) if length or b"transfer-encoding" in headers else None
        if length > self._room.body:
            return RefusedError.too_large(self._room.body)
        if self._inside >= self._room.inside or self._is_full(scope["path"]):
            return RefusedError.busy()
        return None

    def _refuse_caller(self, path: str, headers: dict[bytes, bytes]) -> RefusedError | None:
        if not len(self._keys):
            host = headers.get(b"host", b"").decode("latin-1").casefold()
            if not is_loopback(_name(host)):
                return RefusedError(403, "without keys only this machine is answered; ask localhost", "foreign_host")
            origin = headers.get(b"origin", b"").decode("latin-1").casefold()
            if origin and origin.partition("://")[2] != host:
                return RefusedError(403, "pages of other sites are not answered", "foreign_origin")
            return None
        if _is_open(path):
            return None
        scheme, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        known, bucket = self._keys.find(shown.strip()) if scheme.casefold() == "bearer" else (False, None)
        if not known:
            told = {"www-authenticate": "Bearer"}
            return RefusedError(401, "show a key: Authorization: Bearer KEY", "invalid_api_key", headers=told)
        return _too_often(bucket)

    async def _let_in(self, scope: MutableMapping[str, Any], receive: Receive, told: "_Told") -> None:
        try:
            body = await self._read(receive)
        except RefusedError as refusal:
            await _send(told, refusal)
            return
        if body is None:  # gone before it had said all
            return
        pending = [{"type": "http.request", "body": body, "more_body": False}]
        gone, answering = asyncio.ensure_future(receive()), asyncio.current_task()

        async def replay() -> Message:
            return pending.pop() if pending else await asyncio.shield(gone)

        def leave(_: object) -> None:
            if answering is not None and not told.is_whole:
                answering.cancel()  # whoever left is not computed for any more

        gone.add_done_callback(leave)
        try:
            await self._app(scope, replay, told)
        except asyncio.CancelledError:
            if not gone.done() or gone.cancelled():
                raise
        except Exception as error:
            gone.remove_done_callback(leave)
            if told.status:  # nothing can be sent to whoever left a moment ago, and that is no failure
                await asyncio.wait((gone,), timeout=_NOTICED)
            if not gone.done():
                _LOGGER.exception("a request failed")
                if not told.status:
                    await _send(told, RefusedError.of(error))
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        try:
            async with asyncio.timeout(self._room.patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._room.body:
                        raise RefusedError.too_large(self._room.body)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            why = "the request did not arrive in time; send it at once"
            raise RefusedError(408, why, "slow_request", headers={"connection": "close"}) from None


class _Told:
    """Sends an answer, and knows its status, 0 before it began, and whether all of it was sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.is_whole = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        elif not message.get("more_body", False):
            self.is_whole = True
        await self._send(message)


async def _send(send: Send, refusal: RefusedError) -> None:
    headers = [(name.encode(), value.encode()) for name, value in headers_of(refusal).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


def headers_of(refusal: RefusedError) -> dict[str, str]:
    """What stands before its body."""
    return {"content-type": "application/json", "content-length": str(len(refusal.body)), **refusal.headers}


def _too_often(bucket: Bucket | None) -> RefusedError | None:
    wait = 0.0 if bucket is None else bucket.take()
    if not wait:
        return None
    told = {"retry-after": str(int(wait) + 1)}
    return RefusedError(
        429, "this key asks too often; try again after what Retry-After says", "rate_limited", headers=told
    )


def _digits(value: bytes | None) -> bytes:
    return value if value is not None and value.isdigit() and len(value) < 20 else b"0"


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(_OPEN_UNDER)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or a name."""
    host = host.casefold()
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A host without its port, and without the brackets of IPv6."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        return name if closed and port[:1] in ("", ":") else host
    return host.rpartition(":")[0] or host
