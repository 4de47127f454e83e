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

from genrec.backends.base import Completion, GenerationRequest
from genrec.backends.path_tree import PathScoreRequest
from genrec.errors import EngineError
from genrec.types import FloatArray

MAX_LOGPROBS = 128  # that one request may ask for, in every version
SERVE_HINT = "start it with what genrec.backends.vllm_protocol.serve_options names"
_ENGINE_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}
"""How an engine holds texts to a schema: by the same library as `genrec.decoding.grammar`, and as that does."""

_STRUCTURED_KEYS = {"json", "grammar"}
_PLUGIN_PREFIX = "genrec_"
_MIN_JSON_LOGPROB = -9999.0  # what a server writes where a log-probability is no number JSON can hold


@contextmanager
def engine_environment() -> Iterator[None]:
    """The environment that vLLM's processes take their settings from; what the caller has set stays."""
    added = {name: value for name, value in _ENGINE_ENVIRONMENT.items() if name not in os.environ}
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
    return ["--max-logprobs", str(MAX_LOGPROBS), *structured, *door]


def scoring_params(request: PathScoreRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams`. One token is drawn, as there is no request for none."""
    common = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
    if request.num_path_tokens:
        return {**common, "prompt_logprobs": 0, "skip_reading_prefix_cache": False}
    return {**common, "logprob_token_ids": request.next_token_ids}


def http_scoring_params(request: PathScoreRequest) -> dict[str, Any]:
    """The same for a server, which shows as many tokens as `logprobs` says: the drawn one, and all but one other."""
    tokens = [*request.next_token_ids, request.next_token_ids[0]]
    return {**scoring_params(request), "logprob_token_ids": tokens, "logprobs": len(tokens)}


def generation_params(request: GenerationRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for a text, but for what it is held to."""
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop_token_ids": list(request.stop_token_ids),
        "detokenize": False,
    }


def timeout_factor(requests: Sequence[GenerationRequest]) -> float:
    """How many times as long as an answer of one token the longest text may take; 100 tokens are one more."""
    return 1 + max((request.max_tokens for request in requests), default=0) / 100


def constraint_params(request: GenerationRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a text is held to: the fields of vLLM's structured outputs, and the keys of genrec's plugin.

    Raises:
        EngineError: it is something that vLLM does not know.
    """
    asked = {} if request.constraint is None else dict(request.constraint.engine_args)
    if asked.keys() <= _STRUCTURED_KEYS:
        return asked, {}
    if all(name.startswith(_PLUGIN_PREFIX) for name in asked):
        return {}, asked
    raise EngineError(f"vLLM cannot hold a text to {', '.join(asked)}; write it with a backend that can")


def http_generation_params(request: GenerationRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for a server, with what a text is held to."""
    structured, keys = constraint_params(request)
    return {
        **generation_params(request),
        **({"structured_outputs": structured} if structured else {}),
        **({"extra_args": keys} if keys else {}),
    }


def http_completion_body(request: GenerationRequest) -> dict[str, Any]:
    """The body of `/v1/completions`, whose answer comes token by token."""
    own = {name: value for name, value in http_generation_params(request).items() if name != "detokenize"}
    if "extra_args" in own:
        own["vllm_xargs"] = own.pop("extra_args")
    return {**own, "prompt": request.prompt.tolist(), "stream": True, "return_token_ids": True}


def parse_completion(token_ids: Sequence[int], finish_reason: str | None, request: GenerationRequest) -> Completion:
    """A text of an answer's tokens, of which the last one may be what ended it.

    Raises:
        EngineError: it was given up.
    """
    if finish_reason not in ("stop", "length"):
        raise EngineError(f"vLLM gave a text up: {finish_reason}; see its log")
    ended = finish_reason == "stop"
    if ended and token_ids and token_ids[-1] in request.stop_token_ids:
        token_ids = token_ids[:-1]
    return Completion(np.array(token_ids, dtype=np.int64), ended)


def parse_output(output: Any, request: PathScoreRequest) -> FloatArray:
    """What a `RequestOutput` with flat log-probabilities says of a request's tokens or rows."""
    if request.num_path_tokens:
        count = _num_computed_rows(request, output.num_cached_tokens)
        kept = output.prompt_logprobs
        start, wanted = len(kept.logprobs) - count, request.token_ids[len(request.token_ids) - count :]
    else:
        kept, start, count, wanted = output.outputs[0].logprobs, 1, len(request.next_token_ids), request.next_token_ids
    if kept.token_ids[start : start + count] != wanted:
        raise EngineError("vLLM answered for other tokens than it was asked for; this version is not supported")
    return np.array(kept.logprobs[start : start + count], dtype=np.float64)


def parse_response(response: Any, request: PathScoreRequest) -> FloatArray:
    """What the JSON of `/inference/v1/generate` says of a request's tokens.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is no such answer.
    """
    shown = response["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    table = {_parse_token_id(entry): entry["logprob"] for entry in shown}
    found = np.array([table[token] for token in request.next_token_ids], dtype=np.float64)
    return np.where(found <= _MIN_JSON_LOGPROB, np.nan, found)


def _num_computed_rows(request: PathScoreRequest, num_cached_tokens: int | None) -> int:
    """How many of a request's rows were computed: the row of a token belongs to the one before it."""
    return max(0, min(request.num_path_tokens, len(request.token_ids) - 1 - (num_cached_tokens or 0)))


def _parse_token_id(entry: dict[str, Any]) -> int:
    return int(entry["token_id"] if "token_id" in entry else entry["token"].removeprefix("token_id:"))
