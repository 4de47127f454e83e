"""Engines of the language model in a batch run, and the download of its models."""

import atexit
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.cli import loading
from genrec.errors import InputError, ModelMissingError

if TYPE_CHECKING:
    from genrec.backends.base import Backend
    from genrec.settings import Settings


def fetch_engine_models(engine: str, models: "Sequence[str | Path | None]", cache: Path) -> None:
    """Download bundled models that are missing.

    For vLLM a separate process downloads them: vLLM cannot start in a process that has unpacked a model.

    Raises:
        ModelMissingError: a download failed.
    """
    from genrec.datasets.models import MODELS

    bundled = [str(name) for name in models if str(name) in MODELS]
    if engine != "vllm":
        loading.fetch_models(bundled, cache)
    elif bundled:
        command = [sys.executable, "-m", "genrec", "model", "get", *bundled]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ModelMissingError(f"cannot download {bundled[0]}; run: genrec model get {' '.join(bundled)}")


def open_engine(name: str, settings: "Settings", cache: Path) -> "tuple[Backend | None, Backend | None]":
    """The backend with its adapter and the backend without it, or (None, None) for the default engine.

    Raises:
        InputError: the model has a merged adapter, so that vLLM cannot run the model without it.
    """
    if name != "vllm" or settings.model is None:
        return None, None
    from genrec.backends.provenance import PROVENANCE_FILE
    from genrec.backends.vllm_engine import VllmEngineBackend
    from genrec.datasets.registry import find_adapter
    from genrec.loading import find_model_directory

    weights = find_model_directory(settings.model, cache)
    if (weights / PROVENANCE_FILE).is_file():
        raise InputError(
            f"{weights} has a merged adapter, which --engine vllm does not support; pass the original model with "
            "--model, and the adapter with --adapter"
        )
    base = VllmEngineBackend(
        weights,
        max_adapters=0 if settings.adapter is None else 1,
        llm_kwargs={"trust_remote_code": settings.trust_remote_code},
    )
    atexit.register(base.close)
    if settings.adapter is None:
        return base, None
    return base.with_adapter(find_adapter(settings.adapter)), base
