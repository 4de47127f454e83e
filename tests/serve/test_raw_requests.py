"""What is no request, over sockets: it is refused or cut off, in time, and costs nobody else anything."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from server import running_server, small_pipeline

from eval.raw import FAILURES, make_malformed_request, send_malformed_requests

COUNT = 420  # thirty of each kind
PATIENCE = 60.0  # seconds; five are held by `python -m eval.load raw`, a busy machine must not decide a test


def test_malformed_input_neither_breaks_nor_blocks_the_server(tmp_path: Path) -> None:
    """Whoever finds bytes that raise an error or keep a connection open for ever can take a shop off the network."""
    with running_server(small_pipeline(), tmp_path) as address:
        found = asyncio.run(send_malformed_requests(urlsplit(address).port or 0, COUNT, hang=PATIENCE))
    assert not {name: count for name, count in found.items() if name.startswith(FAILURES)}
    assert sum(found.values()) == COUNT
    assert all(found[end] for end in ("2xx", "4xx", "closed"))


def test_malformed_requests_are_reproducible() -> None:
    """One that broke something must be found again."""
    assert [make_malformed_request(number) for number in range(50)] == [
        make_malformed_request(number) for number in range(50)
    ]
    assert make_malformed_request(0, seed=1) != make_malformed_request(0)
