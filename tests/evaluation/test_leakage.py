"""Leakage: what an adapter may have been trained on is counted, never overlooked."""

from dataclasses import replace
from itertools import product
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genrec import Catalog, Interactions, Item, read_interactions
from genrec.backends.provenance import Provenance, TrainingSource
from genrec.datasets.registry import find_adapter
from genrec.errors import InputError
from genrec.evaluation.experiment import Experiment
from genrec.evaluation.leakage import find_leakage
from genrec.evaluation.protocols import leave_one_out, next_basket, temporal_split

PROTOCOLS: dict[str, Any] = {"leave-one-out": leave_one_out, "next-basket": next_basket}
CATALOG = Catalog.from_items(Item(str(number), f"Thing {number}") for number in range(10))
DAY = 86_400
EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.integers(0, 9)), min_size=12, max_size=40)


def read_log(events: list[tuple[str, int, int]]) -> Interactions:
    """A log whose times are days of the year 2000."""
    rows = [(user, str(item), 946_684_800 + day * DAY) for user, item, day in events]
    return read_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


def trained(experiment: Experiment, protocol: str) -> Provenance:
    """The record of an adapter that was trained for an experiment."""
    times = experiment.train.timestamps
    first, last = str(times.min()), str(times.max())
    source = ("Tiny", {}, "a", "b", "c", "d", experiment.digest, first, last, 1, {"protocol": protocol})
    return Provenance(*source, train=experiment.train.fingerprint)


def make(protocol: Any, log: Interactions, **options: Any) -> Experiment:
    try:
        experiment: Experiment = protocol(CATALOG, log, **options)
    except InputError:
        assume(False)  # nothing can be held out
    return experiment


def brute_force(experiment: Experiment, train: Interactions) -> int:
    """The number of held-out items that are in a training log, pair by pair."""
    pairs = {(event.user_id, event.item_id) for event in train}
    return sum((case.history.user_id, item) in pairs for case in experiment.cases for item in case.targets)


@given(events=EVENTS, names=st.tuples(*[st.sampled_from(list(PROTOCOLS))] * 2), recorded=st.booleans())
def test_leakage_equals_brute_force(events: list[tuple[str, int, int]], names: tuple[str, str], recorded: bool) -> None:
    """An item that is overlooked makes an adapter look better than it is; one too many refuses a fair experiment."""
    log = read_log(events)
    measured, training = (make(PROTOCOLS[name], log) for name in names)
    provenance = trained(training, names[1])
    if not recorded:  # as adapters of genrec 0.1, which record the digest of the experiment only
        provenance = replace(provenance, train=None)
    found = find_leakage(measured, log, provenance)
    assert found.exact
    assert not found.unknown
    assert (found.leaked, found.targets) == (
        brute_force(measured, training.train),
        sum(len(case.targets) for case in measured.cases),
    )
    if names[0] == names[1]:
        assert found.leaked == 0
    elif found.leaked:
        with pytest.raises(InputError, match=f"are in the training .*use the protocol {names[1]}, .*--allow-leakage"):
            found.check("tuned")


@given(events=EVENTS, at=st.integers(1, 9))
def test_other_interactions_are_compared_by_time(events: list[tuple[str, int, int]], at: int) -> None:
    """Nobody knows what else was in them, so only items from outside their time span are free of leakage."""
    log = read_log(events)
    date = f"2000-01-{at + 1:02}"
    measured = make(temporal_split, log, at=date)
    source = replace(trained(measured, "next-basket"), data="f" * 64, train="f" * 64)
    assert find_leakage(measured, log, source).leaked == 0
    later = replace(source, last=str(log.timestamps.max()))
    found = find_leakage(measured, log, later)
    assert (found.leaked, found.exact) == (found.targets, False)
    with pytest.raises(InputError, match=r"may be in the training .*add interactions after .*--allow-leakage"):
        found.check("tuned")
    ordered = replace(source, first="0.0", last="5.0")  # positions in a log cannot be compared with times
    assert find_leakage(measured, log, ordered).leaked == found.targets


def test_interactions_of_earlier_trainings_count(small: tuple[Catalog, Interactions]) -> None:
    """An adapter that continues from another one still knows what that one was trained on."""
    catalog, log = small
    measured = leave_one_out(catalog, log)
    provenance = trained(measured, "leave-one-out")
    assert find_leakage(measured, log, provenance).leaked == 0
    earlier = TrainingSource("by-time", "f" * 64, None, "0", "4")
    found = find_leakage(measured, log, replace(provenance, earlier=(earlier,)))
    assert (found.leaked, found.users, found.exact) == (2, 2, False)
    unknown = TrainingSource(None, "", None, None, None)
    assert find_leakage(measured, log, replace(provenance, earlier=(unknown,))).unknown


def test_an_adapter_without_a_record_is_unknown(small: tuple[Catalog, Interactions]) -> None:
    """It may have been trained on anything, which the report has to say."""
    catalog, log = small
    found = find_leakage(leave_one_out(catalog, log), log, None)
    assert (found.leaked, found.unknown, found.exact) == (0, True, False)


def test_the_shipped_adapter_leaks_outside_its_protocol(shop: tuple[Catalog, Interactions]) -> None:
    """1,363 of 3,016 held-out items of the default protocol were in its training pool."""
    catalog, log = shop
    provenance = Provenance.read(find_adapter("online-retail"))
    found = find_leakage(leave_one_out(catalog, log), log, provenance)
    assert (found.leaked, found.targets, found.exact) == (1363, 3016, True)
    assert find_leakage(next_basket(catalog, log, users=500), log, provenance).leaked == 0
    for part, users in product(("validation", "test"), (7, None)):
        experiment = leave_one_out(catalog, log, part=part, users=users)  # type: ignore[arg-type]
        train, _ = log.leave_last_basket_out()
        assert find_leakage(experiment, log, provenance).leaked == brute_force(experiment, train)
