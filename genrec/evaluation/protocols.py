"""What is asked and what would be right: protocols that hold back some of what people did, and slices of them.

A protocol gives an `Experiment`: what rankers may count, and one task a person. What a task holds back is never in
what rankers count of that person. Events of items that the catalog lacks are left out throughout. Whether items that a
person already has may be recommended is always said.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.errors import InputError
from genrec.evaluation.metrics import Interval, mean_interval
from genrec.types import BoolArray, FloatArray, History, IntArray, ItemId, RecommendationList

Split = Literal["validation", "test"]
Slice = Literal["hot", "warm", "cold"]
SLICES: tuple[Slice, ...] = get_args(Slice)

_HOLDOUT_DISTANCE: dict[Split, int] = {"validation": 2, "test": 1}  # which item or basket from the end is held back
_BATCH_SIZE = 64  # people asked at once
_MIN_HOT_HISTORY, _MAX_COLD_HISTORY = 20, 5  # items of a hot user's history at least, of a cold user's at most
_MAX_COLD_INTERACTIONS = 5  # interactions of a cold item at most
_MIN_STEPS = 50  # steps of histories that are too few to tell their order by
_SORTED_SHARE = 0.95  # share of steps up the alphabet from which on histories count as sorted


@dataclass(frozen=True)
class EvaluationCase:
    """One person.

    Attributes:
        history: what they had, oldest first.
        candidates: what is ranked; None for the whole catalog.
        targets: what they took next.
    """

    history: History
    candidates: tuple[ItemId, ...] | None
    targets: frozenset[ItemId]


@dataclass(frozen=True)
class Experiment:
    """What a protocol asks.

    Attributes:
        catalog: what can be recommended.
        train: the interactions that rankers may count.
        cases: one a person.
        seen: whether items of the person's own history may be recommended: "in" or "out".
    """

    catalog: Catalog
    train: Interactions
    cases: Sequence[EvaluationCase]
    seen: Literal["in", "out"] = "out"

    def __post_init__(self) -> None:
        if not self.cases:
            raise InputError(
                "nobody has anything new that could be held back; give longer histories, without repeats, or another "
                "time"
            )
        for task in self.cases:
            if not task.targets:
                raise InputError(f"user {task.history.user_id!r} has no item to be found; leave them out")
            if task.candidates is not None and not task.targets <= set(task.candidates):
                missing = min(task.targets - set(task.candidates), key=str)
                raise InputError(
                    f"the candidates of user {task.history.user_id!r} lack the true item {missing!r}; add it"
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything asked: catalog, what may be counted, people, candidates, targets."""
        digest = hashlib.sha256(self.catalog.fingerprint.encode())
        offsets, items = self.train.to_indices(self.catalog, on_unknown="skip")
        digest.update(offsets.tobytes() + items.tobytes() + self.seen.encode())
        for task in self.cases:
            asked = [task.history.user_id, task.history.item_ids, task.candidates, sorted(map(str, task.targets))]
            digest.update(json.dumps(asked).encode())
        return digest.hexdigest()

    def user_slices(self) -> list[Slice]:
        """For each task: cold with a history of at most 5 items, hot with 20 or more, else warm."""
        lengths = [len(task.history.item_ids) for task in self.cases]
        return [
            "cold" if length <= _MAX_COLD_HISTORY else "hot" if length >= _MIN_HOT_HISTORY else "warm"
            for length in lengths
        ]

    def item_slices(self) -> dict[ItemId, Slice]:
        """Cold with at most 5 interactions in `train`; hot those most popular ones that have half of all; else warm."""
        counts = self.train.item_counts(self.catalog, on_unknown="skip")
        order = np.argsort(-counts, kind="stable")
        before = np.cumsum(counts[order]) - counts[order]
        hot = np.zeros(len(counts), dtype=np.bool_)
        hot[order[2 * before < counts.sum()]] = True
        pairs = zip(counts, hot, strict=True)
        names: list[Slice] = [
            "cold" if count <= _MAX_COLD_INTERACTIONS else "hot" if top else "warm" for count, top in pairs
        ]
        return dict(zip(self.catalog.item_ids, names, strict=True))

    def evaluate(
        self, recommender: "SupportsRecommend", k: int, *, start: int = 0, stop: int | None = None
    ) -> "Iterator[EvaluatedCase]":
        """Each task from `start` to `stop` with the k items that it is answered with, in their order."""
        chosen = self.cases[start:stop]
        for first in range(0, len(chosen), _BATCH_SIZE):
            tasks = chosen[first : first + _BATCH_SIZE]
            if all(task.candidates is None for task in tasks):
                people = [task.history for task in tasks]
                answers = recommender.recommend(people, k, filter_seen=self.seen == "out")
                yield from map(EvaluatedCase, tasks, answers)
                continue
            for task in tasks:
                only = task.candidates
                yield EvaluatedCase(
                    task, recommender.recommend(task.history, k, only=only, filter_seen=self.seen == "out")
                )


class SupportsRecommend(Protocol):
    """What can be asked: a `Recommender`, or what is measured beside it."""

    def recommend(
        self, users: Any, k: int = 10, *, filter_seen: bool = True, only: Iterable[ItemId] | None = None
    ) -> Any:
        """A list of at most k for one `History`, or a sequence of these for a sequence; see `Recommender.recommend`."""
        ...


@dataclass(frozen=True)
class EvaluatedCase:
    """A task and what it was answered with."""

    case: EvaluationCase
    recommendations: RecommendationList


@dataclass(frozen=True)
class MetricRow:
    """One figure of a summary: a ranker's mean over some people with its 95 % interval, where it has one.

    Accuracy and shares are times 100.
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
        """The figure with its interval alone."""
        return Interval(self.value, self.low, self.high)


def user_groups(experiment: Experiment) -> dict[str, BoolArray]:
    """bool [U] by name: everybody, slices of people, and slices of what they took, where that is one item."""
    people, items = np.array(experiment.user_slices()), experiment.item_slices()
    named = {str(item): own for item, own in items.items()}
    targets = [[str(item) for item in task.targets] for task in experiment.cases]
    taken = np.array([named[own[0]] if len(own) == 1 else "" for own in targets])
    groups = {"all": np.ones(len(people), dtype=np.bool_)}
    groups |= {f"{own} people": people == own for own in SLICES}
    return groups | {f"{own} items": taken == own for own in SLICES}


def summarise(
    ranker: str, values: Mapping[str, FloatArray], groups: Mapping[str, BoolArray], *, seed: int
) -> Iterator[MetricRow]:
    """A row for each metric and each group that has anybody.

    Args:
        ranker: what it is called.
        values: by metric, float64 [U] from 0 to 1; see `genrec.evaluation.metrics.accuracy`.
        groups: by name, bool [U].
        seed: of the intervals.
    """
    for group, chosen in groups.items():
        if chosen.any():
            for metric, own in values.items():
                found = mean_interval(100 * own[chosen], seed=seed)
                yield MetricRow(ranker, group, metric, found.value, found.low, found.high, int(chosen.sum()))


def defect_share_row(ranker: str, defect: str, count: int, places: int, users: int) -> MetricRow:
    """The row of how many of all places of all lists have a fault."""
    value = 100 * count / max(places, 1)
    return MetricRow(ranker, "all", f"{defect} share", value, value, value, users)


def leave_one_out(
    catalog: Catalog, interactions: Interactions, *, part: Split = "test", users: int | None = None, seed: int = 0
) -> Experiment:
    """Rank the whole catalog, without what a person has: which item do they take next?

    The last item of a history is the test item, the one before it the validation item; rankers count all but these two
    of everybody. Who has fewer than three items, or takes what they already had, is not asked about.

    Source of the protocol: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section IV.A.
    """
    interactions = interactions.restricted_to(catalog)
    tasks = []
    for history in interactions.histories():
        items = history.item_ids
        if len(items) >= 3 and (target := items[-_HOLDOUT_DISTANCE[part]]) not in items[: -_HOLDOUT_DISTANCE[part]]:
            tasks.append(
                EvaluationCase(
                    History(items[: -_HOLDOUT_DISTANCE[part]], user_id=history.user_id), None, frozenset([target])
                )
            )
    train, _ = interactions.leave_last_out(2)
    return Experiment(catalog, train, _sample(tasks, users, seed))


def temporal_split(
    catalog: Catalog, interactions: Interactions, *, at: float | str, users: int | None = None, seed: int = 0
) -> Experiment:
    """Rank the whole catalog as if today were `at`: which new items do people take from then on?

    Rankers count what was before; who has nothing before, or takes nothing new after, is not asked about.

    Args:
        catalog: what can be recommended.
        interactions: all of them.
        at: seconds since 1970 or a date, see `Interactions.split_by_time`.
        users: ask about so many people only, drawn by `seed`.
        seed: of that draw.
    """
    before, after = interactions.restricted_to(catalog).split_by_time(at)
    past = {history.user_id: history for history in before.histories()}
    tasks = []
    for later in after.histories():
        had = past.get(later.user_id)
        if had is not None and (new := frozenset(later.item_ids) - frozenset(had.item_ids)):
            tasks.append(EvaluationCase(had, None, new))
    if not tasks:
        times = interactions.timestamps
        raise InputError(
            f"nobody has anything before {at!r} and something new from then on; the events are from {times.min():g} to "
            f"{times.max():g} seconds since 1970 (or in places of a log): name an instant between, such as 2011-10-01"
        )
    return Experiment(catalog, before, _sample(tasks, users, seed))


def next_basket(
    catalog: Catalog, interactions: Interactions, *, part: Split = "test", users: int | None = None, seed: int = 0
) -> Experiment:
    """Rank the whole catalog, without what a customer has: which new items are in their next basket?

    A basket is what one customer took at one time. Customers with three baskets or more are asked about: with `part`
    `validation` for the last but one, knowing those before it; with `test` for the last. Rankers count, of every
    customer, only what came before the basket asked about; of customers who are not asked about, all but their last.
    """
    train, baskets = interactions.restricted_to(catalog).leave_last_basket_out(_HOLDOUT_DISTANCE[part])
    tasks = []
    for history, item_ids in baskets:
        if targets := frozenset(item_ids) - frozenset(history.item_ids):
            tasks.append(EvaluationCase(history, None, targets))
    return Experiment(catalog, train, _sample(tasks, users, seed))


def check_order(catalog: Catalog, interactions: Interactions) -> None:
    """Refuse histories that are sorted by what items are called instead of by time: two public data sets are.

    Raises:
        InputError: nearly every step of the histories goes up, or down, the order of titles or of item ids.
    """
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    inside = np.ones(max(len(items) - 1, 0), dtype=np.bool_)
    ends = offsets[1:-1]
    inside[ends[(ends > 0) & (ends < len(items))] - 1] = False
    for name, keys in _suspect_orders(catalog).items():
        _, place = np.unique(keys, return_inverse=True)
        steps = np.diff(place[items])[inside]
        steps = steps[steps != 0]
        if len(steps) < _MIN_STEPS:
            continue
        for way, share in (("up", float((steps > 0).mean())), ("down", float((steps < 0).mean()))):
            if share >= _SORTED_SHARE:
                raise InputError(
                    f"{share:.1%} of {len(steps):,} steps of the histories in {interactions.source} go {way} the order "
                    f"of {name}: they are sorted by that, not by time; get the original order, or no figure means "
                    "anything"
                )


def _suspect_orders(catalog: Catalog) -> dict[str, NDArray[Any]]:
    """What histories may have been sorted by: [N] each."""
    ids = [str(one) for one in catalog.item_ids]
    orders = {"titles": np.array(list(catalog.titles), dtype=object).astype(str), "item ids": np.array(ids)}
    if all(one.isdecimal() and len(one) < 19 for one in ids):
        orders["item ids as numbers"] = np.array(ids, dtype=np.int64)
    return orders


def _sample(cases: list[EvaluationCase], n_users: int | None, seed: int) -> list[EvaluationCase]:
    """All tasks, or so many of them in a random order that has nothing to do with how many there are."""
    if n_users is None or n_users >= len(cases):
        return cases
    chosen: IntArray = np.random.default_rng(seed).permutation(len(cases))[:n_users]
    return [cases[place] for place in chosen]
