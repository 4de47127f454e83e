"""Dynamic batching: each request gets its own result, in a batch if possible, and the queue is bounded."""

import asyncio
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from genrec.errors import EngineError, InputError, QueueFullError
from genrec.serve.batching import DynamicBatcher

WAIT = 30.0  # seconds until a test fails


class Doubling:
    """Doubles numbers once `released` is set, records its batches, and fails for 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.started, self.released = threading.Semaphore(0), threading.Event()

    def __call__(self, key: Hashable, numbers: Sequence[int]) -> list[int]:
        self.batches.append((key, list(numbers)))
        self.started.release()
        assert self.released.wait(WAIT)
        if 13 in numbers:
            raise ValueError("13 cannot be doubled")
        return [2 * number for number in numbers]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(doubling: Doubling) -> Iterator[DynamicBatcher[int, int]]:
    with DynamicBatcher(doubling, max_queue=8, max_batch_size=4) as batcher:
        yield batcher
        doubling.released.set()


def start_batch(batcher: DynamicBatcher[int, int], doubling: Doubling) -> "Future[int]":
    """Start a batch of one request, so that further requests wait."""
    first = batcher.submit(0)
    assert doubling.started.acquire(timeout=WAIT)
    return first


def test_requests_queued_during_a_batch_share_the_next_one(
    batcher: DynamicBatcher[int, int], doubling: Doubling
) -> None:
    """One request at a time would cost one pass over the vectors per user."""
    first = start_batch(batcher, doubling)
    futures = [batcher.submit(number) for number in range(1, 7)]
    doubling.released.set()
    assert [future.result(WAIT) for future in (first, *futures)] == [0, 2, 4, 6, 8, 10, 12]
    assert doubling.batches == [(None, [0]), (None, [1, 2, 3, 4]), (None, [5, 6])]


def test_requests_with_different_keys_are_never_batched(batcher: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """A key holds the options of the whole batch: one user's filter would apply to another."""
    start_batch(batcher, doubling)
    futures = [batcher.submit(number, key) for number, key in ((1, "a"), (2, "b"), (3, "a"), (4, "b"))]
    doubling.released.set()
    assert [future.result(WAIT) for future in futures] == [2, 4, 6, 8]
    assert doubling.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]


def test_requests_beyond_max_queue_are_rejected_at_once(batcher: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """An unbounded queue answers everyone too late, and fills the memory."""
    start_batch(batcher, doubling)
    futures = [batcher.submit(number) for number in range(8)]
    assert len(batcher) == 8
    with pytest.raises(QueueFullError, match="the queue is full with 8 requests"):
        batcher.submit(9)
    assert futures[0].cancel()
    late = batcher.submit(9)  # a cancelled request frees its slot
    doubling.released.set()
    assert late.result(WAIT) == 18


def test_cancelled_requests_are_not_computed(batcher: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """A disconnected client must not cost time, neither its own nor that of others."""
    start_batch(batcher, doubling)
    gone, stays = batcher.submit(1), batcher.submit(2)
    assert gone.cancel()
    doubling.released.set()
    assert stays.result(WAIT) == 4
    assert doubling.batches[1:] == [(None, [2])]
    with pytest.raises(CancelledError):
        gone.result(WAIT)


def test_failed_request_does_not_fail_its_batch(batcher: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """Requests share a batch by chance; the error of one must not reach the others."""
    start_batch(batcher, doubling)
    futures = [batcher.submit(number) for number in (1, 13, 2)]
    doubling.released.set()
    assert [futures[place].result(WAIT) for place in (0, 2)] == [2, 4]
    with pytest.raises(ValueError, match="13 cannot be doubled"):
        futures[1].result(WAIT)
    assert doubling.batches[1:] == [(None, [1, 13, 2]), (None, [1]), (None, [13]), (None, [2])]


class _Panic(BaseException):
    """A BaseException, as compiled code raises it when it panics."""


def test_base_exception_ends_the_request_not_the_batcher() -> None:
    """The batcher has one thread: if it ended, later requests would wait forever."""

    def answer(_: Hashable, numbers: Sequence[int]) -> Sequence[int]:
        if 13 in numbers:
            raise _Panic("13")
        return numbers

    with DynamicBatcher(answer, max_queue=8, max_batch_size=4) as batcher:
        for _ in range(2):
            with pytest.raises(EngineError, match="_Panic"):
                batcher.submit(13).result(WAIT)
        assert batcher.submit(1).result(WAIT) == 1


def test_wrong_number_of_results_fails_the_batch() -> None:
    """A result for the wrong user is worse than an error."""
    with (
        DynamicBatcher[int, int](lambda _, numbers: [], max_queue=2, max_batch_size=2) as batcher,
        pytest.raises(ValueError, match="shorter"),
    ):
        batcher.submit(1).result(WAIT)


def test_closing_rejects_queued_and_new_requests(doubling: Doubling) -> None:
    """Otherwise a caller waits forever for a thread that has ended."""
    batcher = DynamicBatcher(doubling, max_queue=8, max_batch_size=4)
    first = start_batch(batcher, doubling)
    waiting, gone = batcher.submit(1), batcher.submit(2)
    gone.cancel()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(EngineError, match="shut down before the request was processed"):
        waiting.result(WAIT)
    doubling.released.set()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert first.result(WAIT) == 0
    with pytest.raises(EngineError, match="the request queue has been shut down"):
        batcher.submit(3)
    batcher.close()


def test_each_request_gets_its_own_result() -> None:
    """For 1,000 concurrent requests from threads and from asyncio."""

    def answer(key: Hashable, numbers: Sequence[int]) -> list[int]:
        return [2 * number for number in numbers]

    async def ask(batcher: DynamicBatcher[int, int], number: int) -> int:
        return await asyncio.wrap_future(batcher.submit(number, number % 3))

    async def ask_all(batcher: DynamicBatcher[int, int]) -> list[int]:
        return await asyncio.gather(*(ask(batcher, number) for number in range(500)))

    with DynamicBatcher(answer, max_queue=2000, max_batch_size=32) as batcher, ThreadPoolExecutor(8) as pool:
        others = pool.map(lambda number: batcher.submit(number, number % 3).result(WAIT), range(500))
        assert asyncio.run(ask_all(batcher)) == [2 * number for number in range(500)]
        assert list(others) == [2 * number for number in range(500)]


@pytest.mark.parametrize("name", ["max_queue", "max_batch_size"])
def test_zero_capacity_raises(name: str) -> None:
    """Otherwise the first request would wait forever."""
    with pytest.raises(InputError, match=f"{name} is 0"):
        DynamicBatcher[int, int](lambda _, numbers: numbers, **{"max_queue": 1, "max_batch_size": 1, name: 0})


class SelfRefillingBatcher:
    """Returns numbers unchanged, and queues `each` further requests per batch, so that the queue is never empty.

    After `rounds` batches it stops. Then, and whenever it gets 13, it signals `started` and waits for `released`.
    """

    def __init__(self, *, each: int, rounds: int) -> None:
        self.started, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self._each, self._left = each, rounds
        self.batcher = DynamicBatcher[int, int](self, max_queue=8, max_batch_size=2)

    def __call__(self, _: Hashable, numbers: Sequence[int]) -> Sequence[int]:
        self._left -= 1
        if self._left > 0:
            for _number in range(self._each):
                self.batcher.submit(0)
        if self._left == 0 or 13 in numbers:
            self.started.release()
            assert self.released.acquire(timeout=WAIT)
        return numbers

    def hold(self, number: int) -> "Future[int]":
        """Submit a number, and return when its batch is blocked."""
        asked = self.batcher.submit(number)
        assert self.started.acquire(timeout=WAIT)
        return asked


def test_sustained_overload_keeps_the_queue_to_one_batch() -> None:
    """A standing queue adds delay for everyone, without more throughput."""
    busy = SelfRefillingBatcher(each=2, rounds=20)
    with busy.batcher as batcher:
        busy.hold(0)
        last = [batcher.submit(number) for number in (1, 2)]
        assert batcher.is_full
        with pytest.raises(QueueFullError, match="the queue is full with 2 requests"):
            batcher.submit(3)
        busy.released.release()
        assert [future.result(WAIT) for future in last] == [1, 2]
        burst = busy.hold(13)
        after = [batcher.submit(number) for number in range(8)]
        with pytest.raises(QueueFullError, match="the queue is full with 8 requests"):
            batcher.submit(9)
        busy.released.release()
        assert [future.result(WAIT) for future in (burst, *after)] == [13, *range(8)]


def test_busy_batcher_below_capacity_accepts_a_burst() -> None:
    """Two constant clients are no overload; a burst beside them must not be rejected."""
    busy = SelfRefillingBatcher(each=1, rounds=40)
    with busy.batcher as batcher:
        busy.hold(0)
        burst = [batcher.submit(number) for number in range(8)]
        busy.released.release()
        assert [future.result(WAIT) for future in burst] == [*range(8)]
