"""What is no request, over sockets: it is refused or cut off, in time, and costs nobody else anything."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from eval.raw import FOUND_WRONG, malformed, strike
from tests.server import serving, shop

COUNT = 420  # thirty of each kind
PATIENCE = 60.0  # seconds; five are held by `python -m eval.load raw`, a busy machine must not decide a test


def test_nothing_that_is_sent_breaks_the_server_or_holds_it(tmp_path: Path) -> None:
    """Whoever finds bytes that raise an error or keep a connection open for ever can take a shop off the network."""
    with serving(shop(), tmp_path) as address:
        found = asyncio.run(strike(urlsplit(address).port or 0, COUNT, hang=PATIENCE))
    assert not {name: count for name, count in found.items() if name.startswith(FOUND_WRONG)}
    assert sum(found.values()) == COUNT
    assert all(found[end] for end in ("2xx", "4xx", "closed"))


def test_a_malformed_request_is_that_of_its_number() -> None:
    """One that broke something must be found again."""
    assert [malformed(number) for number in range(50)] == [malformed(number) for number in range(50)]
    assert malformed(0, seed=1) != malformed(0)
