"""Where a model is computed by default, and in what number type."""

import torch


def default_device() -> torch.device:
    """The GPU that torch sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it; elsewhere it would be slower than float32 and less exact."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # The flag has no public name; without it a CPU emulates bfloat16.
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32
