"""Forgetting a user: no row, and on SQLite no byte on the disk, still names them."""

import hashlib
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from raw_database import connect, execute, read_all_rows

from genrec.data.interactions import read_interactions
from genrec.errors import InputError, StoreError
from genrec.store import remaining_interactions
from genrec.store.event_store import Event, Store
from genrec.store.tables import USER_COLUMNS


def test_forget_removes_every_row_of_the_user(store: Store, url: str) -> None:
    """A row that remains is personal data that the user asked to delete."""
    name = "unmistakable-person"
    store.add([Event(name, f"item-{row}", row, "buy", 1.0, f"{name}-{row}") for row in range(40)])
    store.add([Event("other", "item", 1.0)])
    assert store.forget(name) == {"genrec_events.user_id": 40}
    assert store.forget(name) == {"genrec_events.user_id": 0}
    assert store.events_of(name) == []
    assert store.is_forgotten(name)
    assert not store.is_forgotten("other")
    assert len(store.events_of("other")) == 1
    assert name not in repr(read_all_rows(url))


def test_forgotten_user_can_add_new_events(store: Store) -> None:
    """A returning user starts a new history; the deleted one stays deleted."""
    store.add([Event("u", "old", 1.0, event_id="a")])
    store.forget("u")
    assert store.add([Event("u", "new", 2.0, event_id="a")]) == 1
    assert [event.item_id for event in store.events_of("u")] == ["new"]
    assert store.is_forgotten("u")


def test_forgotten_user_hash_needs_the_salt(url: str) -> None:
    """An unsalted hash of a customer number is found by hashing all numbers."""
    with Store.open(url) as store:
        store.forget("12345")
    ((_, digest, _),) = [row for row in read_all_rows(url) if row[0] == "genrec_forgotten"]
    assert len(digest) == 64
    assert digest != hashlib.sha256(b"12345").hexdigest()


def test_user_columns_lists_every_column_with_user_ids(store: Store, url: str) -> None:
    """`forget` would leave the rows of a table that is not listed."""
    inspector = sa.inspect(connect(url))
    tables = inspector.get_table_names()
    columns = {f"{table}.{column['name']}" for table in tables for column in inspector.get_columns(table)}
    assert "genrec_events.item_id" in columns
    assert {name for name in columns if "user" in name} == {str(column) for column in USER_COLUMNS}


def test_invalid_user_id_raises(store: Store) -> None:
    """An empty result would look like a user without a history."""
    for ask in (store.events_of, store.forget, store.is_forgotten):
        with pytest.raises(InputError, match="user_id is ''"):
            ask("")


def test_a_store_leaves_other_tables_alone(url: str) -> None:
    """The store may share a database with the application."""
    execute(url, "CREATE TABLE users (user_id TEXT)")
    execute(url, "INSERT INTO users VALUES ('u')")
    with Store.open(url) as store:
        store.forget("u")
    assert ("users", "u") in read_all_rows(url)


def test_forget_erases_the_bytes_on_disk(sqlite_store: Store, tmp_path: Path) -> None:
    """By default SQLite leaves deleted rows in free pages and in its log."""
    sqlite_store.add([Event("unmistakable", f"item-{row}", row) for row in range(500)])
    assert any(b"unmistakable" in path.read_bytes() for path in tmp_path.iterdir())
    sqlite_store.forget("unmistakable")
    assert not [path for path in tmp_path.iterdir() if b"unmistakable" in path.read_bytes()]


def test_forget_during_a_read_is_reported_as_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that reads the file keeps the log, and with it the deleted user id."""
    monkeypatch.setattr("genrec.store.database._BUSY_TIMEOUT", 0.2)
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
        store.add([Event("unmistakable", f"item-{row}", row) for row in range(500)])
        other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM genrec_events").fetchone()
        with pytest.raises(StoreError, match=r"deleted, but the log .* end that program and forget again"):
            store.forget("unmistakable")
        assert store.is_forgotten("unmistakable")
        other.execute("ROLLBACK")
        other.close()
        assert store.forget("unmistakable") == {"genrec_events.user_id": 0}
        assert not [path for path in tmp_path.iterdir() if b"unmistakable" in path.read_bytes()]


def test_forgotten_users_of_a_file_are_found(store: Store) -> None:
    """Before anything is computed from a file, a process has to know whom to leave out of it."""
    log = read_interactions(pa.table({"user_id": [3, 7, 12], "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]}))
    assert store.forgotten_among(log.user_ids) == []
    for user in (7, "12", "not in the file", 7):
        store.forget(user)
    assert store.forgotten_among(log.user_ids) == [7, 12]
    assert list(remaining_interactions(log, store).user_ids) == [3]
    assert store.forgotten_count() == 3
    assert (store.forgotten_count(since=5.0), store.forgotten_count(since=5.1)) == (3, 0)


def test_a_store_is_identified_without_its_salt(url: str, tmp_path: Path) -> None:
    """A cache may be shared by servers of several stores, and must not contain what hashes of users are made of."""
    with Store.open(url) as one, Store.open(url) as again, Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        assert one.fingerprint == again.fingerprint != other.fingerprint
        assert one.fingerprint not in repr(read_all_rows(url))
