"""Experiments: slices, digests, and the evaluation of every case."""

from dataclasses import replace

import polars as pl
import pytest

from genrec import Catalog, History, Interactions, PopularityRanker, Recommender, read_interactions
from genrec.errors import InputError
from genrec.evaluation.experiment import EvaluationCase, Experiment
from genrec.evaluation.protocols import leave_one_out


def test_slices_follow_the_number_of_interactions(small: tuple[Catalog, Interactions]) -> None:
    """A mean hides that a ranker fails for all new users."""
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
    ("case", "message"),
    [
        (EvaluationCase(History(("1",), user_id="ann"), None, frozenset()), "'ann' has no target"),
        (
            EvaluationCase(History(("1",), user_id="ann"), ("2", "3"), frozenset("4")),
            "candidates of user 'ann' lack .* '4'",
        ),
    ],
)
def test_cases_without_a_reachable_target_are_rejected(
    small: tuple[Catalog, Interactions], case: EvaluationCase, message: str
) -> None:
    """They would count as a miss of every ranker."""
    with pytest.raises(InputError, match=message):
        Experiment(*small, [case])


def test_digest_identifies_the_experiment(small: tuple[Catalog, Interactions]) -> None:
    """Two results may be compared only if it is the same."""
    experiment = leave_one_out(*small)
    others = [
        leave_one_out(*small, part="validation"),
        replace(experiment, seen="in"),
        replace(experiment, cases=experiment.cases[:1]),
    ]
    assert experiment.digest == leave_one_out(*small).digest
    assert len({experiment.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("seen", ["in", "out"])
def test_every_case_is_evaluated_once_and_in_order(small: tuple[Catalog, Interactions], seen: str) -> None:
    """A list that is assigned to another user is worse than none."""
    catalog, interactions = small
    experiment = replace(leave_one_out(catalog, interactions), seen=seen)  # type: ignore[arg-type]
    popular = Recommender(catalog, [PopularityRanker(interactions.item_counts(catalog))])
    asked = list(experiment.evaluate(popular, 10))
    assert [one.case for one in asked] == list(experiment.cases)
    for one in asked:
        known = {item.item_id for item in one.recommendations.items} & set(one.case.history.item_ids)
        assert bool(known) == (seen == "in")
    assert [one.case for one in experiment.evaluate(popular, 10, start=1)] == list(experiment.cases[1:])
