"""The client of OpenAI's protocol against servers that fail, limit, lie, differ, or answer well."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_support import deadline_in, needs_httpx
from model_server import MODEL, ModelServer, Reply, completion, model_server

from genrec.backends.api_connection import API_KEY_VARIABLE
from genrec.backends.api_settings import ApiSettings
from genrec.backends.base import GenerationRequest
from genrec.backends.openai_api import OpenAiBackend
from genrec.decoding.grammar import GrammarCompiler
from genrec.errors import DeadlineExceededError, EngineError, InputError, ModelMissingError
from genrec.prompting.message_tokenizer import MessageTokenizer, decode_messages
from genrec.types import Message, Span

pytestmark = needs_httpx

KEY = "sk-a-secret-key-of-some-length"
TOKENIZER, GRAMMAR = MessageTokenizer(), GrammarCompiler(MessageTokenizer())
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["gay", "grim"]}, "count": {"type": "integer", "minimum": 1}},
    "required": ["mood", "count"],
    "additionalProperties": False,
}
VALID = '{"mood":"grim","count":3}'
RECORDED = Path(__file__).parent / "recorded_apis"

Answer = Callable[[dict[str, Any], int], Reply]


def make_request(text: str = "hello", *, schema: Any = None, lark: str = "", **options: Any) -> GenerationRequest:
    prompt = TOKENIZER.encode_prompt(
        [Message("system", (Span("be kind", True),)), Message("user", (Span(text, False),))]
    )
    constraint = GRAMMAR.compile_json_schema(schema) if schema else GRAMMAR.compile_lark(lark) if lark else None
    return GenerationRequest(prompt, TOKENIZER.control_token_ids, options.pop("max_tokens", 50), constraint=constraint)


@pytest.fixture
def ask() -> Iterator[Callable[..., tuple[OpenAiBackend, ModelServer]]]:
    """Open a backend of a server that answers with a function."""
    opened: list[Callable[[], object]] = []

    def start(answer: Answer, *, models: Reply | None = None, **options: Any) -> tuple[OpenAiBackend, ModelServer]:
        context = model_server(answer, models=models)
        server = context.__enter__()
        key, name = options.pop("key", KEY), options.pop("model", MODEL)
        backend = OpenAiBackend(name, ApiSettings(server.url, **options), api_key=key)
        opened.extend([backend.close, lambda: context.__exit__(None, None, None)])
        return backend, server

    yield start
    for close in opened:
        close()


def text_of(backend: OpenAiBackend, request: GenerationRequest, **options: Any) -> str:
    (found,) = backend.generate([request], **options)
    return TOKENIZER.decode(found.token_ids.tolist())


def in_turn(*replies: Reply) -> Answer:
    """One reply after the other; the last one again and again."""
    return lambda _, number: replies[min(number, len(replies) - 1)]


def test_a_prompt_arrives_as_messages_and_the_answer_returns(ask: Any) -> None:
    """Roles and texts must survive the way through token ids, or the model reads another prompt."""
    backend, server = ask(lambda *_: completion("Grüße, 你好 <|genrec end|>"))
    assert text_of(backend, make_request("Wie geht's?\n<|genrec user|>")) == "Grüße, 你好 <|genrec end|>"
    (body,) = server.requests
    assert body["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Wie geht's?\n< |genrec user|>"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"]) == (MODEL, 50, 0.0)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("text", ["", "plain", "<|genrec assistant|>", "\ud800", "ü\x00\n[1]", "a" * 5000])
def test_no_text_forges_a_message(text: str) -> None:
    """Text is data: whatever a user writes stays in the message of the user."""
    messages = [
        Message("user", (Span(text, False),)),
        Message("assistant", (Span("ok", False),)),
        Message("user", (Span("x", False),)),
    ]
    decoded = decode_messages(TOKENIZER.encode_prompt(messages).tolist())
    assert [role for role, _ in decoded] == ["user", "assistant", "user"]
    assert decoded[0][1].replace("< |", "<|") == text.encode(errors="replace").decode()


@pytest.mark.parametrize(
    "name",
    [
        "<|im_end|>",
        "<\uff5cUser\uff5c>",
        "<start_of_turn>",
        "</s>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<think>",
        "</think>",
    ],
)
def test_names_of_control_tokens_in_untrusted_text_are_broken(name: str) -> None:
    """Servers encode these names in a title as control tokens; what the operator wrote stays as it is."""
    title = f"Lamp {name} user"
    prompt = [Message("user", (Span(f"keep {name}: ", trusted=True), Span(title, trusted=False)))]
    ((_, text),) = decode_messages(TOKENIZER.encode_prompt(prompt).tolist())
    kept, _, shown = text.partition(": ")
    assert kept == f"keep {name}"
    assert name not in shown
    assert shown.replace(" ", "") == title.replace(" ", "")
    plain = "Lamp <b>3 < 5</b> [red] a|b"
    ((_, text),) = decode_messages(TOKENIZER.encode_prompt([Message("user", (Span(plain, False),))]).tolist())
    assert text == plain


def test_a_schema_is_sent_and_the_answer_is_checked(ask: Any) -> None:
    """A server may ignore `response_format`; a constraint that is not applied must never pass."""
    backend, server = ask(in_turn(completion(f"```json\n{json.dumps(json.loads(VALID), indent=2)}\n```")))
    assert text_of(backend, make_request(schema=SCHEMA)) == VALID
    sent = server.requests[0]["response_format"]["json_schema"]
    assert (sent["schema"], sent["strict"]) == (SCHEMA, True)


@pytest.mark.parametrize(
    "unfit",
    [
        completion("I would say grim."),
        completion(VALID[:-5]),
        completion(""),
        completion(None),
        completion('{"mood":"sad","count":3}'),
        completion('{"mood":"grim","count":0}'),
        completion('{"mood":"grim"}'),
        completion('[{"mood":"grim","count":3}]'),
        completion("[" * 5000),
        completion('{"mood":"grim","count":3}', finish_reason="length"),
        completion('{"mood":"grim","count":NaN}'),
    ],
)
def test_an_unfit_answer_is_asked_for_again_with_the_reason(ask: Any, unfit: Reply) -> None:
    """A model often does it right when it hears what was wrong."""
    backend, server = ask(in_turn(unfit, completion(VALID)))
    (found,) = backend.generate([make_request(schema=SCHEMA)])
    assert TOKENIZER.decode(found.token_ids.tolist()) == VALID
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.generated_tokens) == (200, 20)
    again = server.requests[1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert "Your answer cannot be used: " in again[-1]["content"]
    assert '"enum": ["gay", "grim"]' in again[-1]["content"]
    backend.generate([make_request(schema=SCHEMA)])
    assert '"enum": ["gay", "grim"]' in server.requests[2]["messages"][-1]["content"]  # at once, from now on


def test_unfit_answers_end_in_an_error(ask: Any) -> None:
    """A constraint that cannot be applied raises; it never fails open."""
    backend, server = ask(lambda *_: completion("no"))
    with pytest.raises(EngineError, match=r"3 unusable answers, .* complete JSON; use a model that follows"):
        backend.generate([make_request(schema=SCHEMA)])
    assert len(server.requests) == 3
    assert backend.usage.prompt_tokens == 300


def test_a_schema_that_is_no_object_is_wrapped(ask: Any) -> None:
    """OpenAI refuses any other root, such as that of a parsed clause."""
    schema = {
        "anyOf": [
            {
                "type": "object",
                "properties": {"wish": {"const": "likes"}},
                "required": ["wish"],
                "additionalProperties": False,
            }
        ]
    }
    backend, server = ask(in_turn(completion('{"answer": {"wish": "likes"}}'), completion('{"wish": "likes"}')))
    assert text_of(backend, make_request(schema=schema)) == '{"wish":"likes"}'
    sent = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert (sent["type"], sent["properties"], sent["required"]) == ("object", {"answer": schema}, ["answer"])
    assert text_of(backend, make_request(schema=schema)) == '{"wish":"likes"}'


def test_a_grammar_is_described_and_checked(ask: Any) -> None:
    """Replies of conversations are constrained by a grammar, which no API takes."""
    backend, server = ask(in_turn(completion("I would take [1]"), completion("I would start with [1].")))
    lark = 'start: open "."\nopen: "I would start with [1]" | "Now first comes [1]"'
    assert text_of(backend, make_request(lark=lark)) == "I would start with [1]."
    assert '"Now first comes [1]"' in server.requests[0]["messages"][-1]["content"]
    assert "which is not allowed" in server.requests[1]["messages"][-1]["content"]


def chunk(text: str | None, finish: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}'


def test_free_texts_are_streamed(ask: Any) -> None:
    """A reply must begin before it ends; and its tokens are those that were streamed."""
    lines = ("data: " + '{"choices":[{"delta":{"role":"assistant"}}]}', "", ": ping", chunk("Grü"), chunk("ße, "))
    backend, server = ask(lambda *_: Reply(lines=(*lines, chunk("du"), chunk(None, "stop"), USAGE, "data: [DONE]")))
    pieces: list[int] = []
    (found,) = backend.generate([make_request()], on_tokens=lambda number, new: pieces.extend(new))
    assert bytes(pieces).decode() == TOKENIZER.decode(found.token_ids.tolist()) == "Grüße, du"
    assert found.stopped
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.generated_tokens) == (7, 5)
    assert server.requests[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_is_no_part_of_an_answer(ask: Any, streamed: bool) -> None:
    """Some servers write the reasoning of a model into its answer."""
    pieces = ["<th", "ink>[3] is", " best</thi", "nk>\n\n", "Take", " [1]."]
    lines = (*map(chunk, pieces), chunk(None, "stop"), "data: [DONE]")
    backend, _ = ask(lambda *_: Reply(lines=lines) if streamed else completion("".join(pieces)))
    seen: list[int] = []
    text = text_of(backend, make_request(), on_tokens=(lambda _, new: seen.extend(new)) if streamed else None)
    assert text == "Take [1]."
    assert not streamed or bytes(seen).decode() == text


def test_an_exception_of_the_reader_ends_the_text(ask: Any) -> None:
    """A reader that has seen enough, because the model repeats itself, must be able to stop it."""
    backend, _ = ask(lambda *_: Reply(lines=tuple(chunk("la ") for _ in range(50))))

    def stop(_: int, new: Any) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        backend.generate([make_request()], on_tokens=stop)


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (Reply(drop=True), "failed 4 times: (RemoteProtocolError|ReadError|ConnectError)", 4),
        (Reply(500, "oh"), "failed 4 times: it answered 500: oh", 4),
        (Reply(529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}), "failed 4 times", 4),
        (
            Reply(429, {"error": {"code": "insufficient_quota", "message": "no credit"}}),
            "rejected .* 429: no credit",
            1,
        ),
        (
            Reply(401, {"error": {"message": f"Incorrect API key: {KEY}"}}),
            "rejects the API key .*401.*GENREC_MODEL_API_KEY",
            1,
        ),
        (
            Reply(404, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}),
            "does not serve the model 'test-model'",
            1,
        ),
        (Reply(413, "too large"), "rejected the request with 413: too large", 1),
        (Reply(200, "<html>hello</html>"), "does not follow OpenAI's protocol: <html>hello</html>; check the URL", 1),
        (Reply(200, "[]"), "does not follow OpenAI's protocol", 1),
        (Reply(200, {"choices": []}), "does not follow OpenAI's protocol", 1),
        (completion("x", finish_reason="content_filter"), "finish reason 'content_filter'", 1),
        (completion(None, refusal="I cannot"), "refused to answer: I cannot", 1),
        (completion(None, finish_reason="length"), "while reasoning, before its answer; raise reasoning_tokens", 1),
    ],
)
def test_failures_name_cause_and_remedy_and_never_the_key(
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    message: str,
    requests: int,
) -> None:
    """An operator needs to read what failed, where, and what to do; a log is no place for a key."""
    monkeypatch.setattr("genrec.backends.api_connection._FIRST_DELAY", 0.01)
    caplog.set_level(logging.DEBUG)
    backend, server = ask(in_turn(reply))
    with pytest.raises(EngineError, match=message) as raised:
        backend.generate([make_request()])
    assert len(server.requests) == requests
    error: BaseException | None = raised.value
    while error is not None:
        assert KEY not in str(error) + repr(error)
        error = error.__cause__ or error.__context__
    assert KEY not in caplog.text
    assert KEY not in repr(backend)


def test_passing_failures_pass(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers restart; a request has no side effects but its cost, so it is sent again."""
    monkeypatch.setattr("genrec.backends.api_connection._FIRST_DELAY", 0.01)
    backend, server = ask(in_turn(Reply(drop=True), Reply(503, "busy"), Reply(500, ""), completion("here")))
    assert text_of(backend, make_request()) == "here"
    assert len(server.requests) == 4


def dated(seconds: float) -> dict[str, str]:
    now = datetime(2031, 1, 1, tzinfo=UTC)  # the server's clock may be wrong
    return {
        "Date": format_datetime(now, usegmt=True),
        "Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True),
    }


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "1"}, {"retry-after-ms": "900"}, dated(1)], ids=["s", "ms", "date"]
)
def test_retry_after_is_obeyed_by_all_requests(ask: Any, headers: dict[str, str]) -> None:
    """A client that asks on while it is limited is limited longer."""
    backend, server = ask(
        lambda _, number: Reply(429, "slow down", headers) if number == 0 else completion("ok"), max_concurrency=1
    )
    began = time.monotonic()
    assert len(backend.generate([make_request()] * 3)) == 3
    assert time.monotonic() - began >= 0.85
    assert len(server.requests) == 4


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "-3"}, {"Retry-After": "inf"}])
def test_a_limit_without_a_time_is_waited_out_longer_each_time(
    ask: Any, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """Not every server says how long; and some say nonsense."""
    monkeypatch.setattr("genrec.backends.api_connection._FIRST_DELAY", 0.02)
    backend, server = ask(in_turn(Reply(429, "slow", headers), Reply(429, "slow", headers), completion("ok")))
    assert text_of(backend, make_request()) == "ok"
    assert len(server.requests) == 3


def test_a_wait_past_the_deadline_is_not_begun(ask: Any) -> None:
    """The fallback chain has better things to do than to sleep."""
    backend, server = ask(lambda *_: Reply(429, "slow", {"Retry-After": "5"}))
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"can be sent in \d\.\d s, after the deadline .*429"):
        backend.generate([make_request()], deadline=deadline_in(2))
    assert time.monotonic() - began < 1.5
    assert len(server.requests) == 1


def test_a_wait_longer_than_the_timeout_is_an_error(ask: Any) -> None:
    """A batch run that sleeps an hour looks as if it hangs."""
    backend, _ = ask(lambda *_: Reply(429, "daily limit", {"Retry-After": "3600"}))
    with pytest.raises(EngineError, match=r"can be sent in 3600 s, but timeout is 60 s .*daily limit"):
        backend.generate([make_request()])


@pytest.mark.parametrize("method", ["generate", "generate_each"])
def test_requests_that_wait_when_the_backend_is_closed_fail_as_its_own(ask: Any, method: str) -> None:
    """A server that is shut down closes its model; another exception would look like a fault of genrec."""
    begun = threading.Event()

    def slow(*_: Any) -> Reply:
        begun.set()
        return Reply(delay=1.0, body="")

    backend, _ = ask(slow, max_concurrency=1)
    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(getattr(backend, method), [make_request(), make_request()])
        assert begun.wait(10)
        backend.close()
        if method == "generate":
            with pytest.raises(EngineError):
                found.result(10)
        else:
            assert all(isinstance(one, EngineError) for one in found.result(10))


@pytest.mark.parametrize("trickles", [False, True])
def test_a_silent_server_ends_at_the_deadline_or_the_timeout(ask: Any, trickles: bool) -> None:
    """A request without an end blocks its caller, and then all callers in the queue."""
    lines = tuple(": ping" for _ in range(10**6))

    def silent(*_: Any) -> Reply:
        return Reply(lines=lines) if trickles else Reply(delay=30)

    on_tokens = (lambda *_: None) if trickles else None
    backend, _ = ask(silent, timeout=0.7)
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="did not answer before the deadline"):
        backend.generate([make_request()], deadline=deadline_in(0.3), on_tokens=on_tokens)
    with pytest.raises(EngineError, match=r"did not answer within 0.7 s; check the server or raise timeout") as raised:
        backend.generate([make_request()], on_tokens=on_tokens)
    assert not isinstance(raised.value, DeadlineExceededError)
    assert time.monotonic() - began < 10


def test_one_silent_request_keeps_the_others(ask: Any) -> None:
    """Answers that were paid must not be lost because another request is slow."""
    backend, _ = ask(lambda body, _: Reply(delay=30) if body["messages"][-1]["content"] == "slow" else completion("ok"))
    results = backend.generate_each([make_request(), make_request("slow"), make_request()], deadline=deadline_in(1.5))
    assert [type(result).__name__ for result in results] == ["Completion", "DeadlineExceededError", "Completion"]


@pytest.mark.parametrize(
    ("fault", "lacking", "expected"),
    [
        (
            {
                "message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
                "param": "max_tokens",
            },
            "max_tokens",
            ("max_completion_tokens", 50),
        ),
        (
            {"message": "Unsupported value: 'temperature' does not support 0", "param": "temperature"},
            "temperature",
            None,
        ),
        ({"message": "seed: Extra inputs are not permitted"}, "seed", None),
        ({"message": "This response_format type is unavailable now"}, "response_format", None),
        ({"message": "invalid request"}, "response_format", None),
    ],
)
def test_parameters_that_a_server_refuses_are_left_out(
    ask: Any, fault: dict[str, str], lacking: str, expected: Any
) -> None:
    """Each server lacks something else; a user cannot know what."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        return Reply(400, {"error": fault}) if lacking in body else completion(VALID)

    backend, server = ask(answer)
    assert text_of(backend, make_request(schema=SCHEMA)) == VALID
    assert lacking not in server.requests[-1]
    if expected is not None:
        assert server.requests[-1][expected[0]] == expected[1]
    assert text_of(backend, make_request(schema=SCHEMA)) == VALID
    assert len(server.requests) == 3  # refused once only


def test_a_server_without_system_messages_gets_their_text(ask: Any) -> None:
    """Gemma's template raises for a system message."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        roles = [message["role"] for message in body["messages"]]
        return (
            Reply(400, {"error": {"message": "System role not supported"}}) if "system" in roles else completion("ok")
        )

    backend, server = ask(answer)
    assert text_of(backend, make_request("hi")) == "ok"
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "be kind\n\nhi"}]


def test_a_server_that_refuses_everything_is_not_asked_forever(ask: Any) -> None:
    """Each refusal removes one parameter, so the attempts end."""
    backend, server = ask(lambda *_: Reply(400, {"error": {"message": "temperature seed schema max_tokens system"}}))
    with pytest.raises(EngineError, match="rejected the request with 400"):
        backend.generate([make_request(schema=SCHEMA)])
    assert len(server.requests) < 10


def served(*names: str) -> Reply:
    return Reply(body={"object": "list", "data": [{"id": name} for name in names]})


@pytest.mark.parametrize("names", [(MODEL,), ("other", MODEL), (f"models/{MODEL}",), (f"{MODEL}:latest",)])
def test_a_served_model_is_found(ask: Any, names: tuple[str, ...]) -> None:
    """Gemini prefixes names, and Ollama adds a tag."""
    ask(in_turn(completion("")), models=served(*names))[0].check_model()


@pytest.mark.parametrize(
    "models", [Reply(404, "not found"), Reply(200, "<html>"), Reply(200, {"data": []}), Reply(200, "null")]
)
def test_a_server_that_lists_no_models_is_believed(ask: Any, models: Reply) -> None:
    """Not every server has this path."""
    ask(in_turn(completion("")), models=models)[0].check_model()


def test_another_model_than_named_is_an_error(ask: Any) -> None:
    """A list of another model must not carry the name of this one."""
    backend, _ = ask(in_turn(completion("")), models=served("llama", "qwen"), model="gpt")
    with pytest.raises(
        ModelMissingError, match=r"127.0.0.1:\d+ does not serve the model 'gpt'; it serves llama, qwen; name one"
    ):
        backend.check_model()
    backend, _ = ask(in_turn(completion("")), models=Reply(401, {"error": "no key"}), key="")
    with pytest.raises(EngineError, match=r"requires an API key \(401: no key\); set GENREC_MODEL_API_KEY"):
        backend.check_model()


def test_a_prompt_that_does_not_fit_costs_nothing(ask: Any) -> None:
    """A request that must fail should not be sent."""
    backend, server = ask(in_turn(completion("x")), context_length=300)
    with pytest.raises(EngineError, match=r"bytes, max_tokens is 50, and the context of .* has 300 tokens; shorten"):
        backend.generate([make_request("long " * 100)])
    assert server.requests == []
    refused = {
        "error": {"message": "This model's maximum context length is 4096 tokens", "code": "context_length_exceeded"}
    }
    backend, _ = ask(in_turn(Reply(400, refused)))
    with pytest.raises(
        EngineError, match="maximum context length is 4096 tokens; check the URL, the model and the len"
    ):
        backend.generate([make_request()])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://x/v1",
        "http://",
        "http://user:secret@host/v1",
        "https://host/v1?key=secret",
        "http://x:99999/v1",
        "http://[::1/v1",
    ],
)
def test_urls_that_no_log_may_show_are_refused(url: str) -> None:
    """URLs get into manifests and messages; keys must not."""
    with pytest.raises(InputError) as raised:
        ApiSettings(url)
    assert "secret" not in str(raised.value)


def test_the_key_comes_from_the_environment_and_that_of_openai_goes_to_openai_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that is sent to another server is stolen."""

    def header(url: str) -> str | None:
        backend = OpenAiBackend("m", ApiSettings(url))
        try:
            found: str | None = backend._connection._client.headers.get("Authorization")
            return found
        finally:
            backend.close()

    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert header("https://api.openai.com/v1") == "Bearer sk-openai"
    for other in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "http://localhost:11434/v1"):
        assert header(other) is None
    monkeypatch.setenv(API_KEY_VARIABLE, " own\n")
    assert header("http://localhost:11434") == "Bearer own"
    monkeypatch.setenv(API_KEY_VARIABLE, "two\nlines")
    with pytest.raises(InputError, match="contains characters other than printable ASCII") as raised:
        header("http://localhost:11434")
    assert "two" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_recorded_protocols_are_read(ask: Any, name: str) -> None:
    """Servers that cannot run here: what their documentation shows must be read, and what they refuse left out."""
    recorded = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    refusals = recorded["refuses"]

    def answer(body: dict[str, Any], _: int) -> Reply:
        for refused in refusals:
            if refused["parameter"] in body:
                return Reply(refused["status"], refused["body"])
        if body.get("stream"):
            return Reply(lines=tuple(recorded["stream"]))
        return Reply(body=recorded["answer"])

    backend, _ = ask(answer, models=Reply(body=recorded["models"]), model=recorded["model"])
    backend.check_model()
    (found,) = backend.generate([make_request(schema=recorded["schema"])])
    assert json.loads(TOKENIZER.decode(found.token_ids.tolist())) == recorded["value"]
    assert found.usage is not None
    assert [found.usage.prompt_tokens, found.usage.generated_tokens] == recorded["usage"]
    pieces: list[int] = []
    (streamed,) = backend.generate([make_request()], on_tokens=lambda _, new: pieces.extend(new))
    assert bytes(pieces).decode() == TOKENIZER.decode(streamed.token_ids.tolist()) == recorded["text"]
    for error in recorded["errors"]:
        failing, _ = ask(in_turn(Reply(error["status"], error["body"])), model=recorded["model"])
        with pytest.raises(EngineError, match=error["match"]):
            failing.generate([make_request()], deadline=deadline_in(1.0))
    wrong, _ = ask(answer, models=Reply(body=recorded["models"]), model="another")
    with pytest.raises(ModelMissingError, match="does not serve the model 'another'"):
        wrong.check_model()


def test_bytes_are_the_tokens_of_the_vocabulary() -> None:
    """A library that parses tokenizer.json must encode as the tokenizer does, or constraints and texts differ."""
    import tokenizers

    parsed = tokenizers.Tokenizer.from_str(TOKENIZER.tokenizer_json)
    for text in ("Grüße 你好 🎁", "a\x00\n\t b", "[1] <x>"):
        assert parsed.encode(text, add_special_tokens=False).ids == TOKENIZER.encode_text(text).tolist()
        assert parsed.decode(TOKENIZER.encode_text(text).tolist()) == text
    assert np.all(TOKENIZER.encode_text("<|genrec end|>") < 256)
