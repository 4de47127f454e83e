"""`genrec batch`: recommendation lists or texts for every row of a file, in runs that can be resumed."""

import sys
import threading
import time
from bisect import bisect_right
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.cli.batch_options import (
    Input,
    Output,
    PartRows,
    Ray,
    WithParent,
    Workers,
    task_options,
)
from genrec.cli.batch_report import print_status, report_progress, report_result
from genrec.cli.batch_tasks import (
    check_rows,
    config_from,
    needs_language_model,
    open_task,
    task_from_run,
    task_options_from,
)
from genrec.cli.batch_workers import available_cores, exit_with_parent, exiting_on_sigterm, worker_processes
from genrec.errors import MismatchError, check_count

if TYPE_CHECKING:
    from genrec.batch.row import InputRow
    from genrec.batch.run import BatchRun, RunStatus
    from genrec.cli.batch_tasks import BatchTask

_LLM_PART_ROWS = 128  # with a language model: one part of a small model takes about two minutes
_RANKER_PART_ROWS = 4096  # without one: rankers serve about a thousand rows per second
_SAMPLED_ROWS = 50  # rows that `plan` runs

group = typer.Typer(help="Recommend or generate texts for every row of a file, in a run that can be resumed.")


@group.command()
@options.with_options_of(task_options)
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
    """Start a run, or continue the same one; several processes may share a run.

    OUTPUT/parts holds user_id, item_id, rank, score and source, or the generated texts, in row order;
    OUTPUT/failed holds the rows that could not be answered, with reasons. The exit code is 3 if rows failed.
    """
    from genrec.batch.manifest import check_run_folder
    from genrec.batch.run import start_run

    given = task_options_from(context, rows)
    check_rows(given, rows)
    if part_rows is not None:
        check_count("--part-rows", part_rows)
    check_run_folder(output)
    task, hashes = open_task(given, offline)
    size = part_rows or (_LLM_PART_ROWS if needs_language_model(given) else _RANKER_PART_ROWS)
    with loading.translate_option_errors(has_on_unknown=True):
        batch_run = start_run(
            rows,
            output,
            {**config_from(given), **hashes},
            task.schema,
            part_rows=size,
            key_columns=task.key_columns,
        )
    _run_batch(batch_run, task, workers, ray, as_json)


@group.command()
def resume(
    output: Output,
    workers: Workers = 1,
    ray: Ray = None,
    with_parent: WithParent = False,
    as_json: options.Json = False,
) -> None:
    """Continue a run with its own options; damaged parts are rebuilt."""
    from genrec.batch.run import BatchRun

    if with_parent:
        threading.Thread(target=exit_with_parent, daemon=True).start()
    batch_run = BatchRun.open(output)
    batch_run.check_source()
    if not batch_run.missing_parts():  # otherwise the worker checks the finished parts first
        batch_run.prepare()
    if not batch_run.missing_parts():
        report_result(batch_run, as_json)
        return
    _run_batch(batch_run, None if ray else task_from_run(batch_run), workers, ray, as_json)


@group.command()
def status(output: Output, as_json: options.Json = False) -> None:
    """Show the progress of a run."""
    from genrec.batch.run import BatchRun

    print_status(BatchRun.open(output).status(), as_json)


@group.command()
def verify(output: Output, as_json: options.Json = False) -> None:
    """Check that every row is present exactly once, and that no part has changed since it was written."""
    from genrec.batch.run import BatchRun

    batch_run = BatchRun.open(output)
    batch_run.check_source()
    problems = batch_run.verify()
    if as_json:
        terminal.write_json({"wrong": problems, **asdict(batch_run.status())})
    if problems:
        raise MismatchError(problems[0] + (f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""))
    if not as_json:
        found = batch_run.status()
        terminal.stdout_console().print(
            f"{found.rows:,} rows, each present exactly once: {found.rows - found.failed:,} answered, "
            f"{found.failed:,} failed"
        )


@group.command("retry-failed")
def retry_failed(output: Output, as_json: options.Json = False) -> None:
    """Process the failed rows of a finished run again, and no others."""
    from genrec.batch.run import BatchRun

    batch_run = BatchRun.open(output)
    batch_run.check_source()
    if batch_run.status().failed:
        with exiting_on_sigterm():
            batch_run.retry_failed(task_from_run(batch_run))
    report_result(batch_run, as_json)


@group.command()
@options.with_options_of(task_options)
def plan(
    context: typer.Context, rows: Input, offline: options.Offline = False, as_json: options.Json = False, **_: Any
) -> None:
    """Run 50 sampled rows and estimate time, tokens and memory of all rows; the prior is not included."""
    given = task_options_from(context, rows)
    check_rows(given, rows)
    total, sample = _sample_rows(rows)
    task, _hashes = open_task(given, offline)
    schema = task.schema(iter(sample))
    task(sample[:1], schema)  # warm up
    start = time.perf_counter()
    result = task(sample, schema)
    seconds = (time.perf_counter() - start) / len(sample)
    estimate = {
        "rows": total,
        "sampled": len(sample),
        "failed": len(result.failures),
        "tokens": round(result.tokens / len(sample) * total),
        "hours": seconds * total / 3600,
        "output_bytes": round(result.table.nbytes / len(sample) * total),
        "memory_bytes": _peak_memory(),
    }
    if as_json:
        terminal.write_json(estimate)
        return
    terminal.stdout_console().print(
        f"{estimate['rows']:,} rows, estimated from {estimate['sampled']} ({estimate['failed']} failed): "
        f"{estimate['tokens']:,} tokens, {estimate['hours']:.1f} hours ({3600 * estimate['hours']:,.0f} s) with one "
        f"worker on this machine, {estimate['memory_bytes'] / 1e9:.1f} GB of memory, at most "
        f"{estimate['output_bytes'] / 1e6:,.0f} MB of output"
    )


def _sample_rows(source: Path) -> "tuple[int, list[InputRow]]":
    """The number of rows, and up to 50 of them, evenly spaced."""
    from genrec.batch.input import BlockReader, build_input_index

    index = build_input_index(source, _RANKER_PART_ROWS)
    total, count = index.num_rows, min(_SAMPLED_ROWS, index.num_rows)
    sample, reader = [], BlockReader(source, index)
    for row in (number * total // count for number in range(count)):
        block = index.blocks[bisect_right(index.blocks, row, key=lambda block: block.first_row) - 1]
        sample.append(reader.read(block)[row - block.first_row])
    return total, sample


def _run_batch(batch_run: "BatchRun", task: "BatchTask | None", workers: int, ray: str | None, as_json: bool) -> None:
    """Process the missing parts and report the result; on Ray, actors open the task themselves."""
    start, before = time.monotonic(), batch_run.status()
    with terminal.progress() as progress, exiting_on_sigterm():

        def show(now: "RunStatus") -> None:
            report_progress(progress, now, now.rows_done - before.rows_done, time.monotonic() - start)

        if ray is not None:
            from genrec.cli.cluster import run_on_ray

            run_on_ray(batch_run, ray, workers, show, needs_gpu=needs_language_model(batch_run.config))
        elif task is not None:
            from threadpoolctl import threadpool_limits

            # If every worker starts a thread for each core, they wait for each other: two workers are half as fast.
            threads = max(1, available_cores() // workers)
            with threadpool_limits(threads), worker_processes(batch_run.folder, workers - 1, threads):
                batch_run.run(task, on_progress=show)
    report_result(batch_run, as_json)


def _peak_memory() -> int:
    """Peak memory of this process in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
