"""Short clauses that are true of recommended items: of their attributes, of each other, and of what was asked for.

Whoever writes a reply may choose among them and can state nothing else of an item. Made of what stands in the catalog,
in the wishes, and in the order of the list; nothing is inferred.
"""

import re
from collections.abc import Mapping, Sequence

from genrec.chat.languages.inflection import inflections, lowercase
from genrec.data.catalog import Catalog
from genrec.types import Recommendation

_WORD = re.compile(r"\w{3,}")
# What a clause may show of the catalog's own texts: what could be read as a mark of a reply or a model is left out.
_SAFE_VALUE = re.compile(r"[\w ,.'/&+-]{1,40}")
# What says nothing of a thing that somebody looks for.
_STOP_WORDS = re.compile(
    r"all|and|another|any|are|because|but|can|could|ever|for|from|gift|give|good|got|had|has|have|her|him|his|how|into|"
    r"just|kind|likes?|look|looking|loved?|loves|made?|make|more|most|much|needs?|not|nice|one|our|out|please|set|she|"
    r"some|something|than|that|the|their|them|then|there|these|they|things?|this|those|too|very|wants?|was|were|what|"
    r"when|which|who|will|with|would|years?|you|your"
)


def build_item_facts(
    items: Sequence[Recommendation], catalog: Catalog, words: Sequence[str], *, price_column: str = "price"
) -> list[list[str]]:
    """For each item the clauses that are true of it, to be put behind its name; some have none.

    Args:
        items: what was recommended.
        catalog: holds their attributes.
        words: what is looked for, in the person's words.
        price_column: the attribute that is a price.
    """
    facts = [catalog[catalog.index_of(item.item_id)].attributes for item in items]
    prices = [own.get(price_column) for own in facts]
    numbers = [value if isinstance(value, int | float) and not isinstance(value, bool) else None for value in prices]
    wanted = {one for said in words for word in _WORD.findall(said) for one in _term_variants(word)}
    found = []
    for place, (item, own) in enumerate(zip(items, facts, strict=True)):
        said = _price_facts(numbers, place)
        if name := _title_match_fact(item.title, wanted):
            said.insert(0, f"{name}, at {_format_number(numbers[place] or 0)}" if numbers[place] is not None else name)
        found.append([*said, *_attribute_facts(own, price_column)])
    return found


def _title_match_fact(title: str, query_terms: set[str]) -> str:
    """What a title says of what is looked for; "" for nothing."""
    shared = [word for word in _WORD.findall(title) if not query_terms.isdisjoint(_term_variants(word))]
    return f", with “{shared[0]}” in its name" if shared and len(shared[0]) <= 40 else ""


def _price_facts(prices: Sequence[float | None], position: int) -> list[str]:
    """What a price says, by itself and beside the others."""
    price, known = prices[position], sorted(own for own in prices if own is not None)
    if price is None:
        return []
    if len(known) == len(prices) > 1 and known.count(price) == 1 and price in (known[0], known[-1]):
        which = "cheapest" if price == known[0] else "most expensive"
        return [f", the {which} of these at {_format_number(price)}"]
    return [f", which costs {_format_number(price)}"]


def _attribute_facts(attributes: Mapping[str, object], price_column: str) -> list[str]:
    """Other attributes, of one short value each."""
    found = []
    for name, value in attributes.items():
        if name == price_column or isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        text = f"{name} {_format_number(value) if isinstance(value, float) else value}".replace("_", " ")
        if _SAFE_VALUE.fullmatch(text):
            found.append(f" ({text})")
    return found


def _format_number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _term_variants(word: str) -> tuple[str, ...]:
    """A word as of one and of many, for comparing; nothing for one that says nothing."""
    word = lowercase(word)
    return () if _STOP_WORDS.fullmatch(word) or word.isdecimal() else inflections(word)
