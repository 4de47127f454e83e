"""The data that rows of batch runs refer to."""

from pathlib import Path

import pytest

from genrec import Catalog, Interactions, open_dataset


@pytest.fixture(scope="module")
def shop(cache: Path) -> tuple[Catalog, Interactions]:
    """The embedded shop."""
    return open_dataset("online-retail", cache)
