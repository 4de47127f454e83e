"""vLLM in a process of its own, started, watched and started again from here, as a token tree over its prefix cache.

Source of the engine: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023.
"""

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from genrec.backends import vllm_protocol
from genrec.backends.adapter import Adapter, inspect_adapter
from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.backends.generation import check_context_length, constraint_checker
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.types import FloatArray, IntArray

_CPU_KV_CACHE_BYTES = 2 << 30
# Tokens; the cache holds whole blocks, and what is left of one is computed again at each request. The CPU's attention
# takes multiples of 32, and vLLM's own choice there is 128.
_CPU_BLOCK_SIZE = 32
_POLL_INTERVAL = 0.1  # seconds between two looks at whether the engine is alive
_SHUTDOWN_TIMEOUT = 5.0  # seconds an engine has to end by itself
_CLOSED = "closed"
_EXTRA_TOKENS = 2  # a path's last token may be asked for, and one is drawn behind it

_ENGINE_OPTIONS = {
    "load_format": "safetensors",
    "structured_outputs_config": vllm_protocol.STRUCTURED_OUTPUTS,
    "generation_config": "vllm",
    "enable_prefix_caching": True,
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
}

_Result = TypeVar("_Result")


class VllmEngineBackend:
    """A causal language model from a folder or the Hub, run by vLLM.

    Args:
        model: a folder as `save_pretrained` writes it, or a Hub id. Only safetensors are read.
        dtype: by default the model's own on a GPU; on the CPU bfloat16 where it computes in it, else float32.
        context_length: the context; by default what the model has.
        kv_cache_memory_bytes: bytes of the pool of keys and values that all trees share, taken at the start; by default 2 GiB on the
            CPU, and on a GPU what vLLM finds free.
        max_adapters: how many LoRA adapters may be used at once; 0 for none. With them every node is a request of its own,
            where forced tokens would else share one.
        max_rank: the highest rank an adapter may have.
        timeout: seconds in which none of its requests ends before the engine counts as down, whoever still waits; a
            text is given as much again for each 100 tokens that it may have.
        name: what results and caches call these weights, the dtype added; by default the last part of its path.
        llm_kwargs: more arguments of `vllm.LLM`, such as `tensor_parallel_size`; they win over what is chosen here.
        clock: seconds that only rise.

    Attributes:
        llm: the `vllm.LLM`, for what it does besides; another one after a restart.

    Raises:
        ModelMissingError: vLLM is not installed, or there is no such model.
        EngineError: the engine did not start.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str | None = None,
        context_length: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        max_adapters: int = 0,
        max_rank: int = 16,
        timeout: float = 60.0,
        name: str | None = None,
        llm_kwargs: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        lora = {"enable_lora": True, "max_loras": max_adapters, "max_lora_rank": max_rank} if max_adapters else {}
        self._model, self._max_rank = model, max_rank if max_adapters else 0
        self._adapter: Adapter | None = None
        self._engine = _Engine(
            Path(model).name,
            timeout,
            clock,
            lambda: {
                "model": str(model),
                "skip_tokenizer_init": _has_no_tokenizer(model),
                "max_model_len": None if context_length is None else context_length + _EXTRA_TOKENS,
                "kv_cache_memory_bytes": kv_cache_memory_bytes,
                **({} if dtype is None else {"dtype": dtype}),
                **lora,
                **(llm_kwargs or {}),
            },
        )
        config = self._engine.model_config
        self.name = self._base_name = f"{name or Path(model).name}@{str(config.dtype).removeprefix('torch.')}"
        self.vocab_size = int(config.get_vocab_size())
        self.context_length = int(config.max_model_len) - _EXTRA_TOKENS
        self.max_logprobs = vllm_protocol.MAX_LOGPROBS
        self.scores_path_tokens = not max_adapters
        self.token_bytes = TOKEN_BYTES
        self.provenance: Provenance | None = None

    @property
    def llm(self) -> Any:
        """The engine as vLLM gives it."""
        return self._engine.llm

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        """Open a tree behind U prompts; they are computed when it is first read, all in one batch."""
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Log-probabilities for each request, see `PathScorer`."""
        return self._engine.score(requests, self._adapter, deadline)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Write a text behind each prompt; the engine takes up the next as soon as one has ended."""
        check_context_length(requests, self.context_length)
        return self._engine.generate(requests, self._adapter, deadline or Deadline.never(), on_tokens)

    def with_adapter(self, folder: str | Path) -> "VllmEngineBackend":
        """The same engine under a LoRA adapter, loaded now; trees of both may be open at once.

        Raises:
            ModelMissingError: the adapter's files are missing or damaged.
            MismatchError: it was made for another model, or holds what vLLM does not serve.
            EngineError: vLLM refused it.
        """
        if not self._max_rank:
            raise InputError(f"{self.name} was started without adapters; start it with adapters=1 or more")
        other = copy.copy(self)
        other._adapter = inspect_adapter(folder, base=self._model, max_rank=self._max_rank)
        other.name = f"{self._base_name}+{other._adapter.name}"
        other.provenance = other._adapter.provenance
        self._engine.load_adapter(other._adapter)
        return other

    def unload_adapter(self) -> None:
        """Take this view's adapter out of the engine; its next tree loads it again."""
        if self._adapter is not None:
            self._engine.unload_adapter(self._adapter)

    def restart(self) -> None:
        """End the engine, if it still runs, and start another; open trees go on with it."""
        self._engine.restart()

    def close(self) -> None:
        """End the engine and give its memory back; waits for what it is asked, and for one that is being started."""
        self._engine.close()


class _Job(Generic[_Result]):
    """Work in a thread of its own.

    Attributes:
        timeout: until when something must have come of it.
        timeout_factor: as long as the patience that there is it may take.
        num_unfinished: how many requests the engine had to answer when it was last looked at.
    """

    def __init__(self, work: Callable[[], _Result], timeout: Deadline, timeout_factor: float) -> None:
        self.timeout, self.timeout_factor, self.num_unfinished = timeout, timeout_factor, 0
        self._future: Future[_Result] = Future()
        threading.Thread(target=self._execute, args=(work,), daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it is done, now or within some seconds."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> _Result:
        """What came of it, or what it raised."""
        return self._future.result()

    def _execute(self, work: Callable[[], _Result]) -> None:
        try:
            self._future.set_result(work())
        except Exception as error:  # noqa: BLE001  (raised again in the thread that asks for the answer)
            self._future.set_exception(error)


class _Engine:
    """One `vllm.LLM`, one caller at a time, and the answer to a process that died or hangs."""

    def __init__(
        self, name: str, timeout: float, clock: Callable[[], float], options: Callable[[], dict[str, Any]]
    ) -> None:
        self._name, self._timeout, self._clock, self._options = name, timeout, clock, options
        self._lock = threading.Lock()
        # Of texts that are streamed. `LLM.generate` counts its requests upwards, and takes every name for a number.
        self._request_ids = itertools.count(-1, -1)
        self._lora_ids: dict[str, int] = {}  # of adapters; vLLM tells them apart by these
        self._down_reason = ""
        self._restart_thread: threading.Thread | None = None
        self.llm = self._start()

    @property
    def model_config(self) -> Any:
        """What vLLM made of the model's configuration."""
        return self.llm.llm_engine.model_config

    def score(
        self, requests: Sequence[PathScoreRequest], adapter: Adapter | None, deadline: Deadline
    ) -> list[FloatArray]:
        from vllm import SamplingParams

        params = [SamplingParams(**vllm_protocol.scoring_params(request), flat_logprobs=True) for request in requests]
        outputs = self._generate([request.token_ids for request in requests], params, adapter, deadline, 1)
        with _checked_response():
            pairs = zip(outputs, requests, strict=True)
            return [vllm_protocol.parse_output(output, request) for output, request in pairs]

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        adapter: Adapter | None,
        deadline: Deadline,
        on_tokens: OnTokens | None,
    ) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params = []
        for request in requests:
            structured, keys = vllm_protocol.constraint_params(request)
            params.append(
                SamplingParams(
                    **vllm_protocol.generation_params(request),
                    structured_outputs=StructuredOutputsParams(**structured) if structured else None,
                    extra_args=keys or None,
                )
            )
        watch = constraint_checker(requests, on_tokens)
        times = vllm_protocol.timeout_factor(requests)
        prompts = [request.prompt.tolist() for request in requests]
        outputs = self._generate(prompts, params, adapter, deadline, times, None if on_tokens is None else watch)
        with _checked_response():
            written = [output.outputs[0] for output in outputs]
            texts = [
                vllm_protocol.parse_completion(own.token_ids, own.finish_reason, request)
                for own, request in zip(written, requests, strict=True)
            ]
        if on_tokens is None:
            for number, text in enumerate(texts):
                watch(number, text.token_ids.tolist())
        return texts

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[Any],
        adapter: Adapter | None,
        deadline: Deadline,
        timeout_factor: float,
        on_tokens: OnTokens | None = None,
    ) -> Any:
        """What vLLM answers, which is given `timeout_factor` as long as the patience that there is."""
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        lora = None if adapter is None else self._lora_request(adapter)
        if on_tokens is not None:
            return self._run(lambda: self._stream(asked, params, lora, on_tokens), deadline, timeout_factor)
        return self._run(
            lambda: self.llm.generate(asked, params, use_tqdm=False, lora_request=lora), deadline, timeout_factor
        )

    def _stream(self, prompts: Sequence[Any], params: Sequence[Any], lora: Any, on_tokens: OnTokens) -> list[Any]:
        """What `LLM.generate` does, step by step. A token that ends a text is held back, as it is no part of it."""
        engine = self.llm.llm_engine
        outputs: dict[int, Any] = {}
        asked = list(zip(prompts, params, strict=True))
        numbers: dict[str, int] = {}
        told = [0] * len(asked)
        try:
            for number, (prompt, param) in enumerate(asked):
                name = str(next(self._request_ids))
                engine.add_request(name, prompt, param, lora_request=lora)
                numbers[name] = number
            while len(outputs) < len(asked):
                for output in engine.step():
                    number, own = numbers[output.request_id], output.outputs[0]
                    stops = asked[number][1].stop_token_ids
                    new = [token for token in own.token_ids[told[number] :] if token not in stops]
                    if new:
                        on_tokens(number, new)
                    told[number] = len(own.token_ids)
                    if output.finished:
                        outputs[number] = output
        finally:
            if left := [name for name, number in numbers.items() if number not in outputs]:
                engine.abort_request(left)
        return [outputs[number] for number in range(len(asked))]

    def load_adapter(self, adapter: Adapter) -> None:
        self._run(lambda: self.llm.llm_engine.add_lora(self._lora_request(adapter)), Deadline.never())

    def unload_adapter(self, adapter: Adapter) -> None:
        self._run(lambda: self.llm.llm_engine.remove_lora(self._lora_ids[adapter.name]), Deadline.never())

    def restart(self) -> None:
        self.close()
        with self._lock:
            self.llm, self._down_reason = self._start(), ""

    def close(self) -> None:
        with self._lock:
            self._down_reason = _CLOSED
            _shut_down(self.llm)
        if self._restart_thread is not None:  # nobody starts another one any more; who has begun ends what they started
            self._restart_thread.join()

    def _restart_in_background(self) -> None:
        """Start another engine beside the callers, who get an error at once until it is there."""
        _shut_down(self.llm)
        llm, down = self.llm, ""
        try:
            llm = self._start()
        except EngineError as error:  # the next caller reads it, and has it tried again
            down = str(error)
        with self._lock:
            if self._down_reason == _CLOSED:
                _shut_down(llm)
            else:
                self.llm, self._down_reason = llm, down

    def _start(self) -> Any:
        try:
            with vllm_protocol.engine_environment():
                import torch
                from vllm import LLM
                from vllm.platforms import current_platform

                from genrec.backends.precision import native_dtype

                options = self._options()
                if current_platform.is_cpu():
                    dtype = native_dtype(torch.device("cpu"))
                    options = {"dtype": dtype, "enforce_eager": True, "block_size": _CPU_BLOCK_SIZE, **options}
                    options["kv_cache_memory_bytes"] = options["kv_cache_memory_bytes"] or _CPU_KV_CACHE_BYTES
                return LLM(**{**_ENGINE_OPTIONS, **options})
        except ImportError as error:
            raise ModelMissingError(f"vLLM cannot be loaded: {error}; run: pip install 'genrec[vllm]'") from error
        except (OSError, ValueError) as error:
            raise ModelMissingError(f"vLLM cannot load the model {self._name!r}: {error}") from error
        except Exception as error:  # vLLM raises its own, and RuntimeError
            raise EngineError(f"vLLM did not start with the model {self._name!r}: {error}") from error

    def _lora_request(self, adapter: Adapter) -> Any:
        from vllm.lora.request import LoRARequest

        number = self._lora_ids.setdefault(adapter.name, len(self._lora_ids) + 1)
        return LoRARequest(adapter.name, number, str(adapter.folder))

    def _run(self, work: Callable[[], _Result], deadline: Deadline, timeout_factor: float = 1) -> _Result:
        """Do something with the engine in a thread, so that what never returns can be left.

        vLLM's client waits without end for a process that was killed. Who leaves early leaves the lock to a thread that
        sees the work through: until then nobody else may ask the engine, and it may yet turn out to be down.
        """
        with ExitStack() as held:
            held.enter_context(deadline.acquire(self._lock))
            if self._down_reason:
                raise self._mark_down(self._down_reason)
            job = _Job(work, self._new_timeout(timeout_factor), timeout_factor)
            try:
                return self._wait_for(job, deadline)
            except BaseException:  # the caller's time is up, or a signal's handler raised
                if not (job.wait(0) or self._down_reason):
                    threading.Thread(target=self._finish_in_background, args=(job, held.pop_all()), daemon=True).start()
                raise

    def _wait_for(self, job: "_Job[_Result]", deadline: Deadline) -> _Result:
        """Wait for an answer, unless the caller's time or the engine's is up, or its process ended."""
        core = self.llm.llm_engine.engine_core
        while not job.wait(min(_POLL_INTERVAL, max(0.0, deadline.remaining()))):
            if core.resources.engine_dead:
                raise self._mark_down("its process ended")
            if (unfinished := self.llm.llm_engine.get_num_unfinished_requests()) != job.num_unfinished:
                job.num_unfinished, job.timeout = unfinished, self._new_timeout(job.timeout_factor)
            if job.timeout.remaining() < 0:
                raise self._mark_down(f"it did not answer within {self._timeout * job.timeout_factor:g} s")
            deadline.check()
        try:
            return job.result()
        except Exception as error:
            if core.resources.engine_dead:
                raise self._mark_down("its process ended") from error
            raise EngineError(f"vLLM failed with the model {self._name!r}: {error}") from error

    def _new_timeout(self, timeout_factor: float) -> Deadline:
        return Deadline(self._clock() + self._timeout * timeout_factor, self._clock)

    def _finish_in_background(self, job: "_Job[Any]", lock_stack: ExitStack) -> None:
        with lock_stack, suppress(EngineError):
            self._wait_for(job, Deadline.never())

    def _mark_down(self, reason: str) -> EngineError:
        """What to raise of an engine that is down; one that was not closed is started again meanwhile."""
        self._down_reason = reason
        if reason == _CLOSED:
            return EngineError(f"the engine of {self._name!r} was closed; call restart()")
        if self._restart_thread is None or not self._restart_thread.is_alive():
            self._restart_thread = threading.Thread(target=self._restart_in_background, daemon=True)
            self._restart_thread.start()
        return EngineError(f"the engine of {self._name!r} is down: {reason}; another one is being started")


@contextmanager
def _checked_response() -> Iterator[None]:
    """Read what vLLM answered."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"vLLM answered otherwise than versions 0.25 to 0.32 do: {error}; install one of these"
        ) from error


def _has_no_tokenizer(model: str | Path) -> bool:
    """Whether a folder holds no tokenizer: without one, texts can be held to no schema, and all else goes on."""
    return Path(model).is_dir() and not (Path(model) / "tokenizer.json").is_file()


def _shut_down(llm: Any) -> None:
    with suppress(Exception):  # a process that died is not there to be ended
        llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_TIMEOUT)
