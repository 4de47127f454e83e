"""Progress and tables: a bar on a terminal, a line every ten seconds elsewhere; tables as wide as possible."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
_INTERVAL = 10.0  # seconds
_DEFAULT_WIDTH = 200  # columns


def show_progress(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Yield the items, and report on stderr how many are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, name, total, console=console)
        return
    reported = start = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - reported >= _INTERVAL or done == total:
            reported = now
            print(f"{name}: {done} of {total}, {now - start:.0f} s", file=sys.stderr, flush=True)


def report_progress(name: str) -> Callable[[int, int], None]:
    """A progress callback of (done, total) that reports on stderr every ten seconds."""
    start = time.perf_counter()
    reported = [start]

    def report(done: int, total: int) -> None:
        now = time.perf_counter()
        if now - reported[0] >= _INTERVAL or done == total:
            reported[0] = now
            print(f"{name}: {done} of {total}, {now - start:.0f} s", file=sys.stderr, flush=True)

    return report


def wide_console() -> Console:
    """A console on stdout for tables: as wide as the terminal; elsewhere wide enough that cells do not wrap."""
    return Console(width=None if Console().is_terminal else _DEFAULT_WIDTH)
