"""Hugging Face's trainer with genrec's objectives, and with ranking metrics instead of a validation loss."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from finetune.config import TrainConfig
from finetune.forward import compute_log_probs, count_tokens, item_log_probs
from finetune.objectives import compute_loss
from genrec.backends import default_device, native_dtype
from genrec.errors import EngineError
from genrec.types import FloatArray

CUTOFFS = (1, 5, 10)  # the k of NDCG@k

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]


class RankingTrainer(Trainer):
    """Trains with `config.objective`, and ranks the validation users' last items every `evaluate_every` steps.

    Args:
        config: the configuration of the run.
        collate: turns records into tensors, see `finetune.forward.pack_examples`.
        out: the folder of the run.
        prior: float64 [N], the prior of each item, before the weight `config.prior`.
        item_counts: float64 [N], how often each item occurs.
        report_to: where metrics are reported.
        options: further arguments of Hugging Face's trainer.
    """

    def __init__(
        self,
        config: TrainConfig,
        collate: Collator,
        out: Path,
        *,
        prior: FloatArray,
        item_counts: FloatArray,
        report_to: str,
        **options: Any,
    ) -> None:
        stop = _ResumableEarlyStopping(early_stopping_patience=config.patience)
        super().__init__(data_collator=collate, args=_arguments(config, out, report_to), callbacks=[stop], **options)
        self._config, self._collate = config, collate
        self._prior = torch.from_numpy(config.prior * prior).float()
        popular = np.log1p(item_counts)
        self._popularity = torch.from_numpy(config.popularity_weight * popular / (popular.std() or 1.0)).float()
        self._tokens = self._targets = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch, see `finetune.objectives.compute_loss`."""
        self._tokens += count_tokens(inputs) * self.args.world_size
        self._targets += len(inputs["taken"]) * self.args.world_size
        loss = compute_loss(
            self._config, compute_log_probs(model, inputs), inputs, self._reference_scores(model, inputs)
        )
        return (loss, {}) if return_outputs else loss

    def _reference_scores(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """What to subtract from the score of each choice, float32 [C]: the prior, or the score without the adapter."""
        if self._config.objective != "dpo":
            return self._prior.to(inputs["items"].device)[inputs["items"]]
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            return item_log_probs(compute_log_probs(model, inputs).item_tokens, inputs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute and log the validation metrics, and the training tokens and targets so far."""
        own = {**self.validation_ndcg(), "eval_tokens": float(self._tokens), "eval_targets": float(self._targets)}
        # All processes use the metrics of one: rounding could break a tie, and stop only some of them early.
        broadcast_object_list(shared := [own])
        metrics = shared[0]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation_ndcg(self) -> dict[str, float]:
        """The mean NDCG at `CUTOFFS` over validation users, times 100; ties get the mean of their ranks.

        Raises:
            EngineError: a score is not finite.
        """
        model: Any = self.model
        examples: Any = self.eval_dataset
        model.eval()
        ranks: list[float] = []
        with torch.inference_mode(), self.compute_loss_context_manager():
            for start in range(0, len(examples), self._config.trees):
                end = min(start + self._config.trees, len(examples))
                rows = [examples[index] for index in range(start, end)]
                packed: Any = self._prepare_inputs(self._collate(rows))
                items, targets, taken = (packed[name].cpu() for name in ("items", "targets", "taken"))
                scores = (
                    item_log_probs(compute_log_probs(model, packed).item_tokens, packed).cpu()
                    - self._prior[items]
                    + self._popularity[items]
                )
                if not scores.isfinite().all():
                    raise EngineError(
                        f"the training diverged before step {self.state.global_step}: scores are not finite; lower "
                        f"learning_rate, which is {self._config.learning_rate}, and start again in another folder"
                    )
                own = scores[taken][targets]
                before = (scores > own).double() + (scores == own).double() / 2
                ranks += (torch.bincount(targets, weights=before) - 0.5).tolist()
        model.train()
        gains = 1 / np.log2(2 + np.array(ranks))
        return {f"eval_ndcg@{k}": 100 * float(np.where(np.array(ranks) < k, gains, 0).mean()) for k in CUTOFFS}

    def resume_counts(self, checkpoint: str | None) -> None:
        """Restore the counts of training tokens and targets from a checkpoint."""
        if checkpoint is not None:
            state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
            last = next(entry for entry in reversed(state["log_history"]) if "eval_tokens" in entry)
            self._tokens, self._targets = int(last["eval_tokens"]), int(last["eval_targets"])

    def validation_curve(self) -> list[dict[str, float]]:
        """The metrics of every validation."""
        entries = [entry for entry in self.state.log_history if "eval_tokens" in entry]
        return [{name.removeprefix("eval_"): value for name, value in entry.items()} for entry in entries]

    def best_metrics(self) -> dict[str, float]:
        """The metrics of the best validation, whose weights are kept."""
        return max(self.validation_curve(), key=lambda metrics: metrics["ndcg@10"])


class _ResumableEarlyStopping(EarlyStoppingCallback):
    """Early stopping that also stops a resumed run which had already stopped."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if the patience is used up."""
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def _arguments(config: TrainConfig, out: Path, report_to: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.trees,
        gradient_accumulation_steps=config.accumulate,
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
        restore_callback_states_from_checkpoint=True,
        gradient_checkpointing=config.gradient_checkpointing,
        dataloader_pin_memory=False,
        dataloader_num_workers=config.workers,
        bf16=native_dtype(default_device()) == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
    )
