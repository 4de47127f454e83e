"""A TOML file of options for all commands, such as genrec.toml.

A table of the file has the name of a heading of `--help` in lower case, such as [data] or [server], and holds for every
command with that heading; or it has the name of a command, such as [evaluate] or [batch.run], and holds for that
command alone, before the others. A key has the name of an option.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from genrec.errors import InputError, format_names, format_value

_SQLITE = "sqlite:///"
# Options whose value is a name or a path.
_NAMES_OR_PATHS = frozenset({"model", "adapter", "encoder", "template", "cold_template", "list_template", "prompt"})
_KINDS = {
    bool: "write true or false without quotes",
    int: "write a whole number without quotes",
    float: "write a number without quotes",
    str: "write it in quotes",
    list: "write a list of texts in quotes",
}


Tables = Mapping[str, Mapping[str, Any]]  # values by table and key
Known = Mapping[str, Mapping[str, Any]]  # parameters of Click by table and key


def key_of(parameter: Any) -> str:
    """The key of an option: its flag with underscores."""
    return str(parameter.opts[0]).lstrip("-").replace("-", "_")


def tables_of(path: Sequence[str], parameter: Any) -> list[str]:
    """The tables that may hold an option of a command, those that go first at the beginning.

    Args:
        path: the words of the command, such as ("batch", "run").
    """
    own = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    heading = parameter.rich_help_panel
    return [*own, heading.lower()] if heading else own


def options_of(command: Any) -> list[Any]:
    """The options of a command that a file can set."""
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    return [one for one in options if one.name != "config"]


def iter_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, each with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from iter_commands(command, (*path, name))
        else:
            yield (*path, name), command


def command_path(context: Any) -> tuple[str, ...]:
    """The words of the command that a context is for."""
    return () if context.parent is None else (*command_path(context.parent), str(context.info_name))


def known_options(root: Any) -> Known:
    """The options of all commands by table and key."""
    known: dict[str, dict[str, Any]] = {}
    for path, command in iter_commands(root):
        for option in options_of(command):
            for table in tables_of(path, option):
                known.setdefault(table, {}).setdefault(key_of(option), option)
    return known


def read_config(file: Path, context: Any) -> Tables:
    """Read and check a file; paths in it become absolute.

    Args:
        file: its path.
        context: of the command that runs, below the root of all commands.

    Raises:
        InputError: the file cannot be read, is not TOML, has a table or a key that no command has, or a value that the
            option does not take.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"--config {file} does not exist; name a file, or write one with genrec init") from error
    except OSError as error:
        raise InputError(f"--config {file} cannot be read: {error.strerror}; name a TOML file") from error
    except ValueError as error:  # of tomllib, or not UTF-8
        raise InputError(f"--config {file} is not TOML: {error}; correct it, or write one with genrec init") from error
    known = known_options(context.find_root().command)
    return {
        table: _read_table(file, table, keys, known, context) for table, keys in _iter_tables(file, document, known)
    }


def _iter_tables(
    file: Path, entries: Mapping[str, Any], known: Known, parent: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of a document; a table that is not an option of its parent is one of a command, such as batch.run."""
    for name, value in entries.items():
        table = f"{parent}.{name}" if parent else name
        if table not in known:
            problem = f"{file}: [{table}] is not a table of options"
            if not isinstance(value, dict):
                problem = f"{file}: {name} = {format_value(value)} is outside of a table"
            raise InputError(problem, remedy=_advise(name, table, known))
        if not isinstance(value, dict):
            raise InputError(f"{file}: {table} = {format_value(value)} is not a table; write [{table}] and options")
        nested = {key: one for key, one in value.items() if f"{table}.{key}" in known and key not in known[table]}
        yield table, {key: one for key, one in value.items() if key not in nested}
        yield from _iter_tables(file, nested, known, table)


def _read_table(file: Path, table: str, keys: Mapping[str, Any], known: Known, context: Any) -> dict[str, Any]:
    values = {}
    for key, value in keys.items():
        place = f"{file}: [{table}] {key} = {format_value(value)}"
        if key not in known[table]:
            raise InputError(f"{place} is not an option of {table}", remedy=_advise(key, table, known))
        values[key] = _resolve_path(file.parent, key, _convert(place, known[table][key], value, context))
    return values


def _advise(key: str, table: str, known: Known) -> str:
    """What may have been meant by an unknown key or table."""
    if tables := [name for name in known if key in known[name]]:
        return f"move it to {format_names([f'[{name}]' for name in tables])}"
    if close := difflib.get_close_matches(key, known.get(table, {}), 1):
        return f"did you mean {close[0]}?"
    if table not in known and (close := difflib.get_close_matches(table, known, 1)):
        return f"did you mean [{close[0]}]?"
    if close := difflib.get_close_matches(key, {one for keys in known.values() for one in keys}, 1):
        return f"did you mean {close[0]} in [{next(name for name in known if close[0] in known[name])}]?"
    return "remove it; genrec config show lists every table and option"


def _convert(place: str, option: Any, value: Any, context: Any) -> Any:
    """A value as the option takes it: texts of NAME=VALUE for a table, and a list for one text.

    Raises:
        InputError: the option does not take the value.
    """
    if option.multiple:
        value = _pairs(value) if isinstance(value, dict) and "=" in (option.metavar or "") else value
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{place} is not what --{key_of(option)} takes; {_KINDS[list]}")
    try:
        taken = option.process_value(context, value)
    except typer.BadParameter as error:
        raise InputError(f"{place} is not what {option.opts[0]} takes: {error.message}") from None
    if option.multiple or type(taken) is type(value) or (isinstance(taken, float) and type(value) is int):
        return value
    if isinstance(taken, Path) and isinstance(value, str):
        return taken
    kind = str if isinstance(taken, Path) else type(taken)
    raise InputError(f"{place} is not what {option.opts[0]} takes; {_KINDS.get(kind, 'see its --help')}")


def _pairs(entries: Mapping[str, Any], parent: str = "") -> list[str]:
    """The entries of a table as NAME=VALUE; the names of nested tables are joined with dots."""
    pairs = []
    for name, value in entries.items():
        if isinstance(value, dict):
            pairs += _pairs(value, f"{parent}{name}.")
        else:
            pairs.append(f"{parent}{name}={value if isinstance(value, str) else json.dumps(value, default=str)}")
    return pairs


def _resolve_path(folder: Path, key: str, value: Any) -> Any:
    """A path relative to the file's folder as an absolute one; other values unchanged."""
    if isinstance(value, Path):
        return folder.absolute() / value.expanduser()
    if key in _NAMES_OR_PATHS and isinstance(value, str):
        return absolute_path(value, folder)
    if isinstance(value, str) and value.startswith(_SQLITE) and value != f"{_SQLITE}:memory:":
        return f"{_SQLITE}{folder.absolute() / value.removeprefix(_SQLITE)}"
    return value


def absolute_path(name: Any, folder: Path = Path()) -> str:
    """An absolute path; names of bundled models, data sets and templates are returned unchanged.

    Args:
        name: a name or a path.
        folder: that the path is relative to.
    """
    if not os.path.exists(folder / name):
        return str(name)
    from genrec.datasets.models import MODELS
    from genrec.datasets.registry import DATASETS
    from genrec.prompting.template import template_names

    return str(name) if name in {"none", *MODELS, *DATASETS, *template_names()} else os.path.abspath(folder / name)
