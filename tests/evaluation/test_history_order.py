"""Histories that are sorted by anything but time are rejected."""

import string

import numpy as np
import polars as pl
import pytest

from genrec import Catalog, Interactions, Item, read_interactions
from genrec.errors import InputError
from genrec.evaluation.history_order import check_order


def test_histories_sorted_by_title_are_rejected(shop: tuple[Catalog, Interactions]) -> None:
    """Two public data sets are sorted so, and every result on them is wrong."""
    check_order(*shop)
    catalog = Catalog.from_items(Item(letter, f"{letter} thing") for letter in string.ascii_lowercase)
    random = np.random.default_rng(1)
    sorted_, shuffled = [], []
    for user in range(20):
        items = random.choice(list(string.ascii_lowercase), 8, replace=False)
        shuffled += [(str(user), str(item), place) for place, item in enumerate(items)]
        sorted_ += [(str(user), str(item), place) for place, item in enumerate(np.sort(items))]
    schema = ["user_id", "item_id", "timestamp"]
    check_order(catalog, read_interactions(pl.DataFrame(shuffled, schema=schema, orient="row")))
    with pytest.raises(InputError, match="sorted by titles, not by time"):
        check_order(catalog, read_interactions(pl.DataFrame(sorted_, schema=schema, orient="row")))


@pytest.mark.parametrize("ascending", [True, False])
def test_histories_sorted_by_numeric_id_are_rejected(ascending: bool) -> None:
    """Numeric ids are sorted as numbers, not as text, up or down."""
    catalog = Catalog.from_items(Item(str(number), f"thing {(number * 7919) % 1000}") for number in range(200))
    random, rows = np.random.default_rng(1), []
    for user in range(20):
        items = np.sort(random.choice(200, 8, replace=False))
        rows += [(str(user), str(item), place) for place, item in enumerate(items if ascending else items[::-1])]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    with pytest.raises(InputError, match=f"go {'up' if ascending else 'down'} in the order of item ids as numbers"):
        check_order(catalog, read_interactions(frame))
