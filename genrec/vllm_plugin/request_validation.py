"""Checks of a request's sampling parameters against its catalog constraint."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from vllm import SamplingParams

from genrec.decoding.constraints import ConstraintState
from genrec.errors import InputError

# Each of these removes or forces tokens, or ends the answer early: no token might be left, or a disallowed one added.
# Maps vLLM's name to the name in messages; a server makes structured_outputs from a request's response_format.
_CONFLICTING_PARAMS = {
    "allowed_token_ids": "allowed_token_ids",
    "bad_words": "bad_words",
    "ignore_eos": "ignore_eos",
    "logit_bias": "logit_bias",
    "min_tokens": "min_tokens",
    "repetition_detection": "repetition_detection",
    "structured_outputs": "structured_outputs (or response_format)",
    "thinking_token_budget": "thinking_token_budget",
    "trace_decode_token_ids": "trace_decode_token_ids",
}

# Penalties change the scores of tokens that occurred before, inside identifiers too: another list than the model's.
_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

_FLOAT32_MAX = float(np.finfo(np.float32).max)  # larger values are infinite in the engine
_ENGINE_EXTRA_ARGS = ("kv_transfer_params", "ec_transfer_params")  # vLLM's own, which no logits processor reads


def reject_conflicting_params(params: SamplingParams, state: ConstraintState, end_id: int) -> None:
    """Refuse parameters that would leave no token, allow other tokens, or end the answer early.

    Args:
        params: the request's.
        state: its constraint, before the first token.
        end_id: the end token of the catalog's identifiers.

    Raises:
        InputError: the parameter is named.
    """
    defaults = SamplingParams()
    for name, label in _CONFLICTING_PARAMS.items():
        if (value := getattr(params, name, None)) and value != getattr(defaults, name, None):
            raise InputError(f"{label} is {value!r:.60}, which conflicts with genrec_catalog; remove it")
    if not abs(params.temperature) <= _FLOAT32_MAX:
        raise InputError(
            f"temperature is {params.temperature}, which conflicts with genrec_catalog; set a finite number"
        )
    delimiters, item_tokens = state.grammar.delimiters, state.grammar.trie.tokens
    # Servers add stop tokens of their own; only tokens that items are made of would truncate the answer.
    stop_token_ids = [
        token
        for token in params.stop_token_ids or ()
        if token != end_id and (token == delimiters.separator_id or token in item_tokens)
    ]
    for name, stops in (("stop", params.stop), ("stop_token_ids", stop_token_ids)):
        if state.form != "text" and stops:
            first = stops if isinstance(stops, str) else stops[0]
            raise InputError(
                f"{name} contains {first!r:.60}, which can truncate an answer of genrec_form {state.form!r}; remove it"
            )


def remove_penalties(params: SamplingParams, engine_defaults: Mapping[str, Any]) -> None:
    """Remove penalties that come from the engine's defaults, such as a model's `generation_config.json`.

    Args:
        params: the request's; changed in place.
        engine_defaults: the parameters that the engine sets where a request does not.

    Raises:
        InputError: the request sets a penalty itself.
    """
    for name, neutral in _PENALTIES.items():
        value = getattr(params, name)
        if value not in (neutral, engine_defaults.get(name, neutral)):
            raise InputError(
                f"{name} is {value}, which conflicts with genrec_catalog because it changes the scores of items; "
                "remove it"
            )
        setattr(params, name, neutral)


def reject_foreign_arguments(params: SamplingParams, own_keys: Iterable[str], other_processors: Iterable[str]) -> None:
    """Refuse arguments for other logits processors of the engine: they could allow other tokens, or none.

    Args:
        params: the request's.
        own_keys: the keys of genrec.
        other_processors: the names of the engine's other custom logits processors.

    Raises:
        InputError: the argument and the processors are named.
    """
    foreign = sorted(map(str, set(params.extra_args or ()) - {*own_keys, *_ENGINE_EXTRA_ARGS}))
    if foreign and (names := sorted(other_processors)):
        raise InputError(
            f"{foreign[0]!r:.60} is an argument of another logits processor ({', '.join(names)}), which could change "
            "what genrec_catalog allows; remove it"
        )


def reject_insufficient_tokens(params: SamplingParams, state: ConstraintState, max_model_len: int) -> None:
    """Refuse a request whose answer might not fit after an empty prompt; the length of its prompt is not known.

    Args:
        params: the request's.
        state: its constraint, before the first token.
        max_model_len: the context length of the engine, in tokens.

    Raises:
        InputError: the context or `max_tokens` is too short for the longest possible answer.
    """
    is_list = state.form == "list"
    needed = state.grammar.max_answer_tokens(
        state.form, k=state.remaining_items if is_list else None, allowed=state.allowed
    )
    answer = f"a list of {state.remaining_items} of these items" if is_list else "one of these items"
    if needed >= max_model_len:
        raise InputError(
            f"{answer} can take {needed} tokens, but the model's context is {max_model_len}; ask for fewer items"
        )
    # A server sets max_tokens to the rest of the context if the request does not.
    if params.max_tokens is not None and params.max_tokens < needed:
        raise InputError(
            f"max_tokens is {params.max_tokens}, but {answer} can take {needed} tokens; "
            f"set max_tokens to {needed} or more, or shorten the prompt"
        )
