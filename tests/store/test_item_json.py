"""Items as JSON lines: each item comes back exactly as it was written."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec import Catalog, Item
from genrec.errors import InputError
from genrec.store.item_json import item_from_json, item_to_json

VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=45)))),
    st.decimals(allow_nan=False),
)


@given(st.text(), st.dictionaries(st.text(), VALUES | st.lists(VALUES | st.lists(VALUES))))
def test_every_item_comes_back_exactly(title: str, attributes: dict[str, object]) -> None:
    """A price without its last digit, or a date that became text, changes filters after a restart."""
    item = Item("a", title, attributes)
    line = item_to_json(item)
    assert line.isascii()
    assert "\n" not in line
    found = item_from_json(line)
    assert found == item
    for name, value in attributes.items():
        assert type(found.attributes[name]) is type(value)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, None],
        ["a", ""],
        [date(2020, 1, 1)],
        [datetime(1969, 7, 20, 20, 17, 40, 5)],
        [datetime(2020, 1, 1, tzinfo=UTC)],
        [("a", "b"), []],
        [Decimal("1.10"), Decimal("2")],
        [float("inf"), 1.5],
        [float("nan"), np.float32(0.1), np.int64(7)],
        [True, False],
    ],
    ids=str,
)
def test_catalog_from_json_items_has_the_same_fingerprint(values: list[object]) -> None:
    """Otherwise a restart changes the catalog."""
    items = [Item(str(place), "title", {"value": value}) for place, value in enumerate(values)]
    again = [item_from_json(item_to_json(item)) for item in items]
    assert Catalog.from_items(again).fingerprint == Catalog.from_items(items).fingerprint


@pytest.mark.parametrize("value", [{"a": 1}, b"bytes", {1, 2}, timedelta(1), object(), [[{"date": "2020-01-01"}]]])
def test_item_without_json_form_raises(value: object) -> None:
    """A filter would miss an attribute that was dropped or converted silently."""
    with pytest.raises(InputError, match=r"colour of item 'a' is .*use text, numbers, dates or lists"):
        item_to_json(Item("a", "title", {"colour": value}))


@pytest.mark.parametrize("line", ["", "[]", '["a","b",{"c":{"set":"1"}}]', '["a","b",{"c":{}}]', '["a","b",3]', "{}"])
def test_invalid_json_line_raises(line: str) -> None:
    """An altered line must not become an item."""
    with pytest.raises(ValueError):
        item_from_json(line)
