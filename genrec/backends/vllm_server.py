"""A vLLM server over HTTP, as a token tree over its prefix cache: token ids out, log-probabilities back.

Requests only read, so one that was lost on the way is sent again; one that was refused is not.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from genrec.backends import vllm_protocol
from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.backends.generation import check_context_length, constraint_checker
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, ModelMissingError
from genrec.types import FloatArray, IntArray

_MAX_ATTEMPTS = 4
_RETRY_DELAY = 0.1  # seconds before the second attempt, twice as many before each further one
_TIMEOUT_MARGIN = 0.05  # seconds by which a time-out may come early
_EXTRA_TOKENS = 2  # a path's last token may be asked for, and one is drawn behind it
_GENERATE_PATH, _COMPLETIONS_PATH = "/inference/v1/generate", "/v1/completions"
_DONE = "[DONE]"
_MAX_EXCERPT = 200  # characters of a refusal that an error repeats

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class VllmServerBackend:
    """A model that a vLLM server serves, or one of its adapters.

    The server is to be started as `vllm serve MODEL` with `genrec.backends.vllm_protocol.serve_options` of its version
    (`--max-logprobs 128`, from 0.30 on `--enable-scale-out` too, and for texts that are held to a schema
    `--structured-outputs-config`), where only genrec can reach it.

    Args:
        url: such as `http://127.0.0.1:8000`.
        model: what the server calls the model or the adapter.
        vocab_size: token ids are below it; the server does not tell.
        timeout: seconds that a request may take with all its attempts, and in which one of a batch must be answered; a
            text is given as much again for each 100 tokens that it may have.
        max_concurrency: requests under way at once.
        api_key: sent as a bearer token.
        name: what results and caches call these weights; by default `model`.
        clock: seconds that only rise.

    Raises:
        EngineError: the server cannot be reached, or serves no such model.
        ModelMissingError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        vocab_size: int,
        timeout: float = 30.0,
        max_concurrency: int = 16,
        api_key: str | None = None,
        name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ModelMissingError("httpx is not installed; run: pip install 'genrec[vllm]'") from error
        self._httpx: Any = httpx
        self.name, self.vocab_size = name or model, vocab_size
        self.max_logprobs = vllm_protocol.MAX_LOGPROBS - 1  # the server shows one less than it is asked for
        # A server may have adapters, with which rows would end it; and rows that its cache held may be no JSON.
        self.scores_path_tokens = False
        self.token_bytes = TOKEN_BYTES
        self.provenance: Provenance | None = None  # the server knows its adapters, and does not tell
        self._model, self._timeout, self._clock = model, timeout, clock
        self._client = httpx.Client(
            base_url=url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            limits=httpx.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency),
            trust_env=False,
        )
        self._server = f"the vLLM server at {self._client.base_url.netloc.decode()}"
        self._executor = ThreadPoolExecutor(max_concurrency, thread_name_prefix="vllm-server")
        self.context_length = self._read_context_length() - _EXTRA_TOKENS

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        """Open a tree behind U prompts; they are computed when it is first read."""
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Log-probabilities for each request, see `PathScorer`."""
        return self._run_all(self._score_path, requests, self._new_limit(deadline, 1))

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Write a text behind each prompt; `concurrency` of them at once. What is told of is not sent again."""
        check_context_length(requests, self.context_length)
        limit = self._new_limit(deadline or Deadline.never(), vllm_protocol.timeout_factor(requests))
        watch = constraint_checker(requests, on_tokens)
        if on_tokens is not None:
            numbered = list(enumerate(requests))
            return self._run_all(lambda one, limit: self._stream_text(*one, watch, limit), numbered, limit)
        texts = self._run_all(self._generate_text, requests, limit)
        for number, text in enumerate(texts):
            watch(number, text.token_ids.tolist())
        return texts

    def _run_all(
        self,
        send: "Callable[[_Request, _RequestTimeout], _Result]",
        requests: "Sequence[_Request]",
        limit: "_RequestTimeout",
    ) -> "list[_Result]":
        """What the server answers to all; the first fault ends it."""
        try:
            futures = [self._executor.submit(send, request, limit) for request in requests]
        except RuntimeError as error:
            raise self._closed_error() from error
        open_ = set(futures)
        while open_:
            done, open_ = wait(open_, timeout=limit.remaining(), return_when=FIRST_EXCEPTION)
            faults = [fault for future in done if (fault := future.exception()) is not None]
            if open_ and not (faults or limit.remaining()):
                faults = [self._timeout_error(limit)]
            if faults:
                for future in open_:
                    future.cancel()
                raise faults[0]
        return [future.result() for future in futures]

    def check_ready(self) -> None:
        """Let the server generate, with everything that a tree needs of it; its own `/health` does not tell.

        Raises:
            EngineError: it cannot (named).
        """
        tokens = (np.arange(self.max_logprobs) % self.vocab_size).tolist()
        self.score([PathScoreRequest([0], tokens)], Deadline.never())

    def close(self) -> None:
        """Give the connections back; what is under way is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _read_context_length(self) -> int:
        """The context of the model, which the server must serve under this name."""
        answer = self._send("GET", "/v1/models", None, self._new_limit(Deadline.never(), 1))
        with self._checked_response("/v1/models"):
            contexts = {str(card["id"]): card for card in answer["data"]}
            if self._model not in contexts:
                raise EngineError(
                    f"{self._server} serves {', '.join(sorted(contexts)) or 'nothing'}, not {self._model!r}; "
                    "name one of these, or start it with this model"
                )
            # An adapter's card says nothing of the context, its model's does.
            card = contexts[self._model]
            return int(card.get("max_model_len") or contexts[card["parent"]]["max_model_len"])

    def _score_path(self, request: PathScoreRequest, limit: "_RequestTimeout") -> FloatArray:
        answer = self._post_generate(request.token_ids, vllm_protocol.http_scoring_params(request), limit)
        with self._checked_response(_GENERATE_PATH):
            return vllm_protocol.parse_response(answer, request)

    def _generate_text(self, request: GenerationRequest, limit: "_RequestTimeout") -> Completion:
        answer = self._post_generate(request.prompt.tolist(), vllm_protocol.http_generation_params(request), limit)
        with self._checked_response(_GENERATE_PATH):
            own = answer["choices"][0]
            return vllm_protocol.parse_completion(own["token_ids"], own["finish_reason"], request)

    def _stream_text(
        self, number: int, request: GenerationRequest, on_tokens: OnTokens, limit: "_RequestTimeout"
    ) -> Completion:
        """A text that is told of as it comes: events of one line each, of which the last one says [DONE]."""
        body = {"model": self._model, **vllm_protocol.http_completion_body(request)}
        token_ids: list[int] = []
        reason = None
        try:
            with self._client.stream("POST", _COMPLETIONS_PATH, json=body, timeout=limit.remaining()) as answer:
                if answer.status_code != 200:
                    raise self._rejected_error(
                        _COMPLETIONS_PATH, answer.status_code, answer.read().decode(errors="replace")
                    )
                for line in answer.iter_lines():
                    if not limit.remaining():
                        raise self._timeout_error(limit)
                    event = line.removeprefix("data: ")
                    if not event or event == _DONE:
                        continue
                    with self._checked_response(_COMPLETIONS_PATH):
                        own = json.loads(event)["choices"][0]
                        new = [int(token) for token in own["token_ids"] or () if token not in request.stop_token_ids]
                        token_ids, reason = token_ids + new, own["finish_reason"]
                    if new:
                        on_tokens(number, new)
        except self._httpx.TimeoutException as error:
            raise self._timeout_error(limit) from error
        except self._httpx.TransportError as error:
            raise EngineError(f"{self._server} broke off: {error}; ask again") from error
        limit.timeout = self._new_timeout(limit.timeout_factor)
        return vllm_protocol.parse_completion(token_ids, reason, request)

    def _post_generate(self, prompt: Sequence[int], params: dict[str, Any], limit: "_RequestTimeout") -> Any:
        body = {"model": self._model, "token_ids": prompt, "sampling_params": params}
        answer = self._send("POST", _GENERATE_PATH, body, limit)
        limit.timeout = self._new_timeout(limit.timeout_factor)
        return answer

    @contextmanager
    def _checked_response(self, path: str) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._unexpected_response_error(path) from error

    def _send(self, method: str, path: str, body: Any, limit: "_RequestTimeout") -> Any:
        """The JSON of an answer; connections that failed and faults of the server are tried again."""
        fault = ""
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                time.sleep(min(_RETRY_DELAY * 2 ** (attempt - 1), limit.remaining()))
            if not limit.remaining():
                raise self._timeout_error(limit, fault)
            try:
                answer = self._request(method, path, body, limit)
            except self._httpx.TimeoutException as error:
                raise self._timeout_error(limit) from error
            except self._httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            except RuntimeError as error:
                raise self._closed_error() from error
            if answer.status_code >= 500:
                fault = f"it answered {answer.status_code}"
                continue
            if answer.status_code != 200:
                raise self._rejected_error(path, answer.status_code, answer.text)
            try:
                return answer.json()
            except ValueError as error:
                raise self._unexpected_response_error(path) from error
        raise EngineError(f"{self._server} failed {_MAX_ATTEMPTS} times: {fault}; see its log, or start it again")

    def _request(self, method: str, path: str, body: Any, limit: "_RequestTimeout") -> Any:
        """An answer, read piece by piece: time-outs are of each piece, and a server that drips would hold a thread."""
        with self._client.stream(method, path, json=body, timeout=limit.remaining()) as answer:
            pieces = []
            for piece in answer.iter_raw():
                if not limit.remaining():
                    raise self._timeout_error(limit)
                pieces.append(piece)
        return self._httpx.Response(answer.status_code, content=b"".join(pieces), headers=answer.headers)

    def _rejected_error(self, path: str, status: int, body: str) -> EngineError:
        return EngineError(
            f"{self._server} refused {path} with {status}: {body[:_MAX_EXCERPT]}; {vllm_protocol.SERVE_HINT}"
        )

    def _closed_error(self) -> EngineError:
        return EngineError(f"the connection to {self._server} was closed; open another backend")

    def _unexpected_response_error(self, path: str) -> EngineError:
        return EngineError(f"{self._server} answered {path} with something else than vLLM 0.25 to 0.32 does; check url")

    def _new_limit(self, deadline: Deadline, timeout_factor: float) -> "_RequestTimeout":
        return _RequestTimeout(deadline, self._new_timeout(timeout_factor), timeout_factor)

    def _new_timeout(self, timeout_factor: float) -> Deadline:
        return Deadline(self._clock() + self._timeout * timeout_factor, self._clock)

    def _timeout_error(self, limit: "_RequestTimeout", cause: str = "") -> EngineError:
        cause = cause and f", {cause}"
        if limit.deadline.remaining() <= _TIMEOUT_MARGIN:
            return DeadlineExceededError(f"{self._server} did not answer before the deadline{cause}")
        return EngineError(
            f"{self._server} did not answer within {self._timeout * limit.timeout_factor:g} s{cause}; see its log, or allow "
            "more with patience"
        )


@dataclass
class _RequestTimeout:
    """Until when requests may take: what the caller has time for, and until when the server must answer one of them.

    The latter is `timeout_factor` as long as the patience that there is.
    """

    deadline: Deadline
    timeout: Deadline
    timeout_factor: float

    def remaining(self) -> float:
        """Seconds that remain; 0 when none do."""
        return max(0.0, min(self.deadline.remaining(), self.timeout.remaining()))
