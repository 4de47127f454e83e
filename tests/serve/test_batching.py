"""Laws of the lane: everybody gets their own answer, together where they can, and nobody waits without end."""

import asyncio
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from genrec.errors import EngineError, InputError, QueueFullError
from genrec.serve.batching import DynamicBatcher

WAIT = 30.0  # seconds until a test gives up


class Doubling:
    """Answers twice the number, once it is let; keeps which batches it was asked, and cannot answer 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.begun, self.let = threading.Semaphore(0), threading.Event()

    def __call__(self, key: Hashable, numbers: Sequence[int]) -> list[int]:
        self.batches.append((key, list(numbers)))
        self.begun.release()
        assert self.let.wait(WAIT)
        if 13 in numbers:
            raise ValueError("13 cannot be doubled")
        return [2 * number for number in numbers]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def lane(doubling: Doubling) -> Iterator[DynamicBatcher[int, int]]:
    with DynamicBatcher(doubling, max_queue=8, max_batch_size=4) as lane:
        yield lane
        doubling.let.set()


def begin(lane: DynamicBatcher[int, int], doubling: Doubling) -> "Future[int]":
    """A batch of one that is being answered, so that what comes now waits."""
    first = lane.submit(0)
    assert doubling.begun.acquire(timeout=WAIT)
    return first


def test_requests_queued_during_a_batch_share_the_next_one(lane: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """One at a time would cost as many passes over the vectors as there are people."""
    first = begin(lane, doubling)
    futures = [lane.submit(number) for number in range(1, 7)]
    doubling.let.set()
    assert [future.result(WAIT) for future in (first, *futures)] == [0, 2, 4, 6, 8, 10, 12]
    assert doubling.batches == [(None, [0]), (None, [1, 2, 3, 4]), (None, [5, 6])]


def test_requests_with_different_keys_are_never_batched(lane: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """A key says what holds for all: one person's filter would be applied to another."""
    begin(lane, doubling)
    futures = [lane.submit(number, key) for number, key in ((1, "a"), (2, "b"), (3, "a"), (4, "b"))]
    doubling.let.set()
    assert [future.result(WAIT) for future in futures] == [2, 4, 6, 8]
    assert doubling.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]


def test_requests_beyond_max_queue_are_rejected_at_once(lane: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """A queue without an end answers everybody too late, and fills the memory."""
    begin(lane, doubling)
    futures = [lane.submit(number) for number in range(8)]
    assert len(lane) == 8
    with pytest.raises(QueueFullError, match="the queue is full with 8 requests"):
        lane.submit(9)
    assert futures[0].cancel()
    late = lane.submit(9)  # a place that nobody waits at any more is free
    doubling.let.set()
    assert late.result(WAIT) == 18


def test_cancelled_requests_are_not_computed(lane: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """Whoever left pays for nothing, and neither do those behind them."""
    begin(lane, doubling)
    gone, stays = lane.submit(1), lane.submit(2)
    assert gone.cancel()
    doubling.let.set()
    assert stays.result(WAIT) == 4
    assert doubling.batches[1:] == [(None, [2])]
    with pytest.raises(CancelledError):
        gone.result(WAIT)


def test_failed_request_does_not_fail_its_batch(lane: DynamicBatcher[int, int], doubling: Doubling) -> None:
    """Strangers are answered together by chance; what one asks wrongly is not the others' concern."""
    begin(lane, doubling)
    futures = [lane.submit(number) for number in (1, 13, 2)]
    doubling.let.set()
    assert [futures[place].result(WAIT) for place in (0, 2)] == [2, 4]
    with pytest.raises(ValueError, match="13 cannot be doubled"):
        futures[1].result(WAIT)
    assert doubling.batches[1:] == [(None, [1, 13, 2]), (None, [1]), (None, [13]), (None, [2])]


class _Panic(BaseException):
    """What compiled code raises where it gives up."""


def test_base_exception_ends_the_request_not_the_batcher() -> None:
    """The lane has one thread: without it every later request would wait for ever."""

    def answer(_: Hashable, numbers: Sequence[int]) -> Sequence[int]:
        if 13 in numbers:
            raise _Panic("13")
        return numbers

    with DynamicBatcher(answer, max_queue=8, max_batch_size=4) as lane:
        for _ in range(2):
            with pytest.raises(EngineError, match="_Panic"):
                lane.submit(13).result(WAIT)
        assert lane.submit(1).result(WAIT) == 1


def test_wrong_number_of_results_fails_the_batch() -> None:
    """Given to the wrong person, an answer is worse than none."""
    with (
        DynamicBatcher[int, int](lambda _, numbers: [], max_queue=2, max_batch_size=2) as lane,
        pytest.raises(ValueError, match="shorter"),
    ):
        lane.submit(1).result(WAIT)


def test_closing_rejects_queued_and_new_requests(doubling: Doubling) -> None:
    """Otherwise a caller waits forever for a thread that has ended."""
    lane = DynamicBatcher(doubling, max_queue=8, max_batch_size=4)
    first = begin(lane, doubling)
    waiting, gone = lane.submit(1), lane.submit(2)
    gone.cancel()
    closing = threading.Thread(target=lane.close)
    closing.start()
    with pytest.raises(EngineError, match="shut down before the request was processed"):
        waiting.result(WAIT)
    doubling.let.set()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert first.result(WAIT) == 0
    with pytest.raises(EngineError, match="the request queue has been shut down"):
        lane.submit(3)
    lane.close()


def test_each_request_gets_its_own_result() -> None:
    """Of a thousand callers at once, from threads and from asyncio."""

    def answer(key: Hashable, numbers: Sequence[int]) -> list[int]:
        return [2 * number for number in numbers]

    async def ask(lane: DynamicBatcher[int, int], number: int) -> int:
        return await asyncio.wrap_future(lane.submit(number, number % 3))

    async def ask_all(lane: DynamicBatcher[int, int]) -> list[int]:
        return await asyncio.gather(*(ask(lane, number) for number in range(500)))

    with DynamicBatcher(answer, max_queue=2000, max_batch_size=32) as lane, ThreadPoolExecutor(8) as pool:
        others = pool.map(lambda number: lane.submit(number, number % 3).result(WAIT), range(500))
        assert asyncio.run(ask_all(lane)) == [2 * number for number in range(500)]
        assert list(others) == [2 * number for number in range(500)]


@pytest.mark.parametrize("name", ["max_queue", "max_batch_size"])
def test_zero_capacity_raises(name: str) -> None:
    """It would be found out by the first caller, who waits."""
    with pytest.raises(InputError, match=f"{name} is 0"):
        DynamicBatcher[int, int](lambda _, numbers: numbers, **{"max_queue": 1, "max_batch_size": 1, name: 0})


class Busy:
    """Answers numbers as they are, and puts `each` others into its lane every time, so that it never rests.

    After `rounds` it puts none any more; then, and whenever it is asked 13, it tells that it has `begun` and waits to
    be `let`.
    """

    def __init__(self, *, each: int, rounds: int) -> None:
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)
        self._each, self._left = each, rounds
        self.lane = DynamicBatcher[int, int](self, max_queue=8, max_batch_size=2)

    def __call__(self, _: Hashable, numbers: Sequence[int]) -> Sequence[int]:
        self._left -= 1
        if self._left > 0:
            for _number in range(self._each):
                self.lane.submit(0)
        if self._left == 0 or 13 in numbers:
            self.begun.release()
            assert self.let.acquire(timeout=WAIT)
        return numbers

    def hold(self, number: int) -> "Future[int]":
        """Ask, and return when an answer is held back."""
        asked = self.lane.submit(number)
        assert self.begun.acquire(timeout=WAIT)
        return asked


def test_sustained_overload_keeps_the_queue_to_one_batch() -> None:
    """A full queue that never ends makes everybody wait for all of it, and answers nobody more."""
    busy = Busy(each=2, rounds=20)
    with busy.lane as lane:
        busy.hold(0)
        last = [lane.submit(number) for number in (1, 2)]
        assert lane.is_full
        with pytest.raises(QueueFullError, match="the queue is full with 2 requests"):
            lane.submit(3)
        busy.let.release()
        assert [future.result(WAIT) for future in last] == [1, 2]
        rush = busy.hold(13)
        after = [lane.submit(number) for number in range(8)]
        with pytest.raises(QueueFullError, match="the queue is full with 8 requests"):
            lane.submit(9)
        busy.let.release()
        assert [future.result(WAIT) for future in (rush, *after)] == [13, *range(8)]


def test_busy_batcher_below_capacity_accepts_a_burst() -> None:
    """Two who ask all the time are no load; who comes beside them with others must not be refused for it."""
    busy = Busy(each=1, rounds=40)
    with busy.lane as lane:
        busy.hold(0)
        rush = [lane.submit(number) for number in range(8)]
        busy.let.release()
        assert [future.result(WAIT) for future in rush] == [*range(8)]
