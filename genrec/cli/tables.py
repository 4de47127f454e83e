"""A recommendation list as people read it and as programs read it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genrec.cli.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from genrec.types import Driver, Recommendation, RecommendationList

_SHOWN_DRIVERS = 2
_WIDEST = 130  # characters of a table, however wide the terminal
_SOURCE = 20  # characters in a line of where an item is from
_SEVERAL_COLUMNS = 110  # from this width on the drivers have a column of their own


def as_json(person: Mapping[str, Any], answer: "RecommendationList") -> dict[str, Any]:
    """One person and their list, in plain values; a drop that JSON cannot write (the item would go) becomes null."""
    return {**person, **asdict(answer)}


def as_table(
    answer: "RecommendationList", *, width: int, reasons: bool, extra: Mapping[str, Mapping[Any, str]] | None = None
) -> "Table":
    """Rank, title, score and source, and what drove each item.

    Args:
        answer: the list.
        width: characters there are; drivers stand under the title where they are few.
        reasons: show the sentence too.
        extra: further columns, by name: text for each item id.
    """
    from rich.table import Table

    wide = width >= _SEVERAL_COLUMNS and any(item.drivers for item in answer.items)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", width=min(width, _WIDEST))
    table.add_column("#", justify="right", no_wrap=True, min_width=len(str(len(answer.items))))
    table.add_column("title", ratio=1, overflow="fold")
    for name in extra or {}:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("source", max_width=_SOURCE, overflow="fold")
    if wide:
        table.add_column("driven by", ratio=1, overflow="fold")
    for item in answer.items:
        drivers = _drivers(item.drivers)
        cells: list[RenderableType] = [str(item.rank), _title(item, None if wide else drivers, reasons)]
        cells += [clean(values.get(item.item_id, "")) for values in (extra or {}).values()]
        cells += [f"{item.score:.2f}", clean(item.source)]
        table.add_row(*cells, *([drivers] if wide else []))
    return table


def as_footer(answer: "RecommendationList") -> "Text":
    """Whether the ranking is proven, over how many items, what should be known, and the time it took."""
    from rich.text import Text

    if not answer.items:
        text = Text("nothing to recommend", style="yellow")
    elif answer.proven:
        text = Text(
            f"proven: no other allowed item scores higher; {answer.compared:,} were compared in full", style="green"
        )
    else:
        text = Text(f"not proven: {answer.compared:,} items were compared, not all that are allowed", style="yellow")
    text.append(f" · {answer.seconds:.2f} s", style="dim")
    if any(item.drivers for item in answer.items):
        text.append("\nIn brackets: how far the score falls without that item of the history.", style="dim")
    for notice in answer.notices:
        text.append(f"\nnote: {clean(notice, longest=1000)}", style="yellow")
    return text


def show(console: "Console", answer: "RecommendationList", *, reasons: bool) -> None:
    """The table and the footer."""
    if answer.items:
        console.print(as_table(answer, width=console.width, reasons=reasons))
    console.print(as_footer(answer))


def _title(item: "Recommendation", drivers: "Text | None", reasons: bool) -> "Text":
    from rich.text import Text

    text = Text(clean(item.title))
    if reasons and item.reason:
        text.append(f"\n{clean(item.reason)}", style="italic")
    if drivers:
        text.append("\n").append("driven by ", style="dim").append_text(drivers)
    return text


def _drivers(drivers: "tuple[Driver, ...]") -> "Text":
    from rich.text import Text

    parts = [f"{clean(driver.title, longest=60)} (-{driver.drop:.2f})" for driver in drivers[:_SHOWN_DRIVERS]]
    left = len(drivers) - len(parts)
    return Text(", ".join(parts) + (f", and {left} more" if left else ""), style="dim")
