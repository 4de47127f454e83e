"""The folder of a run: its config, its checkpoints, and what it ends with."""

import json
from pathlib import Path

from finetune.config import TrainConfig
from genrec.artifact import writing_file
from genrec.errors import MismatchError

_WHOLE = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def open_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    """Begin a run, or go on with the same one.

    Raises:
        MismatchError: the folder holds another run (the difference is named), or one that is not to be gone on with.
    """
    kept, mine = out / "config.json", config.model_dump(mode="json")
    if kept.is_file():
        theirs = json.loads(kept.read_text(encoding="utf-8"))
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise MismatchError(
                    f"{out} holds a run whose {name} is {theirs.get(name)!r}, not {mine.get(name)!r}; name another "
                    "folder with --out"
                )
        if not resume:
            raise MismatchError(f"{out} holds this run already; go on with it by --resume, or name another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    with writing_file(kept) as file:
        file.write((json.dumps(mine, indent=1) + "\n").encode())


def last_checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint; killed before its first, a run begins again.

    Raises:
        MismatchError: it holds pickled weights.
    """
    there = [path for path in (out / "checkpoints").glob("checkpoint-*") if path.is_dir()]
    for path in sorted(there, key=lambda path: -int(path.name.rpartition("-")[2])):
        if pickled := sorted(path.glob("*_model*.bin")):
            raise MismatchError(
                f"{pickled[0]} is pickled, which can run anything; remove {path}, an earlier one is used"
            )
        if all((path / name).is_file() and (path / name).stat().st_size for name in _WHOLE):
            return str(path)
    return None
