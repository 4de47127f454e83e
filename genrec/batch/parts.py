"""The parts of a batch run on disk: their answers, failures, records, and checks of all three."""

import hashlib
import io
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.artifact import atomic_writer, sha256_of
from genrec.batch.checked_json import read_checked_json, write_checked_json
from genrec.batch.input import RowBlock
from genrec.batch.leases import LEASE_TIMEOUT
from genrec.batch.result import BatchResult, RowFailure
from genrec.batch.row import InputRow
from genrec.data.ids import whole_number
from genrec.errors import ArtifactError, InputError

_SUBFOLDERS = ("parts", "failed", "done", "leases")


@dataclass(frozen=True)
class PartRecord:
    """The record of a finished part.

    Attributes:
        rows, lines, failed: counts of input rows, output lines and failed rows.
        sources: number of lines served by each source.
        tokens: tokens computed by language models.
        seconds: time spent on the part.
        part: SHA-256 of the Parquet file.
        failures: SHA-256 of the file of failures; "" if no row failed.
    """

    rows: int
    lines: int
    failed: int
    sources: dict[str, int]
    tokens: int
    seconds: float
    part: str
    failures: str


class PartStore:
    """Reads and writes the parts in a run's folder. Parts are numbered from 0.

    Args:
        folder: the run's folder.
        blocks: the input rows of each part.
        schema: of the output.
        key_columns: output columns that repeat input columns.
    """

    def __init__(self, folder: Path, blocks: Sequence[RowBlock], schema: pa.Schema, key_columns: Sequence[str]) -> None:
        self.folder, self._blocks, self._schema, self._key_columns = folder, blocks, schema, key_columns

    def __len__(self) -> int:
        return len(self._blocks)

    def prepare(self) -> None:
        """Create the subfolders and remove temporary files of killed workers.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        with self.translated_os_errors():
            for name in _SUBFOLDERS:
                (self.folder / name).mkdir(exist_ok=True)
                _remove_stale_files(self.folder / name)

    def is_done(self, number: int) -> bool:
        """Whether a part has a record."""
        return self._record_path(number).is_file()

    def done(self) -> list[int]:
        """The parts that have a record, in order."""
        names = {path.stem for path in (self.folder / "done").glob("[0-9]*.json")}
        return [number for number in range(len(self)) if part_name(number) in names]

    def recorded_numbers(self) -> list[int]:
        """The numbers of all record files, also of those that belong to no part of this run."""
        return [int(path.stem) for path in sorted((self.folder / "done").glob("[0-9]*.json"))]

    def read_record(self, number: int) -> PartRecord:
        """Read the record of a part.

        Raises:
            OSError, ValueError, TypeError: it is missing or damaged.
        """
        return PartRecord(**read_checked_json(self._record_path(number)))

    def records(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, PartRecord]]:
        """The readable records of some parts, by default of all that are done."""
        for number in self.done() if numbers is None else numbers:
            with suppress(OSError, ValueError, TypeError):
                yield number, self.read_record(number)

    def read_table(self, number: int) -> pa.Table:
        """The answers of a part."""
        return pq.read_table(self._part_path(number))

    def read_failures(self, number: int) -> list[RowFailure]:
        """The failed rows of a part."""
        path = self._failures_path(number)
        if not path.is_file():
            return []
        return [RowFailure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]

    def write(self, number: int, result: BatchResult, seconds: float) -> None:
        """Write a part, then its record.

        Raises:
            InputError: a row is missing from the result, or both answered and failed.
            ArtifactError: a file cannot be written.
        """
        self._check_complete(number, result)
        first, table = self._blocks[number].first_row, result.table.cast(self._schema).combine_chunks()
        table = table.set_column(table.schema.get_field_index("row"), "row", pc.add(table["row"], first))
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        part = buffer.getvalue()
        failures = [asdict(replace(failure, row=first + failure.row)) for failure in result.failures]
        failure_lines = "".join(f"{json.dumps(failure)}\n" for failure in failures).encode()
        record = PartRecord(
            rows=self._blocks[number].num_rows,
            lines=table.num_rows,
            failed=len(failures),
            sources=dict(result.sources),
            tokens=result.tokens,
            seconds=seconds,
            part=hashlib.sha256(part).hexdigest(),
            failures=hashlib.sha256(failure_lines).hexdigest() if failures else "",
        )
        with self.translated_os_errors():
            with atomic_writer(self._part_path(number)) as file:
                file.write(part)
            if failures:
                with atomic_writer(self._failures_path(number)) as file:
                    file.write(failure_lines)
            else:
                self._failures_path(number).unlink(missing_ok=True)
            write_checked_json(self._record_path(number), asdict(record))

    def remove_record(self, number: int) -> None:
        """Remove the record of a part, so that the part counts as missing."""
        self._record_path(number).unlink(missing_ok=True)

    def quarantine(self, number: int) -> None:
        """Move the files of a part to quarantine/ and remove its record."""
        for path in (self._part_path(number), self._failures_path(number)):
            self._quarantine_file(path)
        with self.translated_os_errors():
            self.remove_record(number)

    def quarantine_unknown_files(self) -> None:
        """Move every file in parts/ that is not a part of this run to quarantine/."""
        known = {part_name(number) for number in range(len(self))}
        for path in (self.folder / "parts").glob("[!.]*"):
            if path.name != f"{path.stem}.parquet" or path.stem not in known:
                self._quarantine_file(path)

    def is_intact(self, number: int) -> bool:
        """Whether the files of a part match its record."""
        try:
            record = self.read_record(number)
            if sha256_of(self._part_path(number)) != record.part:
                return False
            return not record.failed or sha256_of(self._failures_path(number)) == record.failures
        except (OSError, ValueError, TypeError):
            return not self._record_path(number).exists()  # removed just now: another worker is rebuilding the part

    def unknown_parts(self) -> list[str]:
        """Names of Parquet files in parts/ that are not parts of this run, sorted."""
        known = {part_name(number) for number in range(len(self))}
        return [path.name for path in sorted((self.folder / "parts").glob("*.parquet")) if path.stem not in known]

    def content_error(self, number: int, rows: Sequence[InputRow]) -> str:
        """Describe what is wrong with the content of an intact part; "" if nothing is.

        Args:
            number: of the part.
            rows: its input rows.
        """
        block, ranked = self._blocks[number], "rank" in self._schema.names
        columns = ["row", *(["rank"] if ranked else []), *self._key_columns]
        table = pq.read_table(self._part_path(number), columns=columns)
        line_rows = table["row"].to_pylist()
        failed = [failure.row for failure in self.read_failures(number)]
        expected = list(range(block.first_row, block.first_row + block.num_rows))
        if sorted([*dict.fromkeys(line_rows), *failed]) != expected:
            return "does not contain each of its rows exactly once"
        ranks = table["rank"].to_pylist() if ranked else [1] * len(line_rows)
        if line_rows != sorted(line_rows) or ranks != _expected_ranks(line_rows):
            return f"does not contain {'ranks 1, 2, ...' if ranked else 'one line'} for each row"
        for key in self._key_columns:
            for row, found in zip(line_rows, table[key].to_pylist(), strict=True):
                given = whole_number(rows[row - block.first_row].columns.get(key))
                if given not in (None, "") and str(given) != str(found):
                    return f"has {key} {found!r} in row {row:,}, where the input has {given!r}"
        return ""

    @contextmanager
    def translated_os_errors(self) -> Iterator[None]:
        """Raise ArtifactError, with a remedy, instead of OSError."""
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                f"cannot write to {self.folder}: {error.strerror or error}; free some space or repair the disk, then "
                "resume the run (finished parts are kept)"
            ) from error

    def _check_complete(self, number: int, result: BatchResult) -> None:
        """Refuse a result in which a row is missing, or both answered and failed."""
        found = [*dict.fromkeys(result.table["row"].to_pylist()), *(failure.row for failure in result.failures)]
        rows = self._blocks[number].num_rows
        if sorted(found) != list(range(rows)):
            raise InputError(
                f"the result covers {len(set(found))} of the {rows} rows of part {part_name(number)}; return either "
                "lines or a failure for each row, not both"
            )

    def _quarantine_file(self, path: Path) -> None:
        target = self.folder / "quarantine"
        with self.translated_os_errors(), suppress(FileNotFoundError):
            target.mkdir(exist_ok=True)
            path.replace(target / f"{secrets.token_hex(4)}-{path.name}")

    def _record_path(self, number: int) -> Path:
        return self.folder / "done" / f"{part_name(number)}.json"

    def _part_path(self, number: int) -> Path:
        return self.folder / "parts" / f"{part_name(number)}.parquet"

    def _failures_path(self, number: int) -> Path:
        return self.folder / "failed" / f"{part_name(number)}.jsonl"


def part_name(number: int) -> str:
    """The name of a part's files, without their suffix."""
    return f"{number:08}"


def merge_retry(
    table: pa.Table, block: RowBlock, retried_rows: Sequence[int], result: BatchResult, schema: pa.Schema
) -> tuple[pa.Table, list[RowFailure]]:
    """Merge the answers of retried rows into the earlier answers of their part.

    Args:
        table: the earlier answers; `row` counts the rows of the whole run.
        block: the rows of the part.
        retried_rows: positions in the part, from 0, of the rows that were passed to the task again.
        result: what the task returned for them.
        schema: of the output.

    Returns:
        All answers in row order, and the rows that failed again; `row` counts the rows of the part.
    """
    retried = pa.array(retried_rows)
    column = table.schema.get_field_index("row")
    earlier = table.set_column(column, "row", pc.subtract(table["row"], block.first_row))
    added = result.table.set_column(column, "row", retried.take(result.table["row"].combine_chunks()))
    merged = pa.concat_tables([earlier.cast(schema), added.cast(schema)])
    failures = [replace(failure, row=retried[failure.row].as_py()) for failure in result.failures]
    return merged.take(_sort_order(merged["row"])), failures


def _remove_stale_files(folder: Path) -> None:
    """Remove temporary files of killed workers: a live worker finishes such a file long before this age."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > 3 * LEASE_TIMEOUT:
                path.unlink()


def _expected_ranks(line_rows: Sequence[int]) -> list[int]:
    """For each line, its position among the lines of its row, from 1."""
    seen: Counter[int] = Counter()
    ranks = []
    for row in line_rows:
        seen[row] += 1
        ranks.append(seen[row])
    return ranks


def _sort_order(rows: pa.ChunkedArray) -> pa.Array:
    """Indices that sort lines by row; lines of the same row keep their order."""
    table = pa.table({"row": rows, "line": pa.array(range(len(rows)), pa.int64())})
    return pc.sort_indices(table, sort_keys=[("row", "ascending"), ("line", "ascending")])
