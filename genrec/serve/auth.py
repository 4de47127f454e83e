"""Who may ask, and how often."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

from genrec.errors import InputError

_MIN_KEY_LENGTH = 16  # characters of a key that cannot be guessed


class ApiKeys:
    """Keys that callers show, kept as digests, each with the bucket of its requests.

    Args:
        keys: without any, nobody has to show one.
        rate: requests a second that each may make for long; None for no limit.
        burst: that may come at once.
        clock: seconds, rising.

    Raises:
        InputError: a key is too short to be one (its place is said, not the key).
    """

    def __init__(
        self, keys: Iterable[str], *, rate: float | None = None, burst: float = 1.0, clock: Callable[[], float]
    ) -> None:
        self._buckets: dict[bytes, TokenBucket | None] = {}
        for place, key in enumerate(keys, start=1):
            if len(key) < _MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"key {place} is no text of {_MIN_KEY_LENGTH} or more ASCII characters without spaces; make one with "
                    "python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
            self._buckets[_digest(key)] = None if rate is None else TokenBucket(rate, burst, clock)

    def __len__(self) -> int:
        return len(self._buckets)

    def find(self, presented: str) -> "tuple[bool, TokenBucket | None]":
        """Whether a key is one of these, and the bucket of its requests."""
        digest = _digest(presented)
        for own, bucket in self._buckets.items():
            if hmac.compare_digest(own, digest):
                return True, bucket
        return False, None


class TokenBucket:
    """A token bucket: a request takes a token, and tokens come back evenly. Used by one thread.

    Source: Turner, "New Directions in Communications (or Which Way to the Information Age?)", IEEE Communications 1986.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        if not (0 < rate < float("inf") and 1 <= burst < float("inf")):
            raise InputError(f"rate is {rate} and burst {burst}; give requests a second above 0, and 1 or more at once")
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._refilled_at = burst, clock()

    def take(self) -> float:
        """Take a token: 0, or the seconds until there is one, and none is taken."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


def read_keys(path: Path) -> list[str]:
    """A file of keys, one a line; empty lines and those that begin with # are passed over.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the keys in {path} cannot be read: {error}; give a text file with a key a line") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputError(f"{path} holds no key; write one a line, or leave --keys out for loopback only")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
