"""A queue in front of what answers many requests at once: those that came meanwhile are answered together.

Letters: U requests.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from genrec.errors import EngineError, FullError, check_count

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_RUSHES = 2  # full queues whose batches come in a row until it is no rush any more, but a load that lasts
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Request, Answer]):
    request: Request
    key: Hashable
    future: "Future[Answer]" = field(default_factory=Future)


class Lane(Generic[Request, Answer]):
    """Hands requests of many threads to a function that answers U of them in less time than one after the other.

    The oldest request goes first, and with it, in the order they came, those of its key. Nobody waits for others to
    come: a batch is what came while the last one was answered. A context manager, which closes it.

    Args:
        answer: called with a key and U requests of it, in a thread of the lane's own; gives U answers in their order.
            Where it raises, each request is tried alone, so that one spoils no other.
        most: requests that may wait; those being answered do not count. Where the load lasts, no more may
            wait than are answered next: a queue that never ends makes everybody wait, and nobody is answered for it
            (Nichols and Jacobson, "Controlling Queue Delay", 2012).
        together: U at most.
    """

    def __init__(
        self,
        answer: Callable[[Hashable, Sequence[Request]], Sequence[Answer]],
        *,
        most: int,
        together: int,
    ) -> None:
        for name, value in (("most", most), ("together", together)):
            check_count(name, value)
        self._answer, self._most, self._together = answer, most, together
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._full_batches = 0  # in a row
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Lane[Request, Answer]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many wait, and did not leave."""
        with self._changed:
            return sum(not one.future.cancelled() for one in self._queue)

    @property
    def is_full(self) -> bool:
        """Whether another request would be refused."""
        with self._changed:
            return not self._has_room()

    def put(self, request: Request, key: Hashable = None) -> "Future[Answer]":
        """Hand in a request; the future, once cancelled, is not computed, unless it is already.

        Args:
            request: what is asked.
            key: only requests of equal keys are answered together.

        Raises:
            FullError: as many wait as may.
            EngineError: the lane is closed.
        """
        waiting = _Waiting[Request, Answer](request, key)
        with self._changed:
            if self._closed:
                raise EngineError("the lane is closed; ask one that is open")
            if not self._has_room():
                raise FullError(f"{len(self._queue):,} requests wait already; try again later")
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Refuse what waits and what comes, and return when what is being answered is done; may be called again."""
        with self._changed:
            self._closed = True
            left, self._queue = self._queue, deque()
            self._changed.notify_all()
        for one in left:
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(EngineError("the lane was closed before the request was answered; ask again"))
        self._thread.join()

    def _has_room(self) -> bool:
        """Whether one more may wait; those who left wait no longer."""
        lasts = self._full_batches * self._together > _RUSHES * self._most
        most = min(self._most, self._together) if lasts else self._most
        if len(self._queue) >= most:
            self._queue = deque(one for one in self._queue if not one.future.cancelled())
        return len(self._queue) < most

    def _work(self) -> None:
        while batch := self._take():
            running = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if running:
                self._serve(running)

    def _take(self) -> list[_Waiting[Request, Answer]]:
        """The next batch, once there is one; nothing once the lane is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch: list[_Waiting[Request, Answer]] = []
            others: deque[_Waiting[Request, Answer]] = deque()
            for one in self._queue:
                fits = one.key == self._queue[0].key and len(batch) < self._together
                (batch if fits else others).append(one)
            self._queue = others
            self._full_batches = self._full_batches + 1 if len(batch) == self._together else 0
            return batch

    def _serve(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        try:
            answers = self._answer(batch[0].key, [one.request for one in batch])
            pairs = list(zip(batch, answers, strict=True))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that asks)
            if len(batch) == 1:
                batch[0].future.set_exception(_caught(error))
            else:
                for one in batch:
                    self._serve([one])
        else:
            for one, answer in pairs:
                one.future.set_result(answer)


def _caught(error: BaseException) -> Exception:
    """What whoever asks can bear: a panic of compiled code is no Exception, and would end their loop, too."""
    if isinstance(error, Exception):
        return error
    _LOGGER.error("a request broke off", exc_info=error)
    return EngineError(f"a request broke off: {error!r}; ask again")
