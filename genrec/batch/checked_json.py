"""JSON files that carry the SHA-256 of their content."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec.artifact import atomic_writer, write_json

_CHECKSUM_KEY = "sha256"


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum; replaces the file atomically."""
    write_json(path, _with_checksum(value))


def create_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, unless the file exists. If several processes try, the first one wins.

    Like leases, it needs a file system that creates exclusively and renames atomically, and no hard links. A process
    claims the path by renaming a folder that holds the file; this fails if there is a claim, because no folder with
    content can be replaced. Every process completes the claim it finds, so that of a killed process wins, too.
    """
    claim = path.with_name(f".{path.name}.claim")
    own = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    own.mkdir()
    try:
        write_checked_json(own / path.name, value)
        while not path.exists():
            try:
                os.rename(own, claim)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another claim came first
                    raise
            try:
                content = (claim / path.name).read_bytes()
            except FileNotFoundError:
                continue  # the claim was completed just now
            if not path.exists():  # read before this check, a claim that was too late is never written
                with atomic_writer(path) as file:
                    file.write(content)
            shutil.rmtree(claim, ignore_errors=True)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def read_checked_json(path: Path) -> dict[str, Any]:
    """Read a JSON object and verify its checksum.

    Raises:
        ValueError: the content does not match the checksum.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    checksum = value.pop(_CHECKSUM_KEY, None) if isinstance(value, dict) else None
    if checksum != hashlib.sha256(json.dumps(value).encode()).hexdigest():
        raise ValueError("its content does not match its checksum")
    return dict(value)


def _with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return {**plain, _CHECKSUM_KEY: hashlib.sha256(json.dumps(plain).encode()).hexdigest()}
