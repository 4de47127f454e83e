"""Options that several commands share; each has the name of the Python parameter.

An option that is not given is None, which stands for the default of the library. The options of settings are in
`genrec.cli.settings_options`.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from genrec.cli.settings_options import MODEL_PANEL, RANKER_PANEL

_DATA_PANEL, _FILTER_PANEL = "Data", "Filters"

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]

K = Annotated[int, typer.Option("--k", "-k", help="List length.")]
Explain = Annotated[
    bool, typer.Option("--explain/--no-explain", help="Show which history items drove each recommendation.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; fail if a model is missing.")]

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Name of a data set.",
        show_default="online-retail without your own files",
        rich_help_panel=_DATA_PANEL,
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(
        "--items",
        metavar="FILE",
        help="Table of items: item_id, title, and any other columns.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Interactions = Annotated[
    Path | None,
    typer.Option(
        "--interactions",
        metavar="FILE",
        help="Table of interactions: user_id, item_id, timestamp.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN",
        help="Name of a column in your files, such as user_id=CustomerID; can be repeated. Write items.item_id=... or "
        "interactions.item_id=... for one file only. For a file without a header: the names of its columns in order, "
        "such as items=item_id,title,_ (_ is not read).",
        rich_help_panel=_DATA_PANEL,
    ),
]
Separator = Annotated[
    list[str] | None,
    typer.Option(
        "--separator",
        metavar="[TABLE=]TEXT",
        help="Separator of the columns in your files: one character, ::, or tab; found by itself if not given. Write "
        "items=... or interactions=... for one file only.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Encoding = Annotated[
    list[str] | None,
    typer.Option(
        "--encoding",
        metavar="[TABLE=]NAME",
        help="Encoding of your files, such as cp1252 or gb18030; found by itself if not given.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="[TABLE=]CHOICE",
        help="Whether the first line of your files names the columns (first) or is data (none); found by itself if not "
        "given.",
        rich_help_panel=_DATA_PANEL,
    ),
]

IdFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--id-from",
        metavar="[TABLE=]COLUMNS",
        help="Columns that make the id of an item where no column has it, such as artist,track; or row: the numbers of "
        "the rows. Write items=... or interactions=... for one file only.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Take = Annotated[
    list[str] | None,
    typer.Option(
        "--take",
        metavar="COLUMNS",
        help="Columns of the items to read beside id and title, such as genres,year; by default all.",
        rich_help_panel=_DATA_PANEL,
    ),
]
Order = Annotated[
    str | None,
    typer.Option(
        "--order",
        metavar="CHOICE",
        help="What orders the interactions of a user: time (the column timestamp, in the unit that its size shows); s, "
        "ms, us or ns (the same in this unit); numbers (order numbers); rows (the order of the file); or none (no "
        "order is known or used).",
        show_default="time",
        rich_help_panel=_DATA_PANEL,
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types",
        metavar="COLUMN=TYPE",
        help="What a column of the items is read as: text, number, decimal-comma, boolean, list, minutes, h:m or m:s, "
        "such as price=decimal-comma; text alone leaves every column as it is written.",
        rich_help_panel=_DATA_PANEL,
    ),
]

Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        help="Catalog saved by `genrec index build`, with the tokenizer of the model.",
        rich_help_panel=_DATA_PANEL,
    ),
]

Words = Annotated[str | None, typer.Option("--words", metavar="TEXT", help="What the user is looking for.")]
History = Annotated[
    list[str] | None,
    typer.Option("--history", metavar="ITEM", help="Item in the history, oldest first; can be repeated."),
]

FilterSeen = Annotated[
    bool,
    typer.Option(
        "--filter-seen/--no-filter-seen", help="Exclude items that are in the history.", rich_help_panel=_FILTER_PANEL
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="ITEM", help="Recommend only this item; can be repeated.", rich_help_panel=_FILTER_PANEL
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="ITEM", help="Never recommend this item; can be repeated.", rich_help_panel=_FILTER_PANEL
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help="Filter on columns, such as 'price < 5'; can be repeated, and all must hold.",
        rich_help_panel=_FILTER_PANEL,
    ),
]
Boost = Annotated[
    list[str] | None,
    typer.Option(
        "--boost",
        metavar="ITEM=NUMBER",
        help="Number to add to the score of an item; can be repeated.",
        rich_help_panel=_FILTER_PANEL,
    ),
]

Reader = Annotated[
    str | None,
    typer.Option(
        "--reader",
        metavar="CHOICE",
        help="How messages are parsed: by rules, or by rules with the language model as fallback (model).",
        show_default="rules",
        rich_help_panel=MODEL_PANEL,
    ),
]
Replies = Annotated[
    str | None,
    typer.Option(
        "--replies",
        metavar="CHOICE",
        help="Replies of the language model: limited to facts from the catalog (bound), or free text that links items "
        "(free).",
        show_default="bound",
        rich_help_panel=MODEL_PANEL,
    ),
]
RankingTimeout = Annotated[
    float | None,
    typer.Option(
        "--ranking-timeout",
        "--patience",
        metavar="SECONDS",
        help="Time limit for ranking in one turn of a conversation.",
        show_default="1.5",
        rich_help_panel=RANKER_PANEL,
    ),
]

FILE_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "columns": Columns,
        "separator": Separator,
        "encoding": Encoding,
        "header": Header,
        "id_from": IdFrom,
        "take": Take,
        "types": Types,
    }
)
"""How the files of a command are read."""

EVENT_OPTIONS: Mapping[str, Any] = MappingProxyType({"order": Order})
"""How the interactions of a command are read."""

DATA_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"data": Data, "items": Items, "interactions": Interactions, **FILE_OPTIONS, **EVENT_OPTIONS}
)
# Each key is a parameter of `genrec.chat.loading.advisor_builder`.
ADVISOR_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"parser": Reader, "reply_mode": Replies, "ranking_timeout": RankingTimeout}
)


def with_options(*groups: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add groups of options to a command, after its own; they arrive as keyword arguments, None if not given.

    Args:
        groups: annotated types by parameter name, such as `DATA_OPTIONS`.
    """
    options = {name: kind for group in groups for name, kind in group.items()}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    ]
    return _with_parameters(parameters, options)


def with_options_of(other: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of another function to a command, after its own; they arrive as keyword arguments."""
    return _with_parameters(list(inspect.signature(other).parameters.values()), inspect.get_annotations(other))


def _with_parameters(
    parameters: list[inspect.Parameter], annotations: Mapping[str, Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own_parameters = [kept for kept in signature.parameters.values() if kept.kind is not kept.VAR_KEYWORD]
        changed: Any = command
        changed.__signature__ = signature.replace(parameters=[*own_parameters, *parameters])
        changed.__annotations__ = {**annotations, **inspect.get_annotations(command)}
        return command

    return decorate
