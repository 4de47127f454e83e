"""A store under threads, processes, kills and restarts: acknowledged writes are there exactly once."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import postgres
import pytest
import sqlalchemy as sa
from raw_database import execute

from genrec import Item
from genrec.errors import InputError, StoreError
from genrec.store.event_store import Event, Store
from genrec.store.tables import USER_COLUMNS

ROOT = Path(__file__).parents[2]

# Adds batches of seven events and prints the number of each acknowledged batch. The item id identifies events without
# an event id.
WRITER = """
import sys
from genrec.store.event_store import Event, Store

url, name, start, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Store.open(url) as store:
    for batch in range(start, stop):
        shared = [Event(f"u{batch % 5}", f"{batch}-{row}", row, event_id=f"{batch}-{row}") for row in range(4)]
        own = [Event(f"u{batch % 5}", f"{name}-{batch}-{row}", row) for row in range(3)]
        store.add([*shared, *own])
        print(batch, flush=True)
"""


def test_reopened_store_has_the_same_content(url: str) -> None:
    """Durable storage is the purpose of a store."""
    with Store.open(url) as store:
        store.add([Event("u", "i", 1.0)])
        store.forget("v")
        store.revise([Item("a", "title", {"price": 1.25})], ["b"])
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.events_of("u")
    with Store.open(url) as store:
        store.check()
        assert store.events_of("u") == [Event("u", "i", 1.0)]
        assert store.is_forgotten("v")
        assert store.revisions() == ([Item("a", "title", {"price": 1.25})], ["b"])


def test_threads_share_a_store(store: Store) -> None:
    """A server uses one store from many threads."""

    def work(number: int) -> int:
        added = 0
        for batch in range(10):
            added += store.add([Event(f"u{number % 2}", "i", batch, event_id=f"{batch}-{row}") for row in range(3)])
            store.events_of("u0")
        return added

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(work, range(20))) == 60
    assert len(store.events_of("u0")) == len(store.events_of("u1")) == 30


def test_conflicting_writers_both_finish(store: Store, url: str) -> None:
    """Each holds a row that the other waits for; one must retry, and neither may fail."""
    events = [Event("u", "i", row, event_id=str(row)) for row in range(300)]
    start = threading.Barrier(2)
    with Store.open(url) as other, ThreadPoolExecutor(2) as pool:
        for turn in range(10):
            sent = [replace(event, user_id=f"u{turn}") for event in events]

            def work(one: Store, sent: list[Event]) -> int:
                start.wait()
                return one.add(sent)

            found = [pool.submit(work, store, sent), pool.submit(work, other, sent[::-1])]
            assert sum(future.result() for future in found) == 300


def test_reads_do_not_wait_for_writers(store: Store) -> None:
    """A list for one user must not wait until another user's batch is on the disk."""
    store.add([Event("u", "i", 1.0)])
    held, read = threading.Event(), threading.Event()

    def delete_events(connection: sa.Connection) -> None:
        connection.execute(sa.delete(USER_COLUMNS[0].table))
        held.set()
        assert read.wait(60)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store._database.write, delete_events)
        assert held.wait(60)
        assert len(store.events_of("u")) == 1
        read.set()
        writing.result()
    assert store.events_of("u") == []


def test_failed_transaction_changes_nothing(store: Store) -> None:
    """A partial batch is worse than none."""
    store.add([Event("u", "i", 1.0)])

    def delete_events(connection: sa.Connection) -> None:
        connection.execute(sa.delete(USER_COLUMNS[0].table))
        raise InputError("no")

    with pytest.raises(InputError):
        store._database.write(delete_events)
    assert len(store.events_of("u")) == 1
    assert store.add([Event("u", "i", 1.0)]) == 1


def test_processes_that_open_a_new_store_at_once_share_it(url: str) -> None:
    """A server starts its workers together, also on the first day."""
    writers = [start_writer(url, f"w{number}", 0, 3) for number in range(4)]
    for writer in writers:
        assert writer.wait(120) == 0
    with Store.open(url) as store:
        assert sum(len(store.events_of(f"u{user}")) for user in range(5)) == 3 * (4 + 3 * 4)


def test_acknowledged_events_survive_a_kill_exactly_once(url: str) -> None:
    """An acknowledged event must not be lost, and a resent one must not be stored twice."""
    Store.open(url).close()
    acknowledged: dict[str, set[int]] = {}
    for turn in range(2):
        writers = {f"w{turn}-{number}": start_writer(url, f"w{turn}-{number}", 0, 100_000) for number in range(3)}
        for delay, (name, writer) in enumerate(writers.items()):
            assert writer.stdout
            lines = list(itertools.islice(writer.stdout, 5 + 10 * delay + turn))
            writer.send_signal(signal.SIGKILL)
            acknowledged[name] = {int(line) for line in [*lines, *writer.stdout] if line.endswith(b"\n")}
            assert writer.wait() == -signal.SIGKILL
    with Store.open(url) as store:
        counts = Counter(event.item_id for user in range(5) for event in store.events_of(f"u{user}"))
        assert set(counts.values()) == {1}
        for name, batches in acknowledged.items():
            assert len(batches) >= 5
            written = {int(item.split("-")[2]) for item in counts if str(item).startswith(f"{name}-")}
            # The unacknowledged batch is there as a whole, or not at all; a batch is 4 shared and 3 own events.
            assert batches <= written <= {*batches, len(batches)}
            for batch in written:
                assert all(counts[f"{name}-{batch}-{row}"] == 1 for row in range(3))
                assert all(counts[f"{batch}-{row}"] == 1 for row in range(4))
        assert store.add([Event("u0", "0-0", 0, event_id="0-0")]) == 0


def test_store_of_a_newer_version_is_rejected(url: str) -> None:
    """It may have tables that this version does not know to forget."""
    Store.open(url).close()
    execute(url, "UPDATE genrec_facts SET value = '2' WHERE name = 'version'")
    with pytest.raises(StoreError, match=r"has schema version '2', but this genrec supports version 1; update genrec"):
        Store.open(url)


def test_altered_store_is_rejected(url: str) -> None:
    """Without the salt, forgotten users are no longer recognised."""
    with Store.open(url) as store:
        store.revise([Item("a", "A")])
        execute(url, "UPDATE genrec_revisions SET item = 'nonsense'")
        with pytest.raises(StoreError, match=r"was altered: .*; put the item again"):
            store.revisions()
    execute(url, "DELETE FROM genrec_facts WHERE name = 'salt'")
    with pytest.raises(StoreError, match=r"was altered \(genrec_facts lacks 'salt'\)"):
        Store.open(url)
    execute(url, "DROP TABLE genrec_events")
    execute(url, "INSERT INTO genrec_facts VALUES ('salt', 'x')")
    with Store.open(url) as store, pytest.raises(StoreError, match=r"cannot be used: .*genrec_events"):
        store.events_of("u")


def test_check_detects_a_removed_file(sqlite_store: Store, tmp_path: Path) -> None:
    """Writes to a removed file succeed and are lost."""
    sqlite_store.check()
    (tmp_path / "events.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(
        StoreError, match=r"events\.db was removed or replaced while it was in use; restart the process"
    ):
        sqlite_store.check()


def test_long_write_lock_is_reported(sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs in a transaction must not block all others forever."""
    monkeypatch.setattr("genrec.store.database._BUSY_TIMEOUT", 0.2)
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    with Store.open(f"sqlite:///{tmp_path}/events.db") as hasty:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked; try again"):
            hasty.add([Event("u", "i", 1.0)])
        other.execute("ROLLBACK")
        assert hasty.add([Event("u", "i", 1.0)]) == 1
    other.close()


@pytest.mark.postgres
def test_restarted_postgres_is_used_again(postgres_server: postgres.PostgresServer, postgres_store: Store) -> None:
    """Databases are updated at night; genrec must not need a restart for that."""
    postgres_store.add([Event("u", "i", 1.0)])
    for use in (
        postgres_store.check,
        lambda: postgres_store.events_of("u"),
        lambda: postgres_store.add([Event("v", "i", 1.0)]),
    ):
        use()
        postgres_server.stop()
        try:
            with pytest.raises(StoreError, match="check that the server is running") as caught:
                use()
            assert postgres.PASSWORD not in str(caught.value)
        finally:
            postgres_server.start()
        use()
        postgres_server.stop()
        postgres_server.start()
        use()
    assert len(postgres_store.events_of("u")) == 1
    assert len(postgres_store.events_of("v")) == 3


def start_writer(url: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that runs WRITER."""
    command = [sys.executable, "-c", WRITER, url, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
