"""Logs that the tests of evaluation share."""

import polars as pl
import pytest

from genrec import Catalog, Interactions, Item, open_dataset, read_interactions


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Interactions]:
    return open_dataset("online-retail", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small() -> tuple[Catalog, Interactions]:
    """Three users of a catalog of ten items; timestamps are positions."""
    catalog = Catalog.from_items(Item(str(number), f"Thing {number}") for number in range(10))
    events = {"ann": "31425", "bob": "27", "cid": "918"}
    rows = [(user, item, place) for user, items in events.items() for place, item in enumerate(items)]
    return catalog, read_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
