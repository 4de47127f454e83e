"""Protocols: what is asked, and that nothing of it is known beforehand."""

import string
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest

from genrec import Catalog, History, Interactions, Item, PopularityRanker, Recommender, open_dataset, read_interactions
from genrec.errors import InputError
from genrec.evaluation.protocols import (
    EvaluationCase,
    Experiment,
    check_order,
    leave_one_out,
    next_basket,
    temporal_split,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Interactions]:
    return open_dataset("online-retail", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small() -> tuple[Catalog, Interactions]:
    """Three people of one shop of ten items; times are places."""
    catalog = Catalog.from_items(Item(str(number), f"Thing {number}") for number in range(10))
    events = {"ann": "31425", "bob": "27", "cid": "918"}
    rows = [(user, item, place) for user, items in events.items() for place, item in enumerate(items)]
    return catalog, read_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


@pytest.mark.parametrize("protocol", [next_basket, leave_one_out])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_held_back_is_never_counted(shop: tuple[Catalog, Interactions], protocol: object, part: str) -> None:
    """A leak here would make every figure a lie."""
    assert callable(protocol)
    experiment = protocol(*shop, part=part, users=300, seed=1)
    counted = {history.user_id: set(history.item_ids) for history in experiment.train.histories()}
    assert len(experiment.cases) == 300
    for task in experiment.cases:
        assert not task.targets & counted.get(task.history.user_id, set())
        assert not task.targets & set(task.history.item_ids)
        assert counted.get(task.history.user_id, set()) <= set(task.history.item_ids)


def test_leaving_one_out_asks_for_the_last_item(small: tuple[Catalog, Interactions]) -> None:
    """Whoever has fewer than three items is not asked about."""
    test, validation = (leave_one_out(*small, part=part) for part in ("test", "validation"))  # type: ignore[arg-type]
    asked = [(task.history.user_id, task.history.item_ids, set(task.targets)) for task in test.cases]
    assert asked == [("ann", ("3", "1", "4", "2"), {"5"}), ("cid", ("9", "1"), {"8"})]
    assert [set(task.targets) for task in validation.cases] == [{"2"}, {"1"}]
    assert len(test.train) == 3 + 2 + 1


def test_splitting_by_time_knows_nothing_of_later(small: tuple[Catalog, Interactions]) -> None:
    """As on the day itself: nobody's later events are counted, whoever's they are."""
    experiment = temporal_split(*small, at=2)
    assert len(experiment.train) == 6
    assert {task.history.user_id: set(task.targets) for task in experiment.cases} == {
        "ann": {"4", "2", "5"},
        "cid": {"8"},
    }
    with pytest.raises(InputError, match="nobody"):
        temporal_split(*small, at=99)


def test_histories_in_alphabetical_order_are_refused(shop: tuple[Catalog, Interactions]) -> None:
    """Two public data sets are sorted so, and every figure on them is wrong."""
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
    with pytest.raises(InputError, match="sorted by that, not by time"):
        check_order(catalog, read_interactions(pl.DataFrame(sorted_, schema=schema, orient="row")))


def test_slices_say_how_much_is_known(small: tuple[Catalog, Interactions]) -> None:
    """A mean hides that a ranker fails for everybody new."""
    catalog, interactions = small
    many = [("dan", str(place % 9), place) for place in range(40)]
    frame = pl.DataFrame(many, schema=["user_id", "item_id", "timestamp"], orient="row")
    experiment = Experiment(
        catalog,
        read_interactions(frame),
        [EvaluationCase(History(("1",) * size), None, frozenset("2")) for size in (5, 6, 20)],
    )
    assert experiment.user_slices() == ["cold", "warm", "hot"]
    assert experiment.item_slices()["9"] == "cold"
    assert set(experiment.item_slices().values()) == {"cold"}  # five events at most each
    assert leave_one_out(catalog, interactions).item_slices()["3"] == "cold"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (EvaluationCase(History(("1",), user_id="ann"), None, frozenset()), "'ann' has no item to be found"),
        (
            EvaluationCase(History(("1",), user_id="ann"), ("2", "3"), frozenset("4")),
            "candidates of user 'ann' lack .* '4'",
        ),
    ],
)
def test_a_task_that_cannot_be_solved_is_refused(
    small: tuple[Catalog, Interactions], task: EvaluationCase, says: str
) -> None:
    """It would count as a miss of every ranker."""
    with pytest.raises(InputError, match=says):
        Experiment(*small, [task])


def test_the_digest_tells_apart_what_is_asked(small: tuple[Catalog, Interactions]) -> None:
    """Two figures may be compared only where it is the same."""
    experiment = leave_one_out(*small)
    others = [
        leave_one_out(*small, part="validation"),
        replace(experiment, seen="in"),
        replace(experiment, cases=experiment.cases[:1]),
    ]
    assert experiment.digest == leave_one_out(*small).digest
    assert len({experiment.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("seen", ["in", "out"])
def test_every_task_is_asked_once_and_in_order(small: tuple[Catalog, Interactions], seen: str) -> None:
    """A list that went to somebody else is worse than none."""
    catalog, interactions = small
    experiment = replace(leave_one_out(catalog, interactions), seen=seen)  # type: ignore[arg-type]
    popular = Recommender(catalog, [PopularityRanker(interactions.item_counts(catalog))])
    asked = list(experiment.evaluate(popular, 10))
    assert [one.case for one in asked] == list(experiment.cases)
    for one in asked:
        known = {item.item_id for item in one.recommendations.items} & set(one.case.history.item_ids)
        assert bool(known) == (seen == "in")
    assert [one.case for one in experiment.evaluate(popular, 10, start=1)] == list(experiment.cases[1:])


@pytest.mark.parametrize("ascending", [True, False])
def test_histories_that_are_sorted_by_number_are_refused(ascending: bool) -> None:
    """Ids that count are sorted by number, not by letter, and may be sorted from the last."""
    catalog = Catalog.from_items(Item(str(number), f"thing {(number * 7919) % 1000}") for number in range(200))
    random, rows = np.random.default_rng(1), []
    for user in range(20):
        items = np.sort(random.choice(200, 8, replace=False))
        rows += [(str(user), str(item), place) for place, item in enumerate(items if ascending else items[::-1])]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    with pytest.raises(InputError, match=f"go {'up' if ascending else 'down'} the order of item ids as numbers"):
        check_order(catalog, read_interactions(frame))


@pytest.mark.parametrize("protocol", [leave_one_out, next_basket, partial(temporal_split, at=3)])
def test_what_the_catalog_lacks_is_not_asked_for(protocol: Callable[..., Experiment]) -> None:
    """Nobody can find it, and every ranker would look worse by the same unknown amount."""
    catalog = Catalog.from_items(Item(letter, letter) for letter in "abcdef")
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "gone", 2.5), ("u", "c", 3), ("u", "d", 4), ("u", "gone", 5)]
    rows += [("v", "e", 1), ("v", "f", 2), ("v", "gone", 3), ("v", "lost", 4)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    for task in protocol(catalog, read_interactions(frame)).cases:
        assert task.targets <= set("abcdef")
        assert set(task.history.item_ids) <= set("abcdef")
        assert task.history.user_id == "u"
