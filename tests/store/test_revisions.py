"""Revisions of the catalog: each is kept whole, in one order for all servers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from raw_database import execute

from genrec import Item
from genrec.errors import InputError, StoreError
from genrec.store.event_store import Store


def test_the_last_revision_of_an_item_wins(store: Store) -> None:
    """Items are put, changed and withdrawn in any order; a restart must arrive at the same catalog."""
    a, b, c = (
        Item("a", "A", {"price": 0.1, "tags": ["x"], "on": date(2020, 2, 29)}),
        Item("b", "B"),
        Item("c", "C"),
    )
    store.revise([a, b, c])
    store.revise([replace(a, title="A2")], ["b", "z"])
    assert store.revisions() == ([replace(a, title="A2"), c], ["b", "z"])
    store.revise([b], ["c"])
    assert store.revisions() == ([replace(a, title="A2"), b], ["c", "z"])
    assert repr("C") not in repr(store.revisions())
    store.revise()


def test_revision_with_a_stale_expected_revision_is_rejected(store: Store, url: str) -> None:
    """Two servers would each store changes that only fit their own catalog, and neither could start again."""
    assert store.revision() == 0
    with Store.open(url) as other:
        assert other.revise([Item("a", "A")], expected_revision=0) == 1
        assert store.revise([Item("a", "B")], ["b"], expected_revision=0) is None
        assert store.revisions() == ([Item("a", "A")], [])
        assert store.revision() == 1
        assert store.revise(withdraw=["b"], expected_revision=1) == 2
        assert other.revise(expected_revision=2) == other.revision() == 2
        assert other.revise(expected_revision=1) is None


def test_concurrent_revisions_are_serialised(store: Store, url: str) -> None:
    """A server whose concurrent revision is not rejected never learns of the other one."""
    start = threading.Barrier(4)

    def work(number: int) -> int:
        tried = 0
        with Store.open(url) as own:
            start.wait()
            for turn in range(5):
                while own.revise([Item(f"{number}-{turn}", "x")], expected_revision=own.revision()) is None:
                    tried += 1
        return tried

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.revision() == len(store.revisions()[0]) == 20


def test_store_without_a_revision_number_is_upgraded(url: str) -> None:
    """An update of genrec must not make an existing store unusable."""
    with Store.open(url) as store:
        store.revise([Item("a", "A")])
    execute(url, "DELETE FROM genrec_facts WHERE name = 'revision'")
    with Store.open(url) as store:
        assert store.revision() == 0
        assert store.revise([Item("b", "B")]) == 1
        assert len(store.revisions()[0]) == 2
        execute(url, "UPDATE genrec_facts SET value = 'x' WHERE name = 'revision'")
        with pytest.raises(StoreError, match=r"was altered \(genrec_facts has no revision\)"):
            store.revision()


@pytest.mark.parametrize(
    ("put", "withdraw", "message"),
    [
        ([Item("a", "A"), Item("a", "B")], [], "item 'a' is put or withdrawn twice"),
        ([Item(7, "A")], ["7"], "item '7' is put or withdrawn twice"),
        ([Item("a", " ")], [], "has no title"),
        ([Item("a", "A"), Item(" ", "B")], [], "item_id number 2 is ' '"),
        ([Item("a", "A", {"x": 1}), Item("b", "B", {"x": "1"})], [], "numbers and text"),
        ([Item("a", "A", {"x": {"y": 1}})], [], "use text, numbers, dates or lists"),
        ([Item("a", "A", {"x": "\ud800"})], [], "use text, numbers, dates or lists"),
        ([Item("a", "A")], [True], "item_id number 1 is True"),
    ],
)
def test_revision_that_no_catalog_accepts_is_rejected_whole(
    store: Store, put: list[Item], withdraw: list[Any], message: str
) -> None:
    """It would fail at the next start, long after the request that caused it."""
    with pytest.raises(InputError, match=message):
        store.revise(put, withdraw)
    assert store.revisions() == ([], [])
