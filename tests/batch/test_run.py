"""A run ends with every row there once, whoever made it and whatever happened on the way."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec.artifact import atomic_writer
from genrec.batch import parts as parts_module
from genrec.batch import run as run_module
from genrec.batch.result import ENGINE_ERROR, BatchResult, RowFailure
from genrec.batch.row import InputRow
from genrec.batch.run import BatchRun, start_run
from genrec.errors import ArtifactError, EngineError, InputError, MismatchError

SCHEMA = pa.schema({"user_id": pa.int64(), "item_id": pa.string(), "rank": pa.int64(), "row": pa.int64()})


class Counting:
    """Two items for each row; a row whose number is in `failing` fails."""

    def __init__(self, failing: Sequence[int] = (), slow: float = 0.0) -> None:
        self.failing, self.slow = set(failing), slow
        self.asked: list[int] = []

    def __call__(self, rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        time.sleep(self.slow)
        users = [row.columns["user_id"] for row in rows]
        self.asked += users
        kept = [(place, user) for place, user in enumerate(users) if user not in self.failing]
        failures = [
            RowFailure(place, user, "bad", "no\u2028") for place, user in enumerate(users) if user in self.failing
        ]
        lines = [(user, f"{user}/{rank}", rank, place) for place, user in kept for rank in (1, 2)]
        table = pa.Table.from_pylist([dict(zip(SCHEMA.names, line, strict=True)) for line in lines], schema=SCHEMA)
        return BatchResult(table, failures, {"counting": table.num_rows}, tokens=len(kept))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"user_id": number}) + "\n" for number in range(97)), encoding="utf-8")
    return path


def start(rows: Path, folder: Path, **facts: Any) -> BatchRun:
    return start_run(rows, folder, facts, lambda _: SCHEMA, part_rows=10)


def lines_of(folder: Path) -> list[tuple[int, str, int, int]]:
    parts = sorted((folder / "parts").glob("*.parquet"))
    return [tuple(line.values()) for part in parts for line in pq.read_table(part).to_pylist()]


EXPECTED = [(user, f"{user}/{rank}", rank, user) for user in range(97) for rank in (1, 2)]


def test_every_row_is_there_once_and_in_order(rows: Path, tmp_path: Path) -> None:
    run = start(rows, tmp_path / "run", k=2)
    assert run.verify()[0] == "part 00000000 is missing (10 rows from row 0); resume the run"
    seen: list[int] = []
    status = run.run(Counting(), on_progress=lambda now: seen.append(now.rows_done))
    assert status.finished
    assert (status.rows, status.parts, status.lines, status.failed, status.tokens) == (97, 10, 194, 0, 97)
    assert status.sources == {"counting": 194}
    assert seen == sorted(seen)
    assert seen[-1] == 97
    assert lines_of(tmp_path / "run") == EXPECTED
    assert run.verify() == []
    told = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert told["rows_done"] == 97
    assert set(told["versions"]) == {"genrec", "numpy", "pyarrow", "python"}
    again = Counting()
    assert start(rows, tmp_path / "run", k=2).run(again).finished
    assert not again.asked, "what is done is not asked again"


def test_damaged_part_is_quarantined_and_rebuilt(rows: Path, tmp_path: Path) -> None:
    """A disk that turned one bit, or a copy that ended early, must not be found by the reader of the lists."""
    folder = tmp_path / "run"
    start(rows, folder).run(Counting(failing=[33]))
    whole = {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}
    for number, damage in ((2, lambda own: own[:-7]), (5, lambda own: own[:100] + bytes([own[100] ^ 1]) + own[101:])):
        path = folder / "parts" / f"{number:08}.parquet"
        path.write_bytes(damage(path.read_bytes()))
    (folder / "parts" / "00000007.parquet").unlink()
    (folder / "failed" / "00000003.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "done" / "00000008.json").write_text("{", encoding="utf-8")
    run = BatchRun.open(folder)
    assert len(run.verify()) == 5
    again = Counting(failing=[33])
    run.run(again)
    assert sorted({user // 10 for user in again.asked}) == [2, 3, 5, 7, 8]
    assert {path.name: path.read_bytes() for path in (folder / "parts").iterdir()} == whole
    assert run.verify() == []
    assert len(list((folder / "quarantine").glob("*.parquet"))) == 4


def test_task_that_omits_a_row_raises(rows: Path, tmp_path: Path) -> None:
    """Recorded as done, it would be a row that is lost without a word."""
    run = start(rows, tmp_path / "run")
    for table, failures in (
        (SCHEMA.empty_table(), []),
        (Counting()([InputRow({"user_id": 0})], SCHEMA).table, [RowFailure(0, 0, "bad", "no")]),
    ):
        with pytest.raises(InputError, match=r"the result covers \d of the 10 rows of part 00000000"):
            run.run(lambda rows, schema, table=table, failures=failures: BatchResult(table, failures))
    assert run.status().parts_done == 0


def test_engine_outage_is_waited_out(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine starts again a run would else rush through, and call every row a failure."""
    waited: list[float] = []
    monkeypatch.setattr(run_module.time, "sleep", waited.append)
    answering = Counting()

    def answer(rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        if len(waited) < 2:
            failures = [RowFailure(place, None, ENGINE_ERROR, "it starts") for place in range(len(rows))]
            return BatchResult(schema.empty_table(), failures)
        return answering(rows, schema)

    run = start(rows, tmp_path / "run")
    done = run.run(answer)
    assert (done.failed, done.rows_done, list(filter(None, waited))) == (0, 97, [1.0, 5.0])
    other = start(rows, tmp_path / "other")

    def down(rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        return BatchResult(
            schema.empty_table(),
            [RowFailure(place, None, ENGINE_ERROR, "gone") for place in range(len(rows))],
        )

    with pytest.raises(EngineError, match="the engine answered none of 10 rows in 5 attempts: gone"):
        other.run(down)
    assert other.status().parts_done == 0


def test_retry_runs_failed_rows_only(rows: Path, tmp_path: Path) -> None:
    """One bad row in a hundred must cost one row, and mending it must not cost the others again."""
    folder = tmp_path / "run"
    run = start(rows, folder)
    status = run.run(Counting(failing=[3, 4, 19, 96]))
    assert (status.rows_done, status.failed, status.lines) == (97, 4, 2 * 93)
    assert [(one.row, one.id, one.code) for one in run.failures()] == [(row, row, "bad") for row in (3, 4, 19, 96)]
    assert run.verify() == []
    again = Counting(failing=[4])
    status = run.retry_failed(again)
    assert again.asked == [3, 4, 19, 96]
    assert [one.row for one in run.failures()] == [4]
    assert lines_of(folder) == [line for line in EXPECTED if line[0] != 4]
    assert status.sources == {"counting": 2 * 96}
    assert run.verify() == []
    assert run.retry_failed(Counting()).failed == 0
    assert lines_of(folder) == EXPECTED
    assert BatchRun.open(folder).verify() == []


def test_another_configuration_is_refused_and_named(rows: Path, tmp_path: Path) -> None:
    """Lists of two configurations in one folder cannot be told apart in the morning."""
    folder = tmp_path / "run"
    start(rows, folder, k=2, template="a").run(Counting())
    for changes, says in (({"k": 3, "template": "a"}, "whose k is 2, not 3"), ({"k": 2, "template": "b"}, "template")):
        with pytest.raises(MismatchError, match=says):
            start(rows, folder, **changes)
    rows.write_text(rows.read_text(encoding="utf-8").replace("96", "98"), encoding="utf-8")
    with pytest.raises(MismatchError, match=r"whose input rows\.jsonl is"):
        start(rows, folder, k=2, template="a")
    with pytest.raises(MismatchError, match="has changed since the run started"):
        BatchRun.open(folder).check_source()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MismatchError, match="is neither an empty folder nor a batch run"):
        start(rows, tmp_path / "other")
    with pytest.raises(InputError, match=r"contains no manifest\.json"):
        BatchRun.open(tmp_path / "other")
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is damaged"):
        BatchRun.open(folder)


def test_a_folder_of_rows_that_grew_is_another_one(tmp_path: Path) -> None:
    """Who adds a file to the rows and resumes must not believe that it was read."""
    source = tmp_path / "rows"
    source.mkdir()
    (source / "a.jsonl").write_text('{"user_id": 1}\n', encoding="utf-8")
    run = start(source, tmp_path / "no" / ".." / "run")
    assert run.folder == tmp_path / "run"
    assert not (tmp_path / "no").exists()
    run.run(Counting())
    (source / "b.jsonl").write_text('{"user_id": 2}\n', encoding="utf-8")
    with pytest.raises(MismatchError, match=r"contains b\.jsonl, which was added after the run started"):
        BatchRun.open(tmp_path / "run").prepare()
    with pytest.raises(InputError, match="config cannot be written as JSON: Object of type object is not JSON"):
        start(source, tmp_path / "other", mine=object())


def test_a_disk_that_is_full_costs_one_part(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written, a sentence that says what to do, and the rest when there is room again."""
    folder = tmp_path / "run"
    run = start(rows, folder)
    written: list[Path] = []

    @contextmanager
    def fill_up(path: Path) -> Iterator[Any]:
        with atomic_writer(path) as file:
            yield file
            if len(written) == 3:
                raise OSError(28, "No space left on device")
            written.append(path)

    monkeypatch.setattr(parts_module, "atomic_writer", fill_up)
    with pytest.raises(ArtifactError, match=r"No space left on device; .* resume the run"):
        run.run(Counting())
    assert sorted(path.name for path in (folder / "parts").iterdir()) == [f"{n:08}.parquet" for n in range(3)]
    assert not list((folder / "leases").iterdir())
    monkeypatch.undo()
    assert run.run(Counting()).finished
    assert lines_of(folder) == EXPECTED


def test_workers_share_a_run(rows: Path, tmp_path: Path) -> None:
    """Beside each other they ask about every row once; the parts are those that one alone would write."""
    alone, folder = tmp_path / "alone", tmp_path / "run"
    start(rows, alone).run(Counting())
    start(rows, folder)
    workers = [Counting(slow=0.02) for _ in range(8)]
    threads = [threading.Thread(target=BatchRun.open(folder).run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(user for worker in workers for user in worker.asked) == list(range(97))
    assert sum(bool(worker.asked) for worker in workers) > 1
    for path in (alone / "parts").iterdir():
        assert (folder / "parts" / path.name).read_bytes() == path.read_bytes()


def test_a_run_says_that_it_holds_users(rows: Path, tmp_path: Path) -> None:
    """Its parts have ids of users, which nothing but their owner can delete when a user must be forgotten."""
    start(rows, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["user_data"]["kind"] == "verbatim"
    assert start(rows, tmp_path / "run").missing_parts(), "the same run is continued"
