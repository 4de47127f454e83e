"""Training tasks beside the next item, so that an adapter also handles search words and candidate lists.

`candidates` shows a list that contains the answer. `search` shows a history and two words of the answer's title. Two
tasks show no history: `cold-start` names an item of the history, and `description` gives the answer's attributes and
most words of its title, shuffled.
"""

from typing import Literal

import numpy as np

from genrec import Catalog, Item

TrainingTask = Literal["next-item", "candidates", "cold-start", "search", "description"]

TASK_TEMPLATES = {"candidates": "rank-candidates", "cold-start": "cold-start", "description": "cold-start"}
"""The template of each task; all other tasks use the template of the run."""

_KEPT_SHARE = 2 / 3  # of a title's words that a description keeps


def query_text(
    task: TrainingTask, catalog: Catalog, previous_item: int, target_item: int, rng: np.random.Generator
) -> str:
    """Generate the user's message for a task.

    Args:
        task: the task.
        catalog: the items.
        previous_item: the item index of the last interaction.
        target_item: the item index of the answer.
        rng: draws words.

    Returns:
        The message; empty for tasks without one.
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
    return ", ".join([" ".join(words[index] for index in kept), *facts])
