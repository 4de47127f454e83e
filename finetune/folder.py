"""The folder of a run: its configuration and its checkpoints."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError

from genrec.artifact import write_json
from genrec.errors import EngineError, InputError, MismatchError

_REQUIRED_FILES = ("adapter_model.safetensors", "scheduler.pt")
_TORCH_WRITE_ERROR = "PytorchStreamWriter"  # in the message of torch's error when a write fails


def open_run(run_folder: Path, run_config: Mapping[str, Any], resume: bool) -> None:
    """Start a new run in a folder, or check that the folder contains the same run.

    Args:
        run_folder: the folder.
        run_config: JSON that identifies the run.
        resume: whether the folder may contain the run already.

    Raises:
        InputError: the configuration in the folder is damaged.
        MismatchError: the folder contains another run (the difference is named), or this run without `resume`.
        EngineError: the folder cannot be written.
    """
    path, wanted = run_folder / "config.json", dict(run_config)
    if path.is_file():
        try:
            existing = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error}; choose another folder with --out") from error
        for name in sorted(wanted.keys() | existing.keys()):
            if wanted.get(name) != existing.get(name):
                raise MismatchError(
                    f"{run_folder} contains a run whose {name} is {existing.get(name)!r}, not {wanted.get(name)!r}; "
                    "choose another folder with --out, or resume with the same config and --set"
                )
        if not resume:
            raise MismatchError(f"{run_folder} contains this run already; add --resume, or choose another folder")
        return
    with report_disk_errors(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)


def last_checkpoint(run_folder: Path) -> str | None:
    """Find the newest complete checkpoint; None if there is none, so the run starts again.

    Raises:
        MismatchError: a checkpoint contains pickled weights.
    """
    checkpoints = [path for path in (run_folder / "checkpoints").glob("checkpoint-*") if path.is_dir()]
    for path in sorted(checkpoints, key=lambda path: -int(path.name.rpartition("-")[2])):
        if pickled := sorted(path.glob("*_model*.bin")):
            raise MismatchError(
                f"{pickled[0]} is pickled, and loading it could run code; remove {path}, and resume from an earlier one"
            )
        if _is_complete(path):
            return str(path)
    return None


def _is_complete(path: Path) -> bool:
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = all((path / name).is_file() and (path / name).stat().st_size for name in _REQUIRED_FILES)
    return files and is_zipfile(path / "optimizer.pt")


@contextmanager
def report_disk_errors(run_folder: Path) -> Iterator[None]:
    """Raise errors of a full or read-only disk as `EngineError`, with the newest complete checkpoint.

    Raises:
        EngineError: the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _TORCH_WRITE_ERROR not in str(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise EngineError(f"cannot write to {run_folder}: {reason}; choose another folder with --out") from error
        raise EngineError(
            f"cannot write to {run_folder}: {reason}; the newest complete checkpoint is "
            f"{last_checkpoint(run_folder) or 'none'}; free some space, and continue with --resume"
        ) from error
