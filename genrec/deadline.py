"""How long a request may still take."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from genrec.errors import DeadlineExceededError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock of seconds. The clock is given, never read from the machine here."""

    at: float
    clock: Callable[[], float]

    @classmethod
    def never(cls) -> "Deadline":
        """A deadline that does not come."""
        return cls(math.inf, lambda: 0.0)

    def left(self) -> float:
        """Seconds that remain, below 0 once it has passed."""
        return self.at - self.clock()

    def check(self) -> None:
        """Raise once the moment has passed.

        Raises:
            DeadlineExceededError: it has.
        """
        if self.left() < 0:
            raise DeadlineExceededError(f"the deadline passed {-self.left():.2f} s ago")
