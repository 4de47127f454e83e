"""Requests and responses of OpenAI's chat completions, and how servers that speak this protocol differ.

Not every server has every parameter: newer models of OpenAI want `max_completion_tokens` and refuse a temperature;
some servers refuse or ignore `response_format`; some have no `seed`, no `stream_options` or no system message. An error
names the parameter in `param`, in its text, or not at all. So the first request has everything, and `adapt` removes
what a server refuses. Errors are an object, a list with one object (Gemini), or a text (Ollama, TGI).
Source: https://platform.openai.com/docs/api-reference/chat.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genrec.backends.base import GenerationRequest, TokenUsage
from genrec.errors import EngineError
from genrec.types import Role

Messages = Sequence[tuple[Role, str]]

DONE = "[DONE]"
"""The last event of a stream."""

_EVENT_PREFIX = "data:"
_ANSWER_KEY = "answer"  # of the object around a schema whose root is no object
_BYTES_PER_TOKEN = 4  # of servers that count no tokens, about
_REASONING_START = "<think>"
_REASONING = re.compile(r"\A\s*<think>.*?(</think>|\Z)\s*", re.DOTALL)
_FENCE = re.compile(r"\A```[a-zA-Z]*\n(.*?)\n?```\Z", re.DOTALL)
# Every parameter that a server may refuse, as its error may name it, and the support that it then lacks.
_REFUSALS: tuple[tuple[str, str], ...] = (
    ("max_completion_tokens", "max_tokens"),
    ("max_tokens", "max_tokens"),
    ("temperature", "temperature"),
    ("seed", "seed"),
    ("stream_options", "stream_options"),
    ("response_format", "response_format"),
    ("json_schema", "response_format"),
    ("schema", "response_format"),
    ("system", "system"),
)
_STATUS_OF_REFUSALS = (400, 404, 422, 501)


@dataclass(frozen=True)
class ServerSupport:
    """Which parameters a server takes; all of them until it refuses one."""

    max_tokens: bool = True
    temperature: bool = True
    seed: bool = True
    stream_options: bool = True
    response_format: bool = True
    system: bool = True


@dataclass(frozen=True)
class ServerFault:
    """The error that a server reports.

    Attributes:
        status: of HTTP.
        message: the server's text.
        param: the parameter that it names, or "".
        code: its code or type, or "".
    """

    status: int
    message: str
    param: str = ""
    code: str = ""


@dataclass(frozen=True)
class ServerAnswer:
    """What a response or an event of a stream holds of an answer.

    Attributes:
        text: of the answer, without reasoning in fields of its own.
        finish_reason: why it ended, or "".
        usage: tokens that the server counted; None if it counted none. Without a cost.
    """

    text: str
    finish_reason: str
    usage: TokenUsage | None


def completion_body(
    request: GenerationRequest, messages: Messages, support: ServerSupport, *, stream: bool, extra_tokens: int = 0
) -> dict[str, Any]:
    """The body of a request, without the name of the model.

    Args:
        request: the limits, the sampling and the constraint.
        messages: role and text of each message.
        support: what the server takes.
        stream: whether the answer is streamed.
        extra_tokens: added to the length limit, for reasoning.
    """
    limit = "max_tokens" if support.max_tokens else "max_completion_tokens"
    body: dict[str, Any] = {
        "messages": [{"role": role, "content": text} for role, text in _turns(messages, support)],
        limit: request.max_tokens + extra_tokens,
    }
    if support.temperature:
        body["temperature"] = request.temperature
    if support.seed:
        body["seed"] = request.seed
    if stream:
        body["stream"] = True
        if support.stream_options:
            body["stream_options"] = {"include_usage": True}
    schema = constraint_schema(request)
    if schema is not None and support.response_format:
        strict = {"name": _ANSWER_KEY, "schema": _object_schema(schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": strict}
    return body


def constraint_schema(request: GenerationRequest) -> dict[str, Any] | None:
    """The JSON Schema of a request's constraint; None without one, or if it is a grammar.

    Raises:
        EngineError: only an engine with genrec's plugin supports the constraint.
    """
    if request.constraint is None:
        return None
    args = request.constraint.engine_args
    if "json" in args:
        schema: dict[str, Any] = json.loads(args["json"])
        return schema
    if "grammar" in args:
        return None
    raise EngineError(
        f"a model behind an API does not support the constraint {', '.join(args)}; generate with a backend that does"
    )


def adapt(support: ServerSupport, fault: ServerFault, body: Mapping[str, Any]) -> ServerSupport | None:
    """What a server takes, after it refused a request; None if no parameter of genrec is to blame."""
    if fault.status not in _STATUS_OF_REFUSALS:
        return None
    sent = {"max_tokens", "temperature", "seed", "stream_options", "response_format"} & body.keys()
    if any(message["role"] == "system" for message in body["messages"]):
        sent.add("system")
    for text in (fault.param, fault.message.lower()):
        for name, lacking in _REFUSALS:
            if name in text and lacking in sent:
                return replace(support, **{lacking: False})
    if fault.status != 404 and "response_format" in sent:
        return replace(support, response_format=False)
    return None


def parse_fault(status: int, body: str) -> ServerFault:
    """The error in a response, whatever its form."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ServerFault(status, body)
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and "error" in value:
        value = value["error"] if isinstance(value["error"], dict) else {"message": value["error"]}
    if not isinstance(value, dict):
        return ServerFault(status, body)
    message = value.get("message") or value.get("detail") or body
    code = value.get("code") or value.get("type") or ""
    return ServerFault(status, str(message), str(value.get("param") or ""), str(code))


def parse_answer(response: Any) -> ServerAnswer:
    """The answer in a response.

    Raises:
        EngineError: the model refused to answer, or ended with another finish reason than that of an answer.
        LookupError, TypeError, ValueError, AttributeError: the response has another form.
    """
    choice = response["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason") or ""
    if refusal := message.get("refusal"):
        raise EngineError(f"the model refused to answer: {str(refusal)[:200]}; change the prompt or the model")
    _check_finish_reason(reason)
    return ServerAnswer(without_reasoning(_content_text(message.get("content"))), reason, _parse_usage(response))


def parse_event(line: str) -> ServerAnswer | None:
    """The part of an answer in a line of a stream; None for a line without one.

    Raises:
        EngineError: the server reports an error.
        LookupError, TypeError, ValueError, AttributeError: the event has another form.
    """
    event = line.removeprefix(_EVENT_PREFIX).strip()
    if not line.startswith(_EVENT_PREFIX) or event == DONE:
        return None
    value = json.loads(event)
    if "error" in value:
        raise EngineError(
            f"the server ended the stream with the error {parse_fault(0, event).message[:200]}; send the request again"
        )
    if not value.get("choices"):
        return ServerAnswer("", "", _parse_usage(value))  # the last event counts the tokens
    choice = value["choices"][0]
    reason = choice.get("finish_reason") or ""
    _check_finish_reason(reason)
    return ServerAnswer(_content_text((choice.get("delta") or {}).get("content")), reason, _parse_usage(value))


def without_reasoning(text: str) -> str:
    """The text without the reasoning at its beginning, which some servers do not separate from the answer."""
    return _REASONING.sub("", text)


def streamed_answer(text: str) -> str:
    """The part of a beginning text that is surely of the answer, and not of reasoning before it."""
    begun = text.lstrip()
    if _REASONING_START.startswith(begun[: len(_REASONING_START)]) and "</think>" not in begun:
        return ""
    return without_reasoning(text)


def compact_answer(text: str, request: GenerationRequest) -> str:
    """The answer as genrec's constraints read it: JSON without white space, fences and text around it.

    Raises:
        ValueError: the text holds no JSON.
    """
    schema = constraint_schema(request)
    if schema is None:
        return text
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0)
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not _is_object(schema) and isinstance(value, dict) and value.keys() == {_ANSWER_KEY}:
        value = value[_ANSWER_KEY]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def estimate_usage(messages: Messages, text: str) -> TokenUsage:
    """About how many tokens a server computed that counts none."""
    sizes = [sum(len(one.encode()) for _, one in messages), len(text.encode())]
    return TokenUsage(*(-(-size // _BYTES_PER_TOKEN) for size in sizes))


def parse_model_ids(response: Any) -> list[str]:
    """The names of the models in a response of `/models`.

    Raises:
        LookupError, TypeError, AttributeError: the response has another form.
    """
    return [str(model["id"]) for model in response["data"]]


def serves_model(model_ids: Sequence[str], model: str) -> bool:
    """Whether a server has a model, by its name there, without Gemini's prefix, or without Ollama's default tag."""
    return any(name in (model, f"models/{model}", f"{model}:latest") for name in model_ids)


def _turns(messages: Messages, support: ServerSupport) -> Messages:
    """The messages; for a server without system messages, they open the first message of the user."""
    if support.system:
        return messages
    system = [text for role, text in messages if role == "system"]
    others = [(role, text) for role, text in messages if role != "system"]
    if not others or others[0][0] != "user":
        return [("user", "\n\n".join(system)), *others]
    return [("user", "\n\n".join([*system, others[0][1]])), *others[1:]]


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema; in an object if it is not one, because OpenAI takes objects only."""
    if _is_object(schema):
        return schema
    inner = {name: value for name, value in schema.items() if name not in ("$defs", "definitions")}
    definitions: dict[str, Any] = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {
        "type": "object",
        "properties": {_ANSWER_KEY: inner},
        "required": [_ANSWER_KEY],
        "additionalProperties": False,
        **definitions,
    }


def _content_text(content: Any) -> str:
    """The text of a message, which is a text or a list of parts; parts of other types, such as reasoning, are left."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _check_finish_reason(reason: str) -> None:
    if reason not in ("", "stop", "length", "eos", "eos_token", "stop_sequence"):
        raise EngineError(f"the model ended its answer with the finish reason {reason!r}; change the prompt")


def _parse_usage(response: Mapping[str, Any]) -> TokenUsage | None:
    usage = response.get("usage")
    if not usage:
        return None
    return TokenUsage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))
