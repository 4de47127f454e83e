"""`genrec init`: write the options for your own data to a file that every command takes with --config."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.cli.config import format_toml
from genrec.cli.config_file import absolute_path, key_of, known_options, options_of, tables_of
from genrec.cli.settings_options import SETTING_OPTIONS, setting_options
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.notices import Notice

_TABLES = ("data", "model", "ranker", "server")  # always in the file
_COLUMNS = "columns"  # in a table of its own
_HEADER = (
    "# Options of all genrec commands: genrec recommend --config {name}\n"
    "# Paths are relative to this file. Lines with # show defaults; options on the command line go before this file.\n"
    "# Other tables and keys: genrec config show\n"
)

Items = Annotated[Path, typer.Argument(metavar="ITEMS", help="Table of items: item_id, title, and any other columns.")]
Interactions = Annotated[
    Path | None,
    typer.Argument(metavar="[INTERACTIONS]", help="Table of interactions: user_id, item_id, timestamp."),
]
Output = Annotated[Path, typer.Option("--output", metavar="FILE", help="File to write.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]


@options.with_options(options.FILE_OPTIONS, options.EVENT_OPTIONS, setting_options())
def init(
    context: typer.Context,
    items: Items,
    interactions: Interactions = None,
    output: Output = Path("genrec.toml"),
    force: Force = False,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Read your files, and write a file for --config with what was understood and the options given here."""
    from genrec.cache import default_cache

    if output.exists() and not force:
        raise InputError(f"{output} exists; add --force to overwrite it, or choose another file with --output")
    loading.settings_from_options(given)
    source = loading.DataSource.from_options({**given, "items": items, "interactions": interactions})
    with terminal.progress() as progress:
        progress.start(f"Reading {source.name}")
        catalog, events = source.read(default_cache())
    notices = {"items": catalog.notices, "interactions": () if events is None else events.notices}
    comments = [str(notice) for found in notices.values() for notice in found]
    columns = [*recognized_columns(notices), *(given.pop(_COLUMNS) or ())]
    tables = given_tables(context, {**given, "items": items, "interactions": interactions}, output.parent)
    _write(output, _format_file(output, tables, columns, comments, _defaults(context)))
    if as_json:
        terminal.write_json({"file": str(output), "notices": comments})
    else:
        terminal.write_line(f"wrote {output}; try genrec recommend --config {output}")


def recognized_columns(notices: "Mapping[str, Iterable[Notice]]") -> list[str]:
    """The columns that were recognised by their names, as --columns takes them."""
    return [
        f"{table}.{name}={column}"
        for table, found in notices.items()
        for notice in found
        for name, column in dict(notice.fields.get("recognized", {})).items()  # type: ignore[call-overload]
    ]


def given_tables(context: typer.Context, given: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The options of a command by table and key, and its files in the table of data, for a file in a folder."""
    files = {name: given[name] for name in ("items", "interactions") if given.get(name) is not None}
    tables = {"data": {name: _relative_path(file, folder) for name, file in files.items()}}
    for option in options_of(context.command):
        value = given.get(str(option.name))
        if value is None or value == []:
            continue
        if isinstance(value, str) and (resolved := absolute_path(value)) != value:
            value = _relative_path(Path(resolved), folder)
        tables.setdefault(tables_of((), option)[-1], {})[key_of(option)] = value
    return tables


def _defaults(context: typer.Context) -> dict[str, dict[str, Any]]:
    """The defaults of the tables that are always in the file."""
    defaults: dict[str, dict[str, Any]] = {}
    for table in _TABLES:
        for key, option in known_options(context.find_root().command)[table].items():
            setting = SETTING_OPTIONS.get(option.name)
            default = option.default if setting is None else setting.default
            if default is not None and table in tables_of((), option):
                defaults.setdefault(table, {})[key] = default
    return defaults


def _format_file(
    output: Path,
    tables: Mapping[str, Mapping[str, Any]],
    columns: Iterable[str],
    comments: Iterable[str],
    defaults: Mapping[str, Mapping[str, Any]],
) -> str:
    lines = [_HEADER.format(name=output.name)]
    for table in dict.fromkeys([*_TABLES, *tables]):
        lines.append(f"[{table}]")
        chosen = tables.get(table, {})
        lines += [f"{key} = {format_toml(value)}" for key, value in chosen.items()]
        lines += [f"# {key} = {format_toml(v)}" for key, v in defaults.get(table, {}).items() if key not in chosen]
        if table == "data":
            lines += [f"# {terminal.sanitize_line(text, max_length=1000)}" for text in comments]
            pairs = dict(pair.split("=", 1) for pair in columns)
            lines += ["", f"[data.{_COLUMNS}]"] if pairs else []
            lines += [f"{format_toml(name)} = {format_toml(column)}" for name, column in pairs.items()]
        lines.append("")
    return "\n".join(lines)


def _relative_path(path: Path, folder: Path) -> str:
    """A path relative to a folder if it is inside, else an absolute one."""
    found, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(found.relative_to(base) if found.is_relative_to(base) else found)


def _write(output: Path, text: str) -> None:
    """Write the whole file or none of it."""
    from genrec.artifact import atomic_writer

    try:
        with atomic_writer(output) as file:
            file.write(text.encode())
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}; choose another file with --output") from error
