"""The configuration of a training run, read from TOML; unknown keys are errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval.config import read_toml
from finetune.tasks import TrainingTask
from genrec.prompting import ChatTemplateSettings

CONFIG_FOLDER = Path(__file__).parent / "configs"


class TrainConfig(BaseModel):
    """The configuration of one run.

    Attributes:
        data: a data set in the folder of `--data`, or the embedded `online-retail`.
        protocol: how `eval.rank` splits the data; test items of that protocol are never trained on.
        model: a bundled model's name, a Hub id, a folder, or a GGUF file.
        trust_remote_code: run Python code in that folder, if Transformers has no class for the model.
        template: the template that renders a history.
        chat_template: arguments, date and name of the model's own chat template, see `ChatTemplateSettings`.
        background: how many users' histories the prior is averaged over.
        identifiers: what the model generates for an item: its title, or a semantic id of `levels` codes out of `width`
            each, see `genrec.index.semantic_ids`.
        max_history, history_step: as in `GenerativeSettings`; training and serving use the same prompts.
        objective: `listwise` is a softmax over the target and its negatives; `dpo` is the same over the difference to
            the untrained model's score; `likelihood` is the likelihood of the target alone, and `constrained` is the
            same among the tokens that the catalog allows.
        likelihood_weight: the weight of the likelihood added to `listwise` and `dpo`.
        others: the number of negative items for each target, or of other candidates in the task `candidates`.
        popularity_power: negatives are drawn in proportion to their popularity to this power.
        tasks: the weight of each task, see `finetune.tasks`; all tasks but `next-item` use the likelihood only.
        prior: how much of the untrained model's prior is subtracted from a score, as in `GenerativeSettings`.
        temperature: the temperature of the listwise softmax, in nats.
        targets: the maximum number of targets of one history that share a tree.
        rank, alpha, dropout: of LoRA.
        target_modules: the linear layers that LoRA changes: `all-linear` for all of the language model, a list of
            names or ends of names, such as `["q_proj", "v_proj"]`, or one regular expression for whole names.
        max_rank: the highest rank that the serving engine supports, see `VllmEngineBackend`.
        gradient_checkpointing: whether activations are recomputed instead of stored, for models of billions.
        learning_rate: the peak; it rises for `warmup` steps, then falls linearly to 0.
        steps: the number of optimizer steps.
        trees: how many histories each process computes in one batch.
        accumulate: how many batches make one step, with the mean of their gradients; saves memory, costs time.
        evaluate_every: steps between two validations.
        evaluate_users: the number of validation users.
        popularity_weight: the weight of popularity in the validation ranking, see `GenerativeSettings.fusion_weight`.
        patience: training stops after so many validations without improvement.
        workers: processes that build trees beside the training process.
        seed: the seed of weights, users, targets and negatives.
        start: the folder of an adapter to continue from; by default a new adapter, which changes nothing yet.
        since: train on interactions from this date on.
        replay: with `since`, the share of trees from earlier interactions, against forgetting.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Literal["games", "beauty", "online-retail"]
    protocol: Literal["candidates", "leave-one-out", "next-basket"]
    model: str = "SmolLM2-135M-Instruct"
    trust_remote_code: bool = False
    template: str = "next-item"
    chat_template: ChatTemplateSettings = ChatTemplateSettings()
    identifiers: Literal["titles", "codes"] = "titles"
    levels: int = Field(default=3, ge=1)
    width: int = Field(default=256, ge=1)
    background: int = Field(default=3, ge=0)
    max_history: int = Field(default=12, ge=1)
    history_step: int = Field(default=4, ge=1)
    objective: Literal["listwise", "dpo", "likelihood", "constrained"] = "listwise"
    likelihood_weight: float = Field(default=0.0, ge=0)
    others: int = Field(default=9, ge=0)
    tasks: dict[TrainingTask, float] = {"next-item": 1.0}
    popularity_power: float = Field(default=0.5, ge=0)
    prior: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=2.0, gt=0)
    targets: int = Field(default=8, ge=1)
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    max_rank: int = Field(default=64, ge=1)
    gradient_checkpointing: bool = False
    learning_rate: float = Field(default=3e-4, gt=0)
    warmup: int = Field(default=20, ge=0)
    steps: int = Field(ge=1)
    trees: int = Field(default=2, ge=1)
    accumulate: int = Field(default=1, ge=1)
    evaluate_every: int = Field(default=200, ge=1)
    evaluate_users: int = Field(default=200, ge=1)
    popularity_weight: float = Field(default=0.0, ge=0)
    patience: int = Field(default=5, ge=1)
    workers: int = Field(default=0, ge=0)
    seed: int = 20261122
    start: str | None = None
    since: str | None = None
    replay: float = Field(default=0.5, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_negatives_and_tasks(self) -> Self:
        compares = self.objective in ("listwise", "dpo")
        if compares and not self.others:
            raise ValueError(f"others is 0; the objective {self.objective} needs at least 1 negative for each target")
        if "candidates" in self.tasks and not self.others:
            raise ValueError("others is 0; the task candidates needs at least 1 candidate beside the answer")
        if not self.tasks or min(self.tasks.values()) <= 0:
            raise ValueError(f"tasks is {self.tasks}; give each task a weight above 0")
        return self


def read_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration of this folder by its name, or a file by its path.

    Args:
        name: the name, or a path that ends in .toml.
        overrides: items `key = value` in TOML, which replace those of the file.

    Raises:
        InputError: the file does not exist or is not TOML, or a key is unknown or has a wrong value (named).
    """
    return read_toml(
        TrainConfig, name, CONFIG_FOLDER, label="config", documented_in="finetune/config.py", overrides=overrides
    )[1]
