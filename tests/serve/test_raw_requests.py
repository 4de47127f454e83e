"""Malformed requests over sockets: each is rejected or closed in time, and affects no other client."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from server import running_server, small_pipeline

from eval.raw import FAILURES, make_malformed_request, send_malformed_requests

COUNT = 420  # 30 of each kind
HANG_TIMEOUT = 60.0  # seconds; `python -m eval.load raw` uses 5, but a busy machine must not fail a test


def test_malformed_input_neither_breaks_nor_blocks_the_server(tmp_path: Path) -> None:
    """Bytes that raise an error or hold a connection forever are an attack."""
    with running_server(small_pipeline(), tmp_path) as address:
        found = asyncio.run(send_malformed_requests(urlsplit(address).port or 0, COUNT, hang=HANG_TIMEOUT))
    assert not {name: count for name, count in found.items() if name.startswith(FAILURES)}
    assert sum(found.values()) == COUNT
    assert all(found[end] for end in ("2xx", "4xx", "closed"))


def test_malformed_requests_are_reproducible() -> None:
    """A request that broke something must be reproducible."""
    assert [make_malformed_request(number) for number in range(50)] == [
        make_malformed_request(number) for number in range(50)
    ]
    assert make_malformed_request(0, seed=1) != make_malformed_request(0)
