"""Admission control: authentication, rate limits, body limits and concurrency limits, before any route runs.

Written directly against ASGI, so that rejecting a request is cheap. Source: ASGI specification, "HTTP &
WebSocket ASGI Message Format".
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from genrec.serve.auth import ApiKeys, TokenBucket
from genrec.serve.errors import ApiError, assign_request_id, log_failure
from genrec.serve.telemetry import Metrics

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PUBLIC_PATHS = ("/", "/health/live")
"""Paths that need no API key and are answered even at capacity."""

_PUBLIC_PREFIX = "/page/"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every response."""


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        max_body_bytes: maximum size of a request body.
        max_concurrent_requests: requests in progress at the same time; further ones get status 429.
        body_timeout: seconds within which a body must arrive.
    """

    max_body_bytes: int = 1 << 20
    max_concurrent_requests: int = 64
    body_timeout: float = 4.0


class AdmissionMiddleware:
    """ASGI middleware that rejects requests without a valid API key, and requests over a limit.

    Without API keys, only requests from this machine are accepted: the Host header must name a loopback address, which
    prevents DNS rebinding, and the Origin header, if present, must be the server's own.

    Args:
        app: the app behind the middleware.
        keys: API keys; if empty, no key is required.
        limits: limits on requests.
        is_full: whether the queue behind a path is full, so that a request would be rejected after its body is read.
        metrics: counts requests.
        clock: monotonic seconds.
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
        """The error for a request whose queue is full, without starting a task for it; None for other requests.

        A task per rejected request would delay the accepted requests under overload.
        """
        path = scope["raw_path"].decode("ascii")
        if scope["method"] != "POST" or not self._is_full(path):
            return None
        error = self._check_caller(path, dict(scope["headers"])) or ApiError.overloaded()
        self._metrics.record_request("refused", error.status, None)
        return error

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Forward one request to the app, or reject it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Routes match the encoded path, because ids in it may contain encoded slashes.
        scope["path"] = scope["raw_path"].decode("ascii")
        start, tracked_send = self._clock(), _TrackedSend(send, assign_request_id(scope))
        error = self._check_request(scope)
        if error is not None:
            await _send_error(tracked_send, error)
            self._metrics.record_request("refused", error.status, None)
            return
        # Public paths use no capacity of requests with an API key.
        capacity = int(not _is_public(scope["path"]))
        self._active_requests += capacity
        self._metrics.request_started()
        try:
            await self._forward(scope, receive, tracked_send)
        finally:
            self._active_requests -= capacity
            self._metrics.request_finished()
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.record_request(route, tracked_send.status, self._clock() - start)

    def _check_request(self, scope: MutableMapping[str, Any]) -> ApiError | None:
        headers = dict(scope["headers"])
        error = self._check_caller(scope["path"], headers)
        if error is not None:
            return error
        length = int(_digits_or_zero(headers.get(b"content-length")))
        if _is_public(scope["path"]):
            # Bodies are buffered; without a limit on public requests, they could fill the memory.
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
                return ApiError(
                    403,
                    "without API keys, only requests to localhost are accepted; use localhost or configure keys",
                    "foreign_host",
                )
            origin = headers.get(b"origin", b"").decode("latin-1").casefold()
            if origin and origin.partition("://")[2] != host:
                return ApiError(
                    403, "requests from other origins are rejected; open the page of this server", "foreign_origin"
                )
            return None
        if _is_public(path):
            return None
        scheme, _, credentials = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        known, bucket = self._keys.find(credentials.strip()) if scheme.casefold() == "bearer" else (False, None)
        if not known:
            challenge = {"www-authenticate": "Bearer"}
            message = "missing or unknown API key; send the header Authorization: Bearer KEY"
            return ApiError(401, message, "invalid_api_key", headers=challenge)
        return _check_rate(bucket)

    async def _forward(self, scope: MutableMapping[str, Any], receive: Receive, tracked_send: "_TrackedSend") -> None:
        try:
            body = await self._read_body(receive)
        except ApiError as error:
            await _send_error(tracked_send, error)
            return
        if body is None:  # the client disconnected before the end of the body
            return
        pending = [{"type": "http.request", "body": body, "more_body": False}]
        disconnected, handling = asyncio.ensure_future(receive()), asyncio.current_task()

        async def replay() -> AsgiMessage:
            return pending.pop() if pending else await asyncio.shield(disconnected)

        def cancel(_: object) -> None:
            if handling is not None and not tracked_send.is_complete:
                handling.cancel()

        disconnected.add_done_callback(cancel)
        try:
            await self._app(scope, replay, tracked_send)
        except asyncio.CancelledError:
            if not disconnected.done() or disconnected.cancelled():
                raise
        except Exception as error:  # noqa: BLE001  (logged, and answered)
            disconnected.remove_done_callback(cancel)
            log_failure(scope, error)
            if not tracked_send.status and not disconnected.done():
                await _send_error(tracked_send, ApiError.from_exception(error))
        finally:
            disconnected.remove_done_callback(cancel)
            disconnected.cancel()

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
            reason = f"the request body did not arrive within {self._limits.body_timeout:g} s; send it without pauses"
            raise ApiError(408, reason, "slow_request", headers={"connection": "close"}) from None


class _TrackedSend:
    """Sends a response with the id of its request.

    Records its status, 0 before it starts, and whether it is complete.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.status, self.is_complete = send, 0, False
        self._headers = (*SECURITY_HEADERS, (b"x-request-id", request_id.encode()))

    async def __call__(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


async def _send_error(send: Send, error: ApiError) -> None:
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})


def error_headers(error: ApiError) -> dict[str, str]:
    """The headers of an error response."""
    return {"content-type": "application/json", "content-length": str(len(error.body)), **error.headers}


def _check_rate(bucket: TokenBucket | None) -> ApiError | None:
    wait = 0.0 if bucket is None else bucket.take()
    if not wait:
        return None
    headers = {"retry-after": str(int(wait) + 1)}
    message = "the rate limit of this API key is exceeded; retry after the seconds in the Retry-After header"
    return ApiError(429, message, "rate_limited", headers=headers)


def _digits_or_zero(value: bytes | None) -> bytes:
    return value if value is not None and value.isdigit() and len(value) < 20 else b"0"


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIX)


def is_loopback(host: str) -> bool:
    """Whether an address or a host name is reachable from this machine only."""
    host = host.casefold()
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _strip_port(host: str) -> str:
    """A host without port and without IPv6 brackets."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        return name if closed and port[:1] in ("", ":") else host
    return host.rpartition(":")[0] or host
