"""Experiments from data sets: the directories under `--data`, and the embedded shop."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval.config import Config
from genrec import Catalog, History, Interactions, open_dataset, read_catalog, read_interactions
from genrec.cache import default_cache
from genrec.errors import InputError
from genrec.evaluation import EvaluationCase, Experiment, check_order, leave_one_out, next_basket, temporal_split


def open_experiment(config: Config, data: Path | None, users: int | None) -> Experiment:
    """Open the experiment of a config, for at most `users` users.

    Raises:
        InputError: the data are missing, or histories are not in chronological order.
    """
    users = config.users if users is None else users
    catalog, interactions = open_data(config, data)
    check_order(catalog, interactions)
    if config.protocol == "candidates":
        return candidate_lists(_dataset_dir(config.data, data), catalog, interactions, users)
    if config.protocol == "by-time" and config.at is not None:
        return temporal_split(catalog, interactions, at=config.at, users=users, seed=config.seed)
    split = {"leave-one-out": leave_one_out, "next-basket": next_basket}[config.protocol]
    return split(catalog, interactions, part=config.part, users=users, seed=config.seed)


def open_data(config: Config, data: Path | None) -> tuple[Catalog, Interactions]:
    """The catalog and all interactions of a config.

    Raises:
        InputError: the data are missing.
    """
    if config.data == "online-retail":
        return open_dataset("online-retail", default_cache())
    folder = _dataset_dir(config.data, data)
    catalog = read_catalog(_fill_missing_titles(pq.read_table(folder / "items.parquet")), name=config.data)
    return catalog, read_interactions(folder / "interactions.parquet")


def candidate_lists(folder: Path, catalog: Catalog, interactions: Interactions, users: int | None) -> Experiment:
    """Rank 20 items: 19 random ones, which may be in the history, and the true last item.

    `candidates_random.parquet` and `candidates_random_200.parquet` have the columns `user_id` and `candidates` (lists
    of item ids). Rankers are trained on all but the last two items of each user. Up to 200 users are taken from the
    paper's own sample.

    Source: Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems", ECIR 2024, section 3.
    """
    small = users is not None and users <= 200
    file = folder / f"candidates_random{'_200' if small else ''}.parquet"
    if not file.is_file():
        raise InputError(f"{file} is missing; the protocol candidates needs it")
    lists = pq.read_table(file).slice(0, users).to_pylist()
    tasks = []
    for row, history in zip(lists, interactions.histories([row["user_id"] for row in lists]), strict=True):
        *known, true = history.item_ids
        candidates = [item for item in row["candidates"] if item != true][:19]
        past = History(tuple(known), user_id=row["user_id"])
        tasks.append(EvaluationCase(past, (*candidates, true), frozenset([true])))
    train, _ = interactions.leave_last_out(2)
    return Experiment(catalog, train, tasks, seen="in")


def _fill_missing_titles(items: pa.Table) -> pa.Table:
    """Use the id as the title of an item without one (beauty has seven), so that no history loses the item."""
    ids = items["item_id"].cast(pa.string())
    titles = pc.if_else(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(items["title"], "")), ""), ids, items["title"])
    return items.set_column(items.column_names.index("title"), "title", titles)


def _dataset_dir(name: str, data: Path | None) -> Path:
    """`DIR/games`, or DIR itself if it has that name."""
    if data is None or not data.is_dir():
        raise InputError(f"{name} needs --data, a directory that contains it; got {data}")
    for folder in (data / name, data):
        if folder.resolve().name == name and (folder / "items.parquet").is_file():
            return folder
    raise InputError(f"{data} contains no {name}/items.parquet; pass with --data a directory that contains {name}")
