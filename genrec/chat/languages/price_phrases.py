"""Bounds of a price in what somebody says: "under 5", "nothing over £1,000", "between 2 and 5 pounds".

A number is a price only where nothing says otherwise: with a currency, or without a unit behind it ("at most 5 items")
and without a person before it ("he is over 40"). Where it is not clear which side is meant, nothing is read.
"""

import re
from typing import Literal

ComparisonOperator = Literal["<", "<=", ">", ">="]

_CURRENCY_SYMBOL = "[£$€¥₹₩₽₺]"
_DIGITS = r"(?<![\d.,])(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d{1,2})?|\d{1,9}(?:[.,]\d{1,2})?)(?!\d|[.,]\d)"
_CURRENCY = (
    rf"(?:\s*(?:{_CURRENCY_SYMBOL}|(?:pounds?|quid|sterling|gbp|euros?|eur|dollars?|usd|bucks?|francs?|chf|yen|rupees?|kronor|"
    r"pln)\b))"
)
_CENTS = r"(?:\s*(?:pence|p|cents?|c)\b)"
_PRICE_LOOKAHEAD = (
    r"(?=\s*(?:$|[;:!?)\]\"]|[.,](?:\s|$)|(?:please|each|apiece|a piece|per|or|and|but|for|if|in (?:total|all)|total|"
    r"max|maximum|tops|only|then|now|thanks?|this time|with|too|as|because|since|so|though|is|would|to|over|under|"
    r"above|below|at|no|not|than|more|less|cheaper)(?!\w)))"
)


def _price_pattern(group_prefix: str) -> str:
    """A price, in groups that begin with a name."""
    return (
        rf"(?:(?:about|around|a|an)\s+)?(?:{_CURRENCY_SYMBOL}\s*(?P<{group_prefix}1>{_DIGITS})(?!\s*%)|"
        rf"(?P<{group_prefix}3>{_DIGITS}){_CENTS}|(?P<{group_prefix}2>{_DIGITS})(?:{_CURRENCY}|{_PRICE_LOOKAHEAD}))"
    )


_PRICE_RANGE = re.compile(
    rf"\b(?:between|from)\s+{_CURRENCY_SYMBOL}?\s*(?P<low>{_DIGITS})(?:{_CURRENCY}|{_CENTS})?\s*(?:and|to|-)\s*{_price_pattern('high')}"
)
_PRICE_BOUND = re.compile(
    r"\b(?:(?P<under>under|below|less than|lower than|at most|up to|max(?:imum)?(?: of)?|cheaper than|within)|"
    r"(?P<budget>budget(?: is| of|'s)?:?(?: at most| up to)?|spend)|"
    r"(?P<over>over|above|more than|at least|min(?:imum)?(?: of)?|dearer than|more expensive than|upwards of))"
    rf"\s+{_price_pattern('price')}"
)
_TRAILING_PRICE_BOUND = re.compile(
    rf"(?:{_CURRENCY_SYMBOL}\s*(?P<price1>{_DIGITS})|(?P<price2>{_DIGITS}){_CURRENCY})\s+"
    r"(?:(?P<under>or (?:less|under|cheaper|below)|max(?:imum)?|tops|at most)|"
    r"(?P<over>or (?:more|over|above)|and (?:up|over)|upwards?|at least|minimum))\b"
)
_NEGATION = re.compile(
    r"not|no|nothing|never|dont|cant|wont|cannot|without|avoid|skip|exclude|neither|nor|hates?|none|stop|\w+n't"
)
# What may stand between "no" and the bound that it turns round.
_NEGATION_FILLER = re.compile(
    r"wants?|afford|to|pay|paying|spend|spending|go|going|see|show|me|need|like|buy|any|anything|something|things|items|stuff|"
    r"everything|ones|that|which|who|whose|costs?|costing|priced|prices?|is|are|be|it|it's|really|please|i|we|you|a|much|"
    r"of|for|money"
)
# These deny no bound.
_NON_NEGATION = re.compile(
    r"\b(?:why not|if not|no (?:thanks|thank you|problem|worries|idea)|not (?:sure|only|just|too|so|very))\b"
)
_NON_PRICE_CONTEXT = re.compile(
    r"\b(?:i'm|i am|(?:he|she|they|you|who)(?:'s|'re| is| are)|people|persons?|any(?:one|body)|some(?:one|body)|kids?|"
    r"child|children|girls?|boys?|toddlers?|bab(?:y|ies)|adults?|women|woman|men|man|mum|dad|aged?|ages|years?|months?|weeks?|"
    r"days?|hours?|minutes?|old|delivered|arrives?|deliver(?:y|ed)?) $"
)


def find_price_ranges(text: str) -> list[tuple[int, int]]:
    """Where ranges such as "between 2 and 5" begin and end in a text in small letters."""
    return [found.span() for found in _PRICE_RANGE.finditer(text)]


def parse_price_bounds(text: str) -> list[tuple[ComparisonOperator, float]]:
    """The bounds of a price that a text in small letters names, in its order; of the same side the last one counts."""
    found: list[tuple[int, ComparisonOperator, float]] = []
    for match in _PRICE_RANGE.finditer(text):
        currency = match["high1"] or match["high3"] or not match[0].startswith("from") or _has_currency(match[0])
        if (
            currency
            and is_negated(text[: match.start()]) is False
            and not _NON_PRICE_CONTEXT.search(text[: match.start()])
        ):
            low, high = sorted((_parse_number(match["low"]), _matched_price(match, "high")))
            found += [(match.start(), ">=", low), (match.start(), "<=", high)]
    for match in (*_PRICE_BOUND.finditer(text), *_TRAILING_PRICE_BOUND.finditer(text)):
        turned = is_negated(text[: match.start()])
        if turned is None or _NON_PRICE_CONTEXT.search(text[: match.start()]):
            continue
        under = match["over"] is None
        if turned and "budget" not in match.re.groupindex:
            continue
        # Whoever does not want to spend 5 does not want to spend more.
        turned = turned and not match.groupdict().get("budget")
        found.append((match.start(), "<=" if under != turned else ">=", _matched_price(match, "price")))
    return [(sign, amount) for _, sign, amount in sorted(found, key=lambda own: own[0])]


def strip_price_phrases(text: str) -> str:
    """A text in small letters without what it says of prices."""
    for pattern in (_PRICE_RANGE, _PRICE_BOUND, _TRAILING_PRICE_BOUND):
        text = pattern.sub(" ", text)
    return " ".join(text.split())


def _has_currency(text: str) -> bool:
    return re.search(rf"{_CURRENCY_SYMBOL}|{_CURRENCY}$", text) is not None


def is_negated(prefix: str) -> bool | None:
    """Whether what stands behind a text in small letters is denied by its end; None where that is not clear."""
    words = [word.strip(".,:;()") for word in _NON_NEGATION.sub(" ", prefix).split()]
    place = len(words)
    while place and _NEGATION_FILLER.fullmatch(words[place - 1]):
        place -= 1
    if place and _NEGATION.fullmatch(words[place - 1]):
        return True
    return None if any(map(_NEGATION.fullmatch, words)) else False


def _matched_price(match: re.Match[str], group_prefix: str) -> float:
    if cents := match.groupdict().get(f"{group_prefix}3"):
        return _parse_number(cents) / 100
    return _parse_number(match[f"{group_prefix}1"] or match[f"{group_prefix}2"])


def _parse_number(digits: str) -> float:
    thousands = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits)
    return float(digits.replace(",", "" if thousands else "."))
