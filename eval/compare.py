"""Compare runs: python -m eval.compare RUN... [--baseline RANKER] [--metric M] [--png FILE] [--html FILE].

RUN is a directory that `python -m eval.rank` wrote. Prints one table of every ranker of every run: a metric with its
95 % interval, the paired difference to the baseline with its interval and the p-value of a paired randomisation test,
milliseconds and tokens per user, and the shares of invalid and of fallback items. --png draws the metric against the
time; --html writes one self-contained page that shows the histories of users and the lists of all rankers side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment
from rich.markup import escape
from rich.table import Table

from eval.config import Config, folder_name
from eval.data import open_experiment
from eval.progress import wide_console
from eval.rank import read_manifest, read_part
from genrec.errors import GenrecError, InputError
from genrec.evaluation import Experiment, Interval, difference_interval, mean_interval, randomisation_test
from genrec.prompting import one_line
from genrec.types import FloatArray

SAMPLE_USERS = 30  # on the page
SEED = 20261122


@dataclass(frozen=True)
class Run:
    """The results of a run.

    Attributes:
        name: name of its directory.
        manifest: contents of `run.json`.
        tables: one table per ranker, with one row per user.
        unfinished: the rankers that have not answered for all users, and have no table.
    """

    name: str
    manifest: dict[str, Any]
    tables: dict[str, pa.Table]
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonRow:
    """One ranker of one run; `difference` and `p` are None for the baseline, and if the data differ from its data."""

    run: str
    ranker: str
    value: Interval
    difference: Interval | None
    p: float | None
    milliseconds: float
    tokens: float
    invalid: float
    fallback: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare runs, print the table, and draw."""
    options = _parse(arguments)
    try:
        runs = _disambiguate_names([read_run(folder) for folder in options.runs], options.runs)
        metric = options.metric or runs[0].manifest["config"]["metrics"][-1]
        lines = compare(runs, metric, options.baseline)
        if options.png:
            _draw(lines, metric, options.png)
        if options.html:
            options.html.write_text(render_html(runs[0], options.data), encoding="utf-8")
        _print(lines, metric)
        for run in runs:
            if run.unfinished:
                print(f"{run.name} is incomplete; not all users have been asked: {', '.join(run.unfinished)}")
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")


def read_run(folder: Path) -> Run:
    """Read the results of a run, without the rankers that have not answered for all users.

    Raises:
        InputError: the directory contains no run, or no ranker is complete.
    """
    manifest = folder / "run.json"
    if not manifest.is_file():
        raise InputError(f"{folder} contains no run.json; pass a directory that python -m eval.rank wrote")
    facts = read_manifest(folder)
    tables = {}
    for name in facts["rankers"]:
        parts = sorted((folder / folder_name(name)).glob("[0-9]*.parquet"))
        if parts and (table := pa.concat_tables([read_part(part) for part in parts])).num_rows == facts["users"]:
            tables[name] = table
    if not tables:
        raise InputError(f"{folder} has no ranker with answers for all {facts['users']:,} users; finish the run")
    return Run(folder.resolve().name, facts, tables, tuple(name for name in facts["rankers"] if name not in tables))


def _disambiguate_names(runs: Sequence[Run], folders: Sequence[Path]) -> list[Run]:
    """Rename runs that share a name to the full paths of their directories."""
    names = [run.name for run in runs]
    return [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for run, folder in zip(runs, folders, strict=True)
    ]


def compare(runs: Sequence[Run], metric: str, baseline: str | None) -> list[ComparisonRow]:
    """Compare every ranker of every run to a baseline of the first run, by default its first ranker.

    Raises:
        InputError: a run did not measure the metric, or the first run has no such baseline.
    """
    name = baseline or next(iter(runs[0].tables))
    if name not in runs[0].tables:
        raise InputError(f"{runs[0].name} has no ranker {name!r}; choose from {', '.join(runs[0].tables)}")
    lines = []
    for run in runs:
        for ranker, table in run.tables.items():
            if metric not in run.manifest["config"]["metrics"]:
                raise InputError(
                    f"{run.name} did not measure {metric!r}; it has {', '.join(run.manifest['config']['metrics'])}"
                )
            base, values = _values(runs[0].tables[name], metric), _values(table, metric)
            other = run.manifest["data"] == runs[0].manifest["data"] and not (run is runs[0] and ranker == name)
            listed = sum(map(len, table["item_ids"].to_pylist()))
            shares = [100 * sum(table[fault].to_pylist()) / max(listed, 1) for fault in ("invalid", "fallback")]
            lines.append(
                ComparisonRow(
                    run.name,
                    ranker,
                    mean_interval(values, seed=SEED),
                    difference_interval(values, base, seed=SEED) if other else None,
                    randomisation_test(values, base, seed=SEED) if other else None,
                    1000 * float(np.mean(table["seconds"].to_numpy())),
                    float(np.mean(table["tokens"].to_numpy())),
                    *shares,
                )
            )
    return lines


def render_html(run: Run, data: Path | None) -> str:
    """Render a run as one HTML page; titles are untrusted and are escaped."""
    facts = run.manifest
    config = Config.model_validate({**facts["config"], "rankers": facts["rankers"]})
    experiment = open_experiment(config, data, facts["users"])
    if experiment.digest != facts["data"]:
        raise InputError(f"the data differ from the data of {run.name}; pass the same data with --data")
    chosen = np.sort(np.random.default_rng(SEED).permutation(facts["users"])[:SAMPLE_USERS])
    users = [_user_view(run, experiment, int(index)) for index in chosen]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(run=run.name, facts=facts, users=users, rankers=list(run.tables))


def _user_view(run: Run, experiment: Experiment, task_index: int) -> dict[str, Any]:
    task, titles = experiment.cases[task_index], experiment.catalog
    targets = {str(item) for item in task.targets}
    lists = []
    for table in run.tables.values():
        row = table.slice(task_index, 1).to_pylist()[0]
        items = zip(row["item_ids"][:10], row["sources"], strict=False)
        lists.append([(_title(titles, item), source, item in targets) for item, source in items])
    history = [_title(titles, item) for item in task.history.item_ids[-12:]]
    return {
        "id": task.history.user_id,
        "history": history,
        "more": max(0, len(task.history.item_ids) - len(history)),
        "targets": [_title(titles, item) for item in sorted(targets)[:8]],
        "lists": lists,
    }


def _title(catalog: Any, item: Any) -> str:
    index = int(catalog.item_ids.positions([item])[0])
    return one_line(catalog.titles[index] if index >= 0 else f"{item} (not in the catalog)")


def _values(table: pa.Table, metric: str) -> FloatArray:
    values: FloatArray = 100 * table[metric].to_numpy()
    return values


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--metric", help="default: the last metric of the first run")
    parser.add_argument("--baseline", metavar="RANKER", help="a ranker of the first run; default: its first")
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory of the data sets, for --html")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the metric against the time")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with sample users of the first run")
    options = parser.parse_args(arguments)
    for name, path in (("--png", options.png), ("--html", options.html)):
        if path and (path.is_dir() or not path.parent.is_dir()):
            parser.error(f"{name} {path} is not writable; pass a file in an existing directory")
    if options.png and options.png.suffix != ".png":
        parser.error(f"--png {options.png} is not a PNG file; use a name that ends in .png")
    return options


def _print(lines: Sequence[ComparisonRow], metric: str) -> None:
    table = Table("run", "ranker", metric, "difference", "p", "ms", "tokens", "invalid %", "fallback %")
    for line in lines:
        table.add_row(
            escape(line.run),
            escape(line.ranker),
            str(line.value),
            "" if line.difference is None else str(line.difference),
            "" if line.p is None else f"{line.p:.4f}",
            f"{line.milliseconds:.1f}",
            f"{line.tokens:.0f}",
            f"{line.invalid:.2f}",
            f"{line.fallback:.2f}",
        )
    wide_console().print(table)


def _draw(lines: Sequence[ComparisonRow], metric: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for line in lines:
        low, high = line.value.value - line.value.low, line.value.high - line.value.value
        axes.errorbar([line.milliseconds], [line.value.value], yerr=[[low], [high]], fmt="o", capsize=3)
        axes.annotate(line.ranker, (line.milliseconds, line.value.value), textcoords="offset points", xytext=(7, 4))
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per user")
    axes.set_ylabel(f"{metric} x 100, with 95 % intervals")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ run }}: recommendations</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a }
section { border-top: 1px solid #ccc; padding: 1rem 0 }
.lists { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.lists h3 { font-size: 1rem; margin: .2rem 0 } ol { margin: 0; padding-left: 1.6rem } .right { background: #d7f2d8 }
small { color: #666 }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #e6e6e6 } .right { background: #22502a }
section { border-color: #444 } small { color: #aaa } }
</style>
<h1>{{ run }}</h1>
<p>{{ users|length }} of {{ facts.users }} users, drawn at random. Relevant items are marked. Items of the history are
{{ facts.seen }}. Data {{ facts.data[:16] }}.</p>
{% for user in users %}<section>
<h2>{{ user.id }}</h2>
<p><b>History</b>{% if user.more %} <small>({{ user.more }} earlier items omitted)</small>{% endif %}:
{{ user.history|join(" · ") }}<br><b>Relevant</b>: {{ user.targets|join(" · ") }}</p>
<div class="lists">{% for ranker in rankers %}{% set items = user.lists[loop.index0] %}<div><h3>{{ ranker }}</h3><ol>
{% for title, source, right in items %}<li{% if right %} class="right"{% endif %}>{{ title }}
<small>{{ source }}</small></li>{% endfor %}</ol></div>{% endfor %}</div></section>
{% endfor %}</html>
"""


if __name__ == "__main__":
    main()
