"""The server while the vLLM process is killed: lists and replies continue, and a stream ends."""

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
from genrec.backends.base import Backend
from genrec.chat.loading import advisor_builder
from genrec.loading import open_pipeline
from genrec.serve.service import ServiceConfig

USERS = ("15049", "12762", "13047")
K, WHERE = 3, "price < 5"
DEADLINE = 15.0  # seconds; on busy cores a list of the model takes several
TIMEOUT = 120.0
REQUEST = {"messages": [{"role": "user", "content": "a lamp for the garden, under 5"}], "genrec": {"k": K}}


def request_lists(client: httpx.Client, user_id: str) -> Iterator[httpx.Response]:
    """Request lists, one after the other."""
    body = {"user_id": user_id, "k": K, "where": WHERE, "deadline": DEADLINE}
    while True:
        yield client.post("/v1/recommend", json=body)


def request_replies(client: httpx.Client) -> Iterator[httpx.Response]:
    """Request replies, one after the other."""
    while True:
        yield client.post("/v1/chat/completions", json=REQUEST)


def collect(responses: Iterator[httpx.Response], stopped: threading.Event, seen: list[httpx.Response]) -> None:
    for response in responses:
        seen.append(response)
        if stopped.wait(0.2):
            return


def sources(response: httpx.Response) -> set[str]:
    return {item["source"].partition(":")[0] for item in response.json()["items"]}


def wait_for_response(seen: list[httpx.Response], since: int, matches: Callable[[httpx.Response], bool]) -> None:
    """Wait for a response of a kind, after the first `since` responses."""
    for _ in range(int(TIMEOUT / 0.1)):
        if any(matches(response) for response in seen[since:]):
            return
        threading.Event().wait(0.1)
    pytest.fail(f"no such response among {len(seen) - since}: {seen[-1].text:.500}")


def stream_reply(client: httpx.Client, on_text: Callable[[], None]) -> list[Any]:
    """All events of a streamed reply; calls `on_text` when it gets text."""
    events: list[Any] = []
    with client.stream("POST", "/v1/chat/completions", json={**REQUEST, "stream": True}) as response:
        assert response.status_code == 200
        for event in parse_sse(response.iter_lines()):
            events.append(event)
            if isinstance(event, dict) and event["choices"][0]["delta"].get("content"):
                on_text()
    return events


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_killed_engine_fails_no_request_and_flags_the_stream(
    mortal_engine: Backend, smollm2: Path, tmp_path: Path
) -> None:
    """When the engine runs out of memory, the server must return lists, and complete the stream."""
    catalog, interactions = open_dataset("online-retail", tmp_path)
    settings = Settings(
        model=smollm2,
        encoder=None,
        generative=GenerativeSettings(candidates=K, prior=0.0, fusion_weight=50.0),
        small_search_candidates=K,
    )
    stopped, seen = threading.Event(), [[] for _ in range(len(USERS) + 1)]
    pipeline = open_pipeline(catalog, interactions, cache=tmp_path, backend=mortal_engine, settings=settings)
    with (
        running_server(
            pipeline,
            tmp_path,
            build_advisor=advisor_builder(pipeline.recommender()),
            config=ServiceConfig(max_batch_size=4, turn_timeout=20.0),
        ) as address,
        httpx.Client(base_url=address, timeout=TIMEOUT) as client,
        ThreadPoolExecutor(len(seen)) as pool,
    ):
        try:
            before_kill = stream_reply(client, lambda: None)
            assert before_kill[-2]["genrec"] == {"fallback": False}  # the model wrote this reply
            responses = [*(request_lists(client, user_id) for user_id in USERS), request_replies(client)]
            collecting = [
                pool.submit(collect, *pair) for pair in zip(responses, [stopped] * len(responses), seen, strict=True)
            ]
            wait_for_response(seen[0], 0, lambda response: "generative" in sources(response))
            killed = threading.Event()

            def kill() -> None:
                if not killed.is_set():
                    killed.set()
                    send_signal(mortal_engine, signal.SIGKILL)

            events = stream_reply(client, kill)
            since = len(seen[0])
            wait_for_response(seen[0], since, lambda response: "generative" not in sources(response))
        finally:
            stopped.set()
        for one in collecting:
            one.result()
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-2]["genrec"] == {"fallback": True}
    assert len(next(part for part in events if "items" in part.get("genrec", {}))["genrec"]["items"]) == K
    for response in (response for of_client in seen for response in of_client):
        assert response.status_code == 200, response.text
        body = json.loads(response.text)
        items = [item["item_id"] for item in (body if "items" in body else body["genrec"])["items"]]
        assert len(items) == len(set(items)) == K
