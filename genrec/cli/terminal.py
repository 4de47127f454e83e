"""Standard output and standard error; untrusted text cannot send control sequences to the terminal."""

import json
import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_FIRST_LINE_DELAY = 2.0  # seconds
_LINE_INTERVAL = 10.0  # seconds between two lines of progress where there is no terminal
_MAX_LENGTH = 200  # characters shown of a title
_TRAILING_SPACES = re.compile(r" +(?=\n)")
# Joiners are needed for emoji and several scripts; all other format characters can reorder or hide text.
_JOINERS = "\u200c\u200d"


def sanitize_line(text: str, max_length: int = _MAX_LENGTH) -> str:
    """Untrusted text as one safe line, without control characters, escape sequences or direction changes."""
    line = " ".join(sanitize(text).split())
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def sanitize(text: str, keep: str = "") -> str:
    """Untrusted text with control characters, except those in `keep`, replaced by spaces, and no direction changes."""
    kept = (" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in keep else c for c in text)
    return "".join(c for c in kept if c in _JOINERS or unicodedata.category(c) != "Cf")


def stdout_console() -> "Console":
    """A console on standard output."""
    return _console(stderr=False)


def write_line(text: str) -> None:
    """Write a line to standard output, unchanged."""
    sys.stdout.write(f"{text}\n")


def write_json(value: object) -> None:
    """Write JSON to standard output, in ASCII, which is safe on a terminal; NaN and infinity become null."""
    write_line(json.dumps(_replace_non_finite(value), indent=2, allow_nan=False, default=str))


def print_notice(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{sanitize_line(text, max_length=10_000)}\n")
    sys.stderr.flush()


def print_error(message: str) -> None:
    """Write an error message to standard error."""
    print_notice(f"error: {message}")


def discard_stdout() -> None:
    """Discard buffered standard output, so that it does not fail again when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def flush() -> None:
    """Flush standard output, so that a closed pipe raises here and not when the interpreter exits."""
    sys.stdout.flush()


class Progress:
    """Reports progress: as a bar on a terminal; otherwise as a line after two seconds, then at most every ten.

    Args:
        bar: a running progress bar; None without a terminal.
        clock: returns monotonic seconds.
    """

    def __init__(self, bar: "Bar | None", clock: Callable[[], float] = time.monotonic) -> None:
        self._bar, self._clock = bar, clock
        self._task = None if bar is None else bar.add_task("", total=None)
        self._label = self._line = ""
        self._lock = Lock()
        self._next_line = clock() + _FIRST_LINE_DELAY
        self._first_line_timer = Timer(_FIRST_LINE_DELAY, self._write_line)
        self._first_line_timer.daemon = True
        if bar is None:
            self._first_line_timer.start()

    def __call__(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Report `done` of `total` units; `detail` is shown beside them."""
        beside = f"; {detail}" if detail else ""
        self._update(label, done, total, f"{label}: {done:,} of {total:,}{beside}", beside)

    def start(self, label: str) -> None:
        """Report the start of a task of unknown length."""
        self._update(label, 0, None, label)

    def close(self) -> None:
        """Stop reporting."""
        self._first_line_timer.cancel()

    def _update(self, label: str, done: int, total: int | None, line: str, beside: str = "") -> None:
        if self._bar is None or self._task is None:
            self._line = line
            self._write_line()
            return
        if label != self._label:
            self._label = label
            self._bar.reset(self._task, description=label)
        self._bar.update(self._task, total=total, completed=done, description=f"{label}{beside}")

    def _write_line(self) -> None:
        with self._lock:
            now = self._clock()
            if self._line and now >= self._next_line:
                self._next_line = now + _LINE_INTERVAL
                print_notice(self._line)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error; the bar disappears when the block ends."""
    if not sys.stderr.isatty():
        shown = Progress(None)
        try:
            yield shown
        finally:
            shown.close()
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=_console(stderr=True), transient=True) as bar:
        yield Progress(bar)


class _TrimmedStream:
    """Removes trailing spaces, which tables add, from lines of a stream that is not a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        return self._stream.write(_TRAILING_SPACES.sub("", text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream: Any = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a title may have characters that the terminal's encoding lacks
    file: Any = stream if stream.isatty() else _TrimmedStream(stream)
    return Console(file=file, markup=False, emoji=False, highlight=False)


def _replace_non_finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _replace_non_finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
