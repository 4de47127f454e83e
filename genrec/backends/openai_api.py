"""A model behind an API that follows OpenAI's protocol: it generates texts and gives no scores.

The prompts are those of `genrec.prompting.message_tokenizer.MessageTokenizer`: bytes between the tokens of roles. A
constraint is sent as `response_format` where it is a JSON Schema and the server takes it; in any case the answer is
checked here, and the model is asked again, with the schema or the grammar in words, if it does not fit.

The transport is httpx, which the client of vLLM's servers uses too. The package `openai` has the same requests, but
its retries know no deadline of a whole request, its errors know the bodies of OpenAI only, and its versions 2 and 3
have different transports. A library for retries would leave `Retry-After` and the shared wait to us: most of it.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any

import numpy as np

from genrec.backends import openai_protocol
from genrec.backends.api_connection import API_KEY_VARIABLE, ApiConnection, HttpResponse, RefusedError
from genrec.backends.api_settings import ApiSettings, environment_key
from genrec.backends.base import Completion, GenerationRequest, GenerationRequests, OnTokens, TokenUsage
from genrec.backends.openai_protocol import Messages, ServerAnswer, ServerSupport
from genrec.backends.redirects import redirect_error
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError, ModelMissingError
from genrec.prompting.message_tokenizer import MessageTokenizer, decode_messages
from genrec.prompting.template import Template, read_template
from genrec.types import Role

_CHAT_PATH, _MODELS_PATH = "chat/completions", "models"
_MAX_ANSWERS = 3  # to one request with a constraint
_MAX_REPEATED_ANSWER = 2000  # characters of an unfit answer that the model sees again
_SHOWN_MODELS = 5
_LASTING_REFUSALS = (401, 403, 404, 405, 410)  # and redirects: another attempt would not change them


class OpenAiBackend:
    """A model behind an API, as a `genrec.backends.base.TextBackend`.

    Opening it sends no request; `check_model` does.

    Args:
        model: the model's name at the server.
        settings: the server.
        api_key: by default from the environment, see `ApiSettings`.
        clock: a monotonic clock, in seconds.

    Attributes:
        name: model and host.
        usage: tokens and cost of all requests so far, also of those that failed.

    Raises:
        InputError: the name or the key is not valid.
        ModelMissingError: httpx is not installed.
    """

    def __init__(
        self,
        model: str,
        settings: ApiSettings,
        *,
        api_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not model.strip():
            raise InputError(f"model is {model!r}; give the name of a model of the server at {settings.host}")
        key = environment_key(settings) if api_key is None else api_key
        if not key.isascii() or not key.isprintable():
            raise InputError(
                f"the key of the server at {settings.host} contains characters other than printable ASCII; set it again"
            )
        self.name = f"{model} at {settings.host}"
        self.vocab_size, self.batch_size = MessageTokenizer.vocab_size, settings.max_concurrency
        self.context_length = settings.context_length
        self.usage = TokenUsage()
        self._model, self._settings, self._has_key = model, settings, bool(key)
        self._connection = ApiConnection(
            settings.url,
            api_key=key,
            timeout=settings.timeout,
            max_concurrency=settings.max_concurrency,
            clock=clock,
        )
        self._executor = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="model-api")
        self._format_template: Template = read_template("answer-format")
        self._support = ServerSupport()
        self._explains_format = False  # whether prompts describe the schema, because the server ignored it once
        self._lock = threading.Lock()

    def check_model(self, deadline: Deadline | None = None, *, ask: bool = False) -> None:
        """Check that the server serves this model; a server that lists no models passes, unless the model is asked.

        Args:
            deadline: for all requests.
            ask: let the model write a token, because a list may be missing, or read without the key. Failures that may
                pass, such as a limited rate, are not reported.

        Raises:
            ModelMissingError: it serves other models.
            EngineError: it cannot be reached, rejects the key, or is elsewhere.
        """
        deadline = deadline or Deadline.never()
        response = self._connection.send("GET", _MODELS_PATH, None, deadline)
        if response.status in (401, 403):
            raise self._refusal_error(response, _MODELS_PATH)
        self._check_listed(response)
        if not ask:
            return
        try:
            self._ask([("user", "Hello")], GenerationRequest(np.zeros(0, dtype=np.int64), (), 1), deadline, None)
        except EngineError as error:
            status = error.fields.get("status")
            if isinstance(status, int) and (status in _LASTING_REFUSALS or 300 <= status < 400):
                raise

    def _check_listed(self, response: HttpResponse) -> None:
        """Check that a list of models, if it is one, has this model."""
        try:
            model_ids = openai_protocol.parse_model_ids(json.loads(response.text))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            return
        if model_ids and not openai_protocol.serves_model(model_ids, self._model):
            raise self._other_model_error(", ".join(model_ids[:_SHOWN_MODELS]), more=len(model_ids) > _SHOWN_MODELS)

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt; see `genrec.backends.base.TextBackend`.

        `max_tokens` counts the model's own tokens, of which a text may have fewer than `token_ids`, its bytes. A text
        without a constraint is streamed to `on_tokens`; one with a constraint is passed on when it is complete and
        checked.
        """
        futures = self._submit(requests, deadline or Deadline.never(), on_tokens)
        wait(futures, timeout=_seconds(deadline), return_when=FIRST_EXCEPTION)
        failed = [future for future in futures if future.done() and future.exception() is not None]
        try:
            return [self._result(future) for future in failed or futures]
        finally:
            for future in futures:
                future.cancel()

    def generate_each(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None
    ) -> list[Completion | EngineError]:
        """The same, with the error of each request that failed in place of its completion."""
        futures = self._submit(requests, deadline or Deadline.never(), None)
        wait(futures, timeout=_seconds(deadline))
        results: list[Completion | EngineError] = []
        for future in futures:
            try:
                results.append(self._result(future))
            except EngineError as error:
                results.append(error)
        return results

    def close(self) -> None:
        """Close the connection; running and waiting requests fail."""
        self._executor.shutdown(wait=False)  # what waits is not cancelled, because `wait` never hears of that
        self._connection.close()

    def _submit(
        self, requests: GenerationRequests, deadline: Deadline, on_tokens: OnTokens | None
    ) -> "list[Future[Completion]]":
        try:
            return [
                self._executor.submit(self._answer, number, request, deadline, on_tokens)
                for number, request in enumerate(requests)
            ]
        except RuntimeError as error:
            raise EngineError(f"the connection to {self.name} was closed; open another backend") from error

    def _result(self, future: "Future[Completion]") -> Completion:
        if not future.done():
            future.cancel()
            raise DeadlineExceededError(f"{self._connection.server} did not answer before the deadline")
        return future.result()

    def _answer(
        self, number: int, request: GenerationRequest, deadline: Deadline, on_tokens: OnTokens | None
    ) -> Completion:
        """One completion, checked against its constraint; the model is asked again while it does not fit."""
        deadline.check()
        if request.max_tokens < 1 or len(request.prompt) + request.max_tokens > self.context_length:
            raise EngineError(
                f"prompt {number} has {len(request.prompt):,} bytes, max_tokens is {request.max_tokens}, and the "
                f"context of {self.name} has {self.context_length:,} tokens; shorten the prompt, or raise "
                "context_length if the model supports more"
            )
        messages: list[tuple[Role, str]] = decode_messages(request.prompt.tolist())
        if request.constraint is None:
            answer = self._ask(
                messages, request, deadline, None if on_tokens is None else lambda new: on_tokens(number, new)
            )
            return self._completion(answer, answer.text)
        if openai_protocol.constraint_schema(request) is None or self._explains_format:
            messages = _with_instruction(messages, self._describe_format(request, ""))
        usage, fault = TokenUsage(), ""
        for _ in range(_MAX_ANSWERS):
            answer = self._ask(messages, request, deadline, None)
            usage += answer.usage or TokenUsage()
            text, fault = _checked_answer(answer, request)
            if not fault:
                completion = self._completion(ServerAnswer(text, answer.finish_reason, usage), text)
                if on_tokens is not None:
                    on_tokens(number, completion.token_ids.tolist())
                return completion
            self._explains_format = True
            shown = answer.text[:_MAX_REPEATED_ANSWER] or "(empty)"
            messages += [("assistant", shown), ("user", self._describe_format(request, fault))]
        raise EngineError(
            f"{self.name} gave {_MAX_ANSWERS} unusable answers, the last because {fault}; use a model that follows "
            "instructions, or raise reasoning_tokens if it reasons first"
        )

    def _ask(
        self,
        messages: Messages,
        request: GenerationRequest,
        deadline: Deadline,
        on_text: "Callable[[list[int]], None] | None",
    ) -> ServerAnswer:
        """One answer, asked without the parameters that the server refuses; what helped is kept for the next ones."""
        support = self._support
        while True:
            body = openai_protocol.completion_body(
                request, messages, support, stream=on_text is not None, extra_tokens=self._settings.reasoning_tokens
            )
            body["model"] = self._model
            try:
                answer = (
                    self._read_answer(body, deadline) if on_text is None else self._read_stream(body, deadline, on_text)
                )
            except RefusedError as refused:
                fault = openai_protocol.parse_fault(refused.response.status, refused.response.text)
                adapted = openai_protocol.adapt(support, fault, body)
                if adapted is None:
                    raise self._refusal_error(refused.response, _CHAT_PATH) from None
                support = adapted
                continue
            self._support = support
            usage = answer.usage or openai_protocol.estimate_usage(messages, answer.text)
            usage = TokenUsage(usage.prompt_tokens, usage.generated_tokens, self._settings.cost(usage))
            with self._lock:
                self.usage += usage
            return ServerAnswer(answer.text, answer.finish_reason, usage)

    def _read_answer(self, body: dict[str, Any], deadline: Deadline) -> ServerAnswer:
        response = self._connection.send("POST", _CHAT_PATH, body, deadline)
        if response.status != 200:
            raise RefusedError(response)
        try:
            return openai_protocol.parse_answer(json.loads(response.text))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._unexpected_error(response.text) from error

    def _read_stream(
        self, body: dict[str, Any], deadline: Deadline, on_text: Callable[[list[int]], None]
    ) -> ServerAnswer:
        """Pass on the pieces of an answer as they arrive, without reasoning at its beginning."""
        text, passed_on, reason, usage = "", 0, "", None
        with closing(self._connection.stream(_CHAT_PATH, body, deadline)) as lines:
            for line in lines:
                try:
                    event = openai_protocol.parse_event(line)
                except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
                    raise self._unexpected_error(line) from error
                if event is None:
                    continue
                text, reason, usage = text + event.text, event.finish_reason or reason, event.usage or usage
                answer = openai_protocol.streamed_answer(text)
                if len(answer) > passed_on:
                    on_text(list(answer[passed_on:].encode("utf-8", errors="replace")))
                    passed_on = len(answer)
        answer = openai_protocol.without_reasoning(text)
        if len(answer) > passed_on:
            on_text(list(answer[passed_on:].encode("utf-8", errors="replace")))
        return ServerAnswer(answer, reason, usage)

    def _completion(self, answer: ServerAnswer, text: str) -> Completion:
        if not text and answer.finish_reason == "length":
            raise EngineError(
                f"{self.name} reached the token limit while reasoning, before its answer; raise reasoning_tokens"
            )
        token_ids = np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)
        return Completion(token_ids, answer.finish_reason != "length", answer.usage)

    def _describe_format(self, request: GenerationRequest, fault: str) -> str:
        args = {} if request.constraint is None else request.constraint.engine_args
        schema, grammar = (str(args.get(name, "")) for name in ("json", "grammar"))
        messages = self._format_template.render(problem=fault, schema=schema, grammar=grammar)
        return "\n".join(message.text for message in messages)

    def _refusal_error(self, response: HttpResponse, path: str) -> EngineError:
        """The error for a refused request to a path; its field `status` is that of the response."""
        if 300 <= response.status < 400:
            return redirect_error(self._connection.server, path, response.status, response.redirect)
        fault = openai_protocol.parse_fault(response.status, response.text)
        message = self._connection.excerpt(fault.message)
        if response.status in (401, 403):
            asks = "rejects the API key" if self._has_key else "requires an API key"
            return EngineError(
                f"{self._connection.server} {asks} ({response.status}: {message})",
                remedy=f"set {API_KEY_VARIABLE} to a valid key",
                status=response.status,
            )
        if response.status == 404 and "model" in f"{fault.code} {fault.param} {fault.message}".lower():
            return self._other_model_error("", more=False, status=response.status)
        return EngineError(
            f"{self._connection.server} rejected the request with {response.status}: {message}",
            remedy="check the URL, the model and the length of the prompt",
            status=response.status,
        )

    def _other_model_error(self, served: str, *, more: bool, status: int | None = None) -> ModelMissingError:
        serves = served and f"; it serves {served}{' and others' if more else ''}"
        return ModelMissingError(
            f"{self._connection.server} does not serve the model {self._model!r}{serves}",
            remedy="name one of its models",
            status=status,
        )

    def _unexpected_error(self, text: str) -> EngineError:
        return EngineError(
            f"{self._connection.server} sent a response that does not follow OpenAI's protocol: "
            f"{self._connection.excerpt(text)}; check the URL, which usually ends in /v1"
        )


def _checked_answer(answer: ServerAnswer, request: GenerationRequest) -> tuple[str, str]:
    """An answer in the form of its constraint, and what is wrong with it, or ""."""
    if answer.finish_reason == "length":
        return "", "it was cut off because it is too long"
    try:
        text = openai_protocol.compact_answer(answer.text, request)
    except ValueError:
        return "", "it is not complete JSON"
    if request.constraint is None:
        return text, ""
    state = request.constraint.start()
    encoded = text.encode("utf-8", errors="replace")
    for position, byte in enumerate(encoded):
        if not state.allowed_mask()[byte]:
            begun = encoded[:position][-40:].decode("utf-8", errors="replace")
            wrong = encoded[position:][:20].decode("utf-8", errors="replace")
            return "", f"it continues after {begun!r} with {wrong!r}, which is not allowed"
        state.advance(byte)
    if not state.allowed_mask()[MessageTokenizer.eos_token_id]:
        return "", "it ends too early"
    return text, ""


def _with_instruction(messages: Messages, text: str) -> list[tuple[Role, str]]:
    """The messages with another instruction at the end of the last one, if it is the user's."""
    if messages and messages[-1][0] == "user":
        return [*messages[:-1], ("user", f"{messages[-1][1]}\n\n{text}")]
    return [*messages, ("user", text)]


def _seconds(deadline: Deadline | None) -> float | None:
    remaining = float("inf") if deadline is None else max(0.0, deadline.remaining())
    return None if remaining == float("inf") else remaining
