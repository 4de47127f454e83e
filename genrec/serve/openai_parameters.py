"""The parameters of OpenAI's chat completions: honoured, refused, or accepted and ignored.

Every parameter is in exactly one of the three groups. Source: OpenAI's API reference, "Create chat completion".
"""

import re
from collections.abc import Mapping
from typing import Any

from genrec.serve.errors import ApiError

HONOURED = frozenset({"messages", "model", "n", "stream", "stream_options"})
REFUSED: Mapping[str, str] = {
    "audio": "replies are text",
    "function_call": "no function is ever called",
    "logprobs": "replies have no log-probabilities",
    "modalities": "replies are text",
    "response_format": "replies are Markdown",
    "tool_choice": "no tool is ever called",
    "top_logprobs": "replies have no log-probabilities",
}
"""Parameters that demand what a reply does not have, and why; values that demand nothing are accepted."""

IGNORED = frozenset(
    {
        "frequency_penalty",
        "functions",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "temperature",
        "tools",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "top_p": (1,),
}
"""Values that ask for what happens anyway; so does every value that is false, such as 0 and []."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_NAMES, _MAX_NAME_LENGTH = 20, 64


def ignored_parameters(parameters: Mapping[str, Any]) -> list[str]:
    """The names of the parameters that have no effect, in alphabetical order; at most twenty.

    Args:
        parameters: the parameters that are neither honoured nor fields of genrec, by name.

    Raises:
        ApiError: a parameter demands what a reply does not have.
    """
    given = {name: value for name, value in parameters.items() if value and value not in _NEUTRAL.get(name, ())}
    for name in sorted(given.keys() & REFUSED.keys()):
        message = f"{name} is {given[name]!r:.80}, but {REFUSED[name]}; remove it"
        raise ApiError(400, message, "invalid_value", param=name, reason="unsupported_parameter")
    # Other names are the caller's text, which may not be fit for a sentence.
    return [name for name in sorted(given) if len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name)][:_MAX_NAMES]
