"""Weights through Transformers: safetensors only, without progress bars, and without code that a model brings."""

import json
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from genrec.backends.model_name import model_name
from genrec.backends.quantization import quantization_method
from genrec.backends.quiet import progress_bars_disabled
from genrec.errors import ModelMissingError, format_error

_GOOD_FILES = "give a folder with config.json and weights as safetensors, or fetch the model again"
_GOOD_DEVICE = "use a device and a version of its package that support {method}, or a model that is not quantised"


def load_pretrained(auto_class: Any, model: str | Path, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a model. Transformers asks on standard input whether to run a model's code; this function never asks.

    Args:
        auto_class: a class of Transformers such as `AutoModelForCausalLM`.
        model: a folder that `save_pretrained` wrote, or a Hub id.
        trust_remote_code: run Python code of the model, if Transformers has no class for it. The code can do everything
            that this process can do.
        options: passed to `from_pretrained`.

    Raises:
        ModelMissingError: the model does not exist or is damaged, or it needs code and `trust_remote_code` is false.
    """
    try:
        with progress_bars_disabled():
            return auto_class.from_pretrained(
                str(model), use_safetensors=True, trust_remote_code=trust_remote_code, **options
            )
    except Exception as error:  # safetensors, torch and Transformers raise exceptions of their own
        name, method = model_name(model), quantization_method(model)
        if not trust_remote_code and _needs_own_code(Path(model)):
            raise ModelMissingError(
                f"cannot load the model {name!r}: it needs the Python code in {model}, which is not run by default",
                remedy="read that code, and set trust_remote_code (--trust-remote-code) if you trust it",
                code="untrusted_code",
            ) from error
        raise ModelMissingError(
            f"cannot load the model {name!r} from {model}: {format_error(error)}",
            remedy=_GOOD_FILES if method is None else _GOOD_DEVICE.format(method=method),
        ) from error


def causal_model_class(model: str | Path) -> Any:
    """The class of Transformers that loads a language model; of a model for images and text only the text is used."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(str(model))
        config = CONFIG_MAPPING[content["model_type"]]
    except (OSError, ValueError, LookupError, TypeError):
        return AutoModelForCausalLM  # which reports what is wrong with the model
    return AutoModelForCausalLM if config in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText


def vocabulary_size(model: str | Path) -> int | None:
    """The number of tokens of a language model by its configuration; None if that does not state it."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(str(model))
        size = content.get("vocab_size") or content["text_config"]["vocab_size"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return size if isinstance(size, int) else None


def _needs_own_code(folder: Path) -> bool:
    """Whether a folder names classes of its own for an architecture that Transformers does not have."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    except (OSError, ValueError, TypeError, AttributeError):
        return False
