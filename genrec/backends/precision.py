"""The device and the number type of a model."""

import numpy as np
import torch

from genrec.errors import EngineError
from genrec.types import FloatArray, IntArray


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def available_devices() -> list[str]:
    """The devices of this machine, as torch names them."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if accelerator is None else torch.accelerator.device_count()
    return ["cpu", *(f"{accelerator.type}:{number}" for number in range(count) if accelerator is not None)]


def find_device(name: str | None) -> torch.device:
    """The device of a name; None for the default.

    Raises:
        EngineError: this machine has no such device.
    """
    if name is None:
        return default_device()
    devices = available_devices()
    if name not in devices and f"{name}:0" not in devices:
        raise EngineError(
            f"device {name!r} is not on this machine", remedy=f"use one of {', '.join(devices)}", code="device_missing"
        )
    return torch.device(name)


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the hardware supports it; otherwise float32, which is then faster and more precise."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # The flag has no public name; without it a CPU emulates bfloat16.
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32


def log_probs_agree(
    actual: FloatArray, expected: FloatArray, dtype: torch.dtype, *, float32_tolerance: float = 1e-3
) -> bool:
    """Whether two computations of the same log-probabilities differ by rounding only.

    Args:
        actual, expected: the log-probabilities, in nats; of the same shape.
        dtype: of the model. In less than float32 the tolerance is 0.1.
        float32_tolerance: the largest difference, relative to the standard deviation of `expected`.
    """
    tolerance = float32_tolerance if dtype in (torch.float32, torch.float64) else 0.1
    return float(np.abs(actual - expected).max()) < tolerance * max(float(expected.std()), 0.1)  # False for NaN


def probe_tokens(count: int, vocab_size: int) -> IntArray:
    """Tokens for trial passes, int64 [count], spread over the vocabulary.

    The first ids are control tokens in most vocabularies. Behind several of them a model's states are so large that
    two correct computations differ by more than the usual rounding: SmolLM2 in float32 by 2e-3 nats.
    """
    golden_ratio = (5**0.5 - 1) / 2
    return (np.arange(1, count + 1) * golden_ratio % 1 * vocab_size).astype(np.int64)
