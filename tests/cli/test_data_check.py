"""`genrec data check` says what was understood of files, and how to run with them."""

import shlex
from pathlib import Path

import pytest
from command_line import NO_MODELS, run

EVENTS = "user,sku,stars,when\nu1,a,5,1\nu1,a,5,1\nu1,b,1,2\nu2,b,4,3\n"
ITEMS = "sku,name,price\na,Red Lamp,3\nb,青い灯,7\nc,Green Tea,\n"


@pytest.fixture
def own_files(files: Path) -> tuple[str, str]:
    """Files with columns of other names."""
    (files / "own_i.csv").write_text(ITEMS, encoding="utf-8")
    (files / "own_e.csv").write_text(EVENTS, encoding="utf-8")
    return "own_i.csv", "own_e.csv"


def test_every_column_has_a_role_and_what_it_holds(own_files: tuple[str, str]) -> None:
    """A column that is read as something else, or not at all, is seen before a list is wrong."""
    facts = run("data", "check", *own_files, *NO_MODELS, "--columns", "timestamp=when", "--json").json
    roles = {table: {name: one["role"] for name, one in found.items()} for table, found in facts["columns"].items()}
    assert roles == {
        "items": {"sku": "ids of items", "name": "titles", "price": "attribute"},
        "interactions": {"user": "ids of users", "sku": "ids of items", "stars": "not used", "when": "times"},
    }
    assert facts["columns"]["interactions"]["stars"]["scale"] == [1, 4, 5]
    assert facts["columns"]["items"]["price"]["missing"] == 1
    assert facts["interactions"]["repeated"] == 1
    assert facts["scripts"] == {"LATIN": 2, "CJK": 1, "HIRAGANA": 1}


def test_the_command_that_is_shown_runs(own_files: tuple[str, str]) -> None:
    """Who copies it must not be told that a column is missing."""
    command = run("data", "check", *own_files, *NO_MODELS, "--columns", "timestamp=when", "--json").json["command"]
    shown = run("data", "check", *own_files, *NO_MODELS, "--columns", "timestamp=when").out
    assert f"  {shlex.join(command)}\n" in shown
    assert command[:2] == ["genrec", "init"]
    assert run(*command[1:]).exit_code == 0
    assert run("recommend", "u1", "--config", "genrec.toml", "--json").exit_code == 0


@pytest.mark.model
def test_titles_that_a_model_cannot_read_are_counted(own_files: tuple[str, str], minilm: Path, smollm2: Path) -> None:
    """An encoder that reads [UNK] for every title ranks by nothing."""
    found = run("data", "check", *own_files, "--columns", "timestamp=when", "--json").json["tokenizers"]
    assert (found["encoder"]["token"], found["encoder"]["unknown"]) == ("[UNK]", 1)
    assert found["encoder"]["examples"] == ["青い灯"]
    assert found["language model"]["unknown"] == 0
