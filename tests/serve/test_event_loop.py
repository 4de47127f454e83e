"""The event loop waits for nothing: no route runs SQL or encodes items on it, and a hanging store delays no others."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from server import ROUTE_REQUESTS, item_ids, running_server, small_pipeline, wait_until

from genrec import Item
from genrec.errors import StoreError
from genrec.pipeline import Pipeline
from genrec.store.event_store import Store

WAIT = 30.0


@contextmanager
def slow_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """Every SQL statement and every new pipeline of a revision, each with whether it runs on an event loop."""
    calls: list[tuple[str, bool]] = []
    reindexed = Pipeline.reindexed

    def record(name: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            calls.append((name, False))
        else:
            calls.append((name, True))

    def record_statement(_: Any, __: Any, statement: str, *more: Any) -> None:
        record(statement)

    def record_revision(self: Pipeline, *given: Any, **named: Any) -> Pipeline:
        record("reindexed")
        return reindexed(self, *given, **named)

    monkeypatch.setattr(Pipeline, "reindexed", record_revision)
    sa.event.listen(sa.Engine, "before_cursor_execute", record_statement)
    try:
        yield calls
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", record_statement)


@contextmanager
def watched_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[tuple[list[tuple[str, bool]], httpx.Client]]":
    """A running server, the slow calls it makes, and a client of it."""
    with (
        slow_calls(monkeypatch) as calls,
        running_server(small_pipeline(), tmp_path) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
    ):
        yield calls, client


def test_no_route_reads_the_store_or_encodes_items_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes two seconds would silence the server for two seconds, for every caller."""
    with watched_server(tmp_path, monkeypatch) as (calls, client):
        documented = {
            (method, path) for path, route in client.get("/openapi.json").json()["paths"].items() for method in route
        }
        assert documented == set(ROUTE_REQUESTS)
        for (method, path), body in ROUTE_REQUESTS.items():
            before = len(calls)
            url = path.format(item_id="i1", user_id="eve", model="genrec")
            assert client.request(method, url, json=body).status_code == 200, (method, path)
            if "/v1/users" in path:
                assert len(calls) > before  # the statements of this route were seen
        for body in ({}, {"words": "a mug"}, {"history": ["i2"]}):
            assert client.post("/v1/recommend", json=body).status_code == 200
    assert not [name for name, on_loop in calls if on_loop]


def test_revisions_of_other_servers_arrive_without_delaying_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding the items that another server has put would silence this one, and not polling would keep sold items."""
    with (
        watched_server(tmp_path, monkeypatch) as (calls, client),
        Store.open(f"sqlite:///{tmp_path / 'events.db'}") as other,
    ):
        other.revise([Item("new", "Purple Mug", {"price": 0.5})], ["i0"])
        wait_until(lambda: item_ids(client.post("/v1/recommend", json={"where": "price < 2"})) == ["new"])
        assert client.get("/v1/catalog/items/i0").status_code == 404
    assert "reindexed" in [name for name, _ in calls]
    assert not [name for name, on_loop in calls if on_loop]


def test_hanging_store_delays_only_requests_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests wait for an unavailable database, lists without a user id and the page are served."""
    released, asked = threading.Event(), threading.Event()

    def hang(self: Store, user_id: object) -> Any:
        asked.set()
        released.wait(WAIT)
        raise StoreError("the database is gone")

    with (
        running_server(small_pipeline(), tmp_path) as address,
        httpx.Client(base_url=address, timeout=WAIT) as client,
        ThreadPoolExecutor(50) as pool,
    ):
        monkeypatch.setattr(Store, "events_of", hang)
        try:
            known = [
                pool.submit(httpx.post, f"{address}/v1/recommend", json={"user_id": "eve"}, timeout=WAIT)
                for _ in range(50)  # more than Starlette has threads
            ]
            assert asked.wait(WAIT)
            wait_until(lambda: "genrec_requests_inside 51.0" in client.get("/metrics").text)
            assert len(item_ids(client.post("/v1/recommend", json={"k": 3}))) == 3
            assert len(item_ids(client.post("/v1/related", json={"item_id": "i1", "k": 3}))) == 3
            assert client.get("/page/page.css").status_code == 200
            assert not any(one.done() for one in known)
        finally:
            released.set()
        assert {one.result().status_code for one in known} == {503}
