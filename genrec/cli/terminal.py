"""Standard output and standard error: what people see, and that nothing they see can command their terminal."""

import json
import math
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_LINE_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
_LONGEST = 200  # characters of a title that are shown
# Joiners hold emoji and several scripts together; every other format character can reorder or hide what stands there.
_JOINERS = "\u200c\u200d"
_CHOICE = re.compile(r'(?:pass )?on_unknown="(\w+)"')
_MAPPING = re.compile(r"pass columns=(\{[^}]*\})")
_PAIR = re.compile(r"'([^']*)': '([^']*)'")


def clean(text: str, longest: int = _LONGEST) -> str:
    """Untrusted text as one harmless line: no control character, no escape sequence, no change of direction."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    line = " ".join("".join(c for c in kept if c in _JOINERS or unicodedata.category(c) != "Cf").split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def out() -> "Console":
    """The console on standard output."""
    return _console(stderr=False)


def write_line(text: str) -> None:
    """A line on standard output, as it is."""
    sys.stdout.write(f"{text}\n")


def write_json(value: object) -> None:
    """JSON on standard output, in ASCII, so that nothing in it can command a terminal; what is not finite is null."""
    write_line(json.dumps(_finite(value), indent=2, allow_nan=False))


def say(text: str) -> None:
    """A line on standard error, for people."""
    sys.stderr.write(f"{clean(text, longest=10_000)}\n")
    sys.stderr.flush()


def complain(message: str) -> None:
    """Say on standard error what went wrong, in the words of the command line."""
    say(f"error: {_as_options(message)}")


def flush() -> None:
    """Write out what waits, so that a reader who has gone is noticed here and not at the interpreter's end."""
    sys.stdout.flush()


class Progress:
    """Says what takes long: a bar on a terminal; elsewhere a line, at most every ten seconds."""

    def __init__(self, bar: "Bar | None") -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=None)
        self._what = ""
        self._next_line = -math.inf

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` parts are made."""
        self._show(what, done, total, f"{what}: {done:,} of {total:,}")

    def say(self, what: str) -> None:
        """Something of unknown length has begun."""
        self._show(what, 0, None, what)

    def _show(self, what: str, done: int, total: int | None, line: str) -> None:
        if self._bar is not None and self._task is not None:
            if what != self._what:
                self._what = what
                self._bar.reset(self._task, description=what)
            self._bar.update(self._task, total=total, completed=done)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY
            say(line)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error, gone from the terminal when it is done."""
    console = _console(stderr=True)
    if not console.is_terminal:
        yield Progress(None)
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        yield Progress(bar)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream: Any = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a title may hold what this terminal cannot write
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_options(message: str) -> str:
    """A library's message with its parameters as the options they are here."""
    message = _CHOICE.sub(r"pass --on-unknown \1", message)
    found = _MAPPING.search(message)
    if found is None:
        return message
    options = " ".join(f"--columns {name}={column}" for name, column in _PAIR.findall(found[1]))
    return f"{message[: found.start()]}pass {options}{message[found.end() :]}"
