"""The table of model families in a page of documentation: rows by name, between two markers."""

from collections.abc import Mapping
from pathlib import Path

from eval.models.architectures import ARCHITECTURES
from eval.models.families import FamilyRow

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = ("model", "renders", "scores exactly", "tree", "LoRA", "vLLM", "writes", "notes")
NOT_TRIED = "not tried"
_START, _END = "<!-- python -m eval.models families --update -->", "<!-- end of the table -->"


def format_row(row: FamilyRow) -> dict[str, str]:
    """The cells of a row that `measure_family` fills, by column."""
    scores = "no" if row.difference is None else format_difference(row.difference)
    return {
        "renders": row.renders,
        "scores exactly": scores,
        "tree": row.tree or "none",
        "LoRA": "no" if row.lora is None else format_difference(row.lora),
        "writes": "yes" if row.writes else "no",
        "notes": row.notes.replace("|", "\\|"),
    }


def format_difference(difference: float) -> str:
    """A difference in nats with two digits, such as 1.7e-5."""
    digits, _, exponent = f"{difference:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def format_table(cells: Mapping[str, Mapping[str, str]]) -> str:
    """The table in Markdown, in the order of `ARCHITECTURES`; a cell that is missing was not tried."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for name in ARCHITECTURES:
        if name in cells:
            lines.append((name, *(cells[name].get(column, NOT_TRIED) for column in COLUMNS[1:])))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_table(page: Path = PAGE) -> dict[str, dict[str, str]]:
    """The cells of the table in a page, by row and column."""
    lines = _split(page.read_text(encoding="utf-8"))[1].strip().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").replace("\\|", "\0").split("|")] for line in lines]
    return {
        row[0]: {column: cell.replace("\0", "\\|") for column, cell in zip(COLUMNS[1:], row[1:], strict=True)}
        for row in rows
    }


def update_table(cells: Mapping[str, Mapping[str, str]], page: Path = PAGE) -> None:
    """Replace cells of the table in a page; those of other rows and columns stay."""
    text, old = page.read_text(encoding="utf-8"), read_table(page)
    before, _, after = _split(text)
    merged = {name: {**old.get(name, {}), **cells.get(name, {})} for name in (*old, *cells)}
    page.write_text(f"{before}\n{format_table(merged)}\n{after}", encoding="utf-8")


def _split(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers, which belong to the outer parts."""
    start, end = text.index(_START) + len(_START), text.index(_END)
    return text[:start], text[start:end], text[end:]
