"""The manifest of a batch run: its configuration, the hashes of its inputs, and its output schema."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.artifact import UserData, sha256_of, unwritable_reason
from genrec.batch.checked_json import create_checked_json, read_checked_json
from genrec.batch.input import BlockReader, InputIndex, RowBlock, build_input_index, input_file_names, input_path
from genrec.batch.row import InputRow
from genrec.errors import ArtifactError, InputError, MismatchError

FORMAT_VERSION = 2
FILENAME = "manifest.json"
_USER_DATA = UserData("verbatim", "the users of the input rows and their results, in parts/, failed/ and quarantine/")


@dataclass(frozen=True)
class Manifest:
    """What a run was started with.

    Attributes:
        config: configuration and hashes, in plain values.
        source: the file or folder of its rows.
        index: where the rows are.
        schema: of the output.
        key_columns: output columns that are copied from the input.
    """

    config: dict[str, Any]
    source: Path
    index: InputIndex
    schema: pa.Schema
    key_columns: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest in a run's folder.

        Raises:
            InputError: there is none.
            ArtifactError: it is damaged.
        """
        path = folder / FILENAME
        if not path.is_file():
            raise InputError(f"{folder} contains no {FILENAME}; name the folder of a batch run")
        try:
            value = read_checked_json(path)
            blocks = tuple(RowBlock(*block) for block in value["blocks"])
            index = InputIndex(tuple(value["files"]), tuple(value["digests"]), blocks)
            schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in value["facts"]["writes"]])
            return cls(value["facts"], Path(value["source"]), index, schema, tuple(value["facts"]["keys"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}; start the run again in another folder") from error

    def check_source(self) -> None:
        """Check that the input files are the ones the run was started with.

        Raises:
            MismatchError: a file was changed, added or removed (named).
        """
        with suppress(InputError):  # if no file is left, the loop below names each one
            if added := sorted(set(input_file_names(self.source)) - set(self.index.files)):
                raise MismatchError(
                    f"{self.source} contains {added[0]}, which was added after the run started; remove it, or start "
                    "another run"
                )
        for name, digest in zip(self.index.files, self.index.digests, strict=True):
            path = input_path(self.source, name)
            try:
                found = sha256_of(path)
            except OSError as error:
                raise MismatchError(
                    f"{path}, an input of the run, cannot be read: {error.strerror}; restore it, or start another run"
                ) from error
            if found != digest:
                raise MismatchError(f"{path} has changed since the run started; restore it, or start another run")


def create_manifest(
    source: Path,
    folder: Path,
    config: Mapping[str, Any],
    schema_of: Callable[[Iterator[InputRow]], pa.Schema],
    *,
    part_rows: int,
    key_columns: Sequence[str],
) -> Manifest:
    """Write the manifest of a new run, or read that of the same run; the arguments are those of `start_run`.

    Raises:
        InputError: the source has no rows, or none that can be answered; or the configuration is not plain JSON.
        MismatchError: the folder holds something else; for another run, the first key that differs is named.
        ArtifactError: the folder cannot be written.
    """
    index = build_input_index(source, part_rows)
    columns = _column_types(source, index, schema_of)
    full_config = {
        "format": FORMAT_VERSION,
        **_plain_values(config),
        "part_rows": part_rows,
        "writes": columns,
        "keys": [name for name, _ in columns if name in key_columns],
        "input": index.files,
        **{f"input {name}": digest for name, digest in zip(index.files, index.digests, strict=True)},
    }
    check_run_folder(folder)
    value = {
        "facts": full_config,
        "user_data": _USER_DATA.to_json(),
        "source": os.path.abspath(source),
        "files": index.files,
        "digests": index.digests,
        "blocks": [list(asdict(block).values()) for block in index.blocks],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_checked_json(folder / FILENAME, value)
    except OSError as error:
        raise ArtifactError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from error
    manifest = Manifest.read(folder)
    _check_same_config(folder, manifest.config, json.loads(json.dumps(full_config)))
    return manifest


def check_run_folder(folder: Path) -> None:
    """Check that a folder can hold a run, before the work that a run needs.

    Raises:
        MismatchError: it is a file, or a folder with other content.
        ArtifactError: it cannot be written.
    """
    if not _may_hold_run(folder):
        raise MismatchError(f"{folder} is neither an empty folder nor a batch run; name another folder")
    if reason := unwritable_reason(folder):
        raise ArtifactError(f"cannot write to {folder}: {reason}; name another folder")


def _plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(config)
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"config cannot be written as JSON: {error}; use plain values") from error
    return plain


def _may_hold_run(folder: Path) -> bool:
    """Whether a folder is missing, empty (hidden files aside), or a run."""
    if not folder.is_dir():
        return not folder.exists()
    return (folder / FILENAME).is_file() or all(path.name[0] == "." for path in folder.iterdir())


def _column_types(
    source: Path, index: InputIndex, schema_of: Callable[[Iterator[InputRow]], pa.Schema]
) -> list[list[str]]:
    """Name and type of each output column, as JSON can hold them."""
    reader = BlockReader(source, index)
    rows = (row for block in index.blocks for row in reader.read(block))
    try:
        columns = [[column.name, str(column.type)] for column in schema_of(rows)]
        for _, kind in columns:
            pa.type_for_alias(kind)  # raises ValueError if it cannot be read back
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except ValueError as error:
        raise InputError(f"an output column has an unsupported type: {error}; use a plain type") from error
    return columns


def _check_same_config(folder: Path, existing: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a run with another configuration."""
    for key in [*requested, *(key for key in existing if key not in requested)]:
        if requested.get(key) != existing.get(key):
            raise MismatchError(
                f"{folder} contains a run whose {key} is {existing.get(key)!r}, not {requested.get(key)!r}; name "
                "another folder, or use the options that the run was started with"
            )
