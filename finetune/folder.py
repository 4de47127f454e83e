"""The folder of a run: what it is, its checkpoints, and what it ends with."""

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
_TORCH_WRITE_ERROR = "PytorchStreamWriter"  # what torch's error says when it could not write to the end


def open_run(run_folder: Path, run_config: Mapping[str, Any], resume: bool) -> None:
    """Begin a run, or go on with the same one.

    Args:
        run_folder: the folder.
        run_config: what makes the run this one; JSON.
        resume: whether it may be there already.

    Raises:
        InputError: what the folder says of its run is damaged.
        MismatchError: the folder holds another run (the difference is named), or one that is not to be gone on with.
    """
    kept, mine = run_folder / "config.json", dict(run_config)
    if kept.is_file():
        try:
            theirs = dict(json.loads(kept.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{kept} is damaged: {error}; name another folder with --out") from error
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise MismatchError(
                    f"{run_folder} holds a run whose {name} is {theirs.get(name)!r}, not {mine.get(name)!r}; name another "
                    "folder with --out, or go on with the same config and --set"
                )
        if not resume:
            raise MismatchError(
                f"{run_folder} holds this run already; go on with it by --resume, or name another folder"
            )
        return
    with report_disk_errors(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        write_json(kept, mine)


def last_checkpoint(run_folder: Path) -> str | None:
    """The newest whole checkpoint; killed before its first, a run begins again.

    Raises:
        MismatchError: it holds pickled weights.
    """
    there = [path for path in (run_folder / "checkpoints").glob("checkpoint-*") if path.is_dir()]
    for path in sorted(there, key=lambda path: -int(path.name.rpartition("-")[2])):
        if pickled := sorted(path.glob("*_model*.bin")):
            raise MismatchError(
                f"{pickled[0]} is pickled, which can run anything; remove {path}, an earlier one serves"
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
    """Tell of a disk that is full, or that may not be written, by what is left.

    Raises:
        EngineError: it is.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _TORCH_WRITE_ERROR not in str(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise EngineError(f"cannot write to {run_folder}: {reason}; name another folder with --out") from error
        raise EngineError(
            f"cannot write to {run_folder}: {reason}; its last whole checkpoint is {last_checkpoint(run_folder) or 'none'}; free "
            "some space, and go on with --resume"
        ) from error
