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
    from genrec.batch.generate import Reading, TextAnswerer
    from genrec.batch.recommend import ListAnswerer
    from genrec.batch.run import BatchRun
    from genrec.prompting.template import Template
    from genrec.recommender import Recommender
    from genrec.settings import Settings

    Answerer = ListAnswerer | TextAnswerer

LISTS, TEXTS = "lists", "texts"
_RANKERS = ("generative", "blend", "embedding", "popularity")
_DATA = ("data", "items", "interactions", "columns")
_MODEL = ("model", "adapter", "batch_size")
_ENGINES = ("transformers", "vllm")
_SEARCH = (
    *("template", "cold_template", "strategy", "score", "prior", "evidence", "candidates", "width", "background"),
)
_LIMITS = ("explain", "filter_seen", "only", "exclude", "where")
_OF_LISTS = ("k", "ranker", "encoder", *_LIMITS, *_SEARCH)
_OF_MODEL = ("engine", *_MODEL, *_SEARCH)
_OF_TEXTS = ("prompt", "schema", "max_tokens", "temperature", "seed")
_ASKED = ("answers", "engine", "on_unknown", *_DATA, *_MODEL, *_OF_LISTS, *_OF_TEXTS)
_PATHS = ("items", "interactions", "adapter", "model", "encoder", "template", "cold_template", "prompt")
_LOOKED_AT = 100  # rows that tell what all of them ask for
_TOGETHER = {"transformers": 32, "vllm": 4096}  # prompts that an engine is handed at once


def asked_of(context: typer.Context, rows: Path) -> dict[str, Any]:
    """The options that decide the answers, as they were given; with paths that mean the same from everywhere.

    Raises:
        InputError: an option was given that the answers to these rows do not take, or the schema is no JSON.
    """
    given: dict[str, Any] = {name: context.params.get(name) for name in _ASKED}
    given = {name: None if value in ([], ()) else value for name, value in given.items()}  # options that may repeat
    if given["engine"] not in _ENGINES:
        raise InputError(f"--engine is {given['engine']!r}; choose one of {', '.join(_ENGINES)}")
    texts = given["prompt"] is not None or _are_requests(rows)
    given["answers"] = TEXTS if texts else LISTS
    if texts:
        _refuse(context, _OF_LISTS, "is for lists, and these rows ask for texts")
    else:
        _refuse(context, _OF_TEXTS, "is for texts, which --prompt asks for, and these rows ask for lists")
    if not needs_language_model(given):
        _refuse(context, _OF_MODEL, f"is for the language model, which --ranker {given['ranker']} does without")
    given["schema"] = None if given["schema"] is None else _read_schema(Path(given["schema"]))
    return given | {name: _from_anywhere(given[name]) for name in _PATHS if given[name] is not None}


def _from_anywhere(name: Any) -> str:
    """A path that means the same wherever it is read; what is shipped under a name keeps it."""
    from genrec.datasets.models import MODELS
    from genrec.datasets.registry import DATASETS
    from genrec.prompting.template import template_names

    shipped = {"none", *MODELS, *DATASETS, *template_names()}
    return str(name) if str(name) in shipped or not os.path.exists(name) else os.path.abspath(name)


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    for name in names:
        given_by = context.get_parameter_source(name)
        if given_by is not None and given_by.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} {why}; leave it out")


def needs_language_model(asked: Mapping[str, Any]) -> bool:
    """Whether what was asked for takes the language model."""
    return bool(asked["answers"] == TEXTS or asked["ranker"] == "generative")


def answerer_of(found: "BatchRun") -> "Answerer":
    """What answers the rows of a run, as it was begun.

    Raises:
        InputError: it was begun from Python, not by a command.
        MismatchError: a model, a template or the data are not what they were (named).
    """
    missing = [name for name in _ASKED if name not in found.facts]
    if missing:
        raise InputError(f"{found.folder} was not begun by genrec batch run: its manifest has no {missing[0]}")
    answer, facts = open_answerer(found.facts, offline=True)
    for name, value in facts.items():
        if found.facts.get(name) != value:
            raise MismatchError(f"{found.folder} was begun with another {name}; put it back, or begin another run")
    return answer


def open_answerer(asked: Mapping[str, Any], offline: bool) -> "tuple[Answerer, dict[str, Any]]":
    """What answers rows, and hashes of all that decides its answers, see `asked_of`.

    Raises:
        InputError: an option cannot be used.
        ModelMissingError: a model is not on this machine.
    """
    return (_open_texts if asked["answers"] == TEXTS else _open_lists)(asked, offline)


def _open_lists(asked: Mapping[str, Any], offline: bool) -> "tuple[ListAnswerer, dict[str, Any]]":
    from genrec.batch.recommend import ListAnswerer
    from genrec.cache import default_cache
    from genrec.recommender import Options, Recommender

    if asked["ranker"] not in _RANKERS:
        raise InputError(f"--ranker is {asked['ranker']!r}; choose one of {', '.join(_RANKERS)}")
    models = {name: asked[name] for name in ("encoder", *_MODEL, *_SEARCH) if asked.get(name) is not None}
    if asked["ranker"] != "generative":
        models["model"] = "none"
    if asked["ranker"] == "popularity":
        models["encoder"] = "none"
    # Priors are measured whole, so that what an item scores does not depend on who was asked about before.
    chosen, cache, named = replace(loading.settings(models), fill_priors=True), default_cache(), _named(asked)
    if not offline:
        _fetch(asked["engine"], [chosen.model, chosen.encoder], cache)
    generative = needs_language_model(asked)
    backend, prior_backend = _open_engine(asked["engine"], chosen, cache) if generative else (None, None)
    opened = loading.load(named, chosen, cache, need_model=generative, backend=backend, prior_backend=prior_backend)
    for notice in opened.notices:
        if notice.startswith(("no LLM", "no embedding ranker")):  # what is missing may be there tomorrow
            raise ModelMissingError(f"a batch run needs all of its parts: {notice}")
        terminal.say(f"note: {notice}")
    steps = [step for step in opened.ladder if step.source == asked["ranker"]]
    if not steps:
        there = ", ".join(step.source for step in opened.ladder)
        raise InputError(f"--ranker {asked['ranker']} has nothing to go on in {named.name}; choose from {there}")
    ladder = steps if steps[0] is opened.ladder[-1] else [steps[0], opened.ladder[-1]]
    alone = Recommender(opened.catalog, ladder, interactions=opened.interactions)
    given = {name: asked[name] for name in (*_LIMITS, "on_unknown") if asked[name] is not None}
    options: Options = given  # type: ignore[assignment]
    with loading.in_options():
        return ListAnswerer(alone, asked["k"], options), _facts_of_lists(opened, asked["engine"], chosen, cache)


def _facts_of_lists(opened: "Recommender", engine: str, chosen: "Settings", cache: Path) -> dict[str, Any]:
    """What decides lists, beside what was asked for."""
    from genrec.loading import find_weights
    from genrec.prompting.template import read_template

    facts = _facts_of_data(opened)
    if chosen.encoder is not None:
        facts["encoder hash"] = _hashes(find_weights(chosen.encoder, cache))
    for ranker in loading.generative(opened):
        facts |= _facts_of_model(engine, chosen, cache)
        facts["settings"] = asdict(ranker.settings)
        for name in ("template", "cold_template"):
            facts[f"{name} hash"] = read_template(getattr(chosen, name)).fingerprint
    return facts


def _open_texts(asked: Mapping[str, Any], offline: bool) -> "tuple[TextAnswerer, dict[str, Any]]":
    from genrec.batch.generate import MessageReading, Style, TextAnswerer
    from genrec.cache import default_cache
    from genrec.loading import find_weights, load_backend
    from genrec.prompting.template import read_template
    from genrec.prompting.tokenizer import HuggingFaceTokenizer

    models = {name: asked[name] for name in ("model", "adapter") if asked.get(name) is not None}
    chosen, cache = loading.settings(models), default_cache()
    if chosen.model is None:
        raise InputError("--model none writes no texts; name a model, or leave --model out")
    style = Style(asked["max_tokens"], asked["temperature"], asked["seed"], asked["schema"])
    template = None if asked["prompt"] is None else read_template(asked["prompt"])
    if not offline:
        _fetch(asked["engine"], [chosen.model], cache)
    facts = _facts_of_model(asked["engine"], chosen, cache)
    if template is None:
        read: Reading = MessageReading(Path(chosen.model).name)
    else:
        read, more = _open_template(template, asked, cache)
        facts |= more
    backend, _ = _open_engine(asked["engine"], chosen, cache)
    if backend is None:
        backend, tokenizer = load_backend(chosen.model, cache, adapter=chosen.adapter)
    else:
        tokenizer = HuggingFaceTokenizer.from_directory(find_weights(chosen.model, cache))
    size = _TOGETHER[asked["engine"]] if asked["batch_size"] is None else asked["batch_size"]
    return TextAnswerer(backend, tokenizer, read, style=style, batch_size=size), facts


def _open_template(template: "Template", asked: Mapping[str, Any], cache: Path) -> "tuple[Reading, dict[str, Any]]":
    """What fills in a template; the catalog is read only where it shows items."""
    import numpy as np

    from genrec.batch.generate import Lookup, TemplateReading
    from genrec.rankers.popularity import PopularityRanker
    from genrec.recommender import Recommender

    facts: dict[str, Any] = {"prompt hash": template.fingerprint}
    if set(Lookup.inputs).isdisjoint(template.inputs):
        return TemplateReading(template), facts
    catalog, interactions = _named(asked).read(cache)
    ranker = PopularityRanker(np.zeros(len(catalog), dtype=np.int64))
    known = Recommender(catalog, [ranker], interactions=interactions)
    lookup = Lookup(known, on_unknown=asked["on_unknown"])
    return TemplateReading(template, lookup), facts | _facts_of_data(known)


def _fetch(engine: str, models: "Sequence[str | Path | None]", cache: Path) -> None:
    """See that models are on this machine. vLLM does not start in a process that has unpacked one."""
    from genrec.datasets.models import MODELS

    bundled = [str(name) for name in models if str(name) in MODELS]
    if engine != "vllm":
        loading.fetch(bundled, cache)
    elif bundled:
        command = [sys.executable, "-m", "genrec", "model", "get", *bundled]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ModelMissingError(f"{bundled[0]} could not be fetched; run: genrec model get {' '.join(bundled)}")


def _open_engine(name: str, chosen: "Settings", cache: Path) -> "tuple[Backend | None, Backend | None]":
    """The engine that was asked for, and the same without its adapter; (None, None) for the one that comes by itself.

    Raises:
        InputError: its model holds a merged adapter, and what it was before is not at hand in this engine.
    """
    if name != "vllm" or chosen.model is None:
        return None, None
    from genrec.backends.provenance import FILE
    from genrec.backends.vllm_engine import VllmEngineBackend
    from genrec.datasets.registry import find_adapter
    from genrec.loading import find_weights

    weights = find_weights(chosen.model, cache)
    if (weights / FILE).is_file():
        raise InputError(f"{weights} holds a merged adapter; give vLLM the model itself, and --adapter beside it")
    plain = VllmEngineBackend(weights, adapters=0 if chosen.adapter is None else 1)
    atexit.register(plain.close)
    if chosen.adapter is None:
        return plain, None
    return plain.with_adapter(find_adapter(chosen.adapter)), plain


def _facts_of_model(engine: str, chosen: "Settings", cache: Path) -> dict[str, Any]:
    from genrec.datasets.registry import find_adapter
    from genrec.loading import find_weights

    facts: dict[str, Any] = {"model hash": _hashes(find_weights(chosen.model or "", cache))}
    if chosen.adapter is not None:
        facts["adapter hash"] = _hashes(find_adapter(chosen.adapter))
    return {**facts, "precision": _precision(engine), **_version()}


def _facts_of_data(opened: "Recommender") -> dict[str, Any]:
    facts: dict[str, Any] = {**_version(), "catalog hash": opened.catalog.fingerprint}
    if opened.interactions is not None:
        facts["interactions hash"] = opened.interactions.fingerprint
    return facts


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a model's folder, tokenizer and configuration too."""
    from genrec.backends.provenance import hashes_of

    return hashes_of(folder, "**/[!.]*")


def _version() -> dict[str, Any]:
    from importlib.metadata import version

    return {"genrec": version("genrec")}


def _precision(engine: str) -> str:
    """What models compute in and with here; others' numbers may differ in the last places, or the first."""
    from importlib.metadata import packages_distributions, version

    from genrec.backends.precision import default_device, native_dtype

    packages = sorted(name for one in {engine, "torch"} for name in set(packages_distributions().get(one, ())))
    made_by = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{native_dtype(default_device())} on {default_device().type}, {made_by}"


def _named(asked: Mapping[str, Any]) -> loading.Source:
    items, interactions = (None if asked[name] is None else Path(asked[name]) for name in ("items", "interactions"))
    return loading.Source.of(asked["data"], items, interactions, asked["columns"])


def _are_requests(rows: Path) -> bool:
    """Whether among the first rows one is of OpenAI's batch format."""
    from genrec.batch.input import rows_of

    return any("body" in row.value or "custom_id" in row.value for row in islice(rows_of(rows), _LOOKED_AT))


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--schema {path} cannot be read as JSON: {error}; name a file with a JSON Schema") from error
    if not isinstance(found, dict):
        raise InputError(f"--schema {path} is no JSON object; name a file with a JSON Schema")
    return found
