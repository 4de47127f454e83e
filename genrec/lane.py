"""A queue in front of a function that answers many at once: who comes while it computes is answered next, together."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class FullError(Exception):
    """As many wait as may."""


class ClosedError(Exception):
    """The lane answers nobody any more."""


@dataclass(frozen=True)
class _Place(Generic[Asked, Answered]):
    asked: Asked
    key: Hashable
    future: "Future[Answered]"


class Lane(Generic[Asked, Answered]):
    """Answers in the order of arrival, from one thread.

    Args:
        answer: many at once, an answer for each; what it raises for several, each is tried alone for.
        key: what is answered together has the same.
        most: how many may wait, beside those that are being answered.
        together: how many are answered at once.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answered]],
        *,
        key: Callable[[Asked], Hashable],
        most: int,
        together: int,
    ) -> None:
        self._answer, self._key, self._most, self._together = answer, key, most, together
        self._waiting: deque[_Place[Asked, Answered]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="lane", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, asked: Asked) -> "Future[Answered]":
        """An answer to come; who cancels it before its turn is not computed for.

        Raises:
            FullError: too many wait.
            ClosedError: the lane is closed.
        """
        place = _Place(asked, self._key(asked), Future[Answered]())
        with self._changed:
            if self._closed:
                raise ClosedError("the lane is closed")
            if len(self._waiting) >= self._most:
                self._waiting = deque(own for own in self._waiting if not own.future.cancelled())
            if len(self._waiting) >= self._most:
                raise FullError(f"{self._most} wait already")
            self._waiting.append(place)
            self._changed.notify()
        return place.future

    def close(self) -> None:
        """Answer who is being answered, and nobody else."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for place in left:
            if place.future.set_running_or_notify_cancel():
                place.future.set_exception(ClosedError("the lane was closed"))
        self._thread.join()

    def _work(self) -> None:
        while places := self._next():
            self._serve(places)

    def _next(self) -> list[_Place[Asked, Answered]]:
        """The first who waits, with those of the same key; nobody once the lane is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            key = self._waiting[0].key
            taken = [place for place in self._waiting if place.key == key][: self._together]
            chosen = set(map(id, taken))
            self._waiting = deque(place for place in self._waiting if id(place) not in chosen)
        return taken

    def _serve(self, places: Sequence[_Place[Asked, Answered]]) -> None:
        self._try([place for place in places if place.future.set_running_or_notify_cancel()])

    def _try(self, places: Sequence[_Place[Asked, Answered]]) -> None:
        if not places:
            return
        try:
            answers = self._answer([place.asked for place in places])
        except BaseException as error:  # noqa: BLE001  (whoever waits raises it)
            if len(places) > 1:
                for place in places:
                    self._try([place])
            else:
                places[0].future.set_exception(error)
            return
        for place, answer in zip(places, answers, strict=True):
            place.future.set_result(answer)
