"""Which catalog and which interactions a command works on, and the recommender over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.cli.terminal import Progress, progress
from genrec.errors import GenrecError, InputError, ModelMissingError

if TYPE_CHECKING:
    from genrec.assembly import Settings
    from genrec.catalog import Catalog
    from genrec.interactions import Interactions
    from genrec.recommender import Recommender

DEFAULT = "online-retail"
_OF_EVENTS = ("user_id", "timestamp", "event", "weight")
_NONE = "none"


@dataclass(frozen=True)
class Source:
    """What was named on the command line: a data set, or files.

    Raises:
        InputError: options that exclude each other, or a --columns that is no NAME=COLUMN.
    """

    data: str | None = None
    items: Path | None = None
    interactions: Path | None = None
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, data: str | None, items: Path | None, interactions: Path | None, columns: Sequence[str] | None
    ) -> "Source":
        if data is not None and (items is not None or interactions is not None):
            raise InputError(f"--data {data} and files of your own exclude each other; leave one of them out")
        if interactions is not None and items is None:
            raise InputError(f"--interactions {interactions} comes without its items; add --items FILE")
        if columns and items is None:
            raise InputError(f"--columns {columns[0]} renames columns of your own files; add --items FILE")
        return cls(data, items, interactions, _mappings(columns or ()))

    @property
    def name(self) -> str:
        """What is shown as the name of the data."""
        return self.data or (self.items.name if self.items else DEFAULT)

    def read(self, cache: Path) -> "tuple[Catalog, Interactions | None]":
        """The catalog and, where there are any, the interactions."""
        from genrec.assembly import open_dataset
        from genrec.catalog import read_catalog
        from genrec.interactions import read_interactions

        if self.items is None:
            return open_dataset(self.data or DEFAULT, cache)
        catalog = read_catalog(self.items, columns=self.columns["items"])
        if self.interactions is None:
            return catalog, None
        return catalog, read_interactions(self.interactions, columns=self.columns["interactions"])


def settings(options: Mapping[str, Any]) -> "Settings":
    """Settings from options by their names; those that are None keep the library's default.

    Raises:
        InputError: a value is out of its range.
    """
    from genrec.assembly import Settings
    from genrec.rankers.generative import GenerativeSettings

    given = {name: value for name, value in options.items() if value is not None}
    for name in ("model", "encoder"):
        if given.get(name) == _NONE:
            given[name] = None
    ours = {name: given[name] for name in ("model", "encoder", "template", "cold_template") if name in given}
    generative = GenerativeSettings(**{name: given[name] for name in given if name not in ours})
    # A prior is scored item by item as items come up; a search through the whole catalog needs all of it at once.
    whole = generative.strategy != "candidates" and generative.prior > 0
    return replace(Settings(), generative=generative, fill_priors=whole, **ours)


@contextmanager
def recommender(
    source: Source, chosen: "Settings", cache: Path, *, need_model: bool = False
) -> "Iterator[tuple[Recommender, Progress]]":
    """The ladder over a source, and what shows progress; keeps the priors that were computed meanwhile.

    Args:
        source: the data.
        chosen: the models and how they rank.
        cache: where models and what is slow to make are kept.
        need_model: refuse to go on without the language model.

    Raises:
        ModelMissingError: the model is needed and not there.
    """
    with progress() as shown:
        shown.say(f"reading {source.name}")
        catalog, interactions = source.read(cache)
        shown.say("loading the models")
        from genrec.assembly import open_recommender
        from genrec.rankers.generative import GenerativeRanker

        opened = open_recommender(catalog, interactions, cache=cache, settings=chosen, on_progress=shown)
        generative = [ranker for ranker in opened.ladder if isinstance(ranker, GenerativeRanker)]
        if need_model and chosen.model is not None and not generative:
            raise ModelMissingError("; ".join(opened.notices))
        yield opened, shown
        for ranker in generative[:1]:
            ranker.save_priors()


def numbers(values: Sequence[str] | None, option: str) -> dict[str, float] | None:
    """ITEM=NUMBER options as a mapping; an id may hold an equals sign itself.

    Raises:
        InputError: not of that form, named.
    """
    if not values:
        return None
    found = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise InputError(f"{option} {value!r} is no ITEM=NUMBER; write for example {option} 22423=1.5")
    return found


def _mappings(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """--columns for each of the two files: a plain item_id is meant for both, user_id for the events only."""
    chosen: dict[str, dict[str, str]] = {"items": {}, "interactions": {}}
    for value in columns:
        name, equals, column = value.partition("=")
        file, dot, own = name.partition(".")
        if not equals or not name or not column:
            raise InputError(f"--columns {value!r} is no NAME=COLUMN; write for example --columns user_id=CustomerID")
        if dot and file in chosen:
            chosen[file][own] = column
        elif name == "item_id":
            chosen["items"].setdefault(name, column)
            chosen["interactions"].setdefault(name, column)
        else:
            chosen["interactions" if name in _OF_EVENTS else "items"][name] = column
    return chosen
