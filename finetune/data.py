"""Training examples drawn from interaction histories: targets, their negatives, and validation users."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.config import Config
from eval.data import open_experiment
from finetune.config import TrainConfig
from finetune.tasks import TrainingTask, query_text
from genrec import Catalog, Interactions
from genrec.errors import InputError
from genrec.types import FloatArray, IntArray

_MIN_HISTORY = 1  # minimum number of items before a target
_YEAR_SECONDS = 365 * 86_400.0


class _UserEvents(NamedTuple):
    """The items of a user, int64 [H], and for each the number of items known before it, int64 [H]."""

    items: IntArray
    num_known: IntArray

    def truncated(self, event_index: int) -> "_UserEvents":
        return _UserEvents(self.items[:event_index], self.num_known[:event_index])

    def is_new(self, event_index: int) -> bool:
        """Whether the item of an event is not among the items known before it."""
        return self.items[event_index] not in self.items[: self.num_known[event_index]]


class _TargetRange(NamedTuple):
    """Targets in one history: events from `start` on and before `end`."""

    history: _UserEvents
    start: int
    end: int


class TrainingData:
    """Training histories with their targets, and validation users, whose last known item is not trained on.

    Rankers may be fitted on the same interactions, see `eval.data.open_experiment`.

    Args:
        config: names the data, and gives seeds and counts.
        data: the folder of data sets that are not embedded.

    Attributes:
        catalog: the items.
        interactions: the training interactions.
        digest: their hash.
        read_at: when they were read, in seconds since 1970.
        time_range: the times of the first and the last interaction, in ISO 8601.
        item_counts: float64 [N], how often each item occurs.
        train, validation: histories.

    Raises:
        InputError: no history is long enough, or no last item is new to its user.
    """

    def __init__(self, config: TrainConfig, data: Path | None) -> None:
        evaluated = Config(protocol=config.protocol, data=config.data, k=20, metrics=["ndcg@10"])
        self.read_at = time.time()
        experiment = open_experiment(evaluated, data, None)
        self.catalog: Catalog = experiment.catalog
        self.interactions = experiment.train
        self.digest = experiment.digest
        known = experiment.train.restricted_to(self.catalog)
        self.time_range = (
            tuple(map(_format_time, (known.timestamps.min(), known.timestamps.max()))) if len(known) else (None, None)
        )
        offsets, items = known.to_indices(self.catalog)
        self.item_counts: FloatArray = np.bincount(items, minlength=len(self.catalog)).astype(np.float64)
        times = known.timestamps if config.protocol == "next-basket" else np.arange(len(items))
        histories = [
            _UserEvents(items[start:end], np.searchsorted(times[start:end], times[start:end]))
            for start, end in itertools.pairwise(offsets.tolist())
        ]
        self._config, self._rng = config, np.random.default_rng(config.seed)
        num_old = self._split(histories, _counts_before(known, config.since))
        self._target_ranges = self._find_target_ranges(num_old)
        shares = np.array(list(config.tasks.values()))
        self._tasks, self._task_cdf = list(config.tasks), np.cumsum(shares / shares.sum())[:-1]
        weights = np.where(self.item_counts > 0, self.item_counts, 0.5) ** config.popularity_power
        self._popularity_cdf = np.cumsum(weights / weights.sum())

    def _split(self, histories: list[_UserEvents], num_old: list[int]) -> list[int]:
        """Draw the validation users, and set `train` and `validation`.

        Args:
            histories: one for each user.
            num_old: how many events of each history come before `since`.

        Returns:
            How many events of each history in `train` come before `since`.
        """
        config = self._config
        long = [
            (history, count)
            for history, count in zip(histories, num_old, strict=True)
            if len(history.items) > _MIN_HISTORY + 1
        ]
        if not long:
            raise InputError(
                f"no history of {config.data} has {_MIN_HISTORY + 2} items or more; training needs longer histories"
            )
        order = self._rng.permutation(len(long))
        is_new = np.array([history.num_known[-1] >= _MIN_HISTORY and history.is_new(-1) for history, _ in long])
        validation = order[is_new[order]][: config.evaluate_users]
        if not len(validation):
            raise InputError(
                f"no last item in {config.data} is new to its user; validation needs users whose last item is new"
            )
        others = np.setdiff1d(order, validation)
        self.validation = [long[user][0] for user in validation]
        shortened = [history.truncated(int(history.num_known[-1])) for history in self.validation]
        self.train = shortened + [long[user][0] for user in others]
        counts = [long[user][1] for user in (*validation, *others)]
        return [min(count, len(history.items)) for count, history in zip(counts, self.train, strict=True)]

    def _find_target_ranges(self, num_old: list[int]) -> list[list[_TargetRange]]:
        """The targets from `since` on, and, if they are replayed, those before."""
        config = self._config
        firsts = [int(np.searchsorted(history.num_known, _MIN_HISTORY)) for history in self.train]
        triples = list(zip(self.train, firsts, num_old, strict=True))
        new = [_TargetRange(history, max(first, count), len(history.items)) for history, first, count in triples]
        ranges = [_non_empty_ranges(new, f"since {config.since or 'the beginning'}")]
        if config.since is not None and config.replay:
            ranges.append(_non_empty_ranges([_TargetRange(*triple) for triple in triples], f"before {config.since}"))
        return ranges

    def sample_examples(self, count: int) -> list[dict[str, Any]]:
        """Draw `count` examples, each a tree of one history.

        Returns:
            Records with `task` and `history`, and one entry for each target in `event_indices`, `num_known`,
            `negatives`, `words` and `candidates`.

        Raises:
            InputError: no history has an item that is new to its user.
        """
        sources = [self._cycle_examples(ranges) for ranges in self._target_ranges]
        replayed = self._rng.random(count) < self._config.replay
        return [next(sources[-1 if old else 0]) for old in replayed]

    def validation_examples(self, num_negatives: int) -> list[dict[str, Any]]:
        """One record for each validation user: the last item, and random negatives."""
        rng, records = np.random.default_rng(self._config.seed), []
        for history in self.validation:
            unseen = np.setdiff1d(np.arange(len(self.catalog)), history.items)
            negatives = rng.choice(unseen, min(num_negatives, len(unseen)), replace=False)
            records.append(_to_record("next-item", history, [len(history.items) - 1], [negatives.tolist()]))
        return records

    def _cycle_examples(self, target_ranges: list[_TargetRange]) -> Iterator[dict[str, Any]]:
        """Yield examples of all histories in random order, then again in another order, without end."""
        while True:
            found = False
            for index in self._rng.permutation(len(target_ranges)):
                record = self._sample_example(target_ranges[index])
                if record is not None:
                    found = True
                    yield record
            if not found:
                raise InputError(
                    "every item after the first ones repeats an earlier one; training needs histories with new items"
                )

    def _sample_example(self, target_range: _TargetRange) -> dict[str, Any] | None:
        """Draw consecutive targets, which share most of their prompts; None if none of them is new to the user."""
        history, low, high = target_range
        end = int(self._rng.integers(min(low + self._config.targets, high), high + 1))
        begin = max(low, end - self._config.targets)
        events = [event for event in range(begin, end) if history.is_new(event)]
        if not events:
            return None
        # Targets that share a prompt share their negatives, which then occur in the tree only once.
        distinct, prompts = np.unique(history.num_known[events], return_inverse=True)
        draws = self._rng.random((len(distinct), self._config.others))
        drawn = np.searchsorted(self._popularity_cdf, draws, side="right")
        drawn = np.minimum(drawn, len(self._popularity_cdf) - 1)[prompts]  # rounding may leave the last sum below 1
        negatives = [np.setdiff1d(own, history.items).tolist() for own in drawn]  # later items are no negatives either
        task = self._tasks[int(np.searchsorted(self._task_cdf, self._rng.random(), side="right"))]
        none: list[list[int]] = [[]] * len(events)
        if task == "next-item":
            needed = negatives if self._config.objective in ("listwise", "dpo") else none
            return _to_record(task, history.truncated(end), events, needed)
        pairs = [(int(history.items[history.num_known[event] - 1]), int(history.items[event])) for event in events]
        words = [query_text(task, self.catalog, previous, target, self._rng) for previous, target in pairs]
        candidates = none
        if task == "candidates":
            shown = zip(pairs, negatives, strict=True)
            candidates = [self._rng.permutation([target, *own]).tolist() for (_, target), own in shown]
        return _to_record(task, history.truncated(end), events, none, words, candidates)


def _non_empty_ranges(target_ranges: list[_TargetRange], period: str) -> list[_TargetRange]:
    ranges = [one for one in target_ranges if one.start < one.end]
    if not ranges:
        raise InputError(f"no user has a target {period}; choose another date for since")
    return ranges


def _counts_before(interactions: Interactions, since: str | None) -> list[int]:
    """How many events of each user come before a date."""
    if since is None:
        return [0] * len(interactions.histories())
    try:
        before, _ = interactions.split_by_time(since)
    except InputError as error:
        raise InputError(f"since is {since!r}: {error}") from error
    past = {history.user_id: len(history.item_ids) for history in before.histories()}
    return [past.get(history.user_id, 0) for history in interactions.histories()]


def _format_time(seconds: float) -> str:
    """A time in ISO 8601; a small number is an order, not a time, and stays a number."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds >= _YEAR_SECONDS else repr(seconds)


def _to_record(
    task: TrainingTask,
    history: _UserEvents,
    event_indices: list[int],
    negatives: list[list[int]],
    words: list[str] | None = None,
    candidates: list[list[int]] | None = None,
) -> dict[str, Any]:
    return {
        "task": task,
        "history": history.items.tolist(),
        "event_indices": event_indices,
        "num_known": history.num_known[event_indices].tolist(),
        "negatives": negatives,
        "words": words or [""] * len(event_indices),
        "candidates": candidates or [[]] * len(event_indices),
    }
