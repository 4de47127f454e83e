"""Figures of benchmark results: ratios to peers, and genrec's own values with their floors and aims."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from eval.speed.picture import FAINT, INK, QUIET, RULE, save, text_width
from eval.speed.report import format_value

ROW_TITLES = {
    "C1": "children of 140 nodes",
    "C2": "ten times the items",
    "C3": "choosing the next beams",
    "C4": "nodes with many children",
    "C5": "building an index",
    "C6": "bytes per item",
    "C7": "peak memory of a build",
    "C8": "loading an index",
    "C9": "a filter, or a change",
    "C10": "beams, prompt 256",
    "C11": "beams, prompt 512",
    "C12": "scoring candidates",
    "C13": "bookkeeping of a step",
    "C14": "violated guarantees",
    "C15": "titles",
    "C16": "nearest embeddings",
    "C17": "a whole ranking",
}
VERDICTS = {
    "aim": ("#1f8a4c", "reaches the aim"),
    "floor": ("#2f74b5", "holds the floor"),
    "missed": ("#c0392b", "misses the floor"),
    "plain": (FAINT, "no floor"),
}
PACKAGES = ("torch", "numpy", "numba", "transformers")
LINE, TOP, FOOT = 0.37, 1.28, 0.62  # inches: height of a line, of the header and of the footer
LEFT, RIGHT, WIDTH = 3.6, 3.9, 12.4
SMALL = 7.5  # points
MIN_BARS = 4  # minimum number of lines, so that the legend fits

RowJson = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """One line of a figure; positions are on its axis.

    Attributes:
        name: what is compared, in two lines.
        dots: the position of each measured row, and its verdict.
        floor, aim: positions, or None.
        peer: the position of the peer's own value, or None.
        labels: the values as text, in two lines.
    """

    name: tuple[str, str]
    dots: list[tuple[float, str]]
    floor: float | None
    aim: float | None
    peer: float | None
    labels: tuple[str, str]


def read_runs(paths: Iterable[Path]) -> tuple[list[RowJson], list[RowJson]]:
    """Read the rows of runs and the facts of each run; later measurements of a row replace earlier ones.

    Args:
        paths: files that `--json` wrote.
    """
    rows: dict[tuple[Any, ...], RowJson] = {}
    runs = []
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        for row in run.pop("rows"):
            rows[row["id"], row["variant"], row["peer_name"], row["unit"]] = row
        runs.append(run)
    return sorted(rows.values(), key=lambda row: (row["id"][0], int(row["id"][1:]))), runs


def draw_runs(paths: Iterable[Path], directory: Path) -> list[Path]:
    """Draw the rows of runs: `speed.svg` of ratios and `speed-own.svg` of values, each with a PNG beside it.

    Args:
        paths: files that `--json` wrote; a figure without rows is not written.
        directory: the directory of the figures.

    Returns:
        The SVG files that were written.
    """
    rows, runs = read_runs(paths)
    written = []
    own = [row for row in rows if row["judged"] == "genrec" and row["genrec"] is not None]
    compared = [row for row in rows if row["ratio"] and row["judged"] == "ratio"]
    facts = _facts(runs)
    if compared:
        written.append(directory / "speed.svg")
        save(_ratios(compared, facts), written[-1])
    if any(row["floor"] for row in own):
        written.append(directory / "speed-own.svg")
        save(_values(own, facts), written[-1])
    return written


def _ratios(rows: Sequence[RowJson], facts: str) -> Figure:
    """Ratios as peer / genrec, whichever way the row's ratio is taken: right is better."""
    bars = []
    for group in _groups(rows, "id", "peer_name", "ratio_of", "floor", "aim"):
        first = group[0]
        dots = [(_better(row["ratio"], row), _verdict(row)) for row in group]
        worst = min(range(len(group)), key=lambda place: dots[place][0])
        values = [value for value, _ in dots]
        span = " to ".join(dict.fromkeys(map(_times, (min(values), max(values)))))
        count = f", {len(group)} rows" if len(group) > 1 else ""
        least = "least: " if len(group) > 1 else ""
        bars.append(Bar(
            _name(first, f"beside {first['peer_name']}"), dots, _bound(first, "floor"),
            _bound(first, "aim"), None, (span + count, _truncate(least + group[worst]["variant"])),
        ))  # fmt: skip
    axis = "what the peer takes / what genrec takes: right is better; a dot is a measured row"
    return _figure(bars, "genrec beside its peers", axis, facts)


def _values(rows: Sequence[RowJson], facts: str) -> Figure:
    """genrec's own value as a share of its floor: left is better."""
    bars, counts = [], []
    for row in rows:
        if not row["floor"]:
            counts.append(row)
            continue
        mine, peer = format_value(row["genrec"], row["unit"]), format_value(row["peer"], row["unit"])
        beside = f"  ·  {_truncate(row['peer_name'].split(',')[0], 1.4)} {peer}" if peer else ""
        floor, aim = (format_value(row[name], row["unit"]) for name in ("floor", "aim"))
        bars.append(Bar(
            _name(row, row["variant"]), [(row["genrec"] / row["floor"], _verdict(row))], 1.0,
            row["aim"] / row["floor"] if row["aim"] else None, row["peer"] / row["floor"] if row["peer"] else None,
            (mine + beside, f"floor {floor}" + (f", aim {aim}" if aim else "")),
        ))  # fmt: skip
    bars = _merged(bars)
    broken = sum(row["genrec"] for row in counts if row["floor"] == 0)
    promised = [row for row in counts if row["floor"] == 0]
    if promised:
        facts += f"\nC14: {len(promised)} promises, {promised[0]['unit'].removeprefix('of ')} each: {broken:.0f} broken"
    return _figure(bars, "genrec beside its floors and aims", "what genrec takes / floor: left is better", facts)


def _merged(bars: Sequence[Bar]) -> list[Bar]:
    """Lines of the same value beside several peers as one, that of the nearest peer."""
    kept: dict[tuple[tuple[str, str], float], Bar] = {}
    for bar in bars:
        key = (bar.name, bar.dots[0][0])
        known = kept.get(key)
        if known is None or (bar.peer or math.inf) < (known.peer or math.inf):
            kept[key] = bar
    return list(kept.values())


def _figure(bars: Sequence[Bar], title: str, axis: str, facts: str) -> Figure:
    height = TOP + LINE * max(len(bars), MIN_BARS) + FOOT + 0.16 * facts.count("\n")
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    foot = FOOT + 0.16 * facts.count("\n") + LINE * (max(len(bars), MIN_BARS) - len(bars))
    axes = figure.add_axes((
        LEFT / WIDTH, foot / height, (WIDTH - LEFT - RIGHT) / WIDTH, LINE * len(bars) / height,
    ))  # fmt: skip
    figure.text(0.25 / WIDTH, 1 - 0.32 / height, title, fontsize=15, weight="bold", color=INK, va="center")
    figure.text(0.25 / WIDTH, 1 - 0.62 / height, axis, fontsize=9, color=QUIET, va="center")
    figure.text(0.25 / WIDTH, 0.14 / height, facts, fontsize=SMALL, color=QUIET, va="bottom", linespacing=1.5)
    _scale(axes, bars)
    before = ""
    for line, bar in enumerate(bars):
        _draw(axes, bar, len(bars) - 1 - line)
        if before and bar.name[0].split()[0] != before:
            ends = (-(LEFT - 0.25) / (WIDTH - LEFT - RIGHT), 1 + (RIGHT - 0.25) / (WIDTH - LEFT - RIGHT))
            axes.axhline(len(bars) - line - 0.5, *ends, color=RULE, lw=0.7, clip_on=False)
        before = bar.name[0].split()[0]
    _legend(figure, bars, height)
    return figure


def _scale(axes: Axes, bars: Sequence[Bar]) -> None:
    places = [place for bar in bars for place, _ in bar.dots]
    places += [place for bar in bars for place in (bar.floor, bar.aim, bar.peer) if place]
    low, high = min([*places, 0.7]), max([*places, 1.4])
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.set_ylim(-0.5, len(bars) - 0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _times(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", length=0, labelsize=8, labelcolor=QUIET, labeltop=True, labelbottom=False)
    axes.grid(axis="x", which="major", color=RULE, lw=0.7)
    axes.set_axisbelow(True)
    axes.axvline(1.0, color=FAINT, lw=1.2, zorder=1)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw(axes: Axes, bar: Bar, y: int) -> None:
    values = [place for place, _ in bar.dots]
    axes.plot([min(values), max(values)], [y, y], color=RULE, lw=5, solid_capstyle="round", zorder=2)
    for place, half, width in ((bar.floor, 0.42, 1.8), (bar.aim, 0.28, 1.2)):
        if place is not None:
            axes.plot([place, place], [y - half, y + half], color=INK, lw=width, zorder=3, solid_capstyle="butt")
    if bar.peer is not None:
        axes.plot(bar.peer, y, "D", ms=5, mfc="white", mec=QUIET, mew=1.1, zorder=3)
    for place, verdict in bar.dots:
        axes.plot(place, y, "o", ms=7, mfc=VERDICTS[verdict][0], mec="white", mew=0.8, zorder=4)
    inner = WIDTH - LEFT - RIGHT
    for x, lines in ((-(LEFT - 0.25) / inner, bar.name), (1 + 0.2 / inner, bar.labels)):
        for line, (shift, size, color) in zip(lines, ((0.19, 9, INK), (-0.2, SMALL, QUIET)), strict=True):
            axes.text(x, y + shift, line, transform=axes.get_yaxis_transform(), fontsize=size, color=color, va="center")


def _legend(figure: Figure, bars: Sequence[Bar], height: float) -> None:
    """Explain the marks that occur in the figure; from the right edge to the left."""
    present = {verdict for bar in bars for _, verdict in bar.dots}
    marks: list[tuple[str, str, str, float]] = [
        ("o", color, words, 7) for verdict, (color, words) in VERDICTS.items() if verdict in present
    ]
    if any(bar.floor is not None for bar in bars):
        marks += [("|", INK, "floor (long), aim (short)", 12)]
    if any(bar.peer is not None for bar in bars):
        marks += [("D", QUIET, "the peer", 5)]
    axes = figure.add_axes((0, 1 - 0.72 / height, 1, 0.2 / height))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, 1)
    axes.axis("off")
    x = WIDTH - 0.25
    for marker, color, words, size in reversed(marks):
        x -= text_width(words, 8.5)
        axes.text(x, 0.5, words, fontsize=8.5, color=QUIET, va="center")
        axes.plot(
            x - 0.12, 0.5, marker, ms=size, mfc="white" if marker == "D" else color,
            mec=color if marker != "o" else "white", mew=1.5 if marker == "|" else 0.9,
        )  # fmt: skip
        x -= 0.42


def _groups(rows: Sequence[RowJson], *names: str) -> list[list[RowJson]]:
    groups: dict[tuple[Any, ...], list[RowJson]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _better(ratio: float, row: RowJson) -> float:
    """A ratio as peer / genrec."""
    return ratio if row["ratio_of"] == "peer/genrec" else 1 / ratio


def _bound(row: RowJson, name: str) -> float | None:
    """A bound as peer / genrec; 0 cannot be drawn on a logarithmic axis."""
    return _better(row[name], row) if row[name] else None


def _times(value: float) -> str:
    return f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"


def _verdict(row: RowJson) -> str:
    if row["holds"] is None:
        return "plain"
    return "aim" if row["aim_holds"] else "floor" if row["holds"] else "missed"


def _name(row: RowJson, beside: str) -> tuple[str, str]:
    return f"{row['id']}  {ROW_TITLES.get(row['id'], '')}".strip(), _truncate(beside, LEFT - 0.35)


def _truncate(words: str, room: float = RIGHT - 0.58) -> str:
    """Text truncated to a width in inches, in small print."""
    whole = words
    while text_width(words, SMALL) > room:
        words = words[:-1]
    return words if words == whole else words.rstrip(" ,")[:-1] + "\N{HORIZONTAL ELLIPSIS}"


def _facts(runs: Sequence[RowJson]) -> str:
    """Machine, commit and mode of each run, one line per run."""
    lines = []
    for run in runs:
        machine = run.get("machine", {})
        quick = "quick run" if "--quick" in run.get("arguments", []) else "full run"
        parts = [
            f"{run.get('benchmark', '')}: {quick} at commit {run.get('commit', '?')}",
            f"{machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, threads: {machine.get('threads', '?')}",
            f"{machine.get('dtype', '?')}, load {machine.get('load', ['?'])[0]}",
            ", ".join(f"{name} {machine[name]}" for name in PACKAGES if machine.get(name)),
        ]
        lines.append("  ·  ".join(part for part in parts if part))
    return "\n".join(lines)
