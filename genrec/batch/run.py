"""Batch runs that can be killed, resumed and shared: in the end every row is there exactly once.

A run is a folder. Rows are answered in parts. A part is written to a temporary file, renamed when it is complete, and
then recorded as done with its SHA-256. A worker that resumes after a kill, or joins others, therefore sees which parts
are missing; a part that two workers write has the same bytes. The content of a part depends only on its rows and on the
manifest, not on the worker or the time.

    run/manifest.json       configuration and hashes; a run with other ones is refused
    run/run.json            versions, times and totals, written when a worker ends
    run/parts/N.parquet     the answers, in row order
    run/failed/N.jsonl      rows that could not be answered: row, id, code, message
    run/done/N.json         records of finished parts
    run/leases/N            parts in progress, each with its worker
    run/quarantine/         damaged parts, which are rebuilt
"""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.artifact import write_json
from genrec.batch.input import BlockReader
from genrec.batch.leases import Leases
from genrec.batch.manifest import Manifest, create_manifest
from genrec.batch.parts import PartRecord, PartStore, merge_retry, part_name
from genrec.batch.result import ENGINE_ERROR, BatchResult, BatchTask, RowFailure
from genrec.batch.row import InputRow
from genrec.errors import EngineError, InputError

_POLL_INTERVAL = 0.5  # seconds between checks for parts that other workers finish
_MIN_PROGRESS_INTERVAL = 1.0  # seconds between progress reports
_PROGRESS_COST_FACTOR = 20  # if a report takes long, the interval is at least this many times its duration
_RETRY_DELAYS = (1.0, 5.0, 15.0, 40.0)  # seconds before each retry of an engine that answers nothing
_VERSIONED_PACKAGES = ("genrec", "numpy", "pyarrow")


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run.

    Attributes:
        rows, parts: of the whole run.
        rows_done, parts_done: finished ones; failed rows are finished.
        failed: rows that could not be answered.
        lines: output lines.
        sources: number of lines served by each source.
        tokens: tokens computed by language models.
        seconds: time that workers spent on parts, summed over workers.
        active: parts with a lease: in progress, or of a killed worker.
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
        """Whether every part is done."""
        return self.parts_done == self.parts


@dataclass
class _RunTotals:
    """Sums over part records."""

    rows: int = 0
    lines: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, record: PartRecord) -> None:
        for name in ("rows", "lines", "failed", "tokens", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(record, name))
        self.sources.update(record.sources)


class BatchRun:
    """A run's folder. Made by `start_run` or `BatchRun.open`.

    Attributes:
        folder: the run's folder.
        config: configuration and hashes.
        source: the file or folder of its rows.
        schema: of the output.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, source_checked: bool = False) -> None:
        self.folder, self._manifest = folder, manifest
        self.config, self.source, self.schema = manifest.config, manifest.source, manifest.schema
        self._blocks, self._reader = manifest.index.blocks, BlockReader(manifest.source, manifest.index)
        self._parts = PartStore(folder, self._blocks, self.schema, manifest.key_columns)
        self._counted_parts: set[int] = set()  # parts whose records are in the totals
        self._totals = _RunTotals()
        self._source_checked = source_checked

    @classmethod
    def open(cls, folder: Path) -> "BatchRun":
        """Open the run in a folder.

        Raises:
            InputError: the folder holds no run.
            ArtifactError: its manifest is damaged.
        """
        return cls(folder, Manifest.read(folder))

    def run(
        self,
        task: BatchTask,
        *,
        on_progress: Callable[[RunStatus], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunStatus:
        """Process the missing parts, together with any other workers, and return when no part is missing.

        Raises:
            ArtifactError: a part cannot be written; finished parts are kept.
            MismatchError: the input files have changed since the run started.
            EngineError: the engine answered no row of a part in several attempts.
        """
        next_report = clock()
        self.prepare()
        with self._open_leases() as leases:
            while missing := self.missing_parts():
                made = 0
                for number in missing:
                    made += self.process_part(number, task, leases, clock=clock)
                    if on_progress is not None and clock() >= next_report:
                        start = clock()
                        on_progress(self.status())
                        interval = max(_MIN_PROGRESS_INTERVAL, _PROGRESS_COST_FACTOR * (clock() - start))
                        next_report = clock() + interval
                if not made:  # other workers hold all missing parts
                    time.sleep(_POLL_INTERVAL)
        status = self.write_summary()
        if on_progress is not None:
            on_progress(status)
        return status

    def prepare(self) -> None:
        """Check the input files, create the subfolders and quarantine damaged parts; call it before any worker starts.

        Raises:
            MismatchError: the input files have changed since the run started.
            ArtifactError: the folder cannot be written.
        """
        if not self._source_checked:
            self.check_source()
        self._parts.prepare()
        self.quarantine()

    def missing_parts(self) -> list[int]:
        """The parts that are not done, in order."""
        done = set(self._parts.done())
        return [number for number in range(len(self._parts)) if number not in done]

    def process_part(
        self, number: int, task: BatchTask, leases: Leases, *, clock: Callable[[], float] = time.monotonic
    ) -> bool:
        """Process one part; returns False if it is done already or another worker has it."""
        if self._parts.is_done(number) or not self._acquire(leases, number):
            return False
        try:
            if self._parts.is_done(number):  # finished while the lease was acquired
                return False
            start, block = clock(), self._blocks[number]
            result = self._run_task(task, self._reader.read(block))
            if not leases.holds(part_name(number)):  # this process was suspended, and another worker took over
                return False
            self._parts.write(number, result, clock() - start)
            return True
        finally:
            leases.release(part_name(number))

    def retry_failed(self, task: BatchTask, *, clock: Callable[[], float] = time.monotonic) -> RunStatus:
        """Process the failed rows again, and no others.

        Raises:
            InputError: the run is not finished, or a damaged part was found.
        """
        self.prepare()
        if self.missing_parts():
            raise InputError(f"{self.folder} is not finished; resume the run first, then retry its failed rows")
        with self._open_leases() as leases:
            for number in [number for number, record in self._parts.records() if record.failed]:
                if self._acquire(leases, number):
                    try:
                        self._retry_part(number, task, clock)
                    finally:
                        leases.release(part_name(number))
        return self.write_summary()

    def write_summary(self) -> RunStatus:
        """Write `run.json` and return the status."""
        status = self.status()
        versions = {name: version(name) for name in _VERSIONED_PACKAGES} | {"python": platform.python_version()}
        with self._parts.translated_os_errors():
            summary = {"versions": versions, "seed": self.config.get("seed"), **asdict(status)}
            write_json(self.folder / "run.json", summary)
        return status

    def status(self) -> RunStatus:
        """The progress of the run; each record is read once."""
        done = self._parts.done()
        if not self._counted_parts <= set(done):  # some parts were quarantined or retried
            self._reset_totals()
        for number, record in self._parts.records([number for number in done if number not in self._counted_parts]):
            self._counted_parts.add(number)
            self._totals.add(record)
        totals = self._totals
        leases = self.folder / "leases"
        active = sum(not path.name.startswith(".") for path in leases.iterdir()) if leases.is_dir() else 0
        return RunStatus(
            rows=self._manifest.index.num_rows,
            parts=len(self._parts),
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
        """Quarantine every part that does not match its record, and return their names; they count as missing.

        Files in parts/ that are not parts are quarantined too. Parts that another worker holds are left alone.
        """
        damaged = []
        self._parts.quarantine_unknown_files()
        with self._open_leases() as leases:
            for number in self._parts.recorded_numbers():
                if self._parts.is_intact(number) or not self._acquire(leases, number):
                    continue
                try:
                    if not self._parts.is_intact(number):  # it may have been rebuilt before the lease was acquired
                        self._parts.quarantine(number)
                        self._reset_totals()
                        damaged.append(part_name(number))
                finally:
                    leases.release(part_name(number))
        return damaged

    def check_source(self) -> None:
        """Check that the input files are the ones the run was started with.

        Raises:
            MismatchError: a file was changed, added or removed (named).
        """
        self._manifest.check_source()
        self._source_checked = True

    def verify(self) -> list[str]:
        """Read rows and parts again, and list the problems found; [] if every row is there once, as recorded.

        Each row must have either a failure or lines with ranks 1, 2, ... and the right ids.
        """
        problems = []
        for number, block in enumerate(self._blocks):
            name = part_name(number)
            if not self._parts.is_done(number):
                problems.append(
                    f"part {name} is missing ({block.num_rows} rows from row {block.first_row:,}); resume the run"
                )
            elif not self._parts.is_intact(number):
                problems.append(f"part {name} does not match its record; resume the run to rebuild it")
            elif problem := self._parts.content_error(number, self._reader.read(block)):
                problems.append(f"part {name} {problem}; remove done/{name}.json, then resume the run to rebuild it")
        return problems + [f"{name} is not a part of this run; remove it" for name in self._parts.unknown_parts()]

    def failures(self) -> Iterator[RowFailure]:
        """The rows that could not be answered, in order."""
        for number, record in self._parts.records():
            if record.failed:
                yield from self._parts.read_failures(number)

    def _retry_part(self, number: int, task: BatchTask, clock: Callable[[], float]) -> None:
        """Process the failed rows of a part again, and write the part with the new answers."""
        start, block, record = clock(), self._blocks[number], self._parts.read_record(number)
        if not record.failed:  # another worker has retried it
            return
        rows = self._reader.read(block)
        retried = [failure.row - block.first_row for failure in self._parts.read_failures(number)]
        result = self._run_task(task, [rows[position] for position in retried])
        table, failures = merge_retry(self._parts.read_table(number), block, retried, result, self.schema)
        sources = Counter(record.sources) + Counter(result.sources)
        merged = BatchResult(table, failures, sources, record.tokens + result.tokens)
        self._parts.remove_record(number)  # if this process is killed from here on, the part is rebuilt
        self._reset_totals()
        self._parts.write(number, merged, record.seconds + clock() - start)

    def _run_task(self, task: BatchTask, rows: Sequence[InputRow]) -> BatchResult:
        """Answer rows; if the engine fails on all of them, wait and retry."""
        for delay in (*_RETRY_DELAYS, 0.0):
            result = task(rows, self.schema)
            all_failed = len(rows) > 1 and len(result.failures) == len(rows)
            if not all_failed or any(failure.code != ENGINE_ERROR for failure in result.failures):
                return result
            time.sleep(delay)
        raise EngineError(
            f"the engine answered none of {len(rows)} rows in {len(_RETRY_DELAYS) + 1} attempts: "
            f"{result.failures[0].message}; repair the engine, then resume the run (finished parts are kept)"
        )

    def _acquire(self, leases: Leases, number: int) -> bool:
        with self._parts.translated_os_errors():
            return leases.acquire(part_name(number))

    @contextmanager
    def _open_leases(self) -> Iterator[Leases]:
        with self._parts.translated_os_errors():
            leases = Leases(self.folder / "leases")
        try:
            yield leases
        finally:
            leases.close()

    def _reset_totals(self) -> None:
        """Read all records again at the next status."""
        self._counted_parts, self._totals = set(), _RunTotals()


def start_run(
    source: str | Path,
    folder: str | Path,
    config: Mapping[str, Any],
    schema_of: Callable[[Iterator[InputRow]], pa.Schema],
    *,
    part_rows: int,
    key_columns: Sequence[str] = ("user_id",),
) -> BatchRun:
    """Start a run, or open it if the folder holds the same run.

    Args:
        source: a file of rows, or a folder of such files.
        folder: the run's folder; it must be missing, empty, or hold the same run.
        config: configuration and hashes of everything that decides the answers, in plain values.
        schema_of: returns the output schema, given the input rows. It must have an int64 column `row`, and `rank` if a
            row may have several lines.
        part_rows: rows in each part.
        key_columns: columns that are copied from a row to its lines, if the output has them.

    Raises:
        InputError: the source has no rows, or none that can be answered.
        MismatchError: the folder holds something else; for another run, the first key that differs is named.
        ArtifactError: the folder cannot be written.
    """
    source, folder = Path(source), Path(os.path.abspath(folder))
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{folder} is inside the input folder {source}; name a folder outside it")
    manifest = create_manifest(source, folder, config, schema_of, part_rows=part_rows, key_columns=key_columns)
    return BatchRun(folder, manifest, source_checked=True)
