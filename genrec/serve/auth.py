"""API keys, and a rate limit for each."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

from genrec.errors import InputError

_MIN_KEY_LENGTH = 16  # characters; shorter keys can be guessed


class ApiKeys:
    """API keys, stored as digests, each with its own rate limit.

    Args:
        keys: the accepted keys; if empty, no key is required.
        rate: sustained requests per second for each key; None for no limit.
        burst: requests that a key may send at once.
        clock: monotonic seconds.

    Raises:
        InputError: a key is too short or has invalid characters; the message has its position, never the key.
    """

    def __init__(
        self, keys: Iterable[str], *, rate: float | None = None, burst: float = 1.0, clock: Callable[[], float]
    ) -> None:
        self._buckets: dict[bytes, TokenBucket | None] = {}
        for position, key in enumerate(keys, start=1):
            if len(key) < _MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"API key {position} does not have at least {_MIN_KEY_LENGTH} ASCII characters without spaces; "
                    "generate one with python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
            self._buckets[_digest(key)] = None if rate is None else TokenBucket(rate, burst, clock)

    def __len__(self) -> int:
        return len(self._buckets)

    def find(self, presented: str) -> "tuple[bool, TokenBucket | None]":
        """Whether a key is accepted, and its token bucket, if it has a rate limit."""
        digest = _digest(presented)
        for known, bucket in self._buckets.items():
            if hmac.compare_digest(known, digest):
                return True, bucket
        return False, None


class TokenBucket:
    """A token bucket: each request takes a token, and tokens are refilled at a constant rate. Not thread-safe.

    Source: Turner, "New Directions in Communications (or Which Way to the Information Age?)", IEEE Communications 1986.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        if not (0 < rate < float("inf") and 1 <= burst < float("inf")):
            raise InputError(
                f"rate is {rate} and burst is {burst}; use a rate above 0 per second and a burst of at least 1"
            )
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._refilled_at = burst, clock()

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


def read_keys(path: Path) -> list[str]:
    """Read API keys from a file with one key per line; blank lines and lines that begin with # are ignored.

    Raises:
        InputError: the file cannot be read, or has no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the API keys in {path} cannot be read: {error}; use a text file with one key per line"
        ) from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputError(f"{path} contains no API key; add one key per line, or omit --keys to serve this machine only")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
