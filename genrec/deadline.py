"""How long a request may still take."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from genrec.errors import DeadlineExceededError

_POLL_INTERVAL = 0.05  # seconds between two looks at the clock while a lock is waited for


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock of seconds. The clock is given, never read from the machine here."""

    at: float
    clock: Callable[[], float]

    @classmethod
    def never(cls) -> "Deadline":
        """A deadline that does not come."""
        return cls(math.inf, lambda: 0.0)

    def remaining(self) -> float:
        """Seconds that remain, below 0 once it has passed."""
        return self.at - self.clock()

    def check(self) -> None:
        """Raise once the moment has passed.

        Raises:
            DeadlineExceededError: it has.
        """
        if self.remaining() < 0:
            raise DeadlineExceededError(f"the deadline passed {-self.remaining():.2f} s ago")

    @contextmanager
    def acquire(self, lock: Lock) -> Iterator[None]:
        """Hold a lock, once whoever has it lets go.

        Raises:
            DeadlineExceededError: the moment passed before.
        """
        self.check()
        while not lock.acquire(timeout=min(_POLL_INTERVAL, max(0.0, self.remaining()))):
            self.check()
        try:
            yield
        finally:
            lock.release()
