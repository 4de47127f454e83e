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
from genrec.backends.base import OnTokens, Text, TextRequest
from genrec.backends.generation import check_room, hold
from genrec.backends.path_tree import TOKEN_BYTES, PathRequest, PathTree
from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, ModelMissingError
from genrec.types import FloatArray, IntArray

_ATTEMPTS = 4
_PAUSE = 0.1  # seconds before the second attempt, twice as many before each further one
_MARGIN = 0.05  # seconds by which a time-out may come early
_SPARE = 2  # a path's last token may be asked for, and one is drawn behind it
_GENERATE, _STREAM = "/inference/v1/generate", "/v1/completions"
_LAST = "[DONE]"
_EXCERPT = 200  # characters of a refusal that an error repeats

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class VllmServerBackend:
    """A model that a vLLM server serves, or one of its adapters.

    The server is to be started as `vllm serve MODEL` with `genrec.backends.vllm_protocol.serve_options` of its version
    (`--max-logprobs 128`, from 0.30 on `--enable-scale-out` too, and for texts that are held to a schema
    `--structured-outputs-config`), where only genrec can reach it.

    Args:
        url: such as `http://127.0.0.1:8000`.
        model: what the server calls the model or the adapter.
        vocab_size: token ids are below it; the server does not tell.
        patience: seconds that a request may take with all its attempts, and in which one of a batch must be answered; a
            text is given as much again for each 100 tokens that it may have.
        concurrency: requests under way at once.
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
        patience: float = 30.0,
        concurrency: int = 16,
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
        self.most_tokens = vllm_protocol.MOST_TOKENS - 1  # the server shows one less than it is asked for
        # A server may have adapters, with which rows would end it; and rows that its cache held may be no JSON.
        self.reads_rows = False
        self.token_bytes = TOKEN_BYTES
        self.provenance: Provenance | None = None  # the server knows its adapters, and does not tell
        self._model, self._patience, self._clock = model, patience, clock
        self._client = httpx.Client(
            base_url=url,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=False,
        )
        self._where = f"the vLLM server at {self._client.base_url.netloc.decode()}"
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="vllm-server")
        self.max_tokens = self._find_model() - _SPARE

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        """Open a tree behind U prompts; they are computed when it is first read."""
        return PathTree(self, prompts, deadline)

    def read(self, requests: Sequence[PathRequest], deadline: Deadline) -> list[FloatArray]:
        """Log-probabilities for each request, see `PathReader`."""
        return self._together(self._ask, requests, self._limit(deadline, 1))

    def write(
        self,
        requests: Sequence[TextRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Text]:
        """Write a text behind each prompt; `concurrency` of them at once. What is told of is not sent again."""
        check_room(requests, self.max_tokens)
        limit = self._limit(deadline or Deadline.never(), vllm_protocol.times_as_long(requests))
        watch = hold(requests, on_tokens)
        if on_tokens is not None:
            numbered = list(enumerate(requests))
            return self._together(lambda one, limit: self._stream(*one, watch, limit), numbered, limit)
        texts = self._together(self._write, requests, limit)
        for number, text in enumerate(texts):
            watch(number, text.token_ids.tolist())
        return texts

    def _together(
        self, ask: "Callable[[_Request, _Limit], _Answer]", requests: "Sequence[_Request]", limit: "_Limit"
    ) -> "list[_Answer]":
        """What the server answers to all; the first fault ends it."""
        try:
            futures = [self._pool.submit(ask, request, limit) for request in requests]
        except RuntimeError as error:
            raise self._closed() from error
        open_ = set(futures)
        while open_:
            done, open_ = wait(open_, timeout=limit.left(), return_when=FIRST_EXCEPTION)
            faults = [fault for future in done if (fault := future.exception()) is not None]
            if open_ and not (faults or limit.left()):
                faults = [self._too_late(limit)]
            if faults:
                for future in open_:
                    future.cancel()
                raise faults[0]
        return [future.result() for future in futures]

    def ready(self) -> None:
        """Let the server generate, with everything that a tree needs of it; its own `/health` does not tell.

        Raises:
            EngineError: it cannot (named).
        """
        tokens = (np.arange(self.most_tokens) % self.vocab_size).tolist()
        self.read([PathRequest([0], tokens)], Deadline.never())

    def close(self) -> None:
        """Give the connections back; what is under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _find_model(self) -> int:
        """The context of the model, which the server must serve under this name."""
        answer = self._send("GET", "/v1/models", None, self._limit(Deadline.never(), 1))
        with self._reading("/v1/models"):
            contexts = {str(card["id"]): card for card in answer["data"]}
            if self._model not in contexts:
                raise EngineError(
                    f"{self._where} serves {', '.join(sorted(contexts)) or 'nothing'}, not {self._model!r}; "
                    "name one of these, or start it with this model"
                )
            # An adapter's card says nothing of the context, its model's does.
            card = contexts[self._model]
            return int(card.get("max_model_len") or contexts[card["parent"]]["max_model_len"])

    def _ask(self, request: PathRequest, limit: "_Limit") -> FloatArray:
        answer = self._generate(request.path, vllm_protocol.sampling_over_http(request), limit)
        with self._reading(_GENERATE):
            return vllm_protocol.read_answer(answer, request)

    def _write(self, request: TextRequest, limit: "_Limit") -> Text:
        answer = self._generate(request.prompt.tolist(), vllm_protocol.writing_over_http(request), limit)
        with self._reading(_GENERATE):
            own = answer["choices"][0]
            return vllm_protocol.read_text(own["token_ids"], own["finish_reason"], request)

    def _stream(self, number: int, request: TextRequest, on_tokens: OnTokens, limit: "_Limit") -> Text:
        """A text that is told of as it comes: events of one line each, of which the last one says [DONE]."""
        body = {"model": self._model, **vllm_protocol.streaming_over_http(request)}
        token_ids: list[int] = []
        reason = None
        try:
            with self._client.stream("POST", _STREAM, json=body, timeout=limit.left()) as answer:
                if answer.status_code != 200:
                    raise self._refused(_STREAM, answer.status_code, answer.read().decode(errors="replace"))
                for line in answer.iter_lines():
                    if not limit.left():
                        raise self._too_late(limit)
                    event = line.removeprefix("data: ")
                    if not event or event == _LAST:
                        continue
                    with self._reading(_STREAM):
                        own = json.loads(event)["choices"][0]
                        new = [int(token) for token in own["token_ids"] or () if token not in request.stops]
                        token_ids, reason = token_ids + new, own["finish_reason"]
                    if new:
                        on_tokens(number, new)
        except self._httpx.TimeoutException as error:
            raise self._too_late(limit) from error
        except self._httpx.TransportError as error:
            raise EngineError(f"{self._where} broke off: {error}; ask again") from error
        limit.patience = self._new_patience(limit.times)
        return vllm_protocol.read_text(token_ids, reason, request)

    def _generate(self, prompt: Sequence[int], params: dict[str, Any], limit: "_Limit") -> Any:
        body = {"model": self._model, "token_ids": prompt, "sampling_params": params}
        answer = self._send("POST", _GENERATE, body, limit)
        limit.patience = self._new_patience(limit.times)
        return answer

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._garbled(path) from error

    def _send(self, method: str, path: str, body: Any, limit: "_Limit") -> Any:
        """The JSON of an answer; connections that failed and faults of the server are tried again."""
        fault = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(min(_PAUSE * 2 ** (attempt - 1), limit.left()))
            if not limit.left():
                raise self._too_late(limit, fault)
            try:
                answer = self._request(method, path, body, limit)
            except self._httpx.TimeoutException as error:
                raise self._too_late(limit) from error
            except self._httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            except RuntimeError as error:
                raise self._closed() from error
            if answer.status_code >= 500:
                fault = f"it answered {answer.status_code}"
                continue
            if answer.status_code != 200:
                raise self._refused(path, answer.status_code, answer.text)
            try:
                return answer.json()
            except ValueError as error:
                raise self._garbled(path) from error
        raise EngineError(f"{self._where} failed {_ATTEMPTS} times: {fault}; see its log, or start it again")

    def _request(self, method: str, path: str, body: Any, limit: "_Limit") -> Any:
        """An answer, read piece by piece: time-outs are of each piece, and a server that drips would hold a thread."""
        with self._client.stream(method, path, json=body, timeout=limit.left()) as answer:
            pieces = []
            for piece in answer.iter_raw():
                if not limit.left():
                    raise self._too_late(limit)
                pieces.append(piece)
        return self._httpx.Response(answer.status_code, content=b"".join(pieces), headers=answer.headers)

    def _refused(self, path: str, status: int, said: str) -> EngineError:
        return EngineError(
            f"{self._where} refused {path} with {status}: {said[:_EXCERPT]}; {vllm_protocol.SERVE_ADVICE}"
        )

    def _closed(self) -> EngineError:
        return EngineError(f"the connection to {self._where} was closed; open another backend")

    def _garbled(self, path: str) -> EngineError:
        return EngineError(f"{self._where} answered {path} with something else than vLLM 0.25 to 0.32 does; check url")

    def _limit(self, deadline: Deadline, times: float) -> "_Limit":
        return _Limit(deadline, self._new_patience(times), times)

    def _new_patience(self, times: float) -> Deadline:
        return Deadline(self._clock() + self._patience * times, self._clock)

    def _too_late(self, limit: "_Limit", fault: str = "") -> EngineError:
        fault = fault and f", {fault}"
        if limit.deadline.left() <= _MARGIN:
            return DeadlineExceededError(f"{self._where} did not answer before the deadline{fault}")
        return EngineError(
            f"{self._where} did not answer within {self._patience * limit.times:g} s{fault}; see its log, or allow "
            "more with patience"
        )


@dataclass
class _Limit:
    """Until when requests may take: what the caller has time for, and until when the server must answer one of them.

    The latter is `times` as long as the patience that there is.
    """

    deadline: Deadline
    patience: Deadline
    times: float

    def left(self) -> float:
        """Seconds that remain; 0 when none do."""
        return max(0.0, min(self.deadline.left(), self.patience.left()))
