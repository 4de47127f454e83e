"""The server while vLLM's process is killed: every list and every reply is there, and a stream ends and says how."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from backend_support import needs_vllm, send_signal
from server import parse_sse, running_server

from genrec import GenerativeSettings, Settings, open_dataset
from genrec.chat.advising import advisor_builder
from genrec.loading import open_pipeline
from genrec.serve.service import ServiceConfig

PEOPLE = ("15049", "12762", "13047")
K, WHERE, DEADLINE = 3, "price < 5", 4.0
PATIENCE = 60.0
ASKED = {"messages": [{"role": "user", "content": "a lamp for the garden, under 5"}], "genrec": {"k": K}}


def lists(client: httpx.Client, person: str) -> Iterator[httpx.Response]:
    """One list after the other."""
    body = {"user_id": person, "k": K, "where": WHERE, "deadline": DEADLINE}
    while True:
        yield client.post("/v1/recommend", json=body)


def replies(client: httpx.Client) -> Iterator[httpx.Response]:
    """One reply after the other."""
    while True:
        yield client.post("/v1/chat/completions", json=ASKED)


def go_on(asking: Iterator[httpx.Response], over: threading.Event, seen: list[httpx.Response]) -> None:
    for answer in asking:
        seen.append(answer)
        if over.wait(0.2):
            return


def sources(answer: httpx.Response) -> set[str]:
    return {item["source"].partition(":")[0] for item in answer.json()["items"]}


def wait_for(seen: list[httpx.Response], since: int, is_meant: Callable[[httpx.Response], bool]) -> None:
    """An answer of a kind behind those that there were, waited for."""
    for _ in range(int(PATIENCE / 0.1)):
        if any(is_meant(answer) for answer in seen[since:]):
            return
        threading.Event().wait(0.1)
    pytest.fail(f"no such answer among {len(seen) - since}: {seen[-1].text:.500}")


def stream(client: httpx.Client, on_words: Callable[[], None]) -> list[Any]:
    """All events of a streamed reply; called back once words come."""
    told: list[Any] = []
    with client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}) as answer:
        assert answer.status_code == 200
        for event in parse_sse(answer.iter_lines()):
            told.append(event)
            if isinstance(event, dict) and event["choices"][0]["delta"].get("content"):
                on_words()
    return told


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_killed_engine_fails_no_request_and_flags_the_stream(smollm2: Path, tmp_path: Path) -> None:
    """At the hour of most orders the engine runs out of memory: the shop must show lists, and no half sentence."""
    from genrec.backends.vllm_engine import VllmEngineBackend

    catalog, interactions = open_dataset("online-retail", tmp_path)
    settings = Settings(
        model=smollm2,
        encoder=None,
        generative=GenerativeSettings(candidates=K, prior=0.0, fusion_weight=50.0),
        small_search_candidates=K,
    )
    engine = VllmEngineBackend(smollm2, context_length=1024, kv_cache_memory_bytes=1 << 28, timeout=10.0)
    over, seen = threading.Event(), [[] for _ in range(len(PEOPLE) + 1)]
    try:
        parts = open_pipeline(catalog, interactions, cache=tmp_path, backend=engine, settings=settings)
        with (
            running_server(
                parts,
                tmp_path,
                advise=advisor_builder(parts.recommender()),
                batching=ServiceConfig(max_batch_size=4, turn_timeout=20.0),
            ) as address,
            httpx.Client(base_url=address, timeout=PATIENCE) as client,
            ThreadPoolExecutor(len(seen)) as pool,
        ):
            try:
                assert stream(client, lambda: None)[-2]["genrec"] == {"fallback": False}  # the model writes
                asking = [*(lists(client, person) for person in PEOPLE), replies(client)]
                going = [pool.submit(go_on, *pair) for pair in zip(asking, [over] * len(asking), seen, strict=True)]
                wait_for(seen[0], 0, lambda answer: "generative" in sources(answer))
                struck = threading.Event()

                def kill() -> None:
                    if not struck.is_set():
                        struck.set()
                        send_signal(engine, signal.SIGKILL)

                told = stream(client, kill)
                since = len(seen[0])
                wait_for(seen[0], since, lambda answer: "generative" not in sources(answer))
            finally:
                over.set()
            for one in going:
                one.result()
    finally:
        engine.close()
    assert told[-1] == "[DONE]"
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-2]["genrec"] == {"fallback": True}
    assert len(next(part for part in told if "items" in part.get("genrec", {}))["genrec"]["items"]) == K
    for answer in (answer for own in seen for answer in own):
        assert answer.status_code == 200, answer.text
        body = json.loads(answer.text)
        items = [item["item_id"] for item in (body if "items" in body else body["genrec"])["items"]]
        assert len(items) == len(set(items)) == K
