"""The model to train: frozen weights, and a LoRA adapter."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from finetune.config import TrainConfig
from finetune.forward import TreeLayout, compute_log_probs, pack_examples
from genrec import read_template
from genrec.backends import (
    UNSUPPORTED_ERRORS,
    attention_window,
    causal_model_class,
    default_device,
    inspect_adapter,
    load_adapter_weights,
    load_pretrained,
    log_probs_agree,
    masked_attentions,
    native_dtype,
    probe_tokens,
    trainable_layers,
)
from genrec.errors import EngineError, InputError, MismatchError, ModelMissingError
from genrec.index import TrainingExample
from genrec.types import FloatArray

_SHAPE_KEYS = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")  # in a PEFT configuration


def open_model(config: TrainConfig, weights: Path, *, dtype: torch.dtype | None = None) -> tuple[PeftModel, TreeLayout]:
    """Load the model with a new adapter, which changes nothing yet, or with the adapter `config.start`.

    Args:
        config: the configuration of the run.
        weights: the folder of the model.
        dtype: of the weights; by default that of the device.

    Returns:
        The model, and how training trees are laid out for it.

    Raises:
        InputError: `config.target_modules` names no linear layer.
        MismatchError: engines could not serve the result, or `config.start` has another shape, template or identifiers.
    """
    base = load_pretrained(
        causal_model_class(weights),
        weights,
        trust_remote_code=config.trust_remote_code,
        dtype=dtype or native_dtype(default_device()),
    )
    layout = find_layout(base)
    model = _add_adapter(base, config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        inspect_adapter(folder, base=weights, max_rank=config.max_rank)
        if config.start is not None:
            _check_start(Path(config.start), config, weights, _read_shape(Path(folder)))
    if config.start is not None:
        saved = load_file(Path(config.start) / "adapter_model.safetensors")
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        if saved.keys() != own.keys():
            name = sorted(saved.keys() ^ own.keys())[0]
            raise MismatchError(
                f"{name} is not in both {config.start} and this run; continue with the layers of that adapter"
            )
        set_peft_model_state_dict(model, saved)
    return model, layout


def find_layout(model: Any) -> TreeLayout:
    """Find the fastest layout of training trees that gives the log-probabilities of whole paths.

    A layer that ignores the mask, such as a recurrent one, would let a title read the other titles of its tree. So the
    layouts are compared on two trees, as a backend compares its own.

    Args:
        model: a causal language model; its attention is switched to one that takes packed tokens, if that works.
    """
    paths = TreeLayout("paths")
    try:
        window = attention_window(model.config)
    except EngineError:
        return paths  # a layer keeps a state, which has no mask
    expected = _probe(model, paths)
    for _ in masked_attentions(model):
        for layout in (TreeLayout("packed", window), TreeLayout("padded", window)):
            with suppress(*UNSUPPORTED_ERRORS, RuntimeError, ValueError):
                if log_probs_agree(_probe(model, layout), expected, model.dtype):
                    return layout
    return paths


def _probe(model: Any, layout: TreeLayout) -> FloatArray:
    """The log-probabilities of the tokens of two small trees, each with two items of two tokens behind its prompt."""
    none, ids = (
        np.empty(0, dtype=np.int64),
        probe_tokens(32, int(model.config.get_text_config(decoder=True).vocab_size)),
    )
    trees = [
        TrainingExample(
            token_ids=ids[first : first + prompt + 4],
            parents=np.array([*range(-1, prompt + 1), prompt - 1, prompt + 2]),
            positions=np.array([*range(prompt + 2), prompt, prompt + 1]),
            item_indices=np.array([0, 1]),
            item_targets=np.array([0, 0]),
            item_tokens=np.arange(prompt, prompt + 4),
            token_items=np.array([0, 0, 1, 1]),
            branch_points=none,
            branch_offsets=np.zeros(1, dtype=np.int64),
            branch_tokens=none,
        )
        for first, prompt in ((1, 3), (20, 8))
    ]
    with torch.inference_mode():
        packed = {name: tensor.to(model.device) for name, tensor in pack_examples(trees, [True, True], layout).items()}
        result: FloatArray = compute_log_probs(model.eval(), packed).item_tokens.double().cpu().numpy()
    return result


def check_checkpoint(model: PeftModel, checkpoint: Path) -> None:
    """Check that a checkpoint has all weights of the adapter; the trainer only warns of missing ones, and goes on.

    Raises:
        ModelMissingError: the weights of the checkpoint are damaged.
        MismatchError: it lacks a weight of the adapter, has one in another shape, or has one of another layer.
    """
    try:
        load_adapter_weights(model, checkpoint)
    except (ModelMissingError, MismatchError) as error:
        raise error.revised(remedy=f"remove {checkpoint}, and resume from an earlier checkpoint") from error


def _add_adapter(base: Any, config: TrainConfig) -> PeftModel:
    """Add a new adapter to a model."""
    trainable = sorted(trainable_layers(base))
    configured = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=trainable if configured == "all-linear" else configured,
        task_type="CAUSAL_LM",
    )
    advice = f"set target_modules to others, such as {json.dumps(trainable[-2:])}"
    try:
        model = get_peft_model(base, lora)
    except (ValueError, TypeError) as error:  # PEFT knows no layer of the name, or supports none of its kind
        raise InputError(
            f"target_modules is {configured!r}, which PEFT cannot change in {config.model!r}: {error}; {advice}"
        ) from error
    changed = {*model.targeted_module_names, *model.targeted_parameter_names}
    if wrong := sorted(changed - set(trainable)):
        raise InputError(
            f"target_modules is {configured!r}; LoRA is not supported on {wrong[0]} of {config.model!r}; {advice}"
        )
    return model


def _check_start(start: Path, config: TrainConfig, weights: Path, expected: dict[str, Any]) -> None:
    provenance, existing = inspect_adapter(start, base=weights).provenance, _read_shape(start)
    for name in _SHAPE_KEYS:
        if expected[name] != existing[name]:
            raise MismatchError(
                f"{name} of {start} is {existing[name]}, not {expected[name]}; set it to {existing[name]}"
            )
    if provenance is not None:
        wanted = config.model_dump(mode="json")
        trained = {"chat_template": wanted["chat_template"], **provenance.config}  # older adapters do not record it
        for key in ("identifiers", "levels", "width", "chat_template"):
            before, now = trained.get(key), wanted[key]
            if before != now:
                raise MismatchError(f"{start} was trained with {key} = {before!r}, not {now!r}; set it to {before!r}")
        if mismatches := provenance.mismatches(template=read_template(config.template).fingerprint):
            raise MismatchError(f"{mismatches[0]}; use the template that {start} was trained with")


def _read_shape(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return {name: config.get(name) or None for name in _SHAPE_KEYS}
