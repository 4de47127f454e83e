"""A client of one running server, shared by tests that do not change its state for others; and new stores."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server over `small_pipeline`."""
    from server import running_server, small_pipeline

    with (
        running_server(small_pipeline(), tmp_path_factory.mktemp("serve")) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes URLs of databases without a store."""
    numbers = count()
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"
    url: Callable[[], str] = request.getfixturevalue("postgres_server").new_schema
    return url
