"""Options are declared once: each setting of the library is an option of every command that ranks."""

import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from command_line import run
from typer.testing import CliRunner

from genrec import GenerativeSettings, Recommender, Settings
from genrec.backends import ApiSettings
from genrec.chat.loading import advisor_builder
from genrec.cli import app as commands
from genrec.cli import options
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS
from genrec.cli.recommend import recommend
from genrec.cli.settings_options import SETTING_OPTIONS
from genrec.rankers import ListwiseSettings

# Fields that are no options: they are derived from others, or hold other settings.
NOT_OPTIONS = {"generative", "listwise", "api", "chat_template", "small_search_candidates", "compute_priors"}
RANKING_COMMANDS = ("recommend", "chat", "serve", "evaluate", "batch run", "batch plan")


def value_type(hint: Any) -> type:
    """The type that an option of a field has: the only one of str, int, float and bool that the field takes."""
    if get_origin(hint) is Literal or tuple[str, ...] in get_args(hint):  # names with commas between them
        return str
    found = {one for one in (get_args(hint) or (hint,)) if one in (str, int, float, bool)}
    (kind,) = found
    return kind  # type: ignore[no-any-return]


def flags_of(command: str) -> dict[str, list[str]]:
    """The flags of a command by parameter."""
    found: Any = typer.main.get_command(commands.app)
    for name in command.split():
        found = found.commands[name]
    return {one.name: [*one.opts, *one.secondary_opts] for one in found.params}


def test_every_setting_is_an_option_with_its_type_and_default() -> None:
    """A setting without an option, or with another default in the help, is found by users, not by us."""
    defaults = Settings()
    expected = {}
    for owner, values in ((Settings, defaults), (GenerativeSettings, defaults.generative)):
        hints = get_type_hints(owner)
        for field in fields(owner):  # type: ignore[arg-type]
            if field.name not in NOT_OPTIONS:
                expected[field.name] = (value_type(hints[field.name]), getattr(values, field.name))
    chat = defaults.chat_template
    assert dict(chat.arguments) == {}
    of_chat = [(list[str], None), (str, str(chat.date)), (str, chat.name)]
    expected |= dict(zip(CHAT_TEMPLATE_OPTIONS, of_chat, strict=True))
    hints = get_type_hints(ApiSettings)
    for field in fields(ApiSettings):
        default = None if field.default is MISSING else field.default
        expected[f"api_{field.name}"] = (value_type(hints[field.name]), default)
    for field in fields(ListwiseSettings):  # the others are those of GenerativeSettings
        if field.name not in expected:
            expected[field.name] = (int, getattr(defaults.listwise, field.name))
        assert getattr(defaults.listwise, field.name) == SETTING_OPTIONS[field.name].default
    assert {name: (option.value_type, option.default) for name, option in SETTING_OPTIONS.items()} == expected


@pytest.mark.parametrize("command", [*RANKING_COMMANDS, "prompt render", "index build", "doctor"])
def test_every_command_with_a_model_takes_arguments_of_its_chat_template(command: str) -> None:
    """A command without them makes other prompts, and other identifiers, than the rest."""
    flags = {flag for each in flags_of(command).values() for flag in each}
    assert {f"--{name.replace('_', '-')}" for name in CHAT_TEMPLATE_OPTIONS} <= flags


@pytest.mark.parametrize("command", RANKING_COMMANDS)
def test_every_ranking_command_has_every_setting(command: str) -> None:
    """A setting that one command lacks cannot be evaluated, served and run in a batch alike."""
    flags = flags_of(command)
    for name, option in SETTING_OPTIONS.items():
        assert f"--{name.replace('_', '-')}" in flags[name]
        assert not option.alias or option.alias in flags[name]


def test_advisor_options_are_parameters_of_the_library() -> None:
    """They are passed on by name; a parameter that was renamed would fail in every conversation."""
    assert set(options.ADVISOR_OPTIONS) <= set(inspect.signature(advisor_builder).parameters)


@pytest.mark.parametrize(
    ("command", "flag", "former"),
    [
        *((command, "--fusion-weight", "--evidence") for command in RANKING_COMMANDS),
        ("serve", "--max-queue", "--waiting"),
        ("serve", "--ranking-timeout", "--patience"),
        ("chat", "--ranking-timeout", "--patience"),
    ],
)
def test_renamed_flags_keep_their_former_name(command: str, flag: str, former: str) -> None:
    """A script that ran before the rename must run for one more release."""
    assert any({flag, former} <= set(flags) for flags in flags_of(command).values())


@pytest.mark.parametrize("command", RANKING_COMMANDS)
def test_help_shows_the_defaults_of_settings(command: str) -> None:
    """Without them a reader must open the source to know what a command does."""
    shown = CliRunner().invoke(commands.app, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
    assert "(SmolLM2-135M-Instruct)" in shown
    assert "(50.0)" in shown
    assert "(exact)" in shown


def test_options_are_the_parameters_of_the_library() -> None:
    """One name everywhere: whatever Python takes, the command line takes under the same name."""
    options = set(inspect.signature(recommend).parameters)
    call = set(inspect.signature(Recommender.recommend).parameters) - {"self", "users"}
    made = {"model", "adapter", "encoder", "template", "cold_template"}
    assert call | made | {field.name for field in fields(GenerativeSettings)} <= options
    assert {field.name for field in fields(Settings)} >= made


def test_help_loads_nothing_heavy() -> None:
    """Help that takes seconds is not read: any of these packages would load with it, and with every other command."""
    heavy = ("numpy", "torch", "transformers", "pyarrow", "jinja2", "httpx", "huggingface_hub", "fastapi", "uvicorn")
    code = (
        "import sys\n"
        "from genrec.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        f"    sys.exit(', '.join(name for name in {heavy} if name in sys.modules) or ended.code)\n"
    )
    help_command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(help_command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("demo", "recommend", "evaluate", "index", "prompt", "data", "model", "doctor"):
        assert f" {verb} " in done.stdout


def test_every_command_explains_itself() -> None:
    """`--help` is the manual."""
    groups = {"index": ["build"], "prompt": ["list", "render"], "data": ["get", "describe"], "model": ["get"]}
    verbs = [
        ["demo"],
        ["recommend"],
        ["evaluate"],
        ["doctor"],
        *([name, verb] for name in groups for verb in groups[name]),
    ]
    for verb in verbs:
        result = run(*verb, "--help")
        assert result.exit_code == 0
        assert "--json" in result.out
