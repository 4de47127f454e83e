"""Plain replies, written without a language model, and the interface of reply generators."""

from collections.abc import Callable, Sequence
from typing import Protocol

from genrec.chat.conversation import TurnContext
from genrec.chat.item_links import escape_markdown, format_item_link
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.prompting.template import one_line
from genrec.types import Recommendation, RecommendationList

_NO_REASON = "no explanation is available right now."


class ReplyGenerator(Protocol):
    """Writes the reply of a turn with a language model."""

    def __call__(self, context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        """Write a reply piece by piece.

        Args:
            context: the turn.
            on_text: receives each piece as soon as it is complete.
            deadline: when the model must stop.

        Returns:
            False if no reply could be written; then `on_text` was not called.

        Raises:
            EngineError: the model failed, possibly after some pieces.
        """
        ...


def format_list(recommendations: RecommendationList) -> str:
    """A plain reply that names the recommended items with their ranks."""
    if not recommendations.items:
        return "No item matches all your preferences; remove one of them."
    links = (f"{item.rank}. {format_item_link(item.item_id, item.title)}" for item in recommendations.items)
    return "How about: " + ", ".join(links)


def format_reason(item: Recommendation, reason: str | None) -> str:
    """A sentence with the reason why an item was recommended; None if there is none."""
    return f"{format_item_link(item.item_id, item.title)}: {escape_markdown(one_line(reason or _NO_REASON))}"


def format_withdrawn(item: Recommendation) -> str:
    """A sentence that says that an item of an earlier list was withdrawn."""
    return f"{format_item_link(item.item_id, item.title)} is no longer available."


def format_comparison(items: Sequence[Recommendation], catalog: Catalog) -> str:
    """Compare items by the attributes in which they differ; a single item is described by all of its attributes."""
    attributes = {item.item_id: catalog[catalog.index_of(item.item_id)].attributes for item in items}
    names = dict.fromkeys(name for own in attributes.values() for name in own)
    differing = [name for name in names if len({str(own.get(name)) for own in attributes.values()}) > 1]
    lines = []
    for item in items:
        own = attributes[item.item_id]
        facts = ", ".join(f"{name} {own[name]}" for name in differing or names if own.get(name) is not None)
        text = escape_markdown(one_line(facts)) or "no details are known"
        lines.append(f"{format_item_link(item.item_id, item.title)}: {text}")
    if len(items) == 1:
        return lines[0]
    best = min(items, key=lambda item: item.rank)
    verdict = f"{format_item_link(best.item_id, best.title)} matches your preferences best."
    return "\n".join([*(f"- {line}" for line in lines), "", verdict])
