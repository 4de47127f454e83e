"""The task of a batch run: created from options, or from the manifest of a run."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genrec.cli import first_ranker, loading, model_downloads, terminal
from genrec.cli.batch_provenance import data_provenance, model_provenance, recommend_provenance
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS, canonical_arguments
from genrec.cli.config_file import absolute_path
from genrec.cli.options import DATA_OPTIONS
from genrec.cli.settings_options import SETTING_OPTIONS
from genrec.errors import InputError, MismatchError, ModelMissingError, check_count

if TYPE_CHECKING:
    from genrec.backends.base import TextBackend
    from genrec.batch.generate import GenerateTask
    from genrec.batch.prompts import PromptBuilder
    from genrec.batch.recommend import RecommendTask
    from genrec.batch.run import BatchRun
    from genrec.decoding.grammar import GrammarTokenizer
    from genrec.prompting.template import Template
    from genrec.recommender import Recommender
    from genrec.settings import Settings

    BatchTask = RecommendTask | GenerateTask

LISTS, TEXTS = "lists", "texts"
# Prompts passed to an engine at once, by its name; the first is the default. `genrec.backends.engines` loads too much.
_ENGINE_BATCH_SIZE = {"transformers": 32, "vllm": 4096, "server": 4096}
_DEFAULT_ENGINE, *_ = _ENGINE_BATCH_SIZE
_ENGINE_OPTIONS = ("engine", "server_url", "server_model")
_PLACEMENT_OPTIONS = ("dtype", "device", "device_map")
_FILTER_OPTIONS = ("explain", "filter_seen", "only", "exclude", "where")
_TEXT_OPTIONS = ("encoder", "text", "lexical")
_API_OPTIONS = tuple(name for name in SETTING_OPTIONS if name.startswith("api_"))
_MODEL_OPTIONS = ("model", "adapter", "batch_size", *CHAT_TEMPLATE_OPTIONS, *_API_OPTIONS)
_SEARCH_OPTIONS = tuple(
    name
    for name in SETTING_OPTIONS
    if name not in (*_MODEL_OPTIONS, *_ENGINE_OPTIONS, *_PLACEMENT_OPTIONS, *_TEXT_OPTIONS, "trust_remote_code")
)
_RECOMMEND_OPTIONS = ("k", "ranker", *_TEXT_OPTIONS, *_FILTER_OPTIONS, *_SEARCH_OPTIONS)
_LLM_OPTIONS = (*_ENGINE_OPTIONS, "dtype", "device_map", *_MODEL_OPTIONS, *_SEARCH_OPTIONS)
_GENERATE_OPTIONS = ("prompt", "schema", "max_tokens", "temperature", "seed")
TASK_OPTIONS = (
    *("answers", "on_unknown", "trust_remote_code"),
    *_ENGINE_OPTIONS,
    *_PLACEMENT_OPTIONS,
    *DATA_OPTIONS,
    *_MODEL_OPTIONS,
    *_RECOMMEND_OPTIONS,
    *_GENERATE_OPTIONS,
)
# Options that manifests of format 2 do not always have: they are recorded only if they are given.
_SPARSE_OPTIONS = (
    *("exact", "max_nodes", "min_history", "max_history", "history_step", "memory"),
    *("separator", "encoding", "header", "id_from", "take", "order", "types"),
    *("trust_remote_code", "server_url", "server_model", "window", "window_step", "list_template"),
    *_PLACEMENT_OPTIONS,
    *CHAT_TEMPLATE_OPTIONS,
    *_API_OPTIONS,
)
# What manifests without these options mean: their runs were started when only the meaning of titles was searched.
_FORMER_DEFAULTS: Mapping[str, Any] = {"text": "title", "lexical": False}
_CONFIG_KEYS = {"fusion_weight": "evidence"}  # option names to keys in manifests of format 2, where they differ
_PATH_OPTIONS = ("items", "interactions", "adapter", "encoder", "template", "cold_template", "list_template", "prompt")
_SNIFFED_ROWS = 100  # rows that are searched for OpenAI's batch format


def task_options_from(context: typer.Context, input_path: Path) -> dict[str, Any]:
    """The options that decide the answers, as given on the command line; paths become absolute.

    Raises:
        InputError: an option does not apply to these rows, the schema is not JSON, or a filter does not parse.
    """
    given: dict[str, Any] = {name: context.params.get(name) for name in TASK_OPTIONS}
    given = {name: None if value in ([], ()) else value for name, value in given.items()}  # repeatable options
    given["engine"] = given["engine"] or _DEFAULT_ENGINE
    if given["engine"] not in _ENGINE_BATCH_SIZE:
        raise InputError(f"--engine is {given['engine']!r}; choose one of {', '.join(_ENGINE_BATCH_SIZE)}")
    texts = given["prompt"] is not None or _is_openai_batch(input_path)
    given["answers"] = TEXTS if texts else LISTS
    if texts:
        _reject_options(context, _RECOMMEND_OPTIONS, "applies to recommendation lists, but this run generates texts")
    else:
        _reject_options(context, _GENERATE_OPTIONS, "applies only to texts, which are generated with --prompt")
    if not needs_language_model(given):
        _reject_options(
            context, _LLM_OPTIONS, f"applies to the language model, which --ranker {given['ranker']} does not use"
        )
    if given["chat_template_arg"] is not None:
        given["chat_template_arg"] = canonical_arguments(given["chat_template_arg"])
    given["where"] = loading.join_filters(given["where"])
    given["schema"] = None if given["schema"] is None else _read_schema(Path(given["schema"]))
    paths = _PATH_OPTIONS if given["api_url"] is not None else (*_PATH_OPTIONS, "model")
    return given | {name: absolute_path(given[name]) for name in paths if given[name] is not None}


def check_rows(task_options: Mapping[str, Any], input_path: Path) -> None:
    """Check that the rows can be read, and that one is a user if the run recommends, before a model is loaded.

    Raises:
        InputError: there are no rows, or none is a user.
    """
    from genrec.batch.input import iter_rows
    from genrec.batch.openai import parse_batch_row
    from genrec.batch.recommend import parse_list_user
    from genrec.batch.row import first_valid_row

    try:
        if next(iter_rows(input_path), None) is None:
            raise InputError("it has no rows; name a file or folder with at least one")
        if task_options["answers"] == LISTS:
            first_valid_row(iter_rows(input_path), parse_list_user)
        elif task_options["prompt"] is None:
            first_valid_row(iter_rows(input_path), parse_batch_row)
    except InputError as error:
        raise error.revised(problem=f"{input_path}: {error.problem}") from None


def config_from(task_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a manifest records them."""
    return {
        _CONFIG_KEYS.get(name, name): value
        for name, value in task_options.items()
        if (value is not None or name not in _SPARSE_OPTIONS)
        and (name not in _FORMER_DEFAULTS or (task_options["answers"] == LISTS and value != _FORMER_DEFAULTS[name]))
    }


def task_from_run(batch_run: "BatchRun") -> "BatchTask":
    """Create the task of a run from its manifest.

    Raises:
        InputError: the run was started from Python, not by a command.
        MismatchError: a model, a template or the data have changed (named).
    """
    keys = {name: _CONFIG_KEYS.get(name, name) for name in TASK_OPTIONS}
    for name, key in keys.items():
        if key not in batch_run.config and name not in (*_SPARSE_OPTIONS, *_FORMER_DEFAULTS):
            raise InputError(
                f"the manifest of {batch_run.folder} has no {key}, so `genrec batch run` did not start this run; "
                "resume it from Python"
            )
    config = {**_FORMER_DEFAULTS, **batch_run.config}
    task, hashes = open_task({name: config.get(key) for name, key in keys.items()}, offline=True)
    for name, value in hashes.items():
        if batch_run.config.get(name) != value:
            raise MismatchError(
                f"{batch_run.folder} was started with a different {name}; restore it, or start a new run"
            )
    return task


def needs_language_model(task_options: Mapping[str, Any]) -> bool:
    """Whether the task runs the language model."""
    return bool(task_options["answers"] == TEXTS or task_options["ranker"] == first_ranker.GENERATIVE)


def open_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[BatchTask, dict[str, Any]]":
    """Create a task, and the hashes of everything else that decides its answers; see `task_options_from`.

    Raises:
        InputError: an option is invalid.
        ModelMissingError: a model is not on this machine.
    """
    return (_open_generate_task if task_options["answers"] == TEXTS else _open_recommend_task)(task_options, offline)


def _open_recommend_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[RecommendTask, dict[str, Any]]":
    from genrec.batch.recommend import RecommendTask
    from genrec.cache import default_cache
    from genrec.recommender import RecommendOptions

    ranker, cache = task_options["ranker"], default_cache()
    first_ranker.check_ranker(ranker)
    given = first_ranker.without_unused_models({name: task_options.get(name) for name in SETTING_OPTIONS}, ranker)
    # All priors are computed first, so that a score does not depend on which rows were processed before.
    settings = replace(loading.settings_from_options(given), compute_priors=True)
    source = loading.DataSource.from_options(task_options)
    if not offline:
        model_downloads.fetch_models(settings, cache)
    generative = needs_language_model(task_options)
    filters = {name: task_options[name] for name in (*_FILTER_OPTIONS, "on_unknown") if task_options[name] is not None}
    options: RecommendOptions = filters  # type: ignore[assignment]

    def check(recommender: "Recommender") -> None:
        first_ranker.check_data(ranker, recommender, source.name)
        with loading.translate_option_errors(has_on_unknown=True):
            recommender.check([], task_options["k"], **options)

    opened = loading.load_recommender(source, settings, cache, need_model=generative, offline=True, check=check)
    for notice in opened.notices:
        if notice.code in ("no_language_model", "no_embedding_ranker"):  # the answers would change once it is installed
            raise ModelMissingError(f"a batch run needs every stage of the fallback chain: {notice}")
        terminal.print_notice(f"note: {notice}")
    recommender = _starting_with(ranker, opened, source.name)
    task = RecommendTask(recommender, task_options["k"], options)
    return task, recommend_provenance(opened, settings, cache)


def _starting_with(ranker: str, recommender: "Recommender", data_name: str) -> "Recommender":
    """A recommender of one ranker, with the last stage of the fallback chain for rows that it cannot rank."""
    from genrec.recommender import Recommender

    chosen = [stage for stage in recommender.stages if stage.source == ranker]
    if not chosen:
        raise first_ranker.unavailable_ranker_error(ranker, data_name, [stage.source for stage in recommender.stages])
    last = recommender.stages[-1]
    stages = chosen if chosen[0] is last else [chosen[0], last]
    return Recommender(recommender.catalog, stages, interactions=recommender.interactions)


def _open_generate_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[GenerateTask, dict[str, Any]]":
    from genrec.batch.generate import GenerateTask
    from genrec.batch.prompts import ChatPromptBuilder, SamplingParams
    from genrec.cache import default_cache
    from genrec.decoding.grammar import GrammarCompiler
    from genrec.prompting.template import read_template

    cache = default_cache()
    settings = loading.settings_from_options(
        {
            name: task_options[name]
            for name in (
                *("model", "adapter", "trust_remote_code"),
                *_ENGINE_OPTIONS,
                *_PLACEMENT_OPTIONS,
                *CHAT_TEMPLATE_OPTIONS,
                *_API_OPTIONS,
            )
        }
    )
    if settings.model is None:
        raise InputError("--model none cannot generate texts; name a model, or omit --model")
    sampling_params = SamplingParams(
        task_options["max_tokens"], task_options["temperature"], task_options["seed"], task_options["schema"]
    )
    template = None if task_options["prompt"] is None else read_template(task_options["prompt"])
    if not offline:
        model_downloads.fetch_models(replace(settings, encoder=None), cache)
    provenance = model_provenance(settings, cache)
    if template is None:
        build_prompt: PromptBuilder = ChatPromptBuilder(Path(settings.model).name)
    else:
        build_prompt, hashes = _open_prompt_builder(template, task_options, cache)
        provenance |= hashes
    size = _ENGINE_BATCH_SIZE[settings.engine] if task_options["batch_size"] is None else task_options["batch_size"]
    check_count("--batch-size", size)
    tokenizer, open_backend = _text_model(settings, cache)
    for notice in tokenizer.notices:
        terminal.print_notice(f"note: {notice}")
    if sampling_params.schema is not None:
        GrammarCompiler(tokenizer).compile_json_schema(sampling_params.schema)  # before the model is loaded
    task = GenerateTask(open_backend(), tokenizer, build_prompt, sampling_params=sampling_params, batch_size=size)
    return task, provenance


def _text_model(settings: "Settings", cache: Path) -> "tuple[GrammarTokenizer, Callable[[], TextBackend]]":
    """The tokenizer of the model that writes texts, and a function that opens the model."""
    from genrec.backends.openai_api import OpenAiBackend
    from genrec.loading.language_model import find_model_files, open_engine
    from genrec.prompting.message_tokenizer import MessageTokenizer

    if settings.api is not None:
        backend = OpenAiBackend(str(settings.model), settings.api)

        def check_and_return() -> "TextBackend":
            backend.check_model(ask=True)
            return backend

        return MessageTokenizer(), check_and_return
    files = find_model_files(settings, cache, weights=settings.engine != "server")
    # Texts need no prior, so the model without its adapter is not loaded.
    own = replace(settings, generative=replace(settings.generative, prior=0.0))
    return files.tokenizer, lambda: open_engine(own, files, cache)[0]


def _open_prompt_builder(
    template: "Template", task_options: Mapping[str, Any], cache: Path
) -> "tuple[PromptBuilder, dict[str, Any]]":
    """The prompt builder of a template, and hashes; the catalog is read only if the template shows items."""
    import numpy as np

    from genrec.batch.prompts import TemplateInputs, TemplatePromptBuilder
    from genrec.rankers.popularity import PopularityRanker
    from genrec.recommender import Recommender

    provenance: dict[str, Any] = {"prompt hash": template.fingerprint}
    if set(TemplateInputs.names).isdisjoint(template.inputs):
        return TemplatePromptBuilder(template), provenance
    catalog, interactions = loading.DataSource.from_options(task_options).read(cache)
    ranker = PopularityRanker(np.zeros(len(catalog), dtype=np.int64))
    recommender = Recommender(catalog, [ranker], interactions=interactions)
    inputs = TemplateInputs(recommender, on_unknown=task_options["on_unknown"])
    return TemplatePromptBuilder(template, inputs), provenance | data_provenance(recommender)


def _reject_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    for name in names:
        parameter_source = context.get_parameter_source(name)
        if parameter_source is not None and parameter_source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} {reason}; omit it")


def _is_openai_batch(input_path: Path) -> bool:
    """Whether one of the first rows is in OpenAI's batch format."""
    from genrec.batch.input import iter_rows

    return any(
        "body" in row.columns or "custom_id" in row.columns for row in islice(iter_rows(input_path), _SNIFFED_ROWS)
    )


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--schema {path} cannot be read as JSON: {error}; name a file with a JSON Schema") from error
    if not isinstance(schema, dict):
        raise InputError(f"--schema {path} is not a JSON object; name a file with a JSON Schema")
    return schema
