"""Requests to a vLLM engine with genrec's plugin, for tests; needs vLLM."""

from typing import Any

from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError

from genrec.errors import InputError

# Before 0.27 vLLM passes a processor's own ValueError on; a server answers 400 for either.
REFUSAL = InputError if issubclass(VLLMValidationError, ValueError) else VLLMValidationError


def params(**settings: Any) -> SamplingParams:
    """The sampling parameters of a request; keys of genrec become extra arguments."""
    # Some versions of vLLM refuse an invalid temperature in the constructor, so it is set afterwards.
    temperature = settings.pop("temperature", 0.0)
    ours = {name: settings.pop(name) for name in list(settings) if name.strip().casefold().startswith("genrec")}
    made = SamplingParams(
        **{"temperature": 2.0 if temperature else 0.0, "max_tokens": 400, "extra_args": ours or None, **settings}
    )
    made.temperature = temperature
    return made


def written(engine: LLM, prompts: list[Any], settings: list[SamplingParams]) -> list[list[int]]:
    """The generated token ids of each request."""
    return [list(answer.outputs[0].token_ids) for answer in engine.generate(prompts, settings, use_tqdm=False)]
