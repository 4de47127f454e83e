"""Configurations of runs: a protocol, data and rankers; read from TOML, unknown keys are errors."""

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
        kind: the type of ranker.
        settings: arguments of its class; for `generative` those of `GenerativeSettings`.
        parts: for `blend`, names of other rankers and their weights; by default the blend of the fallback chain, with
            learned weights.
        proposer: for `generative`, the name of the ranker that retrieves candidates; by default the blend of the
            fallback chain.
        background: for `generative`, whether the prior is measured with the histories of other users.
        adapter: for `generative`, the directory of a LoRA adapter, relative to the working directory; or
            `online-retail` for the adapter that ships.
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
    """The configuration of a run.

    Attributes:
        protocol: `candidates` ranks 20 items, the others the whole catalog; see `genrec.evaluation.protocols`.
        data: a directory under `--data`, or the embedded `online-retail`.
        part: which item or basket is held out.
        at: the date at which `by-time` splits.
        users: number of users; None for all.
        k: list length.
        metrics: see `genrec.evaluation.metrics.accuracy`.
        template: the prompt template of the model.
        background: number of other users' histories with which the prior is measured.
        seed: seed of samples and intervals.
        baseline: the ranker that all others are compared to, in paired differences over users.
        rankers: rankers by name.
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
            raise ValueError(f"at is {self.at!r}; the protocol by-time needs a date there, and the others take none")
        if self.protocol in ("by-time", "candidates") and self.part != "test":
            raise ValueError(f"part is {self.part!r}; the protocol {self.protocol} has only a test part")
        for metric in self.metrics:
            if metric_cutoff(metric) > self.k:
                raise ValueError(f"{metric} needs longer lists than k = {self.k}")
        return self


def read_config(name: str) -> Config:
    """Read a config of `eval/configs` by its name, or a .toml file.

    Raises:
        InputError: it does not exist, is not TOML, or has an unknown or invalid key.
    """
    path, config = read_toml(Config, name, CONFIG_DIR, label="config", documented_in="eval/config.py")
    if not config.rankers:
        raise InputError(f"{path.name} names no rankers; add some, see eval/configs")
    if config.baseline is not None and config.baseline not in config.rankers:
        raise InputError(
            f"{path.name}: the baseline {config.baseline!r} is not one of its rankers: {', '.join(config.rankers)}"
        )
    folders: dict[str, str] = {}
    for ranker, own in config.rankers.items():
        if (same := folders.setdefault(folder_name(ranker), ranker)) != ranker:
            raise InputError(f"{path.name}: rankers {same!r} and {ranker!r} would share a directory; rename one")
        for other in _dependencies(own):
            if other not in config.rankers:
                raise InputError(f"{path.name}: ranker {ranker!r} names {other!r}, which is not one of its rankers")
    for ranker in config.rankers:
        reached = set(_dependencies(config.rankers[ranker]))
        while more := {other for one in reached for other in _dependencies(config.rankers[one])} - reached:
            reached |= more
        if ranker in reached:
            raise InputError(f"{path.name}: ranker {ranker!r} depends on itself; name others")
    return config


def _dependencies(ranker: RankerConfig) -> list[str]:
    """The names of the rankers that a ranker uses."""
    return [*ranker.parts, *filter(None, [ranker.proposer])]


def read_toml(
    model: type[ConfigModel], name: str, folder: Path, *, label: str, documented_in: str, overrides: Sequence[str] = ()
) -> tuple[Path, ConfigModel]:
    """Read a file of a directory by its name, or any .toml file; returns its path and contents.

    Args:
        model: the expected structure.
        name: a name without its suffix, or a path that ends in .toml.
        folder: the directory of the named files.
        label: what error messages call the file.
        documented_in: where its keys are documented; for error messages.
        overrides: `key = value` lines in TOML that replace keys of the file.

    Raises:
        InputError: it does not exist, is not TOML, or has an unknown or invalid key.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in folder.glob("*.toml")))
        raise InputError(f"there is no {label} {name!r}; pass a .toml file, or one of {names}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            _apply_override(values, override)
        return path, model.model_validate(values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        value = f", not {first['input']!r:.80}" if first["type"] not in ("extra_forbidden", "value_error") else ""
        raise InputError(f"{path.name}: {place}: {first['msg']}{value}; see {documented_in} for the keys") from error


def _apply_override(values: dict[str, Any], text: str) -> None:
    """Replace a key; a dotted key replaces one within a table and keeps the others."""
    change = _parse_override(text)
    for _ in range(text.partition("=")[0].count(".")):
        (key,) = change
        if not isinstance(values.setdefault(key, {}), dict):
            break
        values, change = values[key], change[key]
    values |= change


def _parse_override(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{text!r} is not KEY=VALUE in TOML: {error}; quote text, as in 'name=\"value\"'") from error


def folder_name(ranker: str) -> str:
    """The name of a ranker's directory within a run."""
    return re.sub(r"[^a-z0-9]+", "-", ranker.casefold()).strip("-")
