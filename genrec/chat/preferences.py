"""A user's preferences, as read from everything the user has written in a conversation.

Liked items join the history, exclusions become filters inside the search, and search phrases go into the prompt. Every
preference has a label that the user sees and can remove.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from genrec.data.filter_syntax import Comparison, ComparisonOperator, Filter, all_of, parse_filter
from genrec.errors import InputError
from genrec.types import ItemId

Label = tuple[str, ItemId]
"""A preference as its kind ("likes", "dislikes", "looks for" or "only") and its value."""

_MAX_SEARCH_PHRASES = 3  # the newest are kept
_MAX_FILTERS = 1000  # the newest are kept; what was excluded long ago still holds in any real conversation
_MAX_PRICE_KEY, _MIN_PRICE_KEY = "price to", "price from"
_EXCLUSION_KINDS = ("word", "words")  # the first word of a key


@dataclass(frozen=True)
class PriceBound:
    """A bound on the price, such as `<= 5.0`."""

    operator: ComparisonOperator
    amount: float

    @property
    def is_upper(self) -> bool:
        """Whether it limits how expensive an item may be."""
        return self.operator.startswith("<")

    def contradicts(self, other: "PriceBound") -> bool:
        """Whether no price satisfies both this bound and one on the other side."""
        low, high = (other.amount, self.amount) if self.is_upper else (self.amount, other.amount)
        return low > high or (low == high and not (self.operator.endswith("=") and other.operator.endswith("=")))


@dataclass(frozen=True)
class PreferenceFilter:
    """A condition on the items that may be recommended. Preferences hold at most one filter per key.

    Attributes:
        key: the subject of the filter, such as "price to" or "word candle".
        condition: the parsed condition.
    """

    key: str
    condition: Filter

    @classmethod
    def from_word(cls, *forms: str) -> "PreferenceFilter":
        """Exclude titles that contain any form of a word, in lower case; the first form names the filter."""
        return cls(f"word {forms[0]}", all_of(map(_title_lacks, forms)))

    @classmethod
    def from_phrase(cls, phrase: str) -> "PreferenceFilter":
        """Exclude titles that contain consecutive words, in lower case."""
        return cls(f"words {phrase}", _title_lacks(phrase))

    @classmethod
    def from_bound(cls, column: str, bound: PriceBound) -> "PreferenceFilter":
        """Bound the price, which is a numeric column of the catalog."""
        key = _MAX_PRICE_KEY if bound.is_upper else _MIN_PRICE_KEY
        return cls(key, Filter.compare(Comparison(column, bound.operator, bound.amount)))

    @classmethod
    def from_condition(cls, key: str, where: str) -> "PreferenceFilter":
        """Parse a filter from its key and the text of its condition; any key is kept as it is.

        Raises:
            FilterError: the condition does not parse.
        """
        return cls(key, parse_filter(where))

    @property
    def where(self) -> str:
        """The text of the condition, in the language of `genrec.data.filters`."""
        return str(self.condition)

    @property
    def excluded_phrase(self) -> str | None:
        """The word or words that no title may contain; None for a filter of another kind."""
        kind, _, phrase = self.key.partition(" ")
        excludes = kind in _EXCLUSION_KINDS and self.condition.conjuncts[0] == _title_lacks(phrase)
        return phrase if excludes else None

    @property
    def bound(self) -> PriceBound | None:
        """The bound on the price; None for a filter of another kind."""
        comparison = self.condition.comparison
        if self.key not in (_MAX_PRICE_KEY, _MIN_PRICE_KEY) or comparison is None:
            return None
        bound = PriceBound(comparison.operator, _to_float(comparison.number))
        return bound if bound.is_upper == (self.key == _MAX_PRICE_KEY) else None


@dataclass(frozen=True)
class Preferences:
    """A user's preferences, as read from all messages so far.

    Attributes:
        liked, disliked: item ids, oldest first. An item is in at most one of them.
        words: search phrases in the user's own words, oldest first.
        filters: conditions on the items that may be recommended, oldest first.
    """

    liked: tuple[ItemId, ...] = ()
    disliked: tuple[ItemId, ...] = ()
    words: tuple[str, ...] = ()
    filters: tuple[PreferenceFilter, ...] = ()

    def with_liked(self, *item_ids: ItemId) -> "Preferences":
        """Add liked items; they are disliked no longer."""
        return replace(self, liked=_append_unique(self.liked, item_ids), disliked=_remove(self.disliked, item_ids))

    def with_disliked(self, *item_ids: ItemId) -> "Preferences":
        """Add disliked items; they are liked no longer and will not be recommended."""
        return replace(self, liked=_remove(self.liked, item_ids), disliked=_append_unique(self.disliked, item_ids))

    def with_words(self, words: str) -> "Preferences":
        """Add a search phrase. Only the newest three are kept."""
        return replace(self, words=(*self.words, words)[-_MAX_SEARCH_PHRASES:])

    def with_filter(self, preference_filter: PreferenceFilter) -> "Preferences":
        """Add a filter in place of the one with the same key. Only the newest thousand are kept."""
        others = (condition for condition in self.filters if condition.key != preference_filter.key)
        return replace(self, filters=(*others, preference_filter)[-_MAX_FILTERS:])

    def with_price_bound(self, column: str, bound: PriceBound) -> "Preferences":
        """Add a bound on the price, replacing the one on the same side and one that contradicts it."""
        opposite = _MIN_PRICE_KEY if bound.is_upper else _MAX_PRICE_KEY
        contradicting = (
            condition.where
            for condition in self.filters
            if condition.key == opposite and condition.bound and bound.contradicts(condition.bound)
        )
        return self._without_conditions(contradicting).with_filter(PreferenceFilter.from_bound(column, bound))

    def without_price_bounds(self) -> "Preferences":
        """Remove every bound on the price."""
        return self._without_conditions(
            condition.where for condition in self.filters if condition.key in (_MAX_PRICE_KEY, _MIN_PRICE_KEY)
        )

    @property
    def condition(self) -> Filter | None:
        """All filters as one; None if there are none."""
        return all_of(own.condition for own in self.filters) if self.filters else None

    @property
    def labels(self) -> tuple[Label, ...]:
        """Every preference as a label; `without` removes the preference that a label names."""
        kinds: tuple[tuple[str, Iterable[ItemId]], ...] = (
            ("likes", self.liked),
            ("dislikes", self.disliked),
            ("looks for", self.words),
            ("only", (condition.where for condition in self.filters)),
        )
        return tuple((kind, value) for kind, values in kinds for value in values)

    def without(self, label: Label) -> "Preferences":
        """Remove one preference.

        Raises:
            InputError: no preference has this label.
        """
        if label not in self.labels:
            raise InputError(f"no preference has the label {label!r:.80}; choose one of {self.labels!r:.200}")
        kind, value = label
        if kind == "only":
            return self._without_conditions([str(value)])
        if kind == "looks for":
            return replace(self, words=tuple(phrase for phrase in self.words if phrase != value))
        return replace(self, liked=_remove(self.liked, [value]), disliked=_remove(self.disliked, [value]))

    def _without_conditions(self, conditions: Iterable[str]) -> "Preferences":
        removed = frozenset(conditions)
        return replace(self, filters=tuple(condition for condition in self.filters if condition.where not in removed))


def _title_lacks(phrase: str) -> Filter:
    """The condition that no title contains a phrase as whole words."""
    return Filter.without_words("title", phrase)


def _to_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _append_unique(values: tuple[ItemId, ...], new: Sequence[ItemId]) -> tuple[ItemId, ...]:
    """The values with the new ones at the end; of equal new ones, the last counts."""
    return (*_remove(values, new), *reversed(dict.fromkeys(reversed(new))))


def _remove(values: tuple[ItemId, ...], removed: Iterable[ItemId]) -> tuple[ItemId, ...]:
    removed = frozenset(removed)
    return tuple(value for value in values if value not in removed)
