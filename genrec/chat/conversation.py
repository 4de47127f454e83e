"""A conversation about what to recommend, as a value.

Wishes are what somebody wants, as read from all that they said: what is liked stands in the history, what is ruled out
is a filter inside the search, what is looked for stands in the prompt. They are shown, and whoever they are can take
each back. `genrec.chat.advisor` goes on with a conversation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from genrec.errors import InputError
from genrec.types import ItemId, Recommendation, RecommendationList, UserId

_REMEMBERED = 3  # of what was looked for, the newest
_LIMITS = 30  # the newest, so that all of them together stay a filter that may be asked


@dataclass(frozen=True)
class Limit:
    """What may be recommended: a filter of `Catalog.where`, and what it is about; about each thing there is one."""

    about: str
    where: str


@dataclass(frozen=True)
class Wishes:
    """What somebody wants, as read from all that they said.

    Attributes:
        liked, disliked: item ids, oldest first; an item is in one of them at most.
        words: what they look for, in their words, oldest first.
        limits: what may be recommended.
    """

    liked: tuple[ItemId, ...] = ()
    disliked: tuple[ItemId, ...] = ()
    words: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()

    def like(self, item_id: ItemId) -> "Wishes":
        """With an item liked."""
        return replace(self, liked=_with(self.liked, item_id), disliked=_without(self.disliked, item_id))

    def dislike(self, item_id: ItemId) -> "Wishes":
        """With an item disliked; it is not recommended any more."""
        return replace(self, liked=_without(self.liked, item_id), disliked=_with(self.disliked, item_id))

    def look_for(self, words: str) -> "Wishes":
        """With something looked for; of the oldest no more is known after a few."""
        return replace(self, words=(*self.words, words)[-_REMEMBERED:])

    def limit(self, limit: Limit) -> "Wishes":
        """With a limit; one that is about the same gives way, and so does the oldest of too many."""
        others = (own for own in self.limits if own.about != limit.about)
        return replace(self, limits=(*others, limit)[-_LIMITS:])

    @property
    def chips(self) -> tuple[tuple[str, ItemId], ...]:
        """Every wish as what it is and what it says; `without` takes one back."""
        kinds: tuple[tuple[str, Iterable[ItemId]], ...] = (
            ("likes", self.liked),
            ("dislikes", self.disliked),
            ("looks for", self.words),
            ("only", (own.where for own in self.limits)),
        )
        return tuple((kind, value) for kind, values in kinds for value in values)

    def without(self, chip: tuple[str, ItemId]) -> "Wishes":
        """With one wish taken back.

        Raises:
            InputError: there is no such wish.
        """
        if chip not in self.chips:
            raise InputError(f"there is no wish {chip!r:.80}; there are {self.chips!r:.200}")
        kind, value = chip
        if kind == "only":
            return replace(self, limits=tuple(own for own in self.limits if own.where != value))
        if kind == "looks for":
            return replace(self, words=tuple(own for own in self.words if own != value))
        return replace(self, liked=_without(self.liked, value), disliked=_without(self.disliked, value))


@dataclass(frozen=True)
class Turn:
    """One step.

    Attributes:
        said: by the person.
        wishes: after it.
        answer: what was recommended under them.
        reply: the same in words, for the person; Markdown, in which items are named as `genrec.chat.item_links` does.
        fallback: a language model should have written the reply, and could not.
        question: it was asked about the list of the turn before, and changed nothing.
    """

    said: str
    wishes: Wishes
    answer: RecommendationList
    reply: str
    fallback: bool = False
    question: bool = False


@dataclass(frozen=True)
class Conversation:
    """What was said so far.

    Attributes:
        user_id: the caller's id; None for somebody unknown.
        history: item ids of before the conversation, oldest first.
        turns: oldest first.
        unwanted: item ids that are never recommended, known of before.
    """

    user_id: UserId | None = None
    history: tuple[ItemId, ...] = ()
    turns: tuple[Turn, ...] = ()
    unwanted: tuple[ItemId, ...] = ()

    @property
    def wishes(self) -> Wishes:
        """As they are now."""
        return self.turns[-1].wishes if self.turns else Wishes()

    @property
    def shown(self) -> tuple[Recommendation, ...]:
        """What was recommended last, best first."""
        return self.turns[-1].answer.items if self.turns else ()

    def undo(self) -> "Conversation":
        """As it was before the last turn that was no question; the first one stays undone."""
        kept = len(self.turns)
        while kept and self.turns[kept - 1].question:
            kept -= 1
        return replace(self, turns=self.turns[: max(kept - 1, 0)])


@dataclass(frozen=True)
class Occasion:
    """What a reply is about: a turn that lacks nothing but its reply."""

    conversation: Conversation
    said: str
    wishes: Wishes
    answer: RecommendationList


def _with(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return (*_without(values, value), value)


def _without(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return tuple(own for own in values if own != value)
