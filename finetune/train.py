"""Train a LoRA adapter on what people took: python -m finetune.train CONFIG --out DIR [--data DIR] [--resume].

CONFIG is a name in finetune/configs or a .toml file. What comes out is DIR/adapter, a PEFT folder that Transformers and
vLLM load as it is, with genrec.json that says what it was made of. A run that was killed goes on from its last
checkpoint with --resume, and ends with the weights that it would have had. On several GPUs or machines: accelerate
launch -m finetune.train ...; on several processors: torchrun --nproc-per-node 2 -m finetune.train ...
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from finetune.card import provenance, save_adapter, save_curve
from finetune.config import TrainConfig, read_config
from finetune.data import Moments
from finetune.folder import last_checkpoint, open_folder
from finetune.forward import pack
from finetune.tasks import TEMPLATES
from finetune.trainer import RankingTrainer
from genrec import CatalogIndex, GenerativeRanker, GenerativeSettings, read_template
from genrec.assembly import Settings, background_histories, default_cache, find_weights, load_backend, open_index
from genrec.backends.adapter import read_adapter
from genrec.backends.attention import use_packed_attention
from genrec.backends.precision import default_device, native_dtype
from genrec.errors import EngineError, GenrecError, MismatchError
from genrec.examples import Target, make_example
from genrec.renderer import Renderer
from genrec.tokenizer import HuggingFaceTokenizer
from genrec.types import FloatArray

TESTED = 19  # random items that a validation item is ranked among


def train(config: TrainConfig, out: Path, *, data: Path | None, resume: bool = False, report_to: str = "none") -> Path:
    """Train, and return the adapter's folder.

    Raises:
        InputError: there is nothing to learn from.
        MismatchError: the folder holds another run (the difference is named), or one that is not to be gone on with;
            or what would come out is nothing that an engine serves.
        ModelMissingError: the model is not on this machine.
        EngineError: the disk is full.
    """
    if os.environ.get("RANK", "0") == "0":  # of several processes one
        open_folder(out, config, resume)
    torch.manual_seed(config.seed)
    moments, cache = Moments(config, data), default_cache()

    # Prompts and items in the tokens that serving uses.
    weights = find_weights(config.model, cache)
    tokenizer = HuggingFaceTokenizer.from_directory(weights)
    index = open_index(moments.catalog, tokenizer, cache, lambda *_: None)
    template = read_template(config.template)

    # The model, and beside its weights what is learned.
    model = _adapted(config, weights)
    room = int(model.config.max_position_embeddings) - index.trie.longest
    shown = (room, config.max_history, config.history_step)
    renderers = {
        task: Renderer(moments.catalog, tokenizer, read_template(TEMPLATES.get(task, config.template)), *shown)
        for task in ("next-item", *config.tasks)
    }

    # Moments as trees, when they are needed.
    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        examples = []
        for row in rows:
            asked = zip(row["places"], row["others"], row["words"], row["candidates"], strict=True)
            targets = [
                Target(place, np.array(others, dtype=np.int64), words, np.array(candidates, dtype=np.int64))
                for place, others, words, candidates in asked
            ]
            examples.append(make_example(renderers[row["task"]], index, np.array(row["history"]), targets))
        return pack(examples, [row["task"] == "next-item" for row in rows])

    trainer = RankingTrainer(
        config,
        collate,
        out,
        prior=_prior(config, moments, tokenizer, index, cache),
        counts=moments.counts,
        report_to=report_to,
        model=model,
        train_dataset=Dataset.from_list(moments.rows(config.steps * config.trees * _processes())),
        eval_dataset=Dataset.from_list(moments.tests(TESTED)),
    )
    checkpoint = last_checkpoint(out) if resume else None
    trainer.count_on(checkpoint)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except OSError as error:
        raise EngineError(
            f"cannot write to {out}: {error.strerror or error}; the last whole checkpoint is {last_checkpoint(out)}; "
            "free some space, and go on with --resume"
        ) from error

    # What is served, with what it was made of.
    if trainer.is_world_process_zero():
        facts = provenance(config, moments, weights, index, template, trainer.best())
        save_adapter(out / "adapter", model, facts, others=TESTED)
        save_curve(out / "curve.json", trainer.curve())
    return out / "adapter"


def _adapted(config: TrainConfig, weights: Path) -> PeftModel:
    """The model with an adapter that changes nothing yet, and that the engines would serve.

    Raises:
        MismatchError: they would not.
    """
    kind = native_dtype(default_device())
    base = AutoModelForCausalLM.from_pretrained(weights, dtype=kind, attn_implementation="sdpa")
    use_packed_attention(base)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    if config.start is not None:
        _load(model, Path(config.start), config, weights)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        read_adapter(folder, base=weights, max_rank=config.max_rank)
    return model


def _load(model: PeftModel, start: Path, config: TrainConfig, weights: Path) -> None:
    """Begin with the weights of another adapter.

    Raises:
        MismatchError: it was made for another model, is of another shape, or was trained behind another template.
    """
    told = read_adapter(start, base=weights).provenance
    if told is not None and (differs := told.differences(template=read_template(config.template).fingerprint)):
        raise MismatchError(f"{differs[0]}; go on with the template that {start} was trained with")
    held = load_file(start / "adapter_model.safetensors")
    own = get_peft_model_state_dict(model)
    for name in sorted(own.keys() | held.keys()):
        if name not in held or name not in own or held[name].shape != own[name].shape:
            shapes = [tuple(one[name].shape) if name in one else None for one in (held, own)]
            raise MismatchError(
                f"{name} of {start} is {shapes[0]}, and {shapes[1]} here; go on with the rank and the layers it has"
            )
    set_peft_model_state_dict(model, held)


def _prior(
    config: TrainConfig, moments: Moments, tokenizer: HuggingFaceTokenizer, index: CatalogIndex, cache: Path
) -> FloatArray:
    """How likely the untrained model finds each item whoever asks, in nats: float64 [N]; measured once, then kept."""
    if not config.prior:
        return np.zeros(len(moments.catalog))
    shown = GenerativeSettings(strategy="exhaustive", max_history=config.max_history, history_step=config.history_step)
    ranker = GenerativeRanker(
        index,
        load_backend(config.model, cache)[0],
        tokenizer,
        template=read_template(config.template),
        cold_template=read_template("cold-start"),
        background=background_histories(
            moments.catalog, moments.interactions, Settings(background=config.background, generative=shown)
        ),
        settings=shown,
        prior_cache=cache / "priors",
    )
    found = ranker.prior_scores()
    ranker.save_priors()
    return found


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m finetune.train", description=__doc__)
    parser.add_argument("config", help="a name in finetune/configs, or a .toml file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where checkpoints and the adapter go")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder that holds games and beauty")
    parser.add_argument("--resume", action="store_true", help="go on with what DIR holds")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the config, in TOML")
    parser.add_argument("--report-to", default="none", metavar="NAME", help="as Hugging Face's trainer has it")
    own = parser.parse_args(arguments)
    try:
        config = read_config(own.config, own.set)
        found = train(config, own.out, data=own.data, resume=own.resume, report_to=own.report_to)
    except GenrecError as error:
        sys.exit(f"error: {error}")
    print(found)


if __name__ == "__main__":
    main()
