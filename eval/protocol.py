"""What is asked and what would be right: one task a person, made from a folder of tables.

A folder holds `items.parquet` and `interactions.parquet` with genrec's own columns, and for `games` also
`candidates_random.parquet` and `candidates_random_200.parquet` (`user_id`, list of item ids).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec import Catalog, History, Interactions, read_catalog, read_interactions
from genrec.types import ItemId


@dataclass(frozen=True)
class Task:
    """One person: what they had, what is ranked (None: everything they do not have), and what they took."""

    history: History
    candidates: tuple[ItemId, ...] | None
    targets: frozenset[ItemId]


@dataclass(frozen=True)
class Experiment:
    """A catalog, the interactions that rankers may count, and the tasks."""

    catalog: Catalog
    train: Interactions
    tasks: Sequence[Task]


def candidate_lists(folder: Path, users: int | None) -> Experiment:
    """Rank 20 items: 19 random ones and the true last item of the history.

    Source: Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems", ECIR 2024, section 3.
    Rankers count all but each user's last two items. 200 users at most come from the paper's own sample.
    """
    catalog = read_catalog(folder / "items.parquet", name="games")
    interactions = read_interactions(folder / "interactions.parquet")
    small = users is not None and users <= 200
    lists = pq.read_table(folder / f"candidates_random{'_200' if small else ''}.parquet").slice(0, users).to_pylist()
    tasks = []
    for row, history in zip(lists, interactions.histories([row["user_id"] for row in lists]), strict=True):
        *known, true = history.item_ids
        candidates = [item for item in row["candidates"] if item != true][:19]
        past = History(tuple(known), user_id=row["user_id"])
        tasks.append(Task(past, (*candidates, true), frozenset([true])))
    train, _ = interactions.leave_last_out(2)
    return Experiment(catalog, train, tasks)


def next_basket(catalog: Catalog, interactions: Interactions, users: int | None, *, part: str, seed: int) -> Experiment:
    """Rank the whole catalog but what a customer has: which new items are in their next basket?

    A basket is what one customer took at one time. Customers with three baskets or more are asked about: with `part`
    `validation` for the last but one, knowing those before it; with `test` for the last. Rankers count, of every
    customer, only what came before the basket asked about; of customers who are not asked about, all but their last.
    """
    order = {"validation": 2, "test": 1}[part]
    kept = np.ones(len(interactions), dtype=np.bool_)
    asked: list[tuple[int, int]] = []
    for user, (start, stop) in enumerate(zip(interactions.offsets[:-1], interactions.offsets[1:], strict=True)):
        times = interactions.timestamps[start:stop]
        baskets = np.unique(times)
        if len(baskets) < 2:
            continue
        from_end = order if len(baskets) >= 3 else 1
        before = int(np.searchsorted(times, baskets[-from_end]))
        kept[start + before : stop] = False
        if len(baskets) >= 3:
            asked.append((user, int(np.searchsorted(times, baskets[-from_end], side="right"))))
    table = interactions.to_table()
    train = read_interactions(table.filter(pa.array(kept)))
    histories = interactions.histories()
    tasks = []
    for user, stop in asked:
        before = int(kept[interactions.offsets[user] : interactions.offsets[user + 1]].sum())
        items = histories[user].item_ids
        targets = frozenset(items[before:stop]) - frozenset(items[:before])
        if targets:
            tasks.append(Task(History(items[:before], user_id=histories[user].user_id), None, targets))
    chosen = np.random.default_rng(seed).permutation(len(tasks))[:users]
    return Experiment(catalog, train, [tasks[place] for place in chosen])
