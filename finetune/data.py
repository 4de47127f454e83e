"""Which moments of which histories are learned from, and what each is set against."""

import itertools
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

_MIN_HISTORY = 1  # items before a target at least
_YEAR_SECONDS = 365 * 86_400.0


class _UserEvents(NamedTuple):
    """What somebody took, int64 [H], and of each how many items were known before it, int64 [H]."""

    items: IntArray
    num_known: IntArray

    def truncated(self, event_index: int) -> "_UserEvents":
        return _UserEvents(self.items[:event_index], self.num_known[:event_index])

    def is_new(self, event_index: int) -> bool:
        """Whether an item was not there when it was taken."""
        return self.items[event_index] not in self.items[: self.num_known[event_index]]


class TrainingData:
    """Histories with the moments that are learned from, and people whose last known item tells how well it goes.

    Rankers may count the same interactions, see `eval.data.open_experiment`; of the people who tell, the last item is
    not learned.

    Args:
        config: whose data, seeds and counts.
        data: the folder of data sets that are not embedded.

    Raises:
        InputError: no history is long enough.
    """

    def __init__(self, config: TrainConfig, data: Path | None) -> None:
        asked = Config(protocol=config.protocol, data=config.data, k=20, metrics=["ndcg@10"])
        experiment = open_experiment(asked, data, None)
        self.catalog: Catalog = experiment.catalog
        self.interactions = experiment.train
        self.digest = experiment.digest
        known = experiment.train.restricted_to(self.catalog)
        self.time_range = (
            tuple(map(_format_time, (known.timestamps.min(), known.timestamps.max()))) if len(known) else (None, None)
        )
        offsets, items = known.to_indices(self.catalog)
        self.item_counts: FloatArray = np.bincount(items, minlength=len(self.catalog)).astype(np.float64)
        old = _counts_before(known, config.since)
        times = known.timestamps if config.protocol == "next-basket" else np.arange(len(items))
        histories = [
            _UserEvents(items[start:end], np.searchsorted(times[start:end], times[start:end]))
            for start, end in itertools.pairwise(offsets.tolist())
        ]
        whole = [
            (history, count)
            for history, count in zip(histories, old, strict=True)
            if len(history.items) > _MIN_HISTORY + 1
        ]
        if not whole:
            raise InputError(
                f"no history of {config.data} has {_MIN_HISTORY + 2} items or more; there is nothing to learn from"
            )
        random = np.random.default_rng(config.seed)
        order = random.permutation(len(whole))
        new = np.array([history.num_known[-1] >= _MIN_HISTORY and history.is_new(-1) for history, _ in whole])[order]
        told = order[new][: config.evaluate_users]
        if not len(told):
            raise InputError(f"nobody's last item in {config.data} is new to them; nothing could tell how well it goes")
        learned = np.setdiff1d(order, told)
        self._config, self._rng = config, random
        shares = np.array(list(config.tasks.values()))
        self._tasks, self._task_cdf = list(config.tasks), np.cumsum(shares / shares.sum())[:-1]
        self.validation = [whole[place][0] for place in told]
        kept = [whole[place][0].truncated(int(whole[place][0].num_known[-1])) for place in told]
        self.train = kept + [whole[place][0] for place in learned]
        before = [whole[place][1] for place in (*told, *learned)]
        counts = [min(count, len(history.items)) for count, history in zip(before, self.train, strict=True)]
        # A part of a history: from which place on targets may lie, and before which.
        first = [int(np.searchsorted(history.num_known, _MIN_HISTORY)) for history in self.train]
        parts = [
            (history, max(least, count), len(history.items))
            for history, least, count in zip(self.train, first, counts, strict=True)
        ]
        self._target_ranges = [_non_empty_ranges(parts, config.since or "the beginning")]
        if config.since is not None and config.replay:
            past = list(zip(self.train, first, counts, strict=True))
            self._target_ranges.append(_non_empty_ranges(past, f"before {config.since}"))
        weights = np.where(self.item_counts > 0, self.item_counts, 0.5) ** config.popularity_power
        self._popularity_cdf = np.cumsum(weights / weights.sum())  # the chance of an item or one before it

    def sample_examples(self, count: int) -> list[dict[str, Any]]:
        """So many trees, drawn: `task`, `history`, and `places`, `known`, `others`, `words`, `candidates` of targets.

        Raises:
            InputError: no history has a moment at which anything new was taken.
        """
        sources = [self._cycle_examples(parts) for parts in self._target_ranges]
        again = self._rng.random(count) < self._config.replay
        return [next(sources[-1 if old else 0]) for old in again]

    def validation_examples(self, num_negatives: int) -> list[dict[str, Any]]:
        """One row for each validation person: the last item against so many random ones."""
        random, rows = np.random.default_rng(self._config.seed), []
        for history in self.validation:
            rest = np.setdiff1d(np.arange(len(self.catalog)), history.items)
            others = random.choice(rest, min(num_negatives, len(rest)), replace=False)
            rows.append(_to_record("next-item", history, [len(history.items) - 1], [others.tolist()]))
        return rows

    def _cycle_examples(self, target_ranges: "list[_TargetRange]") -> Iterator[dict[str, Any]]:
        """Rows of histories in random order, and when all were met, in another."""
        while True:
            met = False
            for place in self._rng.permutation(len(target_ranges)):
                row = self._sample_example(*target_ranges[place])
                if row is not None:
                    met = True
                    yield row
            if not met:
                raise InputError("no history holds anything new behind its beginning; there is nothing to learn from")

    def _sample_example(self, history: _UserEvents, low: int, high: int) -> dict[str, Any] | None:
        """Moments that lie side by side, so that they share what they show."""
        end = int(self._rng.integers(min(low + self._config.targets, high), high + 1))
        begin = max(low, end - self._config.targets)
        places = [place for place in range(begin, end) if history.is_new(place)]
        if not places:
            return None
        # What is asked for with one prompt is set against the same others, which stand in the tree once.
        asked, prompts = np.unique(history.num_known[places], return_inverse=True)
        drawn = np.searchsorted(self._popularity_cdf, self._rng.random((len(asked), self._config.others)), side="right")
        drawn = np.minimum(drawn, len(self._popularity_cdf) - 1)[prompts]  # the sum of chances may end just below 1
        others = [np.setdiff1d(own, history.items).tolist() for own in drawn]  # nor what comes later: it was taken too
        task = self._tasks[int(np.searchsorted(self._task_cdf, self._rng.random(), side="right"))]
        if task == "next-item":
            needed = others if self._config.objective in ("listwise", "dpo") else [[]] * len(places)
            return _to_record(task, history.truncated(end), places, needed)
        taken = history.items
        pairs = [(int(taken[history.num_known[place] - 1]), int(taken[place])) for place in places]
        words = [query_text(task, self.catalog, before, one, self._rng) for before, one in pairs]
        lists: list[list[int]] = [[]] * len(places)
        if task == "candidates":
            shown = zip(pairs, others, strict=True)
            lists = [self._rng.permutation([one, *own]).tolist() for (_, one), own in shown]
        return _to_record(task, history.truncated(end), places, [[]] * len(places), words, lists)


_TargetRange = tuple[_UserEvents, int, int]


def _non_empty_ranges(target_ranges: list[_TargetRange], period: str) -> list[_TargetRange]:
    found = [(history, low, high) for history, low, high in target_ranges if low < high]
    if not found:
        raise InputError(f"nobody took anything since {period} behind something else; there is nothing to learn from")
    return found


def _counts_before(interactions: Interactions, since: str | None) -> list[int]:
    """How many events of each person came before a date."""
    if since is None:
        return [0] * len(interactions.histories())
    try:
        before, _ = interactions.split_by_time(since)
    except InputError as error:
        raise InputError(f"since is {since!r}: {error}") from error
    past = {history.user_id: len(history.item_ids) for history in before.histories()}
    return [past.get(history.user_id, 0) for history in interactions.histories()]


def _format_time(seconds: float) -> str:
    """ISO 8601, or a number where the data know places in place of times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds >= _YEAR_SECONDS else f"{seconds:g}"


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
        "places": event_indices,
        "known": history.num_known[event_indices].tolist(),
        "others": negatives,
        "words": words or [""] * len(event_indices),
        "candidates": candidates or [[]] * len(event_indices),
    }
