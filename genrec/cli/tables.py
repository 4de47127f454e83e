"""A recommendation list as people read it and as programs read it."""

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
_SOURCE_WIDTH = 20  # characters in a line of where an item is from
_DRIVER_COLUMN_MIN_WIDTH = 110  # from this width on the drivers have a column of their own


def as_json(user: Mapping[str, Any], recommendations: "RecommendationList") -> dict[str, Any]:
    """One person and their list, in plain values; a drop that JSON cannot write (the item would go) becomes null."""
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
    """Rank, title, score and source, and what drove each item.

    Args:
        recommendations: the list.
        width: characters there are; drivers stand under the title where they are few.
        show_reasons: show the sentence too.
        extra_columns: further columns, by name: text for each item id.
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
    """Whether the ranking is proven, over how many items, what should be known, and the time it took."""
    from rich.text import Text

    if not recommendations.items:
        text = Text("nothing to recommend", style="yellow")
    elif recommendations.proven:
        text = Text(
            f"proven: no other allowed item scores higher; {recommendations.compared:,} were compared in full",
            style="green",
        )
    else:
        text = Text(
            f"not proven: {recommendations.compared:,} items were compared, not all that are allowed", style="yellow"
        )
    text.append(f" · {recommendations.seconds:.2f} s", style="dim")
    if any(item.drivers for item in recommendations.items):
        text.append("\nIn brackets: how far the score falls without that item of the history.", style="dim")
    for notice in recommendations.notices:
        text.append(f"\nnote: {sanitize_line(str(notice), max_length=1000)}", style="yellow")
    return text


def print_list(console: "Console", recommendations: "RecommendationList", *, show_reasons: bool) -> None:
    """The table and the footer."""
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

    parts = [
        f"{sanitize_line(driver.title, max_length=60)} (-{driver.drop:.2f})" for driver in drivers[:_SHOWN_DRIVERS]
    ]
    left = len(drivers) - len(parts)
    return Text(", ".join(parts) + (f", and {left} more" if left else ""), style="dim")
