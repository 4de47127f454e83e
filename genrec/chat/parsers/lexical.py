"""Parses preferences by lexical rules, without a language model. English only.

Source of the idea: Burke, Hammond and Young, "The FindMe Approach to Assisted Browsing", IEEE Expert 1997: items serve
as examples of what is wanted, and critiques say how the next items should differ.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from genrec.chat.conversation import Conversation
from genrec.chat.languages.exclusion_phrases import exclude_word, find_exclusion
from genrec.chat.languages.feedback_phrases import (
    has_exception,
    is_judgement,
    is_negative,
    is_positive,
    refers_to_all_items,
    rejects_all_items,
    rejects_series,
    strip_availability_question,
    strip_exception,
)
from genrec.chat.languages.inflection import lowercase
from genrec.chat.languages.price_phrases import (
    find_price_ranges,
    parse_price_bounds,
    parse_relative_bound,
    removes_price_bounds,
    strip_price_phrases,
)
from genrec.chat.languages.stop_words import has_content
from genrec.chat.parsers.clauses import ClauseContext, split_clauses
from genrec.chat.parsers.item_references import (
    find_item_references,
    find_ordinal_references,
    find_title_references,
    only_refers_to_items,
)
from genrec.chat.parsers.title_lookup import TitleLookup
from genrec.chat.parsers.title_series import common_title_prefix
from genrec.chat.preferences import PreferenceFilter, Preferences, PriceBound
from genrec.data.catalog import Catalog
from genrec.data.column_types import describe_type
from genrec.data.filter_syntax import is_attribute_name
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.types import ItemId, Recommendation

_MAX_RULES_PER_CLAUSE = 8  # rules that are applied to a clause; the text that they leave becomes a search phrase

_Parsed = tuple[Preferences, str]  # the preferences after a clause, and its text that no rule has parsed yet


@dataclass(frozen=True)
class LexicalParser:
    """Parses preferences by lexical rules.

    It recognises items by their position in the last list ("more like the second", "not number 3") or, next to a
    judgement, by their title ("I loved ..."), prices ("cheaper", "under 5"), excluded words ("no candles"), and "not
    that series", which excludes the words that the titles of the list begin with. Everything else is a search phrase,
    and so is everything after the first `MAX_CLAUSES` clauses and the first 8 preferences of a clause, so that the time
    for a message is bounded.

    Attributes:
        catalog: the items.
        price_column: the column of prices. If it is missing or not numeric, or if filters cannot name it, prices are
            words like any other.
    """

    catalog: Catalog
    price_column: str = "price"

    @cached_property
    def _title_lookup(self) -> TitleLookup:
        return TitleLookup(self.catalog)

    @cached_property
    def _has_price_column(self) -> bool:
        if not is_attribute_name(self.price_column):
            return False
        try:
            return describe_type(self.catalog.column(self.price_column).type) == "numbers"
        except InputError:
            return False

    def __call__(self, message: str, conversation: Conversation, deadline: Deadline | None = None) -> Preferences:
        """The preferences after a message; see `genrec.chat.advisor.PreferenceParser`. Needs no deadline."""
        preferences, unparsed_clauses = self.parse(message, conversation)
        return preferences.with_words(", ".join(unparsed_clauses)) if unparsed_clauses else preferences

    def parse(self, message: str, conversation: Conversation) -> tuple[Preferences, list[str]]:
        """Parse a message.

        Returns:
            The preferences of the conversation with those that the rules recognise, and the clauses, or parts of
            clauses, that they do not recognise, in order.
        """
        preferences, unparsed_clauses, shown = conversation.preferences, [], conversation.shown
        clauses, remaining = split_clauses(message, shown)
        texts = [lowercase(clause) for clause in clauses]
        references = [[] if find_price_ranges(text) else find_item_references(text, shown) for text in texts]
        mentioned = [item for items in references for item in items]
        excepted = [
            item for text, items in zip(texts, references, strict=True) if has_exception(text) for item in items
        ]
        for clause, text in zip(clauses, texts, strict=True):
            context = ClauseContext(strip_availability_question(text), shown, mentioned, excepted)
            preferences, unparsed = self._parse_whole_clause(context, preferences)
            unparsed_clauses += [clause] if unparsed is None else [unparsed] if unparsed else []
        return preferences, [*unparsed_clauses, *remaining]

    def _parse_whole_clause(self, clause: ClauseContext, preferences: Preferences) -> tuple[Preferences, str | None]:
        """The preferences after a clause, and what is left of it to search for; None for all of it."""
        unparsed: str | None = None
        for _ in range(_MAX_RULES_PER_CLAUSE):
            parsed = self._parse_clause(clause if unparsed is None else replace(clause, text=unparsed), preferences)
            if parsed is None:
                break
            preferences, unparsed = parsed
            if not has_content(unparsed):
                return preferences, ""
        return preferences, unparsed

    def _parse_clause(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Apply the first rule that recognises a clause; None if no rule does."""
        return (
            self._parse_list_rejection(clause, preferences)
            or self._parse_price(clause, preferences)
            or self._parse_list_judgement(clause, preferences)
            or self._parse_judgement(clause, preferences)
            or self._parse_exclusion(clause, preferences)
        )

    def _parse_list_rejection(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Parse a rejection of the list: "not that series", "none of these"."""
        shown = clause.shown
        if not shown:
            return None
        if rejects_series(clause.text):
            if prefix := common_title_prefix([item.title for item in shown]):
                return preferences.with_filter(PreferenceFilter.from_phrase(prefix)), ""
            return preferences.with_disliked(shown[0].item_id), ""
        if rejects_all_items(clause.text):
            return _with_feedback(preferences, Preferences.with_disliked, _ids_of(shown)), ""
        return None

    def _parse_price(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Parse bounds on the price: "under 5", "cheaper", "any price"."""
        text = clause.text
        if not self._has_price_column:
            return None
        if removes_price_bounds(text):
            return preferences.without_price_bounds(), ""
        if not (bounds := parse_price_bounds(text) or self._relative_price_bounds(clause)):
            return None
        for bound in bounds:
            preferences = preferences.with_price_bound(self.price_column, bound)
        unparsed = strip_price_phrases(text)
        # "The fourth is too expensive" says nothing else about the fourth.
        is_consumed = not is_positive(unparsed) and find_item_references(unparsed, clause.shown)
        return preferences, "" if is_consumed else unparsed

    def _parse_list_judgement(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Parse a judgement of the whole list: "I like them all except the third"."""
        if not clause.shown or not refers_to_all_items(clause.text):
            return None
        dislikes = is_negative(strip_exception(clause.text))
        if not dislikes and not is_positive(clause.text):
            return None
        excepted = _ids_of(clause.excepted)
        others = [item_id for item_id in _ids_of(clause.shown) if item_id not in excepted]
        change, opposite = Preferences.with_liked, Preferences.with_disliked
        if dislikes:
            change, opposite = opposite, change
        return _with_feedback(_with_feedback(preferences, change, others), opposite, excepted), ""

    def _parse_judgement(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Parse a judgement of single items: "more like the second", "the mug is ugly"."""
        if find_price_ranges(clause.text):  # "nothing between 2 and 5" refers to no items
            return None
        if not (item_ids := self._referenced_item_ids(clause.text, clause.shown)):
            return None
        change = Preferences.with_disliked if is_negative(clause.text) else Preferences.with_liked
        return _with_feedback(preferences, change, item_ids), ""

    def _parse_exclusion(self, clause: ClauseContext, preferences: Preferences) -> _Parsed | None:
        """Parse excluded words: "no mugs or candles"."""
        if find_price_ranges(clause.text) or (exclusion := find_exclusion(clause.text)) is None:
            return None
        for word in exclusion.words:
            preferences = preferences.with_filter(exclude_word(word))
        return preferences, exclusion.remaining_text

    def _relative_price_bounds(self, clause: ClauseContext) -> list[PriceBound]:
        """The bound of a comparison such as "cheaper", with the median price of the items that it refers to."""
        if (operator := parse_relative_bound(clause.text)) is None:
            return []
        items = find_item_references(clause.text, clause.shown) or clause.mentioned or clause.shown
        prices = sorted(price for item in items if (price := self._price_of(item.item_id)) is not None)
        return [PriceBound(operator, prices[len(prices) // 2])] if prices else []

    def _referenced_item_ids(self, text: str, shown: Sequence[Recommendation]) -> list[ItemId]:
        """The items that a clause refers to: of the list by position or, with a judgement, any item by title."""
        found = find_ordinal_references(text, shown)
        if not found and (only_refers_to_items(text, shown) or is_judgement(text)):
            found = find_title_references(text, shown)
            if not found and is_judgement(text):
                return [self.catalog.item_ids[item_index] for item_index in self._title_lookup.find_items(text)]
        return _ids_of(found)

    def _price_of(self, item_id: ItemId) -> float | None:
        if (item_index := self.catalog.item_ids.position(item_id)) < 0:  # withdrawn since it was shown
            return None
        price = self.catalog[item_index].attributes.get(self.price_column)
        return float(price) if isinstance(price, int | float) else None


def _ids_of(items: Iterable[Recommendation]) -> list[ItemId]:
    return [item.item_id for item in items]


def _with_feedback(
    preferences: Preferences, change: Callable[..., Preferences], item_ids: Iterable[ItemId]
) -> Preferences:
    return change(preferences, *item_ids)
