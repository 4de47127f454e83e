"""Experiments: the interactions that rankers may learn from, and one test case per user."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.errors import InputError
from genrec.types import History, ItemId, RecommendationList

Slice = Literal["hot", "warm", "cold"]
SLICES: tuple[Slice, ...] = get_args(Slice)

_BATCH_SIZE = 64  # users per call of the recommender
_MIN_HOT_HISTORY, _MAX_COLD_HISTORY = 20, 5  # items in the history of a hot user at least, of a cold user at most
_MAX_COLD_INTERACTIONS = 5  # interactions of a cold item at most


@dataclass(frozen=True)
class EvaluationCase:
    """One user's test case.

    Attributes:
        history: the interactions that the ranker is given, oldest first.
        candidates: the items to rank; None for the whole catalog.
        targets: the held-out items, which the ranker should find.
    """

    history: History
    candidates: tuple[ItemId, ...] | None
    targets: frozenset[ItemId]


@dataclass(frozen=True)
class Experiment:
    """A training log and test cases, made by a protocol.

    Attributes:
        catalog: the items that can be recommended.
        train: the interactions that rankers may learn from.
        cases: one per user.
        seen: "in" if items of the user's own history may be recommended, else "out".

    Raises:
        InputError: there is no case, or a case has no target or lacks a target among its candidates.
    """

    catalog: Catalog
    train: Interactions
    cases: Sequence[EvaluationCase]
    seen: Literal["in", "out"] = "out"

    def __post_init__(self) -> None:
        if not self.cases:
            raise InputError(
                "no user has a new item that could be held out; pass longer histories without repeats, or another time "
                "of the split"
            )
        for case in self.cases:
            if not case.targets:
                raise InputError(f"user {case.history.user_id!r} has no target; omit the user")
            if case.candidates is not None and not case.targets <= set(case.candidates):
                missing = min(case.targets - set(case.candidates), key=str)
                raise InputError(f"the candidates of user {case.history.user_id!r} lack the target {missing!r}; add it")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the experiment: catalog, training interactions, users, candidates and targets."""
        digest = hashlib.sha256(self.catalog.fingerprint.encode())
        offsets, items = self.train.to_indices(self.catalog, on_unknown="skip")
        digest.update(offsets.tobytes() + items.tobytes() + self.seen.encode())
        for case in self.cases:
            content = [case.history.user_id, case.history.item_ids, case.candidates, sorted(map(str, case.targets))]
            digest.update(json.dumps(content).encode())
        return digest.hexdigest()

    def user_slices(self) -> list[Slice]:
        """For each case: cold with at most 5 history items, hot with 20 or more, else warm."""
        lengths = [len(case.history.item_ids) for case in self.cases]
        return [
            "cold" if length <= _MAX_COLD_HISTORY else "hot" if length >= _MIN_HOT_HISTORY else "warm"
            for length in lengths
        ]

    def item_slices(self) -> dict[ItemId, Slice]:
        """For each item: cold with at most 5 interactions in `train`, hot or warm with more.

        Hot are the most popular items that together have half of all interactions.
        """
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
        """Recommend k items for each case.

        Args:
            recommender: the recommender to evaluate.
            k: list length.
            start, stop: range of the cases, by default all.

        Yields:
            The cases with their recommendations, in order.
        """
        chosen = self.cases[start:stop]
        for first in range(0, len(chosen), _BATCH_SIZE):
            cases = chosen[first : first + _BATCH_SIZE]
            if all(case.candidates is None for case in cases):
                users = [case.history for case in cases]
                lists = recommender.recommend(users, k, filter_seen=self.seen == "out")
                yield from map(EvaluatedCase, cases, lists)
                continue
            for case in cases:
                only = case.candidates
                yield EvaluatedCase(
                    case, recommender.recommend(case.history, k, only=only, filter_seen=self.seen == "out")
                )


class SupportsRecommend(Protocol):
    """The interface that an evaluation requires: a `Recommender`, or a baseline with the same method."""

    def recommend(
        self, users: Any, k: int = 10, *, filter_seen: bool = True, only: Iterable[ItemId] | None = None
    ) -> Any:
        """At most k items for one `History`, or a list of results for a sequence; see `Recommender.recommend`."""
        ...


@dataclass(frozen=True)
class EvaluatedCase:
    """A test case and its recommendations."""

    case: EvaluationCase
    recommendations: RecommendationList
