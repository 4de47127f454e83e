"""What vLLM is asked and how it answers, and all that differs between its versions 0.25 and 0.32.

A prompt's own log-probabilities come for what was computed only. The newer model runner leaves out the rows that the
prefix cache held; the older one returns them as it found the memory. So rows are counted from the end, and no more are
read than the number of cached tokens allows. Neither runner can compute them with adapters: the head's part of an
adapter is laid out for one row a request, and the CPU's worker ends.
Over HTTP versions before 0.32 write a token as `token_id:7`, 0.32 as a number. From 0.30 on a server answers for tokens
only where it was started with `--enable-scale-out`, which older ones do not know.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from genrec.backends.base import Text, TextRequest
from genrec.backends.path_tree import PathRequest
from genrec.errors import EngineError
from genrec.types import FloatArray

MOST_TOKENS = 128  # that one request may ask for, in every version
SERVE_ADVICE = "start it with what genrec.backends.vllm_protocol.serve_options names"
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}
"""How an engine holds texts to a schema: by the same library as `genrec.decoding.grammar`, and as that does."""

_STRUCTURED = {"json", "grammar"}
_OURS = "genrec_"
_CLAMPED = -9999.0  # what a server writes where a log-probability is no number JSON can hold


@contextmanager
def starting() -> Iterator[None]:
    """The environment that vLLM's processes take their settings from; what the caller has set stays."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def serve_options(version: str) -> list[str]:
    """What a server of vLLM has to be started with, such as version `0.25.1`, beside its model."""
    major, minor = version.split(".")[:2]
    door = ["--enable-scale-out"] if (int(major), int(minor)) >= (0, 30) else []
    structured = ["--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)]
    return ["--max-logprobs", str(MOST_TOKENS), *structured, *door]


def sampling(request: PathRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams`. One token is drawn, as there is no request for none."""
    common = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
    if request.rows:
        return {**common, "prompt_logprobs": 0, "skip_reading_prefix_cache": False}
    return {**common, "logprob_token_ids": request.tokens}


def sampling_over_http(request: PathRequest) -> dict[str, Any]:
    """The same for a server, which shows as many tokens as `logprobs` says: the drawn one, and all but one other."""
    tokens = [*request.tokens, request.tokens[0]]
    return {**sampling(request), "logprob_token_ids": tokens, "logprobs": len(tokens)}


def writing(request: TextRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for a text, but for what it is held to."""
    return {
        "max_tokens": request.most,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop_token_ids": list(request.stops),
        "detokenize": False,
    }


def times_as_long(requests: Sequence[TextRequest]) -> float:
    """How many times as long as an answer of one token the longest text may take; 100 tokens are one more."""
    return 1 + max((request.most for request in requests), default=0) / 100


def held(request: TextRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a text is held to: the fields of vLLM's structured outputs, and the keys of genrec's plugin.

    Raises:
        EngineError: it is something that vLLM does not know.
    """
    asked = {} if request.constraint is None else dict(request.constraint.for_engine)
    if asked.keys() <= _STRUCTURED:
        return asked, {}
    if all(name.startswith(_OURS) for name in asked):
        return {}, asked
    raise EngineError(f"vLLM cannot hold a text to {', '.join(asked)}; write it with a backend that can")


def writing_over_http(request: TextRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for a server, with what a text is held to."""
    structured, keys = held(request)
    return {
        **writing(request),
        **({"structured_outputs": structured} if structured else {}),
        **({"extra_args": keys} if keys else {}),
    }


def streaming_over_http(request: TextRequest) -> dict[str, Any]:
    """The body of `/v1/completions`, whose answer comes token by token."""
    own = {name: value for name, value in writing_over_http(request).items() if name != "detokenize"}
    if "extra_args" in own:
        own["vllm_xargs"] = own.pop("extra_args")
    return {**own, "prompt": request.prompt.tolist(), "stream": True, "return_token_ids": True}


def read_text(token_ids: Sequence[int], reason: str | None, request: TextRequest) -> Text:
    """A text of an answer's tokens, of which the last one may be what ended it.

    Raises:
        EngineError: it was given up.
    """
    if reason not in ("stop", "length"):
        raise EngineError(f"vLLM gave a text up: {reason}; see its log")
    ended = reason == "stop"
    if ended and token_ids and token_ids[-1] in request.stops:
        token_ids = token_ids[:-1]
    return Text(np.array(token_ids, dtype=np.int64), ended)


def read_output(output: Any, request: PathRequest) -> FloatArray:
    """What a `RequestOutput` with flat log-probabilities says of a request's tokens or rows."""
    if request.rows:
        count = _count(request, output.num_cached_tokens)
        kept = output.prompt_logprobs
        start, wanted = len(kept.logprobs) - count, request.path[len(request.path) - count :]
    else:
        kept, start, count, wanted = output.outputs[0].logprobs, 1, len(request.tokens), request.tokens
    if kept.token_ids[start : start + count] != wanted:
        raise EngineError("vLLM answered for other tokens than it was asked for; this version is not supported")
    return np.array(kept.logprobs[start : start + count], dtype=np.float64)


def read_answer(answer: Any, request: PathRequest) -> FloatArray:
    """What the JSON of `/inference/v1/generate` says of a request's tokens.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is no such answer.
    """
    shown = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    table = {_token(entry): entry["logprob"] for entry in shown}
    found = np.array([table[token] for token in request.tokens], dtype=np.float64)
    return np.where(found <= _CLAMPED, np.nan, found)


def _count(request: PathRequest, cached: int | None) -> int:
    """How many of a request's rows were computed: the row of a token belongs to the one before it."""
    return max(0, min(request.rows, len(request.path) - 1 - (cached or 0)))


def _token(entry: dict[str, Any]) -> int:
    return int(entry["token_id"] if "token_id" in entry else entry["token"].removeprefix("token_id:"))
