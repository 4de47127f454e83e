"""A model on a vLLM server, reached over HTTP, as a token tree over the server's prefix cache.

Scoring has no side effects, so a request that was lost is sent again; a request that was rejected is not.
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
from genrec.backends.base import DEFAULT_BATCH_SIZE, Completion, GenerationRequest, GenerationRequests, OnTokens
from genrec.backends.generation import ConstraintChecker, check_context_length
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.backends.provenance import Provenance
from genrec.backends.redirects import redirect_error, redirect_target
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, ModelMissingError
from genrec.types import FloatArray, IntArray

_MAX_ATTEMPTS = 4
_RETRY_DELAY = 0.1  # seconds before the second attempt; doubles before each further one
_TIMEOUT_MARGIN = 0.05  # seconds by which a timeout may fire early
_GENERATE_PATH, _COMPLETIONS_PATH = "/inference/v1/generate", "/v1/completions"
_DONE = "[DONE]"
_MAX_EXCERPT = 200  # characters of a response that an error message quotes

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class VllmServerBackend:
    """A model that a vLLM server serves, or one of the server's adapters.

    Start the server as `vllm serve MODEL` with the `genrec.backends.vllm_protocol.serve_options` of its version
    (`--max-logprobs 128`, from 0.30 on also `--enable-scale-out`, and `--structured-outputs-config` for constrained
    generation), on an address that only genrec can reach.

    Args:
        url: base URL of the server, such as `http://127.0.0.1:8000`.
        model: the name under which the server serves the model or the adapter.
        vocab_size: the number of token ids; the server does not report it.
        timeout: seconds that a request may take with all its attempts, and within which at least one request of a batch
            must be answered. Generation gets the same time again for each 100 tokens of `max_tokens`.
        max_concurrency: how many requests may run at once.
        api_key: sent as a bearer token.
        name: how results and caches name these weights; by default `model`.
        clock: a monotonic clock, in seconds.

    Raises:
        EngineError: the server cannot be reached, or does not serve this model.
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
        self.max_logprobs = vllm_protocol.MAX_LOGPROBS - 1  # the server returns one less than requested
        # Rows would crash a server that has adapters, and rows of cached tokens may not be valid JSON.
        self.scores_path_tokens = False
        self.token_bytes = TOKEN_BYTES
        self.batch_size = DEFAULT_BATCH_SIZE
        self.provenance: Provenance | None = None  # the server does not report it
        self._model, self._timeout, self._clock = model, timeout, clock
        self._client = httpx.Client(
            base_url=url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            limits=httpx.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency),
            trust_env=False,
        )
        self._server = f"the vLLM server at {self._client.base_url.netloc.decode()}"
        self._executor = ThreadPoolExecutor(max_concurrency, thread_name_prefix="vllm-server")
        self.context_length = self._read_context_length() - vllm_protocol.EXTRA_TOKENS

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        """Open a tree over U prompts; the first read computes them."""
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Read the log-probabilities of each request, see `PathScorer`."""
        return self._run_all(self._score_path, requests, self._new_limit(deadline, 1))

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt, `max_concurrency` at once; streamed requests are never sent again."""
        check_context_length(requests, self.context_length)
        limit = self._new_limit(deadline or Deadline.never(), vllm_protocol.timeout_factor(requests))
        checker = ConstraintChecker(requests, on_tokens)
        if on_tokens is not None:
            numbered = list(enumerate(requests))
            return self._run_all(
                lambda numbered_request, limit: self._stream_text(*numbered_request, checker, limit), numbered, limit
            )
        texts = self._run_all(self._generate_text, requests, limit)
        for number, text in enumerate(texts):
            checker(number, text.token_ids.tolist())
        return texts

    def _run_all(
        self,
        send: "Callable[[_Request, _RequestTimeout], _Result]",
        requests: "Sequence[_Request]",
        limit: "_RequestTimeout",
    ) -> "list[_Result]":
        """Send all requests and return the results in order; the first failure cancels the rest."""
        try:
            futures = [self._executor.submit(send, request, limit) for request in requests]
        except RuntimeError as error:
            raise self._closed_error() from error
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=limit.remaining(), return_when=FIRST_EXCEPTION)
            errors = [failure for future in done if (failure := future.exception()) is not None]
            if pending and not (errors or limit.remaining()):
                errors = [self._timeout_error(limit)]
            if errors:
                for future in pending:
                    future.cancel()
                raise errors[0]
        return [future.result() for future in futures]

    def check_ready(self) -> None:
        """Send one request of the kind that trees send; the server's own `/health` does not cover it.

        Raises:
            EngineError: the request failed; the message names the cause.
        """
        tokens = (np.arange(self.max_logprobs) % self.vocab_size).tolist()
        self.score([PathScoreRequest([0], tokens)], Deadline.never())

    def close(self) -> None:
        """Close the connections without waiting for requests, which fail."""
        self._executor.shutdown(wait=False)  # what waits is not cancelled, because `wait` never hears of that
        self._client.close()

    def _read_context_length(self) -> int:
        """The context length of the model; checks that the server serves it."""
        response = self._send("GET", "/v1/models", None, self._new_limit(Deadline.never(), 1))
        with self._checked_response("/v1/models"):
            contexts = {str(card["id"]): card for card in response["data"]}
            if self._model not in contexts:
                raise EngineError(
                    f"{self._server} serves {', '.join(sorted(contexts)) or 'nothing'}, not {self._model!r}; "
                    "use one of these names, or start the server with this model"
                )
            # An adapter's card has no context length; its model's card has.
            card = contexts[self._model]
            return int(card.get("max_model_len") or contexts[card["parent"]]["max_model_len"])

    def _score_path(self, request: PathScoreRequest, limit: "_RequestTimeout") -> FloatArray:
        response = self._post_generate(request.token_ids, vllm_protocol.http_scoring_params(request), limit)
        with self._checked_response(_GENERATE_PATH):
            return vllm_protocol.parse_response(response, request)

    def _generate_text(self, request: GenerationRequest, limit: "_RequestTimeout") -> Completion:
        response = self._post_generate(request.prompt.tolist(), vllm_protocol.http_generation_params(request), limit)
        with self._checked_response(_GENERATE_PATH):
            choice = response["choices"][0]
            return vllm_protocol.parse_completion(choice["token_ids"], choice["finish_reason"], request)

    def _stream_text(
        self, number: int, request: GenerationRequest, on_tokens: OnTokens, limit: "_RequestTimeout"
    ) -> Completion:
        """Generate a text from server-sent events: one line each, the last one [DONE]."""
        body = {"model": self._model, **vllm_protocol.http_completion_body(request)}
        token_ids: list[int] = []
        reason = None
        try:
            with self._client.stream("POST", _COMPLETIONS_PATH, json=body, timeout=limit.remaining()) as response:
                if response.status_code != 200:
                    raise self._rejected_error(_COMPLETIONS_PATH, response, response.read().decode(errors="replace"))
                for line in response.iter_lines():
                    if not limit.remaining():
                        raise self._timeout_error(limit)
                    event = line.removeprefix("data: ")
                    if not event or event == _DONE:
                        continue
                    with self._checked_response(_COMPLETIONS_PATH):
                        choice = json.loads(event)["choices"][0]
                        new = [int(token) for token in choice["token_ids"] or () if token not in request.stop_token_ids]
                        token_ids, reason = token_ids + new, choice["finish_reason"]
                    if new:
                        on_tokens(number, new)
        except self._httpx.TimeoutException as error:
            raise self._timeout_error(limit) from error
        except self._httpx.TransportError as error:
            raise EngineError(f"{self._server} closed the stream early: {error}; send the request again") from error
        except RuntimeError as error:
            raise self._closed_error() from error
        limit.timeout = self._new_timeout(limit.timeout_factor)
        return vllm_protocol.parse_completion(token_ids, reason, request)

    def _post_generate(self, prompt: Sequence[int], params: dict[str, Any], limit: "_RequestTimeout") -> Any:
        body = {"model": self._model, "token_ids": prompt, "sampling_params": params}
        response = self._send("POST", _GENERATE_PATH, body, limit)
        limit.timeout = self._new_timeout(limit.timeout_factor)
        return response

    @contextmanager
    def _checked_response(self, path: str) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._unexpected_response_error(path) from error

    def _send(self, method: str, path: str, body: Any, limit: "_RequestTimeout") -> Any:
        """Send a request and return the JSON response; retries after connection errors and 5xx responses."""
        cause = ""
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                time.sleep(min(_RETRY_DELAY * 2 ** (attempt - 1), limit.remaining()))
            if not limit.remaining():
                raise self._timeout_error(limit, cause)
            try:
                response = self._request(method, path, body, limit)
            except self._httpx.TimeoutException as error:
                raise self._timeout_error(limit) from error
            except self._httpx.TransportError as error:
                cause = f"{type(error).__name__}: {error}"
                continue
            except RuntimeError as error:
                raise self._closed_error() from error
            if response.status_code >= 500:
                cause = f"it answered {response.status_code}"
                continue
            if response.status_code != 200:
                raise self._rejected_error(path, response, response.text)
            try:
                return response.json()
            except ValueError as error:
                raise self._unexpected_response_error(path) from error
        raise EngineError(f"{self._server} failed {_MAX_ATTEMPTS} times: {cause}; see its log, or restart it")

    def _request(self, method: str, path: str, body: Any, limit: "_RequestTimeout") -> Any:
        """Send one request and read the response in chunks, because httpx's timeout applies to each chunk only."""
        with self._client.stream(method, path, json=body, timeout=limit.remaining()) as response:
            chunks = []
            for chunk in response.iter_raw():
                if not limit.remaining():
                    raise self._timeout_error(limit)
                chunks.append(chunk)
        return self._httpx.Response(response.status_code, content=b"".join(chunks), headers=response.headers)

    def _rejected_error(self, path: str, response: Any, body: str) -> EngineError:
        status = response.status_code
        if 300 <= status < 400:
            target = redirect_target(str(self._client.base_url.join(path)), response)
            return redirect_error(self._server, path, status, target)
        return EngineError(
            f"{self._server} rejected {path} with {status}: {body[:_MAX_EXCERPT]}; {vllm_protocol.SERVE_HINT}"
        )

    def _closed_error(self) -> EngineError:
        return EngineError(f"the connection to {self._server} was closed; open another backend")

    def _unexpected_response_error(self, path: str) -> EngineError:
        return EngineError(
            f"{self._server} sent a response to {path} that vLLM {vllm_protocol.SUPPORTED_VERSIONS} would not send; "
            "check url and the server's version"
        )

    def _new_limit(self, deadline: Deadline, timeout_factor: float) -> "_RequestTimeout":
        return _RequestTimeout(deadline, self._new_timeout(timeout_factor), timeout_factor)

    def _new_timeout(self, timeout_factor: float) -> Deadline:
        return Deadline(self._clock() + self._timeout * timeout_factor, self._clock)

    def _timeout_error(self, limit: "_RequestTimeout", cause: str = "") -> EngineError:
        cause = cause and f", {cause}"
        if limit.deadline.remaining() <= _TIMEOUT_MARGIN:
            return DeadlineExceededError(f"{self._server} did not answer before the deadline{cause}")
        seconds = self._timeout * limit.timeout_factor
        return EngineError(f"{self._server} did not answer within {seconds:g} s{cause}; see its log, or raise timeout")


@dataclass
class _RequestTimeout:
    """The time limit of a batch of requests.

    Attributes:
        deadline: the caller's.
        timeout: when the server must have answered at least one more request.
        timeout_factor: multiplies the backend's timeout for this batch.
    """

    deadline: Deadline
    timeout: Deadline
    timeout_factor: float

    def remaining(self) -> float:
        """Remaining seconds, at least 0."""
        return max(0.0, min(self.deadline.remaining(), self.timeout.remaining()))
