"""Requests to a model server over HTTP: retries, rate limits, deadlines, and a key that stays out of every message.

A request that did not reach the server, or that it answered with a passing failure, is sent again, later each time, or
when `Retry-After` says; one that timed out is not. While a server limits the rate, all requests of a connection wait.
None waits past its deadline.
"""

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from genrec.backends.redirects import redirect_target
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError, ModelMissingError, format_value

API_KEY_VARIABLE = "GENREC_MODEL_API_KEY"
"""The environment variable with the key of a model's server; it is neither logged nor stored."""

_MAX_ATTEMPTS = 4
_FIRST_DELAY = 0.5  # seconds before the second attempt; doubles before each further one
_RETRIED_STATUS = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_RATE_LIMITED = 429
_TIMEOUT_MARGIN = 0.05  # seconds by which a timeout may fire early
_MAX_EXCERPT = 200  # characters of a response that an error message quotes


@dataclass(frozen=True)
class HttpResponse:
    """A response: its status, its body as text, and where it redirects to, or ""."""

    status: int
    text: str
    redirect: str = ""


class RefusedError(EngineError):
    """The server refused a request. `response` is its response."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(f"the server answered {response.status}")
        self.response = response


class ApiConnection:
    """A connection to the server of a model.

    Args:
        url: base URL, such as `https://api.openai.com/v1`; without a path, `/v1` is added.
        api_key: sent as a bearer token; "" for none.
        timeout: time limit in seconds for one attempt, and for one wait at a rate limit.
        max_concurrency: maximum number of concurrent requests.
        clock: a monotonic clock, in seconds.

    Attributes:
        server: names the server in messages: host and port.

    Raises:
        InputError: the URL is not valid, or contains a password or a query.
        ModelMissingError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        timeout: float = 60.0,
        max_concurrency: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ModelMissingError("httpx is not installed; run: pip install 'genrec[api]'") from error
        self._httpx: Any = httpx
        base = check_server_url(url)
        self._api_key, self._timeout, self._clock = api_key, timeout, clock
        self._client = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency),
            trust_env=not _is_loopback(httpx.URL(base).host),  # proxies of the environment, but not to this machine
        )
        self.server = f"the model server at {self._client.base_url.netloc.decode()}"
        self._lock = threading.Lock()
        self._resume_at = 0.0  # of the clock; until then, the server limits the rate

    def send(self, method: str, path: str, body: Any, deadline: Deadline) -> HttpResponse:
        """Send a request until the server answers it, or refuses it.

        Returns:
            The response: successful, or a refusal that another attempt would not change.

        Raises:
            EngineError: the server cannot be reached, failed at every attempt, or limits the rate for too long.
            DeadlineExceededError: the deadline passed.
        """
        response: HttpResponse = self._open(method, path, body, deadline, read=True)[0]
        return response

    def stream(self, path: str, body: Any, deadline: Deadline) -> Generator[str, None, None]:
        """Post a request like `send`, and yield the lines of the response; a response that has begun is not retried.

        Raises:
            RefusedError: the server refused the request.
            EngineError, DeadlineExceededError: as for `send`, also while the lines are read.
        """
        response, limit = self._open("POST", path, body, deadline, read=False)
        if isinstance(response, HttpResponse):
            raise RefusedError(response)
        try:
            for line in response.iter_lines():
                if limit.remaining() <= 0:
                    raise self._timeout_error(deadline)
                yield line
        except self._httpx.TimeoutException as error:
            raise self._timeout_error(deadline) from error
        except (self._httpx.TransportError, self._httpx.StreamError) as error:
            raise EngineError(f"{self.server} closed the stream early: {error}; send the request again") from error
        finally:
            response.close()

    def _open(self, method: str, path: str, body: Any, deadline: Deadline, *, read: bool) -> "tuple[Any, Deadline]":
        """The first response that is successful, read or open, or a refusal; and when it must be read."""
        cause = ""
        for attempt in range(_MAX_ATTEMPTS):
            self._wait_for_turn(attempt, deadline, cause)
            limit = self._attempt_limit(deadline)
            try:
                request = self._client.build_request(method, path, json=body, timeout=limit.remaining())
                response = self._client.send(request, stream=True)
                if response.status_code == 200 and not read:
                    return response, limit
                text = self._read(response, limit, deadline)
            except self._httpx.TimeoutException as error:
                raise self._timeout_error(deadline) from error
            except (self._httpx.TransportError, self._httpx.DecodingError) as error:
                cause = f"{type(error).__name__}: {error}"
                continue
            except RuntimeError as error:
                raise EngineError(f"the connection to {self.server} was closed; open another backend") from error
            if response.status_code not in _RETRIED_STATUS or _is_final(text):
                target = self.excerpt(redirect_target(str(response.url), response))
                return HttpResponse(response.status_code, text, target), limit
            cause = f"it answered {response.status_code}: {self.excerpt(text)}"
            self._note_retry_after(response, cause)
        raise EngineError(f"{self.server} failed {_MAX_ATTEMPTS} times: {cause}; check the server, or try again later")

    def excerpt(self, text: str) -> str:
        """The beginning of a server's text for a message, on one line and without the key."""
        shown = text.replace(self._api_key, "...") if self._api_key else text
        shown = " ".join(shown.split())
        return shown if len(shown) <= _MAX_EXCERPT else f"{shown[:_MAX_EXCERPT]}..."

    def close(self) -> None:
        """Close the connection; running requests fail."""
        self._client.close()

    def _read(self, response: Any, limit: Deadline, deadline: Deadline) -> str:
        """The body, read in pieces, because httpx's timeout applies to each piece only."""
        pieces = []
        try:
            for piece in response.iter_text():
                if limit.remaining() <= 0:
                    raise self._timeout_error(deadline)
                pieces.append(piece)
        finally:
            response.close()
        return "".join(pieces)

    def _attempt_limit(self, deadline: Deadline) -> Deadline:
        """When an attempt that starts now must have its answer."""
        remaining = min(deadline.remaining(), self._timeout)
        if remaining <= 0:
            raise self._timeout_error(deadline)
        return Deadline(self._clock() + remaining, self._clock)

    def _wait_for_turn(self, attempt: int, deadline: Deadline, cause: str) -> None:
        """Wait as long as the server limits the rate, and between attempts."""
        seconds = self._resume_at - self._clock()
        if attempt and seconds <= 0:
            seconds = _FIRST_DELAY * 2 ** (attempt - 1) * (0.5 + random.random() / 2)
        if seconds > 0:
            self._wait(seconds, deadline, cause)

    def _wait(self, seconds: float, deadline: Deadline, cause: str) -> None:
        """Wait; raise at once if that would exceed the deadline."""
        if seconds >= deadline.remaining():
            because = cause and f" ({cause})"
            raise DeadlineExceededError(
                f"the next request to {self.server} can be sent in {seconds:.1f} s, after the deadline{because}"
            )
        time.sleep(seconds)

    def _note_retry_after(self, response: Any, cause: str) -> None:
        """Make all requests wait as long as the server says, if it says so."""
        seconds = _retry_after(response.headers)
        if seconds is None:
            return
        if seconds > self._timeout:
            raise EngineError(
                f"the next request to {self.server} can be sent in {seconds:.0f} s, but timeout is "
                f"{self._timeout:g} s ({cause}); raise timeout, or send fewer requests"
            )
        with self._lock:
            self._resume_at = max(self._resume_at, self._clock() + seconds)

    def _timeout_error(self, deadline: Deadline) -> EngineError:
        if deadline.remaining() <= _TIMEOUT_MARGIN:
            return DeadlineExceededError(f"{self.server} did not answer before the deadline")
        return EngineError(
            f"{self.server} did not answer within {self._timeout:g} s; check the server or raise timeout"
        )


def check_server_url(url: str, name: str = "server") -> str:
    """The base URL of a server, with `/v1` if it has no path.

    Args:
        url: the URL.
        name: what messages call it.

    Raises:
        InputError: the URL is not an HTTP URL, or contains a password or a query, which would get into logs.
    """
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        problem = f"{name} {format_value(url)} is not an HTTP URL"
        raise InputError(f"{problem}; give a base URL such as http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"{name} at {parts.hostname} contains a user name, a password or a query, which would appear in logs and "
            f"manifests; set {API_KEY_VARIABLE} instead"
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def _is_final(text: str) -> bool:
    """Whether a failure with a passing status does not pass, because the account has no credit left."""
    return "insufficient_quota" in text


def _retry_after(headers: Any) -> float | None:
    """Seconds until the next attempt by the headers of a response; None if they name none that makes sense.

    A date counts from the response's own, so that the clocks of the two machines need not agree.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) / divisor
            return seconds if 0 <= seconds < float("inf") else None
    try:
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return max(0.0, (until - now).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
