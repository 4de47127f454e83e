"""Train a LoRA adapter on what people took: python -m finetune.train CONFIG --out DIR [--data DIR] [--resume].

CONFIG is a name in finetune/configs or a .toml file. What comes out is DIR/adapter, a PEFT folder that Transformers and
vLLM load as it is, with genrec.json that says what it was made of. A run that was killed goes on from its last
checkpoint with --resume, and ends with the weights that it would have had. On several processes: accelerate launch -m
finetune.train ...
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, Trainer, TrainingArguments

from finetune.config import TrainConfig, read_config
from finetune.data import Moments
from finetune.forward import pack, read, sums
from finetune.objectives import constrained, likelihood, listwise
from genrec import CatalogIndex, GenerativeRanker, GenerativeSettings, read_template
from genrec.artifact import sha256_of, writing_file
from genrec.assembly import (
    Settings,
    background_histories,
    default_cache,
    find_weights,
    load_backend,
    open_index,
)
from genrec.backends.attention import use_packed_attention
from genrec.backends.precision import default_device, native_dtype
from genrec.errors import GenrecError, MismatchError
from genrec.examples import Target, make_example
from genrec.provenance import Provenance
from genrec.renderer import Renderer
from genrec.tokenizer import HuggingFaceTokenizer
from genrec.types import FloatArray

TESTED = 19  # random items that a validation item is ranked among
CUTOFFS = (1, 5, 10)  # of NDCG


def train(config: TrainConfig, out: Path, *, data: Path | None, resume: bool = False, report_to: str = "none") -> Path:
    """Train, and return the adapter's folder.

    Raises:
        InputError: there is nothing to learn from.
        MismatchError: the folder holds another run (the difference is named), or one that is not to be gone on with.
        ModelMissingError: the model is not on this machine.
    """
    _open_folder(out, config, resume)
    torch.manual_seed(config.seed)
    moments, cache = Moments(config, data), default_cache()

    # Prompts and items in the tokens that serving uses.
    weights = find_weights(config.model, cache)
    tokenizer = HuggingFaceTokenizer.from_directory(weights)
    index = open_index(moments.catalog, tokenizer, cache, lambda *_: None)
    prior = _prior(config, moments, tokenizer, index, cache)

    # The model, and beside its weights what is learned.
    kind = native_dtype(default_device())
    base = AutoModelForCausalLM.from_pretrained(weights, dtype=kind, attn_implementation="sdpa")
    use_packed_attention(base)
    model = get_peft_model(
        base,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )

    # Moments as trees, when they are needed.
    room = int(base.config.max_position_embeddings) - index.trie.longest
    template = read_template(config.template)
    renderer = Renderer(moments.catalog, tokenizer, template, room, config.max_history, config.history_step)

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        examples = []
        for row in rows:
            pairs = zip(row["places"], row["others"], strict=True)
            targets = [Target(place, np.array(others, dtype=np.int64)) for place, others in pairs]
            examples.append(make_example(renderer, index, np.array(row["history"]), targets))
        return pack(examples)

    trainer = _RankingTrainer(
        config,
        collate,
        prior=prior,
        counts=moments.counts,
        model=model,
        train_dataset=Dataset.from_list(moments.rows(config.steps * config.trees * _processes())),
        eval_dataset=Dataset.from_list(moments.tests(TESTED)),
        args=_arguments(config, out, report_to),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=config.patience)],
    )
    checkpoint = _last_checkpoint(out) if resume else None
    trainer.count_on(checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)

    # What is served, with what it was made of.
    if trainer.is_world_process_zero():
        model.peft_config["default"].base_model_name_or_path = weights.name
        half = {name: one.to(torch.bfloat16) for name, one in get_peft_model_state_dict(model).items()}
        model.save_pretrained(str(out / "adapter"), state_dict=half)
        first, last = moments.span
        Provenance(
            base=weights.name,
            base_sha256={file.name: sha256_of(file) for file in sorted(weights.glob("*.safetensors"))},
            tokenizer=tokenizer.fingerprint,
            template=template.fingerprint,
            catalog=moments.catalog.fingerprint,
            index=index.fingerprint,
            data=moments.digest,
            first=first,
            last=last,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
            metrics=trainer.best(),
        ).write(out / "adapter")
        with writing_file(out / "curve.json") as file:
            file.write((json.dumps(trainer.curve(), indent=1) + "\n").encode())
    return out / "adapter"


class _RankingTrainer(Trainer):
    """Hugging Face's trainer with genrec's objective, and a ranking in the place of the validation loss."""

    def __init__(
        self,
        config: TrainConfig,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
        *,
        prior: FloatArray,
        counts: FloatArray,
        **options: Any,
    ) -> None:
        super().__init__(data_collator=collate, **options)
        self._config, self._collate = config, collate
        self._prior = torch.from_numpy(config.prior * prior).float()
        popular = np.log1p(counts)
        self._popular = torch.from_numpy(config.popularity_weight * popular / (popular.std() or 1.0)).float()
        self._tokens = self._targets = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch."""
        reading, config = read(model, inputs), self._config
        self._tokens += inputs["input_ids"].shape[1]
        self._targets += len(inputs["taken"])
        if config.objective == "constrained":
            loss = constrained(reading.steps, inputs["forks"], reading.allowed, len(inputs["taken"]))
        elif config.objective == "likelihood":
            loss = likelihood(reading.steps, inputs["choices"], inputs["taken"])
        else:
            scores = sums(reading.steps, inputs) - self._reference(model, inputs)
            loss = listwise(scores, inputs["targets"], inputs["taken"], config.temperature)
            if config.likelihood_weight:
                loss = loss + config.likelihood_weight * likelihood(reading.steps, inputs["choices"], inputs["taken"])
        return (loss, {}) if return_outputs else loss

    def _reference(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """What is taken from the score of each choice, float32 [C]: the prior, or the score without the adapter."""
        if self._config.objective == "listwise":
            return self._prior.to(inputs["items"].device)[inputs["items"]]
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            return sums(read(model, inputs).steps, inputs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """NDCG of each validation person's last item among random ones; the first choice is the item that was taken."""
        model: Any = self.model
        tests: Any = self.eval_dataset
        model.eval()
        places = []
        with torch.inference_mode(), self.compute_loss_context_manager():
            for start in range(0, len(tests), self._config.trees):
                rows = [tests[place] for place in range(start, min(start + self._config.trees, len(tests)))]
                packed: Any = self._prepare_inputs(self._collate(rows))
                items, targets, taken = (packed[name].cpu() for name in ("items", "targets", "taken"))
                scores = sums(read(model, packed).steps, packed).cpu() - self._prior[items] + self._popular[items]
                places += torch.bincount(targets, weights=(scores > scores[taken][targets]).double()).tolist()
        model.train()
        ranks = np.array(places)
        found = {f"eval_ndcg@{k}": 100 * float(np.where(ranks < k, 1 / np.log2(2 + ranks), 0).mean()) for k in CUTOFFS}
        found |= {"eval_tokens": float(self._tokens), "eval_targets": float(self._targets)}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def count_on(self, checkpoint: str | None) -> None:
        """Go on with the tokens and targets that were counted until a checkpoint."""
        if checkpoint is not None:
            told = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
            last = next(one for one in reversed(told) if "eval_tokens" in one)
            self._tokens, self._targets = int(last["eval_tokens"]), int(last["eval_targets"])

    def curve(self) -> list[dict[str, float]]:
        """The validation ranking at every look."""
        looks = [one for one in self.state.log_history if "eval_tokens" in one]
        return [{name.removeprefix("eval_"): value for name, value in one.items()} for one in looks]

    def best(self) -> dict[str, float]:
        """The look whose weights are kept."""
        return max(self.curve(), key=lambda one: one["ndcg@10"])


def _arguments(config: TrainConfig, out: Path, report_to: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.trees,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        eval_strategy="steps",
        eval_steps=config.evaluate_every,
        save_steps=config.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="ndcg@10",
        greater_is_better=True,
        logging_steps=10,
        report_to=report_to,
        remove_unused_columns=False,
        label_names=[],
        seed=config.seed,
        dataloader_pin_memory=False,
        dataloader_num_workers=config.workers,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )


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


def _last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint; killed before its first, a run begins again."""
    there = [path for path in (out / "checkpoints").glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(there, key=lambda path: int(path.name.rpartition("-")[2]))) if there else None


def _open_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    kept, mine = out / "config.json", config.model_dump(mode="json")
    if kept.is_file():
        theirs = json.loads(kept.read_text(encoding="utf-8"))
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise MismatchError(
                    f"{out} holds a run whose {name} is {theirs.get(name)!r}, not {mine.get(name)!r}; name another "
                    "folder with --out"
                )
        if not resume:
            raise MismatchError(f"{out} holds this run already; go on with it by --resume, or name another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    with writing_file(kept) as file:
        file.write((json.dumps(mine, indent=1) + "\n").encode())


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
