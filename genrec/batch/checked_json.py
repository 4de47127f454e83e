"""JSON files that carry the SHA-256 of their content."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from genrec.artifact import write_json

_CHECKSUM_KEY = "sha256"


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum; replaces the file atomically."""
    write_json(path, _with_checksum(value))


def create_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, unless the file exists. If several processes try, the first one wins."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    write_checked_json(temporary, value)
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


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
