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

from genrec.errors import EngineError, QueueFullError, check_count

Request = TypeVar("Request")
Response = TypeVar("Response")

_OVERLOAD_QUEUES = 2  # full queues whose batches come in a row until it is no rush any more, but a load that lasts
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _QueuedRequest(Generic[Request, Response]):
    request: Request
    key: Hashable
    future: "Future[Response]" = field(default_factory=Future)


class DynamicBatcher(Generic[Request, Response]):
    """Hands requests of many threads to a function that answers U of them in less time than one after the other.

    The oldest request goes first, and with it, in the order they came, those of its key. Nobody waits for others to
    come: a batch is what came while the last one was answered. A context manager, which closes it.

    Args:
        process: called with a key and U requests of it, in a thread of the lane's own; gives U answers in their order.
            Where it raises, each request is tried alone, so that one spoils no other.
        max_queue: requests that may wait; those being answered do not count. Where the load lasts, no more may
            wait than are answered next: a queue that never ends makes everybody wait, and nobody is answered for it
            (Nichols and Jacobson, "Controlling Queue Delay", 2012).
        max_batch_size: U at most.
    """

    def __init__(
        self,
        process: Callable[[Hashable, Sequence[Request]], Sequence[Response]],
        *,
        max_queue: int,
        max_batch_size: int,
    ) -> None:
        for name, value in (("max_queue", max_queue), ("max_batch_size", max_batch_size)):
            check_count(name, value)
        self._process, self._max_queue, self._max_batch_size = process, max_queue, max_batch_size
        self._queue: deque[_QueuedRequest[Request, Response]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._full_batch_streak = 0  # in a row
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "DynamicBatcher[Request, Response]":
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
            return not self._can_accept()

    def submit(self, request: Request, key: Hashable = None) -> "Future[Response]":
        """Hand in a request; the future, once cancelled, is not computed, unless it is already.

        Args:
            request: what is asked.
            key: only requests of equal keys are answered together.

        Raises:
            FullError: as many wait as may.
            EngineError: the lane is closed.
        """
        waiting = _QueuedRequest[Request, Response](request, key)
        with self._changed:
            if self._closed:
                raise EngineError("the lane is closed; ask one that is open")
            if not self._can_accept():
                raise QueueFullError(f"{len(self._queue):,} requests wait already; try again later")
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

    def _can_accept(self) -> bool:
        """Whether one more may wait; those who left wait no longer."""
        lasts = self._full_batch_streak * self._max_batch_size > _OVERLOAD_QUEUES * self._max_queue
        most = min(self._max_queue, self._max_batch_size) if lasts else self._max_queue
        if len(self._queue) >= most:
            self._queue = deque(one for one in self._queue if not one.future.cancelled())
        return len(self._queue) < most

    def _run(self) -> None:
        while batch := self._next_batch():
            running = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if running:
                self._process_batch(running)

    def _next_batch(self) -> list[_QueuedRequest[Request, Response]]:
        """The next batch, once there is one; nothing once the lane is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch: list[_QueuedRequest[Request, Response]] = []
            others: deque[_QueuedRequest[Request, Response]] = deque()
            for one in self._queue:
                fits = one.key == self._queue[0].key and len(batch) < self._max_batch_size
                (batch if fits else others).append(one)
            self._queue = others
            self._full_batch_streak = self._full_batch_streak + 1 if len(batch) == self._max_batch_size else 0
            return batch

    def _process_batch(self, batch: Sequence[_QueuedRequest[Request, Response]]) -> None:
        try:
            answers = self._process(batch[0].key, [one.request for one in batch])
            pairs = list(zip(batch, answers, strict=True))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that asks)
            if len(batch) == 1:
                batch[0].future.set_exception(_as_exception(error))
            else:
                for one in batch:
                    self._process_batch([one])
        else:
            for one, answer in pairs:
                one.future.set_result(answer)


def _as_exception(error: BaseException) -> Exception:
    """What whoever asks can bear: a panic of compiled code is no Exception, and would end their loop, too."""
    if isinstance(error, Exception):
        return error
    _LOGGER.error("a request broke off", exc_info=error)
    return EngineError(f"a request broke off: {error!r}; ask again")
