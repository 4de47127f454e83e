"""Quantised models: the method that a model's own configuration names, and the package that it needs.

Transformers reads `quantization_config` and loads such models by itself; without the package it fails late.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig, __version__
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from genrec.backends.model_name import model_name
from genrec.errors import MismatchError, ModelMissingError, missing_packages

# Packages of the package index by the method, as Transformers' quantizers ask for them.
_PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bitsandbytes": ("bitsandbytes", "accelerate"),
        "gptq": ("gptqmodel", "optimum"),
        "awq": ("gptqmodel", "accelerate"),
        "compressed-tensors": ("compressed-tensors",),
        "torchao": ("torchao",),
        "fp8": ("accelerate",),
        "fbgemm_fp8": ("fbgemm-gpu-genai", "accelerate"),
        "mxfp4": ("kernels", "accelerate"),
        "auto-round": ("auto-round",),
        "hqq": ("hqq",),
        "quanto": ("optimum-quanto",),
        "aqlm": ("aqlm",),
        "eetq": ("kernels",),
        "vptq": ("vptq",),
    }
)
_MODULES: Mapping[str, str] = MappingProxyType({"fbgemm-gpu-genai": "fbgemm_gpu", "optimum-quanto": "optimum.quanto"})


def quantization_method(model: str | Path) -> str | None:
    """How the weights of a model are quantised, by its configuration; None if they are not."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(str(model))
    except (OSError, ValueError):
        return None  # loading it tells what is wrong
    text = content.get("text_config")
    settings: Any = content.get("quantization_config") or (text if isinstance(text, dict) else {}).get(
        "quantization_config"
    )
    if not isinstance(settings, dict):
        return None
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"
    return None if method is None else str(method)


def check_quantization(model: str | Path, method: str, adapter: object) -> None:
    """Check that a quantised model can be loaded, before its weights are.

    Raises:
        ModelMissingError: a package of the method is not installed, or Transformers does not know the method, and would
            read the packed numbers as weights.
        MismatchError: an adapter would have to be merged into the quantised weights.
    """
    name = model_name(model)
    if adapter is not None:
        raise MismatchError(
            f"the model {str(model)!r} is quantised ({method}), and the adapter {str(adapter)!r} cannot be merged into "
            "such weights",
            remedy="name the model that was quantised, or run it with the engine vllm",
        )
    missing = missing_packages(_PACKAGES.get(method, ()), _MODULES)
    if missing:
        raise ModelMissingError(
            f"the model {name!r} in {model} is quantised ({method}), which needs {' and '.join(missing)}",
            remedy=f"run: pip install {' '.join(missing)}",
            code="package_missing",
        )
    if not any(known == method or known.startswith(f"{method}_") for known in AUTO_QUANTIZATION_CONFIG_MAPPING):
        raise ModelMissingError(
            f"the model {name!r} in {model} is quantised ({method}), which Transformers {__version__} does not support",
            remedy=f"install a version of Transformers that supports {method}, or choose a model that is not quantised",
        )
