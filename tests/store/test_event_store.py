"""What every store must keep, whatever database is under it."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import postgres
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec import Item
from genrec.errors import InputError, StoreError
from genrec.store.event_store import MAX_EVENTS_PER_USER, Event, Store
from genrec.store.tables import USER_COLUMNS

ROOT = Path(__file__).parents[2]

# The examples of a store share it, each with a user of its own; the laws are run on two databases.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
IDS = IDS.filter(lambda text: bool(text.strip()))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.builds(Event, st.just("?"), IDS, FINITE, st.none() | IDS.map(lambda text: text[:100]), FINITE, st.none())

# Adds batches of seven, and says of each when it was acknowledged; what has no id of its own is told by its item.
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


class StoreContract:
    """Give a fixture `url`, that of a database without a store."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with Store.open(url, clock=lambda: 5.0) as store:
            yield store

    @settings(max_examples=50, suppress_health_check=SHARED)
    @given(user=IDS, events=st.lists(EVENTS, max_size=20))
    def test_events_come_back_as_they_were_sent(self, store: Store, user: str, events: list[Event]) -> None:
        """Oldest first, ties as they arrived, every digit and every letter: a history is what decides a list."""
        store.forget(user)
        sent = [replace(event, user_id=user) for event in events]
        assert store.add(sent) == len(sent)
        assert store.events_of(user) == sorted(sent, key=lambda event: event.timestamp)

    def test_reads_return_the_newest_events(self, store: Store) -> None:
        """An id that all guests share grows for ever, and would make every list of theirs wait."""
        store.add([Event("guest", number, -(number // 2)) for number in range(MAX_EVENTS_PER_USER + 6)])
        found = [int(event.item_id) for event in store.events_of("guest")]
        assert found == sorted(range(MAX_EVENTS_PER_USER), key=lambda number: -(number // 2))

    def test_a_number_and_its_text_are_one_id(self, store: Store) -> None:
        """Or a history would depend on whether the shop's JSON has quotes."""
        store.add([Event(17, 4, 1.0, event_id="a"), Event("17", "4", 2.0, event_id="a"), Event("017", 4, 3.0)])
        assert store.events_of(17) == store.events_of("17") == [Event("17", "4", 1.0, event_id="a")]
        store.forget("17")
        assert store.is_forgotten(17)
        assert not store.is_forgotten("017")
        store.revise([Item(17, "one")])
        store.revise([Item("17", "other")])
        assert store.revisions() == ([Item("17", "other")], [])

    def test_the_same_event_twice_is_one(self, store: Store) -> None:
        """Clients send again what was not acknowledged; a purchase must not count twice for that."""
        event = Event("u", "i", 1.0, "buy", 2.0, "e")
        assert store.add([event, event]) == 1
        assert store.add([replace(event, weight=9.0), Event("v", "i", 1.0, event_id="e")]) == 1
        assert store.events_of("u") == [event]
        assert store.add([Event("u", "i", 1.0), Event("u", "i", 1.0)]) == 2
        assert store.add([]) == 0

    def test_a_batch_is_added_whole_or_not_at_all(self, store: Store) -> None:
        """Whoever is told that a batch was refused sends all of it again."""
        good = [Event("u", str(place), 1.0) for place in range(100)]
        with pytest.raises(InputError, match="timestamp number 101 is nan; give a finite number"):
            store.add([*good, Event("u", "bad", float("nan"))])
        assert store.events_of("u") == []

    def test_added_events_are_visible_to_other_connections(self, store: Store, url: str) -> None:
        """An event changes the very next recommendation, whichever process gives it."""
        with Store.open(url) as other:
            for number in range(5):
                store.add([Event("u", number, number)])
                assert len(other.events_of("u")) == number + 1
            other.forget("u")
            assert store.is_forgotten("u")
            assert store.events_of("u") == []

    def test_a_store_outlives_its_process(self, url: str) -> None:
        """That is what it is for."""
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

    def test_forget_removes_every_row_of_the_user(self, store: Store, url: str) -> None:
        """What is left is found by somebody, some day."""
        name = "unmistakable-person"
        store.add([Event(name, f"item-{row}", row, "buy", 1.0, f"{name}-{row}") for row in range(40)])
        store.add([Event("other", "item", 1.0)])
        assert store.forget(name) == {"genrec_events.user_id": 40}
        assert store.forget(name) == {"genrec_events.user_id": 0}
        assert store.events_of(name) == []
        assert store.is_forgotten(name)
        assert not store.is_forgotten("other")
        assert len(store.events_of("other")) == 1
        assert name not in repr(everything(url))

    def test_forgotten_user_can_add_new_events(self, store: Store) -> None:
        """They came back; what was known of them before did not."""
        store.add([Event("u", "old", 1.0, event_id="a")])
        store.forget("u")
        assert store.add([Event("u", "new", 2.0, event_id="a")]) == 1
        assert [event.item_id for event in store.events_of("u")] == ["new"]
        assert store.is_forgotten("u")

    def test_forgotten_user_hash_needs_the_salt(self, url: str) -> None:
        """A plain hash of a customer's number is found by hashing all numbers."""
        import hashlib

        with Store.open(url) as store:
            store.forget("12345")
        ((_, digest, _),) = [row for row in everything(url) if row[0] == "genrec_forgotten"]
        assert len(digest) == 64
        assert digest != hashlib.sha256(b"12345").hexdigest()

    def test_every_column_of_users_is_in_the_manifest(self, store: Store, url: str) -> None:
        """A table that nobody listed would keep people who asked to be forgotten."""
        inspector = sa.inspect(engine(url))
        tables = inspector.get_table_names()
        columns = {f"{table}.{column['name']}" for table in tables for column in inspector.get_columns(table)}
        assert "genrec_events.item_id" in columns
        assert {name for name in columns if "user" in name} == {str(column) for column in USER_COLUMNS}

    def test_of_an_item_the_last_revision_counts(self, store: Store) -> None:
        """Items are put, changed and withdrawn in any order, and the next start must end where this one did."""
        a, b, c = (
            Item("a", "A", {"price": 0.1, "tags": ["x"], "on": date(2020, 2, 29)}),
            Item("b", "B"),
            Item("c", "C"),
        )
        store.revise([a, b, c])
        store.revise([replace(a, title="A2")], ["b", "z"])
        assert store.revisions() == ([replace(a, title="A2"), c], ["b", "z"])
        store.revise([b], ["c"])
        assert store.revisions() == ([replace(a, title="A2"), b], ["z", "c"])
        assert repr("C") not in repr(store.revisions())
        store.revise()

    def test_a_revision_made_for_another_catalog_is_not_kept(self, store: Store, url: str) -> None:
        """Two servers would each keep what only fits what they know, and neither could start again."""
        assert store.revision() == 0
        with Store.open(url) as other:
            assert other.revise([Item("a", "A")], expected_revision=0) == 1
            assert store.revise([Item("a", "B")], ["b"], expected_revision=0) is None
            assert store.revisions() == ([Item("a", "A")], [])
            assert store.revision() == 1
            assert store.revise(withdraw=["b"], expected_revision=1) == 2
            assert other.revise(expected_revision=2) == other.revision() == 2
            assert other.revise(expected_revision=1) is None

    def test_concurrent_revisions_are_serialised(self, store: Store, url: str) -> None:
        """Of two that were made for the same catalog one must be told, or its server never learns of the other."""
        start = threading.Barrier(4)

        def work(number: int) -> int:
            tried = 0
            with Store.open(url) as own:
                start.wait()
                for turn in range(5):
                    while own.revise([Item(f"{number}-{turn}", "x")], expected_revision=own.revision()) is None:
                        tried += 1
            return tried

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert store.revision() == len(store.revisions()[0]) == 20

    def test_a_store_from_before_revisions_were_counted_is_opened(self, url: str) -> None:
        """An update of genrec must not cost a shop its events."""
        with Store.open(url) as store:
            store.revise([Item("a", "A")])
        change(url, "DELETE FROM genrec_facts WHERE name = 'revision'")
        with Store.open(url) as store:
            assert store.revision() == 0
            assert store.revise([Item("b", "B")]) == 1
            assert len(store.revisions()[0]) == 2
            change(url, "UPDATE genrec_facts SET value = 'x' WHERE name = 'revision'")
            with pytest.raises(StoreError, match=r"was altered \(genrec_facts has no revision\)"):
                store.revision()

    @pytest.mark.parametrize(
        ("put", "withdraw", "message"),
        [
            ([Item("a", "A"), Item("a", "B")], [], "item 'a' is put or withdrawn twice"),
            ([Item(7, "A")], ["7"], "item '7' is put or withdrawn twice"),
            ([Item("a", " ")], [], "has no title"),
            ([Item("a", "A"), Item(" ", "B")], [], "item_id number 2 is ' '"),
            ([Item("a", "A", {"x": 1}), Item("b", "B", {"x": "1"})], [], "numbers and text"),
            ([Item("a", "A", {"x": {"y": 1}})], [], "use text, numbers, dates or lists"),
            ([Item("a", "A", {"x": "\ud800"})], [], "use text, numbers, dates or lists"),
            ([Item("a", "A")], [True], "item_id number 1 is True"),
        ],
    )
    def test_a_revision_that_no_catalog_could_hold_is_refused_whole(
        self, store: Store, put: list[Item], withdraw: list[Any], message: str
    ) -> None:
        """It would stop the next start, when nobody remembers it."""
        with pytest.raises(InputError, match=message):
            store.revise(put, withdraw)
        assert store.revisions() == ([], [])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"user_id": ""}, "user_id number 1 is ''; ids are text or whole numbers, and not blank"),
            ({"user_id": "x" * 201}, "user_id number 1 is .*201 characters long; give 200 at most"),
            ({"item_id": 1.5}, "item_id number 1 is 1.5"),
            ({"item_id": True}, "item_id number 1 is True"),
            ({"item_id": None}, "item_id number 1 is None"),
            ({"item_id": "\ud800"}, "item_id number 1 is"),
            ({"item_id": "a\0b"}, "holds a zero"),
            ({"event": "e" * 101}, "event number 1 is .*give 100 at most"),
            ({"event": 3}, "event number 1 is 3; give text"),
            ({"event": "\ud800"}, "event number 1 is .*give text"),
            ({"event_id": " "}, "event_id number 1 is ' '"),
            ({"timestamp": float("inf")}, "timestamp number 1 is inf; give a finite number"),
            ({"timestamp": "1"}, "timestamp number 1 is '1'"),
            ({"timestamp": 10**400}, "timestamp number 1 is 1000"),
            ({"weight": float("nan")}, "weight number 1 is nan"),
            ({"weight": True}, "weight number 1 is True"),
        ],
    )
    def test_what_cannot_be_kept_is_refused_by_value_and_place(
        self, store: Store, changes: dict[str, Any], message: str
    ) -> None:
        """A database that cuts, rounds or refuses by itself does so after others of the batch."""
        with pytest.raises(InputError, match=message) as caught:
            store.add([replace(Event("u", "i", 1.0), **changes)])
        assert len(str(caught.value)) < 300
        longest = Event("u" * 200, "\U0001f9e6" * 200, 1, "e" * 100, 1, "x" * 200)
        assert store.add([longest]) == 1
        assert store.events_of("u" * 200) == [longest]

    def test_an_id_that_is_none_is_refused_wherever_it_is_asked_about(self, store: Store) -> None:
        """An empty answer would say that somebody has no history."""
        for ask in (store.events_of, store.forget, store.is_forgotten):
            with pytest.raises(InputError, match="user_id is ''"):
                ask("")

    def test_threads_share_a_store(self, store: Store) -> None:
        """A server answers many at once."""

        def work(number: int) -> int:
            added = 0
            for batch in range(10):
                added += store.add([Event(f"u{number % 2}", "i", batch, event_id=f"{batch}-{row}") for row in range(3)])
                store.events_of("u0")
            return added

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(work, range(20))) == 60
        assert len(store.events_of("u0")) == len(store.events_of("u1")) == 30

    def test_conflicting_writers_both_finish(self, store: Store, url: str) -> None:
        """Each holds what the other waits for; one of them must begin again, and nobody may be told."""
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

    def test_reads_do_not_wait_for_writers(self, store: Store) -> None:
        """A list for one customer must not wait until another's batch is on the disk."""
        store.add([Event("u", "i", 1.0)])
        held, read = threading.Event(), threading.Event()

        def step(connection: sa.Connection) -> None:
            connection.execute(sa.delete(USER_COLUMNS[0].table))
            held.set()
            assert read.wait(60)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(store._database.write, step)
            assert held.wait(60)
            assert len(store.events_of("u")) == 1
            read.set()
            writing.result()
        assert store.events_of("u") == []

    def test_failed_transaction_changes_nothing(self, store: Store) -> None:
        """Half of a batch is worse than none."""
        store.add([Event("u", "i", 1.0)])

        def step(connection: sa.Connection) -> None:
            connection.execute(sa.delete(USER_COLUMNS[0].table))
            raise InputError("no")

        with pytest.raises(InputError):
            store._database.write(step)
        assert len(store.events_of("u")) == 1
        assert store.add([Event("u", "i", 1.0)]) == 1

    def test_processes_that_open_a_new_store_at_once_make_one(self, url: str) -> None:
        """A server starts its workers together, on the first day too."""
        writers = [start(url, f"w{number}", 0, 3) for number in range(4)]
        for writer in writers:
            assert writer.wait(120) == 0
        with Store.open(url) as store:
            assert sum(len(store.events_of(f"u{user}")) for user in range(5)) == 3 * (4 + 3 * 4)

    def test_acknowledged_events_survive_a_kill_exactly_once(self, url: str) -> None:
        """The promise: nothing is lost. Whoever was not answered sends again, and nothing may be there twice for it."""
        Store.open(url).close()
        acknowledged: dict[str, set[int]] = {}
        for turn in range(2):
            writers = {f"w{turn}-{number}": start(url, f"w{turn}-{number}", 0, 100_000) for number in range(3)}
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
                # The one that was under way may be there, as a whole, or not; a batch of seven is four and three.
                assert batches <= written <= {*batches, len(batches)}
                for batch in written:
                    assert all(counts[f"{name}-{batch}-{row}"] == 1 for row in range(3))
                    assert all(counts[f"{batch}-{row}"] == 1 for row in range(4))
            assert store.add([Event("u0", "0-0", 0, event_id="0-0")]) == 0

    def test_a_store_of_a_newer_genrec_is_refused(self, url: str) -> None:
        """It may hold what this one would not know to forget."""
        Store.open(url).close()
        change(url, "UPDATE genrec_facts SET value = '2' WHERE name = 'version'")
        with pytest.raises(StoreError, match=r"has version '2', this genrec knows 1; update genrec"):
            Store.open(url)

    def test_a_store_that_was_altered_is_refused(self, url: str) -> None:
        """Without the salt nobody who was forgotten is known any more."""
        with Store.open(url) as store:
            store.revise([Item("a", "A")])
            change(url, "UPDATE genrec_revisions SET item = 'nonsense'")
            with pytest.raises(StoreError, match=r"was altered: .*; put the item again"):
                store.revisions()
        change(url, "DELETE FROM genrec_facts WHERE name = 'salt'")
        with pytest.raises(StoreError, match=r"was altered \(genrec_facts lacks 'salt'\)"):
            Store.open(url)
        change(url, "DROP TABLE genrec_events")
        change(url, "INSERT INTO genrec_facts VALUES ('salt', 'x')")
        with Store.open(url) as store, pytest.raises(StoreError, match=r"cannot be used: .*genrec_events"):
            store.events_of("u")

    def test_a_store_leaves_other_tables_alone(self, url: str) -> None:
        """A shop may give it a corner of its own database."""
        change(url, "CREATE TABLE users (user_id TEXT)")
        change(url, "INSERT INTO users VALUES ('u')")
        with Store.open(url) as store:
            store.forget("u")
        assert ("users", "u") in everything(url)


class TestSqlite(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/events.db"

    def test_the_bytes_of_a_forgotten_user_are_gone_from_the_disk(self, store: Store, tmp_path: Path) -> None:
        """SQLite leaves what was deleted in free pages and in its log, unless it is told."""
        store.add([Event("unmistakable", f"item-{row}", row) for row in range(500)])
        assert any(b"unmistakable" in path.read_bytes() for path in tmp_path.iterdir())
        store.forget("unmistakable")
        assert not [path for path in tmp_path.iterdir() if b"unmistakable" in path.read_bytes()]

    def test_forget_during_a_read_is_reported_as_incomplete(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A backup that reads the file keeps the log, and in it the name that was to be removed."""
        monkeypatch.setattr("genrec.store.database._BUSY_TIMEOUT", 0.2)
        with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
            store.add([Event("unmistakable", f"item-{row}", row) for row in range(500)])
            other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
            other.execute("BEGIN")
            other.execute("SELECT * FROM genrec_events").fetchone()
            with pytest.raises(StoreError, match=r"forgotten, but the log .* end that and forget again"):
                store.forget("unmistakable")
            assert store.is_forgotten("unmistakable")
            other.execute("ROLLBACK")
            other.close()
            assert store.forget("unmistakable") == {"genrec_events.user_id": 0}
            assert not [path for path in tmp_path.iterdir() if b"unmistakable" in path.read_bytes()]

    def test_a_file_that_is_gone_is_noticed(self, store: Store, tmp_path: Path) -> None:
        """What is written into a file that was removed is lost, and every call says that it went well."""
        store.check()
        (tmp_path / "events.db").rename(tmp_path / "elsewhere.db")
        with pytest.raises(StoreError, match=r"events\.db was removed or replaced while it was in use; start again"):
            store.check()

    def test_long_write_lock_is_reported(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that hangs in a transaction must not hang all others."""
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
class TestPostgres(StoreContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_a_server_that_was_restarted_is_used_again(
        self, postgres_server: postgres.PostgresServer, store: Store
    ) -> None:
        """Databases are updated at night; the shop's server must not be restarted for that."""
        store.add([Event("u", "i", 1.0)])
        for use in (store.check, lambda: store.events_of("u"), lambda: store.add([Event("v", "i", 1.0)])):
            use()
            postgres_server.stop()
            try:
                with pytest.raises(StoreError, match="check that the server runs") as caught:
                    use()
                assert postgres.PASSWORD not in str(caught.value)
            finally:
                postgres_server.start()
            use()
            postgres_server.stop()
            postgres_server.start()
            use()
        assert len(store.events_of("u")) == 1
        assert len(store.events_of("v")) == 3


def start(url: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that writes."""
    command = [sys.executable, "-c", WRITER, url, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def engine(url: str) -> sa.Engine:
    """The database without genrec."""
    return sa.create_engine(url.replace("postgresql", "postgresql+psycopg"), poolclass=sa.NullPool)


def change(url: str, statement: str) -> None:
    with engine(url).begin() as connection:
        connection.exec_driver_sql(statement)


def everything(url: str) -> list[tuple[Any, ...]]:
    """Every row of every table, behind the table's name."""
    with engine(url).connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return [
            (table, *row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}").fetchall()
        ]
