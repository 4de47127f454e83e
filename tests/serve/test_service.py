"""Waiting requests: queue time counts against the deadline, and slow parts delay only requests that need them."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import BlockingRanker, parse_sse, running_server, small_pipeline, wait_until

from genrec.chat.advisor import Advisor
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.notices import Notice
from genrec.pipeline import Pipeline
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.serve.responses import NoticeFilter, RecommendResponse
from genrec.serve.schemas import RecommendBody
from genrec.serve.service import Service, ServiceConfig
from genrec.serve.state import ServingState
from genrec.serve.telemetry import Metrics
from genrec.store.event_store import Store
from genrec.types import Ranking, RecommendationList

WAIT = 30.0


class ManualClock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def service_of(parts: Pipeline, folder: Path, clock: ManualClock, load: ServiceConfig) -> Iterator[Service]:
    with Store.open(f"sqlite:///{folder / 'events.db'}") as store:
        made = Service(
            ServingState(parts, store),
            store,
            build_advisor=lambda own, k: Advisor(own, k=k),
            config=load,
            metrics=Metrics(),
            clock=clock,
        )
        yield made
        made.close()


def rank(service: Service, **asked: Any) -> "Future[RecommendResponse]":
    ask = RecommendBody(**asked)
    return service.rank(ask, service.request_context(ask))


class DeadlineRanker(BlockingRanker):
    """A blocking ranker that checks its deadline."""

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        deadline.check()
        return super().rank(requests, k, deadline=deadline)


def sources(answer: RecommendResponse) -> set[str]:
    return {item["source"].partition(":")[0] for item in answer["items"]}


def test_queue_time_counts_against_the_deadline(tmp_path: Path) -> None:
    """A list with a deadline of 10 seconds would take 20."""
    slow, clock = DeadlineRanker(), ManualClock()
    with service_of(small_pipeline(extra_stages=[slow]), tmp_path, clock, ServiceConfig(deadline=10.0)) as service:
        first = rank(service, k=3)
        assert slow.entered.wait(WAIT)
        late = rank(service, k=3)
        clock.now = 5.0
        other = rank(service, k=3)
        clock.now = 11.0
        slow.released.set()
        assert sources(first.result(WAIT)) == {"slow"}
        assert len(late.result(WAIT)["items"]) == 3
        assert "slow" not in sources(late.result())
        assert sources(other.result(WAIT)) == {"slow"}  # a request with time left keeps its stage


def test_advisors_are_cached_by_recent_k(tmp_path: Path) -> None:
    """An advisor is built over the whole catalog, so building it per turn is slow."""
    with service_of(small_pipeline(), tmp_path, ManualClock(), ServiceConfig()) as service:
        recommender = service.state.recommender
        made = [service.advisor(recommender, k) for k in range(1, 9)]
        assert [service.advisor(recommender, k) for k in range(1, 9)] == made
        service.advisor(recommender, 9)
        assert service.advisor(recommender, 8) is made[-1]


class FailingRanker(DenseRanker):
    """Counts its calls, waits for `released`, and fails."""

    source = "gated"

    def __init__(self) -> None:
        self.released, self.count = threading.Event(), 0

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Any) -> Any:
        self.count += 1
        self.released.wait(WAIT)
        raise EngineError("gone")


def test_concurrent_readiness_probes_share_one_check(tmp_path: Path) -> None:
    """Forty probes would ask a hanging model for forty lists, and use up the thread pool."""
    gated = FailingRanker()
    with running_server(small_pipeline(extra_stages=[gated]), tmp_path) as address, ThreadPoolExecutor(20) as pool:
        asking = [pool.submit(httpx.get, f"{address}/health/ready", timeout=WAIT) for _ in range(20)]
        wait_until(lambda: "genrec_requests_inside 21.0" in httpx.get(f"{address}/metrics").text)
        gated.released.set()
        assert {one.result().status_code for one in asking} == {503}
    assert gated.count == 1


def test_item_withdrawn_during_a_turn_breaks_nothing(tmp_path: Path) -> None:
    """A user who likes an item that is withdrawn meanwhile would get half a stream."""

    class WithdrawingAdvisor(Advisor):
        """Withdraws an item before it emits the preferences."""

        def respond(self, *given: Any, on_event: Any, **more: Any) -> Any:
            def emit(part: object) -> None:
                if address is not None and not withdrawn.is_set():
                    withdrawn.set()
                    assert httpx.delete(f"{address}/v1/catalog/items/i1").status_code == 200
                on_event(part)

            return super().respond(*given, on_event=emit, **more)

    withdrawn = threading.Event()
    preferences = {"liked": ["i1"]}
    body = {"messages": [{"role": "user", "content": "a lamp"}], "genrec": {"wishes": preferences}, "stream": True}
    with (
        running_server(
            small_pipeline(), tmp_path, build_advisor=lambda own, k: WithdrawingAdvisor(own, k=k)
        ) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
    ):
        events = list(parse_sse(iter(client.post("/v1/chat/completions", json=body).text.splitlines())))
    assert withdrawn.is_set()
    assert [chip["label"] for chip in events[0]["genrec"]["chips"]][:1] == ["Red Lamp"]
    assert events[-2]["genrec"] == {"fallback": False}
    assert events[-1] == "[DONE]"


def test_stage_failures_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    """Logging every failure fills the disk; logging none hides the cause."""
    clock = ManualClock()
    notice_filter = NoticeFilter(clock)
    own, few = Notice("no_language_model"), Notice("few_allowed", {"allowed": 3, "k": 5})
    skipped = Notice("stage_skipped", {"stage": "generative", "reason": "/secret: gone"})
    notices = (own, skipped, few)
    failed = RecommendationList((), proven=False, compared=0, notices=notices, failed_stages=("generative",))
    with caplog.at_level(logging.WARNING):
        for clock.now in (0.0, 1.0, 59.0, 61.0):
            assert notice_filter.for_list(failed, [own]) == [Notice("stage_skipped", {"stage": "generative"}), few]
    assert [record.getMessage() for record in caplog.records] == [str(skipped)] * 2


def test_waiting_times_out() -> None:
    """A test that waits forever reports nothing."""
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="does not hold after"):
        wait_until(lambda: False, 0.05)
    assert time.monotonic() >= start
