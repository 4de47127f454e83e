"""Every parameter of OpenAI's chat completions is honoured, refused, or ignored and named in the answer."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat import completion_create_params
from server import error_of, parse_sse

from genrec.serve.openai_parameters import HONOURED, IGNORED, REFUSED

DOCUMENTED = Path(__file__).parents[2] / "docs" / "serve-chat.md"
REQUEST = [{"role": "user", "content": "a lamp, under 9"}]
EFFECTIVE: dict[str, Any] = {  # a value that would have an effect at OpenAI
    "frequency_penalty": 0.5,
    "functions": [{"name": "f", "parameters": {}}],
    "logit_bias": {"5": 1},
    "max_completion_tokens": 5,
    "max_tokens": 5,
    "metadata": {"a": "b"},
    "moderation": {"mode": "x"},
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "x",
    "prompt_cache_options": {"a": 1},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "safety_identifier": "x",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["\n"],
    "store": True,
    "temperature": 0.7,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_p": 0.5,
    "user": "ann",
    "verbosity": "low",
    "web_search_options": {"a": 1},
}
DEMANDS: list[tuple[str, Any]] = [
    ("audio", {"voice": "x", "format": "mp3"}),
    ("function_call", {"name": "f"}),
    ("logprobs", True),
    ("modalities", ["text", "audio"]),
    ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("top_logprobs", 3),
]
NEUTRAL: dict[str, Any] = {
    "function_call": "auto",
    "logit_bias": {},
    "logprobs": False,
    "max_tokens": None,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "stop": None,
    "store": False,
    "temperature": 0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": None,
    "top_p": 1,
}


def about_request(extension: dict[str, Any]) -> list[dict[str, Any]]:
    """The notices of an answer about its request; the shop of these tests has no ranker that reads words."""
    return [detail for detail in extension.get("notice_details", []) if detail["code"] != "words_ignored"]


def ask(client: httpx.Client, **parameters: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"messages": REQUEST, **parameters})


def test_every_parameter_of_the_openai_package_is_in_one_group() -> None:
    """A parameter that nobody thought of is ignored without a word."""
    kinds = completion_create_params.CompletionCreateParamsStreaming.__mro__[0].__annotations__
    known = set(kinds) | set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert known == HONOURED | REFUSED.keys() | IGNORED
    assert len(known) == len(HONOURED) + len(REFUSED) + len(IGNORED)


def test_every_parameter_is_documented() -> None:
    """Users must be able to look up what is ignored."""
    page = DOCUMENTED.read_text(encoding="utf-8")
    assert [name for name in sorted(HONOURED | REFUSED.keys() | IGNORED) if f"`{name}`" not in page] == []


def test_ignored_parameters_are_named_in_the_answer(client: httpx.Client) -> None:
    """A caller who limits the reply to five tokens must learn that this has no effect; the list stays the same."""
    assert EFFECTIVE.keys() == IGNORED
    plain = ask(client).json()
    half = len(EFFECTIVE) // 2
    for names in (sorted(EFFECTIVE)[:half], sorted(EFFECTIVE)[half:]):
        answer = ask(client, **{name: EFFECTIVE[name] for name in names}).json()
        assert about_request(answer["genrec"]) == [{"code": "parameters_ignored", "fields": {"names": names}}]
        assert all(name in answer["genrec"]["notices"][-1] for name in names)
        assert answer["genrec"]["items"] == plain["genrec"]["items"]
        assert answer["choices"] == plain["choices"]
    strange = {"top_k": 5, "a\nb": 1, "x" * 90: 2, "stream_options": {"include_usage": True, "other": 1}}
    with client.stream("POST", "/v1/chat/completions", json={"messages": REQUEST, "stream": True, **strange}) as stream:
        chunks = list(parse_sse(stream.iter_lines()))
    told = [detail for chunk in chunks[:-1] for detail in about_request(chunk.get("genrec", {}))]
    assert told == [{"code": "parameters_ignored", "fields": {"names": ["stream_options.other", "top_k"]}}]


@pytest.mark.parametrize(("name", "value"), DEMANDS)
def test_demands_that_a_reply_cannot_meet_are_refused(client: httpx.Client, name: str, value: Any) -> None:
    """Otherwise a client waits for JSON, log-probabilities, audio or a tool call, and fails in its own code."""
    for stream in (False, True):
        response = ask(client, stream=stream, **{name: value})
        error = error_of(response)
        assert response.status_code == 400
        assert (error["code"], error["reason"], error["param"]) == ("invalid_value", "unsupported_parameter", name)
        assert name in error["message"]
    assert error_of(ask(client, n=2))["param"] == "n"


def test_values_without_effect_are_accepted_without_a_notice(client: httpx.Client) -> None:
    """Clients send their defaults with each request."""
    answer = ask(client, **NEUTRAL).json()
    assert about_request(answer["genrec"]) == []


def test_messages_that_are_not_read_are_named(client: httpx.Client) -> None:
    """A system prompt has no effect on the list, and must not become a preference."""
    messages = [
        {"role": "system", "content": "Only candles, over 100."},
        {"role": "developer", "content": "no lamps"},
        {"role": "user", "content": "a lamp, under 9"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "content": "no mugs", "tool_call_id": "1"},
        {"role": "user", "content": "a red one"},
    ]
    extension = client.post("/v1/chat/completions", json={"messages": messages}).json()["genrec"]
    roles = ["system", "developer", "tool"]
    assert about_request(extension) == [{"code": "messages_ignored", "fields": {"roles": roles}}]
    assert [limit["where"] for limit in extension["wishes"]["limits"]] == ["price <= 9.0"]
    assert extension["wishes"]["words"] == ["a lamp", "a red one"]


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def test_picture_is_not_read_and_the_reply_says_so(client: httpx.Client) -> None:
    """A user who sends a picture would take the list for what is in it; later turns must not fail because of it."""
    content = [{"type": "text", "text": "a lamp like this, under 9"}, PICTURE]
    answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}).json()
    reply = answer["choices"][0]["message"]["content"]
    assert "only text" in reply
    assert "image_url" in reply
    assert about_request(answer["genrec"]) == [{"code": "parts_ignored", "fields": {"types": ["image_url"]}}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": reply}, *REQUEST]
    later = client.post("/v1/chat/completions", json={"messages": messages}).json()
    assert "only text" not in later["choices"][0]["message"]["content"]
    assert later["genrec"]["items"]


def test_message_without_text_is_refused(client: httpx.Client) -> None:
    """There is nothing to recommend from."""
    for part in (PICTURE, SOUND):
        body = {"messages": [*REQUEST, {"role": "user", "content": [part]}]}
        response = client.post("/v1/chat/completions", json=body)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", "messages.1.content")
        assert "only text is read" in error["message"]
    unknown = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]}
    )
    assert error_of(unknown)["code"] == "invalid_request"
