"""Settings and recommenders from command-line options."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS, chat_template_from_options
from genrec.cli.data_source import DEFAULT_DATASET as DEFAULT_DATASET
from genrec.cli.data_source import DataSource as DataSource
from genrec.cli.data_source import translate_option_errors as translate_option_errors
from genrec.cli.model_downloads import fetch_hub_models
from genrec.cli.options import ADVISOR_OPTIONS
from genrec.cli.settings_options import SETTING_OPTIONS
from genrec.cli.terminal import print_notice, progress
from genrec.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from genrec.backends.api_settings import ApiSettings
    from genrec.data.catalog import Catalog
    from genrec.data.interactions import Interactions
    from genrec.pipeline import Pipeline
    from genrec.rankers.generative import GenerativeRanker
    from genrec.recommender import Recommender
    from genrec.settings import Settings

_NONE = "none"
_MODEL_NAMING_OPTIONS = (
    *("model", "adapter", "engine", "server_url", "server_model"),
    *("dtype", "device", "device_map"),
)
_API_PREFIX = "api_"  # of the options whose names are fields of ApiSettings


def _given_options(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options with some names that are not None."""
    return {name: options[name] for name in names if options.get(name) is not None}


def settings_from_options(options: Mapping[str, Any]) -> "Settings":
    """Create settings from options by name; None and missing ones keep the default, other options are ignored.

    Raises:
        InputError: a value is out of range.
        ModelMissingError: a model is neither bundled, nor a Hub id, nor a folder or file of a model.
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
    if "text" in chosen:
        chosen["text"] = tuple(name.strip() for name in chosen["text"].split(","))
    if "adapter" in chosen and not os.path.isdir(find_adapter(chosen["adapter"])):
        raise InputError(f"adapter {chosen['adapter']!r} is not a folder; give the folder that training wrote")
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
        raise InputError(f"{flag} applies only to a model behind an API; add --api-url URL, or omit it")
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
    from genrec.data.item_texts import text_columns
    from genrec.loading.pipeline import open_pipeline
    from genrec.notices import Notice

    if need_model:
        _check_local_model(settings)
    with progress() as shown:
        shown.start(f"Reading {data_source.name}")
        with translate_option_errors():
            catalog, interactions = data_source.read(cache, settings)
            columns = text_columns(catalog, settings.text)
        if check is not None:
            check(unranked_recommender(catalog, interactions))
    if settings.text is None and len(columns) > 1 and (settings.lexical or settings.encoder is not None):
        print_notice(f"note: {Notice('text_columns', {'columns': list(columns)})}")
    if not offline:
        fetch_hub_models(settings, cache)
    with translate_option_errors(), progress() as shown:
        shown.start("Loading models")
        return open_pipeline(
            catalog, interactions, cache=cache, settings=settings, need_model=need_model, on_progress=shown
        )


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
    from genrec.datasets.model_directory import check_model_folder
    from genrec.datasets.models import MODELS

    if name not in MODELS and HubId.parse(name) is None:
        check_model_folder(name, weights=False)
    return name


def _check_local_model(settings: "Settings") -> None:
    """Check the folder of the language model, if it is one, and its device, before any slow work.

    Raises:
        EngineError: this machine does not have the device.
        ModelMissingError: a file of the model is missing or in another format.
    """
    from genrec.datasets.model_directory import check_model_folder
    from genrec.precomputed import require_torch

    if settings.device is not None:
        require_torch()
        from genrec.backends.precision import find_device

        find_device(settings.device)
    if settings.local_model is not None and os.path.isdir(settings.local_model):
        check_model_folder(settings.local_model, weights=settings.engine != "server")


def generative_rankers(recommender: "Recommender") -> "list[GenerativeRanker]":
    """The generative ranker of a recommender, if it has one, as a list."""
    from genrec.rankers.generative import GenerativeRanker

    return [ranker for ranker in recommender.stages if isinstance(ranker, GenerativeRanker)][:1]
