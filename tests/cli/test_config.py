"""One file sets the options of all commands: `--config`, `genrec config show` and `genrec init`."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import NO_MODELS, OURS, run
from hypothesis import given
from hypothesis import strategies as st

from genrec.cli import app as commands
from genrec.cli.config import format_toml
from genrec.cli.config_file import iter_commands, key_of, options_of, tables_of

COMMANDS = {" ".join(path): (path, command) for path, command in iter_commands(typer.main.get_command(commands.app))}


def samples_of(option: Any) -> tuple[Any, Any, Any]:
    """Three values that an option takes, none of which is its default; of a switch, the one that is not."""
    if option.is_flag:
        return (not option.default,) * 3
    for values in ((7, 8, 9), (0.5, 0.25, 0.75)):
        try:
            taken = option.process_value(None, values[0])
        except (typer.BadParameter, AttributeError):
            continue
        if type(taken) is type(values[0]) and not option.multiple:
            return values
    texts = ("/one=x y", "/two=x y", "/three=x y")  # absolute, so that paths stay as they are
    return ([texts[0]], [texts[1]], [texts[2]]) if option.multiple else texts  # type: ignore[return-value]


def arguments_of(command: Any) -> list[str]:
    """A word for each argument that a command needs."""
    return ["x" for one in command.params if one.param_type_name == "argument" and one.required]


def as_file(values: dict[tuple[str, str], Any]) -> str:
    """A file with values by table and key."""
    tables: dict[str, list[str]] = {}
    for (table, key), value in values.items():
        tables.setdefault(table, []).append(f"{key} = {format_toml(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())


def as_flags(option: Any, value: Any) -> list[str]:
    if option.is_flag:
        return [option.opts[0] if value else option.secondary_opts[0]]
    return [part for one in (value if option.multiple else [value]) for part in (option.opts[0], str(one))]


def shown(*arguments: str) -> dict[str, tuple[Any, str]]:
    """What `config show` says of each option: value and source by key."""
    tables = run("config", "show", *arguments, "--json").json
    return {key: (row["value"], row["source"]) for table in tables.values() for key, row in table.items()}


@pytest.mark.parametrize("specific", [True, False], ids=["own table", "heading"])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_of_each_command_is_set_by_file_environment_and_line_and_the_last_wins(
    name: str, specific: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that one of them cannot set, or that the weaker one sets, makes a command do what nobody asked for."""
    path, command = COMMANDS[name]
    options = options_of(command)
    samples = {key_of(option): samples_of(option) for option in options}
    tables = {key_of(option): tables_of(path, option)[0 if specific else -1] for option in options}
    file = tmp_path / "genrec.toml"
    file.write_text(as_file({(tables[key], key): values[0] for key, values in samples.items()}), encoding="utf-8")
    ending = [*arguments_of(command), "--config", str(file)]
    assert shown(*path, *ending) == {key: (values[0], "file") for key, values in samples.items()}
    for key, values in samples.items():
        value = values[1]
        text = "\n".join(value) if isinstance(value, list) else str(value)
        monkeypatch.setenv(f"GENREC_{tables[key]}_{key}".upper().replace(".", "_").replace("-", "_"), text)
    assert shown(*path, *ending) == {key: (values[1], "environment") for key, values in samples.items()}
    flags = [flag for one in options if key_of(one) != "json" for flag in as_flags(one, samples[key_of(one)][2])]
    expected = {key: (values[2], "command line") for key, values in samples.items() if key != "json"}
    assert {key: row for key, row in shown(*path, *flags, *ending).items() if key != "json"} == expected


def lists_of(*arguments: str) -> list[Any]:
    """The items of the lists that a command prints."""
    return [one["items"] for one in run("recommend", *arguments, "--json").json]


def test_a_command_runs_as_its_file_says(files: Path) -> None:
    """The file is another way to write options, and nothing else."""
    options = ("--k", "2", "--where", "price < 5", "--no-filter-seen")
    expected = lists_of("u1", *OURS, *NO_MODELS, *options)
    text = '[data]\nitems = "items.csv"\ninteractions = "events.csv"\n[model]\nmodel = "none"\nencoder = "none"\n'
    text += '[filters]\nwhere = "price < 5"\nfilter_seen = false\n[recommend]\nk = 2\n[batch]\nk = 7\n'
    (files / "genrec.toml").write_text(text, encoding="utf-8")
    assert lists_of("u1", "--config", "genrec.toml") == expected
    assert lists_of("u1", "--config", "genrec.toml", "--k", "1") == [expected[0][:1]]


def test_filters_from_the_environment_keep_their_spaces(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is cut at its spaces is another filter, or none."""
    monkeypatch.setenv("GENREC_FILTERS_WHERE", "price < 5\nprice > 2")
    (items,) = lists_of("u2", *OURS, *NO_MODELS, "--no-filter-seen")
    assert [item["item_id"] for item in items] == ["a"]


def test_paths_of_a_file_are_relative_to_it(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that works in one folder only cannot be put beside the data."""
    (files / "genrec.toml").write_text(
        '[data]\nitems = "items.csv"\n[model]\nmodel = "none"\nencoder = "none"\ntemplate = "own.j2"\n'
        '[server]\nstore = "sqlite:///events.db"\n',
        encoding="utf-8",
    )
    (files / "own.j2").write_text("", encoding="utf-8")
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    found = shown("serve", "--config", "../genrec.toml")
    assert Path(found["items"][0]).resolve() == files / "items.csv"
    assert Path(found["template"][0]).resolve() == files / "own.j2"
    assert Path(found["store"][0].removeprefix("sqlite:///")).resolve() == files / "events.db"
    assert found["model"] == ("none", "file")
    assert run("recommend", "--config", "../genrec.toml", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[data\n", ["genrec.toml is not TOML", "line 1"]),
        ("k = 5\n", ["k = 5 is outside of a table", "[recommend]"]),
        ("[sever]\nport = 1\n", ["[sever]", "[server]"]),
        ("[server]\nprot = 9000\n", ["[server] prot = 9000", "did you mean port?"]),
        ("[server]\ncandidates = 9\n", ["[server] candidates = 9", "[ranker]"]),
        ("[data]\nk = 5\n", ["[data] k = 5", "[recommend]"]),
        ('[server]\nport = "9000"\n', ["[server] port = '9000'", "--port", "without quotes"]),
        ("[server]\nport = 99999\n", ["[server] port = 99999", "--port", "65535"]),
        ("[server]\nport = true\n", ["[server] port = True", "whole number"]),
        ("[model]\nmodel = 3\n", ["[model] model = 3", "in quotes"]),
        ("[ranker]\nexact = 1\n", ["[ranker] exact = 1", "true or false"]),
        ('[ranker]\nprior = "high"\n', ["[ranker] prior = 'high'", "number"]),
        ("[filters]\nwhere = [3]\n", ["[filters] where = [3]", "--where", "texts"]),
        ("[filters.where]\nprice = 3\n", ["[filters] where", "--where", "texts"]),
        ("[batch.rum]\nk = 3\n", ["[batch] rum", "option of batch"]),
        ("batch = 3\n", ["batch = 3 is not a table"]),
    ],
)
@pytest.mark.parametrize("command", [["recommend"], ["doctor"], ["config", "show"]])
def test_a_wrong_file_is_refused_by_every_command_with_file_key_value_and_remedy(
    command: list[str], text: str, parts: list[str], files: Path
) -> None:
    """A key that is silently ignored is found by the person who wonders why nothing changed."""
    (files / "genrec.toml").write_text(text, encoding="utf-8")
    result = run(*command, "--config", "genrec.toml")
    assert (result.exit_code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    for part in ("genrec.toml", *parts):
        assert part in result.err


@pytest.mark.parametrize(
    ("name", "part"), [("nothing.toml", "genrec init"), (".", "cannot be read"), ("x.pkl", "TOML")]
)
def test_what_is_no_file_of_options_is_refused(name: str, part: str, files: Path) -> None:
    """A command that runs without its file runs with other options."""
    (files / "x.pkl").write_bytes(b"\x80\x04\xff")
    result = run("recommend", "--config", name)
    assert (result.exit_code, result.out) == (2, "")
    assert part in result.err


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are set far from where commands run."""
    monkeypatch.setenv("GENREC_SERVER_PORT", "high")
    result = run("config", "show", "serve")
    assert result.exit_code == 2
    assert "GENREC_SERVER_PORT is 'high'" in result.err


def test_what_is_shown_is_a_file_that_gives_the_same(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People keep what they have tried by saving what is shown."""
    monkeypatch.setenv("GENREC_RANKER_CANDIDATES", "7")
    run("init", "items.csv", "events.csv", *NO_MODELS)
    text = run("config", "show", "--config", "genrec.toml").out
    monkeypatch.delenv("GENREC_RANKER_CANDIDATES")
    (files / "saved.toml").write_text(text, encoding="utf-8")
    assert tomllib.loads(text)["ranker"] == {"candidates": 7}
    assert shown("recommend", "--config", "saved.toml")["items"][1] == "file"
    assert run("recommend", "u1", "--config", "saved.toml", "--json").exit_code == 0


def test_passwords_are_not_shown(files: Path) -> None:
    """What is shown is pasted into reports of errors."""
    text = '[server]\nstore = "postgresql://me:secret@host/db"\n'
    (files / "genrec.toml").write_text(text, encoding="utf-8")
    for ending in ([], ["--json"]):
        shown_text = run("config", "show", "--config", "genrec.toml", *ending).out
        assert "secret" not in shown_text
        assert "postgresql://me:***@host/db" in shown_text


@pytest.mark.parametrize(
    ("items", "events", "options"),
    [
        ("items.csv", "events.csv", ()),
        ("own_items.csv", "own_events.csv", ("--columns", "title=Bezeichnung", "--columns", "timestamp=Wann")),
        ("foreign_items.csv", "foreign_events.csv", ("--order", "rows", "--candidates", "9")),
        ("unnamed.dat", None, ("--columns", "items=item_id,title,genre", "--encoding", "cp1252")),
    ],
)
def test_what_init_writes_runs_without_an_option_and_gives_the_list_of_the_options(
    items: str, events: str | None, options: tuple[str, ...], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands from files to a list; what was understood once is not guessed again."""
    data = ("--items", items, *(() if events is None else ("--interactions", events)))
    written = run("init", items, *(() if events is None else (events,)), *options, *NO_MODELS, "--output", "own.toml")
    assert (written.exit_code, written.out) == (0, "wrote own.toml; try genrec recommend --config own.toml\n")
    (files / "elsewhere").mkdir()
    expected = lists_of(*data, *options, *NO_MODELS)
    monkeypatch.chdir(files / "elsewhere")
    assert lists_of("--config", "../own.toml") == expected
    assert "to change it, set columns" not in run("recommend", "--config", "../own.toml").err


def test_init_keeps_a_file_that_exists(files: Path) -> None:
    """A file that people have edited cannot be made again."""
    (files / "genrec.toml").write_text("[data]\n", encoding="utf-8")
    result = run("init", "items.csv")
    assert result.exit_code == 2
    assert "genrec.toml exists; add --force" in result.err
    assert (files / "genrec.toml").read_text(encoding="utf-8") == "[data]\n"
    assert run("init", "items.csv", "--force", "--json").json["file"] == "genrec.toml"
    assert 'items = "items.csv"' in (files / "genrec.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing.csv",),
        ("no_title.csv",),
        ("items.csv", "swapped.csv", "--columns", "user_id=zzz"),
        ("items.csv", "--model", "/no/such/model"),
        ("items.csv", "--output", "no/such/folder/genrec.toml"),
    ],
)
def test_init_writes_nothing_that_does_not_run(arguments: tuple[str, ...], files: Path) -> None:
    """A file that was written half, or for data that cannot be read, fails later and elsewhere."""
    before = set(files.iterdir())
    result = run("init", *arguments)
    assert result.exit_code in (2, 5)
    assert len([line for line in result.err.splitlines() if line.startswith("error:")]) == 1
    assert set(files.iterdir()) == before


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.integers(-(2**63), 2**63 - 1)))
def test_what_is_written_reads_as_the_same_value(value: Any) -> None:
    """A column name with a quote must not end the file."""
    assert tomllib.loads(f"key = {format_toml(value)}") == {"key": value}
    assert tomllib.loads(f"key = {format_toml([str(value)])}") == {"key": [str(value)]}
