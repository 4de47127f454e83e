"""A conversation about what to recommend, as a value.

Wishes are what somebody wants, as read from all that they said: what is liked stands in the history, what is ruled out
is a filter inside the search, what is looked for stands in the prompt. They are shown, and whoever they are can take
each back. `genrec.chat.advisor` goes on with a conversation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from genrec.errors import InputError
from genrec.types import ItemId, Recommendation, RecommendationList, UserId

_MAX_SEARCH_PHRASES = 3  # of what was looked for, the newest
_MAX_FILTERS = 30  # the newest, so that all of them together stay a filter that may be asked


@dataclass(frozen=True)
class PreferenceFilter:
    """What may be recommended: a filter of `Catalog.where`, and what it is about; about each thing there is one."""

    key: str
    where: str


@dataclass(frozen=True)
class Preferences:
    """What somebody wants, as read from all that they said.

    Attributes:
        liked, disliked: item ids, oldest first; an item is in one of them at most.
        words: what they look for, in their words, oldest first.
        filters: what may be recommended.
    """

    liked: tuple[ItemId, ...] = ()
    disliked: tuple[ItemId, ...] = ()
    words: tuple[str, ...] = ()
    filters: tuple[PreferenceFilter, ...] = ()

    def with_liked(self, item_id: ItemId) -> "Preferences":
        """With an item liked."""
        return replace(self, liked=_append_unique(self.liked, item_id), disliked=_remove(self.disliked, item_id))

    def with_disliked(self, item_id: ItemId) -> "Preferences":
        """With an item disliked; it is not recommended any more."""
        return replace(self, liked=_remove(self.liked, item_id), disliked=_append_unique(self.disliked, item_id))

    def with_words(self, words: str) -> "Preferences":
        """With something looked for; of the oldest no more is known after a few."""
        return replace(self, words=(*self.words, words)[-_MAX_SEARCH_PHRASES:])

    def with_filter(self, preference_filter: PreferenceFilter) -> "Preferences":
        """With a limit; one that is about the same gives way, and so does the oldest of too many."""
        others = (own for own in self.filters if own.key != preference_filter.key)
        return replace(self, filters=(*others, preference_filter)[-_MAX_FILTERS:])

    @property
    def labels(self) -> tuple[tuple[str, ItemId], ...]:
        """Every wish as what it is and what it says; `without` takes one back."""
        kinds: tuple[tuple[str, Iterable[ItemId]], ...] = (
            ("likes", self.liked),
            ("dislikes", self.disliked),
            ("looks for", self.words),
            ("only", (own.where for own in self.filters)),
        )
        return tuple((kind, value) for kind, values in kinds for value in values)

    def without(self, label: tuple[str, ItemId]) -> "Preferences":
        """With one wish taken back.

        Raises:
            InputError: there is no such wish.
        """
        if label not in self.labels:
            raise InputError(f"there is no wish {label!r:.80}; there are {self.labels!r:.200}")
        kind, value = label
        if kind == "only":
            return replace(self, filters=tuple(own for own in self.filters if own.where != value))
        if kind == "looks for":
            return replace(self, words=tuple(own for own in self.words if own != value))
        return replace(self, liked=_remove(self.liked, value), disliked=_remove(self.disliked, value))


@dataclass(frozen=True)
class Turn:
    """One step.

    Attributes:
        message: by the person.
        preferences: after it.
        recommendations: what was recommended under them.
        reply: the same in words, for the person; Markdown, in which items are named as `genrec.chat.item_links` does.
        is_fallback_reply: a language model should have written the reply, and could not.
        keeps_list: it was asked about the list of the turn before, and changed nothing.
    """

    message: str
    preferences: Preferences
    recommendations: RecommendationList
    reply: str
    is_fallback_reply: bool = False
    keeps_list: bool = False


@dataclass(frozen=True)
class Conversation:
    """What was said so far.

    Attributes:
        user_id: the caller's id; None for somebody unknown.
        history: item ids of before the conversation, oldest first.
        turns: oldest first.
        excluded: item ids that are never recommended, known of before.
    """

    user_id: UserId | None = None
    history: tuple[ItemId, ...] = ()
    turns: tuple[Turn, ...] = ()
    excluded: tuple[ItemId, ...] = ()

    @property
    def preferences(self) -> Preferences:
        """As they are now."""
        return self.turns[-1].preferences if self.turns else Preferences()

    @property
    def shown(self) -> tuple[Recommendation, ...]:
        """What was recommended last, best first."""
        return self.turns[-1].recommendations.items if self.turns else ()

    def undo(self) -> "Conversation":
        """As it was before the last turn that was no question; the first one stays undone."""
        kept = len(self.turns)
        while kept and self.turns[kept - 1].keeps_list:
            kept -= 1
        return replace(self, turns=self.turns[: max(kept - 1, 0)])


@dataclass(frozen=True)
class TurnContext:
    """What a reply is about: a turn that lacks nothing but its reply."""

    conversation: Conversation
    message: str
    preferences: Preferences
    recommendations: RecommendationList


def _append_unique(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return (*_remove(values, value), value)


def _remove(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return tuple(own for own in values if own != value)
