"""A shopper's intent, and checks of titles, prices and filters against it that do not use genrec's filters."""

import re
from dataclasses import dataclass

from genrec import Catalog

_EXCLUSION_FILTER = re.compile(r"(['\"])((?:(?!\1).)*)\1 not in words\(title\)")

Price = float | None
IntendedBound = tuple[str, float]
ItemFacts = dict[str, tuple[str, Price]]
"""Title and price of every item, by its id as text."""


def item_facts_of(catalog: Catalog) -> ItemFacts:
    """Read titles and prices item by item, so that checks do not depend on genrec's filters."""
    prices = ((item, item.attributes.get("price")) for item in catalog)
    return {
        str(item.item_id): (item.title, float(price) if isinstance(price, int | float) else None)
        for item, price in prices
    }


def satisfies_price_bound(price: Price, sign: str, bound: float) -> bool:
    """Whether a price satisfies a bound; an unknown price satisfies none."""
    if price is None:
        return False
    return {"<": price < bound, "<=": price <= bound, ">": price > bound, ">=": price >= bound}[sign]


def lacks_text(title: str, words: str) -> bool:
    """Whether a title does not contain a text as whole words, ignoring case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", title, re.IGNORECASE) is None


def lacks_thing(title: str, word: str) -> bool:
    """Whether a title contains neither the singular nor the plural of a word; only plurals in "s" are known."""
    one = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
    return all(lacks_text(title, form) for form in {word, one, one + "s"})


def excluded_words(where: str) -> frozenset[str]:
    """The words that a filter allows no title to contain, case-folded; none for a filter of another kind."""
    return frozenset(found[1].casefold() for found in _EXCLUSION_FILTER.findall(where))


@dataclass(frozen=True)
class Intent:
    """What a shopper means, independently of what was parsed.

    Attributes:
        disliked: item ids, as text.
        min_price, max_price: bounds on the price, each as operator and amount; a later bound replaces an earlier one.
        excluded_words: words that no title may contain.
        excluded_series: prefixes that no title may have.
    """

    disliked: frozenset[str] = frozenset()
    min_price: IntendedBound | None = None
    max_price: IntendedBound | None = None
    excluded_words: frozenset[str] = frozenset()
    excluded_series: frozenset[str] = frozenset()

    def allows(self, item_id: str, title: str, price: Price) -> bool:
        """Whether an item may be recommended."""
        return (
            item_id not in self.disliked
            and all(
                satisfies_price_bound(price, *bound) for bound in (self.min_price, self.max_price) if bound is not None
            )
            and all(lacks_thing(title, word) for word in self.excluded_words)
            and not any(title.casefold().startswith(words) for words in self.excluded_series)
        )
