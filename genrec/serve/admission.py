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

from genrec.serve.auth import ApiKeys, TokenBucket
from genrec.serve.errors import ApiError
from genrec.serve.telemetry import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_LOGGER = logging.getLogger(__name__)
PUBLIC_PATHS = ("/", "/health/live")
"""What is answered without a key, and where the house is full, too."""

_PUBLIC_PREFIX = "/page/"
_DISCONNECT_WAIT = 0.5  # seconds after which it is known of every connection that it is lost
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""With every answer."""


@dataclass(frozen=True)
class Limits:
    """How much is let in.

    Attributes:
        max_body_bytes: bytes of a request.
        max_concurrent_requests: requests that are answered at the same time; more are told to come back.
        body_timeout: seconds that a body may take to arrive.
    """

    max_body_bytes: int = 1 << 20
    max_concurrent_requests: int = 64
    body_timeout: float = 4.0


class AdmissionMiddleware:
    """Lets requests in to an app.

    Without keys only this machine may ask: by its own names, so that no page of another site reaches it through a
    browser (DNS rebinding), and from pages of its own.

    Args:
        app: what answers.
        keys: who may ask.
        limits: how much is let in.
        is_full: whether a request to an address would be refused by what answers, once it was read.
        metrics: count what happens.
        clock: seconds, rising.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        keys: ApiKeys,
        limits: Limits,
        is_full: Callable[[str], bool],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._app, self._keys, self._limits, self._metrics, self._clock = app, keys, limits, metrics, clock
        self._is_full = is_full
        self._active_requests = 0

    def reject_early(self, scope: Mapping[str, Any]) -> ApiError | None:
        """What a request is told that could not be answered whoever asks; None of every other.

        Otherwise whatever is too much would cost a task each, and those who were let in would wait for all of them.
        """
        path = scope["raw_path"].decode("ascii")
        if scope["method"] != "POST" or not self._is_full(path):
            return None
        refusal = self._check_caller(path, dict(scope["headers"])) or ApiError.overloaded()
        self._metrics.record_request("refused", refusal.status, None)
        return refusal

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Ids within an address may hold anything, slashes too, so routes are found before it is decoded.
        scope["path"] = scope["raw_path"].decode("ascii")
        start, told = self._clock(), _TrackedSend(send)
        refusal = self._check_request(scope)
        if refusal is not None:
            await _send_error(told, refusal)
            self._metrics.record_request("refused", refusal.status, None)
            return
        # What anybody may have takes no place from those who have a key.
        taken = int(not _is_public(scope["path"]))
        self._active_requests += taken
        self._metrics.request_started()
        try:
            await self._forward(scope, receive, told)
        finally:
            self._active_requests -= taken
            self._metrics.request_finished()
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.record_request(route, told.status, self._clock() - start)

    def _check_request(self, scope: MutableMapping[str, Any]) -> ApiError | None:
        headers = dict(scope["headers"])
        refusal = self._check_caller(scope["path"], headers)
        if refusal is not None:
            return refusal
        length = int(_digits_or_zero(headers.get(b"content-length")))
        if _is_public(scope["path"]):
            # A body would be kept until it is whole, for everybody and without a limit of how many.
            return ApiError.too_large(0) if length or b"transfer-encoding" in headers else None
        if length > self._limits.max_body_bytes:
            return ApiError.too_large(self._limits.max_body_bytes)
        if self._active_requests >= self._limits.max_concurrent_requests or self._is_full(scope["path"]):
            return ApiError.overloaded()
        return None

    def _check_caller(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        if not len(self._keys):
            host = headers.get(b"host", b"").decode("latin-1").casefold()
            if not is_loopback(_strip_port(host)):
                return ApiError(403, "without keys only this machine is answered; ask localhost", "foreign_host")
            origin = headers.get(b"origin", b"").decode("latin-1").casefold()
            if origin and origin.partition("://")[2] != host:
                return ApiError(403, "pages of other sites are not answered", "foreign_origin")
            return None
        if _is_public(path):
            return None
        scheme, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        known, bucket = self._keys.find(shown.strip()) if scheme.casefold() == "bearer" else (False, None)
        if not known:
            told = {"www-authenticate": "Bearer"}
            return ApiError(401, "show a key: Authorization: Bearer KEY", "invalid_api_key", headers=told)
        return _check_rate(bucket)

    async def _forward(self, scope: MutableMapping[str, Any], receive: Receive, tracked_send: "_TrackedSend") -> None:
        try:
            body = await self._read_body(receive)
        except ApiError as refusal:
            await _send_error(tracked_send, refusal)
            return
        if body is None:  # gone before it had said all
            return
        pending = [{"type": "http.request", "body": body, "more_body": False}]
        gone, answering = asyncio.ensure_future(receive()), asyncio.current_task()

        async def replay() -> Message:
            return pending.pop() if pending else await asyncio.shield(gone)

        def leave(_: object) -> None:
            if answering is not None and not tracked_send.is_complete:
                answering.cancel()  # whoever left is not computed for any more

        gone.add_done_callback(leave)
        try:
            await self._app(scope, replay, tracked_send)
        except asyncio.CancelledError:
            if not gone.done() or gone.cancelled():
                raise
        except Exception as error:
            gone.remove_done_callback(leave)
            if tracked_send.status:  # nothing can be sent to whoever left a moment ago, and that is no failure
                await asyncio.wait((gone,), timeout=_DISCONNECT_WAIT)
            if not gone.done():
                _LOGGER.exception("a request failed")
                if not tracked_send.status:
                    await _send_error(tracked_send, ApiError.from_exception(error))
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()

    async def _read_body(self, receive: Receive) -> bytes | None:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._limits.max_body_bytes:
                        raise ApiError.too_large(self._limits.max_body_bytes)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            why = "the request did not arrive in time; send it at once"
            raise ApiError(408, why, "slow_request", headers={"connection": "close"}) from None


class _TrackedSend:
    """Sends an answer, and knows its status, 0 before it began, and whether all of it was sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.is_complete = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


async def _send_error(send: Send, error: ApiError) -> None:
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})


def error_headers(error: ApiError) -> dict[str, str]:
    """What stands before its body."""
    return {"content-type": "application/json", "content-length": str(len(error.body)), **error.headers}


def _check_rate(bucket: TokenBucket | None) -> ApiError | None:
    wait = 0.0 if bucket is None else bucket.take()
    if not wait:
        return None
    told = {"retry-after": str(int(wait) + 1)}
    return ApiError(429, "this key asks too often; try again after what Retry-After says", "rate_limited", headers=told)


def _digits_or_zero(value: bytes | None) -> bytes:
    return value if value is not None and value.isdigit() and len(value) < 20 else b"0"


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIX)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or a name."""
    host = host.casefold()
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _strip_port(host: str) -> str:
    """A host without its port, and without the brackets of IPv6."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        return name if closed and port[:1] in ("", ":") else host
    return host.rpartition(":")[0] or host
