"""What else than the next item an adapter learns to answer, so that it serves words and lists too.

`candidates` shows a list that holds the answer. `search` shows a history and two words of the answer's title. Nobody's
history is shown by `cold-start`, which names something that was taken before, and by `description`, which tells what
the catalog knows of the answer: its attributes, and most words of its title in another order.
"""

from typing import Literal

import numpy as np

from genrec import Catalog, Item

TrainingTask = Literal["next-item", "candidates", "cold-start", "search", "description"]

TASK_TEMPLATES = {"candidates": "rank-candidates", "cold-start": "cold-start", "description": "cold-start"}
"""The templates that ask; all other tasks are asked by the run's own."""

_KEPT_SHARE = 2 / 3  # of the words of a title in a description


def query_text(
    task: TrainingTask, catalog: Catalog, previous_item: int, target_item: int, rng: np.random.Generator
) -> str:
    """The words that a person says.

    Args:
        task: what is asked.
        catalog: names the items.
        previous_item, target_item: item indices: what the person took last, and what is to be found.
        rng: draws words.
    """
    if task == "cold-start":
        return f"Something like {catalog[previous_item].title}"
    item = catalog[target_item]
    words = item.title.split()
    if task == "search":
        start = int(rng.integers(max(1, len(words) - 1)))
        return " ".join(words[start : start + 2])
    if task == "description":
        return _description_text(item, words, rng)
    return ""


def _description_text(item: Item, words: list[str], rng: np.random.Generator) -> str:
    kept = rng.permutation(len(words))[: max(1, round(_KEPT_SHARE * len(words)))]
    facts = [f"{name} {value}" for name, value in item.attributes.items() if value is not None]
    return ", ".join([" ".join(words[place] for place in kept), *facts])
