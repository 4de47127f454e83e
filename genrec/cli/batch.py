"""`genrec batch`: lists for as many people as a file holds, and every one of them there in the morning."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import option, source, terminal
from genrec.errors import InputError, MismatchError

if TYPE_CHECKING:
    from genrec.batch import Answer, BatchRun, Status
    from genrec.batch_lists import ListAnswerer
    from genrec.cli.terminal import Progress
    from genrec.recommender import Recommender

_FAILED = 3  # the exit code of a run that is finished and has failed rows
_TERMINATED = 143
_PART_ROWS = {"generative": 128}  # what a kill may cost: two minutes of a small model
_MANY_ROWS = 4096  # and of rankers that answer a thousand rows a second
_LIMITS = ("on_unknown", "explain", "filter_seen", "only", "exclude", "where")
_DATA = ("data", "items", "interactions", "columns")
_MODELS = (
    *("model", "adapter", "encoder", "template", "cold_template", "strategy", "score", "prior", "evidence"),
    *("candidates", "width", "background", "batch_size"),
)
_LOOK = 0.5  # seconds between two looks at what workers did
_SAMPLE = 50  # rows that a plan is made from

group = typer.Typer(help="Lists for every row of a file, in a run that survives whatever happens.")

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="CSV, TSV, JSON Lines or Parquet, a file or a folder: user_id, or history (ids, oldest first) and words.",
    ),
]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The run's folder.")]
K = Annotated[int, typer.Option("--k", "-k", help="List length.")]
RankerName = Annotated[
    str, typer.Option("--ranker", metavar="CHOICE", help="Who answers: generative, blend, embedding or popularity.")
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes that share the run.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster, whose machines share OUTPUT: auto, local, or ray://... (needs the extra ray).",
    ),
]
PartRows = Annotated[
    int | None,
    typer.Option("--part-rows", min=1, help="Rows of a part: what a kill may cost.", show_default="128 or 4096"),
]
OnUnknown = Annotated[
    str,
    typer.Option(
        "--on-unknown",
        metavar="CHOICE",
        help="Users and history items nobody knows: a failed row (raise), left out (skip), or somebody new (fallback).",
    ),
]
Explain = Annotated[bool, typer.Option("--explain/--no-explain", help="Say why each item is there.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing; stop where a model is missing.")]


@group.command()
def run(
    rows: Input,
    output: Output,
    k: K = 10,
    ranker: RankerName = "generative",
    workers: Workers = 1,
    ray: Ray = None,
    part_rows: PartRows = None,
    on_unknown: OnUnknown = "raise",
    explain: Explain = False,
    filter_seen: option.FilterSeen = True,
    only: option.Only = None,
    exclude: option.Exclude = None,
    where: option.Where = None,
    data: option.Data = None,
    items: option.Items = None,
    interactions: option.Interactions = None,
    columns: option.Columns = None,
    model: option.Model = None,
    adapter: option.Adapter = None,
    encoder: option.Encoder = None,
    template: option.Template = None,
    cold_template: option.ColdTemplate = None,
    strategy: option.Strategy = None,
    score: option.Score = None,
    prior: option.Prior = None,
    evidence: option.Evidence = None,
    candidates: option.Candidates = None,
    width: option.Width = None,
    background: option.Background = None,
    batch_size: option.BatchSize = None,
    offline: Offline = False,
    as_json: option.Json = False,
) -> None:
    """Begin a run, or go on with the same one; several may work on one folder at once.

    OUTPUT/parts holds user_id, item_id, rank, score and source in the order of the rows, OUTPUT/failed what could not
    be answered and why. The exit code is 3 where rows failed.
    """
    asked: dict[str, Any] = {
        "k": k,
        "ranker": ranker,
        "on_unknown": on_unknown,
        "explain": explain,
        "filter_seen": filter_seen,
        "only": only,
        "exclude": exclude,
        "where": where,
        "data": data,
        "items": _absolute(items),
        "interactions": _absolute(interactions),
        "columns": columns,
        "model": model,
        "adapter": _absolute(adapter),
        "encoder": encoder,
        "template": template,
        "cold_template": cold_template,
        "strategy": strategy,
        "score": score,
        "prior": prior,
        "evidence": evidence,
        "candidates": candidates,
        "width": width,
        "background": background,
        "batch_size": batch_size,
    }
    _work(*_begin(rows, output, asked, part_rows, offline), workers, ray, as_json)


@group.command()
def resume(
    output: Output,
    workers: Workers = 1,
    ray: Ray = None,
    as_json: option.Json = False,
) -> None:
    """Go on with a run, as it was begun; what is damaged is made again."""
    from genrec.batch import BatchRun

    found = BatchRun.open(output)
    found.check_source()
    found.quarantine()
    if found.status().finished:
        _tell(found, as_json)
        return
    _work(*_begin(found.source, output, _asked_of(found), found.facts["part_rows"], True), workers, ray, as_json)


@group.command()
def status(output: Output, as_json: option.Json = False) -> None:
    """Say how far a run is."""
    from genrec.batch import BatchRun

    _print(BatchRun.open(output).status(), as_json)


@group.command()
def verify(output: Output, as_json: option.Json = False) -> None:
    """Read everything again: is every row there once, and every part as it was written?"""
    from genrec.batch import BatchRun

    found = BatchRun.open(output)
    found.check_source()
    wrong = found.verify()
    if as_json:
        terminal.write_json({"wrong": wrong, **asdict(found.status())})
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise MismatchError(f"{wrong[0]}{more}; genrec batch resume {output} makes what is missing")
    if not as_json:
        done = found.status()
        answered = done.rows - done.failed
        terminal.out().print(f"each of {done.rows:,} rows is there once: {answered:,} answered, {done.failed:,} failed")


@group.command("retry-failed")
def retry_failed(output: Output, as_json: option.Json = False) -> None:
    """Ask again about the rows that failed, and no others."""
    from genrec.batch import BatchRun

    found = BatchRun.open(output)
    found.check_source()
    if found.status().failed:
        again, answer = _begin(found.source, output, _asked_of(found), found.facts["part_rows"], True)
        again.retry_failed(answer)
    _tell(found, as_json)


@group.command()
def plan(
    rows: Input,
    k: K = 10,
    ranker: RankerName = "generative",
    data: option.Data = None,
    items: option.Items = None,
    interactions: option.Interactions = None,
    columns: option.Columns = None,
    model: option.Model = None,
    adapter: option.Adapter = None,
    offline: Offline = False,
    as_json: option.Json = False,
) -> None:
    """Ask about 50 of the rows, and say what all of them would take."""
    import numpy as np

    from genrec.rows import read_block, survey

    asked: dict[str, Any] = {
        "k": k,
        "ranker": ranker,
        "data": data,
        "items": items,
        "interactions": interactions,
        "columns": columns,
        "model": model,
        "adapter": adapter,
    }
    found = survey(rows, _SAMPLE)
    answer, _ = _open(asked, offline)
    places = np.random.default_rng(0).permutation(len(found.blocks))[:_SAMPLE]
    sample = [read_block(rows, found, found.blocks[place])[0] for place in sorted(places.tolist())]
    schema = answer.schema(sample[0])
    answer(sample[:1], schema)  # what is only slow the first time
    began = time.perf_counter()
    answers = answer(sample, schema)
    seconds = (time.perf_counter() - began) / len(sample)
    told = {
        "rows": found.rows,
        "sampled": len(sample),
        "failed": len(answers.failures),
        "tokens": round(answers.tokens / len(sample) * found.rows),
        "hours": seconds * found.rows / 3600,
        "output_bytes": round(answers.table.nbytes / len(sample) * found.rows),
        "memory_bytes": _memory(),
    }
    if as_json:
        terminal.write_json(told)
        return
    terminal.out().print(
        f"{told['rows']:,} rows, of which {told['sampled']} were asked ({told['failed']} failed): {told['tokens']:,} "
        f"tokens and {told['hours']:.2f} hours with one worker here, {told['memory_bytes'] / 1e9:.1f} GB of memory, at "
        f"most {told['output_bytes'] / 1e9:.2f} GB of output"
    )


def _begin(
    rows: Path, output: Path, asked: dict[str, Any], part_rows: int | None, offline: bool
) -> "tuple[BatchRun, Answer]":
    """The run in a folder, begun or gone on with, and what answers its rows."""
    from genrec.batch import begin

    answer, facts = _open(asked, offline)
    size = part_rows or _PART_ROWS.get(asked["ranker"], _MANY_ROWS)
    with source.in_options():
        return begin(rows, output, {**asked, **facts}, answer.schema, part_rows=size), answer


def _open(asked: Mapping[str, Any], offline: bool) -> "tuple[ListAnswerer, dict[str, Any]]":
    """What answers rows, and hashes of all that decides its answers."""
    from genrec.assembly import default_cache
    from genrec.batch_lists import ListAnswerer
    from genrec.recommender import Options, Recommender

    models = {name: asked[name] for name in _MODELS if asked.get(name) is not None}
    if asked["ranker"] != "generative":
        models["model"] = "none"
    if asked["ranker"] == "popularity":
        models["encoder"] = "none"
    chosen, cache, named = source.settings(models), default_cache(), _named(asked)
    if not offline:
        _fetch([name for name in (chosen.model, chosen.encoder) if name is not None], cache)
    opened = source.load(named, chosen, cache, need_model=asked["ranker"] == "generative")
    steps = [step for step in opened.ladder if step.source == asked["ranker"]]
    if not steps:
        there = ", ".join(step.source for step in opened.ladder)
        raise InputError(f"--ranker {asked['ranker']!r} is no step of the ladder; choose from {there}")
    _fill(opened)
    ladder = steps if steps[0] is opened.ladder[-1] else [steps[0], opened.ladder[-1]]
    alone = Recommender(opened.catalog, ladder, interactions=opened.interactions)
    options: Options = {name: asked[name] for name in _LIMITS if name in asked}  # type: ignore[assignment]
    return ListAnswerer(alone, asked["k"], options), _facts(opened, chosen)


def _facts(opened: "Recommender", chosen: Any) -> dict[str, Any]:
    from genrec.template import read_template

    facts: dict[str, Any] = {"catalog hash": opened.catalog.fingerprint}
    if opened.interactions is not None:
        facts["interactions hash"] = opened.interactions.fingerprint
    for ranker in source.generative(opened):
        facts["weights"] = ranker.backend_name
        facts["settings"] = asdict(ranker.settings)
        for name in ("template", "cold_template"):
            facts[f"{name} text"] = read_template(getattr(chosen, name)).fingerprint
    return facts


def _fill(opened: "Recommender") -> None:
    """Measure priors whole, so that what an item scores does not depend on who was asked about before."""
    for ranker in source.generative(opened):
        with terminal.progress() as progress:
            ranker.fill_priors(lambda done, total: progress("prior", done, total))


def _fetch(models: list[Any], cache: Path) -> None:
    from genrec.bundle import MODELS, get_model

    for name in (str(model) for model in models if str(model) in MODELS):
        with terminal.progress() as progress:
            get_model(name, cache, progress=progress.say)


def _named(asked: Mapping[str, Any]) -> source.Source:
    items, interactions = (None if asked[name] is None else Path(asked[name]) for name in ("items", "interactions"))
    return source.Source.of(asked["data"], items, interactions, asked["columns"])


def _asked_of(found: "BatchRun") -> dict[str, Any]:
    """What a run was begun with."""
    return {name: found.facts[name] for name in ("k", "ranker", *_LIMITS, *_DATA, *_MODELS)}


def answerer_of(found: "BatchRun") -> "ListAnswerer":
    """What answers the rows of a run, as it was begun.

    Raises:
        MismatchError: a model, a template or the data are not what they were (named).
    """
    answer, facts = _open(_asked_of(found), offline=True)
    for name, value in facts.items():
        if found.facts.get(name) != value:
            raise MismatchError(f"{found.folder} was begun with another {name}; put it back, or begin another run")
    return answer


def _work(found: "BatchRun", answer: "Answer", workers: int, ray: str | None, as_json: bool) -> None:
    """Make what is missing, alone or with others, and say how it ended."""
    began, at = time.monotonic(), found.status()
    with terminal.progress() as progress, _ending_on_sigterm():

        def show(now: "Status") -> None:
            _show(progress, now, now.rows_done - at.rows_done, time.monotonic() - began)

        if ray is not None:
            from genrec.cli.cluster import work_on_ray

            work_on_ray(found, ray, workers, show)
        elif workers == 1:
            found.work(answer, on_progress=show)
        else:
            _together(found, workers, show)
    _tell(found, as_json)


def _together(found: "BatchRun", workers: int, show: Any) -> None:
    """So many processes on one run; they end with this one."""
    command = [sys.executable, "-m", "genrec", "batch", "resume", str(found.folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, **quiet) for _ in range(workers)]  # type: ignore[call-overload]
    try:
        while any(child.poll() is None for child in children):
            show(found.status())
            time.sleep(_LOOK)
        if not found.status().finished:
            said = next((child.stderr.read().decode() for child in children if child.returncode), "")
            raise MismatchError(f"no worker is left and parts are missing; the first that ended said: {said.strip()}")
    finally:
        for child in children:
            child.terminate()
            child.wait()


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as an exception does, so that leases and workers go with it."""

    def stop(*_: object) -> None:
        raise typer.Exit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(progress: "Progress", now: "Status", rows: int, seconds: float) -> None:
    rate = rows / seconds if seconds > 0 else 0.0
    parts = [f"{rate:,.0f} rows/s"]
    if now.tokens and now.seconds:
        parts.append(f"{now.tokens / now.seconds:,.0f} tokens/s a worker")
    if rate:
        parts.append(f"{(now.rows - now.rows_done) / rate:,.0f} s left")
    parts += [f"{name} {100 * share:.0f} %" for name, share in _shares(now).items()]
    if now.failed:
        parts.append(f"{now.failed:,} failed")
    progress("rows", now.rows_done, now.rows, ", ".join(parts))


def _shares(now: "Status") -> dict[str, float]:
    steps: dict[str, int] = {}
    for name, count in now.sources.items():
        step = name.partition(": ")[0]
        steps[step] = steps.get(step, 0) + count
    return {name: count / max(now.lines, 1) for name, count in steps.items()}


def _tell(found: "BatchRun", as_json: bool) -> None:
    """How a run ended; the exit code is 3 where rows failed."""
    now = found.status()
    _print(now, as_json)
    if now.failed:
        terminal.say(f"note: {now.failed:,} rows failed; see {found.folder}/failed, or genrec batch retry-failed")
        raise typer.Exit(_FAILED)


def _print(now: "Status", as_json: bool) -> None:
    if as_json:
        terminal.write_json({**asdict(now), "finished": now.finished})
        return
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in _shares(now).items())
    terminal.out().print(
        f"{now.rows_done:,} of {now.rows:,} rows in {now.parts_done:,} of {now.parts:,} parts, {now.failed:,} failed; "
        f"{now.lines:,} lines ({shares or 'none yet'}), {now.tokens:,} tokens, {now.seconds:,.0f} s of work"
        + ("" if now.finished else f"; {now.active} parts in the making")
    )


def _absolute(path: Path | str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _memory() -> int:
    """The most bytes this process held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
