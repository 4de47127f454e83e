"""Summaries of an evaluation: means of metrics over groups of users, with intervals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from genrec.evaluation.experiment import SLICES, Experiment
from genrec.evaluation.intervals import Interval, mean_interval
from genrec.types import BoolArray, FloatArray


@dataclass(frozen=True)
class MetricRow:
    """One row of a summary: the mean of a metric of a ranker over a group of users, with its 95 % interval.

    Accuracy and shares are multiplied by 100. `low` and `high` equal `value` if there is no interval.
    """

    ranker: str
    slice: str
    metric: str
    value: float
    low: float
    high: float
    users: int

    @property
    def interval(self) -> Interval:
        """The value and its interval, without names."""
        return Interval(self.value, self.low, self.high)


def user_groups(experiment: Experiment) -> dict[str, BoolArray]:
    """Groups of users by name, each bool [U]: all, slices of users, and slices of the target if there is only one."""
    users, items = np.array(experiment.user_slices()), experiment.item_slices()
    slice_of = {str(item): item_slice for item, item_slice in items.items()}
    targets = [[str(item) for item in case.targets] for case in experiment.cases]
    target_slices = np.array([slice_of[user_targets[0]] if len(user_targets) == 1 else "" for user_targets in targets])
    groups = {"all": np.ones(len(users), dtype=np.bool_)}
    groups |= {f"{name} people": users == name for name in SLICES}
    return groups | {f"{name} items": target_slices == name for name in SLICES}


def summarise(
    ranker: str, values: Mapping[str, FloatArray], groups: Mapping[str, BoolArray], *, seed: int
) -> Iterator[MetricRow]:
    """A row for each metric and each group that is not empty.

    Args:
        ranker: name of the ranker.
        values: float64 [U] from 0 to 1 for each metric; see `genrec.evaluation.metrics.accuracy`.
        groups: bool [U] for each group.
        seed: of the intervals.
    """
    for group, chosen in groups.items():
        if chosen.any():
            for metric, metric_values in values.items():
                found = mean_interval(100 * metric_values[chosen], seed=seed)
                yield MetricRow(ranker, group, metric, found.value, found.low, found.high, int(chosen.sum()))


def defect_share_row(ranker: str, defect: str, count: int, n_items: int, users: int) -> MetricRow:
    """The row of a defect: `count` of all `n_items` recommended items of `users` users have it."""
    value = 100 * count / max(n_items, 1)
    return MetricRow(ranker, "all", f"{defect} share", value, value, value, users)
