"""The model that learns: its weights as they are, and beside them what is learned."""

import json
import tempfile
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.config import TrainConfig
from genrec import read_template
from genrec.backends.adapter import inspect_adapter
from genrec.backends.attention import use_packed_attention
from genrec.backends.precision import default_device, native_dtype
from genrec.errors import MismatchError

_SHAPE_KEYS = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")  # of a configuration of PEFT's


def open_model(config: TrainConfig, weights: Path) -> PeftModel:
    """The model with an adapter that changes nothing yet, or as `config.start` left it.

    Raises:
        MismatchError: what would come out is nothing that the engines serve, or `config.start` is of another kind.
    """
    kind = native_dtype(default_device())
    base = AutoModelForCausalLM.from_pretrained(weights, dtype=kind, attn_implementation="sdpa", use_safetensors=True)
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
        held, own = load_file(Path(config.start) / "adapter_model.safetensors"), get_peft_model_state_dict(model)
        if held.keys() != own.keys():
            name = sorted(held.keys() ^ own.keys())[0]
            raise MismatchError(f"{name} is not in both {config.start} and this run; go on with the layers it has")
        set_peft_model_state_dict(model, held)
    return model


def _check_start(start: Path, config: TrainConfig, weights: Path, expected: dict[str, Any]) -> None:
    told, theirs = inspect_adapter(start, base=weights).provenance, _read_shape(start)
    for name in _SHAPE_KEYS:
        if expected[name] != theirs[name]:
            raise MismatchError(
                f"the {name} of {start} is {theirs[name]}, and {expected[name]} here; go on with its own"
            )
    if told is not None:
        kinds = {key: (told.config.get(key), getattr(config, key)) for key in ("identifiers", "levels", "width")}
        for key, (was, now) in kinds.items():
            if was != now:
                raise MismatchError(f"{start} was trained with {key} = {was!r}, not {now!r}; go on with its own")
        if differs := told.mismatches(template=read_template(config.template).fingerprint):
            raise MismatchError(f"{differs[0]}; go on with the template that {start} was trained with")


def _read_shape(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return {name: told.get(name) or None for name in _SHAPE_KEYS}
