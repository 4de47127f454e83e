"""Costs of a request at three catalog sizes and by search strategy: tokens, seconds, and share of proven results.

The rows S1 to S3 are informative and have no floor. The prior of a whole catalog is measured once and cached; if that
would take hours, only candidates are ranked, whose prior is measured on first use.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.config import read_config
from eval.data import open_experiment
from eval.progress import report_progress
from eval.speed.catalog import titles
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow
from genrec import (
    Catalog,
    CatalogIndex,
    EmbeddingRanker,
    GenerativeRanker,
    GenerativeSettings,
    RankRequest,
    Recommender,
    TitleIdentifiers,
    open_dataset,
    open_recommender,
    read_template,
)
from genrec.cache import default_cache
from genrec.data import Subset
from genrec.deadline import Deadline
from genrec.evaluation import EvaluationCase, next_basket
from genrec.loading import load_backend
from genrec.rankers import PriorSource
from genrec.settings import LANGUAGE_MODEL
from genrec.types import Item

K, USERS = 10, 16
SEED = 20261122


@dataclass(frozen=True)
class Variant:
    """A named combination of settings of the generative ranker."""

    name: str
    settings: dict[str, Any]


VARIANTS = (
    Variant("50 candidates, fusion weight 50", {"strategy": "candidates", "fusion_weight": 50.0}),
    Variant("whole catalog, exact, fusion weight 50", {"strategy": "beam", "fusion_weight": 50.0}),
    Variant("whole catalog, exact, fusion weight 20", {"strategy": "beam", "fusion_weight": 20.0}),
    Variant("whole catalog, exact to 2,000 tokens, no fusion", {"strategy": "beam", "fusion_weight": 0.0}),
    Variant(
        "whole catalog, catalog score, exact, no fusion",
        {"strategy": "beam", "fusion_weight": 0.0, "score": "catalog"},
    ),
)


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed search` that are not part of quick runs."""
    if options.quick:
        return []
    listed = [BenchmarkJob("a shop", ("S1",), _shop)]
    if options.data is not None:
        listed.append(BenchmarkJob("games", ("S2",), partial(_games, options.data)))
    return [*listed, BenchmarkJob("a million titles", ("S3",), _million)]


def _shop() -> Iterator[BenchmarkRow]:
    """S1: 3,659 items of the embedded shop, next-basket users."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    experiment = next_basket(catalog, interactions, users=USERS, part="validation", seed=SEED)
    recommender = open_recommender(catalog, experiment.train, cache=default_cache())
    yield from _rows("S1", catalog, _ranker_of(recommender), requests_of(catalog, experiment.cases), VARIANTS)


def _games(data: Path) -> Iterator[BenchmarkRow]:
    """S2: 16,859 video games, whose whole-catalog prior takes minutes."""
    experiment = open_experiment(read_config("games"), data, USERS)
    recommender = open_recommender(experiment.catalog, experiment.train, cache=default_cache())
    requests = requests_of(experiment.catalog, experiment.cases)
    yield from _rows("S2", experiment.catalog, _ranker_of(recommender), requests, VARIANTS)


def _million() -> Iterator[BenchmarkRow]:
    """S3: a million synthetic titles; candidates come from random vectors, so quality is not measured."""
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    shop, _ = open_dataset("online-retail", default_cache())
    made = titles(1_000_000, shop.titles, tokenizer)
    words = (tokenizer.decode(tokens.tolist()[:-1]) for tokens in made.sequences())
    begin = time.perf_counter()
    catalog = Catalog.from_items(
        (Item(f"i{place}", f"{word} {place}") for place, word in enumerate(words)), name="made"
    )
    read = time.perf_counter() - begin
    begin = time.perf_counter()
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    built = time.perf_counter() - begin
    random = np.random.default_rng(1)
    vectors = random.standard_normal((len(catalog), 64), dtype=np.float32)
    ranker = GenerativeRanker(
        index,
        backend,
        tokenizer,
        template=read_template("next-item"),
        cold_template=read_template("cold-start"),
        prior=PriorSource([random.integers(0, len(catalog), 12) for _ in range(3)]),
        retriever=EmbeddingRanker(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
        settings=GenerativeSettings(fusion_weight=50.0),
    )
    everything = Subset.everything(len(catalog))
    requests = [RankRequest(random.integers(0, len(catalog), 10), "", everything) for _ in range(USERS)]
    note = f"; items read in {read:.0f} s, tokenized and sorted in {built:.0f} s, {index.trie.nbytes / 1e6:.0f} MB"
    free: dict[str, Any] = {"strategy": "beam", "prior": 0.0, "score": "catalog", "fusion_weight": 0.0}
    plain = Variant("whole catalog, catalog score, exact, no prior", free)
    for row in _rows("S3", catalog, ranker, requests, (VARIANTS[0], plain)):
        yield BenchmarkRow(row.id, row.variant, row.genrec, row.unit, note=row.note + note)


def _rows(
    identifier: str,
    catalog: Catalog,
    ranker: GenerativeRanker,
    requests: list[RankRequest],
    variants: Sequence[Variant],
) -> Iterator[BenchmarkRow]:
    whole = any(variant.settings["strategy"] == "beam" and variant.settings.get("prior", 1.0) for variant in variants)
    begin = time.perf_counter()
    if whole:
        ranker.compute_priors(report_progress(f"the prior of {catalog.name}"))
    filled = time.perf_counter() - begin
    for variant in variants:
        own = ranker.with_settings(**variant.settings)
        own.rank(requests[:1], K, deadline=Deadline.never())
        begin = time.perf_counter()
        rankings = own.rank(requests, K, deadline=Deadline.never())
        seconds = (time.perf_counter() - begin) / len(requests)
        nodes = np.array([ranking.generated_tokens for ranking in rankings])
        passes = max(ranking.forward_passes for ranking in rankings)
        proven = np.mean([ranking.proven for ranking in rankings])
        note = (
            f"{np.median(nodes):.0f} tokens after the prompt (median; {nodes.max()} at most), {passes} passes, "
            f"proven for {100 * proven:.0f} % of {len(requests)} users"
        )
        if not whole:
            begin = time.perf_counter()
            own.rank(requests, K, deadline=Deadline.never())
            again = (time.perf_counter() - begin) / len(requests)
            note += f"; {again:.3g} s the second time, when the prior of the candidates is cached"
        else:
            note += f"; the prior took {filled:.0f} s (0: it was cached)"
        yield BenchmarkRow(identifier, f"{catalog.name} ({len(catalog):,}): {variant.name}", seconds, "s", note=note)


def _ranker_of(recommender: Recommender) -> GenerativeRanker:
    return next(ranker for ranker in recommender.stages if isinstance(ranker, GenerativeRanker))


def requests_of(catalog: Catalog, tasks: Sequence[EvaluationCase]) -> list[RankRequest]:
    """One request per user, for the items outside the history."""
    histories = [catalog.indices_of(task.history.item_ids, "skip") for task in tasks]
    return [RankRequest(items, "", Subset.everything(len(catalog)).without(items)) for items in histories]
