"""A model that vLLM runs in a process of its own, as a token tree over vLLM's prefix cache."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrec.backends import vllm_protocol
from genrec.backends.adapter import Adapter, inspect_adapter
from genrec.backends.base import DEFAULT_BATCH_SIZE, Completion, GenerationRequest, GenerationRequests, OnTokens
from genrec.backends.generation import ConstraintChecker, check_context_length
from genrec.backends.model_name import model_name
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.backends.provenance import Provenance
from genrec.backends.vllm_process import EngineProcess
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray

_MAX_LORA_RANK = 16


class VllmEngineBackend:
    """A causal language model from a folder or the Hub, run by vLLM.

    Args:
        model: a folder that `save_pretrained` wrote, or a Hub id. Only safetensors are read.
        context_length: the context, prompt and answer together, in tokens; by default the model's own.
        kv_cache_memory_bytes: size of the key-value cache that all trees share, allocated at the start; by default
            2 GiB on the CPU, and on a GPU what vLLM finds free.
        max_adapters: how many LoRA adapters may be in use at once; 0 for none. With adapters every node is a separate
            request, even where a run of forced tokens would otherwise share one.
        timeout: seconds without a finished request after which the engine counts as down. Generation gets the same
            time again for each 100 tokens of `max_tokens`.
        name: how results and caches name these weights, before the dtype; by default the last part of the path.
        llm_kwargs: further arguments of `vllm.LLM`, such as `dtype`, `tensor_parallel_size` or `max_lora_rank` (16 by
            default, the highest rank of an adapter); they override the ones above.
        clock: a monotonic clock, in seconds.

    Raises:
        ModelMissingError: vLLM is not installed, or the model does not exist.
        EngineError: the engine did not start.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        context_length: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        max_adapters: int = 0,
        timeout: float = 60.0,
        name: str | None = None,
        llm_kwargs: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        lora = {"enable_lora": True, "max_loras": max_adapters, "max_lora_rank": _MAX_LORA_RANK} if max_adapters else {}
        options = {
            "model": str(model),
            "skip_tokenizer_init": _has_no_tokenizer(model),
            "max_model_len": None if context_length is None else context_length + vllm_protocol.EXTRA_TOKENS,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            **lora,
            **(llm_kwargs or {}),
        }
        self._model, self._max_rank = model, int(options["max_lora_rank"]) if max_adapters else 0
        self._adapter: Adapter | None = None
        self._process = EngineProcess(model_name(model), timeout, clock, options)
        # Ids of streamed requests count down, because `LLM.generate` counts up and reads every id as a number.
        self._request_ids = itertools.count(-1, -1)
        self._lora_ids: dict[str, int] = {}  # by the adapter's name; vLLM identifies adapters by number
        config = self.llm.llm_engine.model_config
        self.name = self._base_name = f"{name or model_name(model)}@{str(config.dtype).removeprefix('torch.')}"
        self.vocab_size = int(config.get_vocab_size())
        self.context_length = int(config.max_model_len) - vllm_protocol.EXTRA_TOKENS
        self.max_logprobs = vllm_protocol.MAX_LOGPROBS
        self.scores_path_tokens = not max_adapters
        self.token_bytes = TOKEN_BYTES
        self.batch_size = DEFAULT_BATCH_SIZE
        self.provenance: Provenance | None = None

    @property
    def llm(self) -> Any:
        """The running `vllm.LLM`, for its other functions; a restart replaces it."""
        return self._process.llm

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        """Open a tree over U prompts; the first read computes them, all in one batch."""
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Read the log-probabilities of each request, see `PathScorer`."""
        from vllm import SamplingParams

        params = [SamplingParams(**vllm_protocol.scoring_params(request), flat_logprobs=True) for request in requests]
        prompts = [{"prompt_token_ids": request.token_ids} for request in requests]
        outputs = self._process.run(lambda: self._generate(prompts, params), deadline)
        with _checked_response():
            pairs = zip(outputs, requests, strict=True)
            return [vllm_protocol.parse_output(output, request) for output, request in pairs]

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt; the engine starts the next one as soon as one has ended."""
        check_context_length(requests, self.context_length)
        params = [_sampling_params(request) for request in requests]
        prompts = [{"prompt_token_ids": request.prompt.tolist()} for request in requests]
        checker = ConstraintChecker(requests, on_tokens)
        outputs = self._process.run(
            lambda: self._generate(prompts, params) if on_tokens is None else self._stream(prompts, params, checker),
            deadline or Deadline.never(),
            vllm_protocol.timeout_factor(requests),
        )
        with _checked_response():
            texts = [
                vllm_protocol.parse_completion(output.outputs[0].token_ids, output.outputs[0].finish_reason, request)
                for output, request in zip(outputs, requests, strict=True)
            ]
        if on_tokens is None:
            for number, text in enumerate(texts):
                checker(number, text.token_ids.tolist())
        return texts

    def with_adapter(self, folder: str | Path) -> "VllmEngineBackend":
        """The same engine with a LoRA adapter, which is loaded now; trees of both may be open at once.

        Raises:
            InputError: the engine was started without adapters.
            ModelMissingError: the adapter's files are missing or damaged.
            MismatchError: the adapter was trained for another model, or uses what vLLM does not support.
            EngineError: vLLM rejected it.
        """
        if not self._max_rank:
            raise InputError(f"{self.name} was started without adapters; start it with max_adapters=1 or more")
        other = copy.copy(self)
        other._adapter = inspect_adapter(folder, base=self._model, max_rank=self._max_rank)
        other.name = f"{self._base_name}+{other._adapter.name}"
        other.provenance = other._adapter.provenance
        self._process.run(lambda: self.llm.llm_engine.add_lora(other._lora_request()), Deadline.never())
        return other

    def restart(self) -> None:
        """Stop the engine, if it is still running, and start another; open trees continue with it."""
        self._process.restart()

    def close(self) -> None:
        """Stop the engine and free its memory, after the running requests and any restart have ended."""
        self._process.close()

    def _generate(self, prompts: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = self.llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora_request())
        return outputs

    def _stream(self, prompts: Sequence[Any], params: Sequence[Any], on_tokens: OnTokens) -> list[Any]:
        """Do what `LLM.generate` does, step by step, and pass on new tokens, except those that end a text."""
        engine, lora = self.llm.llm_engine, self._lora_request()
        outputs: dict[int, Any] = {}
        numbers: dict[str, int] = {}
        num_seen = [0] * len(prompts)
        try:
            for number, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
                request_id = str(next(self._request_ids))
                engine.add_request(request_id, prompt, param, lora_request=lora)
                numbers[request_id] = number
            while len(outputs) < len(prompts):
                for output in engine.step():
                    number, generated = numbers[output.request_id], output.outputs[0]
                    stops = params[number].stop_token_ids
                    new = [token for token in generated.token_ids[num_seen[number] :] if token not in stops]
                    if new:
                        on_tokens(number, new)
                    num_seen[number] = len(generated.token_ids)
                    if output.finished:
                        outputs[number] = output
        finally:
            if unfinished := [request_id for request_id, number in numbers.items() if number not in outputs]:
                engine.abort_request(unfinished)
        return [outputs[number] for number in range(len(prompts))]

    def _lora_request(self) -> Any:
        """The adapter of this view as vLLM takes it; None without one."""
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        number = self._lora_ids.setdefault(self._adapter.name, len(self._lora_ids) + 1)
        return LoRARequest(self._adapter.name, number, str(self._adapter.folder))


def _sampling_params(request: GenerationRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    structured, plugin_args = vllm_protocol.constraint_params(request)
    return SamplingParams(
        **vllm_protocol.generation_params(request),
        structured_outputs=StructuredOutputsParams(**structured) if structured else None,
        extra_args=plugin_args or None,
    )


@contextmanager
def _checked_response() -> Iterator[None]:
    """Raise an `EngineError` where vLLM's output is not what the supported versions return."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"vLLM returned unexpected output: {error}; install vLLM {vllm_protocol.SUPPORTED_VERSIONS}"
        ) from error


def _has_no_tokenizer(model: str | Path) -> bool:
    """Whether a folder has no tokenizer: then vLLM cannot apply a schema, but everything else works."""
    return Path(model).is_dir() and not (Path(model) / "tokenizer.json").is_file()
