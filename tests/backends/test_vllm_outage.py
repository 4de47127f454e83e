"""While vLLM's process is stopped or killed, every request is answered, and the engine comes back."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from backend_support import ENGINE_TIMEOUT, needs_vllm, send_signal

from genrec import GenerativeSettings, Recommender, Settings, open_dataset, open_recommender
from genrec.backends.base import Backend
from genrec.types import RecommendationList

USERS = ("15049", "12762", "13047")
K, WHERE = 3, "price < 5"
DEADLINE = 6.0
SLACK = 8.0  # seconds for the fast rankers, on two busy cores on which engines are starting
LLM = {"generative", "generative-small"}


@dataclass(frozen=True)
class Response:
    """A response to a user, with the time of the request and the duration, in seconds."""

    user: str
    requested: float
    seconds: float
    answer: RecommendationList

    @property
    def answered(self) -> float:
        return self.requested + self.seconds

    @property
    def sources(self) -> set[str]:
        return {item.stage for item in self.answer.items}


def request_until(recommender: Recommender, user: str, stop: threading.Event, served: list[Response]) -> None:
    while not stop.wait(0.3):
        requested = time.monotonic()
        answer = recommender.recommend(user, k=K, where=WHERE, deadline=DEADLINE)
        served.append(Response(user, requested, time.monotonic() - requested, answer))


def first(served: list[Response], since: float, matches: Callable[[Response], bool]) -> Response:
    """Wait for the first matching response to a request since a time."""
    seen = 0
    for _ in range(6000):
        for one in served[seen:]:
            seen += 1
            if one.requested >= since and matches(one):
                return one
        time.sleep(0.1)
    pytest.fail(f"no such response among {seen}; the last is {served[-1]}")


def is_from_llm(one: Response) -> bool:
    return one.sources <= LLM


def has_notice(reason: str, one: Response) -> bool:
    return any(reason in str(notice) for notice in one.answer.notices)


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_engine_that_hangs_or_dies_fails_no_request_and_restarts(
    mortal_engine: Backend, smollm2: Path, tmp_path: Path
) -> None:
    """The third guarantee: every request is answered in time, and nobody has to restart anything."""
    catalog, interactions = open_dataset("online-retail", tmp_path)
    allowed = {catalog.item_ids[int(place)] for place in catalog.where(WHERE).nonzero()[0]}
    served: list[Response] = []
    stop = threading.Event()
    recommender = open_recommender(
        catalog,
        interactions,
        cache=tmp_path,
        backend=mortal_engine,
        settings=Settings(
            model=smollm2,
            encoder=None,
            generative=GenerativeSettings(candidates=K, prior=0.0, fusion_weight=50.0),
            small_search_candidates=K,
        ),
    )
    recommender.recommend(USERS, k=K, where=WHERE)
    with ThreadPoolExecutor(len(USERS)) as pool:
        try:
            futures = [pool.submit(request_until, recommender, user, stop, served) for user in USERS]
            for signal_, reason in (
                (signal.SIGSTOP, f"did not answer within {ENGINE_TIMEOUT:g} s"),
                (signal.SIGKILL, "its process ended"),
            ):
                first(served, time.monotonic(), is_from_llm)
                send_signal(mortal_engine, signal_)
                down = first(served, time.monotonic(), partial(has_notice, reason))
                back = first(served, down.requested, is_from_llm)
                meanwhile = [one for one in served if down.requested <= one.requested and one.answered < back.requested]
                assert meanwhile
                assert not {source for one in meanwhile for source in one.sources} & LLM
        finally:
            stop.set()
    for future in futures:
        future.result()
    seen = {user: set(interactions.history_of(user).item_ids) for user in USERS}
    for one in served:
        items = [item.item_id for item in one.answer.items]
        assert len(items) == len(set(items)) == K
        assert set(items) <= allowed - seen[one.user]
        assert one.seconds < DEADLINE + SLACK
