"""Commands never run code of a model's folder unless they are told to."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import OURS
from typer.testing import CliRunner, Result
from untrusted_model import UntrustedModel

from genrec.cli import app as commands

pytestmark = pytest.mark.filterwarnings("ignore")
COMMANDS = [
    ["recommend", "u1", *OURS, "--model", "FOLDER", "--encoder", "none"],
    ["recommend", "u1", *OURS, "--model", "none", "--encoder", "FOLDER"],
    ["evaluate", *OURS, "--model", "FOLDER", "--encoder", "none", "--protocol", "by-time", "--at", "2"],
    ["chat", *OURS, "--model", "FOLDER", "--encoder", "none"],
    ["serve", *OURS, "--model", "FOLDER", "--encoder", "none", "--port", "0", "--store", "sqlite:///store.db"],
    ["doctor", "--json", "--model", "FOLDER", "--encoder", "none"],
    ["batch", "run", "users.csv", "out", *OURS, "--model", "FOLDER", "--encoder", "none"],
    ["index", "build", "index", "--items", "items.csv", "--model", "FOLDER"],
]


@pytest.fixture
def untrusted(files: Path, smollm2: Path) -> UntrustedModel:
    """A model with code and a good tokenizer, in the current folder."""
    model = UntrustedModel(files / "untrusted")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model.folder / name).write_bytes((smollm2 / name).read_bytes())
    (files / "users.csv").write_text("user_id\nu1\n", encoding="utf-8")
    return model


def _run(command: Sequence[str], model: UntrustedModel, *more: str) -> Result:
    arguments = [str(model.folder) if argument == "FOLDER" else argument for argument in (*command, *more)]
    return CliRunner().invoke(commands.app, arguments, input="y\n" * 10)


@pytest.mark.model
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_that_says_y_runs_no_code(command: Sequence[str], untrusted: UntrustedModel) -> None:
    """A script whose input begins with y would hand its machine to the author of the folder."""
    result = _run(command, untrusted)
    assert not untrusted.has_run
    if result.exit_code:
        assert "trust_remote_code" in result.stderr + result.stdout


@pytest.mark.model
@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0] in ("recommend", "doctor")])
def test_a_flag_runs_the_code(command: Sequence[str], untrusted: UntrustedModel) -> None:
    """Without it a new architecture could not be used from the command line."""
    _run(command, untrusted, "--trust-remote-code")
    assert untrusted.has_run
