"""The figure of docs/search.md: a token tree after a search, its attention mask, and the proof of the result.

Units are inches. Letters: T prefixes of the trie, N rows, M nodes grown.
"""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath

from genrec.types import FloatArray

if TYPE_CHECKING:
    from eval.speed.example import Example

INK, QUIET, FAINT, RULE = "#1b2733", "#5d6b78", "#9aa6b1", "#d5dce2"
PASSES = ("#dcebf8", "#b6d6f0", "#86bbe4", "#5a9fd6")
GOOD, OTHER, DENIED, OPEN = "#1f8a4c", "#6b7a88", "#c0392b", "#b8711a"
DASHED = (0, (2.5, 1.8))
NODE_STYLES: dict[str, tuple[str, str, Any, str]] = {  # fill, edge, line, ink
    "scored, not grown: end of an item": ("white", GOOD, "-", GOOD),
    "scored, not opened": ("white", OPEN, DASHED, OPEN),
    "never computed": ("white", RULE, "-", FAINT),
    "not allowed": ("#fdf1ef", "#e4b4ad", "-", DENIED),
}
NODE_HEIGHT, LINE, BRANCH, GAP = 0.24, 0.5, 0.52, 0.045
FONT = 9.0


def draw_tree(example: "Example", titles: list[str], path: Path) -> None:
    """Write the figure as SVG, and as PNG beside it.

    Args:
        example: the search.
        titles: titles by item index.
        path: path of the SVG.
    """
    figure = Figure(figsize=(12.4, 7.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, 12.4)
    axes.set_ylim(0, 7.6)
    axes.axis("off")
    axes.text(0.35, 7.28, "A token tree after one prompt", fontsize=15, weight="bold", color=INK, va="center")
    axes.text(
        0.35, 6.98, "Six titles of the embedded shop, SmolLM2-135M-Instruct, k = 2, width 2, exact. Numbers are "
        "scores: log-probabilities (nats), summed along the path.", fontsize=9, color=QUIET, va="center",
    )  # fmt: skip
    _legend(axes, 6.6)
    _TreeDrawing(example, titles, axes, top=6.02).draw()
    _ProofDrawing(example, axes, left=0.35, bottom=0.45, width=6.7).draw()
    _mask(example, axes, left=7.8, top=2.62, cell=0.096)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG (text as outlines) and PNG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})


class _TreeDrawing:
    """Draws the tree: tokens without alternatives in a row, curves at branches."""

    def __init__(self, example: "Example", titles: list[str], axes: Axes, top: float) -> None:
        self.example, self.titles, self.axes, self.top = example, titles, axes, top
        trie = example.trie
        self.paths = [trie.path_positions(np.array([row])) for row in range(len(trie))]
        self.rows: list[list[int]] = [[] for _ in trie.tokens]
        for row, path in enumerate(self.paths):
            for place in path:
                self.rows[place].append(row)
        self.branches = np.bincount(trie.parents + 1, minlength=len(trie.tokens) + 1) > 1
        self.widths = [text_width(word.strip()) + 0.15 for word in example.words]
        self.allowed = [bool(example.allowed[rows].any()) for rows in self.rows]
        self.starts = self._layout()

    def draw(self) -> None:
        example = self.example
        middle = self.height(list(range(len(example.trie))))
        box = FancyBboxPatch(
            (0.3, middle - 0.38), 1.0, 0.76, boxstyle="round,pad=0,rounding_size=0.08", fc="#f3f5f7", ec=QUIET, lw=1
        )
        self.axes.add_patch(box)
        self.axes.text(
            0.8, middle + 0.005, f"prompt\n{example.prompt} tokens,\ncomputed once", fontsize=8, color=INK, ha="center",
            va="center", linespacing=1.4,
        )  # fmt: skip
        for place, above in enumerate(example.trie.parents):
            self._draw_edge(place, int(above), middle)
        for place in range(len(example.words)):
            self._draw_node(place)
        self._labels()

    def height(self, rows: list[int]) -> float:
        return self.top - LINE * (rows[0] + rows[-1]) / 2

    def _layout(self) -> FloatArray:
        starts = np.zeros(len(self.widths))
        trie = self.example.trie
        for place in np.argsort(trie.depths, kind="stable"):
            above = trie.parents[place]
            end = 1.3 if above < 0 else starts[above] + self.widths[above]
            starts[place] = end + (BRANCH if self.branches[above + 1] else GAP)
        return starts

    def _draw_edge(self, prefix: int, above: int, middle: float) -> None:
        if not self.branches[above + 1]:
            return
        begin = 1.3 if above < 0 else self.starts[above] + self.widths[above]
        low, high = (middle if above < 0 else self.height(self.rows[above])), self.height(self.rows[prefix])
        end = self.starts[prefix]
        bend = (begin + end) / 2
        curve = Curve([(begin, low), (bend, low), (bend, high), (end, high)], [1, 4, 4, 4])
        kind: tuple[str, Any] = (INK, "-") if self.example.grown_pass[prefix] else (FAINT, DASHED)
        self.axes.add_patch(PathPatch(curve, fc="none", ec=kind[0], lw=1.1, ls=kind[1], zorder=1))
        self.axes.add_patch(Circle((begin + 0.05, low), 0.042, fc="white", ec=INK, lw=1.1, zorder=3))

    def _draw_node(self, prefix: int) -> None:
        example, grown, read = self.example, self.example.grown_pass[prefix], self.example.read_pass[prefix] >= 0
        last = prefix in example.trie.last_positions
        kind = "scored, not grown: end of an item" if last else "scored, not opened"
        fill, edge, style, ink = NODE_STYLES[kind if read else "never computed"]
        if not self.allowed[prefix]:
            fill, edge, style, ink = NODE_STYLES["not allowed"]
        elif grown:
            fill, edge, style, ink = PASSES[grown - 1], PASSES[grown - 1], "-", INK
        x, y = self.starts[prefix], self.height(self.rows[prefix])
        self.axes.add_patch(FancyBboxPatch(
            (x, y - NODE_HEIGHT / 2), self.widths[prefix], NODE_HEIGHT, boxstyle="round,pad=0,rounding_size=0.05",
            fc=fill, ec=edge, lw=1.1, ls=style, zorder=2,
        ))  # fmt: skip
        word = example.words[prefix].strip()
        self.axes.text(
            x + self.widths[prefix] / 2, y - 0.005, word, fontsize=FONT, color=ink, ha="center", va="center_baseline",
            style="italic" if last else "normal", zorder=4,
        )  # fmt: skip
        above = int(example.trie.parents[prefix])
        if self.branches[above + 1] and self.allowed[prefix]:
            self.axes.text(
                x + self.widths[prefix] / 2, y - NODE_HEIGHT / 2 - 0.04, _number(example.path_scores[prefix]),
                fontsize=7.5, color=OPEN if read and not grown else QUIET, ha="center", va="top",
            )  # fmt: skip

    def _labels(self) -> None:
        example, x = self.example, 8.72
        found = {int(item): float(score) for item, score in zip(*self._answer(), strict=True)}
        for row, path in enumerate(self.paths):
            y, end = self.height([row]), self.starts[path[-1]] + self.widths[path[-1]]
            item, last = int(example.trie.items[row]), path[-1]
            self.axes.plot([end + 0.07, x - 0.1], [y, y], color=RULE, lw=1, ls=(0, (1, 2)), zorder=1)
            if not example.allowed[row]:
                color, weight, words = DENIED, "normal", "not allowed (already bought): its children are skipped"
            elif item in found:
                rank = list(found).index(item) + 1
                color, weight, words = GOOD, "bold", f"{_number(found[item])}, number {rank}"
            elif example.read_pass[last] >= 0:
                color, weight = OTHER, "normal"
                words = f"{_number(example.path_scores[last])}, finished, not in the top {len(found)}"
            else:
                bound = [example.path_scores[place] for place in path if example.read_pass[place] >= 0][-1]
                color, weight, words = OPEN, "normal", f"at most {_number(bound)}: never opened"
            self.axes.text(x, y + 0.085, self.titles[item], fontsize=9.5, weight=weight, color=INK, va="center")
            self.axes.text(x, y - 0.095, words, fontsize=8.5, color=color, va="center")

    def _answer(self) -> tuple[list[int], list[float]]:
        ranking = self.example.ranking
        return ranking.item_indices.tolist(), ranking.scores.tolist()


def _legend(axes: Axes, y: float) -> None:
    x = 0.38
    axes.text(x, y - 0.005, "grown in pass", fontsize=8.5, color=QUIET, va="center_baseline")
    x += text_width("grown in pass", 8.5) + 0.1
    kinds = [(str(number), (fill, fill, "-", INK), 0.12) for number, fill in enumerate(PASSES, 1)]
    for words, (fill, edge, style, _), gap in [*kinds, *((words, chip, 0.3) for words, chip in NODE_STYLES.items())]:
        x += 0.25 if words == next(iter(NODE_STYLES)) else 0.0
        axes.add_patch(FancyBboxPatch(
            (x, y - 0.08), 0.26, 0.16, boxstyle="round,pad=0,rounding_size=0.04", fc=fill, ec=edge, lw=1.1, ls=style,
        ))  # fmt: skip
        axes.text(x + 0.34, y - 0.005, words, fontsize=8.5, color=QUIET, va="center_baseline")
        x += 0.34 + text_width(words, 8.5) + gap


class _ProofDrawing:
    """Draws two score axes: one pass before the end, and at the end."""

    def __init__(self, example: "Example", axes: Axes, *, left: float, bottom: float, width: float) -> None:
        self.example, self.axes, self.left, self.bottom = example, axes, left, bottom
        self.k, self.path_scores = len(example.ranking.scores), example.path_scores
        ends = [self.path_scores[place] for after in self._passes() for place in self.example.open_prefixes(after)]
        ends += [self.path_scores[example.trie.last_positions[row]] for row in example.scored_rows(self._passes()[-1])]
        self.low, self.high = float(np.floor(min(ends) / 5) * 5 - 5), float(np.ceil(max(ends) / 5) * 5 + 5)
        self.begin, self.unit = left + 0.95, (width - 0.95) / (self.high - self.low)

    def draw(self) -> None:
        left, bottom = self.left, self.bottom
        self._text(left, bottom + 2.42, "When is it proven?", 11, INK, weight="bold")
        words = "Scores only fall along a path: an open node ends at its position or to the left of it."
        self._text(left, bottom + 2.18, words, 8.5, QUIET)
        for line, after in enumerate(self._passes()):
            self._draw_score_axis(after, bottom + 1.52 - 0.92 * line)
        for score in np.arange(self.low, self.high, 10):
            self._text(self._x_of_score(score), bottom + 0.12, _number(score, 0), 7.5, QUIET, ha="center")
        self._text(self._x_of_score(self.high), bottom + 0.12, "score", 7.5, QUIET, ha="right")

    def _passes(self) -> tuple[int, int]:
        last = int(self.example.grown_pass.max())
        return last - 1, last

    def _draw_score_axis(self, passes: int, y: float) -> None:
        axes, gains, across = self.axes, self.path_scores, self._x_of_score
        finished = self.example.scored_rows(passes)
        scores = sorted((float(gains[place]) for place in self.example.trie.last_positions[finished]), reverse=True)
        kth, waiting = scores[self.k - 1], self.example.open_prefixes(passes)
        proven = all(gains[place] < kth for place in waiting)
        end = across(self.high)
        self._text(self.left, y, f"after\npass {passes}", 8.5, INK, linespacing=1.3)
        axes.plot([across(self.low), end], [y, y], color=RULE, lw=1.4, zorder=1)
        fill = "#e6f4ea" if proven else "#fbf0e1"
        axes.add_patch(Rectangle((across(kth), y - 0.13), end - across(kth), 0.26, fc=fill, ec="none", zorder=0))
        axes.plot([across(kth)] * 2, [y - 0.13, y + 0.2], color=INK, lw=1.4, zorder=2)
        self._text(across(kth), y + 0.29, f"k-th best {_number(kth)}", 8, INK, ha="center")
        verdict = "proven: no open node is to the right" if proven else "not proven: open nodes are to the right"
        self._text(end, y + 0.29, verdict, 8.5, GOOD if proven else OPEN, ha="right")
        for rank, score in enumerate(scores):
            color = GOOD if rank < self.k else OTHER
            axes.plot(across(score), y, "o", ms=6.5, mfc=color, mec="white", mew=0.8, zorder=4)
        arrow = {"arrowstyle": "->", "color": OPEN, "lw": 1.1}
        for x in map(across, gains[waiting]):
            axes.annotate("", (x - 0.3, y), (x, y), arrowprops=arrow, zorder=3)
            axes.plot(x, y, "o", ms=6, mfc="white", mec=OPEN, mew=1.3, zorder=4)
        best = int(waiting[np.argmax(gains[waiting])])
        words = f"best open: \N{LEFT DOUBLE QUOTATION MARK}{self.example.path(best)}\N{HORIZONTAL ELLIPSIS}"
        words += f"\N{RIGHT DOUBLE QUOTATION MARK} {_number(gains[best])}"
        self._text(across(gains[best]), y - 0.28, words, 8, OPEN, ha="center")

    def _x_of_score(self, score: float) -> float:
        return float(self.begin + self.unit * (score - self.low))

    def _text(self, x: float, y: float, words: str, size: float, color: str, **text_options: Any) -> None:
        self.axes.text(x, y, words, fontsize=size, color=color, va="center", **text_options)


def _mask(example: "Example", axes: Axes, *, left: float, top: float, cell: float) -> None:
    """Draw the attention mask: the prompt and the grown nodes that each grown node attends to."""
    axes.text(left - 0.75, top + 0.25, "Attention mask", fontsize=11, weight="bold", color=INK, va="center")
    order, parents, block = example.order, example.trie.parents, 0.62
    where = {place: number for number, place in enumerate(order)}
    size = len(order)
    for number, place in enumerate(order):
        y = top - cell * (number + 1)
        shade = PASSES[example.grown_pass[place] - 1]
        axes.add_patch(Rectangle((left, y), block, cell, fc=shade, ec="white", lw=0.5))
        seen = place
        while seen >= 0:
            axes.add_patch(Rectangle((left + block + cell * where[seen], y), cell, cell, fc=shade, ec="white", lw=0.5))
            seen = int(parents[seen])
    right = left + block + cell * size
    axes.add_patch(Rectangle((left, top - cell * size), right - left, cell * size, fc="none", ec=RULE, lw=1))
    axes.plot([left + block] * 2, [top - cell * size, top], color=RULE, lw=1)
    bounds = np.cumsum([0, *np.bincount(example.grown_pass[order])[1:]])
    for number, (begin, stop) in enumerate(pairwise(bounds), 1):
        y = top - cell * (begin + stop) / 2
        axes.text(left - 0.07, y, f"pass {number}", fontsize=8, color=INK, ha="right", va="center")
        if begin:
            axes.plot([left, right], [top - cell * begin] * 2, color=RULE, lw=0.8)
    y = top - cell * size - 0.1
    axes.text(left + block / 2, y, "prompt", fontsize=8, color=INK, ha="center", va="center")
    axes.text((left + block + right) / 2, y, f"the {size} grown nodes", fontsize=8, color=INK, ha="center", va="center")
    words = "Each row is a grown node.\nIts cells are what it attends\nto: the prompt, its\nancestors and itself."
    axes.text(right + 0.15, top - 0.02, words, fontsize=8.5, color=QUIET, va="top", linespacing=1.45)


def text_width(words: str, size: float = FONT) -> float:
    """The width of text in inches at a font size in points."""
    if not words:
        return 0.0
    return float(TextPath((0, 0), words, prop=FontProperties(size=size)).get_extents().width) / 72


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
