"""Train a LoRA adapter on interactions: python -m finetune.train CONFIG --out DIR [--data DIR] [--resume].

CONFIG is a name in finetune/configs or a .toml file. The result is DIR/adapter, a PEFT folder that Transformers and
vLLM load directly, with its provenance in genrec.json. With --resume, a run that was killed continues from its newest
checkpoint, and ends with the same weights as an uninterrupted run. On several GPUs or machines: accelerate launch -m
finetune.train ...; on several processors: torchrun --nproc-per-node 2 -m finetune.train ...
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor

from eval.progress import report_progress
from finetune.card import build_provenance, save_adapter, write_curve
from finetune.config import TrainConfig, read_config
from finetune.data import TrainingData
from finetune.folder import last_checkpoint, open_run, report_disk_errors
from finetune.forward import TreeLayout, pack_examples
from finetune.model import check_checkpoint, open_model
from finetune.tasks import TASK_TEMPLATES, TrainingTask
from finetune.trainer import RankingTrainer
from genrec import CatalogIndex, GenerativeRanker, GenerativeSettings, Template, read_template
from genrec.backends import context_length, inspect_adapter
from genrec.cache import default_cache
from genrec.errors import GenrecError
from genrec.index import SemanticIdentifiers, Target, build_example
from genrec.loading import find_model_directory, load_backend, open_encoder, open_index, select_prior_histories
from genrec.prompting import HuggingFaceTokenizer, Renderer
from genrec.rankers import PriorSource
from genrec.settings import ENCODER_MODEL, Settings
from genrec.types import FloatArray

VALIDATION_NEGATIVES = 19  # random items that each validation item is ranked against


def train(config: TrainConfig, out: Path, *, data: Path | None, resume: bool = False, report_to: str = "none") -> Path:
    """Train an adapter, and return its folder.

    Args:
        config: the configuration.
        out: the folder of the run.
        data: the folder of data sets that are not embedded.
        resume: whether to continue the run in `out`.
        report_to: where Hugging Face's trainer reports metrics.

    Raises:
        InputError: the data has no targets.
        MismatchError: the folder contains another run (the difference is named), or this run without `resume`, or
            a checkpoint that lacks weights; or engines could not serve the adapter.
        ModelMissingError: the model is not on this machine, or a file of it or of the checkpoint is damaged.
        EngineError: the disk is full, or the training diverged.
    """
    process = PartialState(cpu=not torch.cuda.is_available())  # the main process writes; each has its own GPU
    torch.manual_seed(config.seed)
    cache = default_cache()
    weights = find_model_directory(config.model, cache)
    training_data, template = TrainingData(config, data), read_template(config.template)
    if not resume:
        _check_trainable(config, weights)
    if process.is_main_process:
        open_run(out, _run_identity(config, training_data, template, weights), resume)
        # A resumed run trains on what the first one has read.
        training_data.read_at = min(training_data.read_at, (out / "config.json").stat().st_mtime)
    if (out / "adapter").is_dir():
        return out / "adapter"

    # Prompts and items in the same tokens as in serving; the main process computes the prior once.
    tokenizer = HuggingFaceTokenizer.from_directory(weights, config.chat_template)
    with process.main_process_first():
        semantic_ids = _semantic_ids(config, training_data, tokenizer, cache)
        index = open_index(training_data.catalog, tokenizer, cache, lambda *_: None, semantic_ids)
        prior = _prior_scores(config, training_data, tokenizer, index, cache)

    # The model, the examples, which the collator turns into trees, and the trainer.
    model, layout = open_model(config, weights)
    renderers = build_renderers(config, tokenizer, index, model)
    trees = config.steps * config.accumulate * config.trees * process.num_processes
    trainer = RankingTrainer(
        config,
        partial(collate, renderers, index, layout),
        out,
        prior=prior,
        item_counts=training_data.item_counts,
        report_to=report_to,
        model=model,
        train_dataset=Dataset.from_list(training_data.sample_examples(trees)),
        eval_dataset=Dataset.from_list(training_data.validation_examples(VALIDATION_NEGATIVES)),
    )

    # Train from the start or from the newest checkpoint, then write the adapter and its provenance.
    checkpoint = last_checkpoint(out) if resume else None
    trainer.resume_counts(checkpoint)
    if checkpoint is not None:
        check_checkpoint(model, Path(checkpoint))
    with report_disk_errors(out):
        trainer.train(resume_from_checkpoint=checkpoint)
        if process.is_main_process:
            write_curve(out / "curve.json", trainer.validation_curve())
            provenance = build_provenance(config, training_data, weights, index, template, trainer.best_metrics())
            provenance = replace(provenance, chat_template=tokenizer.chat_template_fingerprint)
            save_adapter(out / "adapter", model, provenance, semantic_ids, num_negatives=VALIDATION_NEGATIVES)
    return out / "adapter"


def _check_trainable(config: TrainConfig, weights: Path) -> None:
    """Refuse what cannot be trained before the folder is written and the prior is measured, which can take hours.

    The model is loaded again for the training, because the prior is measured with a model of its own, and the memory
    may hold one only.

    Raises:
        InputError, MismatchError: see `open_model`.
    """
    with torch.random.fork_rng():  # the training draws the same numbers with and without this check
        open_model(config, weights)


def build_renderers(
    config: TrainConfig, tokenizer: HuggingFaceTokenizer, index: CatalogIndex, model: Any
) -> dict[TrainingTask, Renderer]:
    """A renderer for each task, whose prompts leave room for the longest identifier."""
    context = context_length(model.config.get_text_config(decoder=True).to_dict())
    return {
        task: Renderer(
            index.catalog,
            tokenizer,
            read_template(TASK_TEMPLATES.get(task, config.template)),
            context - index.trie.max_length,
            config.max_history,
            config.history_step,
        )
        for task in ("next-item", *config.tasks)
    }


def collate(
    renderers: Mapping[TrainingTask, Renderer],
    index: CatalogIndex,
    layout: TreeLayout,
    rows: Sequence[dict[str, Any]],
) -> dict[str, Tensor]:
    """Turn records of `TrainingData` into tensors, see `finetune.forward.pack_examples`."""
    examples = []
    for row in rows:
        names = ("event_indices", "negatives", "words", "candidates", "num_known")
        targets = [
            Target(event, np.array(negatives, dtype=np.int64), words, np.array(candidates, dtype=np.int64), num_known)
            for event, negatives, words, candidates, num_known in zip(*(row[name] for name in names), strict=True)
        ]
        examples.append(build_example(renderers[row["task"]], index, np.array(row["history"]), targets))
    return pack_examples(examples, [row["task"] == "next-item" for row in rows], layout)


def _run_identity(
    config: TrainConfig, training_data: TrainingData, template: Template, weights: Path
) -> dict[str, Any]:
    """Identify a run: its configuration, and hashes of what the configuration names."""
    start = None if config.start is None else inspect_adapter(config.start, base=weights).name
    return {
        **config.model_dump(mode="json", exclude={"trust_remote_code"}),
        "data digest": training_data.digest,
        "template fingerprint": template.fingerprint,
        "start weights": start,
        "processes": PartialState().num_processes,
    }


def _semantic_ids(
    config: TrainConfig, training_data: TrainingData, tokenizer: HuggingFaceTokenizer, cache: Path
) -> SemanticIdentifiers | None:
    """Learn semantic ids from the titles, deterministically; None if items are written as titles."""
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
    """The untrained model's prior log-probability of each item, in nats: float64 [N]; computed once, then cached."""
    if not config.prior:
        return np.zeros(len(training_data.catalog))
    settings = GenerativeSettings(
        strategy="exhaustive", max_history=config.max_history, history_step=config.history_step
    )
    histories = select_prior_histories(
        training_data.catalog,
        training_data.interactions,
        Settings(background=config.background, generative=settings),
    )
    ranker = GenerativeRanker(
        index,
        load_backend(
            config.model, cache, trust_remote_code=config.trust_remote_code, chat_template=config.chat_template
        )[0],
        tokenizer,
        template=read_template(config.template),
        cold_template=read_template("cold-start"),
        prior=PriorSource(histories, cache / "priors"),
        settings=settings,
    )
    scores = ranker.prior_scores(report_progress("prior of the untrained model, items"))
    ranker.save_priors()
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m finetune.train", description=__doc__)
    parser.add_argument("config", help="a name in finetune/configs, or a .toml file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder of checkpoints and the adapter"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder that contains games and beauty")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="replace keys of the config, in TOML")
    parser.add_argument(
        "--report-to",
        default="none",
        metavar="NAME",
        help="where to report metrics, see report_to of Hugging Face's TrainingArguments",
    )
    own = parser.parse_args(arguments)
    try:
        config = read_config(own.config, own.set)
        adapter = train(config, own.out, data=own.data, resume=own.resume, report_to=own.report_to)
    except GenrecError as error:
        sys.exit(f"error: {error}")
    print(adapter)


if __name__ == "__main__":
    main()
