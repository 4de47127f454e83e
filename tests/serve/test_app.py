"""The server: every answer has exactly what was asked for, every refusal says why, and who may not ask is not heard."""

import asyncio
import json
import math
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server import BlockingRanker, parse_sse, running_server, small_pipeline, wait_until

from genrec import Item
from genrec.chat.advisor import TurnContext
from genrec.chat.item_links import extract_item_ids, format_item_link
from genrec.chat.parsers.lexical import exclude_word
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.notices import Notice
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.serve.admission import AdmissionMiddleware, Limits
from genrec.serve.auth import ApiKeys, TokenBucket, read_keys
from genrec.serve.service import ServiceConfig
from genrec.serve.uvicorn_protocol import _HeadBufferingTransport

KEY = "a-key-of-more-than-sixteen"
ASKED = [{"role": "user", "content": "a lamp, under 9"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        running_server(small_pipeline(), tmp_path_factory.mktemp("serve")) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client


def fault(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert sorted(found) == ["code", "message", "param", "type"]
    return found


def ids(answer: httpx.Response) -> list[object]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_a_list_has_exactly_what_was_asked_for(client: httpx.Client) -> None:
    """A shop's page has k places: a shorter list leaves holes, and a wrong item a dead link."""
    answer = client.post("/v1/recommend", json={"user_id": "ann", "k": 7, "where": "price < 30", "exclude": ["i2"]})
    found = answer.json()["items"]
    assert [item["rank"] for item in found] == list(range(1, 8))
    assert not {"i0", "i1", "i2"} & set(ids(answer))  # what ann has, and what was ruled out
    assert all(item["attributes"]["price"] < 30 for item in found)
    assert len(ids(client.post("/v1/search", json={"words": "red", "k": 40}))) == 40
    assert ids(client.post("/v1/related", json={"item_id": "i1", "k": 1})) == ["i2"]
    assert len(ids(client.post("/v1/recommend", json={"user_id": "nobody"}))) == 10
    explained = client.post("/v1/recommend", json={"user_id": "ann", "k": 1, "explain": True}).json()["items"][0]
    assert explained["reason"]
    assert explained["drivers"][0]["item_id"] == "i1"


def test_event_changes_the_next_list_and_forget_removes_the_user(client: httpx.Client) -> None:
    """Recommending what somebody just bought is the oldest joke about recommenders; keeping what must go is none."""
    before = ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3}))
    event = {"user_id": "eve", "item_id": before[0], "event": "buy", "event_id": "order 1"}
    assert client.post("/v1/events", json={"events": [event]}).json() == {"added": 1}
    assert client.post("/v1/events", json={"events": [event]}).json() == {"added": 0}
    after = ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3}))
    assert before[0] not in after
    assert [item["item_id"] for item in client.get("/v1/users/eve/history").json()["items"]] == before[:1]
    assert sum(client.delete("/v1/users/eve").json()["removed"].values()) == 1
    assert client.get("/v1/users/eve/history").json()["items"] == []
    assert ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 3})) == before
    assert client.get("/v1/users/cyd/history").json()["items"]
    client.delete("/v1/users/cyd")
    assert client.get("/v1/users/cyd/history").json()["items"] == []  # the file still has them
    unknown = client.post("/v1/events", json={"events": [event, {**event, "item_id": "no such item"}]})
    assert (unknown.status_code, fault(unknown)["code"]) == (400, "invalid_value")
    assert client.get("/v1/users/eve/history").json()["items"] == []  # all or nothing


def test_the_catalog_changes_while_it_is_served(tmp_path: Path) -> None:
    """What is sold out must go now, and what came in this morning must not wait for tonight."""
    with running_server(small_pipeline(), tmp_path) as address, httpx.Client(base_url=address, timeout=30) as client:
        added = {"items": [{"item_id": "new", "title": "Purple Mug", "attributes": {"price": 0.5}}]}
        assert client.post("/v1/catalog/items", json=added).json() == {"total": 41}
        assert ids(client.post("/v1/recommend", json={"where": "price < 1"})) == ["new"]
        changed = client.put("/v1/catalog/items/new", json={"title": "Violet Mug", "attributes": {"price": 99.0}})
        assert changed.json() == {"total": 41}
        assert client.get("/v1/catalog/items/new").json()["title"] == "Violet Mug"
        assert ids(client.post("/v1/recommend", json={"where": "price < 1"})) == []
        assert client.delete("/v1/catalog/items/i0").json() == {"total": 40}
        assert "i0" not in ids(client.post("/v1/recommend", json={"k": 40}))
        gone = client.delete("/v1/catalog/items/i0")
        assert (gone.status_code, fault(gone)["code"]) == (404, "item_not_found")
        assert client.get("/v1/catalog/items", params={"start": 38, "limit": 5}).json()["total"] == 40
        wrong = client.put("/v1/catalog/items/x", json={"title": "X", "attributes": {"price": "cheap"}})
        assert (wrong.status_code, fault(wrong)["type"]) == (400, "invalid_request_error")
        assert len(client.get("/v1/catalog/items").json()["items"]) == 40


def test_a_conversation_works_through_the_client_of_openai(client: httpx.Client) -> None:
    """Any chat client must work against it, and the next turn build on what came back as plain text."""
    chat = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none needed here")
    assert [model.id for model in chat.models.list()] == ["genrec"]
    messages: list[Any] = [*ASKED]
    first = chat.chat.completions.create(model="genrec", messages=messages)
    shown = extract_item_ids(first.choices[0].message.content or "")
    assert shown == ("i0", "i1", "i2", "i3", "i4")
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "not the first, no candles, more like the second"},
    ]
    pieces, told = [], []
    for chunk in chat.chat.completions.create(
        model="genrec", messages=messages, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        told.append(chunk)
    assert told[-1].usage is not None
    assert [choice.finish_reason for chunk in told for choice in chunk.choices][-1] == "stop"
    second = extract_item_ids("".join(pieces))
    assert len(second) == 5
    assert not {"i0", "i1"} & set(second)
    wishes = told[0].model_extra["genrec"]["wishes"]
    assert (wishes["liked"], wishes["disliked"]) == (["i1"], ["i0"])
    assert [own["where"] for own in wishes["limits"]] == ["price <= 9.0", exclude_word("candle").where]
    with pytest.raises(openai.NotFoundError, match="there is no such model"):
        chat.chat.completions.create(model="gpt-4", messages=messages)
    with pytest.raises(openai.BadRequestError, match="the last message is not the user's"):
        chat.chat.completions.create(model="genrec", messages=messages[:2])


def test_preferences_can_be_edited_by_hand(client: httpx.Client) -> None:
    """Whoever was misunderstood takes the chip away, and says nothing."""
    asked = client.post("/v1/chat/completions", json={"messages": ASKED}).json()
    own = asked["genrec"]
    assert [(chip["kind"], chip["label"]) for chip in own["chips"]] == [
        ("looks for", "a lamp"),
        ("only", "price <= 9.0"),
    ]
    wishes = {**own["wishes"], "limits": [], "liked": ["no longer there"]}
    messages = [*ASKED, {"role": "assistant", "content": asked["choices"][0]["message"]["content"]}]
    changed = client.post("/v1/chat/completions", json={"messages": messages, "genrec": {"wishes": wishes, "k": 30}})
    assert len(changed.json()["genrec"]["items"]) == 30
    assert changed.json()["genrec"]["wishes"] == {"liked": [], "disliked": [], "words": ["a lamp"], "limits": []}
    bad = {"wishes": {"limits": [{"about": "x", "where": "price <"}]}}
    refused = client.post("/v1/chat/completions", json={"messages": messages, "genrec": bad, "stream": True})
    assert (refused.status_code, fault(refused)["type"]) == (400, "invalid_request_error")


class _Failing(DenseRanker):
    """A model that cannot answer."""

    source = "generative"

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Any) -> Any:
        raise EngineError("/secret/path: the engine is gone")


def _write_half(occasion: TurnContext, on_text: Any, deadline: Deadline) -> bool:
    """Begins a reply, and dies."""
    on_text("I think ")
    raise EngineError("gone")


def test_an_engine_that_died_costs_no_request(tmp_path: Path) -> None:
    """At three in the morning the shop still has a list, and says by whom; a stream ends, and says that it is plain."""
    with (
        running_server(
            small_pipeline(
                extra_stages=[_Failing()],
                notices=[Notice("no_language_model", {"reason": "nothing is in /secret/cache"})],
            ),
            tmp_path,
            generate=_write_half,
        ) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        answer = client.post("/v1/recommend", json={"user_id": "ann", "k": 5, "explain": True})
        assert len(ids(answer)) == 5
        assert answer.json()["notices"] == ["generative was skipped"]
        assert {item["source"].partition(":")[0] for item in answer.json()["items"]} == {"blend", "popularity"}
        assert fault(ready := client.get("/health/ready"))["code"] == "engine_unavailable"
        assert ready.status_code == 503
        assert "secret" not in ready.text
        assert client.get("/health/live").status_code == 200
        whole = client.post("/v1/chat/completions", json={"messages": ASKED}).json()
        assert whole["genrec"]["fallback"]
        assert whole["choices"][0]["message"]["content"].startswith("I think \n\nHow about: 1. [Red Mug](#item=i0)")
        with client.stream("POST", "/v1/chat/completions", json={"messages": ASKED, "stream": True}) as stream:
            told = list(parse_sse(stream.iter_lines()))
        assert told[-1] == "[DONE]"
        assert told[-2]["genrec"] == {"fallback": True}
        assert told[-2]["choices"][0]["finish_reason"] == "stop"
        assert told[1]["genrec"]["notices"] == whole["genrec"]["notices"] == ["generative was skipped"]
        assert "secret" not in json.dumps([answer.json(), whole, told])  # neither why, nor what the parts say at start
        assert "genrec_reply_fallbacks_total 2.0" in client.get("/metrics").text


def test_every_answer_is_json_whatever_the_catalog_holds(tmp_path: Path) -> None:
    """Infinity is a word of Python's: a browser cannot read an answer that has it, nor any list that has the item."""
    odd = [Item("inf", "Endless Lamp", {"price": math.inf}), Item("nan", "Odd Lamp", {"price": math.nan})]
    said = [{"role": "user", "content": "an endless lamp, an odd lamp"}]
    with (
        running_server(small_pipeline(extra_items=odd), tmp_path) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        texts = [client.post("/v1/recommend", json={"only": ["inf", "nan"], "k": 2}).text]
        texts += [client.get(f"/v1/catalog/items{own}").text for own in ("", "/inf", "/nan")]
        body = {"messages": said, "genrec": {"k": 50}}
        texts.append(client.post("/v1/chat/completions", json=body).text)
        stream = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    texts += [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    told = [json.loads(text, parse_constant=pytest.fail) for text in texts]
    assert [item["attributes"] for item in told[0]["items"]] == [{"price": None}] * 2
    assert sum("Endless Lamp" in text for text in texts) >= 4


def test_missing_key_reveals_nothing(tmp_path: Path) -> None:
    """Default deny: also of what is not there, so that nobody learns what is."""
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY]) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        paths = ["/v1/models", "/v1/users/ann/history", "/metrics", "/health/ready", "/openapi.json", "/nothing"]
        for path in paths:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
                refused = client.get(path, headers=headers)
                assert (refused.status_code, fault(refused)["type"]) == (401, "authentication_error")
                assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert client.get("/nothing", headers={"authorization": f"bearer {KEY}"}).status_code == 404
        assert client.get("/health/live").status_code == 200
        assert [client.head(path).status_code for path in ("/", "/health/live")] == [200, 200]  # as probes ask
        page = client.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"


def test_without_keys_only_this_machine_and_its_own_pages_are_answered(client: httpx.Client) -> None:
    """A page of another site must not reach the server through somebody's browser, nor by a name that it owns."""
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "localhost.evil.example:80"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    own = f"http://127.0.0.1:{client.base_url.port}"
    assert client.get("/v1/models", headers={"origin": own}).status_code == 200
    for own in ("[::1]:99", "LOCALHOST", "127.0.0.2:80", "[::1]"):  # whatever `--host` takes without keys
        assert client.get("/v1/models", headers={"host": own}).status_code == 200
    for other in ("[::1]evil.example", "[::1", "0.0.0.0", "127.1.evil.example", ""):
        assert client.get("/v1/models", headers={"host": other}).status_code == 403


def test_a_key_has_its_own_rate(tmp_path: Path) -> None:
    """One caller's loop must not take the server from all others; whoever waits as told is served."""
    other = "another-key-of-some-length"
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY, other], rate=0.5) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in (KEY, other))
        answers = [client.get("/v1/models", headers=mine) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert fault(answers[-1])["code"] == "rate_limited"
        assert client.get("/v1/models", headers=theirs).status_code == 200
        time.sleep(int(answers[-1].headers["retry-after"]))
        assert client.get("/v1/models", headers=mine).status_code == 200


def test_overload_returns_429_and_disconnected_requests_are_cancelled(tmp_path: Path) -> None:
    """Without a limit everybody waits for everybody; and who closed the page must not cost those who did not."""
    slow = BlockingRanker()
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, batching=ServiceConfig(max_queue=3, max_batch_size=8)
        ) as address,
        ThreadPoolExecutor(8) as pool,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        first = pool.submit(client.post, "/v1/recommend", json={})
        assert slow.entered.wait(10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/recommend", json={"k": 9}, timeout=0.3)  # waits, and leaves
        waiting = [pool.submit(client.post, "/v1/recommend", json={}) for _ in range(3)]
        wait_until(lambda: "genrec_lists_waiting 3.0" in client.get("/metrics").text)
        refused = client.post("/v1/recommend", json={})
        slow.released.set()
        assert (refused.status_code, fault(refused)["code"], refused.headers["retry-after"]) == (429, "overloaded", "1")
        assert [len(ids(answer.result())) for answer in (first, *waiting)] == [10] * 4
        assert slow.batches == [1, 3]


def test_rejected_request_keeps_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusing must cost next to nothing, and a client must find the next answer where it begins."""
    slow, tasks, own = BlockingRanker(), Counter[str](), AdmissionMiddleware.__call__

    async def counted(self: AdmissionMiddleware, scope: Any, receive: Any, send: Any) -> None:
        tasks[scope.get("raw_path", b"").decode()] += 1
        await own(self, scope, receive, send)

    monkeypatch.setattr(AdmissionMiddleware, "__call__", counted)
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, keys=[KEY], batching=ServiceConfig(max_queue=1)
        ) as address,
        httpx.Client(base_url=address, timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        pending = [pool.submit(client.post, "/v1/recommend", json={})]
        assert slow.entered.wait(10)
        pending.append(pool.submit(client.post, "/v1/recommend", json={}))
        wait_until(lambda: "genrec_lists_waiting 1.0" in client.get("/metrics").text)
        ask = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        known = ask + b"Authorization: Bearer " + KEY.encode() + b"\r\n"
        ready = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as connection:
            for said, status in ((ask, b"401"), (known, b"429"), (known, b"429")):
                connection.sendall(said + b"\r\n")
                (answer,) = _said(connection, 1)
                assert answer.split(b" ", 2)[1] == status
                assert b"\r\nx-content-type-options: nosniff\r\n" in answer
                assert (b"\r\nretry-after: 1\r\n" in answer) == (status == b"429")
                connection.sendall(b"{}")
            assert tasks["/v1/recommend"] == len(pending)
            rest = known + b"\r\n{}" + ready + known + b"Connection: close\r\n\r\n{}" + ready
            connection.sendall(known + b"\r\n{}" + rest)
            assert [answer.split(b" ", 2)[1] for answer in _said(connection, 4)] == [b"429", b"429", b"200", b"429"]
            assert connection.recv(1) == b""
        assert tasks["/v1/recommend"] == len(pending) + 2  # of what came together one is refused at once
        assert 'genrec_requests_total{route="refused",status="429"} 5.0' in client.get("/metrics").text
        slow.released.set()
        assert [len(ids(answer.result())) for answer in pending] == [10, 10]


def test_response_is_sent_in_one_write() -> None:
    """Each message costs the system as much as the rest of a short answer; what is kept for ever is an answer lost."""
    sent: list[bytes] = []

    class _Wire(asyncio.Transport):
        def write(self, data: Any) -> None:
            sent.append(bytes(data))

        def close(self) -> None:
            sent.append(b"closed")

    joined = _HeadBufferingTransport(_Wire())
    for said in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"):
        joined.write(said)
    assert sent == [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\none", b"two"]
    for rest in (lambda wire: wire.write(b""), lambda wire: wire.close()):
        sent.clear()
        joined = _HeadBufferingTransport(_Wire())
        joined.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        rest(joined)
        assert sent[0] == b"HTTP/1.1 204 No Content\r\n\r\n"


def _said(connection: socket.socket, count: int) -> list[bytes]:
    """So many whole answers."""
    read = b""
    answers: list[bytes] = []
    while len(answers) < count:
        head, found, body = read.partition(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head).group(1)) if found else 0  # type: ignore[union-attr]
        if found and len(body) >= size:
            answers.append(read[: len(head) + 4 + size])
            read = body[size:]
            continue
        more = connection.recv(65536)
        assert more, read
        read += more
    assert not read
    return answers


def test_requests_over_the_connection_limit_are_rejected(tmp_path: Path) -> None:
    """What is refused must cost nearly nothing, or refusing is what brings the server down."""
    slow = BlockingRanker()
    with (
        running_server(
            small_pipeline(extra_stages=[slow]), tmp_path, limits=Limits(max_concurrent_requests=1)
        ) as address,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(httpx.post, f"{address}/v1/recommend", json={}, timeout=30)
        assert slow.entered.wait(10)
        assert httpx.get(f"{address}/v1/models").status_code == 429
        assert httpx.get(f"{address}/health/live").status_code == 200
        slow.released.set()
        assert len(ids(first.result())) == 10


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
def test_requests_are_validated_before_use(client: httpx.Client, body: Any, param: str) -> None:
    """Whoever misspells a field must learn it, not get a list that looks right."""
    answer = client.post("/v1/recommend", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert str(fault(answer)["param"]).startswith(param.split(".")[0])


def test_refusals_name_the_thing_and_no_path(client: httpx.Client) -> None:
    """A caller learns what to mend, and nothing of the machine."""
    for body, said in (
        ({"where": "price <"}, "price <"),
        ({"where": "colour = 3"}, "colour"),
        ({"only": ["zz"]}, "zz"),
        ({"history": ["zz"], "on_unknown": "raise"}, "zz"),
    ):
        refused = client.post("/v1/recommend", json=body)
        assert refused.status_code == 400, refused.text
        assert said in fault(refused)["message"]
        assert not re.search(r"/\w+/\w+", fault(refused)["message"])
    json_type = {"content-type": "application/json"}
    for content, headers, said in (
        (b'{"k":3', json_type, "the body is no JSON, from character 6 on"),
        (b'{"k":3}', {"content-type": "text/plain"}, "Content-Type: application/json"),
        (b"", {}, "Content-Type: application/json"),
        (b"[]", json_type, "Content-Type: application/json"),
    ):
        refused = client.post("/v1/recommend", content=content, headers=headers)
        assert refused.status_code == 400
        assert said in fault(refused)["message"]
    odd = client.post("/v1/chat/completions", json={"messages": [{"role": "boss", "content": 3}]})
    assert fault(odd)["param"] in ("messages.0.role", "messages.0.content")
    assert "literal" not in odd.text
    large = client.post("/v1/recommend", content=b"[" * (1 << 20) + b"]")
    assert (large.status_code, fault(large)["code"]) == (413, "too_large")
    chunked = client.post("/v1/recommend", content=iter([b"x" * 65536] * 20))
    assert chunked.status_code == 413
    deep = client.post("/v1/recommend", content=b"[" * 100_000, headers={"content-type": "application/json"})
    assert deep.status_code == 400
    assert client.put("/v1/recommend", json={}).status_code == 405


def test_idle_connection_is_closed(client: httpx.Client) -> None:
    """A thousand of them would hold a thousand places."""
    for said in (b"", b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10) as connection:
            connection.sendall(said)
            answered = connection.recv(65536)
            assert answered == b"" or answered.startswith(b"HTTP/1.1 408 ")


def test_token_bucket_reports_retry_after() -> None:
    """A limit that drifts is none, and one that says a wrong time makes callers knock for ever."""
    now = 0.0
    bucket = TokenBucket(2.0, 3.0, lambda: now)
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [0.0, 0.5]
    now = 100.0
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_keys_are_read_from_a_file_and_weak_ones_are_refused(tmp_path: Path) -> None:
    """A key that can be guessed is worse than none: it looks like a lock."""
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{KEY}\n\n", encoding="utf-8")
    assert read_keys(file) == [KEY]
    assert ApiKeys(read_keys(file), clock=time.monotonic).find(KEY)[0]
    for content in ("", "# nothing\n"):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="holds no key"):
            read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")
    for weak in ("short", "with spaces in between it", "ключ-достаточной-длины"):
        with pytest.raises(InputError, match="key 2 is no text of 16"):
            ApiKeys([KEY, weak], clock=time.monotonic)
    with pytest.raises(InputError, match="rate is 0"):
        ApiKeys([KEY], rate=0, clock=time.monotonic)


def test_titles_are_data_in_every_answer(tmp_path: Path) -> None:
    """A title that could name another item would put it into the next turn."""
    bad = "x](#item=i5) <script>alert(1)</script> [y"
    with (
        running_server(small_pipeline(extra_items=[Item("bad/../id?", bad, {"price": 0.1})]), tmp_path) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        body = {"messages": [{"role": "user", "content": "under 0.5"}]}
        said = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert extract_item_ids(said) == ("bad/../id?",)
        assert format_item_link("bad/../id?", bad) in said
        assert client.get("/v1/catalog/items/bad%2F..%2Fid%3F").json()["title"] == bad


def test_the_page_of_documentation_names_every_route_and_no_other(client: httpx.Client) -> None:
    """A route that is not told of is not used, and one that is told of and not there is looked for at night."""
    described = client.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, own in described.items() for method in own}
    text = (Path(__file__).parents[2] / "docs/serve.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = set()
    for cell in cells:
        methods = re.findall(r"\b(GET|POST|PUT|DELETE)\b", cell)
        for path in re.findall(r"(/[\w/{}]+)", cell):
            told |= {(method, path.replace("{id}", "{}")) for method in methods}
    plain = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in routes}
    assert {path for _, path in plain} - {"/v1/models/{}"} == {path for _, path in told}
    assert plain - {("GET", "/v1/models/{}")} <= told
