"""A run ends with every row there once, whoever made it and whatever happened on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrec import Catalog, Interactions, PopularityRanker, RankRequest, Recommender, open_dataset
from genrec.artifact import atomic_writer, sha256_of
from genrec.batch import run as batch_module
from genrec.batch.input import InputRow
from genrec.batch.leases import Leases
from genrec.batch.recommend import RecommendTask
from genrec.batch.run import BatchResult, BatchRun, RowFailure, start_run
from genrec.cli.app import app
from genrec.deadline import Deadline
from genrec.errors import ArtifactError, EngineError, InputError, MismatchError
from genrec.types import Ranking

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
    assert run.verify()[0] == "part 00000000 is missing: 10 rows from row 0 on; resume it"
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
        with pytest.raises(InputError, match="of the 10 rows of part 00000000 the answers name"):
            run.run(lambda rows, schema, table=table, failures=failures: BatchResult(table, failures))
    assert run.status().parts_done == 0


def test_engine_outage_is_waited_out(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine starts again a run would else rush through, and call every row a failure."""
    waited: list[float] = []
    monkeypatch.setattr(batch_module.time, "sleep", waited.append)
    answering = Counting()

    def answer(rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        if len(waited) < 2:
            failures = [RowFailure(place, None, batch_module.ENGINE_ERROR, "it starts") for place in range(len(rows))]
            return BatchResult(schema.empty_table(), failures)
        return answering(rows, schema)

    run = start(rows, tmp_path / "run")
    done = run.run(answer)
    assert (done.failed, done.rows_done, list(filter(None, waited))) == (0, 97, [1.0, 5.0])
    other = start(rows, tmp_path / "other")

    def down(rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        return BatchResult(
            schema.empty_table(),
            [RowFailure(place, None, batch_module.ENGINE_ERROR, "gone") for place in range(len(rows))],
        )

    with pytest.raises(EngineError, match="not one of 10 rows could be answered, 5 times: gone"):
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
    with pytest.raises(MismatchError, match="is not what the run began with"):
        BatchRun.open(folder).check_source()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MismatchError, match="holds something that is no batch run"):
        start(rows, tmp_path / "other")
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
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
    with pytest.raises(MismatchError, match=r"holds b\.jsonl, which was not there when the run began"):
        BatchRun.open(tmp_path / "run").prepare()
    with pytest.raises(InputError, match="facts are Object of type object is not JSON"):
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

    monkeypatch.setattr(batch_module, "atomic_writer", fill_up)
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


def test_expired_lease_is_taken_over(tmp_path: Path) -> None:
    """Somebody alive keeps it however long it takes; of somebody who is gone it is free, elsewhere after a while."""
    first, second = (Leases(tmp_path, timeout=0.5, renew_interval=0.1) for _ in range(2))
    assert first.acquire("a")
    assert not second.acquire("a")
    time.sleep(1.0)
    assert not second.acquire("a"), "its owner is alive"
    elsewhere = tmp_path / "b"
    elsewhere.write_text("another-machine 1 x", encoding="utf-8")
    assert not second.acquire("b")
    time.sleep(0.7)
    assert second.acquire("b"), "nobody renewed it"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = (tmp_path / "a").read_text(encoding="utf-8").partition(" ")[0]
    (tmp_path / "c").write_text(f"{host} {gone.pid} x", encoding="utf-8")
    assert first.acquire("c"), "its process is gone"
    (tmp_path / "c").write_text("somebody else's now", encoding="utf-8")
    first.release("c")
    assert (tmp_path / "c").is_file(), "what was taken over is not given back"
    (tmp_path / "c").unlink()
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def shop(cache: Path) -> tuple[Catalog, Interactions]:
    return open_dataset("online-retail", cache)


def test_a_row_fails_by_itself(shop: tuple[Catalog, Interactions]) -> None:
    """Each with its id, its kind of failure and a sentence; and the engine's failures are not served from below."""
    catalog, interactions = shop
    popularity = PopularityRanker(interactions.item_counts(catalog))
    known, item = interactions.user_ids[0], catalog.item_ids[0]
    rows = [
        InputRow({"user_id": known}),
        InputRow({"user_id": "nobody"}),
        InputRow({"history": [item], "user_id": 7}),
        InputRow({"history": json.dumps([item])}),
        InputRow({"history": f"{item} no-such-item"}),
        InputRow({}, "line 3 of a.csv is not UTF-8"),
        InputRow({"words": "a mug"}),
        InputRow({"name": "x"}),
        InputRow({"user_id": True}),
        InputRow({"history": 5}),
        InputRow({"history": "[1,"}),
        InputRow({"history": "[" * 99_000}),
        InputRow({"user_id": "\ud800"}),
        InputRow({"user_id": 2**64, "history": [item]}),
        InputRow({"user_id": known, "history": []}),
    ]
    lines = {"item_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "source": pa.string()}
    lines |= {"row": pa.int64()}
    texts, numbers = (pa.schema({"user_id": kind, **lines}) for kind in (pa.string(), pa.int64()))
    recommender = Recommender(catalog, [popularity], interactions=interactions)
    answers = RecommendTask(recommender, 3, {})(rows, texts)
    codes = {one.row: (one.id, one.code) for one in answers.failures}
    assert codes == {
        1: ("nobody", "unknown_user"),
        4: (None, "unknown_item"),
        **dict.fromkeys((5, 7, 8, 9, 10, 11, 12, 13), (None, "unreadable")),
    }
    lists = answers.table.to_pylist()
    assert [line["rank"] for line in lists] == [1, 2, 3] * 5
    assert [line["user_id"] for line in lists[::3]] == [str(known), "7", None, None, str(known)]
    assert [line["item_id"] for line in lists[-3:]] == [line["item_id"] for line in lists[:3]]
    alone = RecommendTask(recommender, 3, {})([InputRow({"user_id": int(known)}), InputRow({"user_id": "x"})], numbers)
    assert alone.table["user_id"].to_pylist() == [int(known)] * 3
    assert "is 'x' where the first row's is a number" in alone.failures[0].message
    with pytest.raises(InputError, match="a row with item_id is an event"):
        RecommendTask(recommender, 3, {}).schema(iter([InputRow({"user_id": 1, "item_id": 2})]))
    assert RecommendTask(recommender, 3, {}).schema(iter([rows[5], rows[7], rows[2]])) == numbers
    with pytest.raises(InputError, match="k is 0"):
        RecommendTask(recommender, 0, {})

    class Broken:
        source = "broken"

        def can_rank(self, request: RankRequest) -> bool:
            return len(request.history) > 0

        def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
            raise EngineError("the engine is gone")

        def score(self, requests: Any, items: Any, *, deadline: Deadline) -> Any:
            raise EngineError("the engine is gone")

    fallen = RecommendTask(Recommender(catalog, [Broken(), popularity], interactions=interactions), 3, {})
    answers = fallen([rows[0], rows[6]], texts)
    assert [(one.row, one.code, one.message) for one in answers.failures] == [
        (0, "engine", "broken was skipped: the engine is gone")
    ]
    assert answers.sources == {"popularity": 3}


def genrec_batch(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "genrec", "batch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_run_resumes_to_the_same_result(shop: tuple[Catalog, Interactions], tmp_path: Path) -> None:
    """The command itself, killed by -9, by SIGTERM and by SIGINT, with several workers; then byte for byte the same."""
    _, interactions = shop
    source, options = tmp_path / "users.csv", ("--ranker", "popularity", "--part-rows", "100", "--k", "3")
    users = random.Random(0).choices(list(interactions.user_ids), k=4000)
    source.write_text("user_id\n" + "".join(f"{user}\n" for user in users), encoding="utf-8")
    undisturbed = genrec_batch("run", str(source), str(tmp_path / "whole"), *options)
    out, told = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, told.decode()
    folder, moments, hit = tmp_path / "run", random.Random(1), 0
    for way in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        before = len(list((folder / "done").glob("*.json")))
        run = genrec_batch("run", str(source), str(folder), *options, "--workers", str(moments.choice([1, 2])))
        while run.poll() is None and len(list((folder / "done").glob("*.json"))) == before:
            time.sleep(0.01)
        time.sleep(moments.random() / 10)
        hit += run.poll() is None
        run.send_signal(way)  # nothing, where it is over
        run.communicate(timeout=60)
    assert hit, "nothing was killed: the runs were over before"
    resumed = genrec_batch("resume", str(folder), "--workers", "2")
    out, told = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, told.decode()
    assert b"4,000 of 4,000 rows in 40 of 40 parts, 0 failed" in out
    names = sorted(path.name for path in (tmp_path / "whole" / "parts").iterdir())
    assert sorted(path.name for path in (folder / "parts").glob("*.parquet")) == names
    for name in names:
        assert (folder / "parts" / name).read_bytes() == (tmp_path / "whole" / "parts" / name).read_bytes()
    verified = genrec_batch("verify", str(folder))
    assert b"each of 4,000 rows is there once" in verified.communicate()[0]


def test_workers_exit_with_their_parent(shop: tuple[Catalog, Interactions], tmp_path: Path) -> None:
    """Whoever killed a run must not find it going on."""
    _, interactions = shop
    source, folder = tmp_path / "users.csv", tmp_path / "run"
    users = random.Random(0).choices(list(interactions.user_ids), k=200_000)
    source.write_text("user_id\n" + "".join(f"{user}\n" for user in users), encoding="utf-8")
    options = ("--ranker", "popularity", "--part-rows", "20", "--workers", "2")
    run = genrec_batch("run", str(source), str(folder), *options)
    owners: set[int] = set()
    while len(owners) < 2:
        assert run.poll() is None, run.communicate()[1].decode()
        for path in (folder / "leases").glob("0*"):
            with suppress(OSError, IndexError, ValueError):
                owners.add(int(path.read_text(encoding="utf-8").split(" ")[1]))
    run.kill()
    run.communicate()
    (worker,) = owners - {run.pid}
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_commands_report_their_result(shop: tuple[Catalog, Interactions], tmp_path: Path) -> None:
    """Plan, run, status, verify and retry, by their exit codes and their JSON; options that differ are refused."""
    _, interactions = shop
    source, folder = tmp_path / "users.jsonl", str(tmp_path / "run")
    rows = [{"user_id": str(user)} for user in interactions.user_ids[:200]] + [
        {"user_id": "nobody"},
        {"words": "a mug"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "latest").symlink_to(source)
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)

    def ask(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["batch", *arguments])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr)
        return json.loads(result.stdout) if "--json" in arguments else result.stdout + result.stderr

    options = ("--ranker", "popularity", "--k", "3")
    planned = ask("plan", str(link), *options, "--json")
    assert planned["rows"] == 202
    assert planned["sampled"] == 50
    done = ask("run", str(link), folder, *options, "--part-rows", "20", "--json", code=3)
    assert (done["rows_done"], done["failed"], done["lines"], done["finished"]) == (202, 1, 3 * 201, True)
    assert ask("status", folder, "--json") == done
    assert ask("verify", folder, "--json")["wrong"] == []
    assert "note: 1 rows failed (1 unknown_user)" in ask("resume", folder, code=3)
    (tmp_path / "run" / "parts" / "stray.parquet").write_bytes(b"not ours")
    assert "stray.parquet is no part of this run" in ask("verify", folder, code=4)
    ask("resume", folder, code=3)
    assert ask("verify", folder, "--json")["wrong"] == []
    assert "1 failed" in ask("retry-failed", folder, code=3)
    parts = sorted((tmp_path / "run" / "parts").glob("*.parquet"))
    lines = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
    assert list(lines[0]) == ["user_id", "item_id", "rank", "score", "source", "row"]
    assert [line["row"] for line in lines] == sorted([*range(200), 201] * 3)
    assert "whose k is 3, not 4" in ask("run", str(link), folder, *options[:-1], "4", "--part-rows", "20", code=4)
    assert "whose exclude is None" in ask(
        "run", str(link), folder, *options, "--exclude", "22423", "--part-rows", "20", code=4
    )
    # What cannot be used is refused before there is a folder.
    for wrong in (("--k", "0"), ("--where", "price <"), ("--on-unknown", "ask"), ("--ranker", "best")):
        ask("run", str(source), str(tmp_path / "wrong"), *options, *wrong, code=2)
    assert not (tmp_path / "wrong").exists()
    ask("run", str(tmp_path), str(tmp_path / "out"), *options, code=2)
    # A part that was altered together with its record: the rows tell.
    table, record = pq.read_table(parts[0]), tmp_path / "run" / "done" / f"{parts[0].stem}.json"
    told = json.loads(record.read_text(encoding="utf-8"))
    for altered, fault in (
        (table.set_column(0, "user_id", pa.array(["1"] * table.num_rows)), "holds user_id '1' for row 0"),
        (table.slice(3), "does not hold each of its rows once"),
        (table.set_column(2, "rank", pa.array([2, 1, 3] * 20)), "does not hold ranks from 1 on for each row"),
    ):
        pq.write_table(altered, parts[0])
        facts = {name: value for name, value in told.items() if name != "sha256"}
        facts["part"] = sha256_of(parts[0])
        record.write_text(json.dumps(batch_module._with_checksum(facts)), encoding="utf-8")
        assert fault in ask("verify", folder, code=4)
    record.write_text(json.dumps(told).replace("popularity", "embedding"), encoding="utf-8")
    assert "is not what its record says" in ask("verify", folder, code=4)
    # Options that would change nothing are refused, not passed over.
    for wrong in (("--model", "none"), ("--strategy", "beam"), ("--engine", "vllm"), ("--engine", "other")):
        assert "--engine is" in (said := ask("plan", str(link), *options, *wrong, code=2)) or "does without" in said


def test_a_cluster_that_loses_a_worker_loses_no_row(shop: tuple[Catalog, Interactions], tmp_path: Path) -> None:
    """Ray with two workers, of which one is killed while it works; the parts are those that one process writes."""
    _, interactions = shop
    source, options = tmp_path / "users.jsonl", ("--ranker", "popularity", "--part-rows", "50", "--k", "3")
    users = random.Random(0).choices(list(interactions.user_ids), k=3000)
    source.write_text("".join(json.dumps({"user_id": user}) + "\n" for user in users), encoding="utf-8")
    alone = genrec_batch("run", str(source), str(tmp_path / "alone"), *options)
    assert alone.wait(timeout=300) == 0
    folder = tmp_path / "run"
    cluster = genrec_batch("run", str(source), str(folder), *options, "--ray", "local", "--workers", "2")
    killed = 0
    while cluster.poll() is None and not killed:
        time.sleep(0.05)
        if len(list((folder / "done").glob("*.json"))) > 3:
            owners = {path.read_text(encoding="utf-8").split(" ")[1] for path in (folder / "leases").glob("0*")}
            for owner in filter(None, owners):
                os.kill(int(owner), signal.SIGKILL)
                killed += 1
                break
    _, told = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, told.decode()
    assert killed, "nobody was killed: the run was over before"
    for path in (tmp_path / "alone" / "parts").iterdir():
        assert (folder / "parts" / path.name).read_bytes() == path.read_bytes()
    assert BatchRun.open(folder).verify() == []
