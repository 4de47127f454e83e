"""Weights through Transformers: safetensors only, none of them made up, and without code that a model brings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from genrec.backends.model_name import model_name
from genrec.backends.quantization import quantization_method
from genrec.backends.quiet import load_report_disabled, progress_bars_disabled
from genrec.errors import ModelMissingError, format_error

_GOOD_FILES = "give a folder with config.json and weights as safetensors, or fetch the model again"
_WHOLE_FILES = "download or copy all of its files again, or choose another model"
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
        ModelMissingError: the model does not exist or is damaged, its files lack weights that a text passes through or
            have them in other shapes, or it needs code and `trust_remote_code` is false.
    """
    try:
        with progress_bars_disabled(), load_report_disabled():
            loaded, info = auto_class.from_pretrained(
                str(model),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # `_check_weights` names them
                output_loading_info=True,
                **options,
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
    _check_weights(loaded, info, model)
    return loaded


def _check_weights(loaded: Any, info: Mapping[str, Any], model: str | Path) -> None:
    """Check that the files had every weight that is used; Transformers makes up the others and only warns."""
    used = _used_weights(loaded)
    missing = [name for name in used if name in info["missing_keys"]]
    shapes = {name: (list(found), list(expected)) for name, found, expected in info["mismatched_keys"] if name in used}
    name = model_name(model)
    if missing:
        raise ModelMissingError(
            f"the files of the model {name!r} in {model} lack {len(missing):,} of its {len(used):,} weights, the first "
            f"is {missing[0]}",
            remedy=_WHOLE_FILES,
            code="weights_missing",
        )
    if shapes:
        first = next(name for name in used if name in shapes)
        found, expected = shapes[first]
        raise ModelMissingError(
            f"{len(shapes):,} of the {len(used):,} weights of the model {name!r} in {model} have another shape than "
            f"its config.json says, the first is {first}: {found}, not {expected}",
            remedy=_WHOLE_FILES,
            code="weights_missing",
        )


def _used_weights(loaded: Any) -> list[str]:
    """The names of the parameters and learned buffers that a text passes through, in order.

    These are the decoder's and the output layer's. So a multimodal model needs no vision part, and an encoder no
    pooler. A buffer that `save_pretrained` writes may be learned, such as the bias by which experts are chosen; those
    of integers are counted, such as positions. A tied weight is read once.
    """
    pooler = getattr(loaded, "pooler", None)
    unused = set() if pooler is None else {id(tensor) for tensor in _tensors(pooler).values()}
    parts = [part for part in (loaded.get_decoder(), loaded.get_output_embeddings()) if part is not None]
    used = {id(tensor) for part in parts for tensor in _tensors(part).values()} - unused
    saved = loaded.state_dict().keys()
    parameters = {name for name, _ in loaded.named_parameters()}
    return [
        name
        for name, tensor in _tensors(loaded).items()
        if id(tensor) in used and (name in parameters or (name in saved and tensor.is_floating_point()))
    ]


def _tensors(module: Any) -> dict[str, Any]:
    """The parameters of a module, and then its buffers, each once."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def causal_model_class(model: str | Path) -> Any:
    """The class of Transformers that loads a language model; of a model for images and text only the text is used.

    Raises:
        ModelMissingError: models of this architecture write no text.
    """
    try:
        content, _ = PreTrainedConfig.get_config_dict(str(model))
        config = CONFIG_MAPPING[content["model_type"]]
    except (OSError, ValueError, LookupError, TypeError):
        return AutoModelForCausalLM  # which reports what is wrong with the model
    if config in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if config not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and "auto_map" not in content:
        raise ModelMissingError(
            f"the model {model_name(model)!r} in {model} has the model_type {content['model_type']!r}, which is not a "
            "causal language model",
            remedy="choose an instruction-tuned LLM",
        )
    return AutoModelForImageTextToText


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
