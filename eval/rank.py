"""Measure the rankers of a config: python -m eval.rank CONFIG [--data DIR] [--users N] [--json FILE].

CONFIG is a name in eval/configs (games, games_full, beauty, retail and others) or a .toml file. Lists come from
`Recommender.recommend`, except those of `unconstrained`. Answers are stored in the run's directory as Parquet, one row
per user: a stopped run resumes, and the same command started twice shares the work. A directory of another
configuration is an error. --json writes a summary: for each ranker, slice and metric the mean over users with its 95 %
bootstrap interval, and the paired difference to the config's `baseline`, if it has one.
"""

import argparse
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from eval.config import Config, folder_name, read_config
from eval.data import open_data, open_experiment
from eval.progress import show_progress, wide_console
from eval.rankers import ConfiguredRankers
from eval.speed.report import commit, machine
from eval.summary_rows import beyond_accuracy_rows, difference_rows, metric_rows, title_vectors
from genrec import read_template
from genrec.artifact import atomic_writer, write_json
from genrec.backends import inspect_adapter
from genrec.cache import default_cache
from genrec.datasets import find_adapter
from genrec.errors import GenrecError, InputError, MismatchError, ModelMissingError
from genrec.evaluation import EvaluatedCase, Experiment, MetricRow, accuracy, find_leakage, user_groups
from genrec.settings import LANGUAGE_MODEL

FORMAT = 3  # of the stored rows
CHUNK, LLM_CHUNK = 100, 10  # users per stored part, and per part of a ranker that uses a language model
SLOW_KINDS = ("generative", "unconstrained")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a config and print its table."""
    options = _parse(arguments)
    try:
        summary = measure(
            read_config(options.config),
            options.out or Path("runs") / Path(options.config).stem,
            data=options.data,
            users=options.users,
            chosen=options.rankers,
            allow_leakage=options.allow_leakage,
        )
        if options.json:
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        _print(summary)
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command to resume")


def measure(
    config: Config,
    folder: Path,
    *,
    data: Path | None,
    users: int | None,
    chosen: Sequence[str] | None = None,
    digest: str = "",
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Collect the missing answers of a run, then summarise all answers.

    Args:
        config: the configuration.
        folder: directory of the run.
        data: directory of the data sets that are not embedded.
        users: number of users; overrides the config.
        chosen: names of the rankers to measure; None for all.
        digest: expected beginning of the digest of the data.
        allow_leakage: measure adapters that may have been trained on held-out items; the summary says so.

    Raises:
        InputError: the config, the data or a name is invalid; or an adapter may have been trained on held-out items.
        MismatchError: the directory contains another run; the message names the difference.
    """
    experiment = open_experiment(config, data, users)
    if not experiment.digest.startswith(digest):
        raise MismatchError(f"the data are {experiment.digest[:16]}, not {digest}; use the data of the table")
    rankers = ConfiguredRankers(config, experiment, default_cache())
    names = list(config.rankers) if chosen is None else list(chosen)
    if missing := [name for name in names if name not in config.rankers]:
        raise InputError(f"there is no ranker {missing[0]!r}; choose from {', '.join(config.rankers)}")
    leakage = _find_leakage(config, experiment, data, names, allow_leakage)
    facts = _run_manifest(config, experiment, names)
    _open_run(folder, facts)
    rows: list[MetricRow] = []
    # All answers are collected first, because a summary can be computed again.
    tables = {name: _collect_answers(name, rankers, experiment, facts, config, folder) for name in names}
    groups, vectors = user_groups(experiment), title_vectors(experiment)
    for name, table in tables.items():
        rows += metric_rows(name, table, groups, config)
        if config.baseline in tables and config.baseline != name:
            rows += difference_rows(name, table, tables[config.baseline], config)
        rows += beyond_accuracy_rows(name, table, groups, experiment, config, vectors)
    commits = {name: sorted(set(table["commit"].to_pylist())) for name, table in tables.items()}
    return {
        **facts,
        "baseline": config.baseline,
        "commits": commits,
        "machine": machine(),
        "leakage": leakage,
        "rows": [asdict(row) for row in rows],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.rank", description=__doc__)
    parser.add_argument("config", help="a name in eval/configs, or a .toml file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory that contains games and beauty")
    parser.add_argument("--users", type=int, metavar="N", help="number of users")
    parser.add_argument("--rankers", nargs="+", metavar="NAME", help="measure only these rankers")
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory of the run; default: runs/CONFIG")
    parser.add_argument("--allow-leakage", action="store_true", help="measure adapters trained on held-out items")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary to this file")
    options = parser.parse_args(arguments)
    if options.users is not None and options.users < 1:
        parser.error(f"--users is {options.users}; give at least 1")
    if options.json and (options.json.is_dir() or not os.access(options.json.parent, os.W_OK)):
        parser.error(f"--json {options.json} is not writable; pass another file")
    return options


def _find_leakage(
    config: Config, experiment: Experiment, data: Path | None, names: Sequence[str], allowed: bool
) -> dict[str, Any]:
    """By ranker, the held-out items that its adapter may have been trained on."""
    found: dict[str, Any] = {}
    for name, adapter in ((name, config.rankers[name].adapter) for name in names):
        if adapter is not None:
            provenance = inspect_adapter(find_adapter(adapter), base=LANGUAGE_MODEL).provenance
            leakage = find_leakage(experiment, open_data(config, data)[1], provenance)
            if not allowed:
                leakage.check(adapter)
            if leakage.leaked or leakage.unknown:
                print(f"note: {name}: {leakage}", file=sys.stderr)
            found[name] = asdict(leakage)
    return found


def _run_manifest(config: Config, experiment: Experiment, chosen: Sequence[str]) -> dict[str, Any]:
    """The identity of a run; rankers can be added later, and are compared one by one."""
    settings = config.model_dump(mode="json")
    rankers = settings.pop("rankers")
    del settings["baseline"]  # does not change answers
    for name, own in list(rankers.items()):
        folder = own.pop("adapter")
        if folder is None:
            continue
        try:  # identified by its weights, because a directory can be retrained under the same name
            own["adapter"] = inspect_adapter(find_adapter(folder), base=LANGUAGE_MODEL).name
        except ModelMissingError:
            if name in chosen:
                raise
            del rankers[name]  # not measured yet
    return {
        "format": FORMAT,
        "config": settings,
        "rankers": rankers,
        "template": read_template(config.template).fingerprint,
        "users": len(experiment.cases),
        "seen": experiment.seen,
        "data": experiment.digest,
        "commit": commit(),  # read once, because another commit can be checked out during a run
    }


def _open_run(folder: Path, facts: dict[str, Any]) -> None:
    """Create the directory of a run, or open one of the same configuration.

    Raises:
        MismatchError: the directory belongs to another run.
    """
    manifest = folder / "run.json"
    if not manifest.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise MismatchError(f"{folder} is not empty, but contains no run.json; pass another directory with --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, facts)
        return
    kept = read_manifest(folder)
    for name, mine, theirs in _differences(facts, kept):
        raise MismatchError(
            f"{folder} contains a run whose {name} is {theirs!r:.80}, not {mine!r:.80}; pass another directory "
            "with --out, or remove it"
        )
    kept["rankers"].update(facts["rankers"])
    write_json(manifest, kept)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run.

    Raises:
        InputError: it is damaged.
    """
    try:
        kept = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {**kept, "config": dict(kept["config"]), "rankers": dict(kept["rankers"]), "users": int(kept["users"])}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder / 'run.json'} is damaged: {error}; remove {folder}, and measure again") from error


def read_part(path: Path, rows: int | None = None) -> pa.Table:
    """Read one part of the answers of a ranker.

    Raises:
        InputError: the file is damaged, or has another number of rows than expected.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {error}; remove it, and run again to replace it") from error
    if rows is not None and table.num_rows != rows:
        raise InputError(f"{path} has {table.num_rows} rows, not {rows}; remove it, and run again to replace it")
    return table


def _differences(manifest: dict[str, Any], saved: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in manifest["config"].items():
        if value != saved["config"].get(name):
            yield name, value, saved["config"].get(name)
    for name in ("format", "template", "users", "seen", "data"):
        if manifest[name] != saved.get(name):
            yield name, manifest[name], saved.get(name)
    for name, value in manifest["rankers"].items():
        if value != saved["rankers"].get(name, value):
            yield f"ranker {name!r}", value, saved["rankers"][name]


def _collect_answers(
    name: str,
    rankers: ConfiguredRankers,
    experiment: Experiment,
    facts: Mapping[str, Any],
    config: Config,
    folder: Path,
) -> pa.Table:
    """All rows of a ranker; collects those that are missing.

    Raises:
        InputError: a part is damaged.
        MismatchError: a part belongs to another run or another ranker.
    """
    own = folder / folder_name(name)
    own.mkdir(exist_ok=True)
    count = len(experiment.cases)
    size = LLM_CHUNK if config.rankers[name].kind in SLOW_KINDS else CHUNK
    parts = {start: own / f"{start:08}.parquet" for start in range(0, count, size)}
    asked_for = {key: facts[key] for key in ("format", "config", "template", "seen", "data")}
    run = sha256(json.dumps([asked_for, name, facts["rankers"][name]], sort_keys=True).encode()).hexdigest()
    todo = [start for start, path in parts.items() if not path.is_file()]
    if todo:
        first = secrets.randbelow(len(todo))  # several processes of one run begin at different parts
        alone, source = rankers.recommender_for(name)
        try:
            for start in show_progress([*todo[first:], *todo[:first]], name, len(todo)):
                if parts[start].is_file():  # another process wrote it in the meantime
                    continue
                asked = list(experiment.evaluate(alone, config.k, start=start, stop=start + size))
                table = _answer_table(asked, start, source, experiment, config)
                table = table.append_column("run", [[run] * len(asked)])
                table = table.append_column("commit", [[facts["commit"]] * len(asked)])
                with atomic_writer(parts[start]) as file:
                    pq.write_table(table, file)
        finally:
            rankers.save_priors()
    tables = {path: read_part(path, min(size, count - start)) for start, path in parts.items()}
    for path, table in tables.items():
        if set(table["run"].to_pylist()) != {run}:
            raise MismatchError(f"{path} belongs to another run; remove it, and run again to replace it")
    return pa.concat_tables(list(tables.values()))


def _answer_table(
    recommender: Sequence[EvaluatedCase], start: int, source: str, experiment: Experiment, config: Config
) -> pa.Table:
    """One row per user: the list, its faults, and every metric."""
    lists = [[item.item_id for item in one.recommendations.items] for one in recommender]
    known = set(experiment.catalog.item_ids)
    allowed = [known if one.case.candidates is None else set(one.case.candidates) for one in recommender]
    had = [set(one.case.history.item_ids) for one in recommender]
    metrics = accuracy(lists, [one.case.targets for one in recommender], config.metrics)
    return pa.table(
        {
            "task": pa.array(range(start, start + len(recommender)), pa.int64()),
            "user_id": [str(one.case.history.user_id) for one in recommender],
            "item_ids": pa.array([[str(item) for item in own] for own in lists], pa.list_(pa.string())),
            "scores": pa.array(
                [[item.score for item in one.recommendations.items] for one in recommender], pa.list_(pa.float64())
            ),
            "sources": pa.array(
                [[item.source for item in one.recommendations.items] for one in recommender], pa.list_(pa.string())
            ),
            "targets": pa.array([sorted(map(str, one.case.targets)) for one in recommender], pa.list_(pa.string())),
            "invalid": [sum(item not in own for item in items) for items, own in zip(lists, allowed, strict=True)],
            "repeated": [len(items) - len(set(items)) for items in lists],
            "seen": [sum(item in own for item in items) for items, own in zip(lists, had, strict=True)],
            "fallback": [sum(item.stage != source for item in one.recommendations.items) for one in recommender],
            "seconds": [one.recommendations.seconds for one in recommender],
            "tokens": [one.recommendations.tokens for one in recommender],
            **{metric: pa.array(values, pa.float64()) for metric, values in metrics.items()},
        }
    )


def _print(summary: dict[str, Any]) -> None:
    rows = [MetricRow(**row) for row in summary["rows"] if row["slice"] == "all"]
    over = f" over {summary['baseline']}"
    gains = list(dict.fromkeys(row.metric for row in rows if row.metric.endswith(over)))
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if metric not in gains]
    first = metrics.index("invalid share")
    console = wide_console()
    for shown in (metrics[:first], gains, metrics[first:]):
        selected = [row for row in rows if row.metric in shown]
        table = Table("ranker", *shown)
        for name in dict.fromkeys(row.ranker for row in selected):
            table.add_row(escape(name), *(str(row.interval) for row in selected if row.ranker == name))
        if selected:
            console.print(table)
    console.print(f"{summary['users']} users, history items {summary['seen']}, data {summary['data'][:16]}")


if __name__ == "__main__":
    main()
