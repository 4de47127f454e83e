"""Price bounds in English: "under 5", "nothing over £1,000", "between 2 and 5 pounds", "cheaper".

A number is a price if it has a currency, or if no unit follows it ("at most 5 items") and no person precedes it ("he is
over 40"). An ambiguous bound is not parsed.
"""

import re

from genrec.chat.preferences import PriceBound
from genrec.data.filter_syntax import ComparisonOperator

_CURRENCY_SYMBOL = "[£$€¥₹₩₽₺]"
_DIGITS = r"(?<![\d.,])(?:[1-9]\d{0,2}(?:,\d{3}){1,4}(?:\.\d{1,2})?|\d{1,9}(?:[.,]\d{1,2})?)(?!\d|[.,]\d)"
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
    """The pattern of a price, with groups named by a prefix and a number."""
    return (
        rf"(?:(?:about|around|a|an)\s+)?(?:{_CURRENCY_SYMBOL}\s*(?P<{group_prefix}1>{_DIGITS})(?!\s*%)|"
        rf"(?P<{group_prefix}3>{_DIGITS}){_CENTS}|(?P<{group_prefix}2>{_DIGITS})(?:{_CURRENCY}|{_PRICE_LOOKAHEAD}))"
    )


_PRICE_RANGE = re.compile(
    rf"\b(?:between|from)\s+(?:{_CURRENCY_SYMBOL}\s*)?(?P<low>{_DIGITS})(?:{_CURRENCY}|{_CENTS})?\s*(?:and|to|-)\s*{_price_pattern('high')}"
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
# Words that may stand between a negation and the bound that it inverts.
_NEGATION_FILLER = re.compile(
    r"wants?|afford|to|pay|paying|spend|spending|go|going|see|show|me|need|like|buy|any|anything|something|things|items|stuff|"
    r"everything|ones|that|which|who|whose|costs?|costing|priced|prices?|is|are|be|it|it's|really|please|i|we|you|a|much|"
    r"of|for|money"
)
# Phrases that contain a negation but negate no bound.
_NON_NEGATION = re.compile(
    r"\b(?:why not|if not|no (?:thanks|thank you|problem|worries|idea)|not (?:sure|only|just|too|so|very))\b"
)
_NON_PRICE_CONTEXT = re.compile(
    r"\b(?:i'm|i am|(?:he|she|they|you|who)(?:'s|'re| is| are)|people|persons?|any(?:one|body)|some(?:one|body)|kids?|"
    r"child|children|girls?|boys?|toddlers?|bab(?:y|ies)|adults?|women|woman|men|man|mum|dad|aged?|ages|years?|months?|weeks?|"
    r"days?|hours?|minutes?|old|delivered|arrives?|deliver(?:y|ed)?) $"
)
_CHEAPER = re.compile(
    r"\b(?:cheaper|less (?:expensive|pricey|costly)|(?:a bit |way |far )?too (?:expensive|pricey|costly|dear|much)"
    r"|(?:not|nothing)(?: too| so| that| very)? (?:expensive|pricey|costly))(?![-\w])"
)
_MORE_EXPENSIVE = re.compile(r"\b(?:more expensive|dearer|pricier|too cheap)(?![-\w]| look)")
_RELATIVE_PRICE = re.compile(
    rf"(?:{_CHEAPER.pattern}|{_MORE_EXPENSIVE.pattern})(?: than (?:the |that |this )?(?:[\w'-]+ ?){{1,4}})?"
)
_ANY_PRICE = re.compile(
    r"\b(?:no (?:price )?limits?(?: on (?:the )?price)?$|(?:remove|drop|forget|without) (?:the |my |any )?"
    r"price limits?|(?:any|whatever) price|price (?:doesn't|does not) matter|money is no object)"
)


def find_price_ranges(text: str) -> list[tuple[int, int]]:
    """The spans (start, end) of price ranges such as "between 2 and 5" in a text in lower case."""
    return [found.span() for found in _PRICE_RANGE.finditer(text)]


def parse_price_bounds(text: str) -> list[PriceBound]:
    """Parse the price bounds of a text in lower case, in the order of the text."""
    found: list[tuple[int, PriceBound]] = []
    for match in _PRICE_RANGE.finditer(text):
        prefix = text[: match.start()]
        is_price = match["high1"] or match["high3"] or not match[0].startswith("from") or _has_currency(match[0])
        if is_price and is_negated(prefix) is False and not _NON_PRICE_CONTEXT.search(prefix):
            low, high = sorted((_parse_number(match["low"]), _matched_price(match, "high")))
            found += [(match.start(), PriceBound(">=", low)), (match.start(), PriceBound("<=", high))]
    for match in (*_PRICE_BOUND.finditer(text), *_TRAILING_PRICE_BOUND.finditer(text)):
        prefix = text[: match.start()]
        negated = is_negated(prefix)
        if negated is None or _NON_PRICE_CONTEXT.search(prefix):
            continue
        if negated and "budget" not in match.re.groupindex:
            continue
        # "I don't want to spend 5" is still an upper bound.
        inverted = negated and not match.groupdict().get("budget")
        is_upper = (match["over"] is None) != inverted
        found.append((match.start(), PriceBound("<=" if is_upper else ">=", _matched_price(match, "price"))))
    return [bound for _, bound in sorted(found, key=lambda pair: pair[0])]


def parse_relative_bound(text: str) -> ComparisonOperator | None:
    """Parse a comparison such as "cheaper" or "nothing more expensive" in a text in lower case.

    Returns:
        How a price must compare with the reference price; None if there is no comparison or it is ambiguous.
    """
    for pattern, is_cheaper in ((_CHEAPER, True), (_MORE_EXPENSIVE, False)):
        if (found := pattern.search(text)) is None:
            continue
        is_complaint = "too " in found[0] or found[0].startswith("not")
        negated = False if is_complaint else is_negated(text[: found.start()])
        if negated is None:
            return None
        if negated:
            return ">=" if is_cheaper else "<="
        return "<" if is_cheaper else ">"
    return None


def removes_price_bounds(text: str) -> bool:
    """Whether a text in lower case says that any price will do."""
    return _ANY_PRICE.search(text) is not None


def strip_price_phrases(text: str) -> str:
    """A text in lower case without price bounds and comparisons of prices."""
    for pattern in (_PRICE_RANGE, _PRICE_BOUND, _TRAILING_PRICE_BOUND):
        text = pattern.sub(" ", text)
    return _RELATIVE_PRICE.sub(" ", " ".join(text.split())).strip()


def is_negated(prefix: str) -> bool | None:
    """Whether a text in lower case ends in a negation of what follows it; None if that is ambiguous."""
    words = [word.strip(".,:;()") for word in _NON_NEGATION.sub(" ", prefix).split()]
    end = len(words)
    while end and _NEGATION_FILLER.fullmatch(words[end - 1]):
        end -= 1
    if end and _NEGATION.fullmatch(words[end - 1]):
        return True
    return None if any(map(_NEGATION.fullmatch, words)) else False


def _has_currency(text: str) -> bool:
    return re.search(rf"{_CURRENCY_SYMBOL}|{_CURRENCY}$", text) is not None


def _matched_price(match: re.Match[str], group_prefix: str) -> float:
    if cents := match.groupdict().get(f"{group_prefix}3"):
        return _parse_number(cents) / 100
    return _parse_number(match[f"{group_prefix}1"] or match[f"{group_prefix}2"])


def _parse_number(digits: str) -> float:
    thousands = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits)
    return float(digits.replace(",", "" if thousands else "."))
