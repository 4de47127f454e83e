"""Data, settings and recommenders from command-line options."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS, chat_template_from_options
from genrec.cli.model_downloads import fetch_hub_models
from genrec.cli.options import ADVISOR_OPTIONS
from genrec.cli.settings_options import SETTING_OPTIONS
from genrec.cli.terminal import print_notice, progress
from genrec.errors import ArtifactError, InputError, ModelMissingError, UnknownUserError

if TYPE_CHECKING:
    from genrec.backends.api_settings import ApiSettings
    from genrec.data.catalog import Catalog
    from genrec.data.interactions import Interactions
    from genrec.index.catalog_index import CatalogIndex
    from genrec.pipeline import Pipeline
    from genrec.rankers.generative import GenerativeRanker
    from genrec.recommender import Recommender
    from genrec.settings import Settings
    from genrec.store.event_store import Store

DEFAULT_DATASET = "online-retail"
_INTERACTION_COLUMNS = ("user_id", "timestamp", "event", "weight")
_NONE = "none"
_MODEL_NAMING_OPTIONS = ("model", "adapter", "engine", "server_url", "server_model")
_API_PREFIX = "api_"  # of the options whose names are fields of ApiSettings


@dataclass(frozen=True)
class DataSource:
    """The data that a command works on: a data set, files, or a saved index.

    Attributes:
        data: name of a data set.
        items, interactions: paths of tables.
        index: folder of a saved `CatalogIndex`, instead of items.
        columns: for "items" and "interactions", a mapping from genrec's column names to those of the file.
        store: an open event store, whose forgotten users are left out of the interactions; None for none.
    """

    data: str | None = None
    items: Path | None = None
    interactions: Path | None = None
    index: Path | None = None
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    store: "Store | None" = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "DataSource":
        """Create a source from the options data, items, interactions, columns and index; missing ones count as None.

        Raises:
            InputError: options exclude or require each other, or a --columns is not NAME=COLUMN.
        """
        data, columns = options.get("data"), options.get("columns")
        items, interactions, index = (
            None if options.get(name) is None else Path(options[name]) for name in ("items", "interactions", "index")
        )
        given = {"--data": data, "--items": items, "--index": index}
        named = [f"{name} {value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} exclude each other; give one of them")
        if interactions is not None and (data is not None or not named):
            raise InputError(f"--interactions {interactions} needs its items; add --items FILE, without --data")
        if columns and items is None and interactions is None:
            raise InputError(f"--columns {columns[0]} renames columns of your own files; add --items FILE")
        return cls(data, items, interactions, index, _parse_columns(columns or ()))

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self.data or next((path.name for path in (self.items, self.index) if path is not None), DEFAULT_DATASET)

    def read(self, cache: Path, settings: "Settings | None" = None) -> "tuple[Catalog, Interactions | None]":
        """Read the catalog, and the interactions if there are any, without users whom the store has forgotten.

        Args:
            cache: the cache folder.
            settings: name the model whose tokenizer must be that of a saved index; by default it is not checked.

        Raises:
            InputError: a table cannot be used.
            ArtifactError: the index is damaged.
            TokenizerMismatchError: the index was built for another tokenizer than that of the model.
            StoreError: the store cannot be read.
        """
        catalog, interactions = self._read_files(cache, settings)
        if interactions is not None and self.store is not None:
            from genrec.store.forgetting import remaining_interactions

            interactions = remaining_interactions(interactions, self.store, cache)
        return catalog, interactions

    def _read_files(self, cache: Path, settings: "Settings | None") -> "tuple[Catalog, Interactions | None]":
        from genrec.data.catalog import read_catalog
        from genrec.data.interactions import read_interactions
        from genrec.loading import open_dataset

        if self.index is not None:
            catalog = _read_index(self.index, settings, cache).catalog
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
def translate_option_errors(
    table: str = "interactions", *, has_on_unknown: bool = False, new_user: str = ""
) -> Iterator[None]:
    """Replace parameters of the library in error messages by options of the command.

    Args:
        table: the table that --columns advice is for, unless an inner block has named another.
        has_on_unknown: whether the command has the option --on-unknown.
        new_user: its options for a new user, such as "--history"; "" for none.
    """
    try:
        yield
    except InputError as error:
        error.fields.setdefault("table", table)
        raise error.revised(remedy=_option_remedy(error, has_on_unknown, new_user)) from None


def _option_remedy(error: InputError, has_on_unknown: bool, new_user: str) -> str:
    """The remedy of an error in terms of command-line options."""
    if columns := error.fields.get("columns"):
        return _columns_flags(cast("Mapping[str, str]", columns), str(error.fields["table"]))
    if choice := error.fields.get("on_unknown"):
        return f"pass --on-unknown {choice} to drop them" if has_on_unknown else "check the id, or leave it out"
    if isinstance(error, UnknownUserError):
        return f"check the id, or use {new_user} for a new user" if new_user else "check the id"
    return error.remedy


def _given_options(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options with some names that are not None."""
    return {name: options[name] for name in names if options.get(name) is not None}


def settings_from_options(options: Mapping[str, Any]) -> "Settings":
    """Create settings from options by name; None and missing ones keep the default, other options are ignored.

    Raises:
        InputError: a value is out of range.
        ModelMissingError: a model is neither bundled nor a folder.
    """
    from genrec.datasets.registry import find_adapter
    from genrec.settings import Settings

    chosen = _given_options(options, SETTING_OPTIONS.keys() - CHAT_TEMPLATE_OPTIONS)
    chat_template, api = chat_template_from_options(options), _api_settings(chosen)
    if api is not None and not chosen.get("model"):
        raise InputError(f"--api-url {api.url} needs the name of a model there; add --model NAME")
    for name in ("model", "encoder"):
        if name in chosen and not (name == "model" and api is not None):
            chosen[name] = None if chosen[name] == _NONE else _checked_model(chosen[name])
    if "adapter" in chosen and not os.path.isdir(find_adapter(chosen["adapter"])):
        raise InputError(f"adapter {chosen['adapter']!r} is not a folder; name the one that training wrote")
    ours = {name: chosen[name] for name in chosen if name in Settings.__dataclass_fields__}
    default = Settings()
    generative = replace(default.generative, **_fields_of(default.generative, chosen))
    listwise = replace(default.listwise, **_fields_of(default.listwise, chosen))
    # An exhaustive search needs the prior of every item: compute it now, with a progress bar, not in the first request.
    whole = generative.strategy == "exhaustive" and generative.prior > 0
    return replace(
        default,
        generative=generative,
        listwise=listwise,
        api=api,
        compute_priors=whole,
        chat_template=chat_template,
        **ours,
    )


def _fields_of(settings: Any, chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: chosen[name] for name in chosen if name in settings.__dataclass_fields__}


def _api_settings(chosen: Mapping[str, Any]) -> "ApiSettings | None":
    """The server that the options --api-url, --api-timeout and so on describe; None without --api-url."""
    from genrec.backends.api_settings import ApiSettings

    given = {name.removeprefix(_API_PREFIX): chosen[name] for name in chosen if name.startswith(_API_PREFIX)}
    if given and "url" not in given:
        flag = f"--{_API_PREFIX}{next(iter(given))}".replace("_", "-")
        raise InputError(f"{flag} applies to a model behind an API; add --api-url URL, or leave it out")
    return ApiSettings(**given) if given else None


def advisor_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options of `genrec.chat.loading.advisor_builder`."""
    return _given_options(options, ADVISOR_OPTIONS)


def load_pipeline(
    data_source: DataSource,
    settings: "Settings",
    cache: Path,
    *,
    need_model: bool = False,
    offline: bool = False,
    check: "Callable[[Recommender], None] | None" = None,
) -> "Pipeline":
    """Open the ranking pipeline over a source, with progress on standard error.

    Args:
        data_source: the data.
        settings: models and ranking settings.
        cache: folder for models and derived data.
        need_model: raise an error if the language model cannot be used.
        offline: download no models from the Hub.
        check: called with a recommender over the data before any model is loaded, to check the other options.

    Raises:
        EngineError: the model is needed and cannot be used.
    """
    from genrec.loading import open_pipeline

    with progress() as shown:
        shown.start(f"Reading {data_source.name}")
        with translate_option_errors():
            catalog, interactions = data_source.read(cache, settings)
        if check is not None:
            check(unranked_recommender(catalog, interactions))
    if not offline:
        fetch_hub_models(settings, cache)
    if need_model:
        check_api_model(settings)
    with translate_option_errors(), progress() as shown:
        shown.start("Loading models")
        return open_pipeline(
            catalog, interactions, cache=cache, settings=settings, need_model=need_model, on_progress=shown
        )


def check_api_model(settings: "Settings") -> None:
    """Ask the server of a model behind an API whether it serves it; do nothing for other models.

    Raises:
        EngineError: it serves other models, cannot be reached, or rejects the key.
    """
    if settings.api is None or settings.model is None:
        return
    from genrec.backends.openai_api import OpenAiBackend
    from genrec.prompting.template import read_template
    from genrec.rankers.listwise import check_list_template

    check_list_template(read_template(settings.list_template))  # before the request
    backend = OpenAiBackend(str(settings.model), settings.api)
    try:
        backend.check_model()
    finally:
        backend.close()


def unranked_recommender(catalog: "Catalog", interactions: "Interactions | None") -> "Recommender":
    """A recommender that checks requests like any other, and needs no model."""
    import numpy as np

    from genrec.rankers.popularity import PopularityRanker
    from genrec.recommender import Recommender

    ranker = PopularityRanker(np.zeros(len(catalog), dtype=np.int64))
    return Recommender(catalog, [ranker], interactions=interactions)


def load_recommender(data_source: DataSource, settings: "Settings", cache: Path, **options: Any) -> "Recommender":
    """Open a recommender over a source; options and errors are those of `load_pipeline`."""
    return load_pipeline(data_source, settings, cache, **options).recommender()


def names_model(options: Mapping[str, Any]) -> bool:
    """Whether options ask for a language model by name; a command fails if such a model cannot be used."""
    return options.get("model") != _NONE and any(options.get(name) for name in _MODEL_NAMING_OPTIONS)


def save_priors(recommender: "Recommender") -> None:
    """Save priors that were computed while answering, so that the next run has them; failures become a note."""
    try:
        for ranker in generative_rankers(recommender):
            ranker.save_priors()
    except ArtifactError as error:
        print_notice(f"note: {error}")


def parse_item_numbers(values: Sequence[str] | None, flag: str) -> dict[str, float] | None:
    """Parse ITEM=NUMBER options; an item id may contain an equals sign.

    Raises:
        InputError: a value is not ITEM=NUMBER.
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
            raise InputError(f"{flag} {value!r} is not ITEM=NUMBER; write for example {flag} 22423=1.5")
    return found


def join_filters(texts: Sequence[str] | None) -> str | None:
    """The values of --where as one filter; None if there are none.

    Raises:
        FilterError: a filter does not parse.
    """
    from genrec.data.filter_syntax import all_of, parse_filter

    filters = [parse_filter(text) for text in texts or ()]
    if not filters:
        return None
    return filters[0].source if len(filters) == 1 else str(all_of(filters))


def _checked_model(name: str) -> str:
    """The name of a bundled model, the id of a model on the Hub, or a folder, as given."""
    from genrec.datasets.hub_id import HubId
    from genrec.datasets.models import MODELS

    if name not in MODELS and not os.path.isdir(name) and HubId.parse(name) is None:
        raise ModelMissingError(
            f"model {name!r} is neither a folder nor one of {', '.join(MODELS)}, nor the id of a model on the Hub "
            "(ORGANISATION/NAME); check the name or the path"
        )
    if name not in MODELS and os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ModelMissingError(
            f"folder {name!r} is no model, because it has no config.json; name the folder that save_pretrained wrote"
        )
    return name


def generative_rankers(recommender: "Recommender") -> "list[GenerativeRanker]":
    """The generative ranker of a recommender, if it has one, as a list."""
    from genrec.rankers.generative import GenerativeRanker

    return [ranker for ranker in recommender.stages if isinstance(ranker, GenerativeRanker)][:1]


def _read_index(directory: Path, settings: "Settings | None", cache: Path) -> "CatalogIndex":
    """Load a saved index; with a model, its tokenizer must match."""
    from genrec.index.catalog_index import CatalogIndex
    from genrec.loading import load_tokenizer

    tokenizer = None
    if settings is not None and settings.model is not None:
        with suppress(ModelMissingError):  # the recommender reports it and works without the model
            tokenizer = load_tokenizer(settings, cache)
    return CatalogIndex.load(directory, tokenizer=tokenizer)


def _columns_flags(columns: Mapping[str, str], table: str) -> str:
    from genrec.data.column_mapping import UNGUESSED

    pairs = (f"{table}.{name}={column}" for name, column in columns.items())
    flags = "pass " + " ".join(f"--columns {shlex.quote(pair)}" for pair in pairs)
    return flags + (UNGUESSED if "..." in columns.values() else "")


def _parse_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Column mappings for each table; `item_id` applies to both, `user_id` to interactions only."""
    chosen: dict[str, dict[str, str]] = {"items": {}, "interactions": {}}
    for value in columns:
        name, equals, column = value.partition("=")
        table, dot, column_name = name.partition(".")
        if not equals or not name or not column:
            raise InputError(f"--columns {value!r} is not NAME=COLUMN; write for example --columns user_id=CustomerID")
        if dot and table in chosen:
            chosen[table][column_name] = column
        elif name == "item_id":
            chosen["items"].setdefault(name, column)
            chosen["interactions"].setdefault(name, column)
        else:
            chosen["interactions" if name in _INTERACTION_COLUMNS else "items"][name] = column
    return chosen
