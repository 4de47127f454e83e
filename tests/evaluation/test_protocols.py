"""Protocols: what is held out is never in the training log."""

from collections.abc import Callable
from functools import partial

import polars as pl
import pytest

from genrec import Catalog, Interactions, Item, read_interactions
from genrec.errors import InputError
from genrec.evaluation.experiment import Experiment
from genrec.evaluation.protocols import leave_one_out, next_basket, random_hold_out, temporal_split


@pytest.mark.parametrize("protocol", [next_basket, leave_one_out, random_hold_out])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_held_out_items_are_not_in_the_training_log(
    shop: tuple[Catalog, Interactions], protocol: object, part: str
) -> None:
    """A leak here would invalidate every result."""
    assert callable(protocol)
    experiment = protocol(*shop, part=part, users=300, seed=1)
    counted = {history.user_id: set(history.item_ids) for history in experiment.train.histories()}
    assert len(experiment.cases) == 300
    for case in experiment.cases:
        assert not case.targets & counted.get(case.history.user_id, set())
        assert not case.targets & set(case.history.item_ids)
        assert counted.get(case.history.user_id, set()) <= set(case.history.item_ids)


def test_leave_one_out_holds_out_the_last_item(small: tuple[Catalog, Interactions]) -> None:
    """Users with fewer than three items are not evaluated."""
    test, validation = (leave_one_out(*small, part=part) for part in ("test", "validation"))  # type: ignore[arg-type]
    asked = [(case.history.user_id, case.history.item_ids, set(case.targets)) for case in test.cases]
    assert asked == [("ann", ("3", "1", "4", "2"), {"5"}), ("cid", ("9", "1"), {"8"})]
    assert [set(case.targets) for case in validation.cases] == [{"2"}, {"1"}]
    assert len(test.train) == 3 + 2 + 1


def test_temporal_split_learns_from_earlier_interactions_only(small: tuple[Catalog, Interactions]) -> None:
    """No later interaction of any user may be in the training log."""
    experiment = temporal_split(*small, at=2)
    assert len(experiment.train) == 6
    assert {case.history.user_id: set(case.targets) for case in experiment.cases} == {
        "ann": {"4", "2", "5"},
        "cid": {"8"},
    }
    with pytest.raises(InputError, match="no user has interactions before 99"):
        temporal_split(*small, at=99)


@pytest.mark.parametrize("protocol", [leave_one_out, next_basket, partial(temporal_split, at=3), random_hold_out])
def test_targets_are_in_the_catalog(protocol: Callable[..., Experiment]) -> None:
    """No ranker can find other items, and all would look worse by the same unknown amount."""
    catalog = Catalog.from_items(Item(letter, letter) for letter in "abcdef")
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "gone", 2.5), ("u", "c", 3), ("u", "d", 4), ("u", "gone", 5)]
    rows += [("v", "e", 1), ("v", "f", 2), ("v", "gone", 3), ("v", "lost", 4)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    for case in protocol(catalog, read_interactions(frame)).cases:
        assert case.targets <= set("abcdef")
        assert set(case.history.item_ids) <= set("abcdef")
        assert case.history.user_id == "u"


def test_a_random_hold_out_uses_no_time_and_depends_on_the_seed(small: tuple[Catalog, Interactions]) -> None:
    """An item that is held out because it is the last one tells a ranker of time what the protocol must not use."""
    catalog, log = small
    reversed_rows = list(log)[::-1]
    frame = pl.DataFrame([(row.user_id, row.item_id) for row in reversed_rows], ["user_id", "item_id"], orient="row")
    reversed_log = read_interactions(frame, order="none")
    targets = []
    for seed in range(10):
        experiment = random_hold_out(catalog, log, seed=seed)
        assert experiment.digest == random_hold_out(catalog, reversed_log, seed=seed).digest
        targets.append([case.targets for case in experiment.cases])
        assert all(len(found) == 1 for found in targets[-1])
    assert len({str(found) for found in targets}) > 3
