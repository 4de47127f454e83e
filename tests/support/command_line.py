"""Running commands in tests: `run`, and options that most tests share."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from genrec.cli import app as commands

NO_MODELS = ("--model", "none", "--encoder", "none")
OURS = ("--items", "items.csv", "--interactions", "events.csv")


class Run:
    """The result of a command."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.out, self.err = exit_code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path) -> Run:
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Run(result.exit_code, result.stdout, result.stderr)
