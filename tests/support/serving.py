"""`genrec serve` as a process."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "genrec", "serve", *map(str, arguments)]


@contextmanager
def started(arguments: Sequence[object], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the address that it says."""
    with subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"items at (http://\S+) for (.*);", line):
                    yield process, found[1]
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            process.kill()
