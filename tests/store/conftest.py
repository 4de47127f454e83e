"""An empty store on each database that genrec supports."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from genrec.store.event_store import Store


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(url: str) -> "Iterator[Store]":
    """A new store; its clock always reads 5.0."""
    from genrec.store.event_store import Store

    with Store.open(url, clock=lambda: 5.0) as store:
        yield store


@pytest.fixture
def sqlite_store(tmp_path: Path) -> "Iterator[Store]":
    """A new store in the file `events.db` of the test's folder."""
    from genrec.store.event_store import Store

    with Store.open(f"sqlite:///{tmp_path}/events.db", clock=lambda: 5.0) as store:
        yield store


@pytest.fixture
def postgres_store(postgres_url: str) -> "Iterator[Store]":
    """A new store on PostgreSQL."""
    from genrec.store.event_store import Store

    with Store.open(postgres_url, clock=lambda: 5.0) as store:
        yield store
