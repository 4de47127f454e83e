"""`genrec evaluate`: how well each ranker finds what people did next, on your own files."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.evaluation.metrics import Interval
    from genrec.evaluation.protocols import Asked, Experiment, Row
    from genrec.recommender import Recommender
    from genrec.types import FloatArray

_TOGETHER = 64  # people asked between two steps of the progress bar
_SEED = 0  # of who is drawn, and of intervals
_FLOOR = "popularity"

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
    evidence: options.Evidence = None,
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
    from genrec.evaluation.metrics import accuracy, cutoff
    from genrec.loading import open_recommender

    if users < 1:
        raise InputError(f"--users is {users}; ask about 1 person or more")
    metrics = metric or [f"ndcg@{k}", f"recall@{k}"]
    accuracy([], [], metrics)  # refuses them before hours are spent, and says what is not installed
    if deep := [one for one in metrics if cutoff(one) > k]:
        raise InputError(f"--metric {deep[0]} looks at more places than a list has; set --k {cutoff(deep[0])}")
    chosen = loading.settings(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "template": template,
            "strategy": strategy,
            "score": score,
            "prior": prior,
            "evidence": evidence,
            "candidates": candidates,
            "background": background,
            "batch_size": batch_size,
        }
    )
    named = loading.Source.of(data, items, interactions, columns)
    with loading.in_options(), terminal.progress() as progress:
        progress.say(f"reading {named.name}")
        experiment = _experiment(named, protocol, at, users)
        opened = open_recommender(
            experiment.catalog, experiment.train, cache=default_cache(), settings=chosen, on_progress=progress
        )
        for notice in opened.notices:
            terminal.say(f"note: {notice}")
        asked = _ask(opened, experiment, _chosen(opened, ranker), k, progress)
        loading.keep(opened)
    report = _report(experiment, asked, metrics)
    report |= {"data": experiment.digest, "protocol": protocol, "users": len(experiment.tasks), "k": k, "seed": _SEED}
    if as_json:
        terminal.write_json(report)
    else:
        _print(report, metrics)


def _experiment(named: loading.Source, protocol: str, at: str | None, users: int) -> "Experiment":
    from genrec.cache import default_cache
    from genrec.evaluation.protocols import by_time, check_order, leave_one_out, next_basket

    protocols: dict[str, Callable[..., Experiment]] = {
        "leave-one-out": leave_one_out,
        "next-basket": next_basket,
        "by-time": by_time,
    }
    if protocol not in protocols:
        raise InputError(f"--protocol is {protocol!r}; choose one of {', '.join(protocols)}")
    if (at is None) == (protocol == "by-time"):
        raise InputError("--at DATE and --protocol by-time need each other")
    catalog, events = named.read(default_cache())
    if events is None:
        raise InputError(f"{named.name} has no events to be held back; add --interactions FILE")
    check_order(catalog, events)
    if missing := len(events) - len(events.known_to(catalog)):
        terminal.say(f"note: {missing:,} of {len(events):,} events are of items that {named.name} lacks, and left out")
    options = {} if at is None else {"at": _instant(at)}
    return protocols[protocol](catalog, events, users=users, seed=_SEED, **options)


def _instant(at: str) -> float | str:
    """Seconds, or the order number that the log has, where it is a number."""
    try:
        return float(at)
    except ValueError:
        return at


def _chosen(opened: "Recommender", names: Sequence[str] | None) -> list[str]:
    there = [step.source for step in opened.ladder]
    if names is None:
        return there
    for name in names:
        if name not in there:
            raise InputError(f"--ranker {name!r} is no step of the ladder; choose from {', '.join(there)}")
    return [name for name in there if name in names or name == _FLOOR]


def _ask(
    opened: "Recommender", experiment: "Experiment", names: Sequence[str], k: int, progress: "Progress"
) -> "dict[str, list[Asked]]":
    """Everybody's answers, by step of the ladder."""
    from genrec.recommender import Recommender

    asked: dict[str, list[Asked]] = {}
    count, floor = len(experiment.tasks), opened.ladder[-1]
    for step in opened.ladder:
        if step.source in names:
            alone, own = Recommender(experiment.catalog, [step, floor]), asked.setdefault(step.source, [])
            for start in range(0, count, _TOGETHER):
                progress(step.source, start, count)
                own += experiment.ask(alone, k, start=start, stop=start + _TOGETHER)
            progress(step.source, count, count)
    return asked


def _report(experiment: "Experiment", asked: "dict[str, list[Asked]]", metrics: Sequence[str]) -> dict[str, Any]:
    """Rows of figures, and each ranker's difference to popularity."""
    from genrec.evaluation.metrics import accuracy, difference_interval, randomisation_test
    from genrec.evaluation.protocols import groups_of, share_row, summarise

    targets, groups = [task.targets for task in experiment.tasks], groups_of(experiment)
    values: dict[str, dict[str, FloatArray]] = {}
    rows: list[Row] = []
    for name, own in asked.items():
        lists = [[item.item_id for item in one.answer.items] for one in own]
        values[name] = accuracy(lists, targets, metrics)
        rows += summarise(name, values[name], groups, seed=_SEED)
        others = sum(item.step != name for one in own for item in one.answer.items)
        rows.append(share_row(name, "fallback", others, sum(map(len, lists)), len(own)))
    differences = []
    for name, metric in ((name, metric) for name in asked if name != _FLOOR for metric in metrics):
        ours, theirs = (100 * values[one][metric] for one in (name, _FLOOR))
        found = difference_interval(ours, theirs, seed=_SEED)
        p = randomisation_test(ours, theirs, seed=_SEED)
        differences.append({"ranker": name, "baseline": _FLOOR, "metric": metric, **asdict(found), "p": p})
    return {"rows": [asdict(row) for row in rows], "differences": differences}


def _print(report: dict[str, Any], metrics: Sequence[str]) -> None:
    from rich.table import Table

    console, table = terminal.out(), Table("ranker", "metric", "x 100", f"over {_FLOOR}", "p")
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
            console.print(f"{name} left {filled:.1f} % of the places to {_FLOOR}")
    console.print(
        f"{report['users']:,} people, {report['protocol']}, items they have left out; in brackets 95 % intervals"
    )


def _interval(found: dict[str, Any]) -> "Interval":
    from genrec.evaluation.metrics import Interval

    return Interval(found["value"], found["low"], found["high"])
