"""`genrec evaluate`: how well each ranker finds what people did next, on your own files."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.evaluation.experiment import EvaluatedCase, Experiment
    from genrec.evaluation.intervals import Interval
    from genrec.evaluation.summary import MetricRow
    from genrec.recommender import Recommender
    from genrec.types import FloatArray

_BATCH_SIZE = 64  # people asked between two steps of the progress bar
_SEED = 0  # of who is drawn, and of intervals
_BASELINE = "popularity"

Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="CHOICE",
        help="What is held back and has to be found: the last item of every history (leave-one-out), the new items of "
        "the last basket (next-basket), or all that is new from --at on (by-time).",
    ),
]
At = Annotated[
    str | None, typer.Option("--at", metavar="DATE", help="Where by-time cuts: a date such as 2011-10-01, or a number.")
]
Users = Annotated[int, typer.Option("--users", metavar="N", help="Ask about so many people, drawn at random.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="hit@k, mrr@k, ndcg@k, precision@k or recall@k. Repeat it.",
        show_default="ndcg@k and recall@k",
    ),
]
Rankers = Annotated[
    list[str] | None,
    typer.Option("--ranker", metavar="NAME", help="Only this step of the ladder, and popularity. Repeat it."),
]


def evaluate(
    protocol: Protocol = "leave-one-out",
    at: At = None,
    users: Users = 1000,
    k: options.K = 10,
    metric: Metrics = None,
    ranker: Rankers = None,
    data: options.Data = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    columns: options.Columns = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    encoder: options.Encoder = None,
    template: options.Template = None,
    strategy: options.Strategy = None,
    score: options.Score = None,
    prior: options.Prior = None,
    fusion_weight: options.FusionWeight = None,
    candidates: options.Candidates = None,
    background: options.Background = None,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
) -> None:
    """Hold back what people did last, recommend without it, and count how often it is found.

    Each step of the ladder is asked alone; what it cannot rank is filled up by popularity, and that share is said.
    Items that a person has are not recommended. The difference to popularity is of the same people, with its p-value.
    """
    from genrec.cache import default_cache
    from genrec.evaluation.metrics import accuracy, metric_cutoff
    from genrec.loading import open_recommender

    if users < 1:
        raise InputError(f"--users is {users}; ask about 1 person or more")
    metrics = metric or [f"ndcg@{k}", f"recall@{k}"]
    accuracy([], [], metrics)  # refuses them before hours are spent, and says what is not installed
    if deep := [one for one in metrics if metric_cutoff(one) > k]:
        raise InputError(f"--metric {deep[0]} looks at more places than a list has; set --k {metric_cutoff(deep[0])}")
    chosen = loading.settings_from_options(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "template": template,
            "strategy": strategy,
            "score": score,
            "prior": prior,
            "fusion_weight": fusion_weight,
            "candidates": candidates,
            "background": background,
            "batch_size": batch_size,
        }
    )
    named = loading.DataSource.from_options(data, items, interactions, columns)
    with loading.translate_option_errors(), terminal.progress() as progress:
        progress.start(f"reading {named.name}")
        experiment = _build_experiment(named, protocol, at, users)
        opened = open_recommender(
            experiment.catalog, experiment.train, cache=default_cache(), settings=chosen, on_progress=progress
        )
        for notice in opened.notices:
            terminal.print_notice(f"note: {notice}")
        asked = _evaluate_rankers(opened, experiment, _selected_rankers(opened, ranker), k, progress)
        loading.save_priors(opened)
    report = _report(experiment, asked, metrics)
    report |= {"data": experiment.digest, "protocol": protocol, "users": len(experiment.cases), "k": k, "seed": _SEED}
    if as_json:
        terminal.write_json(report)
    else:
        _print(report, metrics)


def _build_experiment(data_source: loading.DataSource, protocol: str, at: str | None, users: int) -> "Experiment":
    from genrec.cache import default_cache
    from genrec.evaluation.history_order import check_order
    from genrec.evaluation.protocols import leave_one_out, next_basket, temporal_split

    protocols: dict[str, Callable[..., Experiment]] = {
        "leave-one-out": leave_one_out,
        "next-basket": next_basket,
        "by-time": temporal_split,
    }
    if protocol not in protocols:
        raise InputError(f"--protocol is {protocol!r}; choose one of {', '.join(protocols)}")
    if (at is None) == (protocol == "by-time"):
        raise InputError("--at DATE and --protocol by-time need each other")
    catalog, events = data_source.read(default_cache())
    if events is None:
        raise InputError(f"{data_source.name} has no events to be held back; add --interactions FILE")
    check_order(catalog, events)
    if missing := len(events) - len(events.restricted_to(catalog)):
        terminal.print_notice(
            f"note: {missing:,} of {len(events):,} events are of items that {data_source.name} lacks, and left out"
        )
    options = {} if at is None else {"at": _parse_timestamp(at)}
    return protocols[protocol](catalog, events, users=users, seed=_SEED, **options)


def _parse_timestamp(at: str) -> float | str:
    """Seconds, or the order number that the log has, where it is a number."""
    try:
        return float(at)
    except ValueError:
        return at


def _selected_rankers(recommender: "Recommender", names: Sequence[str] | None) -> list[str]:
    there = [step.source for step in recommender.stages]
    if names is None:
        return there
    for name in names:
        if name not in there:
            raise InputError(f"--ranker {name!r} is no step of the ladder; choose from {', '.join(there)}")
    return [name for name in there if name in names or name == _BASELINE]


def _evaluate_rankers(
    recommender: "Recommender", experiment: "Experiment", names: Sequence[str], k: int, progress: "Progress"
) -> "dict[str, list[EvaluatedCase]]":
    """Everybody's answers, by step of the ladder."""
    from genrec.recommender import Recommender

    asked: dict[str, list[EvaluatedCase]] = {}
    count, floor = len(experiment.cases), recommender.stages[-1]
    for step in recommender.stages:
        if step.source in names:
            alone, own = Recommender(experiment.catalog, [step, floor]), asked.setdefault(step.source, [])
            for start in range(0, count, _BATCH_SIZE):
                progress(step.source, start, count)
                own += experiment.evaluate(alone, k, start=start, stop=start + _BATCH_SIZE)
            progress(step.source, count, count)
    return asked


def _report(
    experiment: "Experiment", results: "dict[str, list[EvaluatedCase]]", metrics: Sequence[str]
) -> dict[str, Any]:
    """Rows of figures, and each ranker's difference to popularity."""
    from genrec.evaluation.intervals import difference_interval, randomisation_test
    from genrec.evaluation.metrics import accuracy
    from genrec.evaluation.summary import defect_share_row, summarise, user_groups

    targets, groups = [task.targets for task in experiment.cases], user_groups(experiment)
    values: dict[str, dict[str, FloatArray]] = {}
    rows: list[MetricRow] = []
    for name, own in results.items():
        lists = [[item.item_id for item in one.recommendations.items] for one in own]
        values[name] = accuracy(lists, targets, metrics)
        rows += summarise(name, values[name], groups, seed=_SEED)
        others = sum(item.stage != name for one in own for item in one.recommendations.items)
        rows.append(defect_share_row(name, "fallback", others, sum(map(len, lists)), len(own)))
    differences = []
    for name, metric in ((name, metric) for name in results if name != _BASELINE for metric in metrics):
        ours, theirs = (100 * values[one][metric] for one in (name, _BASELINE))
        found = difference_interval(ours, theirs, seed=_SEED)
        p = randomisation_test(ours, theirs, seed=_SEED)
        differences.append({"ranker": name, "baseline": _BASELINE, "metric": metric, **asdict(found), "p": p})
    return {"rows": [asdict(row) for row in rows], "differences": differences}


def _print(report: dict[str, Any], metrics: Sequence[str]) -> None:
    from rich.table import Table

    console, table = terminal.stdout_console(), Table("ranker", "metric", "x 100", f"over {_BASELINE}", "p")
    compared = {(one["ranker"], one["metric"]): one for one in report["differences"]}
    own = {(row["ranker"], row["metric"]): row for row in report["rows"] if row["slice"] == "all"}
    names = list(dict.fromkeys(name for name, _ in own))
    for name, metric in ((name, metric) for name in names for metric in metrics):
        other = compared.get((name, metric))
        cells = ["", ""] if other is None else [str(_interval(other)), f"{other['p']:.4f}"]
        table.add_row(name if metric == metrics[0] else "", metric, str(_interval(own[name, metric])), *cells)
    console.print(table)
    for name in names:
        if filled := own[name, "fallback share"]["value"]:
            console.print(f"{name} left {filled:.1f} % of the places to {_BASELINE}")
    console.print(
        f"{report['users']:,} people, {report['protocol']}, items they have left out; in brackets 95 % intervals"
    )


def _interval(found: dict[str, Any]) -> "Interval":
    from genrec.evaluation.intervals import Interval

    return Interval(found["value"], found["low"], found["high"])
