"""Train a LoRA adapter on what people took: python -m finetune.train CONFIG --out DIR [--data DIR] [--resume].

CONFIG is a name in finetune/configs or a .toml file. What comes out is DIR/adapter, a PEFT folder that Transformers and
vLLM load as it is, with genrec.json that says what it was made of. A run that was killed goes on from its last
checkpoint with --resume, and ends with the weights that it would have had. On several GPUs or machines: accelerate
launch -m finetune.train ...; on several processors: torchrun --nproc-per-node 2 -m finetune.train ...
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor

from finetune.card import build_provenance, save_adapter, write_curve
from finetune.config import TrainConfig, read_config
from finetune.data import TrainingData
from finetune.folder import last_checkpoint, open_run, report_disk_errors
from finetune.forward import pack_examples
from finetune.model import open_model
from finetune.tasks import TASK_TEMPLATES, TrainingTask
from finetune.trainer import RankingTrainer
from genrec import CatalogIndex, GenerativeRanker, GenerativeSettings, Template, read_template
from genrec.backends.adapter import inspect_adapter
from genrec.cache import default_cache
from genrec.errors import GenrecError
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.index.training_examples import Target, build_example
from genrec.loading import find_model_directory, load_backend, open_encoder, open_index, select_prior_histories
from genrec.prompting.renderer import Renderer
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.prior_store import PriorSource
from genrec.settings import ENCODER_MODEL, Settings
from genrec.types import FloatArray

VALIDATION_NEGATIVES = 19  # random items that a validation item is ranked among


def train(config: TrainConfig, out: Path, *, data: Path | None, resume: bool = False, report_to: str = "none") -> Path:
    """Train, and return the adapter's folder.

    Raises:
        InputError: there is nothing to learn from.
        MismatchError: the folder holds another run (the difference is named), or one that is not to be gone on with;
            or what would come out is nothing that an engine serves.
        ModelMissingError: the model is not on this machine.
        EngineError: the disk is full, or the run diverged.
    """
    process = PartialState(cpu=not torch.cuda.is_available())  # of several one writes, and each has a GPU of its own
    torch.manual_seed(config.seed)
    moments, cache = TrainingData(config, data), default_cache()
    template = read_template(config.template)
    if process.is_main_process:
        open_run(out, _run_identity(config, moments, template), resume)
    if (out / "adapter").is_dir():
        return out / "adapter"

    # Prompts and items in the tokens that serving uses; what is measured once, one process measures.
    weights = find_model_directory(config.model, cache)
    tokenizer = HuggingFaceTokenizer.from_directory(weights)
    with process.main_process_first():
        codes = _semantic_ids(config, moments, tokenizer, cache)
        index = open_index(moments.catalog, tokenizer, cache, lambda *_: None, codes)
        prior = _prior_scores(config, moments, tokenizer, index, cache)

    # The model, moments as trees when they are needed, and the trainer.
    model = open_model(config, weights)
    room = int(model.config.max_position_embeddings) - index.trie.max_length
    shown = (room, config.max_history, config.history_step)
    renderers = {
        task: Renderer(moments.catalog, tokenizer, read_template(TASK_TEMPLATES.get(task, config.template)), *shown)
        for task in ("next-item", *config.tasks)
    }
    trees = config.steps * config.accumulate * config.trees * process.num_processes
    trainer = RankingTrainer(
        config,
        partial(collate, renderers, index),
        out,
        prior=prior,
        item_counts=moments.item_counts,
        report_to=report_to,
        model=model,
        train_dataset=Dataset.from_list(moments.sample_examples(trees)),
        eval_dataset=Dataset.from_list(moments.validation_examples(VALIDATION_NEGATIVES)),
    )

    # From the beginning, or from the last checkpoint; then what is served, with what it was made of.
    checkpoint = last_checkpoint(out) if resume else None
    trainer.resume_counts(checkpoint)
    with report_disk_errors(out):
        trainer.train(resume_from_checkpoint=checkpoint)
        if process.is_main_process:
            write_curve(out / "curve.json", trainer.validation_curve())
            facts = build_provenance(config, moments, weights, index, template, trainer.best_metrics())
            save_adapter(out / "adapter", model, facts, codes, num_negatives=VALIDATION_NEGATIVES)
    return out / "adapter"


def collate(
    renderers: Mapping[TrainingTask, Renderer], index: CatalogIndex, rows: Sequence[dict[str, Any]]
) -> dict[str, Tensor]:
    """Rows of `TrainingData` as tensors, see `finetune.forward.pack`."""
    examples = []
    for row in rows:
        asked = zip(*(row[name] for name in ("places", "others", "words", "candidates", "known")), strict=True)
        targets = [
            Target(place, np.array(others, dtype=np.int64), words, np.array(candidates, dtype=np.int64), known)
            for place, others, words, candidates, known in asked
        ]
        examples.append(build_example(renderers[row["task"]], index, np.array(row["history"]), targets))
    return pack_examples(examples, [row["task"] == "next-item" for row in rows])


def _run_identity(config: TrainConfig, training_data: TrainingData, template: Template) -> dict[str, Any]:
    """What makes a run this run: its config, and what the names in it stand for."""
    start = None if config.start is None else inspect_adapter(config.start, base=config.model).name
    return {
        **config.model_dump(mode="json"),
        "data digest": training_data.digest,
        "template fingerprint": template.fingerprint,
        "start weights": start,
        "processes": PartialState().num_processes,
    }


def _semantic_ids(
    config: TrainConfig, training_data: TrainingData, tokenizer: HuggingFaceTokenizer, cache: Path
) -> SemanticIdentifiers | None:
    """The codes of items, learned of their titles, the same ones every time; None where titles are written."""
    if config.identifiers == "titles":
        return None
    encoder = open_encoder(ENCODER_MODEL, cache)
    return SemanticIdentifiers.train(
        training_data.catalog.titles,
        encoder,
        tokenizer,
        levels=config.levels,
        codebook_size=config.width,
        seed=config.seed,
    )


def _prior_scores(
    config: TrainConfig, training_data: TrainingData, tokenizer: HuggingFaceTokenizer, index: CatalogIndex, cache: Path
) -> FloatArray:
    """How likely the untrained model finds each item whoever asks, in nats: float64 [N]; measured once, then kept."""
    if not config.prior:
        return np.zeros(len(training_data.catalog))
    shown = GenerativeSettings(strategy="exhaustive", max_history=config.max_history, history_step=config.history_step)
    settings = Settings(background=config.background, generative=shown)
    histories = select_prior_histories(training_data.catalog, training_data.interactions, settings)
    ranker = GenerativeRanker(
        index,
        load_backend(config.model, cache)[0],
        tokenizer,
        template=read_template(config.template),
        cold_template=read_template("cold-start"),
        prior=PriorSource(histories, cache / "priors"),
        settings=shown,
    )
    found = ranker.prior_scores()
    ranker.save_priors()
    return found


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
