"""`genrec config`: the options that commands take from a file, the environment and the command line."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from genrec.cli import options, terminal
from genrec.cli.config_file import command_path, iter_commands, key_of, options_of, tables_of
from genrec.cli.config_options import given_options
from genrec.cli.settings_options import SETTING_OPTIONS
from genrec.errors import InputError, format_names

_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")

group = typer.Typer(help="Show the options that commands take from a file and the environment.")

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COMMAND [OPTION]...]", help="A command, and options for it.", show_default=False),
]


class Effective(NamedTuple):
    """An option and the value that a command would run with.

    Attributes:
        table, key: its place in a file.
        value: the value; None if there is none.
        source: "command line", "environment", "file" or "default".
        place: the file or the environment variable; "" for other sources.
        detail: what None stands for; "" for nothing.
        is_shared: whether the table holds for several commands.
    """

    table: str
    key: str
    value: Any
    source: str
    place: str = ""
    detail: str = ""
    is_shared: bool = False


@group.callback()
def _group() -> None:
    pass


@group.command(context_settings={"ignore_unknown_options": True})
def show(context: typer.Context, command: Command = None, as_json: options.Json = False) -> None:
    """Show every option, its value, and where the value comes from.

    With a command and options, such as serve --port 8000, what it would run with. Options of single commands, such as
    k, are shown for that command, or if they are set. The output is a file for --config.
    """
    file: Path | None = context.params.get("config")
    commands = list(iter_commands(context.find_root().command))
    if command:
        found = [entry for entry in commands if tuple(command[: len(entry[0])]) == entry[0]]
        if not found:
            names = format_names([" ".join(path) for path, _ in commands])
            raise InputError(f"{' '.join(command)!r} is not a command; choose one of {names}")
        path, chosen = found[0]
        rows = _effective_options(context, path, chosen, file, command[len(path) :])
    else:
        rows = [row for path, one in commands for row in _effective_options(context, path, one, file)]
        rows = [row for row in rows if row.source != "default" or row.is_shared]
    tables = _by_table(rows)
    if as_json:
        terminal.write_json({table: {row.key: _as_json(row) for row in rows} for table, rows in tables.items()})
        return
    for table, table_rows in tables.items():
        terminal.write_line(f"[{table}]")
        for row in table_rows:
            terminal.write_line(terminal.sanitize_line(_as_line(row), max_length=10_000))
        terminal.write_line("")


def format_toml(value: Any) -> str:
    """A text, number, boolean or list of texts as TOML writes it."""
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _effective_options(
    context: typer.Context, path: Sequence[str], command: Any, file: Path | None, arguments: Sequence[str] = ()
) -> list[Effective]:
    """The options of a command as Click would pass them, without running it."""
    parent: Any = context.find_root()
    for name in path[:-1]:
        group = parent.command.commands[name]
        parent = type(parent)(group, info_name=name, parent=parent)
    configured = [] if file is None else ["--config", str(file)]
    # Without arguments those that are required are missing, which Click permits where it also hides errors.
    opened = command.make_context(path[-1], [*configured, *arguments], parent=parent, resilient_parsing=not arguments)
    given = given_options(opened, file, os.environ)
    rows = []
    for option in options_of(command):
        table, key = tables_of(command_path(opened), option)[-1], key_of(option)
        value, detail = opened.params.get(option.name), ""
        value = None if value in ([], ()) else value
        found = opened.get_parameter_source(option.name)
        if found is not None and found.name == "DEFAULT_MAP":
            one = given[option.name]
            rows.append(Effective(one.table, key, value, one.source, one.place))
            continue
        is_default = found is None or found.name == "DEFAULT"
        if is_default and value is None and option.name in SETTING_OPTIONS:
            value = SETTING_OPTIONS[option.name].default
        elif is_default and value is None and isinstance(option.show_default, str):
            detail = option.show_default
        source = "default" if is_default else "command line"
        rows.append(Effective(table, key, value, source, detail=detail, is_shared=bool(option.rich_help_panel)))
    return rows


def _by_table(rows: Iterable[Effective]) -> dict[str, list[Effective]]:
    """Rows by table; an option that several commands have alike is there once."""
    tables: dict[str, dict[str, Effective]] = {}
    for row in rows:
        tables.setdefault(row.table, {}).setdefault(row.key, row)
    return {table: list(rows.values()) for table, rows in tables.items()}


def _shown(value: Any) -> Any:
    """A value without the password of an address."""
    return _PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value


def _as_json(row: Effective) -> dict[str, Any]:
    return {"value": _shown(row.value), "source": row.source, "place": row.place or None}


def _as_line(row: Effective) -> str:
    """A row as a line of a file; defaults are comments, because some options need others."""
    if row.value is None:
        return f"# {row.key}: {row.detail or 'not set'} (default)"
    line = f"{row.key} = {format_toml(_shown(row.value))}"
    return f"# {line} (default)" if row.source == "default" else f"{line}  # {f'{row.source} {row.place}'.strip()}"
