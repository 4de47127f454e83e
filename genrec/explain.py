"""Which history items drove a recommendation: measured, never told by the model.

An item's part in a recommendation is how far the recommended item's score falls when it is taken out of the history
and everything else stays. Source: Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation
Erasure", arXiv 1612.08220, section 3.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genrec.catalog import Catalog
from genrec.deadline import Deadline
from genrec.rankers.base import Ranker, RankRequest
from genrec.renderer import newest_distinct, window_start
from genrec.template import Template
from genrec.types import Driver, IntArray


def find_drivers(
    ranker: Ranker,
    request: RankRequest,
    items: IntArray,
    catalog: Catalog,
    *,
    newest: int = 12,
    history_step: int = 4,
    deadline: Deadline | None = None,
) -> list[tuple[Driver, ...]]:
    """For each recommended item, the history items that carried it, strongest first.

    Args:
        ranker: the ranker that recommended them.
        request: as it was answered.
        items: int64 [k], item indices.
        catalog: names the items.
        newest, history_step: the window of the history that is tried, one more scoring for each of its items, see
            `genrec.renderer.window_start`. What came before it is left out throughout: taking an item away must not
            bring older ones back into the prompt.
        deadline: when to give up.

    Returns:
        k tuples; an item without which the score does not fall is not in them.
    """
    recent = replace(request, history=request.history[window_start(request.history, newest, history_step) :])
    tried = newest_distinct(recent.history, newest)
    if not len(tried) or not len(items):
        return [() for _ in items]
    without = [replace(recent, history=recent.history[recent.history != item]) for item in tried]
    asked = [recent, *without]
    scores = np.stack(ranker.score(asked, [items] * len(asked), deadline=deadline or Deadline.never()))
    drops = scores[0] - scores[1:]
    return [_drivers(tried, drops[:, place], catalog) for place in range(len(items))]


def give_reason(template: Template, drivers: Sequence[Driver], words: str) -> str:
    """One sentence for a person, from what was measured: the template sees `drivers` and the `words` asked for."""
    messages = template.render(drivers=[{"title": driver.title} for driver in drivers], words=words)
    return " ".join(message.text for message in messages)


def _drivers(
    tried: IntArray, drops: np.ndarray[tuple[int], np.dtype[np.float64]], catalog: Catalog
) -> tuple[Driver, ...]:
    drops = np.where(np.isnan(drops), 0.0, drops)  # minus infinity both with and without: it carried nothing
    order = [place for place in np.argsort(-drops, kind="stable") if drops[place] > 0]
    items = [(catalog[int(tried[place])], float(drops[place])) for place in order]
    return tuple(Driver(item.item_id, item.title, drop) for item, drop in items)
