"""Short clauses that are true of recommended items: about their attributes, each other and the search phrases.

A reply states nothing about an item except these clauses. They are derived from the catalog, the preferences and the
order of the list; nothing is inferred.
"""

import re
from collections.abc import Mapping, Sequence

from genrec.chat.languages.inflection import inflections, lowercase
from genrec.chat.languages.stop_words import is_query_stop_word
from genrec.data.catalog import Catalog
from genrec.types import Recommendation

_WORD = re.compile(r"\w{3,}")
# Values of other characters are left out: they could be read as a placeholder of a reply or as a control token.
_SAFE_VALUE = re.compile(r"[\w ,.'/&+-]{1,40}")


def build_item_facts(
    items: Sequence[Recommendation], catalog: Catalog, words: Sequence[str], *, price_column: str = "price"
) -> list[list[str]]:
    """List the true clauses about each item, worded to follow its name.

    Args:
        items: recommended items.
        catalog: holds their attributes.
        words: search phrases, in the user's words.
        price_column: the attribute that holds the price.

    Returns:
        One list of clauses per item, in the order of `items`; some may be empty.
    """
    attributes = [catalog[catalog.index_of(item.item_id)].attributes for item in items]
    prices = [_as_number(item_attributes.get(price_column)) for item_attributes in attributes]
    query_terms = {variant for phrase in words for word in _WORD.findall(phrase) for variant in _term_variants(word)}
    return [
        [
            *_name_and_price_facts(item.title, query_terms, prices, position),
            *_attribute_facts(attributes[position], price_column),
        ]
        for position, item in enumerate(items)
    ]


def _name_and_price_facts(
    title: str, query_terms: set[str], prices: Sequence[float | None], position: int
) -> list[str]:
    facts, price = _price_facts(prices, position), prices[position]
    if match := _title_match_fact(title, query_terms):
        facts.insert(0, match if price is None else f"{match}, at {_format_number(price)}")
    return facts


def _title_match_fact(title: str, query_terms: set[str]) -> str:
    """The first word that a title shares with the search phrases, as a clause; "" if there is none."""
    shared = [word for word in _WORD.findall(title) if not query_terms.isdisjoint(_term_variants(word))]
    return f", with “{shared[0]}” in its name" if shared and len(shared[0]) <= 40 else ""


def _price_facts(prices: Sequence[float | None], position: int) -> list[str]:
    """The price of an item, or that it is the lowest or highest of the list."""
    price, known = prices[position], sorted(value for value in prices if value is not None)
    if price is None:
        return []
    if len(known) == len(prices) > 1 and known.count(price) == 1 and price in (known[0], known[-1]):
        which = "cheapest" if price == known[0] else "most expensive"
        return [f", the {which} of these at {_format_number(price)}"]
    return [f", which costs {_format_number(price)}"]


def _attribute_facts(attributes: Mapping[str, object], price_column: str) -> list[str]:
    """Attributes other than the price that hold one short value."""
    facts = []
    for name, value in attributes.items():
        if name == price_column or isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        text = f"{name} {_format_number(value) if isinstance(value, float) else value}".replace("_", " ")
        if _SAFE_VALUE.fullmatch(text):
            facts.append(f" ({text})")
    return facts


def _as_number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _format_number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _term_variants(word: str) -> tuple[str, ...]:
    """The inflections of a word, for comparison; none for a stop word or a number."""
    word = lowercase(word)
    return () if is_query_stop_word(word) or word.isdecimal() else inflections(word)
