"""vLLM's requests and responses, and the differences between its versions 0.25.1 and 0.32.

vLLM returns a prompt's own log-probabilities only for the tokens that it computed. The newer model runner leaves out
the rows of tokens that were in the prefix cache; the older one returns uninitialised memory for them. So rows are
counted from the end, and no more are read than the number of cached tokens allows. Neither runner can compute these
rows with adapters: the output layer's part of an adapter has one row per request, and the CPU worker crashes.
Over HTTP, versions before 0.32 write a token as `token_id:7`, and 0.32 writes a number. From 0.30 on a server scores
token ids only if it was started with `--enable-scale-out`, an option that older versions do not have.
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

MAX_LOGPROBS = 128  # log-probabilities that one request may ask for, in every version
EXTRA_TOKENS = 2  # beyond the context: a path's last token may be scored, and vLLM draws one more token
SUPPORTED_VERSIONS = "0.25.1 to 0.32"
SERVE_HINT = "start it with the options that genrec.backends.vllm_protocol.serve_options returns"
_ENGINE_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}
"""How an engine applies a schema: with the library and the settings of `genrec.decoding.grammar`."""

_STRUCTURED_KEYS = {"json", "grammar"}
_PLUGIN_PREFIX = "genrec_"
_MIN_JSON_LOGPROB = -9999.0  # what a server writes for a log-probability that JSON cannot represent


@contextmanager
def engine_environment() -> Iterator[None]:
    """Set the environment variables of vLLM's processes, except those that the caller has set; restore them after."""
    added = {name: value for name, value in _ENGINE_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def serve_options(version: str) -> list[str]:
    """The options that a vLLM server needs beside its model, for a version such as `0.25.1`."""
    major, minor = version.split(".")[:2]
    scale_out = ["--enable-scale-out"] if (int(major), int(minor)) >= (0, 30) else []
    structured = ["--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)]
    return ["--max-logprobs", str(MAX_LOGPROBS), *structured, *scale_out]


def scoring_params(request: PathScoreRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for scoring. One token is drawn, because vLLM cannot draw none."""
    common = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
    if request.num_path_tokens:
        return {**common, "prompt_logprobs": 0, "skip_reading_prefix_cache": False}
    return {**common, "logprob_token_ids": request.next_token_ids}


def http_scoring_params(request: PathScoreRequest) -> dict[str, Any]:
    """The same for a server, which returns `logprobs` tokens: the drawn one, and all the others but one."""
    tokens = [*request.next_token_ids, request.next_token_ids[0]]
    return {**scoring_params(request), "logprob_token_ids": tokens, "logprobs": len(tokens)}


def generation_params(request: GenerationRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for generation, without the constraint."""
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop_token_ids": list(request.stop_token_ids),
        "detokenize": False,
    }


def timeout_factor(requests: Sequence[GenerationRequest]) -> float:
    """How many times the timeout of one token the longest text may take: once more for each 100 tokens."""
    return 1 + max((request.max_tokens for request in requests), default=0) / 100


def constraint_params(request: GenerationRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The constraint of a request: the fields of vLLM's structured outputs, and the arguments of genrec's plugin.

    Raises:
        EngineError: vLLM does not support this constraint.
    """
    args = {} if request.constraint is None else dict(request.constraint.engine_args)
    if args.keys() <= _STRUCTURED_KEYS:
        return args, {}
    if all(name.startswith(_PLUGIN_PREFIX) for name in args):
        return {}, args
    raise EngineError(f"vLLM does not support the constraint {', '.join(args)}; generate with a backend that does")


def http_generation_params(request: GenerationRequest) -> dict[str, Any]:
    """The arguments of `SamplingParams` for generation on a server, with the constraint."""
    structured, plugin_args = constraint_params(request)
    return {
        **generation_params(request),
        **({"structured_outputs": structured} if structured else {}),
        **({"extra_args": plugin_args} if plugin_args else {}),
    }


def http_completion_body(request: GenerationRequest) -> dict[str, Any]:
    """The body of a streamed request to `/v1/completions`."""
    params = {name: value for name, value in http_generation_params(request).items() if name != "detokenize"}
    if "extra_args" in params:
        params["vllm_xargs"] = params.pop("extra_args")
    return {**params, "prompt": request.prompt.tolist(), "stream": True, "return_token_ids": True}


def parse_completion(token_ids: Sequence[int], finish_reason: str | None, request: GenerationRequest) -> Completion:
    """The completion of a response, without the stop token that may end it.

    Raises:
        EngineError: vLLM aborted the request.
    """
    if finish_reason not in ("stop", "length"):
        raise EngineError(f"vLLM ended a text with the finish reason {finish_reason!r}; see its log")
    stopped = finish_reason == "stop"
    if stopped and token_ids and token_ids[-1] in request.stop_token_ids:
        token_ids = token_ids[:-1]
    return Completion(np.array(token_ids, dtype=np.int64), stopped)


def parse_output(output: Any, request: PathScoreRequest) -> FloatArray:
    """The log-probabilities of a request in a `RequestOutput` with flat log-probabilities.

    Raises:
        EngineError: the output is for other tokens.
    """
    if request.num_path_tokens:
        count = _num_computed_rows(request, output.num_cached_tokens)
        rows = output.prompt_logprobs
        start, wanted = len(rows.logprobs) - count, request.token_ids[len(request.token_ids) - count :]
    else:
        rows, start, count, wanted = output.outputs[0].logprobs, 1, len(request.next_token_ids), request.next_token_ids
    if rows.token_ids[start : start + count] != wanted:
        raise EngineError(f"vLLM returned scores of other tokens than requested; install vLLM {SUPPORTED_VERSIONS}")
    return np.array(rows.logprobs[start : start + count], dtype=np.float64)


def parse_response(response: Any, request: PathScoreRequest) -> FloatArray:
    """The log-probabilities of a request's next tokens in a response of `/inference/v1/generate`.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: the response has another form.
    """
    entries = response["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    table = {_parse_token_id(entry): entry["logprob"] for entry in entries}
    log_probs = np.array([table[token] for token in request.next_token_ids], dtype=np.float64)
    return np.where(log_probs <= _MIN_JSON_LOGPROB, np.nan, log_probs)


def _num_computed_rows(request: PathScoreRequest, num_cached_tokens: int | None) -> int:
    """How many of a request's rows were computed; the row of a token is computed at the token before it."""
    return max(0, min(request.num_path_tokens, len(request.token_ids) - 1 - (num_cached_tokens or 0)))


def _parse_token_id(entry: dict[str, Any]) -> int:
    return int(entry["token_id"] if "token_id" in entry else entry["token"].removeprefix("token_id:"))
