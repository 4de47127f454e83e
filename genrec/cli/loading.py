"""Which catalog and which interactions a command works on, and the recommender over them."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genrec.cli.terminal import print_notice, progress
from genrec.errors import ArtifactError, InputError, ModelMissingError, UnknownUserError

if TYPE_CHECKING:
    from genrec.backends.base import Backend
    from genrec.data.catalog import Catalog
    from genrec.data.interactions import Interactions
    from genrec.index.catalog_index import CatalogIndex
    from genrec.pipeline import Pipeline
    from genrec.rankers.generative import GenerativeRanker
    from genrec.recommender import Recommender
    from genrec.settings import Settings

DEFAULT_DATASET = "online-retail"
_INTERACTION_COLUMNS = ("user_id", "timestamp", "event", "weight")
_NONE = "none"
_NEW_USER_REMEDY = "check the id, or use --history or --words for a new user"


@dataclass(frozen=True)
class DataSource:
    """What was named on the command line: a data set, files, or a saved index.

    Attributes:
        data: name of a data set.
        items, interactions: paths of tables.
        index: where a `CatalogIndex` was saved, in the place of items.
        columns: for "items" and for "interactions", genrec's name to the name in the file.
    """

    data: str | None = None
    items: Path | None = None
    interactions: Path | None = None
    index: Path | None = None
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def from_options(
        cls,
        data: str | None,
        items: Path | None,
        interactions: Path | None,
        columns: Sequence[str] | None,
        index: Path | None = None,
    ) -> "DataSource":
        """From options.

        Raises:
            InputError: some exclude each other or need each other, or a --columns is no NAME=COLUMN.
        """
        given = {"--data": data, "--items": items, "--index": index}
        named = [f"{name} {value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} exclude each other; name the catalog once")
        if interactions is not None and (data is not None or not named):
            raise InputError(f"--interactions {interactions} comes without its items; add --items FILE, and no --data")
        if columns and items is None and interactions is None:
            raise InputError(f"--columns {columns[0]} renames columns of your own files; add --items FILE")
        return cls(data, items, interactions, index, _parse_columns(columns or ()))

    @property
    def name(self) -> str:
        """What is shown as the name of the data."""
        return self.data or next((path.name for path in (self.items, self.index) if path is not None), DEFAULT_DATASET)

    def read(self, cache: Path, model: str | Path | None = None) -> "tuple[Catalog, Interactions | None]":
        """The catalog and, where there are any, the interactions.

        Raises:
            InputError: a table cannot be used as it is.
            ArtifactError: the index is damaged.
            TokenizerMismatchError: the index was not made for the tokenizer of `model`.
        """
        from genrec.data.catalog import read_catalog
        from genrec.data.interactions import read_interactions
        from genrec.loading import open_dataset

        if self.index is not None:
            catalog = _read_index(self.index, model, cache).catalog
        elif self.items is not None:
            with translate_option_errors("items"):
                catalog = read_catalog(self.items, columns=self.columns["items"])
        else:
            return open_dataset(self.data or DEFAULT_DATASET, cache)
        if self.interactions is None:
            return catalog, None
        with translate_option_errors("interactions"):
            return catalog, read_interactions(self.interactions, columns=self.columns["interactions"])


@contextmanager
def translate_option_errors(table: str = "interactions") -> Iterator[None]:
    """Let what the library says of its parameters speak of the options they are here; `table` is whose columns."""
    try:
        yield
    except InputError as error:
        raise error.revised(remedy=_option_remedy(error, table)) from None


def _option_remedy(error: InputError, table: str) -> str:
    """The remedy of an error in terms of command-line options."""
    if columns := error.fields.get("columns"):
        return _columns_flags(cast("Mapping[str, str]", columns), table)
    if choice := error.fields.get("on_unknown"):
        return f"pass --on-unknown {choice} to drop them"
    return _NEW_USER_REMEDY if isinstance(error, UnknownUserError) else error.remedy


def without_none(**options: Any) -> dict[str, Any]:
    """Options without those that are None, which keep the library's default."""
    return {name: value for name, value in options.items() if value is not None}


def settings_from_options(options: Mapping[str, Any]) -> "Settings":
    """Settings from options by their names; those that are None keep the library's default.

    Raises:
        InputError: a value is out of its range.
        ModelMissingError: no model has that name.
    """
    from genrec.datasets.registry import find_adapter
    from genrec.settings import Settings

    chosen = without_none(**options)
    for name in ("model", "encoder"):
        if name in chosen:
            chosen[name] = None if chosen[name] == _NONE else _checked_model(chosen[name])
    if "adapter" in chosen and not find_adapter(chosen["adapter"]).is_dir():
        raise InputError(f"adapter {chosen['adapter']!r} is no folder here; name the one that training wrote")
    ours = {name: chosen[name] for name in chosen if name in Settings.__dataclass_fields__}
    default = Settings()
    generative = replace(default.generative, **{name: chosen[name] for name in chosen if name not in ours})
    # Scoring everything needs the prior of everything: better now, with a progress bar, than in the first request.
    whole = generative.strategy == "exhaustive" and generative.prior > 0
    return replace(default, generative=generative, compute_priors=whole, **ours)


def load_pipeline(
    data_source: DataSource,
    settings: "Settings",
    cache: Path,
    *,
    need_model: bool = False,
    backend: "Backend | None" = None,
    prior_backend: "Backend | None" = None,
) -> "Pipeline":
    """What ranks a source, with progress on standard error.

    Args:
        data_source: the data.
        settings: the models and how they rank.
        cache: where models and what is slow to make are kept.
        need_model: refuse to go on without the language model.
        backend, prior_backend: as for `open_recommender`.

    Raises:
        ModelMissingError: the model is needed and not there.
    """
    with translate_option_errors(), progress() as shown:
        shown.start(f"reading {data_source.name}")
        catalog, interactions = data_source.read(cache, settings.model)
        shown.start("loading the models")
        from genrec.loading import load_backend, open_pipeline

        opened = open_pipeline(
            catalog,
            interactions,
            cache=cache,
            settings=settings,
            backend=backend,
            prior_backend=prior_backend,
            on_progress=shown,
        )
        if need_model and settings.model is not None and opened.llm is None:
            load_backend(settings.model, cache, adapter=settings.adapter)  # says what is missing
    return opened


def load_recommender(data_source: DataSource, settings: "Settings", cache: Path, **options: Any) -> "Recommender":
    """The ladder over a source; options and errors are those of `load_pipeline`."""
    return load_pipeline(data_source, settings, cache, **options).recommender()


def fetch_models(models: "Sequence[str | Path | None]", cache: Path) -> None:
    """See that the bundled ones of some models are on this machine."""
    from genrec.datasets.models import MODELS, get_model

    for name in (str(model) for model in models if str(model) in MODELS):
        with progress() as shown:
            get_model(name, cache, progress=shown.start)


def save_priors(recommender: "Recommender") -> None:
    """Save the priors that were computed while it answered, so that the next run has them; the answer does not wait."""
    try:
        for ranker in generative_rankers(recommender):
            ranker.save_priors()
    except ArtifactError as error:
        print_notice(f"note: {error}")


def parse_item_numbers(values: Sequence[str] | None, flag: str) -> dict[str, float] | None:
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
            raise InputError(f"{flag} {value!r} is no ITEM=NUMBER; write for example {flag} 22423=1.5")
    return found


def _checked_model(name: str) -> str:
    """A bundled model's name or a folder, as it was given."""
    from genrec.datasets.models import MODELS

    if name not in MODELS and not Path(name).is_dir():
        raise ModelMissingError(
            f"model {name!r} is neither a folder here nor one of {', '.join(MODELS)}; check the name or the path"
        )
    return name


def generative_rankers(recommender: "Recommender") -> "list[GenerativeRanker]":
    """The language model of a ladder, where it has one."""
    from genrec.rankers.generative import GenerativeRanker

    return [ranker for ranker in recommender.stages if isinstance(ranker, GenerativeRanker)][:1]


def _read_index(directory: Path, model: str | Path | None, cache: Path) -> "CatalogIndex":
    """A saved index, held to the model's tokenizer where there is a model."""
    from genrec.index.catalog_index import CatalogIndex
    from genrec.loading import find_model_directory
    from genrec.prompting.tokenizer import HuggingFaceTokenizer

    tokenizer = None
    if model is not None:
        with suppress(ModelMissingError):  # the recommender says so itself, and does without
            tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(model, cache))
    return CatalogIndex.load(directory, tokenizer=tokenizer)


def _columns_flags(columns: Mapping[str, str], table: str) -> str:
    from genrec.data.table import UNGUESSED

    pairs = (f"{table}.{name}={column}" for name, column in columns.items())
    flags = "pass " + " ".join(f"--columns {shlex.quote(pair)}" for pair in pairs)
    return flags + (UNGUESSED if "..." in columns.values() else "")


def _parse_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
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
            chosen["interactions" if name in _INTERACTION_COLUMNS else "items"][name] = column
    return chosen
