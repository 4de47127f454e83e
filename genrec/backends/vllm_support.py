"""What vLLM cannot run in this environment, named; vLLM itself fails late there, in a process of its own."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from genrec.errors import EngineError, ModelMissingError

_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # in configurations


def check_adapter_support(model: str | Path, *, has_triton: bool) -> None:
    """Check that vLLM can serve a model with LoRA adapters; its layer for adapters of experts is written in Triton.

    Args:
        model: a folder or a Hub id.
        has_triton: whether Triton works in this environment; it does not in vLLM's CPU build.

    Raises:
        EngineError: the model is a mixture of experts, and Triton does not work.
    """
    if has_triton or not has_experts(model):
        return
    raise EngineError(
        f"vLLM cannot run adapters of {str(model)!r} here, because the model is a mixture of experts, whose "
        "adapters need Triton, which does not support this device",
        remedy="use the engine transformers, run vLLM on a GPU, or serve the model without an adapter",
        code="adapters_unsupported",
    )


def has_experts(model: str | Path) -> bool:
    """Whether a model is a mixture of experts, by its configuration."""
    content = _read_config(model)
    sizes = [part.get(name) for part in (content, content.get("text_config") or {}) for name in _NUM_EXPERTS]
    return any(isinstance(size, int) and size > 1 for size in sizes)


def explain_missing_torchvision(model: str | Path) -> ModelMissingError | None:
    """The error for a multimodal model that vLLM did not load because torchvision is missing; None for another cause.

    vLLM reads the code for images even if only texts are sent.
    """
    content = _read_config(model)
    if "vision_config" not in content or find_spec("torchvision") is not None:
        return None
    return ModelMissingError(
        f"vLLM cannot load the model {str(model)!r}: it is multimodal, and its code for images needs "
        "torchvision, which is not installed",
        remedy="install the build of torchvision that belongs to the installed torch, or use the engine transformers",
        code="package_missing",
    )


def _read_config(model: str | Path) -> Mapping[str, Any]:
    try:
        content, _ = PreTrainedConfig.get_config_dict(str(model))
    except (OSError, ValueError):
        return {}  # loading it tells what is wrong
    return content
