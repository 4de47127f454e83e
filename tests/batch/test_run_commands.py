"""`genrec batch` survives kills, shares runs among workers, and reports its result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrec import Catalog, Interactions
from genrec.artifact import sha256_of
from genrec.batch.checked_json import write_checked_json
from genrec.batch.run import BatchRun
from genrec.cli.app import app


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
    assert b"4,000 rows, each present exactly once" in verified.communicate()[0]


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
    assert "stray.parquet is not a part of this run" in ask("verify", folder, code=4)
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
        (table.set_column(0, "user_id", pa.array(["1"] * table.num_rows)), "has user_id '1' in row 0"),
        (table.slice(3), "does not contain each of its rows exactly once"),
        (table.set_column(2, "rank", pa.array([2, 1, 3] * 20)), "does not contain ranks 1, 2, ... for each row"),
    ):
        pq.write_table(altered, parts[0])
        facts = {name: value for name, value in told.items() if name != "sha256"}
        facts["part"] = sha256_of(parts[0])
        write_checked_json(record, facts)
        assert fault in ask("verify", folder, code=4)
    record.write_text(json.dumps(told).replace("popularity", "embedding"), encoding="utf-8")
    assert "does not match its record" in ask("verify", folder, code=4)
    # Options that would change nothing are refused, not passed over.
    for wrong in (("--model", "none"), ("--strategy", "beam"), ("--engine", "vllm"), ("--engine", "other")):
        assert "--engine is" in (said := ask("plan", str(link), *options, *wrong, code=2)) or "does not use" in said


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


@pytest.mark.parametrize("texts", [(), ("--text", "title,sku"), ("--text", "title", "--no-lexical")])
def test_run_resumes_with_the_texts_it_was_started_with(texts: tuple[str, ...], tmp_path: Path) -> None:
    """The second half of the rows would be searched by other columns than the first."""
    items = [{"item_id": f"i{n}", "title": f"drill {n}", "sku": f"BX-{n}", "maker": f"Maker {n}"} for n in range(9)]
    write_lines(tmp_path / "items.jsonl", items)
    write_lines(tmp_path / "rows.jsonl", [{"words": words} for words in ("bx 4", "maker", "drill 7", "bx 2")])
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na,i1,1\na,i2,2\nb,i2,1\n", encoding="utf-8")
    tables = ["--items", str(tmp_path / "items.jsonl"), "--interactions", str(tmp_path / "log.csv")]
    options = [*tables, "--ranker", "blend", "--encoder", "none", "--part-rows", "1", "--k", "3", *texts]
    run = ["batch", "run", str(tmp_path / "rows.jsonl"), str(tmp_path / "run"), *options]
    assert CliRunner().invoke(app, run).exit_code == 0
    parts = {part: part.read_bytes() for part in (tmp_path / "run" / "parts").iterdir()}
    next(iter(parts)).unlink()
    for command in (["batch", "resume", str(tmp_path / "run")], run):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        assert {part: part.read_bytes() for part in parts} == parts
    found = [line for part in sorted(parts) for line in pq.read_table(part).to_pylist() if line["rank"] == 1]
    assert (found[0]["item_id"] == "i4") is (texts != ("--text", "title", "--no-lexical"))


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
