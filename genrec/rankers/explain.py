"""Which history items drove a recommendation: measured, never told by the model.

An item's part in a recommendation is how far the recommended item's score falls when it is taken out of the history
and everything else stays. Source: Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation
Erasure", arXiv 1612.08220, section 3.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.prompting.renderer import newest_distinct
from genrec.prompting.template import Template
from genrec.rankers.base import Ranker, RankRequest
from genrec.types import Driver, IntArray

_MAX_ERASED_ITEMS = 12  # items of a history that are tried where the ranker looks at all of them


@runtime_checkable
class WindowedRanker(Protocol):
    """A ranker that looks at the end of a history only, such as one whose prompt shows so many items."""

    def visible_history(self, history: IntArray) -> IntArray:
        """What it looks at: `history[start:]` for some start; of that, or of less of it, it must look at everything."""
        ...


def find_drivers(
    ranker: Ranker,
    request: RankRequest,
    item_indices: IntArray,
    catalog: Catalog,
    *,
    deadline: Deadline | None = None,
) -> list[tuple[Driver, ...]]:
    """For each recommended item, the history items that carried it, strongest first.

    Every item that a `WindowedRanker` ranker looks at is tried, one more scoring for each. What came before its window is
    left out throughout: taking an item away must not bring older ones back into the prompt. Of a history that is
    looked at as a whole, the newest 12 distinct items are tried, and the rest stays.

    Args:
        ranker: the ranker that recommended them.
        request: as it was answered.
        item_indices: int64 [k], item indices.
        catalog: names the items.
        deadline: when to give up.

    Returns:
        k tuples; an item without which the score does not fall is not in them.
    """
    seen, most = request.history, _MAX_ERASED_ITEMS
    if isinstance(ranker, WindowedRanker):
        seen = ranker.visible_history(request.history)
        most = len(seen)
    tried = newest_distinct(seen, most)
    if not len(tried) or not len(item_indices):
        return [() for _ in item_indices]
    asked = [replace(request, history=own) for own in (seen, *(seen[seen != item] for item in tried))]
    scores = np.stack(ranker.score(asked, [item_indices] * len(asked), deadline=deadline or Deadline.never()))
    drops = scores[0] - scores[1:]
    return [_drivers_of_item(tried, drops[:, place], catalog) for place in range(len(item_indices))]


def render_reason(template: Template, drivers: Sequence[Driver], words: str) -> str:
    """One sentence for a person, from what was measured: the template sees `drivers` and the `words` asked for."""
    messages = template.render(drivers=[{"title": driver.title} for driver in drivers], words=words)
    return " ".join(message.text for message in messages)


def _drivers_of_item(
    erased: IntArray, drops: np.ndarray[tuple[int], np.dtype[np.float64]], catalog: Catalog
) -> tuple[Driver, ...]:
    drops = np.where(np.isnan(drops), 0.0, drops)  # minus infinity both with and without: it carried nothing
    order = [place for place in np.argsort(-drops, kind="stable") if drops[place] > 0]
    items = [(catalog[int(erased[place])], float(drops[place])) for place in order]
    return tuple(Driver(item.item_id, item.title, drop) for item, drop in items)
