"""`genrec serve` as a process: it says where it listens, refuses what would be unsafe, and ends when it is told to."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from serving import command, started

KEY = "a-key-of-more-than-sixteen"


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rows = [{"item_id": f"i{place}", "title": f"Thing {place}", "price": float(place)} for place in range(30)]
    file = tmp_path / "shop.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_serves_a_file_keeps_events_and_stops_on_signal(items: Path, tmp_path: Path) -> None:
    """A server that forgets what was sold when it is restarted recommends it again."""
    arguments = ["--port", 0, "--items", items, "--ranker", "popularity"]
    with started(arguments, XDG_STATE_HOME=str(tmp_path)) as (process, address):
        event = {"user_id": 7, "item_id": "i3"}
        assert httpx.post(f"{address}v1/events", json={"events": [event]}).json()["added"] == 1
        assert httpx.get(address).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    with started(arguments, XDG_STATE_HOME=str(tmp_path)) as (process, address):
        history = httpx.get(f"{address}v1/users/7/history").json()["items"]
        assert [item["item_id"] for item in history] == ["i3"]
        answer = httpx.post(f"{address}v1/recommend", json={"user_id": "7", "k": 29}).json()
        assert len(answer["items"]) == 29
        assert "i3" not in {item["item_id"] for item in answer["items"]}


def test_interactions_files_are_private(items: Path, tmp_path: Path) -> None:
    """Everybody with an account on the machine could read what customers bought."""
    arguments = ["--port", 0, "--items", items, "--ranker", "popularity"]
    folder = tmp_path / "genrec"
    for _ in range(2):
        with started(arguments, XDG_STATE_HOME=str(tmp_path)) as (process, address):
            assert httpx.post(f"{address}v1/events", json={"events": [{"user_id": 7, "item_id": "i3"}]}).is_success
            assert folder.stat().st_mode & 0o777 == 0o700
            assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        next(folder.glob("*.db")).chmod(0o644)  # as earlier versions left it


def test_public_address_requires_keys(items: Path, tmp_path: Path) -> None:
    """The environment variable is how keys reach a container."""
    arguments = ["--port", 0, "--items", items, "--ranker", "popularity", "--store", f"sqlite:///{tmp_path}/e.db"]
    with started([*arguments, "--host", "0.0.0.0", "--rate", 100], GENREC_KEYS=f"{KEY}, {KEY}2") as (_, address):
        local = address.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{local}v1/models").status_code == 401
        assert httpx.get(f"{local}v1/models", headers={"authorization": f"Bearer {KEY}2"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is reachable from other machines and needs keys"),
        (["--rate", "5"], "--rate 5.0 applies to API keys, but there are none"),
        (["--keys", "nowhere.txt"], "the API keys in nowhere.txt cannot be read"),
        (["--ranker", "magic"], "--ranker is 'magic'; choose one of"),
        (["--ranker", "blend"], "--ranker blend is not available for shop.jsonl; choose from"),
        (["--store", "mysql://x"], "mysql"),
        (["--host", "no.such.host.invalid", "--keys", "KEYS"], "cannot listen on no.such.host.invalid:8080"),
    ],
)
def test_configuration_errors_are_reported_before_listening(
    items: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """A server that starts and then refuses everybody is found out by customers."""
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{KEY}\n", encoding="utf-8")
    given = [str(keys) if one == "KEYS" else one for one in arguments]
    default = ["--items", items, "--encoder", "none", *([] if "--ranker" in given else ["--ranker", "popularity"])]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    environment.pop("GENREC_KEYS", None)
    done = subprocess.run(command(*default, *given), capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode in (2, 5), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_forgotten_user_is_in_nothing_that_a_new_server_computes(items: Path, tmp_path: Path) -> None:
    """The interactions file still has them, and the cache has what was computed from it."""
    events = [(user, (3 * user + step) % 30, step) for user in range(40) for step in range(4)]

    def write_log(name: str, users: Sequence[int]) -> Path:
        rows = [f"{user},i{item},{time}\n" for user, item, time in events if user in users]
        path = tmp_path / name
        path.write_text("user_id,item_id,timestamp\n" + "".join(rows), encoding="utf-8")
        return path

    everybody, others = write_log("log.csv", range(40)), write_log("others.csv", range(39))

    def lists_of(log: Path, place: str, *, forget: bool = False) -> list[object]:
        arguments = ["--port", 0, "--items", items, "--interactions", log, "--ranker", "blend", "--encoder", "none"]
        folders = {"XDG_STATE_HOME": str(tmp_path / place), "GENREC_CACHE": str(tmp_path / place / "cache")}
        with started(arguments, **folders) as (process, address):
            if forget:
                assert len(httpx.get(f"{address}v1/users/39/history").json()["items"]) == 4
                assert httpx.delete(f"{address}v1/users/39").is_success
                assert httpx.get(f"{address}v1/users/39/history").json()["items"] == []
            bodies = [{"user_id": 5}, {"user_id": 39}, {"history": ["i1", "i27"]}]
            found = [httpx.post(f"{address}v1/recommend", json=body).json()["items"] for body in bodies]
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        return found

    lists_of(everybody, "shop", forget=True)
    assert lists_of(everybody, "shop") == lists_of(others, "other shop")
    cached, expected = (
        {path.name for path in (tmp_path / place / "cache" / "counts").iterdir()} for place in ("shop", "other shop")
    )
    assert cached == expected
