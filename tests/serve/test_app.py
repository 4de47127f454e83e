"""Routes for lists, events and the catalog: every list is complete, and every error names its cause."""

import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import error_of, item_ids, running_server, small_pipeline

from genrec import Item


def test_list_has_exactly_k_allowed_items(client: httpx.Client) -> None:
    """A page of a shop has k slots: a short list leaves gaps, and a wrong item is a dead link."""
    response = client.post("/v1/recommend", json={"user_id": "ann", "k": 7, "where": "price < 30", "exclude": ["i2"]})
    found = response.json()["items"]
    assert [item["rank"] for item in found] == list(range(1, 8))
    assert not {"i0", "i1", "i2"} & set(item_ids(response))  # what ann has, and what was ruled out
    assert all(item["attributes"]["price"] < 30 for item in found)
    assert len(item_ids(client.post("/v1/search", json={"words": "red", "k": 40}))) == 40
    assert item_ids(client.post("/v1/related", json={"item_id": "i1", "k": 1})) == ["i2"]
    assert len(item_ids(client.post("/v1/recommend", json={"user_id": "nobody"}))) == 10
    explained = client.post("/v1/recommend", json={"user_id": "ann", "k": 1, "explain": True}).json()["items"][0]
    assert explained["reason"]
    assert explained["drivers"][0]["item_id"] == "i1"


def test_event_changes_the_next_list_and_forget_removes_the_user(client: httpx.Client) -> None:
    """A list must not repeat what was just bought, and `forget` must delete all data of a user."""
    before = item_ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3}))
    event = {"user_id": "eve", "item_id": before[0], "event": "buy", "event_id": "order 1"}
    assert client.post("/v1/events", json={"events": [event]}).json()["added"] == 1
    assert client.post("/v1/events", json={"events": [event]}).json()["added"] == 0
    after = item_ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3}))
    assert before[0] not in after
    assert [item["item_id"] for item in client.get("/v1/users/eve/history").json()["items"]] == before[:1]
    assert sum(client.delete("/v1/users/eve").json()["removed"].values()) == 1
    assert client.get("/v1/users/eve/history").json()["items"] == []
    assert item_ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3})) == before
    assert client.get("/v1/users/cyd/history").json()["items"]
    client.delete("/v1/users/cyd")
    assert client.get("/v1/users/cyd/history").json()["items"] == []  # the file still has them
    unknown = client.post("/v1/events", json={"events": [event, {**event, "item_id": "no such item"}]})
    assert (unknown.status_code, error_of(unknown)["code"]) == (400, "invalid_value")
    assert client.get("/v1/users/eve/history").json()["items"] == []  # all or nothing


def test_catalog_changes_apply_to_the_next_request(tmp_path: Path) -> None:
    """Sold-out items must disappear at once, and new items must not wait for a restart."""
    with running_server(small_pipeline(), tmp_path) as address, httpx.Client(base_url=address, timeout=30) as client:
        added = {"items": [{"item_id": "new", "title": "Purple Mug", "attributes": {"price": 0.5}}]}
        assert client.post("/v1/catalog/items", json=added).json() == {"total": 41}
        assert item_ids(client.post("/v1/recommend", json={"where": "price < 1"})) == ["new"]
        changed = client.put("/v1/catalog/items/new", json={"title": "Violet Mug", "attributes": {"price": 99.0}})
        assert changed.json() == {"total": 41}
        assert client.get("/v1/catalog/items/new").json()["title"] == "Violet Mug"
        assert item_ids(client.post("/v1/recommend", json={"where": "price < 1"})) == []
        assert client.delete("/v1/catalog/items/i0").json() == {"total": 40}
        assert "i0" not in item_ids(client.post("/v1/recommend", json={"k": 40}))
        gone = client.delete("/v1/catalog/items/i0")
        assert (gone.status_code, error_of(gone)["code"]) == (404, "item_not_found")
        assert client.get("/v1/catalog/items", params={"start": 38, "limit": 5}).json()["total"] == 40
        wrong = client.put("/v1/catalog/items/x", json={"title": "X", "attributes": {"price": "cheap"}})
        assert (wrong.status_code, error_of(wrong)["type"]) == (400, "invalid_request_error")
        assert len(client.get("/v1/catalog/items").json()["items"]) == 40


def test_non_finite_numbers_become_null(tmp_path: Path) -> None:
    """`Infinity` is not JSON: a browser cannot parse a response that contains it."""
    odd = [Item("inf", "Endless Lamp", {"price": math.inf}), Item("nan", "Odd Lamp", {"price": math.nan})]
    messages = [{"role": "user", "content": "an endless lamp, an odd lamp"}]
    with (
        running_server(small_pipeline(extra_items=odd), tmp_path) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        texts = [client.post("/v1/recommend", json={"only": ["inf", "nan"], "k": 2}).text]
        texts += [client.get(f"/v1/catalog/items{own}").text for own in ("", "/inf", "/nan")]
        body = {"messages": messages, "genrec": {"k": 50}}
        texts.append(client.post("/v1/chat/completions", json=body).text)
        stream = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    texts += [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    responses = [json.loads(text, parse_constant=pytest.fail) for text in texts]
    assert [item["attributes"] for item in responses[0]["items"]] == [{"price": None}] * 2
    assert sum("Endless Lamp" in text for text in texts) >= 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"k": True}, "k"),
        ({"k": 1e9}, "k"),
        ({"histroy": []}, "histroy"),
        ({"user_id": ""}, "user_id.constrained-str"),
        ({"history": ["i0"] * 10_001}, "history"),
        ({"words": "\ud800"}, "words"),
        ({"words": "x" * 1001}, "words"),
        ({"boost": {"i0": float("inf")}}, "boost.i0"),
        ({"deadline": -1}, "deadline"),
    ],
)
def test_invalid_field_is_named(client: httpx.Client, body: Any, param: str) -> None:
    """A caller who misspells a field must get an error, not a plausible list."""
    response = client.post("/v1/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert str(error_of(response)["param"]).startswith(param.split(".")[0])


def test_errors_name_the_value_and_no_path(client: httpx.Client) -> None:
    """A caller must learn what to correct, and nothing about the machine."""
    for body, expected in (
        ({"where": "price <"}, "price <"),
        ({"where": "colour = 3"}, "colour"),
        ({"only": ["zz"]}, "zz"),
        ({"history": ["zz"], "on_unknown": "raise"}, "zz"),
    ):
        response = client.post("/v1/recommend", json=body)
        assert response.status_code == 400, response.text
        assert expected in error_of(response)["message"]
        assert not re.search(r"/\w+/\w+", error_of(response)["message"])
    json_type = {"content-type": "application/json"}
    for content, headers, expected in (
        (b'{"k":3', json_type, "the body is not valid JSON at character 6"),
        (b'{"k":3}', {"content-type": "text/plain"}, "Content-Type: application/json"),
        (b"", {}, "Content-Type: application/json"),
        (b"[]", json_type, "Content-Type: application/json"),
    ):
        response = client.post("/v1/recommend", content=content, headers=headers)
        assert response.status_code == 400
        assert expected in error_of(response)["message"]
    odd = client.post("/v1/chat/completions", json={"messages": [{"role": "boss", "content": 3}]})
    assert error_of(odd)["param"] in ("messages.0.role", "messages.0.content")
    assert "literal" not in odd.text
    large = client.post("/v1/recommend", content=b"[" * (1 << 20) + b"]")
    assert (large.status_code, error_of(large)["code"]) == (413, "too_large")
    chunked = client.post("/v1/recommend", content=iter([b"x" * 65536] * 20))
    assert chunked.status_code == 413
    deep = client.post("/v1/recommend", content=b"[" * 100_000, headers={"content-type": "application/json"})
    assert deep.status_code == 400
    assert client.put("/v1/recommend", json={}).status_code == 405


def test_a_time_in_another_unit_is_told_from_one_that_is_wrong(client: httpx.Client) -> None:
    """A browser's clock gives milliseconds; "less than 1000000000000" does not say so."""
    for timestamp, unit in ((1_700_000_000_000, "milliseconds"), (1_700_000_000_000_000, "microseconds")):
        event = {"user_id": "u", "item_id": "i0", "timestamp": timestamp}
        error = error_of(client.post("/v1/events", json={"events": [event]}))
        assert error["param"] == "events.0.timestamp"
        assert f"looks like {unit}" in error["message"]


def test_no_error_advises_what_the_route_does_not_take(client: httpx.Client) -> None:
    """A caller who follows the advice gets the next error."""
    event = {"user_id": "u", "item_id": "zz"}
    told = error_of(client.post("/v1/events", json={"events": [event]}))["message"]
    assert "'zz'" in told
    assert "on_unknown" not in told
    unknown = client.post("/v1/recommend", json={"user_id": "nobody", "on_unknown": "raise"})
    assert (unknown.status_code, error_of(unknown)["reason"]) == (400, "unknown_user")
    assert 'on_unknown: "fallback"' in error_of(unknown)["message"]


def test_documentation_lists_every_route(client: httpx.Client) -> None:
    """An undocumented route is not used; a documented one that is missing breaks clients."""
    paths = client.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    text = (Path(__file__).parents[2] / "docs/serve-api.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = set()
    for cell in cells:
        methods = re.findall(r"\b(GET|POST|PUT|DELETE)\b", cell)
        for path in re.findall(r"(/[\w/{}]+)", cell):
            documented |= {(method, path.replace("{id}", "{}")) for method in methods}
    plain = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in routes}
    assert {path for _, path in plain} - {"/v1/models/{}"} == {path for _, path in documented}
    assert plain - {("GET", "/v1/models/{}")} <= documented
