"""`genrec batch`: lists for as many people as a file holds, and every one of them there in the morning."""

import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import option, source, terminal
from genrec.errors import InputError, MismatchError, ModelMissingError

if TYPE_CHECKING:
    from genrec.assembly import Settings
    from genrec.batch import BatchRun, Status
    from genrec.batch_lists import ListAnswerer
    from genrec.cli.terminal import Progress
    from genrec.recommender import Recommender

_FAILED = 3  # the exit code of a run that is finished and has failed rows
_TERMINATED = 143
_RANKERS = ("generative", "blend", "embedding", "popularity")
_PART_ROWS = {"generative": 128}  # what a kill may cost: two minutes of a small model
_MANY_ROWS = 4096  # and of rankers that answer a thousand rows a second
_LIMITS = ("on_unknown", "explain", "filter_seen", "only", "exclude", "where")
_DATA = ("data", "items", "interactions", "columns")
_MODELS = (
    *("model", "adapter", "encoder", "template", "cold_template", "strategy", "score", "prior", "evidence"),
    *("candidates", "width", "background", "batch_size"),
)
_ASKED = ("k", "ranker", *_LIMITS, *_DATA, *_MODELS)
_PATHS = ("items", "interactions", "adapter", "model", "encoder", "template", "cold_template")
_PATIENCE = 10  # seconds until a worker that was asked to end is killed
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
        help="Users nobody knows: failed rows (raise, skip), or somebody new (fallback). Items nobody knows in a "
        "history: a failed row (raise), or left out.",
    ),
]
Explain = Annotated[bool, typer.Option("--explain/--no-explain", help="Say why each item is there.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing; stop where a model is missing.")]


@group.command()
def run(
    context: typer.Context,
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
    asked = _asked(context)
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
    if not found.missing():  # else what makes the missing parts looks at the others first
        found.prepare()
    if not found.missing():
        _tell(found, as_json)
        return
    _work(found, answerer_of(found), workers, ray, as_json)


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
        raise MismatchError(wrong[0] + (f" (and {len(wrong) - 1} more faults)" if len(wrong) > 1 else ""))
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
        with _ending_on_sigterm():
            found.retry_failed(answerer_of(found))
    _tell(found, as_json)


@group.command()
def plan(
    context: typer.Context,
    rows: Input,
    k: K = 10,
    ranker: RankerName = "generative",
    on_unknown: OnUnknown = "raise",
    explain: Explain = False,
    where: option.Where = None,
    data: option.Data = None,
    items: option.Items = None,
    interactions: option.Interactions = None,
    columns: option.Columns = None,
    model: option.Model = None,
    adapter: option.Adapter = None,
    encoder: option.Encoder = None,
    template: option.Template = None,
    strategy: option.Strategy = None,
    evidence: option.Evidence = None,
    candidates: option.Candidates = None,
    width: option.Width = None,
    batch_size: option.BatchSize = None,
    offline: Offline = False,
    as_json: option.Json = False,
) -> None:
    """Ask about 50 of the rows, and say what all of them would take, beside a prior that is measured once."""
    from genrec.rows import read_block, survey

    found = survey(rows, _MANY_ROWS)
    total, count = found.rows, min(_SAMPLE, found.rows)
    sample = []
    for place in (number * total // count for number in range(count)):
        block = found.blocks[bisect_right(found.blocks, place, key=lambda own: own.first) - 1]
        sample.append(read_block(rows, found, block)[place - block.first])
    answer, _ = _open(_asked(context), offline)
    schema = answer.schema(iter(sample))
    answer(sample[:1], schema)  # what is only slow the first time
    began = time.perf_counter()
    answers = answer(sample, schema)
    seconds = (time.perf_counter() - began) / len(sample)
    told = {
        "rows": total,
        "sampled": len(sample),
        "failed": len(answers.failures),
        "tokens": round(answers.tokens / len(sample) * total),
        "hours": seconds * total / 3600,
        "output_bytes": round(answers.table.nbytes / len(sample) * total),
        "memory_bytes": _memory(),
    }
    if as_json:
        terminal.write_json(told)
        return
    terminal.out().print(
        f"{told['rows']:,} rows, of which {told['sampled']} were asked ({told['failed']} failed): {told['tokens']:,} "
        f"tokens and {told['hours']:.1f} hours ({3600 * told['hours']:,.0f} s) with one worker here, "
        f"{told['memory_bytes'] / 1e9:.1f} GB of memory, at most {told['output_bytes'] / 1e6:,.0f} MB of output"
    )


def answerer_of(found: "BatchRun") -> "ListAnswerer":
    """What answers the rows of a run, as it was begun.

    Raises:
        InputError: it was begun from Python, not by a command.
        MismatchError: a model, a template or the data are not what they were (named).
    """
    missing = [name for name in _ASKED if name not in found.facts]
    if missing:
        raise InputError(f"{found.folder} was not begun by genrec batch run: its manifest has no {missing[0]}")
    answer, facts = _open(found.facts, offline=True)
    for name, value in facts.items():
        if found.facts.get(name) != value:
            raise MismatchError(f"{found.folder} was begun with another {name}; put it back, or begin another run")
    return answer


def _begin(
    rows: Path, output: Path, asked: dict[str, Any], part_rows: int | None, offline: bool
) -> "tuple[BatchRun, ListAnswerer]":
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

    if asked["ranker"] not in _RANKERS:
        raise InputError(f"--ranker is {asked['ranker']!r}; choose one of {', '.join(_RANKERS)}")
    models = {name: asked[name] for name in _MODELS if asked.get(name) is not None}
    if asked["ranker"] != "generative":
        models["model"] = "none"
    if asked["ranker"] == "popularity":
        models["encoder"] = "none"
    # Priors are measured whole, so that what an item scores does not depend on who was asked about before.
    chosen, cache, named = replace(source.settings(models), fill_priors=True), default_cache(), _named(asked)
    if not offline:
        source.fetch([chosen.model, chosen.encoder], cache)
    opened = source.load(named, chosen, cache, need_model=asked["ranker"] == "generative")
    if opened.notices:  # what is missing today may be there tomorrow, and answer otherwise
        raise ModelMissingError(f"a batch run needs all of its parts: {opened.notices[0]}")
    steps = [step for step in opened.ladder if step.source == asked["ranker"]]
    if not steps:
        there = ", ".join(step.source for step in opened.ladder)
        raise InputError(f"--ranker {asked['ranker']} has nothing to go on in {named.name}; choose from {there}")
    ladder = steps if steps[0] is opened.ladder[-1] else [steps[0], opened.ladder[-1]]
    alone = Recommender(opened.catalog, ladder, interactions=opened.interactions)
    options: Options = {name: asked[name] for name in _LIMITS if name in asked}  # type: ignore[assignment]
    with source.in_options():
        return ListAnswerer(alone, asked["k"], options), _facts(opened, chosen, cache)


def _facts(opened: "Recommender", chosen: "Settings", cache: Path) -> dict[str, Any]:
    """What decides the answers, beside what was asked for."""
    from importlib.metadata import version

    from genrec.assembly import find_weights
    from genrec.dataset import find_adapter
    from genrec.provenance import hashes_of
    from genrec.template import read_template

    facts: dict[str, Any] = {"genrec": version("genrec"), "catalog hash": opened.catalog.fingerprint}
    if opened.interactions is not None:
        facts["interactions hash"] = opened.interactions.fingerprint
    if chosen.encoder is not None:
        facts["encoder hash"] = hashes_of(find_weights(chosen.encoder, cache))
    for ranker in source.generative(opened):
        facts["model hash"] = hashes_of(find_weights(chosen.model or "", cache))
        if chosen.adapter is not None:
            facts["adapter hash"] = hashes_of(find_adapter(chosen.adapter))
        facts["precision"] = _precision()
        facts["settings"] = asdict(ranker.settings)
        for name in ("template", "cold_template"):
            facts[f"{name} hash"] = read_template(getattr(chosen, name)).fingerprint
    return facts


def _precision() -> str:
    """What models compute in here; another machine's numbers may differ in the last places, or the first."""
    from genrec.backends.precision import default_device, native_dtype

    return f"{native_dtype(default_device())} on {default_device().type}"


def _named(asked: Mapping[str, Any]) -> source.Source:
    items, interactions = (None if asked[name] is None else Path(asked[name]) for name in ("items", "interactions"))
    return source.Source.of(asked["data"], items, interactions, asked["columns"])


def _asked(context: typer.Context) -> dict[str, Any]:
    """The options that decide the answers, as they were given; with paths that mean the same from everywhere."""
    given: dict[str, Any] = {name: context.params.get(name) for name in _ASKED}
    given = {name: None if value in ([], ()) else value for name, value in given.items()}  # options that may repeat
    there = [name for name in _PATHS if given[name] is not None and os.path.exists(given[name])]
    return given | {name: os.path.abspath(given[name]) for name in there}


def _work(found: "BatchRun", answer: "ListAnswerer", workers: int, ray: str | None, as_json: bool) -> None:
    """Make what is missing, alone or with others, and say how it ended."""
    began, at = time.monotonic(), found.status()
    with terminal.progress() as progress, _ending_on_sigterm():

        def show(now: "Status") -> None:
            _show(progress, now, now.rows_done - at.rows_done, time.monotonic() - began)

        if ray is not None:
            from genrec.cli.cluster import work_on_ray

            work_on_ray(found, ray, workers, show)
        else:
            with _helpers(found.folder, workers - 1):
                found.work(answer, on_progress=show)
    _tell(found, as_json)


@contextmanager
def _helpers(folder: Path, count: int) -> Iterator[None]:
    """So many processes beside this one on a run; they end with this one, and what they had to say is said then."""
    command = [sys.executable, "-m", "genrec", "batch", "resume", str(folder)]
    with ExitStack() as stack:
        told = [stack.enter_context(TemporaryFile()) for _ in range(count)]
        helpers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) for file in told]
        try:
            yield
            for helper in helpers:
                helper.wait(_PATIENCE)  # nothing is left to do
        except subprocess.TimeoutExpired:
            pass
        finally:
            for helper in helpers:
                helper.terminate()
            for helper, file in zip(helpers, told, strict=True):
                try:
                    helper.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    helper.kill()
                    helper.wait()
                if helper.returncode not in (0, _FAILED, _TERMINATED):
                    file.seek(0)
                    said = file.read().decode(errors="replace").strip().rpartition("\n")[2]
                    terminal.say(f"note: a worker ended with exit code {helper.returncode}: {said}")


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as an exception does, so that leases and workers go with it."""

    def stop(*_: object) -> None:
        raise SystemExit(_TERMINATED)

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
        terminal.say(
            f"note: {now.failed:,} rows failed; see {found.folder}/failed, or genrec batch retry-failed {found.folder}"
        )
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


def _memory() -> int:
    """The most bytes this process held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
