"""Runs over more rows than memory holds, that end with every row there once, whatever happened on the way.

A run is a folder. Rows are answered part by part; a part is written aside and put in place when it is whole, and only
then recorded as done, with its SHA-256. So whoever goes on, after a kill or beside others, sees what is missing, and
what is done twice is the same file. What a part holds depends on its rows alone, never on who makes it or when.

    run/manifest.json       what the run is: configuration and hashes; another one is refused
    run/run.json            versions, times and totals, written when a worker ends
    run/parts/N.parquet     the answers, in the order of their rows
    run/failed/N.jsonl      rows that could not be answered: row, id, code, message
    run/done/N.json         which parts are whole
    run/leases/N            who makes what just now
    run/quarantine/         parts that were damaged; they are made again
"""

import itertools
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifact import sha256_of, write_json, writing_file
from genrec.errors import ArtifactError, InputError, MismatchError
from genrec.leases import Leases
from genrec.rows import Block, Row, Survey, read_block, survey

FORMAT = 1
_WAIT = 0.5  # seconds between two looks at what others are making
_VERSIONS = ("genrec", "numpy", "pyarrow")


@dataclass(frozen=True)
class Failure:
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
class Answers:
    """What became of some rows.

    Attributes:
        table: what is written of those that did not fail, in their order; of each a list with ranks from 1 on, or, in a
            table without ranks, a line.
        failures: the others, in their order.
        sources: how many lines each source served.
        tokens: computed by language models.
    """

    table: pa.Table
    failures: Sequence[Failure] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0


Answer = Callable[[Sequence[Row], pa.Schema], Answers]
"""What answers rows with a table of a run's schema; alike rows in alike company get the same answer."""


@dataclass(frozen=True)
class Status:
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
class _Done:
    """The record of a part."""

    rows: int
    lines: int
    failed: int
    sources: dict[str, int]
    tokens: int
    seconds: float
    part: str
    failures: str


class BatchRun:
    """A run's folder. Made by `begin` or `BatchRun.open`.

    Attributes:
        folder: where it lies.
        facts: its configuration and hashes.
        source: the file or folder of its rows.
        schema: of what is written.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], source: Path, found: Survey, schema: pa.Schema) -> None:
        self.folder, self.facts, self.source, self.schema = folder, facts, source, schema
        self._survey = found
        self._known: dict[int, _Done] = {}  # records that were read; a record never changes

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
            kept = json.loads(path.read_text(encoding="utf-8"))
            blocks = tuple(Block(*one) for one in kept["blocks"])
            found = Survey(tuple(kept["files"]), tuple(kept["digests"]), blocks)
            schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kept["columns"]])
            return cls(folder, kept["facts"], Path(kept["source"]), found, schema)
        except (ValueError, LookupError, TypeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}; begin the run again in another folder") from error

    def work(
        self,
        answer: Answer,
        *,
        on_progress: Callable[[Status], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Status:
        """Make every part that is missing, beside whoever else does, and return when none is.

        Raises:
            ArtifactError: a part cannot be written; what was written is whole.
            MismatchError: the rows are not those that the run began with.
        """
        began, told = clock(), on_progress or (lambda _: None)
        self.prepare()
        leases = Leases(self.folder / "leases")
        try:
            told(self.status())
            while missing := self.missing():
                made = 0
                for number in missing:
                    if self.make(number, answer, leases, clock=clock):
                        made += 1
                        told(self.status())
                if not made:  # all that is missing is in the making elsewhere
                    told(self.status())
                    time.sleep(_WAIT)
        finally:
            leases.close()
        return self.sum_up(clock() - began)

    def prepare(self) -> None:
        """Make the folders, and set aside what is damaged; before anybody works."""
        for name in ("parts", "failed", "done", "leases"):
            (self.folder / name).mkdir(exist_ok=True)
        self.quarantine()

    def missing(self) -> list[int]:
        """The parts that are not done."""
        done = set(self._done())
        return [number for number in range(len(self._survey.blocks)) if number not in done]

    def make(self, number: int, answer: Answer, leases: Leases, *, clock: Callable[[], float] = time.monotonic) -> bool:
        """Make one part; False where it is done already, or somebody else is making it."""
        if self._record(number).is_file() or not leases.take(_name(number)):
            return False
        try:
            if self._record(number).is_file():  # it was done while the lease was taken
                return False
            began, block = clock(), self._survey.blocks[number]
            answers = answer(read_block(self.source, self._survey, block), self.schema)
            self._write(number, answers, clock() - began)
            return True
        finally:
            leases.give_back(_name(number))

    def retry_failed(self, answer: Answer, *, clock: Callable[[], float] = time.monotonic) -> Status:
        """Ask again about the rows that failed, and about no others.

        Raises:
            InputError: the run is not finished.
        """
        if not self.status().finished:
            raise InputError(f"{self.folder} is not finished; resume it first, then ask again about what failed")
        began = clock()
        for number, block in enumerate(self._survey.blocks):
            done = self._read_record(number)
            if done.failed:
                self._mend(number, block, done, answer, clock)
        return self.sum_up(clock() - began)

    def sum_up(self, seconds: float) -> Status:
        """Write `run.json` after so many seconds of work, and return how far the run is."""
        kept, status = self.folder / "run.json", self.status()
        try:
            spent = float(json.loads(kept.read_text(encoding="utf-8"))["elapsed"])
        except (OSError, ValueError, LookupError):
            spent = 0.0
        versions = {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()}
        write_json(kept, {"elapsed": spent + seconds, "versions": versions, **asdict(status)})
        return status

    def status(self) -> Status:
        """How far it is."""
        records = [self._known[number] for number in self._recorded()]
        sources: Counter[str] = Counter()
        for one in records:
            sources.update(one.sources)
        leases = self.folder / "leases"
        active = sum(not path.name.startswith(".") for path in leases.iterdir()) if leases.is_dir() else 0
        return Status(
            rows=self._survey.rows,
            parts=len(self._survey.blocks),
            rows_done=sum(one.rows for one in records),
            parts_done=len(records),
            failed=sum(one.failed for one in records),
            lines=sum(one.lines for one in records),
            sources=dict(sources.most_common()),
            tokens=sum(one.tokens for one in records),
            seconds=sum(one.seconds for one in records),
            active=active,
        )

    def quarantine(self) -> list[str]:
        """Set aside every part that is not what its record says, and return their names; they count as missing."""
        damaged = []
        for number in self._done():
            if not self._is_whole(number):
                aside = self.folder / "quarantine"
                aside.mkdir(exist_ok=True)
                self._record(number).unlink()
                self._known.pop(number, None)
                for path in (self._part(number), self._failures(number)):
                    if path.is_file():
                        path.replace(aside / f"{time.time_ns()}-{path.name}")
                damaged.append(_name(number))
        return damaged

    def check_source(self) -> None:
        """See that the rows are those that the run began with.

        Raises:
            MismatchError: a file was changed, or is gone (named).
        """
        for name, digest in zip(self._survey.files, self._survey.digests, strict=True):
            path = self.source if self.source.is_file() else self.source / name
            if not path.is_file() or sha256_of(path) != digest:
                raise MismatchError(f"{path} is not what the run began with; put it back, or begin another run")

    def verify(self) -> list[str]:
        """What is wrong with the run: [] where every row is there once, as it was recorded.

        Reads the rows and the parts again; a part has to hold, in the order of its rows, one list for each row that did
        not fail, with ranks from 1 on.
        """
        wrong = []
        for number, block in enumerate(self._survey.blocks):
            if not self._record(number).is_file():
                wrong.append(f"part {_name(number)} is missing: {block.rows} rows from row {block.first:,} on")
            elif not self._is_whole(number):
                wrong.append(f"part {_name(number)} is not what its record says; resume the run, and it is made again")
            elif len(_lists(pq.read_table(self._part(number)))) + self._read_record(number).failed != block.rows:
                wrong.append(f"part {_name(number)} does not hold one list for each of its {block.rows} rows")
        known = {_name(number) for number in range(len(self._survey.blocks))}
        wrong += [f"{path.name} is no part of this run" for path in self._parts() if path.stem not in known]
        return wrong

    def failures(self) -> list[Failure]:
        """The rows that could not be answered."""
        found: list[Failure] = []
        for path in sorted((self.folder / "failed").glob("[0-9]*.jsonl")):
            found += [Failure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        return found

    def _mend(self, number: int, block: Block, done: _Done, answer: Answer, clock: Callable[[], float]) -> None:
        """Put what is answered now between what was answered before."""
        began = clock()
        rows = read_block(self.source, self._survey, block)
        lines = self._failures(number).read_text(encoding="utf-8").splitlines()
        places = [json.loads(line)["row"] - block.first for line in lines]
        again = answer([rows[place] for place in places], self.schema)
        failures = [replace(one, row=places[one.row]) for one in again.failures]
        left = {one.row for one in failures}
        before, now = iter(_lists(pq.read_table(self._part(number)))), iter(_lists(again.table))
        lists = [next(now if place in set(places) else before) for place in range(block.rows) if place not in left]
        sources = Counter(done.sources) + Counter(again.sources)
        table = pa.concat_tables([self.schema.empty_table(), *lists])
        answers = Answers(table, failures, sources, done.tokens + again.tokens)
        del self._known[number]
        self._record(number).unlink()  # a kill from here on costs the part, which is made again
        self._write(number, answers, done.seconds + clock() - began)

    def _write(self, number: int, answers: Answers, seconds: float) -> None:
        block = self._survey.blocks[number]
        failures = [asdict(replace(one, row=block.first + one.row)) for one in answers.failures]
        told = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in failures).encode()
        try:
            with writing_file(self._part(number)) as file:
                pq.write_table(answers.table.cast(self.schema).combine_chunks(), file)
            if failures:
                with writing_file(self._failures(number)) as file:
                    file.write(told)
            else:
                self._failures(number).unlink(missing_ok=True)
            done = _Done(
                rows=block.rows,
                lines=answers.table.num_rows,
                failed=len(failures),
                sources=dict(answers.sources),
                tokens=answers.tokens,
                seconds=seconds,
                part=sha256_of(self._part(number)),
                failures=sha256_of(self._failures(number)) if failures else "",
            )
            write_json(self._record(number), asdict(done))
        except OSError as error:
            raise ArtifactError(
                f"cannot write part {_name(number)} to {self.folder}: {error.strerror or error}; what was written "
                "before is whole: free some space or mend the disk, then resume the run"
            ) from error

    def _is_whole(self, number: int) -> bool:
        try:
            done = self._read_record(number)
            if sha256_of(self._part(number)) != done.part:
                return False
            return not done.failed or sha256_of(self._failures(number)) == done.failures
        except (OSError, ArtifactError):
            return False

    def _read_record(self, number: int) -> _Done:
        try:
            return _Done(**json.loads(self._record(number).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{self._record(number)} is damaged: {error}; resume the run") from error

    def _done(self) -> list[int]:
        """The parts that have a record."""
        names = {path.stem for path in (self.folder / "done").glob("[0-9]*.json")}
        return [number for number in range(len(self._survey.blocks)) if _name(number) in names]

    def _recorded(self) -> list[int]:
        """The same, their records read."""
        done = self._done()
        for number in done:
            if number not in self._known:
                with suppress(FileNotFoundError):  # set aside this moment
                    self._known[number] = self._read_record(number)
        return [number for number in done if number in self._known]

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "parts").glob("*.parquet"))

    def _record(self, number: int) -> Path:
        return self.folder / "done" / f"{_name(number)}.json"

    def _part(self, number: int) -> Path:
        return self.folder / "parts" / f"{_name(number)}.parquet"

    def _failures(self, number: int) -> Path:
        return self.folder / "failed" / f"{_name(number)}.jsonl"


def begin(
    source: Path, folder: Path, facts: Mapping[str, Any], schema: Callable[[Row], pa.Schema], *, part_rows: int
) -> BatchRun:
    """Begin a run, or go on with the same one.

    Args:
        source: a file of rows, or a folder of such files.
        folder: where it goes; what it holds is refused unless it is this run.
        facts: the configuration and hashes of all that decides the answers, in plain values.
        schema: of what is written, seen from the first row that can be read.
        part_rows: rows of a part.

    Raises:
        InputError: there are no rows.
        MismatchError: the folder holds something else; of another run, the key that differs is named.
        ArtifactError: the folder cannot be written.
    """
    found = survey(source, part_rows)
    first = next((row for row in read_block(source, found, found.blocks[0]) if not row.fault), Row({}))
    columns = [[one.name, str(one.type)] for one in schema(first)]
    mine = {"format": FORMAT, **facts, "part_rows": part_rows, "writes": columns}
    mine |= {f"input {name}": digest for name, digest in zip(found.files, found.digests, strict=True)}
    if (folder / "manifest.json").is_file():
        run = BatchRun.open(folder)
        for key in sorted(mine.keys() | run.facts.keys()):
            if json.loads(json.dumps(mine.get(key))) != run.facts.get(key):
                raise MismatchError(
                    f"{folder} holds a run whose {key} is {run.facts.get(key)!r}, not {mine.get(key)!r}; name another "
                    "folder, or ask for what it was begun with"
                )
        return run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MismatchError(f"{folder} holds something that is no batch run; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "manifest.json",
            {
                "facts": mine,
                "source": str(source.resolve()),
                "files": found.files,
                "digests": found.digests,
                "columns": columns,
                "blocks": [list(asdict(block).values()) for block in found.blocks],
            },
        )
    except OSError as error:
        raise ArtifactError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from error
    return BatchRun.open(folder)


def _name(number: int) -> str:
    return f"{number:08}"


def _lists(table: pa.Table) -> list[pa.Table]:
    """What a part holds of each row: lists begin with rank 1; where there are no ranks, a line for each."""
    if "rank" not in table.column_names:
        return [table.slice(place, 1) for place in range(table.num_rows)]
    starts = [place for place, rank in enumerate(table["rank"].to_pylist()) if rank == 1]
    return [table.slice(start, stop - start) for start, stop in itertools.pairwise([*starts, table.num_rows])]
