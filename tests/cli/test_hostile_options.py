"""Hostile option values: whatever an option says, a command ends with an answer or a message, not with a traceback."""

from pathlib import Path

import pytest
from command_line import NO_MODELS, OURS, run

from genrec.cli.settings_options import SETTING_OPTIONS

VALUES = [
    "9" * 5000,
    "-" + "9" * 5000,
    "9223372036854775808",
    "-1",
    "0",
    "1e999",
    "1e308",
    "nan",
    "-inf",
    "",
    " ",
    "\ud800",
]
VALUES += ["x" * 10_000, "'", "a=" + "9" * 5000, "a=nan", "a=1e999", "0x" + "f" * 5000, "9999-12-31T23:59:59-12:00"]
RECOMMEND = ("k", "deadline", "on-unknown", "only", "exclude", "where", "boost", "history", "words")
SETTINGS = tuple(
    name.replace("_", "-")
    for name, option in SETTING_OPTIONS.items()
    if option.value_type is not bool and name not in ("model", "encoder")
)


@pytest.mark.parametrize("option", [*RECOMMEND, *SETTINGS, "columns", "items", "interactions"])
def test_no_value_of_an_option_ends_in_a_traceback(option: str, files: Path) -> None:
    """`run` fails for every exception but an exit."""
    known = () if option in ("history", "words") else ("u1",)
    for value in VALUES:
        given = tuple(part for part in OURS if option not in ("items", "interactions"))
        result = run("recommend", *given, *NO_MODELS, f"--{option}", value, "--", *known)
        assert result.exit_code in (0, 2, 4), (value[:50], result.err[:300])
        assert result.exit_code == 0 or result.err


@pytest.mark.parametrize("option", ["at", "users", "k", "metric", "ranker", "protocol"])
def test_no_value_of_an_evaluation_ends_in_a_traceback(option: str, files: Path) -> None:
    """As above; `--at` is a number or a date."""
    for value in VALUES:
        protocol = ("--protocol", "by-time") if option == "at" else ()
        result = run("evaluate", *OURS, *NO_MODELS, *protocol, f"--{option}", value)
        assert result.exit_code in (0, 2), (value[:50], result.err[:300])


@pytest.mark.parametrize("value", VALUES)
def test_no_id_ends_in_a_traceback(value: str, files: Path) -> None:
    """An id is any text."""
    assert run("recommend", *OURS, *NO_MODELS, "--", value).exit_code == 2
    assert run("chat", *OURS, *NO_MODELS, "--user", value).exit_code == 2
