"""Dynamic batching: requests that arrive during one batch are processed together in the next.

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

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_OVERLOAD_QUEUES = 2  # full batches in a row that add up to this many full queues are a sustained overload
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _QueuedRequest(Generic[_Request, _Response]):
    request: _Request
    key: Hashable
    future: "Future[_Response]" = field(default_factory=Future)


class DynamicBatcher(Generic[_Request, _Response]):
    """Batches the requests of many threads for a function that processes U requests faster than one by one.

    A batch starts with the oldest request and adds queued requests with the same key, in order of arrival. It never
    waits for further requests: a batch is what arrived while the previous one was processed. A context manager.

    Args:
        process: called with a key and U requests with this key, in the batcher's own thread; returns U results in the
            same order. If it raises, each request is processed alone, so that one cannot fail the others.
        max_queue: requests that may wait, without those in process. Under sustained overload, at most one batch may
            wait: a standing queue adds delay without adding throughput (Nichols and Jacobson, "Controlling Queue
            Delay", ACM Queue 2012).
        max_batch_size: maximum of U.

    Raises:
        InputError: `max_queue` or `max_batch_size` is below 1.
    """

    def __init__(
        self,
        process: Callable[[Hashable, Sequence[_Request]], Sequence[_Response]],
        *,
        max_queue: int,
        max_batch_size: int,
    ) -> None:
        for name, value in (("max_queue", max_queue), ("max_batch_size", max_batch_size)):
            check_count(name, value)
        self._process, self._max_queue, self._max_batch_size = process, max_queue, max_batch_size
        self._queue: deque[_QueuedRequest[_Request, _Response]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._full_batch_streak = 0  # consecutive full batches
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "DynamicBatcher[_Request, _Response]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """The number of waiting requests that were not cancelled."""
        with self._changed:
            return sum(not queued.future.cancelled() for queued in self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the next request would be rejected."""
        with self._changed:
            return not self._can_accept()

    def submit(self, request: _Request, key: Hashable = None) -> "Future[_Response]":
        """Queue a request. Cancelling the future removes it from the queue, unless it is already in process.

        Args:
            request: the request.
            key: only requests with equal keys share a batch.

        Raises:
            QueueFullError: the queue is full.
            EngineError: the batcher is closed.
        """
        queued = _QueuedRequest[_Request, _Response](request, key)
        with self._changed:
            if self._closed:
                raise EngineError("the request queue has been shut down; send the request to another server")
            if not self._can_accept():
                raise QueueFullError(f"the queue is full with {len(self._queue):,} requests; try again later")
            self._queue.append(queued)
            self._changed.notify()
        return queued.future

    def close(self) -> None:
        """Reject waiting and new requests, and wait for the current batch. May be called more than once."""
        with self._changed:
            self._closed = True
            remaining, self._queue = self._queue, deque()
            self._changed.notify_all()
        for queued in remaining:
            if queued.future.set_running_or_notify_cancel():
                message = "the request queue was shut down before the request was processed; try again"
                queued.future.set_exception(EngineError(message))
        self._thread.join()

    def _can_accept(self) -> bool:
        """Whether the queue has room for another request; removes cancelled requests if it has not."""
        is_overloaded = self._full_batch_streak * self._max_batch_size > _OVERLOAD_QUEUES * self._max_queue
        limit = min(self._max_queue, self._max_batch_size) if is_overloaded else self._max_queue
        if len(self._queue) >= limit:
            self._queue = deque(queued for queued in self._queue if not queued.future.cancelled())
        return len(self._queue) < limit

    def _run(self) -> None:
        while batch := self._next_batch():
            running = [queued for queued in batch if queued.future.set_running_or_notify_cancel()]
            if running:
                self._process_batch(running)

    def _next_batch(self) -> list[_QueuedRequest[_Request, _Response]]:
        """Wait for the next batch; empty once the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch: list[_QueuedRequest[_Request, _Response]] = []
            others: deque[_QueuedRequest[_Request, _Response]] = deque()
            for queued in self._queue:
                fits = queued.key == self._queue[0].key and len(batch) < self._max_batch_size
                (batch if fits else others).append(queued)
            self._queue = others
            self._full_batch_streak = self._full_batch_streak + 1 if len(batch) == self._max_batch_size else 0
            return batch

    def _process_batch(self, batch: Sequence[_QueuedRequest[_Request, _Response]]) -> None:
        try:
            results = self._process(batch[0].key, [queued.request for queued in batch])
            pairs = list(zip(batch, results, strict=True))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread of the caller)
            if len(batch) == 1:
                batch[0].future.set_exception(_as_exception(error))
            else:
                for queued in batch:
                    self._process_batch([queued])
        else:
            for queued, result in pairs:
                queued.future.set_result(result)


def _as_exception(error: BaseException) -> Exception:
    """An error that is safe to raise in an event loop: a panic in compiled code is a BaseException and would end it."""
    if isinstance(error, Exception):
        return error
    _LOGGER.error("request aborted", exc_info=error)
    return EngineError(f"the request was aborted: {error!r}; try again")
