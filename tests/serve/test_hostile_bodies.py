"""Hostile bodies: whatever a field of a request holds, the server answers it or refuses it; nothing is a status 500."""

import json
from typing import Any

import httpx
import pytest

# Raw JSON, because no JSON library writes all of these.
VALUES = [
    *("9" * 5000, "-" + "9" * 5000, "9" * 400, "9223372036854775808", "1e400", "-1e400", "NaN", "Infinity", "1e308"),
    *("1.0", "1.5", "-0", "0", "true", "null", '""', '" "', '"\\u0000"', '"\\ud800"', '"' + "x" * 50_000 + '"'),
    *('"' + "9" * 5000 + '"', "[]", "{}", "[[[[1]]]]", '["i0", ' + "9" * 5000 + "]", '{"i0": ' + "9" * 5000 + "}"),
    *('{"i0": 1e308}', '{"i0": null}', "253402300800", "1e12", "-1e12", '"9999-12-31T23:59:59-12:00"'),
]
ITEM = {"item_id": "i0", "title": "Red Mug"}
EVENT = {"user_id": "u", "item_id": "i0", "timestamp": 1}
CHAT = {"messages": [{"role": "user", "content": "a lamp"}]}
PREFERENCES = {"liked": [], "disliked": [], "words": [], "limits": []}


def at(body: Any, path: str, value: str) -> str:
    """The JSON of a body with one value replaced by raw JSON."""
    changed = json.loads(json.dumps(body))
    *parents, name = path.split(".")
    target = changed
    for parent in parents:
        target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
    target[int(name) if isinstance(target, list) else name] = "@value@"
    return json.dumps(changed).replace('"@value@"', value)


FIELDS = [
    *(
        ("/v1/recommend", {}, name)
        for name in (
            *("user_id", "history", "words", "k", "filter_seen", "only", "exclude", "where", "boost", "explain"),
            *("deadline", "on_unknown"),
        )
    ),
    ("/v1/recommend", {"history": ["i0"]}, "history.0"),
    ("/v1/search", {"words": "lamp"}, "words"),
    ("/v1/related", {"item_id": "i0"}, "item_id"),
    *(
        ("/v1/events", {"events": [EVENT]}, f"events.0.{name}")
        for name in ("user_id", "item_id", "timestamp", "event", "weight", "event_id")
    ),
    ("/v1/events", {}, "events"),
    *(("/v1/catalog/items", {"items": [ITEM]}, f"items.0.{name}") for name in ("item_id", "title", "attributes")),
    ("/v1/catalog/items", {"items": [{**ITEM, "attributes": {}}]}, "items.0.attributes.price"),
    ("/v1/catalog/items", {"items": [{**ITEM, "attributes": {}}]}, "items.0.attributes.new"),
    *(("/v1/chat/completions", CHAT, name) for name in ("model", "messages", "messages.0.content", "stream", "n")),
    *(("/v1/chat/completions", CHAT, f"genrec.{name}") for name in ("user_id", "history", "wishes", "k")),
    *(
        ("/v1/chat/completions", {**CHAT, "genrec": {"wishes": PREFERENCES}}, f"genrec.wishes.{name}")
        for name in PREFERENCES
    ),
    *(
        (
            "/v1/chat/completions",
            {**CHAT, "genrec": {"wishes": {"limits": [{"about": "a", "where": "price < 5"}]}}},
            path,
        )
        for path in ("genrec.wishes.limits.0.about", "genrec.wishes.limits.0.where")
    ),
]
FILTERS = ("price < {}", "title == '{}'", "price in [{}, 1]", "{} in title", "'{}' in words(title)", "{}")


@pytest.mark.parametrize(("path", "body", "field"), FIELDS, ids=[f"{path} {field}" for path, _, field in FIELDS])
def test_no_value_of_a_field_is_an_internal_error(client: httpx.Client, path: str, body: Any, field: str) -> None:
    """A status 500 tells the caller nothing, wakes somebody up, and may be the way to stop the server."""
    for value in VALUES:
        response = client.post(path, content=at(body, field, value), headers={"content-type": "application/json"})
        assert response.status_code < 500, f"{value[:60]}: {response.text[:300]}"
        assert response.status_code == 200 or response.json()["error"]["message"]
    assert client.post("/v1/recommend", json={"k": 3}).status_code == 200
    assert client.get("/v1/catalog/items").status_code == 200


@pytest.mark.parametrize("content", [b'{"k": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"user_id": "\xff"}'])
def test_a_body_that_no_reader_takes_is_told_as_an_invalid_request(client: httpx.Client, content: bytes) -> None:
    """ "Bad request" alone tells the caller neither what is wrong nor that the body is."""
    response = client.post("/v1/recommend", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"
    assert "body" in response.json()["error"]["message"]


@pytest.mark.parametrize("condition", FILTERS)
def test_no_value_in_a_filter_is_an_internal_error(client: httpx.Client, condition: str) -> None:
    """Numbers in filters are written by the caller, hexadecimal ones with any number of digits."""
    for value in (
        "0x" + "f" * 1900,
        "-0x" + "f" * 1900,
        "1e999",
        "nan",
        "inf",
        "9" * 1900,
        "1_0",
        "0b1",
        "\\x00",
        "\\ud800",
    ):
        response = client.post("/v1/recommend", json={"where": condition.format(value), "k": 1})
        assert response.status_code in (200, 400), response.text[:300]
