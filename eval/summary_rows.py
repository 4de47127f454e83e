"""Summary rows of a run: means with intervals, faults of lists, paired differences, and metrics beyond accuracy."""

import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eval.config import Config
from eval.progress import report_progress
from genrec.cache import default_cache
from genrec.errors import ModelMissingError
from genrec.evaluation import (
    SLICES,
    Experiment,
    MetricRow,
    coverage,
    defect_share_row,
    difference_interval,
    diversity,
    gini,
    length_bias,
    mean_interval,
    novelty,
    parity,
    popularity_lift,
    summarise,
)
from genrec.loading import embed_texts
from genrec.settings import Settings
from genrec.types import BoolArray

BEYOND_ACCURACY_K = 10  # ranks considered by the metrics beyond accuracy


def metric_rows(name: str, table: pa.Table, groups: Mapping[str, BoolArray], config: Config) -> Iterator[MetricRow]:
    """Means and intervals for each group, and the faults of all lists."""
    values = {metric: table[metric].to_numpy() for metric in config.metrics}
    yield from summarise(name, values, groups, seed=config.seed)
    places = sum(len(items) for items in table["item_ids"].to_pylist())
    for fault in ("invalid", "repeated", "seen", "fallback"):
        yield defect_share_row(name, fault, int(table[fault].to_numpy().sum()), places, table.num_rows)
    for metric, column, scale in (("ms", "seconds", 1000), ("tokens", "tokens", 1)):
        mean = scale * float(table[column].to_numpy().mean())
        yield MetricRow(name, "all", metric, mean, mean, mean, table.num_rows)


def difference_rows(name: str, table: pa.Table, base: pa.Table, config: Config) -> Iterator[MetricRow]:
    """The paired differences of a ranker to the baseline."""
    for metric in config.metrics:
        ours, theirs = (100 * own[metric].to_numpy() for own in (table, base))
        found = difference_interval(ours, theirs, seed=config.seed)
        yield MetricRow(
            name, "all", f"{metric} over {config.baseline}", found.value, found.low, found.high, table.num_rows
        )


def title_vectors(experiment: Experiment) -> NDArray[np.float32] | None:
    """Title vectors, for the diversity of lists; None if the text encoder is not installed."""
    try:
        report = report_progress("titles, for diversity")
        embedding = embed_texts(
            experiment.catalog.titles,
            Settings(),
            default_cache(),
            on_progress=lambda _, done, total: report(done, total),
        )
    except ModelMissingError as error:
        print(f"note: the diversity of lists is not measured: {error}", file=sys.stderr)
        return None
    return None if embedding is None else embedding.vectors


def beyond_accuracy_rows(
    name: str,
    table: pa.Table,
    groups: Mapping[str, BoolArray],
    experiment: Experiment,
    config: Config,
    vectors: NDArray[np.float32] | None,
) -> Iterator[MetricRow]:
    """Metrics beyond accuracy at the first ranks, and the gap between user groups.

    Coverage and Gini are times 100, novelty is in bits, popularity and length are ratios, diversity is 1 minus the
    cosine of title vectors. A metric has no row if no list allows to measure it.
    """
    places = min(BEYOND_ACCURACY_K, config.k)
    catalog, users = experiment.catalog, table.num_rows
    first = [own[:places] for own in table["item_ids"].to_pylist()]
    lists = [catalog.item_ids.positions(own) for own in first]
    had = [catalog.item_ids.positions(task.history.item_ids) for task in experiment.cases]
    counts = experiment.train.item_counts(catalog, on_unknown="skip")
    if not any((own >= 0).any() for own in lists):
        return
    for metric, value in (
        ("coverage", 100 * coverage(lists, len(catalog))),
        ("gini", 100 * gini(lists, len(catalog))),
        ("popularity lift", popularity_lift(lists, had, counts)),
    ):
        yield MetricRow(name, "all", f"{metric}@{places}", value, value, value, users)
    lengths = [len(title) for title in catalog.titles]
    measured = {"novelty": novelty(lists, counts), "length": length_bias(lists, lengths)}
    if vectors is not None:
        measured["diversity"] = diversity(lists, vectors)
    for metric, values in measured.items():
        values = values[np.isfinite(values)]
        if not len(values):
            continue  # no list contains enough items of the catalog
        found = mean_interval(values, seed=config.seed)
        yield MetricRow(name, "all", f"{metric}@{places}", found.value, found.low, found.high, len(values))
    label = np.full(users, "", dtype=object)
    for group in (f"{own} people" for own in SLICES):
        label[groups[group]] = group
    if len(set(label)) > 1:
        metric = config.metrics[-1]
        gap = parity(100 * table[metric].to_numpy(), label.tolist(), seed=config.seed).gap
        yield MetricRow(name, "all", f"gap of {metric} between people", gap.value, gap.low, gap.high, users)
