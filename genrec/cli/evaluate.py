"""`genrec evaluate`: accuracy of each ranker on held-out interactions of your own data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, model_downloads, options, terminal
from genrec.cli.settings_options import setting_options
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.data.interactions import Interactions
    from genrec.data.timestamps import OrderChoice
    from genrec.evaluation.experiment import EvaluatedCase, Experiment
    from genrec.evaluation.intervals import Interval
    from genrec.evaluation.leakage import Leakage
    from genrec.evaluation.summary import MetricRow
    from genrec.recommender import Recommender
    from genrec.settings import Settings
    from genrec.types import FloatArray

_BATCH_SIZE = 64  # users between two updates of the progress bar
_SEED = 0  # of the sample of users, and of the intervals
_BLEND, _BASELINE = "blend", "popularity"
_BY_WORDS = "lexical"  # ranks by search words alone, which no case has
# The protocols that fit an order of the interactions, the default first. Rows have no baskets.
_PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "time": ("leave-one-out", "next-basket", "by-time"),
    "rows": ("leave-one-out", "by-time"),
    "none": ("random",),
}
_ORDER_WORDS = {
    "time": "in order of time",
    "numbers": "in order of the numbers in timestamp",
    "rows": "in the order of the rows",
    "none": f"with seed {_SEED}",
}

Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="CHOICE",
        help="Held-out interactions: the last item of each history (leave-one-out), the new items of the last basket "
        "(next-basket), all new items from --at on (by-time), or, with --order none, a random item of each user "
        "(random).",
        show_default="leave-one-out; random with --order none",
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="DATE", help="Split time of by-time: a date such as 2011-10-01, or a number."),
]
Users = Annotated[int, typer.Option("--users", metavar="N", help="Number of users, drawn at random.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="hit@k, mrr@k, ndcg@k, precision@k or recall@k; can be repeated.",
        show_default="ndcg@k and recall@k",
    ),
]
Rankers = Annotated[
    list[str] | None,
    typer.Option("--ranker", metavar="NAME", help="Evaluate only this ranker and popularity; can be repeated."),
]
AllowLeakage = Annotated[
    bool,
    typer.Option(
        "--allow-leakage",
        help="Evaluate an adapter even if held-out items may be in its training data; the report says so.",
    ),
]


@options.with_options(options.DATA_OPTIONS, setting_options())
def evaluate(
    protocol: Protocol = None,
    at: At = None,
    users: Users = 1000,
    k: options.K = 10,
    metric: Metrics = None,
    ranker: Rankers = None,
    allow_leakage: AllowLeakage = False,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Evaluate rankers on held-out interactions.

    Each stage of the fallback chain is evaluated alone. Items that it cannot rank come from popularity; their share is
    reported. Items in the history are not recommended. Each ranker is compared with popularity on the same users,
    with a p-value. An adapter is refused if it may have been trained on held-out items.
    """
    from genrec.cache import default_cache
    from genrec.evaluation.metrics import accuracy, metric_cutoff
    from genrec.loading.pipeline import open_recommender

    if users < 1:
        raise InputError(f"--users is {users}; give a number of at least 1")
    metrics = metric or [f"ndcg@{k}", f"recall@{k}"]
    accuracy([], [], metrics)  # raises for unknown metrics and missing packages, before the slow work
    if deep := [name for name in metrics if metric_cutoff(name) > k]:
        raise InputError(f"--metric {deep[0]} needs longer lists than --k {k}; set --k {metric_cutoff(deep[0])}")
    settings, source = loading.settings_from_options(given), loading.DataSource.from_options(given)
    protocol = _choose_protocol(protocol, at, source.order)
    model_downloads.fetch_hub_models(settings, default_cache())
    with loading.translate_option_errors(), terminal.progress() as progress:
        progress.start(f"Reading {source.name}")
        _check_ranker_names(settings, ranker)
        experiment, events = _build_experiment(source, protocol, at, users)
        leakage = _find_leakage(settings, experiment, events, ranker, allow_leakage)
        recommender = open_recommender(
            experiment.catalog,
            experiment.train,
            cache=default_cache(),
            settings=settings,
            need_model=loading.names_model(given),
            on_progress=progress,
        )
        for notice in recommender.notices:
            terminal.print_notice(f"note: {notice}")
        results = _evaluate_rankers(recommender, experiment, _selected_rankers(recommender, ranker), k, progress)
        loading.save_priors(recommender)
    report = _report(experiment, results, metrics)
    report |= {"leakage": None if leakage is None else asdict(leakage)}
    report |= {"data": experiment.digest, "protocol": protocol, "order": events.order}
    report |= {"users": len(experiment.cases), "k": k, "seed": _SEED}
    if as_json:
        terminal.write_json(report)
    else:
        _print(report, metrics)


def _find_leakage(
    settings: "Settings", experiment: "Experiment", events: "Interactions", ranker: Sequence[str] | None, allowed: bool
) -> "Leakage | None":
    """The held-out items that the adapter may have been trained on; None without one, or if it does not rank.

    Raises:
        InputError: there are such items, and they are not allowed.
    """
    from genrec.cache import default_cache
    from genrec.evaluation.leakage import find_leakage
    from genrec.loading.language_model import find_provenance
    from genrec.notices import Notice
    from genrec.pipeline import LLM_STAGES

    provenance = find_provenance(settings, default_cache())
    if settings.model is None or (ranker is not None and set(ranker).isdisjoint(LLM_STAGES)):
        return None
    if settings.adapter is None and provenance is None:
        return None
    leakage, name = find_leakage(experiment, events, provenance), str(settings.adapter or settings.model)
    if not allowed:
        leakage.check(name)
    if leakage.leaked:
        counts = {"leaked": leakage.leaked, "targets": leakage.targets}
        terminal.print_notice(f"note: {Notice('leakage', {**counts, 'adapter': name})}")
    elif leakage.unknown:
        terminal.print_notice(f"note: {Notice('adapter_data_unknown', {'adapter': name})}")
    return leakage


def _choose_protocol(protocol: str | None, at: str | None, order: "OrderChoice") -> str:
    """The protocol, which must fit the order of the interactions.

    Raises:
        InputError: there is no such protocol, it does not fit, or the split time is missing or not used.
    """
    if protocol is not None and protocol not in (every := list(dict.fromkeys(chain(*_PROTOCOLS.values())))):
        raise InputError(f"--protocol is {protocol!r}; choose one of {', '.join(every)}")
    fitting = _PROTOCOLS.get(order, _PROTOCOLS["time"])
    protocol = fitting[0] if protocol is None else protocol
    if protocol not in fitting:
        raise InputError(f"--protocol {protocol} does not fit --order {order}; choose from {', '.join(fitting)}")
    if (at is None) == (protocol == "by-time"):
        raise InputError("--at DATE and --protocol by-time must be given together")
    return protocol


def _build_experiment(
    data_source: loading.DataSource, protocol: str, at: str | None, users: int
) -> "tuple[Experiment, Interactions]":
    """The experiment, and all interactions."""
    from genrec.cache import default_cache
    from genrec.evaluation.history_order import check_order
    from genrec.evaluation.protocols import leave_one_out, next_basket, random_hold_out, temporal_split

    protocols: dict[str, Callable[..., Experiment]] = {
        "leave-one-out": leave_one_out,
        "next-basket": next_basket,
        "by-time": temporal_split,
        "random": random_hold_out,
    }
    catalog, events = data_source.read(default_cache())
    if events is None:
        raise InputError(f"{data_source.name} has no interactions to hold out; add --interactions FILE")
    check_order(catalog, events)
    if missing := len(events) - len(events.restricted_to(catalog)):
        terminal.print_notice(
            f"note: skipped {missing:,} of {len(events):,} interactions, whose items are not in {data_source.name}"
        )
    options = {} if at is None else {"at": _parse_timestamp(at)}
    return protocols[protocol](catalog, events, users=users, seed=_SEED, **options), events


def _parse_timestamp(at: str) -> float | str:
    """Parse a number (seconds, or the sequence number of an interaction); dates stay text."""
    try:
        return float(at)
    except ValueError:
        return at


def _check_ranker_names(settings: "Settings", names: Sequence[str] | None) -> None:
    """Refuse rankers that these settings cannot have, before any work."""
    from genrec.pipeline import LLM_STAGES

    large, smaller = LLM_STAGES
    possible = [] if settings.model is None else [large]
    possible += [] if settings.local_model is None else [smaller]
    possible += [_BLEND] + ([] if settings.encoder is None else ["embedding"]) + [_BASELINE]
    for name in names or ():
        if name not in possible:
            raise InputError(f"--ranker {name!r} is not available; choose from {', '.join(possible)}")


def _selected_rankers(recommender: "Recommender", names: Sequence[str] | None) -> list[str]:
    available = [stage.source for stage in recommender.stages if stage.source != _BY_WORDS]
    if names is None:
        return available
    for name in names:
        if name not in available:
            raise InputError(f"--ranker {name!r} is not available; choose from {', '.join(available)}")
    return [name for name in available if name in names or name == _BASELINE]


def _evaluate_rankers(
    recommender: "Recommender", experiment: "Experiment", names: Sequence[str], k: int, progress: "Progress"
) -> "dict[str, list[EvaluatedCase]]":
    """The evaluated cases of each ranker."""
    from genrec.recommender import Recommender

    results: dict[str, list[EvaluatedCase]] = {}
    count, last_stage = len(experiment.cases), recommender.stages[-1]
    for stage in recommender.stages:
        if stage.source in names:
            alone, cases = Recommender(experiment.catalog, [stage, last_stage]), results.setdefault(stage.source, [])
            for start in range(0, count, _BATCH_SIZE):
                progress(f"Evaluating {stage.source}", start, count)
                cases += experiment.evaluate(alone, k, start=start, stop=start + _BATCH_SIZE)
            progress(f"Evaluating {stage.source}", count, count)
    return results


def _report(
    experiment: "Experiment", results: "dict[str, list[EvaluatedCase]]", metrics: Sequence[str]
) -> dict[str, Any]:
    """Metrics of each ranker, and its difference to popularity."""
    from genrec.evaluation.intervals import difference_interval, randomisation_test
    from genrec.evaluation.metrics import accuracy
    from genrec.evaluation.summary import defect_share_row, summarise, user_groups

    targets, groups = [case.targets for case in experiment.cases], user_groups(experiment)
    values: dict[str, dict[str, FloatArray]] = {}
    rows: list[MetricRow] = []
    for name, evaluated in results.items():
        lists = [[item.item_id for item in case.recommendations.items] for case in evaluated]
        values[name] = accuracy(lists, targets, metrics)
        rows += summarise(name, values[name], groups, seed=_SEED)
        others = sum(item.stage != name for case in evaluated for item in case.recommendations.items)
        rows.append(defect_share_row(name, "fallback", others, sum(map(len, lists)), len(evaluated)))
    differences = []
    for name, metric in ((name, metric) for name in results if name != _BASELINE for metric in metrics):
        ours, theirs = (100 * values[ranker][metric] for ranker in (name, _BASELINE))
        found = difference_interval(ours, theirs, seed=_SEED)
        p = randomisation_test(ours, theirs, seed=_SEED)
        differences.append({"ranker": name, "baseline": _BASELINE, "metric": metric, **asdict(found), "p": p})
    return {"rows": [asdict(row) for row in rows], "differences": differences}


def _print(report: dict[str, Any], metrics: Sequence[str]) -> None:
    from rich.table import Table

    console, table = terminal.stdout_console(), Table("ranker", "metric", "x 100", f"over {_BASELINE}", "p")
    compared = {(row["ranker"], row["metric"]): row for row in report["differences"]}
    means = {(row["ranker"], row["metric"]): row for row in report["rows"] if row["slice"] == "all"}
    names = list(dict.fromkeys(name for name, _ in means))
    for name, metric in ((name, metric) for name in names for metric in metrics):
        other = compared.get((name, metric))
        cells = ["", ""] if other is None else [str(_interval(other)), f"{other['p']:.4f}"]
        table.add_row(name if metric == metrics[0] else "", metric, str(_interval(means[name, metric])), *cells)
    console.print(table)
    for name in names:
        if filled := means[name, "fallback share"]["value"]:
            console.print(f"{filled:.1f} % of the items of {name} come from {_BASELINE}")
    if report["leakage"] is not None and report["leakage"]["leaked"]:
        leaked, targets = report["leakage"]["leaked"], report["leakage"]["targets"]
        console.print(
            f"The adapter may have been trained on {leaked:,} of {targets:,} held-out items ({leaked / targets:.1%}): "
            "the accuracy of the language model is overstated"
        )
    taken = f"{report['protocol']} {_ORDER_WORDS[report['order']]}"
    console.print(f"{report['users']:,} users, {taken}, seen items excluded; 95 % intervals in brackets")


def _interval(found: dict[str, Any]) -> "Interval":
    from genrec.evaluation.intervals import Interval

    return Interval(found["value"], found["low"], found["high"])
