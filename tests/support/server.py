"""A real server with a small catalog on a free local port, for tests over HTTP."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import uvicorn

from genrec import Catalog, Item, read_interactions
from genrec.chat.advisor import Advisor
from genrec.chat.plain_replies import ReplyGenerator
from genrec.notices import Notice
from genrec.pipeline import CollaborativeModel, Pipeline
from genrec.rankers.base import DenseRanker, Ranker, RankRequest
from genrec.rankers.collaborative_counts import CollaborativeCounts
from genrec.serve.admission import Limits
from genrec.serve.app import create_app
from genrec.serve.auth import ApiKeys
from genrec.serve.service import BuildAdvisor, Service, ServiceConfig
from genrec.serve.state import ServingState
from genrec.serve.telemetry import Metrics
from genrec.serve.uvicorn_server import bind_socket, uvicorn_config
from genrec.store.event_store import Store

NOUNS = ("Mug", "Lamp", "Candle", "Rug", "Tea Pot", "Clock", "Basket", "Frame")
COLOURS = ("Red", "Blue", "Green", "White", "Black")
EVENTS = (("ann", "i0"), ("ann", "i1"), ("bob", "i1"), ("bob", "i2"), ("cyd", "i2"), ("cyd", "i3"), ("dan", "i0"))
ROUTE_REQUESTS: dict[tuple[str, str], Any] = {
    ("get", "/health/live"): None,
    ("get", "/health/ready"): None,
    ("get", "/metrics"): None,
    ("get", "/v1/catalog/items"): None,
    ("get", "/v1/catalog/items/{item_id}"): None,
    ("get", "/v1/models"): None,
    ("get", "/v1/models/{model}"): None,
    ("get", "/v1/users/{user_id}/history"): None,
    ("post", "/v1/catalog/items"): {"items": [{"item_id": "i1", "title": "Old Mug"}]},
    ("post", "/v1/chat/completions"): {
        "messages": [{"role": "user", "content": "a lamp"}],
        "genrec": {"user_id": "eve"},
    },
    ("post", "/v1/events"): {"events": [{"user_id": "eve", "item_id": "i1"}]},
    ("post", "/v1/recommend"): {"user_id": "eve"},
    ("post", "/v1/related"): {"item_id": "i2"},
    ("post", "/v1/search"): {"words": "a lamp", "user_id": "eve"},
    ("put", "/v1/catalog/items/{item_id}"): {"title": "New Mug"},
    ("delete", "/v1/catalog/items/{item_id}"): None,
    ("delete", "/v1/users/{user_id}"): None,
}
"""A request for each route of the server."""


class PipelineWithExtraStages(Pipeline):
    """A pipeline with further rankers before its own stages."""

    extra_stages: Sequence[Ranker] = ()

    @property
    def stages(self) -> list[Ranker]:
        return [*self.extra_stages, *super().stages]


class BlockingRanker(DenseRanker):
    """Ranks once `released` is set, and records the batch sizes."""

    source = "slow"

    def __init__(self) -> None:
        self.released, self.entered = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Any) -> Any:
        self.entered.set()
        self.released.wait(20)
        self.batches.append(len(requests))
        return np.tile(np.arange(requests[0].allowed.universe, dtype=np.float64), (len(requests), 1))


def small_pipeline(
    *, extra_stages: Sequence[Ranker] = (), extra_items: Sequence[Item] = (), notices: Sequence[Notice] = ()
) -> Pipeline:
    """40 items with prices from 1 to 40, interactions of four users, and collaborative stages."""
    titles = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]
    items = [Item(f"i{index}", title, {"price": float(index + 1)}) for index, title in enumerate(titles)]
    catalog = Catalog.from_items([*items, *extra_items])
    users, interacted = zip(*EVENTS, strict=True)
    events = read_interactions(pd.DataFrame({"user_id": users, "item_id": interacted, "timestamp": range(len(EVENTS))}))
    counts = CollaborativeCounts.from_interactions(catalog, events)
    model = CollaborativeModel(catalog, counts, dict.fromkeys(counts.rankers(None), 1.0))
    pipeline = replace(Pipeline.from_rankers(catalog, events, collaborative=model), loading_notices=tuple(notices))
    if not extra_stages:
        return pipeline
    extended = PipelineWithExtraStages(**vars(pipeline))
    object.__setattr__(extended, "extra_stages", tuple(extra_stages))
    return extended


@contextmanager
def running_server(
    pipeline: Pipeline,
    folder: Path,
    *,
    keys: Sequence[str] = (),
    rate: float | None = None,
    limits: Limits | None = None,
    config: ServiceConfig | None = None,
    generate: ReplyGenerator | None = None,
    build_advisor: BuildAdvisor | None = None,
) -> Iterator[str]:
    """Serve until the block ends; yields the address, such as http://127.0.0.1:8080."""
    with Store.open(f"sqlite:///{folder / 'events.db'}") as store:
        service = Service(
            ServingState(pipeline, store),
            store,
            build_advisor=build_advisor or (lambda recommender, k: Advisor(recommender, k=k, reply_generator=generate)),
            config=config or ServiceConfig(),
            metrics=Metrics(),
        )
        api_keys = ApiKeys(keys, rate=rate, burst=2, clock=time.monotonic)
        listen_socket = bind_socket("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn_config(create_app(service, keys=api_keys, limits=limits or Limits())))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listen_socket]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        try:
            yield f"http://127.0.0.1:{listen_socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not hold within the time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition does not hold after {seconds:g} s")
        time.sleep(0.01)


def parse_sse(lines: Iterator[str]) -> Iterator[Any]:
    """The data of server-sent events: parsed JSON, or "[DONE]"."""
    for line in lines:
        if line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The `error` object of a response; checks its fields."""
    error: dict[str, Any] = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "reason", "type"]
    return error


def item_ids(response: httpx.Response) -> list[object]:
    """The item ids of a successful list."""
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]
