"""Which columns make the text of an item."""

import numpy as np
import pytest

from genrec.data.catalog import Catalog
from genrec.data.item_texts import item_texts, text_columns, unchanged_text_indices
from genrec.errors import InputError
from genrec.types import Item

ROWS = [
    {"brand": "Bosch", "tags": ["tool", "drill"], "url": "https://a.b/c", "image": "drill.jpg", "sku": "BX-4410"},
    {"brand": "Makita", "tags": None, "url": "https://a.b/d", "image": "saw.png", "sku": "DHS680"},
    {"brand": None, "tags": [], "url": None, "image": None, "sku": "12-3"},
]
REST = [
    {"price": place / 2, "year": 2000 + place, "added": f"2024-01-0{place + 1}", "shop": "all the same", "类型": word}
    for place, word in enumerate(("电钻", "电锯", "其他"))
]


def catalog() -> Catalog:
    pairs = zip(ROWS, REST, strict=True)
    return Catalog.from_items(
        Item(f"i{place}", f"title {place}", row | rest) for place, (row, rest) in enumerate(pairs)
    )


def test_the_default_is_the_title_and_every_column_of_words() -> None:
    """Addresses, dates and constants would be noise; a brand or a code that is left out cannot be found."""
    assert text_columns(catalog()) == ("title", "brand", "tags", "sku", "类型")


def test_chosen_columns_are_taken_in_their_order() -> None:
    """The operator decides, also for a number."""
    chosen = text_columns(catalog(), ["year", "title", "tags", "item_id"])
    assert item_texts(catalog(), chosen) == [
        "2000. title 0. tool, drill. i0",
        "2001. title 1. i1",
        "2002. title 2. i2",
    ]


@pytest.mark.parametrize("chosen", [[], ["title", "title"], ["nothing"]])
def test_columns_that_cannot_be_meant_are_refused(chosen: list[str]) -> None:
    """A misspelt column would silently be searched by nothing."""
    with pytest.raises(InputError):
        text_columns(catalog(), chosen)


def test_only_items_with_another_text_are_new() -> None:
    """A changed price must not encode the item again; a changed brand must."""
    before = catalog()
    changed = Item("i0", "title 0", ROWS[0] | REST[0] | {"price": 9.5})
    rebranded = Item("i1", "title 1", ROWS[1] | REST[1] | {"brand": "Hilti"})
    after = before.revised(upsert=Catalog.from_items([changed, rebranded]), remove=[2])
    indices, texts = unchanged_text_indices(before, after, ("title", "brand"))
    assert np.array_equal(indices, [0, -1, -1])
    assert texts == ["title 1. Hilti"]
