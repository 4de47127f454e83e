"""`genrec doctor`: checks of this machine, each with a remedy if it fails."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from genrec.cli import loading, options, terminal
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS
from genrec.cli.model_checks import Check, CheckState, check_language_model
from genrec.cli.settings_options import SETTING_OPTIONS, setting_options
from genrec.errors import EngineError, GenrecError, ModelMissingError

_MIN_PYTHON = (3, 11)
_PACKAGES = "genrec[local]"
_INSTALL_COMMAND = f"pip install '{_PACKAGES}'"
_STYLES: dict[CheckState, str] = {"ok": "green", "slow": "yellow", "degraded": "yellow", "broken": "bold red"}


_ENGINE_OPTIONS = (
    "engine",
    "server_url",
    "server_model",
    *(name for name in SETTING_OPTIONS if name.startswith("api_")),
)


@options.with_options(
    setting_options(
        "model",
        "adapter",
        "encoder",
        "dtype",
        "device",
        "device_map",
        "trust_remote_code",
        *_ENGINE_OPTIONS,
        *CHAT_TEMPLATE_OPTIONS,
    )
)
def doctor(as_json: options.Json = False, **given: Any) -> None:
    """Check this machine and the models: what works with the language model and its adapter, the cost, and a list."""
    from genrec.cache import default_cache

    settings = loading.settings_from_options(given)
    cache = default_cache()
    with terminal.progress() as progress:
        progress.start("Checking packages and models")
        packages = _check_packages() if settings.api is None else ()
        checks = [_check_python(), *packages, _check_cache(cache)]
        if settings.model is not None and settings.api is None:
            checks.append(_check_model(settings.model, cache, "broken", weights=settings.engine != "server"))
        if settings.encoder is not None:
            checks.append(_check_model(settings.encoder, cache, "degraded"))
        if settings.model is not None and all(check.state != "broken" for check in checks):
            progress.start("Checking the language model, and ranking three items")
            checks += check_language_model(settings, cache)
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


def _check_model(name: str | Path, cache: Path, failure_state: CheckState, *, weights: bool = True) -> Check:
    from genrec.datasets.hub_id import HubId
    from genrec.datasets.model_directory import find_model_directory
    from genrec.datasets.models import MODELS

    title = f"model {name}"
    can_download = str(name) in MODELS or HubId.parse(name) is not None
    remedy = f"genrec model get {name}" if can_download else "check the path"
    try:
        folder = find_model_directory(name, cache, weights=weights)
    except ModelMissingError as error:
        if can_download:
            return Check(title, failure_state, "not downloaded", remedy)
        return Check(title, failure_state, error.problem, error.remedy)
    except GenrecError as error:
        return Check(title, failure_state, str(error), remedy)
    if can_download:
        return Check(title, "ok", "downloaded, every file matches its checksum")
    return Check(title, "ok", f"found in {folder}")


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
