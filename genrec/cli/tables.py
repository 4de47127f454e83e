"""Recommendation lists as tables and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genrec.cli.terminal import sanitize_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from genrec.types import Driver, Recommendation, RecommendationList

_SHOWN_DRIVERS = 2
_MAX_TABLE_WIDTH = 130  # characters of a table, however wide the terminal
_SOURCE_WIDTH = 20  # characters of the source column
_DRIVER_COLUMN_MIN_WIDTH = 110  # narrower tables show the drivers below the title


def as_json(user: Mapping[str, Any], recommendations: "RecommendationList") -> dict[str, Any]:
    """A user and their list, in plain values."""
    return {**user, **list_fields(recommendations)}


def list_fields(recommendations: "RecommendationList") -> dict[str, Any]:
    """The fields of a list in plain values; `left_out` is the former name of `failed_stages`, kept for one release."""
    return {
        **asdict(recommendations),
        "items": [item_fields(item) for item in recommendations.items],
        "notices": [str(notice) for notice in recommendations.notices],
        "notice_details": [asdict(notice) for notice in recommendations.notices],
        "left_out": recommendations.failed_stages,
    }


def item_fields(item: "Recommendation") -> dict[str, Any]:
    """The fields of a recommended item in plain values."""
    return {**asdict(item), "source": item.source}


def as_table(
    recommendations: "RecommendationList",
    *,
    width: int,
    show_reasons: bool,
    extra_columns: Mapping[str, Mapping[Any, str]] | None = None,
) -> "Table":
    """A table of rank, title, score, source and drivers.

    Args:
        recommendations: the list.
        width: available characters; narrow tables show the drivers below the title.
        show_reasons: show the reason of each item below its title.
        extra_columns: further columns by name, each with the text for an item id.
    """
    from rich.table import Table

    wide = width >= _DRIVER_COLUMN_MIN_WIDTH and any(item.drivers for item in recommendations.items)
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", width=min(width, _MAX_TABLE_WIDTH)
    )
    table.add_column("#", justify="right", no_wrap=True, min_width=len(str(len(recommendations.items))))
    table.add_column("title", ratio=1, overflow="fold")
    for name in extra_columns or {}:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("source", max_width=_SOURCE_WIDTH, overflow="fold")
    if wide:
        table.add_column("driven by", ratio=1, overflow="fold")
    for item in recommendations.items:
        drivers = _drivers(item.drivers)
        cells: list[RenderableType] = [str(item.rank), _title(item, None if wide else drivers, show_reasons)]
        cells += [sanitize_line(values.get(item.item_id, "")) for values in (extra_columns or {}).values()]
        cells += [f"{item.score:.2f}", sanitize_line(item.source)]
        table.add_row(*cells, *([drivers] if wide else []))
    return table


def as_footer(recommendations: "RecommendationList") -> "Text":
    """Whether the ranking is proven, the number of compared items, the time, and the notices."""
    from rich.text import Text

    if not recommendations.items:
        text = Text("No item to recommend", style="yellow")
    elif recommendations.proven:
        text = Text(
            f"Best of all allowed items (proven); {recommendations.compared:,} compared",
            style="green",
        )
    else:
        text = Text(
            f"Best of {recommendations.compared:,} candidates (not proven for the whole catalog)", style="yellow"
        )
    text.append(f" · {recommendations.seconds:.2f} s", style="dim")
    if recommendations.cost:
        text.append(f" · cost {recommendations.cost:.2g}", style="dim")
    if any(item.drivers for item in recommendations.items):
        text.append("\nIn brackets: the drop in score without that history item.", style="dim")
    for notice in recommendations.notices:
        text.append(f"\nnote: {sanitize_line(str(notice), max_length=1000)}", style="yellow")
    return text


def print_list(console: "Console", recommendations: "RecommendationList", *, show_reasons: bool) -> None:
    """Print a list as a table with its footer."""
    if recommendations.items:
        console.print(as_table(recommendations, width=console.width, show_reasons=show_reasons))
    console.print(as_footer(recommendations))


def _title(item: "Recommendation", drivers: "Text | None", show_reasons: bool) -> "Text":
    from rich.text import Text

    text = Text(sanitize_line(item.title))
    if show_reasons and item.reason:
        text.append(f"\n{sanitize_line(item.reason)}", style="italic")
    if drivers:
        text.append("\n").append("driven by ", style="dim").append_text(drivers)
    return text


def _drivers(drivers: "tuple[Driver, ...]") -> "Text":
    from rich.text import Text

    texts = [
        f"{sanitize_line(driver.title, max_length=60)} (-{driver.drop:.2f})" for driver in drivers[:_SHOWN_DRIVERS]
    ]
    num_hidden = len(drivers) - len(texts)
    return Text(", ".join(texts) + (f", and {num_hidden} more" if num_hidden else ""), style="dim")
