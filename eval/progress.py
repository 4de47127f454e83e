"""What suits where it is read: a bar on a terminal, a line every ten seconds elsewhere; tables as wide as they may."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
_INTERVAL = 10.0
_DEFAULT_WIDTH = 200  # columns


def show_progress(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Pass items on, telling stderr how many of how many are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, name, total, console=console)
        return
    told = start = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - told >= _INTERVAL or done == total:
            told = now
            print(f"{name}: {done} of {total}, {now - start:.0f} s", file=sys.stderr, flush=True)


def report_progress(name: str) -> Callable[[int, int], None]:
    """A function that is told how much of something is done, and passes it on to stderr every ten seconds."""
    start = time.perf_counter()
    told = [start]

    def tell(done: int, total: int) -> None:
        now = time.perf_counter()
        if now - told[0] >= _INTERVAL or done == total:
            told[0] = now
            print(f"{name}: {done} of {total}, {now - start:.0f} s", file=sys.stderr, flush=True)

    return tell


def wide_console() -> Console:
    """Standard output for tables: a terminal's own width, and elsewhere so much that no cell is broken."""
    return Console(width=None if Console().is_terminal else _DEFAULT_WIDTH)
