"""The value of search words in addition to a history: python -m eval.chat words [--users N].

The users are those of the embedded shop, with the basket before the last held out. Each searches for one item of that
basket by a word or two of its title, with the whole history or only its newest items. Weights are learned from earlier
baskets, so no measured interaction was seen. The data contain no queries: title words stand in for them, and are easier
than real queries.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from eval.progress import wide_console
from eval.speed.report import commit, machine
from genrec import RankRequest, Settings, Subset, open_dataset
from genrec.cache import default_cache, ignore_progress
from genrec.deadline import Deadline
from genrec.errors import GenrecError, InputError
from genrec.evaluation import Interval, mean_interval, next_basket
from genrec.loading import embed_texts, load_lexical_ranker
from genrec.rankers import WORDS_SIMILARITY, CollaborativeCounts, DenseRanker, learn_weights, text_signals
from genrec.types import IntArray

SEED = 20261122
HISTORY_LENGTHS = (1, 2, 5, 1_000_000)  # newest items
CUTOFF = 10
_WORD = re.compile(r"[^\W\d_]{3,}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m eval.chat words", description=__doc__)
    parser.add_argument("--users", type=int, default=1500, metavar="N", help="at most this many users")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="seed of users and words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    options = parser.parse_args(arguments)
    try:
        summary = measure(options.users, options.seed)
        if options.json:
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")
    table = Table(title=f"Hit@{CUTOFF} of {summary['users']:,} customers; words count {summary['worth']:.1f}")
    for column in ("history", "ranker", "nothing said", "a word or two"):
        table.add_column(column)
    for row in summary["rows"]:
        known = "whole" if row["known"] == HISTORY_LENGTHS[-1] else f"newest {row['known']}"
        hits = ("" if row[key] is None else str(Interval(**row[key])) for key in ("silent", "spoken"))
        table.add_row(known, row["ranker"], *hits)
    wide_console().print(table)


def measure(users: int, seed: int) -> dict[str, Any]:
    """Measure Hit@10 of each ranker with and without words, for each length of the history."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    embedding = embed_texts(catalog.titles, Settings(), default_cache())
    if embedding is None:
        raise InputError("the settings have no sentence encoder; set one")
    experiment = next_basket(catalog, interactions, part="validation", users=users, seed=seed)
    lexical = load_lexical_ranker(catalog.titles, default_cache(), ignore_progress)
    weights = learn_weights(catalog, experiment.train, embedding, lexical)
    blend = CollaborativeCounts.from_interactions(catalog, experiment.train).blend(embedding, weights, lexical)
    rankers: dict[str, DenseRanker] = {
        **({"blend": blend} if blend is not None else {}),
        "embedding": embedding,
        "lexical": lexical,
    }
    random, everything = np.random.default_rng(seed), Subset.everything(len(catalog))
    users_with_words: list[tuple[IntArray, str, int]] = []
    for task in experiment.cases:
        targets = catalog.indices_of(sorted(task.targets, key=str))
        target = int(targets[random.integers(len(targets))])
        words = _WORD.findall(catalog[target].title)
        if words:
            places = sorted(random.choice(len(words), min(len(words), int(random.integers(1, 3))), replace=False))
            users_with_words.append(
                (catalog.indices_of(task.history.item_ids), " ".join(words[own] for own in places).lower(), target)
            )
    rows = []
    for known in HISTORY_LENGTHS:
        for name, ranker in rankers.items():
            row: dict[str, Any] = {"known": known, "ranker": name}
            for key, speaks in (("silent", False), ("spoken", True)):
                asked = [
                    RankRequest(had[-known:], words if speaks else "", everything.without(had))
                    for had, words, _ in users_with_words
                ]
                row[key] = asdict(_hits(ranker, asked, [target for *_, target in users_with_words], seed))
            rows.append(row)
    alone = [RankRequest(had[:0], words, everything.without(had)) for had, words, _ in users_with_words]
    words_alone = text_signals(embedding, lexical)[WORDS_SIMILARITY]
    spoken = asdict(_hits(words_alone, alone, [target for *_, target in users_with_words], seed))
    rows.append({"known": 0, "ranker": "words alone", "silent": None, "spoken": spoken})
    return {
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "data": experiment.digest,
        "users": len(users_with_words),
        "worth": weights["like their words"],
        "rows": rows,
    }


def _hits(ranker: DenseRanker, asked: Sequence[RankRequest], targets: Sequence[int], seed: int) -> Interval:
    found = ranker.rank(asked, CUTOFF, deadline=Deadline.never())
    hits = [100.0 * (target in own.item_indices) for own, target in zip(found, targets, strict=True)]
    return mean_interval(hits, seed=seed)
