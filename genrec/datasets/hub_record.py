"""The record of a model from the Hub: the hash of each file, and when the file was compared with it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from genrec.artifact import file_stamp, sha256_of, write_json
from genrec.errors import ArtifactError

WEIGHTS = re.compile(r"[^/]+\.safetensors")
_WEIGHTS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub states it: `digest` is `sha256:` of its content, or `git:` and the id of its blob."""

    size: int
    digest: str

    def matches(self, path: Path) -> bool:
        """Whether a file has this size and content."""
        return path.is_file() and path.stat().st_size == self.size and _digest(path, self.digest) == self.digest


class HubRecord:
    """The hashes of a model's files, and the size and time of each one when it was compared with its hash."""

    def __init__(self, files: Mapping[str, HubFile], stamps: Mapping[str, list[int]] | None = None) -> None:
        self.files, self._stamps = dict(files), dict(stamps or {})

    @classmethod
    def read(cls, cache: Path, name: str, commit: str) -> Self | None:
        """The record of a commit; None if there is none."""
        try:
            content = json.loads(_record_path(cache, name, commit).read_text(encoding="utf-8"))
            files = {name: HubFile(int(size), str(digest)) for name, (size, digest) in content["files"].items()}
            return cls(files, {str(name): [int(number) for number in one] for name, one in content["stamps"].items()})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    @classmethod
    def from_snapshot(cls, folder: Path) -> Self:
        """The record of a model that another program downloaded: the files of the cache are named by their hashes."""
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            blob = path.resolve().name
            digest = f"sha256:{blob}" if re.fullmatch(r"[0-9a-f]{64}", blob) else f"git:{blob}"
            if path.is_symlink():  # on Windows there may be no links
                files[path.relative_to(folder).as_posix()] = HubFile(path.stat().st_size, digest)
        return cls(files)

    def expected(self, weights: bool) -> list[str]:
        """The names of the files, with or without the weights."""
        return [name for name in self.files if weights or not WEIGHTS.fullmatch(name)]

    def verify(self, folder: Path, *, weights: bool, remedy: str) -> None:
        """Compare the files that are new or have changed with their hashes.

        Raises:
            ArtifactError: a file was altered.
        """
        for name in self.expected(weights):
            if self._stamps.get(name) == file_stamp(folder / name):
                continue
            if not self.files[name].matches(folder / name):
                raise ArtifactError(f"{folder / name} was altered or cut short (its hash differs)", remedy=remedy)
            self._stamps[name] = file_stamp(folder / name)

    def stamp(self, folder: Path) -> None:
        """Note that all files have just been compared."""
        self._stamps = {name: file_stamp(folder / name) for name in self.files}

    def write(self, cache: Path, name: str, commit: str) -> None:
        """Write the record if it is new and the cache can be written; without it the files are compared again."""
        path = _record_path(cache, name, commit)
        content = {
            "files": {name: [file.size, file.digest] for name, file in self.files.items()},
            "stamps": self._stamps,
        }
        before = HubRecord.read(cache, name, commit)
        if before is not None and (before.files, before._stamps) == (self.files, self._stamps):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
        except OSError:
            return


def weight_names(folder: Path) -> list[str]:
    """The files of the weights of a folder, by its index if it has one."""
    index = folder / _WEIGHTS_INDEX
    if not index.is_file():
        found = [file.name for file in folder.glob("*.safetensors")]
        return found or ["model.safetensors"]
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ArtifactError(
            f"{index} does not name the files of the weights", remedy="download the model again"
        ) from None


def _digest(path: Path, like: str) -> str:
    """The digest of a file, of the kind of another digest."""
    if like.startswith("sha256:"):
        return f"sha256:{sha256_of(path)}"
    content = path.read_bytes()  # files that are not in LFS are small
    header = b"blob %d\0" % len(content)
    return f"git:{hashlib.sha1(header + content, usedforsecurity=False).hexdigest()}"


def _record_path(cache: Path, name: str, commit: str) -> Path:
    return cache / "hub" / name.replace("/", "--") / f"{commit}.json"
