"""`genrec batch`: lists or texts for as many rows as a file holds, and every one of them there in the morning."""

import os
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.cli.batch_tasks import needs_language_model, open_task, task_from_run, task_options_from
from genrec.errors import MismatchError

if TYPE_CHECKING:
    from genrec.batch.run import BatchRun, RunStatus
    from genrec.cli.batch_tasks import BatchTask
    from genrec.cli.terminal import Progress

_EXIT_FAILED_ROWS = 3  # the exit code of a run that is finished and has failed rows
_EXIT_SIGTERM = 143
_LLM_PART_ROWS = 128  # of a part, where a language model answers: a kill may cost two minutes of a small one
_RANKER_PART_ROWS = 4096  # where a ranker answers a thousand rows a second
_WORKER_EXIT_TIMEOUT = 10  # seconds until a worker that was asked to end is killed
_SAMPLED_ROWS = 50  # rows that a plan is made from

group = typer.Typer(help="Lists or texts for every row of a file, in a run that survives whatever happens.")

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="CSV, TSV, JSON Lines or Parquet, a file or a folder: user_id, or history (ids, oldest first) and words; "
        "with --prompt any columns; or lines of OpenAI's batch format.",
    ),
]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The run's folder.")]
RankerName = Annotated[
    str, typer.Option("--ranker", metavar="CHOICE", help="Who ranks: generative, blend, embedding or popularity.")
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="CHOICE",
        help="What runs the language model: transformers or vllm.",
        rich_help_panel="Model",
    ),
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when standard input closes.")]
_TEXT_PANEL = "Texts"
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="FILE",
        help="Write a text for each row, asked by this .j2 template; its inputs are columns, and history and item are "
        "looked up.",
        rich_help_panel=_TEXT_PANEL,
    ),
]
Schema = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="A JSON Schema that every text is held to.", rich_help_panel=_TEXT_PANEL
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Tokens of a text.", rich_help_panel=_TEXT_PANEL)]
Temperature = Annotated[
    float,
    typer.Option("--temperature", help="0 writes what is likeliest, up to 2 draws.", rich_help_panel=_TEXT_PANEL),
]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.", rich_help_panel=_TEXT_PANEL)]
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


def _task_options(
    k: options.K = 10,
    ranker: RankerName = "generative",
    prompt: Prompt = None,
    schema: Schema = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    on_unknown: OnUnknown = "raise",
    explain: options.Explain = False,
    filter_seen: options.FilterSeen = True,
    only: options.Only = None,
    exclude: options.Exclude = None,
    where: options.Where = None,
    data: options.Data = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    columns: options.Columns = None,
    engine: Engine = "transformers",
    model: options.Model = None,
    adapter: options.Adapter = None,
    encoder: options.Encoder = None,
    template: options.Template = None,
    cold_template: options.ColdTemplate = None,
    strategy: options.Strategy = None,
    score: options.Score = None,
    prior: options.Prior = None,
    fusion_weight: options.FusionWeight = None,
    candidates: options.Candidates = None,
    width: options.Width = None,
    background: options.Background = None,
    batch_size: options.BatchSize = None,
) -> None:
    """The options that decide the answers, see `genrec.cli.batch_tasks.asked_of`."""


@group.command()
@options.with_options_of(_task_options)
def run(
    context: typer.Context,
    rows: Input,
    output: Output,
    workers: Workers = 1,
    ray: Ray = None,
    part_rows: PartRows = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
    **_: Any,
) -> None:
    """Begin a run, or go on with the same one; several may work on one folder at once.

    OUTPUT/parts holds user_id, item_id, rank, score and source, or what a language model wrote for each row, in the
    order of the rows; OUTPUT/failed what could not be answered and why. The exit code is 3 where rows failed.
    """
    from genrec.batch.run import start_run

    asked = task_options_from(context, rows)
    answer, facts = open_task(asked, offline)
    size = part_rows or (_LLM_PART_ROWS if needs_language_model(asked) else _RANKER_PART_ROWS)
    with loading.translate_option_errors():
        found = start_run(
            rows, output, {**asked, **facts}, answer.schema, part_rows=size, key_columns=answer.key_columns
        )
    _run_batch(found, answer, workers, ray, as_json)


@group.command()
def resume(
    output: Output,
    workers: Workers = 1,
    ray: Ray = None,
    with_parent: WithParent = False,
    as_json: options.Json = False,
) -> None:
    """Go on with a run, as it was begun; what is damaged is made again."""
    from genrec.batch.run import BatchRun

    if with_parent:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    found = BatchRun.open(output)
    found.check_source()
    if not found.missing_parts():  # else what makes the missing parts looks at the others first
        found.prepare()
    if not found.missing_parts():
        _report_result(found, as_json)
        return
    _run_batch(found, None if ray else task_from_run(found), workers, ray, as_json)


@group.command()
def status(output: Output, as_json: options.Json = False) -> None:
    """Say how far a run is."""
    from genrec.batch.run import BatchRun

    _print_status(BatchRun.open(output).status(), as_json)


@group.command()
def verify(output: Output, as_json: options.Json = False) -> None:
    """Read everything again: is every row there once, and every part as it was written?"""
    from genrec.batch.run import BatchRun

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
        terminal.stdout_console().print(
            f"each of {done.rows:,} rows is there once: {answered:,} answered, {done.failed:,} failed"
        )


@group.command("retry-failed")
def retry_failed(output: Output, as_json: options.Json = False) -> None:
    """Ask again about the rows that failed, and no others."""
    from genrec.batch.run import BatchRun

    found = BatchRun.open(output)
    found.check_source()
    if found.status().failed:
        with _exiting_on_sigterm():
            found.retry_failed(task_from_run(found))
    _report_result(found, as_json)


@group.command()
@options.with_options_of(_task_options)
def plan(
    context: typer.Context, rows: Input, offline: options.Offline = False, as_json: options.Json = False, **_: Any
) -> None:
    """Ask about 50 of the rows, and say what all of them would take, beside a prior that is measured once."""
    from genrec.batch.input import BlockReader, build_input_index

    found = build_input_index(rows, _RANKER_PART_ROWS)
    total, count = found.num_rows, min(_SAMPLED_ROWS, found.num_rows)
    sample, reader = [], BlockReader(rows, found)
    for place in (number * total // count for number in range(count)):
        block = found.blocks[bisect_right(found.blocks, place, key=lambda own: own.first_row) - 1]
        sample.append(reader.read(block)[place - block.first_row])
    answer, _facts = open_task(task_options_from(context, rows), offline)
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
        "memory_bytes": _peak_memory(),
    }
    if as_json:
        terminal.write_json(told)
        return
    terminal.stdout_console().print(
        f"{told['rows']:,} rows, of which {told['sampled']} were asked ({told['failed']} failed): {told['tokens']:,} "
        f"tokens and {told['hours']:.1f} hours ({3600 * told['hours']:,.0f} s) with one worker here, "
        f"{told['memory_bytes'] / 1e9:.1f} GB of memory, at most {told['output_bytes'] / 1e6:,.0f} MB of output"
    )


def _run_batch(batch_run: "BatchRun", task: "BatchTask | None", workers: int, ray: str | None, as_json: bool) -> None:
    """Make what is missing, alone or with others, and say how it ended; actors of Ray open what answers themselves."""
    began, at = time.monotonic(), batch_run.status()
    with terminal.progress() as progress, _exiting_on_sigterm():

        def show(now: "RunStatus") -> None:
            _report_progress(progress, now, now.rows_done - at.rows_done, time.monotonic() - began)

        if ray is not None:
            from genrec.cli.cluster import run_on_ray

            run_on_ray(batch_run, ray, workers, show, needs_gpu=needs_language_model(batch_run.config))
        elif task is not None:
            from threadpoolctl import threadpool_limits

            # Workers that all take every core wait for each other: with two on two cores each is half as fast.
            threads = max(1, _available_cores() // workers)
            with threadpool_limits(threads), _worker_processes(batch_run.folder, workers - 1, threads):
                batch_run.run(task, on_progress=show)
    _report_result(batch_run, as_json)


@contextmanager
def _worker_processes(folder: Path, count: int, threads: int) -> Iterator[None]:
    """So many processes beside this one on a run, of so many threads; they end with it, and what they said is said."""
    environment = {**{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}, **os.environ}
    command = [sys.executable, "-m", "genrec", "batch", "resume", str(folder), "--with-parent"]
    with ExitStack() as stack:
        told = [stack.enter_context(TemporaryFile()) for _ in range(count)]
        helpers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=file, env=environment)
            for file in told
        ]
        try:
            yield
            for helper in helpers:
                helper.wait(_WORKER_EXIT_TIMEOUT)  # nothing is left to do
        except subprocess.TimeoutExpired:
            pass
        finally:
            for helper in helpers:
                helper.terminate()
            for helper, file in zip(helpers, told, strict=True):
                try:
                    helper.wait(_WORKER_EXIT_TIMEOUT)
                except subprocess.TimeoutExpired:
                    helper.kill()
                    helper.wait()
                if helper.returncode not in (0, _EXIT_FAILED_ROWS, _EXIT_SIGTERM):
                    file.seek(0)
                    said = file.read().decode(errors="replace").strip().rpartition("\n")[2]
                    terminal.print_notice(f"note: a worker ended with exit code {helper.returncode}: {said}")


def _exit_with_parent() -> None:
    """End this process once the one that started it is gone, however that ended: then the pipe between them closes."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as an exception does, so that leases and workers go with it."""

    def stop(*_: object) -> None:
        raise SystemExit(_EXIT_SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report_progress(progress: "Progress", run_status: "RunStatus", rows: int, seconds: float) -> None:
    rate = rows / seconds if seconds > 0 else 0.0
    parts = [f"{rate:,.0f} rows/s"]
    if run_status.tokens and run_status.seconds:
        parts.append(f"{run_status.tokens / run_status.seconds:,.0f} tokens/s a worker")
    if rate:
        parts.append(f"{(run_status.rows - run_status.rows_done) / rate:,.0f} s left")
    parts += [f"{name} {100 * share:.0f} %" for name, share in _source_shares(run_status).items()]
    if run_status.failed:
        parts.append(f"{run_status.failed:,} failed")
    progress("rows", run_status.rows_done, run_status.rows, ", ".join(parts))


def _source_shares(run_status: "RunStatus") -> dict[str, float]:
    steps: dict[str, int] = {}
    for name, count in run_status.sources.items():
        step = name.partition(": ")[0]
        steps[step] = steps.get(step, 0) + count
    return {name: count / max(run_status.lines, 1) for name, count in steps.items()}


def _report_result(batch_run: "BatchRun", as_json: bool) -> None:
    """How a run ended; the exit code is 3 where rows failed."""
    now = batch_run.status()
    _print_status(now, as_json)
    if now.failed:
        codes = Counter(one.code for one in batch_run.failures())
        kinds = ", ".join(f"{count:,} {code}" for code, count in codes.most_common())
        terminal.print_notice(
            f"note: {now.failed:,} rows failed ({kinds}); {batch_run.folder}/failed says why of each, and genrec batch "
            f"retry-failed {batch_run.folder} asks again, with the same rows and options"
        )
        raise typer.Exit(_EXIT_FAILED_ROWS)


def _print_status(run_status: "RunStatus", as_json: bool) -> None:
    if as_json:
        terminal.write_json({**asdict(run_status), "finished": run_status.finished})
        return
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in _source_shares(run_status).items())
    terminal.stdout_console().print(
        f"{run_status.rows_done:,} of {run_status.rows:,} rows in {run_status.parts_done:,} of {run_status.parts:,} parts, {run_status.failed:,} failed; "
        f"{run_status.lines:,} lines ({shares or 'none yet'}), {run_status.tokens:,} tokens, {run_status.seconds:,.0f} s of work"
        + ("" if run_status.finished else f"; {run_status.active} parts in the making")
    )


def _available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _peak_memory() -> int:
    """The most bytes this process held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
