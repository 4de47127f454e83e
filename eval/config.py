"""What a run measures: a protocol over some data, and the rankers that are asked; read from TOML, strictly."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genrec.errors import InputError
from genrec.evaluation import metric_cutoff

CONFIG_DIR = Path(__file__).parent / "configs"
ConfigModel = TypeVar("ConfigModel", bound=BaseModel)
Kind = Literal[
    "als",
    "blend",
    "cooccurrence",
    "embedding",
    "generative",
    "item-vectors",
    "itemknn",
    "popularity",
    "sasrec",
    "unconstrained",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RankerConfig(_Strict):
    """One ranker.

    Attributes:
        kind: what it is.
        settings: arguments of its class; of `generative` those of `GenerativeSettings`.
        parts: of a blend, other rankers by name and their weights; without any, the ladder's own, with learned weights.
        proposer: of `generative`, another ranker by name; by default the ladder's blend.
        background: of `generative`, whether other people's histories stand behind the prior.
        adapter: of `generative`, the folder of a LoRA adapter for the model, from where the command is run; or
            `online-retail` for the one that ships.
    """

    kind: Kind
    settings: dict[str, Any] = {}
    parts: dict[str, float] = {}
    proposer: str | None = None
    background: bool = True
    adapter: str | None = None

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        takes = {"blend": {"parts"}, "generative": {"proposer", "background", "adapter"}}.get(self.kind, set())
        given = {
            "parts": bool(self.parts),
            "proposer": self.proposer is not None,
            "background": not self.background,
            "adapter": self.adapter is not None,
        }
        if strange := [name for name, there in given.items() if there and name not in takes]:
            raise ValueError(f"{self.kind} takes no {strange[0]}; remove it")
        if self.settings and self.kind in ("blend", "embedding", "popularity", "unconstrained"):
            raise ValueError(f"{self.kind} takes none of the settings {', '.join(self.settings)}; remove them")
        return self


class Config(_Strict):
    """One run.

    Attributes:
        protocol: `candidates` ranks 20, all others the whole catalog; see `genrec.evaluation.protocols`.
        data: a folder under `--data`, or the embedded `online-retail`.
        part: which item or basket is held back.
        at: where `by-time` cuts, a date.
        users: ask about so many; None for all.
        k: list length.
        metrics: see `genrec.evaluation.metrics.accuracy`.
        template: what shows a history to the model.
        background: how many people's histories stand behind the prior.
        seed: of draws and of intervals.
        baseline: a ranker that all others are set against, person by person.
        rankers: by name.
    """

    protocol: Literal["by-time", "candidates", "leave-one-out", "next-basket"]
    data: Literal["games", "beauty", "online-retail"]
    part: Literal["validation", "test"] = "test"
    at: str | None = None
    users: int | None = Field(default=None, ge=1)
    k: int = Field(ge=1)
    metrics: list[str] = Field(min_length=1)
    template: str = "next-item"
    background: int = Field(default=3, ge=0)
    seed: int = Field(default=20261122, ge=0)
    baseline: str | None = None
    rankers: dict[str, RankerConfig] = {}

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if (self.at is None) == (self.protocol == "by-time"):
            raise ValueError(f"at is {self.at!r}; the protocol by-time needs a date there, and no other takes one")
        if self.protocol in ("by-time", "candidates") and self.part != "test":
            raise ValueError(f"part is {self.part!r}; the protocol {self.protocol} has only a test")
        for metric in self.metrics:
            if metric_cutoff(metric) > self.k:
                raise ValueError(f"{metric} looks at more places than lists of k = {self.k} have")
        return self


def read_config(name: str) -> Config:
    """A config of this folder by its name, or from a file.

    Raises:
        InputError: there is none, it is no TOML, or a key is unknown or wrong (named).
    """
    path, config = read_toml(Config, name, CONFIG_DIR, label="config", documented_in="eval/config.py")
    if not config.rankers:
        raise InputError(f"{path.name} names no rankers; add some, see eval/configs")
    if config.baseline is not None and config.baseline not in config.rankers:
        raise InputError(
            f"{path.name}: the baseline {config.baseline!r} is none of its rankers: {', '.join(config.rankers)}"
        )
    folders: dict[str, str] = {}
    for ranker, own in config.rankers.items():
        if (same := folders.setdefault(folder_name(ranker), ranker)) != ranker:
            raise InputError(f"{path.name}: rankers {same!r} and {ranker!r} would share a folder; rename one")
        for other in _dependencies(own):
            if other not in config.rankers:
                raise InputError(f"{path.name}: ranker {ranker!r} names {other!r}, which is none of its rankers")
    for ranker in config.rankers:
        reached = set(_dependencies(config.rankers[ranker]))
        while more := {other for one in reached for other in _dependencies(config.rankers[one])} - reached:
            reached |= more
        if ranker in reached:
            raise InputError(f"{path.name}: ranker {ranker!r} is made of itself; name others")
    return config


def _dependencies(ranker: RankerConfig) -> list[str]:
    """The other rankers that one is made of."""
    return [*ranker.parts, *filter(None, [ranker.proposer])]


def read_toml(
    model: type[ConfigModel], name: str, folder: Path, *, label: str, documented_in: str, overrides: Sequence[str] = ()
) -> tuple[Path, ConfigModel]:
    """A file of a folder by its name, or any .toml file, and what it says.

    Args:
        model: what it has to be.
        name: without its ending, or a path that ends in .toml.
        folder: where names are looked for.
        label: what such a file is called.
        documented_in: where its keys are described.
        overrides: `key = value` each, in TOML; they come in the place of what the file says.

    Raises:
        InputError: there is none, it is no TOML, or a key is unknown or wrong (named).
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(one.stem for one in folder.glob("*.toml")))
        raise InputError(f"there is no {label} {name!r}; name a .toml file, or one of {there}")
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in overrides:
            said |= _parse_override(change)
        return path, model.model_validate(said)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        value = f", not {first['input']!r:.80}" if first["type"] not in ("extra_forbidden", "value_error") else ""
        raise InputError(
            f"{path.name}: {place}: {first['msg']}{value}; see {documented_in} for what there is"
        ) from error


def _parse_override(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{text!r} is no KEY=VALUE of TOML: {error}; quote text, as in 'name=\"value\"'") from error


def folder_name(ranker: str) -> str:
    """What a ranker's folder is called in a run's."""
    return re.sub(r"[^a-z0-9]+", "-", ranker.casefold()).strip("-")
