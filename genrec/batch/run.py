"""Runs over more rows than memory holds, that end with every row there once, whatever happened on the way.

A run is a folder. Rows are answered part by part; a part is written aside and put in place when it is whole, and only
then recorded as done, with its SHA-256. So whoever goes on, after a kill or beside others, sees what is missing, and
what is done twice is the same file. What a part holds depends on its rows and on what the manifest names alone, not on
who makes it or when.

    run/manifest.json       what the run is: configuration and hashes; another one is refused
    run/run.json            versions, times and totals, written when a worker ends
    run/parts/N.parquet     the answers, in the order of their rows
    run/failed/N.jsonl      rows that could not be answered: row, id, code, message
    run/done/N.json         which parts are whole
    run/leases/N            who makes what just now
    run/quarantine/         parts that were damaged; they are made again
"""

import hashlib
import io
import json
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.artifact import atomic_writer, sha256_of, write_json
from genrec.batch.input import (
    BlockReader,
    InputIndex,
    InputRow,
    RowBlock,
    build_input_index,
    input_file_names,
    input_path,
)
from genrec.batch.leases import LEASE_TIMEOUT, Leases
from genrec.errors import ArtifactError, EngineError, InputError, MismatchError

FORMAT_VERSION = 2
ENGINE_ERROR = "engine"
"""The code of a row that failed because of the engine, and not because of what it asks."""

_SUBFOLDERS = ("parts", "failed", "done", "leases")
_POLL_INTERVAL = 0.5  # seconds between two looks at what others are making
_MIN_PROGRESS_INTERVAL = (
    1.0  # seconds between two words of progress, or, where there is so much to look at that it takes its time,
)
_PROGRESS_COST_FACTOR = 20  # times as long as one takes
_RETRY_DELAYS = (1.0, 5.0, 15.0, 40.0)  # seconds that an engine which answers nobody is given to come back
_VERSIONED_PACKAGES = ("genrec", "numpy", "pyarrow")
_CHECKSUM_KEY = "sha256"


@dataclass(frozen=True)
class RowFailure:
    """A row that could not be answered.

    Attributes:
        row: its place among those that were asked together, from 0; in files its number among all rows of the run.
        id: what the caller calls it, where it could be read.
        code: the kind of failure, such as `unknown_user`.
        message: what is wrong, and what would mend it.
    """

    row: int
    id: str | int | None
    code: str
    message: str


@dataclass(frozen=True)
class BatchResult:
    """What became of some rows.

    Attributes:
        table: one or more lines for each row that did not fail, in their order; its column `row` says whose, as in
            `Failure`.
        failures: the other rows, in their order.
        sources: how many lines each source served.
        tokens: computed by language models.
    """

    table: pa.Table
    failures: Sequence[RowFailure] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0


BatchTask = Callable[[Sequence[InputRow], pa.Schema], BatchResult]
"""What answers rows with a table of a run's schema; alike rows in alike company get the same answer."""


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        rows, parts: of the whole run.
        rows_done, parts_done: of these; failed rows are done.
        failed: rows that could not be answered.
        lines: that were written.
        sources: how many of them each source served.
        tokens: computed by language models.
        seconds: that workers spent on parts, together.
        active: parts that somebody is making just now, or was when killed.
    """

    rows: int
    parts: int
    rows_done: int
    parts_done: int
    failed: int
    lines: int
    sources: Mapping[str, int]
    tokens: int
    seconds: float
    active: int

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.parts_done == self.parts


@dataclass(frozen=True)
class _PartRecord:
    """That a part is done; `part` and `failures` are the SHA-256 of its two files, the second one "" without any."""

    rows: int
    lines: int
    failed: int
    sources: dict[str, int]
    tokens: int
    seconds: float
    part: str
    failures: str


@dataclass
class _RunTotals:
    """Of some records."""

    rows: int = 0
    lines: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, record: _PartRecord) -> None:
        for name in ("rows", "lines", "failed", "tokens", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(record, name))
        self.sources.update(record.sources)


class BatchRun:
    """A run's folder. Made by `begin` or `BatchRun.open`.

    Attributes:
        folder: where it lies.
        config: its configuration and hashes.
        source: the file or folder of its rows.
        schema: of what is written.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], source: Path, index: InputIndex, schema: pa.Schema
    ) -> None:
        self.folder, self.config, self.source, self.schema = folder, config, source, schema
        self._index, self._reader = index, BlockReader(source, index)
        self._counted_parts: set[int] = set()  # parts whose records are in the totals
        self._totals = _RunTotals()
        self._is_source_checked = False  # whether the rows were just seen to be the same

    @classmethod
    def open(cls, folder: Path) -> "BatchRun":
        """The run that a folder holds.

        Raises:
            InputError: it holds none.
            ArtifactError: its manifest is damaged.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            raise InputError(f"{folder} holds no manifest.json; name a folder that a batch run was begun in")
        try:
            kept = _read_checked_json(path)
            blocks = tuple(RowBlock(*one) for one in kept["blocks"])
            found = InputIndex(tuple(kept["files"]), tuple(kept["digests"]), blocks)
            schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kept["facts"]["writes"]])
            return cls(folder, kept["facts"], Path(kept["source"]), found, schema)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}; begin the run again in another folder") from error

    def run(
        self,
        task: BatchTask,
        *,
        on_progress: Callable[[RunStatus], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunStatus:
        """Make every part that is missing, beside whoever else does, and return when none is.

        Raises:
            ArtifactError: a part cannot be written; what was written is whole.
            MismatchError: the rows are not those that the run began with.
            EngineError: of some part not a single row could be answered because of the engine, again and again.
        """
        due = clock()
        self.prepare()
        with self._open_leases() as leases:
            while missing := self.missing_parts():
                made = 0
                for number in missing:
                    made += self.process_part(number, task, leases, clock=clock)
                    if on_progress is not None and clock() >= due:
                        began = clock()
                        on_progress(self.status())
                        due = clock() + max(_MIN_PROGRESS_INTERVAL, _PROGRESS_COST_FACTOR * (clock() - began))
                if not made:  # all that is missing is in the making elsewhere
                    time.sleep(_POLL_INTERVAL)
        status = self.write_summary()
        if on_progress is not None:
            on_progress(status)
        return status

    def prepare(self) -> None:
        """See that the rows are the same, make the folders, and set aside what is damaged; before anybody works.

        Raises:
            MismatchError: the rows are not those that the run began with.
            ArtifactError: the folder cannot be written.
        """
        if not self._is_source_checked:
            self.check_source()
        with self._translated_os_errors():
            for name in _SUBFOLDERS:
                (self.folder / name).mkdir(exist_ok=True)
                _remove_stale_files(self.folder / name)
        self.quarantine()

    def missing_parts(self) -> list[int]:
        """The parts that are not done."""
        done = set(self._done_parts())
        return [number for number in range(len(self._index.blocks)) if number not in done]

    def process_part(
        self, number: int, task: BatchTask, leases: Leases, *, clock: Callable[[], float] = time.monotonic
    ) -> bool:
        """Make one part; False where it is done already, or somebody else is making it."""
        if self._record_path(number).is_file() or not self._acquire(leases, number):
            return False
        try:
            if self._record_path(number).is_file():  # it was done while the lease was taken
                return False
            began, block = clock(), self._index.blocks[number]
            answers = self._run_task(task, self._reader.read(block))
            if not leases.holds(_part_name(number)):  # this process slept, and somebody else makes it now
                return False
            self._write_part(number, answers, clock() - began)
            return True
        finally:
            leases.release(_part_name(number))

    def retry_failed(self, task: BatchTask, *, clock: Callable[[], float] = time.monotonic) -> RunStatus:
        """Ask again about the rows that failed, and about no others.

        Raises:
            InputError: the run is not finished, or a part turned out to be damaged.
        """
        self.prepare()
        if self.missing_parts():
            raise InputError(f"{self.folder} is not finished; resume it first, then ask again about what failed")
        with self._open_leases() as leases:
            for number in [number for number, record in self._records() if record.failed]:
                if self._acquire(leases, number):
                    try:
                        self._retry_part(number, task, clock)
                    finally:
                        leases.release(_part_name(number))
        return self.write_summary()

    def write_summary(self) -> RunStatus:
        """Write `run.json`, and return how far the run is."""
        status = self.status()
        versions = {name: version(name) for name in _VERSIONED_PACKAGES} | {"python": platform.python_version()}
        with self._translated_os_errors():
            facts = {"versions": versions, "seed": self.config.get("seed"), **asdict(status)}
            write_json(self.folder / "run.json", facts)
        return status

    def status(self) -> RunStatus:
        """How far it is; records are read once."""
        done = self._done_parts()
        if not self._counted_parts <= set(done):  # some were set aside, or mended
            self._reset_totals()
        for number, record in self._records([one for one in done if one not in self._counted_parts]):
            self._counted_parts.add(number)
            self._totals.add(record)
        totals = self._totals
        leases = self.folder / "leases"
        active = sum(not path.name.startswith(".") for path in leases.iterdir()) if leases.is_dir() else 0
        return RunStatus(
            rows=self._index.num_rows,
            parts=len(self._index.blocks),
            rows_done=totals.rows,
            parts_done=len(self._counted_parts),
            failed=totals.failed,
            lines=totals.lines,
            sources=dict(totals.sources.most_common()),
            tokens=totals.tokens,
            seconds=totals.seconds,
            active=active,
        )

    def quarantine(self) -> list[str]:
        """Set aside every part that is not what its record says, and return their names; they count as missing.

        So are files that lie among the parts and are none. A part that somebody is making, or mending, is left to them.
        """
        damaged = []
        known = {_part_name(number) for number in range(len(self._index.blocks))}
        for path in (self.folder / "parts").glob("[!.]*"):
            if path.name != f"{path.stem}.parquet" or path.stem not in known:
                self._quarantine_file(path)
        with self._open_leases() as leases:
            for number in (int(path.stem) for path in sorted((self.folder / "done").glob("[0-9]*.json"))):
                if self._is_intact(number) or not self._acquire(leases, number):
                    continue
                try:
                    if not self._is_intact(number):  # what it was before the lease was taken counts no more
                        self._quarantine_part(number)
                        damaged.append(_part_name(number))
                finally:
                    leases.release(_part_name(number))
        return damaged

    def _quarantine_part(self, number: int) -> None:
        for path in (self._part_path(number), self._failures_path(number)):
            self._quarantine_file(path)
        with self._translated_os_errors():
            self._record_path(number).unlink(missing_ok=True)
        self._reset_totals()

    def _quarantine_file(self, path: Path) -> None:
        aside = self.folder / "quarantine"
        with self._translated_os_errors(), suppress(FileNotFoundError):
            aside.mkdir(exist_ok=True)
            path.replace(aside / f"{secrets.token_hex(4)}-{path.name}")

    def check_source(self) -> None:
        """See that the rows are those that the run began with.

        Raises:
            MismatchError: a file was changed, or is gone (named).
        """
        with suppress(InputError):  # where there is nothing any more, each file is told below
            if strange := sorted(set(input_file_names(self.source)) - set(self._index.files)):
                raise MismatchError(
                    f"{self.source} holds {strange[0]}, which was not there when the run began; take it away, or begin "
                    "another run"
                )
        for name, digest in zip(self._index.files, self._index.digests, strict=True):
            path = input_path(self.source, name)
            try:
                found = sha256_of(path)
            except OSError as error:
                raise MismatchError(
                    f"{path}, which the run began with, cannot be read: {error.strerror}; put it back, or begin "
                    "another run"
                ) from error
            if found != digest:
                raise MismatchError(f"{path} is not what the run began with; put it back, or begin another run")
        self._is_source_checked = True

    def verify(self) -> list[str]:
        """What is wrong with the run: [] where every row is there once, as it was recorded.

        Reads the rows and the parts again: of each row either a failure or, for the right user, ranks from 1 on.
        """
        wrong = []
        for number, block in enumerate(self._index.blocks):
            if not self._record_path(number).is_file():
                wrong.append(
                    f"part {_part_name(number)} is missing: {block.num_rows} rows from row {block.first_row:,} on; resume it"
                )
            elif not self._is_intact(number):
                wrong.append(
                    f"part {_part_name(number)} is not what its record says; resume the run, and it is made again"
                )
            elif fault := self._content_error(number, block):
                wrong.append(f"part {_part_name(number)} {fault}; remove its file from done, and resume the run")
        known = {_part_name(number) for number in range(len(self._index.blocks))}
        parts = sorted((self.folder / "parts").glob("*.parquet"))
        return wrong + [f"{path.name} is no part of this run; remove it" for path in parts if path.stem not in known]

    def failures(self) -> Iterator[RowFailure]:
        """The rows that could not be answered."""
        for number, record in self._records():
            if record.failed:
                yield from _read_failures(self._failures_path(number))

    def _retry_part(self, number: int, task: BatchTask, clock: Callable[[], float]) -> None:
        """Put what is answered now between what was answered before."""
        began, block, record = clock(), self._index.blocks[number], self._read_record(number)
        if not record.failed:  # somebody else mended it meanwhile
            return
        rows = self._reader.read(block)
        asked = pa.array([one.row - block.first_row for one in _read_failures(self._failures_path(number))])
        again = self._run_task(task, [rows[place] for place in asked.to_pylist()])
        before = pq.read_table(self._part_path(number))
        place = before.schema.get_field_index("row")
        before = before.set_column(place, "row", pc.subtract(before["row"], block.first_row))
        now = again.table.set_column(place, "row", asked.take(again.table["row"].combine_chunks()))
        table = pa.concat_tables([before.cast(self.schema), now.cast(self.schema)])
        failures = [replace(one, row=asked[one.row].as_py()) for one in again.failures]
        sources = Counter(record.sources) + Counter(again.sources)
        # A stable sort: of each row the lines stay in their order.
        answers = BatchResult(table.take(_sort_order(table["row"])), failures, sources, record.tokens + again.tokens)
        self._record_path(number).unlink(missing_ok=True)  # a kill from here on costs the part, which is made again
        self._reset_totals()
        self._write_part(number, answers, record.seconds + clock() - began)

    def _acquire(self, leases: Leases, number: int) -> bool:
        with self._translated_os_errors():
            return leases.acquire(_part_name(number))

    def _run_task(self, task: BatchTask, rows: Sequence[InputRow]) -> BatchResult:
        """What becomes of rows; where all are the engine's failures, it is waited for."""
        for pause in (*_RETRY_DELAYS, 0.0):
            answers = task(rows, self.schema)
            down = len(rows) > 1 and len(answers.failures) == len(rows)
            if not down or any(one.code != ENGINE_ERROR for one in answers.failures):
                return answers
            time.sleep(pause)
        raise EngineError(
            f"not one of {len(rows)} rows could be answered, {len(_RETRY_DELAYS) + 1} times: {answers.failures[0].message}; "
            "see to the engine, then resume the run: what is done stays done"
        )

    def _write_part(self, number: int, result: BatchResult, seconds: float) -> None:
        self._check_complete(number, result)
        first, table = self._index.blocks[number].first_row, result.table.cast(self.schema).combine_chunks()
        table = table.set_column(table.schema.get_field_index("row"), "row", pc.add(table["row"], first))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        failures = [asdict(replace(one, row=first + one.row)) for one in result.failures]
        part, told = sink.getvalue(), "".join(f"{json.dumps(one)}\n" for one in failures).encode()
        record = _PartRecord(
            rows=self._index.blocks[number].num_rows,
            lines=table.num_rows,
            failed=len(failures),
            sources=dict(result.sources),
            tokens=result.tokens,
            seconds=seconds,
            part=hashlib.sha256(part).hexdigest(),
            failures=hashlib.sha256(told).hexdigest() if failures else "",
        )
        with self._translated_os_errors():
            with atomic_writer(self._part_path(number)) as file:
                file.write(part)
            if failures:
                with atomic_writer(self._failures_path(number)) as file:
                    file.write(told)
            else:
                self._failures_path(number).unlink(missing_ok=True)
            write_json(self._record_path(number), _with_checksum(asdict(record)))

    def _check_complete(self, number: int, result: BatchResult) -> None:
        """Refuse to record a part in which a row is missing, or answered and failed."""
        told = [*dict.fromkeys(result.table["row"].to_pylist()), *(one.row for one in result.failures)]
        rows = self._index.blocks[number].num_rows
        if sorted(told) != list(range(rows)):
            raise InputError(
                f"of the {rows} rows of part {_part_name(number)} the answers name {len(set(told))}; an answer has lines or "
                "a failure for each row, and not both"
            )

    def _is_intact(self, number: int) -> bool:
        try:
            record = self._read_record(number)
            if sha256_of(self._part_path(number)) != record.part:
                return False
            return not record.failed or sha256_of(self._failures_path(number)) == record.failures
        except (OSError, ValueError, TypeError):
            return not self._record_path(number).exists()  # gone this moment: somebody is making it again

    def _content_error(self, number: int, block: RowBlock) -> str:
        """What a whole part holds that it should not; "" for nothing."""
        keys = self.config["keys"]
        table = pq.read_table(self._part_path(number), columns=["row", *self._rank_columns, *keys])
        rows = table["row"].to_pylist()
        failed = [one.row for one in _read_failures(self._failures_path(number))]
        if sorted([*dict.fromkeys(rows), *failed]) != list(range(block.first_row, block.first_row + block.num_rows)):
            return "does not hold each of its rows once"
        ranks = table["rank"].to_pylist() if self._rank_columns else [1] * len(rows)
        if rows != sorted(rows) or ranks != _ranks(rows):
            return f"does not hold {'ranks from 1 on' if self._rank_columns else 'one line'} for each row"
        asked = self._reader.read(block)
        for key in keys:
            for row, found in zip(rows, table[key].to_pylist(), strict=True):
                own = asked[row - block.first_row].columns.get(key)
                if own not in (None, "") and str(own) != str(found):
                    return f"holds {key} {found!r} for row {row:,}, which is of {own!r}"
        return ""

    @property
    def _rank_columns(self) -> list[str]:
        """The column of ranks, where rows have lists."""
        return [name for name in self.schema.names if name == "rank"]

    def _done_parts(self) -> list[int]:
        """The parts that have a record."""
        names = {path.stem for path in (self.folder / "done").glob("[0-9]*.json")}
        return [number for number in range(len(self._index.blocks)) if _part_name(number) in names]

    def _records(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, _PartRecord]]:
        """Records of parts, by default of all that are done; one that cannot be read counts as none."""
        for number in self._done_parts() if numbers is None else numbers:
            with suppress(OSError, ValueError, TypeError):
                yield number, self._read_record(number)

    def _reset_totals(self) -> None:
        """Count again from the beginning."""
        self._counted_parts, self._totals = set(), _RunTotals()

    def _read_record(self, number: int) -> _PartRecord:
        return _PartRecord(**_read_checked_json(self._record_path(number)))

    @contextmanager
    def _open_leases(self) -> Iterator[Leases]:
        with self._translated_os_errors():
            leases = Leases(self.folder / "leases")
        try:
            yield leases
        finally:
            leases.close()

    @contextmanager
    def _translated_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                f"cannot write to {self.folder}: {error.strerror or error}; what was written before is whole: free "
                "some space or mend the disk, then resume the run"
            ) from error

    def _record_path(self, number: int) -> Path:
        return self.folder / "done" / f"{_part_name(number)}.json"

    def _part_path(self, number: int) -> Path:
        return self.folder / "parts" / f"{_part_name(number)}.parquet"

    def _failures_path(self, number: int) -> Path:
        return self.folder / "failed" / f"{_part_name(number)}.jsonl"


def start_run(
    source: str | Path,
    folder: str | Path,
    config: Mapping[str, Any],
    schema_of: Callable[[Iterator[InputRow]], pa.Schema],
    *,
    part_rows: int,
    key_columns: Sequence[str] = ("user_id",),
) -> BatchRun:
    """Begin a run, or go on with the same one.

    Args:
        source: a file of rows, or a folder of such files.
        folder: where it goes; what it holds is refused unless it is this run.
        config: the configuration and hashes of all that decides the answers, in plain values.
        schema_of: of what is written, as the rows tell; with the whole number `row`, and `rank` where a row has several
            lines.
        part_rows: rows of a part.
        key_columns: columns that a row's lines take over from it, where what is written has them.

    Raises:
        InputError: there are no rows, or they cannot be answered at all.
        MismatchError: the folder holds something else; of another run, the key that differs is named.
        ArtifactError: the folder cannot be written.
    """
    source, folder = Path(source), Path(os.path.abspath(folder))
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{folder} lies within {source}, whose files are the rows; name a folder elsewhere")
    found = build_input_index(source, part_rows)
    columns = _column_types(source, found, schema_of)
    own = [name for name, _ in columns if name in key_columns]
    try:
        json.dumps(dict(config))
    except (TypeError, ValueError) as error:
        raise InputError(f"facts are {error}; give plain values, as JSON has them") from error
    mine = {
        "format": FORMAT_VERSION,
        **config,
        "part_rows": part_rows,
        "writes": columns,
        "keys": own,
        "input": found.files,
    }
    mine |= {f"input {name}": digest for name, digest in zip(found.files, found.digests, strict=True)}
    held = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    if folder.exists() and not (folder.is_dir() and ((folder / "manifest.json").is_file() or not held)):
        raise MismatchError(f"{folder} holds something that is no batch run; name another folder")
    manifest = {
        "facts": mine,
        "source": os.path.abspath(source),
        "files": found.files,
        "digests": found.digests,
        "blocks": [list(asdict(block).values()) for block in found.blocks],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_once(folder / "manifest.json", _with_checksum(manifest))
    except OSError as error:
        raise ArtifactError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from error
    run = BatchRun.open(folder)
    run._is_source_checked = True
    _check_same_config(run, json.loads(json.dumps(mine)))
    return run


def _column_types(
    source: Path, index: InputIndex, schema_of: Callable[[Iterator[InputRow]], pa.Schema]
) -> list[list[str]]:
    """Name and type of each column that is written, as a manifest can keep them."""
    reader = BlockReader(source, index)
    rows = (row for block in index.blocks for row in reader.read(block))
    try:
        columns = [[one.name, str(one.type)] for one in schema_of(rows)]
        for _, kind in columns:
            pa.type_for_alias(kind)  # as it is read again
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except ValueError as error:
        raise InputError(f"what is written holds a column that no run can keep: {error}; write plain values") from error
    return columns


def _check_same_config(run: BatchRun, config: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a run of other facts."""
    for key in [*config, *(key for key in run.config if key not in config)]:  # what was asked for comes first
        if config.get(key) != run.config.get(key):
            raise MismatchError(
                f"{run.folder} holds a run whose {key} is {run.config.get(key)!r}, not {config.get(key)!r}; name another "
                "folder, or ask for what it was begun with"
            )


def _write_once(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of JSON unless it is there: of several who begin at once, the first one's stays."""
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    write_json(aside, value)
    try:
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()


def _with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """With the SHA-256 of all else in it."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return {**plain, _CHECKSUM_KEY: hashlib.sha256(json.dumps(plain).encode()).hexdigest()}


def _read_checked_json(path: Path) -> dict[str, Any]:
    """What a sealed file says.

    Raises:
        ValueError: it is not what was written.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    seal = value.pop(_CHECKSUM_KEY, None) if isinstance(value, dict) else None
    if seal != hashlib.sha256(json.dumps(value).encode()).hexdigest():
        raise ValueError("it is not what was written")
    return dict(value)


def _remove_stale_files(folder: Path) -> None:
    """Remove what killed workers had begun to write; nobody alive leaves such a file alone for so long."""
    mark = folder / f".now-{secrets.token_hex(4)}"
    mark.touch()
    now = mark.stat().st_mtime
    mark.unlink()
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > 3 * LEASE_TIMEOUT:
                path.unlink()


def _read_failures(path: Path) -> list[RowFailure]:
    if not path.is_file():
        return []
    return [RowFailure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _ranks(rows: Sequence[int]) -> list[int]:
    """How many lines of the same row stand before each line, and itself."""
    seen: Counter[int] = Counter()
    ranks = []
    for row in rows:
        seen[row] += 1
        ranks.append(seen[row])
    return ranks


def _sort_order(rows: pa.ChunkedArray) -> pa.Array:
    """Places in the order of rows, and where these are equal, in their own."""
    table = pa.table({"row": rows, "place": pa.array(range(len(rows)), pa.int64())})
    return pc.sort_indices(table, sort_keys=[("row", "ascending"), ("place", "ascending")])


def _part_name(number: int) -> str:
    return f"{number:08}"
