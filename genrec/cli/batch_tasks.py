"""What answers the rows of a batch run, from the options that it was begun with, and hashes of all that decides it."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genrec.cli import loading, terminal
from genrec.errors import InputError, MismatchError, ModelMissingError

if TYPE_CHECKING:
    from genrec.backends.base import Backend
    from genrec.batch.generate import GenerateTask, PromptBuilder
    from genrec.batch.recommend import RecommendTask
    from genrec.batch.run import BatchRun
    from genrec.prompting.template import Template
    from genrec.recommender import Recommender
    from genrec.settings import Settings

    BatchTask = RecommendTask | GenerateTask

LISTS, TEXTS = "lists", "texts"
_RANKERS = ("generative", "blend", "embedding", "popularity")
_DATA_OPTIONS = ("data", "items", "interactions", "columns")
_MODEL_OPTIONS = ("model", "adapter", "batch_size")
_ENGINES = ("transformers", "vllm")
_SEARCH_OPTIONS = (
    *("template", "cold_template", "strategy", "score", "prior", "fusion_weight", "candidates", "width", "background"),
)
_FILTER_OPTIONS = ("explain", "filter_seen", "only", "exclude", "where")
_RECOMMEND_OPTIONS = ("k", "ranker", "encoder", *_FILTER_OPTIONS, *_SEARCH_OPTIONS)
_LLM_OPTIONS = ("engine", *_MODEL_OPTIONS, *_SEARCH_OPTIONS)
_GENERATE_OPTIONS = ("prompt", "schema", "max_tokens", "temperature", "seed")
_TASK_OPTIONS = (
    "answers",
    "engine",
    "on_unknown",
    *_DATA_OPTIONS,
    *_MODEL_OPTIONS,
    *_RECOMMEND_OPTIONS,
    *_GENERATE_OPTIONS,
)
_PATH_OPTIONS = ("items", "interactions", "adapter", "model", "encoder", "template", "cold_template", "prompt")
_SNIFFED_ROWS = 100  # rows that tell what all of them ask for
_ENGINE_BATCH_SIZE = {"transformers": 32, "vllm": 4096}  # prompts that an engine is handed at once


def task_options_from(context: typer.Context, input_path: Path) -> dict[str, Any]:
    """The options that decide the answers, as they were given; with paths that mean the same from everywhere.

    Raises:
        InputError: an option was given that the answers to these rows do not take, or the schema is no JSON.
    """
    given: dict[str, Any] = {name: context.params.get(name) for name in _TASK_OPTIONS}
    given = {name: None if value in ([], ()) else value for name, value in given.items()}  # options that may repeat
    if given["engine"] not in _ENGINES:
        raise InputError(f"--engine is {given['engine']!r}; choose one of {', '.join(_ENGINES)}")
    texts = given["prompt"] is not None or _is_openai_batch(input_path)
    given["answers"] = TEXTS if texts else LISTS
    if texts:
        _reject_options(context, _RECOMMEND_OPTIONS, "is for lists, and these rows ask for texts")
    else:
        _reject_options(
            context, _GENERATE_OPTIONS, "is for texts, which --prompt asks for, and these rows ask for lists"
        )
    if not needs_language_model(given):
        _reject_options(
            context, _LLM_OPTIONS, f"is for the language model, which --ranker {given['ranker']} does without"
        )
    given["schema"] = None if given["schema"] is None else _read_schema(Path(given["schema"]))
    return given | {name: _absolute_path(given[name]) for name in _PATH_OPTIONS if given[name] is not None}


def _absolute_path(name: Any) -> str:
    """A path that means the same wherever it is read; what is shipped under a name keeps it."""
    from genrec.datasets.models import MODELS
    from genrec.datasets.registry import DATASETS
    from genrec.prompting.template import template_names

    shipped = {"none", *MODELS, *DATASETS, *template_names()}
    return str(name) if str(name) in shipped or not os.path.exists(name) else os.path.abspath(name)


def _reject_options(context: typer.Context, names: Sequence[str], reason: str) -> None:
    for name in names:
        given_by = context.get_parameter_source(name)
        if given_by is not None and given_by.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} {reason}; leave it out")


def needs_language_model(task_options: Mapping[str, Any]) -> bool:
    """Whether what was asked for takes the language model."""
    return bool(task_options["answers"] == TEXTS or task_options["ranker"] == "generative")


def task_from_run(batch_run: "BatchRun") -> "BatchTask":
    """What answers the rows of a run, as it was begun.

    Raises:
        InputError: it was begun from Python, not by a command.
        MismatchError: a model, a template or the data are not what they were (named).
    """
    missing = [name for name in _TASK_OPTIONS if name not in batch_run.config]
    if missing:
        raise InputError(f"{batch_run.folder} was not begun by genrec batch run: its manifest has no {missing[0]}")
    answer, facts = open_task(batch_run.config, offline=True)
    for name, value in facts.items():
        if batch_run.config.get(name) != value:
            raise MismatchError(f"{batch_run.folder} was begun with another {name}; put it back, or begin another run")
    return answer


def open_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[BatchTask, dict[str, Any]]":
    """What answers rows, and hashes of all that decides its answers, see `task_options_from`.

    Raises:
        InputError: an option cannot be used.
        ModelMissingError: a model is not on this machine.
    """
    return (_open_generate_task if task_options["answers"] == TEXTS else _open_recommend_task)(task_options, offline)


def _open_recommend_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[RecommendTask, dict[str, Any]]":
    from genrec.batch.recommend import RecommendTask
    from genrec.cache import default_cache
    from genrec.recommender import Recommender, RecommendOptions

    if task_options["ranker"] not in _RANKERS:
        raise InputError(f"--ranker is {task_options['ranker']!r}; choose one of {', '.join(_RANKERS)}")
    models = {
        name: task_options[name]
        for name in ("encoder", *_MODEL_OPTIONS, *_SEARCH_OPTIONS)
        if task_options.get(name) is not None
    }
    if task_options["ranker"] != "generative":
        models["model"] = "none"
    if task_options["ranker"] == "popularity":
        models["encoder"] = "none"
    # Priors are measured whole, so that what an item scores does not depend on who was asked about before.
    chosen, cache, named = (
        replace(loading.settings_from_options(models), compute_priors=True),
        default_cache(),
        _data_source(task_options),
    )
    if not offline:
        _fetch_models(task_options["engine"], [chosen.model, chosen.encoder], cache)
    generative = needs_language_model(task_options)
    backend, prior_backend = _open_engine(task_options["engine"], chosen, cache) if generative else (None, None)
    opened = loading.load_recommender(
        named, chosen, cache, need_model=generative, backend=backend, prior_backend=prior_backend
    )
    for notice in opened.notices:
        if notice.code in ("no_language_model", "no_embedding_ranker"):  # what is missing may be there tomorrow
            raise ModelMissingError(f"a batch run needs all of its parts: {notice}")
        terminal.print_notice(f"note: {notice}")
    steps = [step for step in opened.stages if step.source == task_options["ranker"]]
    if not steps:
        there = ", ".join(step.source for step in opened.stages)
        raise InputError(f"--ranker {task_options['ranker']} has nothing to go on in {named.name}; choose from {there}")
    ladder = steps if steps[0] is opened.stages[-1] else [steps[0], opened.stages[-1]]
    alone = Recommender(opened.catalog, ladder, interactions=opened.interactions)
    given = {name: task_options[name] for name in (*_FILTER_OPTIONS, "on_unknown") if task_options[name] is not None}
    options: RecommendOptions = given  # type: ignore[assignment]
    with loading.translate_option_errors():
        return RecommendTask(alone, task_options["k"], options), _recommend_provenance(
            opened, task_options["engine"], chosen, cache
        )


def _recommend_provenance(recommender: "Recommender", engine: str, settings: "Settings", cache: Path) -> dict[str, Any]:
    """What decides lists, beside what was asked for."""
    from genrec.loading import find_model_directory
    from genrec.prompting.template import read_template

    facts = _data_provenance(recommender)
    if settings.encoder is not None:
        facts["encoder hash"] = _file_hashes(find_model_directory(settings.encoder, cache))
    for ranker in loading.generative_rankers(recommender):
        facts |= _model_provenance(engine, settings, cache)
        recorded = asdict(ranker.settings)
        recorded["evidence"] = recorded.pop("fusion_weight")  # the key that runs have recorded from the start
        facts["settings"] = recorded
        for name in ("template", "cold_template"):
            facts[f"{name} hash"] = read_template(getattr(settings, name)).fingerprint
    return facts


def _open_generate_task(task_options: Mapping[str, Any], offline: bool) -> "tuple[GenerateTask, dict[str, Any]]":
    from genrec.batch.generate import ChatPromptBuilder, GenerateTask, SamplingParams
    from genrec.cache import default_cache
    from genrec.loading import find_model_directory, load_backend
    from genrec.prompting.template import read_template
    from genrec.prompting.tokenizer import HuggingFaceTokenizer

    models = {name: task_options[name] for name in ("model", "adapter") if task_options.get(name) is not None}
    chosen, cache = loading.settings_from_options(models), default_cache()
    if chosen.model is None:
        raise InputError("--model none writes no texts; name a model, or leave --model out")
    style = SamplingParams(
        task_options["max_tokens"], task_options["temperature"], task_options["seed"], task_options["schema"]
    )
    template = None if task_options["prompt"] is None else read_template(task_options["prompt"])
    if not offline:
        _fetch_models(task_options["engine"], [chosen.model], cache)
    facts = _model_provenance(task_options["engine"], chosen, cache)
    if template is None:
        read: PromptBuilder = ChatPromptBuilder(Path(chosen.model).name)
    else:
        read, more = _open_row_renderer(template, task_options, cache)
        facts |= more
    backend, _ = _open_engine(task_options["engine"], chosen, cache)
    if backend is None:
        backend, tokenizer = load_backend(chosen.model, cache, adapter=chosen.adapter)
    else:
        tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(chosen.model, cache))
    size = (
        _ENGINE_BATCH_SIZE[task_options["engine"]] if task_options["batch_size"] is None else task_options["batch_size"]
    )
    return GenerateTask(backend, tokenizer, read, sampling_params=style, batch_size=size), facts


def _open_row_renderer(
    template: "Template", task_options: Mapping[str, Any], cache: Path
) -> "tuple[PromptBuilder, dict[str, Any]]":
    """What fills in a template; the catalog is read only where it shows items."""
    import numpy as np

    from genrec.batch.generate import TemplateInputs, TemplatePromptBuilder
    from genrec.rankers.popularity import PopularityRanker
    from genrec.recommender import Recommender

    facts: dict[str, Any] = {"prompt hash": template.fingerprint}
    if set(TemplateInputs.names).isdisjoint(template.inputs):
        return TemplatePromptBuilder(template), facts
    catalog, interactions = _data_source(task_options).read(cache)
    ranker = PopularityRanker(np.zeros(len(catalog), dtype=np.int64))
    known = Recommender(catalog, [ranker], interactions=interactions)
    lookup = TemplateInputs(known, on_unknown=task_options["on_unknown"])
    return TemplatePromptBuilder(template, lookup), facts | _data_provenance(known)


def _fetch_models(engine: str, models: "Sequence[str | Path | None]", cache: Path) -> None:
    """See that models are on this machine. vLLM does not start in a process that has unpacked one."""
    from genrec.datasets.models import MODELS

    bundled = [str(name) for name in models if str(name) in MODELS]
    if engine != "vllm":
        loading.fetch_models(bundled, cache)
    elif bundled:
        command = [sys.executable, "-m", "genrec", "model", "get", *bundled]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ModelMissingError(f"{bundled[0]} could not be fetched; run: genrec model get {' '.join(bundled)}")


def _open_engine(name: str, settings: "Settings", cache: Path) -> "tuple[Backend | None, Backend | None]":
    """The engine that was asked for, and the same without its adapter; (None, None) for the one that comes by itself.

    Raises:
        InputError: its model holds a merged adapter, and what it was before is not at hand in this engine.
    """
    if name != "vllm" or settings.model is None:
        return None, None
    from genrec.backends.provenance import FILENAME
    from genrec.backends.vllm_engine import VllmEngineBackend
    from genrec.datasets.registry import find_adapter
    from genrec.loading import find_model_directory

    weights = find_model_directory(settings.model, cache)
    if (weights / FILENAME).is_file():
        raise InputError(f"{weights} holds a merged adapter; give vLLM the model itself, and --adapter beside it")
    plain = VllmEngineBackend(weights, max_adapters=0 if settings.adapter is None else 1)
    atexit.register(plain.close)
    if settings.adapter is None:
        return plain, None
    return plain.with_adapter(find_adapter(settings.adapter)), plain


def _model_provenance(engine: str, settings: "Settings", cache: Path) -> dict[str, Any]:
    from genrec.datasets.registry import find_adapter
    from genrec.loading import find_model_directory

    facts: dict[str, Any] = {"model hash": _file_hashes(find_model_directory(settings.model or "", cache))}
    if settings.adapter is not None:
        facts["adapter hash"] = _file_hashes(find_adapter(settings.adapter))
    return {**facts, "precision": _numeric_precision(engine), **_package_version()}


def _data_provenance(recommender: "Recommender") -> dict[str, Any]:
    facts: dict[str, Any] = {**_package_version(), "catalog hash": recommender.catalog.fingerprint}
    if recommender.interactions is not None:
        facts["interactions hash"] = recommender.interactions.fingerprint
    return facts


def _file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a model's folder, tokenizer and configuration too."""
    from genrec.backends.provenance import file_hashes

    return file_hashes(folder, "**/[!.]*")


def _package_version() -> dict[str, Any]:
    from importlib.metadata import version

    return {"genrec": version("genrec")}


def _numeric_precision(engine: str) -> str:
    """What models compute in and with here; others' numbers may differ in the last places, or the first."""
    from importlib.metadata import packages_distributions, version

    from genrec.backends.precision import default_device, native_dtype

    packages = sorted(name for one in {engine, "torch"} for name in set(packages_distributions().get(one, ())))
    made_by = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{native_dtype(default_device())} on {default_device().type}, {made_by}"


def _data_source(task_options: Mapping[str, Any]) -> loading.DataSource:
    items, interactions = (
        None if task_options[name] is None else Path(task_options[name]) for name in ("items", "interactions")
    )
    return loading.DataSource.from_options(task_options["data"], items, interactions, task_options["columns"])


def _is_openai_batch(input_path: Path) -> bool:
    """Whether among the first rows one is of OpenAI's batch format."""
    from genrec.batch.input import iter_rows

    return any(
        "body" in row.columns or "custom_id" in row.columns for row in islice(iter_rows(input_path), _SNIFFED_ROWS)
    )


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--schema {path} cannot be read as JSON: {error}; name a file with a JSON Schema") from error
    if not isinstance(found, dict):
        raise InputError(f"--schema {path} is no JSON object; name a file with a JSON Schema")
    return found
