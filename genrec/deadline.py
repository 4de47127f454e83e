"""Deadlines: the time until which a request must be answered."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from genrec.errors import DeadlineExceededError

_POLL_INTERVAL = 0.05  # seconds between two checks of the deadline while waiting for a lock


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on a given clock.

    Attributes:
        at: the time, in seconds of `clock`.
        clock: the current time in seconds.
    """

    at: float
    clock: Callable[[], float]

    @classmethod
    def never(cls) -> "Deadline":
        """A deadline that never passes."""
        return cls(math.inf, lambda: 0.0)

    def remaining(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.at - self.clock()

    def check(self) -> None:
        """Raise an error if the deadline has passed.

        Raises:
            DeadlineExceededError: the deadline has passed.
        """
        if self.remaining() < 0:
            raise DeadlineExceededError(f"the deadline passed {-self.remaining():.2f} s ago")

    @contextmanager
    def acquire(self, lock: Lock) -> Iterator[None]:
        """Acquire a lock, and release it on leaving.

        Raises:
            DeadlineExceededError: the deadline passed before the lock was free.
        """
        self.check()
        while not lock.acquire(timeout=min(_POLL_INTERVAL, max(0.0, self.remaining()))):
            self.check()
        try:
            yield
        finally:
            lock.release()
