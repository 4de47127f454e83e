"""`genrec doctor`: checks of this machine, each with a remedy if it fails."""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from genrec.cli import loading, options, terminal
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS
from genrec.cli.settings_options import setting_options
from genrec.errors import EngineError, GenrecError, ModelMissingError

if TYPE_CHECKING:
    from genrec.notices import Notice
    from genrec.settings import Settings

CheckState = Literal["ok", "slow", "degraded", "broken"]

_MIN_PYTHON = (3, 11)
_PACKAGES = "genrec[local]"
_INSTALL_COMMAND = f"pip install '{_PACKAGES}'"
_CHAT_TEMPLATE_REMEDIES = {
    "reasoning_skipped": "choose a model that answers without reasoning, or whose template reads enable_thinking",
    "chat_template_arguments_ignored": "omit them, or use names that the model's chat template reads",
}
_STYLES: dict[CheckState, str] = {"ok": "green", "slow": "yellow", "degraded": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: `slow` and `degraded` still work; with `broken` the language model cannot run.
        found: what was found.
        remedy: what to do; "" if nothing is wrong.
    """

    name: str
    state: CheckState
    found: str
    remedy: str = ""


@options.with_options(
    setting_options("model", "encoder", "dtype", "device", "device_map", "trust_remote_code", *CHAT_TEMPLATE_OPTIONS)
)
def doctor(as_json: options.Json = False, **given: Any) -> None:
    """Check Python, packages, models and the cache, and rank three items with the language model."""
    from genrec.cache import default_cache

    settings = loading.settings_from_options(given)
    cache = default_cache()
    with terminal.progress() as progress:
        progress.start("Checking packages and models")
        checks = [_check_python(), *_check_packages(), _check_cache(cache)]
        for name, state in ((settings.model, "broken"), (settings.encoder, "degraded")):
            if name is not None:
                checks.append(_check_model(name, cache, "broken" if state == "broken" else "degraded"))
        if settings.model is not None and all(check.state != "broken" for check in checks):
            progress.start("Ranking three items")
            checks += _check_generation(settings, cache)
    usable = all(check.state != "broken" for check in checks)
    if as_json:
        terminal.write_json({"usable": usable, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if not usable:
        raise typer.Exit(EngineError.exit_code)


def _check_python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info >= _MIN_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "broken", found, f"install Python {'.'.join(map(str, _MIN_PYTHON))} or newer")


def _check_packages() -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("torch", "transformers", "tokenizers"):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "broken", "not installed", _INSTALL_COMMAND)


def _check_cache(cache: Path) -> Check:
    from genrec.cache import cache_write_error

    if reason := cache_write_error(cache):
        remedy = "make it writable, or set the environment variable GENREC_CACHE to another folder"
        return Check("cache", "degraded", f"{cache} is not writable: {reason}", remedy)
    return Check("cache", "ok", str(cache))


def _check_model(name: str | Path, cache: Path, failure_state: CheckState) -> Check:
    from genrec.datasets.hub_id import HubId
    from genrec.datasets.model_directory import find_model_directory
    from genrec.datasets.models import MODELS

    title = f"model {name}"
    can_download = str(name) in MODELS or HubId.parse(name) is not None
    remedy = f"genrec model get {name}" if can_download else "check the path"
    try:
        folder = find_model_directory(name, cache)
    except ModelMissingError as error:
        if can_download:
            return Check(title, failure_state, "not downloaded", remedy)
        return Check(title, failure_state, error.problem, error.remedy)
    except GenrecError as error:
        return Check(title, failure_state, str(error), remedy)
    if can_download:
        return Check(title, "ok", "downloaded, every file matches its checksum")
    return Check(title, "ok", f"found in {folder}")


def _check_generation(settings: "Settings", cache: Path) -> Iterator[Check]:
    """Rank three items; a model that loads may still fail to run."""
    try:
        dtype, device, notices, ranked = _rank_three(settings, cache)
    except (GenrecError, ImportError, OSError) as error:
        problem, remedy = (error.problem, error.remedy) if isinstance(error, GenrecError) else (str(error), "")
        yield Check("generation", "broken", problem, remedy or "download the model again, or reinstall " + _PACKAGES)
        return
    if dtype == "bfloat16":
        yield Check("arithmetic", "ok", f"bfloat16 on {device}")
    else:
        remedy = "optional: a processor with bfloat16 (AVX-512 BF16) or a GPU is about 2.5 times faster"
        yield Check("arithmetic", "slow", f"{dtype} on {device}, which does not support bfloat16", remedy)
    for notice in notices:
        yield Check("chat template", "degraded", str(notice), _CHAT_TEMPLATE_REMEDIES[notice.code])
    yield Check("generation", "ok", f"ranking after Tea Cup: {', '.join(ranked)}")


def _rank_three(settings: "Settings", cache: Path) -> "tuple[str, str, Sequence[Notice], list[str]]":
    """The number type and the device of the model, notices about its chat template, and the ranked titles."""
    import numpy as np

    from genrec.data.catalog import Catalog
    from genrec.data.subset import Subset
    from genrec.deadline import Deadline
    from genrec.index.catalog_index import CatalogIndex
    from genrec.index.identifiers import TitleIdentifiers
    from genrec.loading.language_model import load_backend
    from genrec.prompting.template import read_template
    from genrec.rankers.base import RankRequest
    from genrec.rankers.generative import GenerativeRanker
    from genrec.rankers.generative_settings import GenerativeSettings
    from genrec.types import Item

    backend, tokenizer = load_backend(
        settings.model or "",
        cache,
        trust_remote_code=settings.trust_remote_code,
        chat_template=settings.chat_template,
        placement=settings.placement,
    )
    titles = ("Tea Cup", "Tea Pot", "Bicycle Bell", "Garden Spade")
    catalog = Catalog.from_items([Item(number, title) for number, title in enumerate(titles)])
    ranker = GenerativeRanker(
        CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer),
        backend,
        tokenizer,
        template=read_template("next-item"),
        cold_template=read_template("cold-start"),
        settings=GenerativeSettings(strategy="exhaustive"),
    )
    history, allowed = np.array([0]), Subset.from_indices(4, [1, 2, 3])
    ranking = ranker.rank([RankRequest(history, "", allowed)], 3, deadline=Deadline.never())[0]
    if sorted(ranking.item_indices.tolist()) != [1, 2, 3]:
        raise EngineError(f"{backend.name} ranked items {ranking.item_indices.tolist()}, but 1, 2 and 3 were allowed")
    dtype, ranked = str(backend.dtype).removeprefix("torch."), [titles[item] for item in ranking.item_indices]
    return dtype, str(backend.device), tokenizer.notices, ranked


def _print(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        found = Text(terminal.sanitize_line(check.found, max_length=1000))
        if check.remedy:
            found.append(f"\n{check.remedy}", style="bold")
        table.add_row(Text(check.state, style=_STYLES[check.state]), terminal.sanitize_line(check.name), found)
    terminal.stdout_console().print(table)
