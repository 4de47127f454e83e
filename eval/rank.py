"""Measure rankers: python -m eval.rank {games,retail} [--data DIR] [--users N] [--rankers A,B] [--json FILE].

`games` ranks 20 candidates for each person of Amazon Video Games 2018 (`--data DIR` names its folder); `retail` ranks
the whole embedded catalog for the next basket of Online Retail. Every row is measured through `Recommender.recommend`.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import R, nDCG
from rich.console import Console
from rich.table import Table

from eval.progress import show_progress
from eval.protocol import Experiment, Task, candidate_lists, next_basket
from genrec import (
    GenerativeRanker,
    GenerativeSettings,
    Ranker,
    RecommendationList,
    Recommender,
    Settings,
    open_dataset,
    open_recommender,
)
from genrec.assembly import default_cache

SEED = 20261122
RESAMPLES = 2000
BATCH = 16


@dataclass(frozen=True)
class Row:
    """One ranker, one metric: the mean over users with its 95 % bootstrap interval."""

    ranker: str
    metric: str
    value: float
    low: float
    high: float
    users: int
    milliseconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one protocol and print its table."""
    options = _parse(arguments)
    cache = default_cache()
    if options.protocol == "games":
        experiment = candidate_lists(options.data, options.users or 200)
        measures, k, template = [nDCG @ 1, nDCG @ 5, nDCG @ 10], 20, options.template
    else:
        catalog, interactions = open_dataset("online-retail", cache)
        experiment = next_basket(catalog, interactions, options.users, part=options.part, seed=SEED)
        measures, k, template = [nDCG @ 10, R @ 20], 20, options.template
    settings = Settings(
        template=template, background=options.background, generative=GenerativeSettings(strategy="candidates")
    )
    recommender = open_recommender(experiment.catalog, experiment.train, cache=cache, settings=settings)
    rankers = {**_plain(recommender), **_generative(recommender, options.protocol)}
    chosen = options.rankers.split(",") if options.rankers else list(rankers)
    if unknown := sorted(set(chosen) - set(rankers)):
        sys.exit(f"error: no ranker {unknown[0]!r}; choose from {', '.join(rankers)}")
    rows: list[Row] = []
    for name in chosen:
        alone = Recommender(experiment.catalog, [rankers[name], recommender.ladder[-1]])
        rows += _measure(name, alone, experiment, measures, k)
    _print(rows)
    if options.json:
        facts = {"protocol": options.protocol, "arguments": sys.argv[1:], "seed": SEED, **_machine()}
        facts["catalog"] = experiment.catalog.fingerprint
        facts["data"] = _digest(experiment)
        text = json.dumps({**facts, "rows": [vars(row) for row in rows]}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.rank", description=__doc__)
    parser.add_argument("protocol", choices=["games", "retail"])
    parser.add_argument("--data", type=Path, help="folder of items.parquet, interactions.parquet and candidates")
    parser.add_argument("--users", type=int, help="ask about so many people only")
    parser.add_argument("--rankers", help="names, joined by commas; all by default")
    parser.add_argument("--part", choices=["validation", "test"], default="validation", help="of retail")
    parser.add_argument("--template", default="next-item", help="a shipped template or a .j2 file")
    parser.add_argument("--background", type=int, default=Settings.background, help="histories behind the prior")
    parser.add_argument("--json", type=Path, help="write the rows and what they came from")
    options = parser.parse_args(arguments)
    if options.protocol == "games" and (options.data is None or not options.data.is_dir()):
        parser.error(f"games needs --data, a folder; got {options.data}")
    return options


def _plain(recommender: Recommender) -> dict[str, Ranker]:
    return {ranker.source: ranker for ranker in recommender.ladder if not isinstance(ranker, GenerativeRanker)}


def _generative(recommender: Recommender, protocol: str) -> dict[str, Ranker]:
    ranker = next(one for one in recommender.ladder if isinstance(one, GenerativeRanker))
    change, popularity = ranker.with_settings, recommender.ladder[-1]
    if protocol == "games":
        whole = change(strategy="exhaustive", evidence=0.0)
        rows: dict[str, Ranker] = {
            "likelihood": whole.with_settings(prior=0.0),
            "catalog score": whole.with_settings(prior=0.0, score="catalog"),
            "prior of an empty history": whole.with_settings(background=[]),
            "prior of other histories": whole,
        }
        for weight in (2.0, 4.0, 6.0):
            rows[f"prior of other histories + popularity {weight:g}"] = whole.with_settings(
                proposer=popularity, evidence=weight
            )
        return rows
    rows = {
        "whole catalog by beam": change(strategy="beam", evidence=0.0),
        "whole catalog by beam without prior": change(strategy="beam", evidence=0.0, prior=0.0),
    }
    for count in (20, 50):
        rows[f"{count} candidates then LLM"] = change(candidates=count, evidence=0.0)
    for evidence in (20.0, 50.0):
        rows[f"50 candidates then LLM + evidence {evidence:g}"] = change(candidates=50, evidence=evidence)
    return rows


def _measure(name: str, recommender: Recommender, experiment: Experiment, measures: list[Any], k: int) -> list[Row]:
    """Ask for every task, then score all lists at once."""
    run: dict[str, dict[str, float]] = {}
    truth: dict[str, dict[str, int]] = {}
    start = time.perf_counter()
    answers = show_progress(_answers(recommender, experiment, k), name, len(experiment.tasks))
    for number, (task, answer) in enumerate(answers):
        run[str(number)] = {str(item.item_id): 1.0 / item.rank for item in answer.items}
        truth[str(number)] = {str(item): 1 for item in task.targets}
    milliseconds = 1000 * (time.perf_counter() - start) / len(experiment.tasks)
    rows = []
    for measure in measures:
        found = {value.query_id: value.value for value in ir_measures.iter_calc([measure], truth, run)}
        values = 100 * np.array([found.get(query, 0.0) for query in truth])
        low, high = _interval(values)
        rows.append(Row(name, str(measure).lower(), float(values.mean()), low, high, len(values), milliseconds))
    return rows


def _answers(recommender: Recommender, experiment: Experiment, k: int) -> Iterator[tuple[Task, RecommendationList]]:
    """Each task and its list; tasks that rank the whole catalog are asked in batches."""
    for start in range(0, len(experiment.tasks), BATCH):
        tasks = experiment.tasks[start : start + BATCH]
        if all(task.candidates is None for task in tasks):
            yield from zip(tasks, recommender.recommend([task.history for task in tasks], k), strict=True)
        else:
            for task in tasks:
                yield task, recommender.recommend(task.history, k, only=task.candidates, filter_seen=False)


def _interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean over users (Efron and Tibshirani 1993, section 13.3)."""
    picks = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _print(rows: Sequence[Row]) -> None:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table("ranker", *metrics, "users", "ms a user")
    for name in dict.fromkeys(row.ranker for row in rows):
        own = [row for row in rows if row.ranker == name]
        cells = [f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in own]
        table.add_row(name, *cells, str(own[0].users), f"{own[0].milliseconds:.1f}")
    Console().print(table)


def _digest(experiment: Experiment) -> str:
    """SHA-256 over what was asked: people, candidates and targets."""
    digest = hashlib.sha256()
    for task in experiment.tasks:
        asked = [task.history.user_id, task.history.item_ids, task.candidates, sorted(map(str, task.targets))]
        digest.update(json.dumps(asked).encode())
    return digest.hexdigest()


def _machine() -> dict[str, str]:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {"machine": f"{platform.machine()}, Python {platform.python_version()}", "commit": git.stdout.strip()}


if __name__ == "__main__":
    main()
