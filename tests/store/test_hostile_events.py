"""Hostile events: whatever an event or an item holds, it is stored, or refused by an error of genrec."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec.errors import GenrecError
from genrec.store.event_store import Event, Store
from genrec.types import Item

VALUES: list[Any] = [
    *(10**5000, -(10**5000), 2**63, -(2**63) - 1, True, None, float("inf"), float("nan"), 1e308, 1.0, 1.5),
    *(Decimal("1E+400"), Decimal("NaN"), np.float64("nan"), np.uint64(2**64 - 1), datetime.max, datetime.min),
    *("", " ", "\0", "\ud800", "x" * 100_000, "9" * 5000, b"\xff", [], [10**5000], {}, {"a": 10**5000}, object()),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('store') / 'events.db'}") as opened:
        yield opened


ENTRIES: dict[str, Any] = {
    **{
        f"event {name}": lambda store, value, name=name: store.add([replace(Event("u", "i", 1.0), **{name: value})])
        for name in ("user_id", "item_id", "timestamp", "event", "weight", "event_id")
    },
    "events_of": Store.events_of,
    "forget": Store.forget,
    "is_forgotten": Store.is_forgotten,
    "id of an item": lambda store, value: store.revise([Item(value, "A")]),
    "title of an item": lambda store, value: store.revise([Item("a", value)]),
    "attribute of an item": lambda store, value: store.revise([Item("a", "A", {"x": value})]),
    "withdrawn item": lambda store, value: store.revise(withdraw=[value]),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_hostile_value_is_stored_or_refused(store: Store, name: str) -> None:
    """Any other exception is an internal error of the server, and what is stored must be readable again."""
    for position, value in enumerate(VALUES):
        try:
            ENTRIES[name](store, value)
        except GenrecError:
            continue
        except Exception as error:  # noqa: BLE001  (any other exception is the failure that is looked for)
            pytest.fail(f"value {position} of VALUES raises {type(error).__name__}: {str(error)[:200]}")
    store.events_of("u")
    store.revisions()


def test_a_store_is_empty_of_what_it_refused(tmp_path: Path) -> None:
    """An event is stored whole or not at all."""
    with Store.open(f"sqlite:///{tmp_path / 'events.db'}") as store:
        with pytest.raises(GenrecError):
            store.add([Event("u", "i", 1.0), Event("u", "i", 10**5000)])
        assert store.events_of("u") == []
