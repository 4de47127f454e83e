"""The model to train: frozen weights, and a LoRA adapter."""

import json
import tempfile
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.config import TrainConfig
from genrec import read_template
from genrec.backends import default_device, inspect_adapter, load_pretrained, native_dtype, use_packed_attention
from genrec.errors import MismatchError

_SHAPE_KEYS = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")  # in a PEFT configuration


def open_model(config: TrainConfig, weights: Path) -> PeftModel:
    """Load the model with a new adapter, which changes nothing yet, or with the adapter `config.start`.

    Raises:
        MismatchError: engines could not serve the result, or `config.start` has another shape, template or identifiers.
    """
    kind = native_dtype(default_device())
    base = load_pretrained(
        AutoModelForCausalLM,
        weights,
        trust_remote_code=config.trust_remote_code,
        dtype=kind,
        attn_implementation="sdpa",
    )
    use_packed_attention(base)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        inspect_adapter(folder, base=weights, max_rank=config.max_rank)
        if config.start is not None:
            _check_start(Path(config.start), config, weights, _read_shape(Path(folder)))
    if config.start is not None:
        saved, own = load_file(Path(config.start) / "adapter_model.safetensors"), get_peft_model_state_dict(model)
        if saved.keys() != own.keys():
            name = sorted(saved.keys() ^ own.keys())[0]
            raise MismatchError(
                f"{name} is not in both {config.start} and this run; continue with the layers of that adapter"
            )
        set_peft_model_state_dict(model, saved)
    return model


def _check_start(start: Path, config: TrainConfig, weights: Path, expected: dict[str, Any]) -> None:
    provenance, existing = inspect_adapter(start, base=weights).provenance, _read_shape(start)
    for name in _SHAPE_KEYS:
        if expected[name] != existing[name]:
            raise MismatchError(
                f"{name} of {start} is {existing[name]}, not {expected[name]}; set it to {existing[name]}"
            )
    if provenance is not None:
        for key in ("identifiers", "levels", "width"):
            before, now = provenance.config.get(key), getattr(config, key)
            if before != now:
                raise MismatchError(f"{start} was trained with {key} = {before!r}, not {now!r}; set it to {before!r}")
        if mismatches := provenance.mismatches(template=read_template(config.template).fingerprint):
            raise MismatchError(f"{mismatches[0]}; use the template that {start} was trained with")


def _read_shape(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return {name: config.get(name) or None for name in _SHAPE_KEYS}
