"""Artifacts: folders that are written atomically and verified by checksums.

An artifact holds its files and `manifest.json`, with the kind, the format version, the SHA-256 of every file, what it
holds of users and the writer's own metadata. Nothing in it is ever unpickled.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from genrec.errors import ArtifactError

MANIFEST = "manifest.json"

_DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class UserData:
    """What a derived file or folder holds of users; its manifest has these fields as `user_data`.

    Attributes:
        kind: `none`: it was computed without users; `aggregate`: numbers that were computed from histories of users,
            without ids and histories; `verbatim`: ids, histories or texts of users. Forgetting a user leaves only
            `none` as it is.
        contains: what it holds, for people.
        users: the number of users whose data it was computed from; None if they were not counted.
    """

    kind: Literal["none", "aggregate", "verbatim"]
    contains: str
    users: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as a manifest has them."""
        return asdict(self)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> list[int]:
    """The size of a file in bytes, and its modification time in nanoseconds: equal while nobody has written to it."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def check_writable(directory: Path, *, kind: str) -> None:
    """Check that an artifact can be written to a folder, before the work that makes it.

    Raises:
        ArtifactError: the folder cannot be written, or contains anything but an artifact of this kind.
    """
    try:
        _check_replaceable(directory, kind)
    except OSError as error:
        raise ArtifactError(f"cannot write {kind} to {directory}: {error.strerror}; choose another folder") from error
    if reason := unwritable_reason(directory.absolute().parent):
        raise ArtifactError(f"cannot write {kind} to {directory}: {reason}; choose another folder")


def unwritable_reason(folder: Path) -> str | None:
    """Why files cannot be made in a folder, which need not exist yet; None if they can."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK) else f"{existing} is not writable"


@contextmanager
def artifact_writer(
    directory: Path, *, kind: str, version: int, user_data: UserData, metadata: Mapping[str, Any]
) -> Iterator[Path]:
    """Yield an empty folder; on leaving, add a manifest to it and rename it to `directory`.

    If the body raises, `directory` stays as it was.

    Args:
        directory: the folder to write; an artifact of the same kind there is replaced.
        kind: what the artifact is, such as "index".
        version: of the artifact's format.
        user_data: what the artifact holds of users.
        metadata: JSON values for the manifest, which `verify` returns.

    Raises:
        ArtifactError: the folder cannot be written, or contains anything but an artifact of this kind.
    """
    try:
        _check_replaceable(directory, kind)
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write {kind} to {directory}: {error.strerror}; choose another folder") from error
    try:
        yield temporary
        paths = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        files = {str(path.relative_to(temporary)): sha256_of(path) for path in paths}
        manifest = {"kind": kind, "version": version, "files": files, "user_data": user_data.to_json(), **metadata}
        manifest["checksum"] = _checksum(manifest)
        (temporary / MANIFEST).write_text(_manifest_text(manifest), encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # the user who serves an artifact may differ from the one who saved it
                _fsync(path)
        temporary.chmod(0o755)
        _replace_directory(temporary, directory)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"cannot write {kind} to {directory}: {reason}; "
            "nothing was changed, free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Write one file to a temporary path and rename it to `path`; if the body raises, `path` stays as it was."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_writer(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def verify(directory: Path, *, kind: str, version: int) -> dict[str, Any]:
    """Check every file of an artifact against its manifest, and return the manifest.

    Raises:
        ArtifactError: the folder does not exist, has another kind or version, or a file (named in the message) is
            missing, cut short or altered.
    """
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory} contains no saved {kind} ({MANIFEST} is missing); save one there first"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy=f"save the {kind} again") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{path} does not describe a saved {kind}", remedy=f"save the {kind} again")
    is_complete = text == _manifest_text(manifest)
    if manifest.pop("checksum", None) != _checksum(manifest) or not is_complete:
        raise ArtifactError(f"{path} was altered or cut short (its checksum differs)", remedy=f"save the {kind} again")
    if manifest.get("version") != version:
        raise ArtifactError(
            f"{path} has format version {manifest.get('version')!r}, but this genrec reads {version}",
            remedy=f"save the {kind} again",
        )
    for name, expected in manifest["files"].items():
        file = directory / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing", remedy=f"save the {kind} again")
        if sha256_of(file) != expected:
            raise ArtifactError(f"{file} was altered or cut short (SHA-256 differs)", remedy=f"save the {kind} again")
    return manifest


def user_data_kind(directory: Path) -> str | None:
    """What the manifest of an artifact says about users, see `UserData.kind`.

    Returns:
        None if it cannot be read, or was written before manifests said so: then the artifact may hold anything.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["user_data"]["kind"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to one safetensors file."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def mmap_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file as read-only memory maps.

    Raises:
        ArtifactError: the file is missing or is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        whole = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
        arrays = {}
        for name, entry in header.items():
            if name != "__metadata__":
                if entry["dtype"] not in _DTYPES:
                    raise ValueError(f"{name} has the type {entry['dtype']!r}, not one of {', '.join(_DTYPES)}")
                begin, stop = entry["data_offsets"]
                arrays[name] = np.asarray(whole[begin:stop]).view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return arrays
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="save it again") from error


def _check_replaceable(directory: Path, kind: str) -> None:
    """Refuse to replace a folder unless it is empty, or an artifact of this kind or with a damaged manifest."""
    try:
        if not any(directory.iterdir()):
            return
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        is_replaceable = isinstance(manifest, dict) and manifest.get("kind") == kind
    except FileNotFoundError:
        is_replaceable = not directory.exists()
    except ValueError:
        # Other tools write a manifest.json too, sometimes not in plain JSON; ours contains its checksum.
        is_replaceable = b'"checksum": "' in (directory / MANIFEST).read_bytes()
    if not is_replaceable:
        raise ArtifactError(f"{directory} exists and is not a saved {kind}; choose another folder or empty this one")


def _replace_directory(temporary: Path, directory: Path) -> None:
    """Rename `temporary` to `directory`, unless that has the same content: another process may be reading it."""
    while True:
        try:
            os.replace(temporary, directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):
            if (directory / MANIFEST).read_bytes() == (temporary / MANIFEST).read_bytes() and _is_valid(directory):
                return
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        with suppress(FileNotFoundError):
            os.replace(directory, old)
        shutil.rmtree(old, ignore_errors=True)


def _is_valid(directory: Path) -> bool:
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    try:
        verify(directory, kind=manifest["kind"], version=manifest["version"])
    except ArtifactError:
        return False
    return True


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
