"""The default device and number type of a model."""

import torch


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the hardware supports it; otherwise float32, which is then faster and more precise."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # The flag has no public name; without it a CPU emulates bfloat16.
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32
