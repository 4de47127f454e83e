"""A client of one running server, shared by tests that do not change its state for others."""

from collections.abc import Iterator

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
