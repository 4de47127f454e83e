"""What a training run is made of, read from TOML, strictly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval.config import read_toml
from finetune.tasks import TrainingTask

CONFIG_FOLDER = Path(__file__).parent / "configs"


class TrainConfig(BaseModel):
    """One run.

    Attributes:
        data: a folder under `--data`, or the embedded `online-retail`.
        protocol: how `eval.rank` splits it; nothing that is measured there is trained on.
        model: a bundled model's name or a folder.
        template: what shows a history to the model.
        background: people whose histories the prior is measured behind.
        identifiers: what the model writes for an item: its title, or a code of `levels` words out of `width` each, see
            `genrec.index.semantic_ids`.
        max_history, history_step: as in `GenerativeSettings`; training shows what serving shows.
        objective: `listwise` is a softmax over what was taken and what it is set against; `dpo` the same over what the
            adapter adds to the untrained model's score; `likelihood` is that of what was taken alone, and `constrained`
            the same among the tokens that the catalog allows.
        likelihood_weight: of the likelihood that is added to `listwise` and `dpo`.
        others: items each target is set against, or in whose company it is shown.
        popularity_power: these are drawn by their popularity to this power.
        tasks: how often each is asked, as weights, see `finetune.tasks`; of all but `next-item` only the likelihood is
            learned.
        prior: how much of the untrained model's prior is taken from a score, as in `GenerativeSettings`.
        temperature: nats that one step of the listwise softmax is worth.
        targets: moments of one history that share a tree.
        rank, alpha, dropout: of LoRA, on all linear layers.
        max_rank: the highest rank that what serves it takes, see `VllmEngineBackend`.
        gradient_checkpointing: whether states are computed again in place of being kept, for models of billions.
        learning_rate: its highest; it rises for `warmup` steps and falls to 0 along a line.
        steps: of the optimizer.
        trees: histories that each process computes together.
        accumulate: how often it does so in a step, whose gradient is the mean of theirs; takes time in place of memory.
        evaluate_every: steps between two looks at the validation ranking.
        evaluate_users: how many people that ranking is of.
        popularity_weight: evidence of popularity in the validation ranking, see `GenerativeSettings.fusion_weight`.
        patience: looks without a better ranking after which it stops.
        workers: processes that write trees beside the one that learns from them.
        seed: of weights, people, targets and others.
        start: the folder of an adapter to go on from; by default one that changes nothing.
        since: learn what was taken from this date on.
        replay: with `since`, the share of trees of what was taken before, so that it is not forgotten.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Literal["games", "beauty", "online-retail"]
    protocol: Literal["candidates", "leave-one-out", "next-basket"]
    model: str = "SmolLM2-135M-Instruct"
    template: str = "next-item"
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
            raise ValueError(f"others is 0; the objective {self.objective} sets each target against 1 other or more")
        if "candidates" in self.tasks and not self.others:
            raise ValueError("others is 0; the task candidates needs something beside the answer")
        if not self.tasks or min(self.tasks.values()) <= 0:
            raise ValueError(f"tasks is {self.tasks}; give each task a weight above 0")
        return self


def read_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """A config of this folder by its name, or from a file.

    Args:
        name: of the config, or a path that ends in .toml.
        overrides: `key = value` each, in TOML; they come in the place of what the file says.

    Raises:
        InputError: there is none, it is no TOML, or a key is unknown or wrong (named).
    """
    return read_toml(
        TrainConfig, name, CONFIG_FOLDER, label="config", documented_in="finetune/config.py", overrides=overrides
    )[1]
