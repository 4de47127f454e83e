"""A real server over a small shop, on a free port of this machine, for tests that speak HTTP."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import uvicorn

from genrec import Catalog, Item, read_interactions
from genrec.chat.advisor import Advisor, Write
from genrec.pipeline import Learned, Parts
from genrec.rankers.base import DenseRanker, Ranker, RankRequest
from genrec.rankers.collaborative_counts import Counts
from genrec.serve.admission import Room
from genrec.serve.app import create_app
from genrec.serve.auth import Keys
from genrec.serve.service import Advise, Load, Service
from genrec.serve.state import Live
from genrec.serve.telemetry import Metrics
from genrec.serve.uvicorn_protocol import bind, config_of
from genrec.store.event_store import Store

NOUNS = ("Mug", "Lamp", "Candle", "Rug", "Tea Pot", "Clock", "Basket", "Frame")
COLOURS = ("Red", "Blue", "Green", "White", "Black")
EVENTS = (("ann", "i0"), ("ann", "i1"), ("bob", "i1"), ("bob", "i2"), ("cyd", "i2"), ("cyd", "i3"), ("dan", "i0"))


class Led(Parts):
    """Parts with other rankers before them."""

    first: Sequence[Ranker] = ()

    @property
    def ladder(self) -> list[Ranker]:
        return [*self.first, *super().ladder]


class Slow(DenseRanker):
    """Answers once it is let; counts whom it answered."""

    source = "slow"

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Any) -> Any:
        self.asked.set()
        self.open.wait(20)
        self.batches.append(len(requests))
        return np.tile(np.arange(requests[0].allowed.universe, dtype=np.float64), (len(requests), 1))


def shop(*, first: Sequence[Ranker] = (), extra: Sequence[Item] = (), notices: Sequence[str] = ()) -> Parts:
    """40 items with prices from 1 to 40, what four people did, and a ladder that counts."""
    titles = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]
    items = [Item(f"i{place}", title, {"price": float(place + 1)}) for place, title in enumerate(titles)]
    catalog = Catalog.from_items([*items, *extra])
    users, taken = zip(*EVENTS, strict=True)
    events = read_interactions(pd.DataFrame({"user_id": users, "item_id": taken, "timestamp": range(len(EVENTS))}))
    counts = Counts.of(catalog, events)
    learned = Learned(catalog, counts, dict.fromkeys(counts.parts(None), 1.0))
    parts = replace(Parts.of(catalog, events, learned=learned), notices=tuple(notices))
    if not first:
        return parts
    led = Led(**vars(parts))
    object.__setattr__(led, "first", tuple(first))
    return led


@contextmanager
def serving(
    parts: Parts,
    folder: Path,
    *,
    keys: Sequence[str] = (),
    rate: float | None = None,
    room: Room | None = None,
    load: Load | None = None,
    write: Write | None = None,
    advise: Advise | None = None,
) -> Iterator[str]:
    """Serve until the block ends; the address, such as http://127.0.0.1:8080."""
    with Store.open(f"sqlite:///{folder / 'events.db'}") as store:
        service = Service(
            Live(parts, store),
            store,
            advise=advise or (lambda own, k: Advisor(own, k=k, write=write)),
            load=load or Load(),
            metrics=Metrics(),
        )
        known = Keys(keys, rate=rate, burst=2, clock=time.monotonic)
        listening = bind("127.0.0.1", 0)
        server = uvicorn.Server(config_of(create_app(service, keys=known, room=room or Room())))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until(lambda: server.started or not thread.is_alive())
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come.
    """
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"it is not so after {seconds:g} s")
        time.sleep(0.01)


def events_in(lines: Iterator[str]) -> Iterator[Any]:
    """What server-sent events say: parsed, and "[DONE]" as it is."""
    import json

    for line in lines:
        if line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
