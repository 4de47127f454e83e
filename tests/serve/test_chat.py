"""Chat completions: they work with OpenAI's client, and end even if the model fails."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server import error_of, item_ids, parse_sse, running_server, small_pipeline

from genrec import Item
from genrec.chat.conversation import TurnContext
from genrec.chat.item_links import extract_item_ids, format_item_link
from genrec.chat.languages.exclusion_phrases import exclude_word
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.notices import Notice
from genrec.rankers.base import DenseRanker, RankRequest

REQUEST = [{"role": "user", "content": "a lamp, under 9"}]


class FailingRanker(DenseRanker):
    """A ranker whose engine is gone."""

    source = "generative"

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Any) -> Any:
        raise EngineError("/secret/path: the engine is gone")


def write_half_a_reply(context: TurnContext, on_text: Any, deadline: Deadline) -> bool:
    """Start a reply, and then fail."""
    on_text("I think ")
    raise EngineError("gone")


def test_openai_client_works(client: httpx.Client) -> None:
    """Any OpenAI client must work, and the next turn must build on plain text messages."""
    chat = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none needed here")
    assert [model.id for model in chat.models.list()] == ["genrec"]
    messages: list[Any] = [*REQUEST]
    first = chat.chat.completions.create(model="genrec", messages=messages)
    shown = extract_item_ids(first.choices[0].message.content or "")
    assert shown == ("i0", "i1", "i2", "i3", "i4")
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "not the first, no candles, more like the second"},
    ]
    pieces, chunks = [], []
    for chunk in chat.chat.completions.create(
        model="genrec", messages=messages, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        chunks.append(chunk)
    assert chunks[-1].usage is not None
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    second = extract_item_ids("".join(pieces))
    assert len(second) == 5
    assert not {"i0", "i1"} & set(second)
    wishes = chunks[0].model_extra["genrec"]["wishes"]
    assert (wishes["liked"], wishes["disliked"]) == (["i1"], ["i0"])
    assert [limit["where"] for limit in wishes["limits"]] == ["price <= 9.0", exclude_word("candle").where]
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        chat.chat.completions.create(model="gpt-4", messages=messages)
    with pytest.raises(openai.BadRequestError, match="the last message is not from the user"):
        chat.chat.completions.create(model="genrec", messages=messages[:2])


def test_preferences_can_be_edited_by_hand(client: httpx.Client) -> None:
    """A user who was misunderstood removes a label, without a message."""
    asked = client.post("/v1/chat/completions", json={"messages": REQUEST}).json()
    extension = asked["genrec"]
    assert [(chip["kind"], chip["label"]) for chip in extension["chips"]] == [
        ("looks for", "a lamp"),
        ("only", "price <= 9.0"),
    ]
    wishes = {**extension["wishes"], "limits": [], "liked": ["no longer there"]}
    messages = [*REQUEST, {"role": "assistant", "content": asked["choices"][0]["message"]["content"]}]
    changed = client.post("/v1/chat/completions", json={"messages": messages, "genrec": {"wishes": wishes, "k": 30}})
    assert len(changed.json()["genrec"]["items"]) == 30
    assert changed.json()["genrec"]["wishes"] == {"liked": [], "disliked": [], "words": ["a lamp"], "limits": []}
    bad = {"wishes": {"limits": [{"about": "x", "where": "price <"}]}}
    response = client.post("/v1/chat/completions", json={"messages": messages, "genrec": bad, "stream": True})
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


def test_failed_engine_fails_no_request(tmp_path: Path) -> None:
    """Lists come from other stages and say so; a stream ends and is marked as a fallback."""
    with (
        running_server(
            small_pipeline(
                extra_stages=[FailingRanker()],
                notices=[Notice("no_language_model", {"reason": "nothing is in /secret/cache"})],
            ),
            tmp_path,
            generate=write_half_a_reply,
        ) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        answer = client.post("/v1/recommend", json={"user_id": "ann", "k": 5, "explain": True})
        assert len(item_ids(answer)) == 5
        assert answer.json()["notices"] == ["generative was skipped"]
        assert {item["source"].partition(":")[0] for item in answer.json()["items"]} == {"blend", "popularity"}
        assert error_of(ready := client.get("/health/ready"))["code"] == "engine_unavailable"
        assert ready.status_code == 503
        assert "secret" not in ready.text
        assert client.get("/health/live").status_code == 200
        whole = client.post("/v1/chat/completions", json={"messages": REQUEST}).json()
        assert whole["genrec"]["fallback"]
        assert whole["choices"][0]["message"]["content"].startswith("I think \n\nHow about: 1. [Red Mug](#item=i0)")
        with client.stream("POST", "/v1/chat/completions", json={"messages": REQUEST, "stream": True}) as stream:
            chunks = list(parse_sse(stream.iter_lines()))
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["genrec"] == {"fallback": True}
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        codes = [notice["code"] for notice in whole["genrec"]["notice_details"]]
        assert codes == ["stage_skipped", "words_ignored"]  # no other stage reads words
        assert chunks[1]["genrec"]["notices"] == whole["genrec"]["notices"]
        assert "secret" not in json.dumps([answer.json(), whole, chunks])  # neither causes nor notices of the pipeline
        assert "genrec_reply_fallbacks_total 2.0" in client.get("/metrics").text


def test_titles_are_escaped_in_replies(tmp_path: Path) -> None:
    """A title that could link to another item would inject it into the next turn."""
    bad = "x](#item=i5) <script>alert(1)</script> [y"
    with (
        running_server(small_pipeline(extra_items=[Item("bad/../id?", bad, {"price": 0.1})]), tmp_path) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        body = {"messages": [{"role": "user", "content": "under 0.5"}]}
        reply = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert extract_item_ids(reply) == ("bad/../id?",)
        assert format_item_link("bad/../id?", bad) in reply
        assert client.get("/v1/catalog/items/bad%2F..%2Fid%3F").json()["title"] == bad


@pytest.mark.parametrize(
    "where",
    [
        "price<5",
        "price < 5 #",
        "price < 5 # ) and (price > 100",
        "price < 5 or (price is None)",
        "((price < 5) or ('#' in words(title)))",
        "price <\n5",
        "'it\\'s' not in words(title) and price < 5",
    ],
)
@pytest.mark.parametrize("about", ["price to", "word it's", "mine"])
def test_limit_of_a_client_holds_at_every_later_turn(client: httpx.Client, about: str, where: str) -> None:
    """A limit in the words of a client was split and joined as text, and then failed or vanished later."""
    messages: list[dict[str, str]] = []
    extension: dict[str, Any] = {"wishes": {"limits": [{"about": about, "where": where}]}}
    for said in ("no candles", "over 1", "something red"):
        messages.append({"role": "user", "content": said})
        response = client.post("/v1/chat/completions", json={"messages": messages, "genrec": extension})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["genrec"]["items"]
        assert all(item["attributes"]["price"] < 5 for item in answer["genrec"]["items"])
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        extension = {"wishes": answer["genrec"]["wishes"]}
    assert len(extension["wishes"]["limits"]) == 3


@pytest.mark.parametrize("where", ["price <", "price < 5) or (price > 1", "colour == 'red'", "price < 'x'", "#"])
def test_invalid_limit_is_named(client: httpx.Client, where: str) -> None:
    """A client with thirty limits must learn which one is wrong."""
    limits = [{"about": "a", "where": "price < 5"}, {"about": "b", "where": where}]
    body = {"messages": REQUEST, "genrec": {"wishes": {"limits": limits}}}
    for stream in (False, True):
        response = client.post("/v1/chat/completions", json={**body, "stream": stream})
        error = error_of(response)
        assert (response.status_code, error["code"], error["reason"]) == (400, "invalid_value", "invalid_filter")
        assert error["param"] == "genrec.wishes.limits.1.where"
        assert repr(where) in error["message"]


def test_background_turn_of_a_client_is_no_turn_of_the_user(client: httpx.Client) -> None:
    """Titles, tags and follow-up questions that a client asks for were recommended from, and became preferences."""
    quoted = "USER: a lamp, under 9\nASSISTANT: Here you are."
    sheet = '### Task:\nNo candles in the title.\n### Output:\n{ "title": "words" }\n'
    sheet += f"<chat_history>\n{quoted}\n</chat_history>"
    title = {"role": "user", "content": sheet}
    answer = client.post("/v1/chat/completions", json={"messages": [title], "temperature": 0.1}).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"title": "A lamp, under 9"}
    assert answer["genrec"]["background"] == "title"
    assert [detail["code"] for detail in answer["genrec"]["notice_details"]] == ["parameters_ignored"]
    assert "items" not in answer["genrec"]
    chat = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none needed here")
    messages: list[Any] = [title]
    chunks = list(chat.chat.completions.create(model="genrec", messages=messages, stream=True))
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == {"title": "A lamp, under 9"}
    schema = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"properties": {"title": {}}}}}
    structured = {"messages": [{"role": "user", "content": f"Analyse this.\n{quoted}"}], "response_format": schema}
    answer = client.post("/v1/chat/completions", json=structured).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"title": "A lamp, under 9"}
    alone = {"messages": [{"role": "system", "content": f"A title, please.\nConvo:\n{quoted}"}]}
    assert client.post("/v1/chat/completions", json=alone).json()["genrec"]["background"] == "title"
    messages = [*REQUEST, {"role": "assistant", "content": "Here you are."}, title]
    messages += [{"role": "assistant", "content": "[Red Mug](#item=i0)"}, {"role": "user", "content": "something red"}]
    later = client.post("/v1/chat/completions", json={"messages": messages}).json()["genrec"]
    assert later["wishes"]["words"] == ["a lamp", "something red"]
    assert [limit["where"] for limit in later["wishes"]["limits"]] == ["price <= 9.0"]


def test_documents_of_a_client_are_no_preferences(client: httpx.Client) -> None:
    """Open WebUI puts its instructions and the documents of a chat into the message of the user."""
    sheet = (
        "### Task:\nAnswer.\n### Guidelines:\n- Short.\n<context>\nno candles, under 3\n</context>\n\na lamp, under 9"
    )
    body = {"messages": [{"role": "user", "content": sheet}]}
    extension = client.post("/v1/chat/completions", json=body).json()["genrec"]
    assert (
        extension["wishes"]
        == client.post("/v1/chat/completions", json={"messages": REQUEST}).json()["genrec"]["wishes"]
    )
