"""`genrec data check`: what was understood of the caller's files, and how to run with them."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genrec.cli import data, loading, options, terminal
from genrec.cli.config_file import options_of
from genrec.cli.init import Interactions, Items, recognized_columns
from genrec.cli.settings_options import setting_options
from genrec.errors import MODEL_ERRORS

if TYPE_CHECKING:
    from genrec.data.catalog import Catalog
    from genrec.data.interactions import Interactions as Events
    from genrec.data.table import Table
    from genrec.settings import Settings

_ROLES: Mapping[str, Mapping[str, str]] = {
    "items": {"item_id": "ids of items", "title": "titles"},
    "interactions": {
        "user_id": "ids of users",
        "item_id": "ids of items",
        "timestamp": "times",
        "event": "kinds of interaction",
        "weight": "weights",
    },
}
_REQUIRED = {"items": ("item_id", "title"), "interactions": ("user_id", "item_id")}
_MAX_SCALE = 21  # different values; a column of numbers with more is no scale of ratings
_MAX_TITLES = 100_000  # of larger catalogs every n-th title is tried with the tokenizers
_EXAMPLES = 3


@options.with_options(options.FILE_OPTIONS, options.EVENT_OPTIONS, setting_options("model", "encoder", "api_url"))
def check(
    context: typer.Context,
    items: Items,
    interactions: Interactions = None,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Show what is understood of your files, what the models cannot read, and how to run with them."""
    from genrec.cache import default_cache
    from genrec.data.scripts import count_scripts

    settings = loading.settings_from_options(given)
    source = loading.DataSource.from_options({**given, "items": items, "interactions": interactions})
    with terminal.progress() as progress:
        progress.start(f"Reading {source.name}")
        catalog, events = source.read(default_cache())
        columns = {"items": _describe_columns(source, "items", *_read_whole(source, "items", items))}
        facts: dict[str, Any] = {"name": source.name, "items": data.describe_items(catalog)}
        facts["scripts"] = count_scripts(catalog.titles)
        if events is not None and interactions is not None:
            whole, used = _read_whole(source, "interactions", interactions)
            columns["interactions"] = _describe_columns(source, "interactions", whole, used)
            with loading.translate_option_errors():
                facts["interactions"] = data.describe_interactions(catalog, events)
            facts["interactions"]["repeated"] = _count_repeated(whole, used)
        progress.start("Trying the tokenizers")
        facts["tokenizers"] = _try_tokenizers(catalog, settings, default_cache())
    facts |= {"columns": columns, "command": _command_of(context, catalog, events)}
    if as_json:
        terminal.write_json(facts)
    else:
        _print(facts)


def _read_whole(source: loading.DataSource, table: str, path: Path) -> "tuple[Table, dict[str, str]]":
    """A file with all columns under their own names, and genrec's names of those that are used, by these."""
    from genrec.data.column_mapping import ColumnMapping
    from genrec.data.readers import read_table
    from genrec.data.timestamps import needs_timestamp

    is_items = table == "items"
    whole = read_table(path, ColumnMapping((), None, {}), file_format=source.formats.get(table))
    timestamp = ("timestamp",) if not is_items and needs_timestamp(source.order) else ()
    mapping = ColumnMapping(
        (*_REQUIRED[table], *timestamp),
        None if is_items else ("event", "weight"),
        source.columns.get(table, {}),
        source.id_from.get(table, ()),
        source.take if is_items else None,
    )
    chosen, _ = mapping.select([*whole.columns], whole.source)
    return whole, {theirs: ours for ours, theirs in chosen.items()}


def _describe_columns(
    source: loading.DataSource, table: str, whole: "Table", used: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The columns of a file by name: their role, type, and numbers of missing and different values."""
    roles = {theirs: _ROLES[table].get(ours, "attribute") for theirs, ours in used.items()}
    roles |= {name: "part of the id" for name in source.id_from.get(table, ()) if name in whole.columns}
    described = {name: {"role": roles.get(name, "not used")} | _describe_values(whole, name) for name in whole.columns}
    unreadable = [notice.fields for notice in whole.notices if notice.code == "column_left_out"]
    return described | {str(one["column"]): {"role": "unreadable", "why": one["why"]} for one in unreadable}


def _describe_values(table: "Table", name: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    from genrec.data.column_types import describe_type, missing_mask

    values = table.columns[name]
    found: dict[str, Any] = {"holds": describe_type(values.type), "missing": int(missing_mask(values).sum())}
    if pa.types.is_nested(values.type):
        return found
    found["distinct"] = int(pc.count_distinct(values, mode="only_valid").as_py())
    if found["holds"] == "numbers":
        found |= pc.min_max(values).as_py()
        found["scale"] = sorted(pc.unique(values.drop_null()).to_pylist()) if found["distinct"] <= _MAX_SCALE else None
    return found


def _count_repeated(whole: "Table", used: Mapping[str, str]) -> int:
    """The number of rows that equal an earlier one in user, item and time."""
    import pyarrow as pa

    names = [theirs for theirs, ours in used.items() if ours in ("user_id", "item_id", "timestamp")]
    rows = pa.table({name: whole.columns[name] for name in names})
    return int(rows.num_rows - rows.group_by(names).aggregate([]).num_rows)


def _try_tokenizers(catalog: "Catalog", settings: "Settings", cache: Path) -> dict[str, dict[str, Any]]:
    """For each model, the titles with parts that its tokenizer does not know, or why it was not tried."""
    from genrec.datasets.model_directory import find_model_directory
    from genrec.prompting.unknown_text import find_unknown_texts

    titles = catalog.titles[:: -(-len(catalog) // _MAX_TITLES)]
    found: dict[str, dict[str, Any]] = {}
    for role, name in (("language model", settings.local_model), ("encoder", settings.encoder)):
        if name is None:
            continue
        try:
            file = find_model_directory(name, cache, weights=False) / "tokenizer.json"
            token, unknown = find_unknown_texts(file, titles)
        except MODEL_ERRORS as error:
            found[role] = {"name": str(name), "not_tried": str(error)}
            continue
        examples = [titles[number] for number in unknown[:_EXAMPLES]]
        found[role] = {"name": str(name), "token": token, "unknown": len(unknown), "titles": len(titles)}
        found[role]["examples"] = examples
    return found


def _command_of(context: typer.Context, catalog: "Catalog", events: "Events | None") -> list[str]:
    """The command that writes a file with what was understood."""
    params = context.params
    files = [str(params[name]) for name in ("items", "interactions") if params.get(name) is not None]
    notices = {"items": catalog.notices, "interactions": () if events is None else events.notices}
    words = ["genrec", "init", *files]
    words += [word for pair in recognized_columns(notices) for word in ("--columns", pair)]
    for option in options_of(context.command):
        value = params.get(str(option.name))
        if value is not None and not isinstance(value, bool):
            words += [word for one in (value if option.multiple else [value]) for word in (option.opts[0], str(one))]
    return words


def _print(facts: Mapping[str, Any]) -> None:
    rows = data.rows_of({name: value for name, value in facts.items() if name in ("name", "items", "interactions")})
    rows = [(name, value) for name, value in rows if name not in facts["items"]["attributes"]]
    for table, columns in facts["columns"].items():
        lines = [f"{terminal.sanitize_line(name)}: {_column_line(column)}" for name, column in columns.items()]
        rows.append((f"columns of {table}", "\n".join(lines)))
    if events := facts.get("interactions"):
        rows.append(("duplicates", f"{events['repeated']:,} interactions equal another in user, item and time"))
        rows.append(("items nobody met", f"{facts['items']['count'] - events['items_met']:,}"))
    rows.append(("scripts of titles", ", ".join(f"{script} {count:,}" for script, count in facts["scripts"].items())))
    rows += [(f"titles for the {role}", _tokenizer_line(one)) for role, one in facts["tokenizers"].items()]
    data.print_rows(rows)
    terminal.write_line("\nto run with these files:")
    terminal.write_line(f"  {terminal.sanitize_line(shlex.join(facts['command']), max_length=10_000)}")
    terminal.write_line("  genrec recommend --config genrec.toml")


def _column_line(column: Mapping[str, Any]) -> str:
    if "why" in column:
        return f"unreadable, because it {terminal.sanitize_line(column['why'])}"
    parts = [column["role"], column["holds"]]
    if "min" in column:
        scale = column["scale"]
        parts.append(f"{column['min']:,} to {column['max']:,}" + (f" in {len(scale)} steps" if scale else ""))
    elif "distinct" in column:
        parts.append(f"{column['distinct']:,} different")
    return ", ".join(parts) + (f"; missing in {column['missing']:,} rows" if column["missing"] else "")


def _tokenizer_line(one: Mapping[str, Any]) -> str:
    if "not_tried" in one:
        return f"{one['name']}: not tried, because {terminal.sanitize_line(one['not_tried'], max_length=300)}"
    if not one["unknown"]:
        return f"{one['name']} has tokens for all of {one['titles']:,} titles"
    examples = ", ".join(terminal.sanitize_line(title, max_length=40) for title in one["examples"])
    return f"{one['name']} reads {one['token']} in {one['unknown']:,} of {one['titles']:,} titles, such as {examples}"
