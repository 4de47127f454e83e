"""Customers who go on asking while vLLM's process is stopped or killed: all are answered, and service returns."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from backend_support import needs_vllm, strike

from genrec import GenerativeSettings, Recommender, Settings, open_dataset, open_recommender
from genrec.types import RecommendationList

PEOPLE = ("15049", "12762", "13047")
K, WHERE = 3, "price < 5"
DEADLINE = 4.0
SLACK = 5.0  # seconds that the quick rankers may take on two busy cores, on which an engine is being started
# More than both: who waits for an engine that hangs until it counts as down is too late.
PATIENCE = 10.0
LLM = {"generative", "generative-small"}


@dataclass(frozen=True)
class ServedEngine:
    """One answer: who asked, when, and how long it took, in seconds."""

    person: str
    asked: float
    seconds: float
    answer: RecommendationList

    @property
    def answered(self) -> float:
        return self.asked + self.seconds

    @property
    def sources(self) -> set[str]:
        return {item.stage for item in self.answer.items}


def go_on_asking(recommender: Recommender, person: str, over: threading.Event, served: list[ServedEngine]) -> None:
    while not over.wait(0.3):
        asked = time.monotonic()
        answer = recommender.recommend(person, k=K, where=WHERE, deadline=DEADLINE)
        served.append(ServedEngine(person, asked, time.monotonic() - asked, answer))


def first(served: list[ServedEngine], since: float, is_meant: Callable[[ServedEngine], bool]) -> ServedEngine:
    """The first answer of a kind to a request made since a moment, waited for."""
    seen = 0
    for _ in range(6000):
        for one in served[seen:]:
            seen += 1
            if one.asked >= since and is_meant(one):
                return one
        time.sleep(0.1)
    pytest.fail(f"no such answer among {seen}; the last is {served[-1]}")


def is_the_models(one: ServedEngine) -> bool:
    return one.sources <= LLM


def says(why: str, one: ServedEngine) -> bool:
    return any(why in str(notice) for notice in one.answer.notices)


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_an_engine_that_hangs_or_dies_under_load_costs_no_request_and_comes_back(smollm2: Path, tmp_path: Path) -> None:
    """The third promise: it always answers, in time, and needs nobody who restarts anything."""
    from genrec.backends.vllm_engine import VllmEngineBackend

    catalog, interactions = open_dataset("online-retail", tmp_path)
    allowed = {catalog.item_ids[int(place)] for place in catalog.where(WHERE).nonzero()[0]}
    served: list[ServedEngine] = []
    over = threading.Event()
    engine = VllmEngineBackend(smollm2, context_length=1024, kv_cache_memory_bytes=1 << 28, timeout=PATIENCE)
    try:
        recommender = open_recommender(
            catalog,
            interactions,
            cache=tmp_path,
            backend=engine,
            settings=Settings(
                model=smollm2,
                encoder=None,
                generative=GenerativeSettings(candidates=K, prior=0.0, fusion_weight=50.0),
                small_search_candidates=K,
            ),
        )
        recommender.recommend(PEOPLE, k=K, where=WHERE)
        with ThreadPoolExecutor(len(PEOPLE)) as pool:
            try:
                asking = [pool.submit(go_on_asking, recommender, person, over, served) for person in PEOPLE]
                for blow, why in (
                    (signal.SIGSTOP, "did not answer within 10 s"),
                    (signal.SIGKILL, "its process ended"),
                ):
                    first(served, time.monotonic(), is_the_models)
                    strike(engine, blow)
                    down = first(served, time.monotonic(), partial(says, why))
                    back = first(served, down.asked, is_the_models)
                    meanwhile = [one for one in served if down.asked <= one.asked and one.answered < back.asked]
                    assert meanwhile
                    assert not {source for one in meanwhile for source in one.sources} & LLM
            finally:
                over.set()
        for one in asking:
            one.result()
    finally:
        engine.close()
    seen = {person: set(interactions.history_of(person).item_ids) for person in PEOPLE}
    for one in served:
        items = [item.item_id for item in one.answer.items]
        assert len(items) == len(set(items)) == K
        assert set(items) <= allowed - seen[one.person]
        assert one.seconds < DEADLINE + SLACK
