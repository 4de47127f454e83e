"""The weights of a LoRA adapter, read into a model that has its layers. PEFT only warns of what is missing."""

import warnings
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from genrec.errors import MismatchError, ModelMissingError, format_error

_WEIGHTS = "adapter_model.safetensors"
_REMEDY = "copy the whole folder again, or train or save the adapter again"


def load_adapter_weights(model: Any, folder: Path) -> None:
    """Read the weights of an adapter.

    Args:
        model: a `peft.PeftModel` with one LoRA adapter.
        folder: has `adapter_model.safetensors`.

    Raises:
        ModelMissingError: the file is missing or damaged.
        MismatchError: the file lacks a weight of the adapter's layers, has one in another shape, or has one of a layer
            that the adapter does not change.
    """
    try:
        weights = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelMissingError(f"cannot read {folder / _WEIGHTS}: {format_error(error)}", remedy=_REMEDY) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes, which are checked below
        result: tuple[list[str], list[str]] = set_peft_model_state_dict(model, weights, ignore_mismatched_sizes=True)
    missing_keys, unexpected_keys = map(set, result)
    expected = [name for name, _ in model.named_parameters() if ".lora_" in name]
    missing = [name for name in expected if name in missing_keys]
    if missing:
        raise MismatchError(
            f"the adapter in {folder} lacks {len(missing):,} of {len(expected):,} LoRA weights, or has them in other "
            f"shapes than its configuration says; the first is {_name_in_file(missing[0])}",
            remedy=_REMEDY,
            code="weights_missing",
        )
    if unexpected_keys:
        raise MismatchError(
            f"the adapter in {folder} has {len(unexpected_keys):,} weights of layers that its configuration "
            f"does not name or the model does not have; the first is {_name_in_file(min(unexpected_keys))}",
            remedy=_REMEDY,
            code="weights_missing",
        )


def _name_in_file(name: str) -> str:
    return name.replace(".default.", ".")
