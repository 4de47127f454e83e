"""Worker processes of a batch run, and how they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from genrec.cli import exit_codes, terminal

_EXIT_TIMEOUT = 10  # seconds before a worker that was asked to end is killed


@contextmanager
def worker_processes(folder: Path, count: int, threads: int) -> Iterator[None]:
    """Run `count` more workers on a run, with `threads` threads each; they end with the block.

    If a worker fails, the last line of its standard error is printed.
    """
    environment = {**{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}, **os.environ}
    command = [sys.executable, "-m", "genrec", "batch", "resume", str(folder), "--with-parent"]
    with ExitStack() as stack:
        outputs = [stack.enter_context(TemporaryFile()) for _ in range(count)]
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=output, env=environment)
            for output in outputs
        ]
        try:
            yield
            for worker in workers:
                worker.wait(_EXIT_TIMEOUT)  # all parts are done
        except subprocess.TimeoutExpired:
            pass
        finally:
            for worker in workers:
                worker.terminate()
            for worker, output in zip(workers, outputs, strict=True):
                try:
                    worker.wait(_EXIT_TIMEOUT)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
                if worker.returncode not in (0, exit_codes.FAILED_ROWS, exit_codes.TERMINATED):
                    output.seek(0)
                    last_line = output.read().decode(errors="replace").strip().rpartition("\n")[2]
                    terminal.print_notice(f"note: a worker ended with exit code {worker.returncode}: {last_line}")


def exit_with_parent() -> None:
    """Wait until the parent process has ended, which closes standard input, then end this process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that leases are released and workers end."""

    def stop(*_: object) -> None:
        raise SystemExit(exit_codes.TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
