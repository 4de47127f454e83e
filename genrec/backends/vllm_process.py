"""A vLLM engine in a process of its own: started, watched, and restarted when it dies or hangs.

Source of the engine: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from typing import Any, Generic, TypeVar

from genrec.backends import vllm_protocol
from genrec.deadline import Deadline
from genrec.errors import EngineError, ModelMissingError, format_error

_CPU_KV_CACHE_BYTES = 2 << 30
# In tokens. The cache holds whole blocks; the tokens of a partial block are recomputed for each request. Attention on
# the CPU needs a multiple of 32, and vLLM would choose 128 there.
_CPU_BLOCK_SIZE = 32
_POLL_INTERVAL = 0.1  # seconds between two checks that the engine is alive
_SHUTDOWN_TIMEOUT = 5.0  # seconds an engine has to shut down by itself
_CLOSED = "closed"

_ENGINE_OPTIONS = {
    "load_format": "safetensors",
    "trust_remote_code": False,
    "structured_outputs_config": vllm_protocol.STRUCTURED_OUTPUTS,
    "generation_config": "vllm",
    "enable_prefix_caching": True,
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
}

_Result = TypeVar("_Result")


class EngineProcess:
    """One `vllm.LLM`, used by one caller at a time.

    An engine whose process ended, or which made no progress within the timeout, counts as down: its callers get an
    `EngineError` at once, and another engine is started in the background.

    Args:
        name: the model's name, for error messages.
        timeout: seconds without progress after which the engine counts as down.
        clock: a monotonic clock, in seconds.
        options: arguments of `vllm.LLM`; they override the defaults of this module.

    Attributes:
        llm: the running `vllm.LLM`; a restart replaces it.

    Raises:
        ModelMissingError: vLLM is not installed, or the model does not exist.
        EngineError: the engine did not start.
    """

    def __init__(self, name: str, timeout: float, clock: Callable[[], float], options: Mapping[str, Any]) -> None:
        self._name, self._timeout, self._clock, self._options = name, timeout, clock, options
        self._lock = threading.Lock()
        self._down_reason = ""
        self._restart_thread: threading.Thread | None = None
        self.llm = _start_llm(name, options)

    def run(self, work: Callable[[], _Result], deadline: Deadline, timeout_factor: float = 1) -> _Result:
        """Run a call to the engine, and return its result.

        The call runs in a thread, because vLLM's client waits forever for a process that was killed. A caller whose
        deadline passes leaves the lock to a background thread, which waits until the engine has finished: until then
        no other caller can use the engine, and it may still turn out to be down.

        Args:
            work: the call.
            deadline: when the caller stops waiting, for the engine or for its turn.
            timeout_factor: multiplies the timeout for this call.

        Raises:
            EngineError: the call failed, or the engine is down or closed.
            DeadlineExceededError: the deadline has passed.
        """
        with ExitStack() as held:
            held.enter_context(deadline.acquire(self._lock))
            if self._down_reason:
                raise self._mark_down(self._down_reason)
            call = _EngineCall(work, self._new_timeout(timeout_factor), timeout_factor)
            try:
                return self._wait_for(call, deadline)
            except BaseException:  # the deadline has passed, or a signal handler raised
                if not (call.wait(0) or self._down_reason):
                    thread = threading.Thread(
                        target=self._finish_in_background, args=(call, held.pop_all()), daemon=True
                    )
                    thread.start()
                raise

    def restart(self) -> None:
        """Stop the engine, if it is still running, and start another."""
        self.close()
        with self._lock:
            self.llm, self._down_reason = _start_llm(self._name, self._options), ""

    def close(self) -> None:
        """Stop the engine and free its memory, after the running call and any restart have ended."""
        with self._lock:
            self._down_reason = _CLOSED
            _shut_down(self.llm)
        if self._restart_thread is not None:  # a closed engine is not restarted, and this thread stops what it started
            self._restart_thread.join()

    def _wait_for(self, call: "_EngineCall[_Result]", deadline: Deadline) -> _Result:
        """Wait for a result until the caller's deadline, the engine's timeout, or the end of its process."""
        core = self.llm.llm_engine.engine_core
        while not call.wait(min(_POLL_INTERVAL, max(0.0, deadline.remaining()))):
            if core.resources.engine_dead:
                raise self._mark_down("its process ended")
            if (unfinished := self.llm.llm_engine.get_num_unfinished_requests()) != call.num_unfinished:
                call.num_unfinished, call.timeout = unfinished, self._new_timeout(call.timeout_factor)
            if call.timeout.remaining() < 0:
                raise self._mark_down(f"it did not answer within {self._timeout * call.timeout_factor:g} s")
            deadline.check()
        try:
            return call.result()
        except Exception as error:
            if core.resources.engine_dead:
                raise self._mark_down("its process ended") from error
            raise EngineError(f"vLLM failed with the model {self._name!r}: {error}") from error

    def _new_timeout(self, timeout_factor: float) -> Deadline:
        return Deadline(self._clock() + self._timeout * timeout_factor, self._clock)

    def _finish_in_background(self, call: "_EngineCall[Any]", lock_stack: ExitStack) -> None:
        with lock_stack, suppress(EngineError):
            self._wait_for(call, Deadline.never())

    def _mark_down(self, reason: str) -> EngineError:
        """Record that the engine is down, start another unless it was closed, and return the error to raise."""
        self._down_reason = reason
        if reason == _CLOSED:
            return EngineError(f"the engine of {self._name!r} was closed; call restart()")
        if self._restart_thread is None or not self._restart_thread.is_alive():
            self._restart_thread = threading.Thread(target=self._restart_in_background, daemon=True)
            self._restart_thread.start()
        return EngineError(f"the engine of {self._name!r} is down: {reason}; it is being restarted, so try again later")

    def _restart_in_background(self) -> None:
        """Start another engine while callers get an error at once."""
        _shut_down(self.llm)
        llm, down = self.llm, ""
        try:
            llm = _start_llm(self._name, self._options)
        except EngineError as error:  # the next caller gets this error and triggers another attempt
            down = str(error)
        with self._lock:
            if self._down_reason == _CLOSED:
                _shut_down(llm)
            else:
                self.llm, self._down_reason = llm, down


class _EngineCall(Generic[_Result]):
    """A call to the engine, in a thread of its own.

    Attributes:
        timeout: when the engine counts as down if it makes no progress.
        timeout_factor: multiplies the engine's timeout for this call.
        num_unfinished: how many requests were unfinished at the last check; a change is progress.
    """

    def __init__(self, work: Callable[[], _Result], timeout: Deadline, timeout_factor: float) -> None:
        self.timeout, self.timeout_factor, self.num_unfinished = timeout, timeout_factor, 0
        self._future: Future[_Result] = Future()
        threading.Thread(target=self._execute, args=(work,), daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait up to some seconds; returns whether the call has ended."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> _Result:
        """The call's result; raises what the call raised."""
        return self._future.result()

    def _execute(self, work: Callable[[], _Result]) -> None:
        try:
            self._future.set_result(work())
        except Exception as error:  # noqa: BLE001  (raised again in the thread that reads the result)
            self._future.set_exception(error)


def _start_llm(name: str, options: Mapping[str, Any]) -> Any:
    try:
        with vllm_protocol.engine_environment():
            import torch
            from vllm import LLM
            from vllm.platforms import current_platform
            from vllm.triton_utils import HAS_TRITON

            from genrec.backends.precision import native_dtype
            from genrec.backends.vllm_support import check_adapter_support

            if options.get("enable_lora"):
                check_adapter_support(options["model"], has_triton=HAS_TRITON)
            options = dict(options)
            if current_platform.is_cpu():
                dtype = native_dtype(torch.device("cpu"))
                options = {"dtype": dtype, "enforce_eager": True, "block_size": _CPU_BLOCK_SIZE, **options}
                options["kv_cache_memory_bytes"] = options["kv_cache_memory_bytes"] or _CPU_KV_CACHE_BYTES
            return LLM(**{**_ENGINE_OPTIONS, **options})
    except EngineError:
        raise
    except ImportError as error:
        raise ModelMissingError(f"vLLM cannot be loaded: {error}; run: pip install 'genrec[vllm]'") from error
    except Exception as error:  # vLLM raises exceptions of its own, ValueError, OSError and RuntimeError
        raise _explain_start(name, options["model"], error) from error


def _explain_start(name: str, model: str, error: Exception) -> EngineError:
    from genrec.backends.vllm_support import explain_missing_torchvision

    if isinstance(error, OSError | ValueError):
        return explain_missing_torchvision(model) or ModelMissingError(
            f"vLLM cannot load the model {name!r}: {format_error(error)}"
        )
    return EngineError(f"vLLM did not start with the model {name!r}: {format_error(error)}")


def _shut_down(llm: Any) -> None:
    with suppress(Exception):  # the process may have ended already
        llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_TIMEOUT)
