"""Progress, status and results of a batch run, as text and as JSON."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from genrec.cli import exit_codes, terminal

if TYPE_CHECKING:
    from genrec.batch.run import BatchRun, RunStatus
    from genrec.cli.terminal import Progress


def report_progress(progress: "Progress", status: "RunStatus", rows: int, seconds: float) -> None:
    """Update the progress display; `rows` rows were finished in the last `seconds` seconds."""
    rate = rows / seconds if seconds > 0 else 0.0
    details = [f"{rate:,.0f} rows/s"]
    if status.tokens and status.seconds:
        details.append(f"{status.tokens / status.seconds:,.0f} tokens/s per worker")
    if rate:
        details.append(f"{(status.rows - status.rows_done) / rate:,.0f} s left")
    details += [f"{name} {100 * share:.0f} %" for name, share in _stage_shares(status).items()]
    if status.failed:
        details.append(f"{status.failed:,} failed")
    progress("Rows", status.rows_done, status.rows, ", ".join(details))


def report_result(batch_run: "BatchRun", as_json: bool) -> None:
    """Print the status of a run.

    Raises:
        typer.Exit: rows failed; the exit code is 3.
    """
    status = batch_run.status()
    print_status(status, as_json)
    if status.failed:
        codes = Counter(failure.code for failure in batch_run.failures())
        kinds = ", ".join(f"{count:,} {code}" for code, count in codes.most_common())
        terminal.print_notice(
            f"note: {status.failed:,} rows failed ({kinds}); see {batch_run.folder}/failed for the reasons, and retry "
            f"these rows with: genrec batch retry-failed {batch_run.folder}"
        )
        raise typer.Exit(exit_codes.FAILED_ROWS)


def print_status(status: "RunStatus", as_json: bool) -> None:
    """Print the progress of a run."""
    if as_json:
        terminal.write_json({**asdict(status), "finished": status.finished})
        return
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in _stage_shares(status).items())
    terminal.stdout_console().print(
        f"{status.rows_done:,} of {status.rows:,} rows in {status.parts_done:,} of {status.parts:,} parts, "
        f"{status.failed:,} failed; {status.lines:,} output lines ({shares or 'none yet'}), {status.tokens:,} tokens, "
        f"{status.seconds:,.0f} s of work" + ("" if status.finished else f"; {_in_progress(status.active)}")
    )


def _in_progress(parts: int) -> str:
    return f"{parts:,} part{'' if parts == 1 else 's'} in progress"


def _stage_shares(status: "RunStatus") -> dict[str, float]:
    """The share of output lines that each stage served."""
    counts: Counter[str] = Counter()
    for source, count in status.sources.items():
        counts[source.partition(": ")[0]] += count
    return {stage: count / max(status.lines, 1) for stage, count in counts.items()}
