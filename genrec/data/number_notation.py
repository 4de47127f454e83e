"""Number notation: amounts written as text, such as "$1,250.00", "1.250,00 €" and "12,50".

Whether a comma or a point is the decimal sign is decided from all values of a column, never from one alone. Libraries
such as price-parser and Babel decide it for each text, and take some ten microseconds for one.

Letters: N rows.
"""

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.notation import MIN_SHARE, Ambiguous, TypedValues

_CODES = "USD|EUR|GBP|JPY|CNY|RMB|INR|CHF|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RON|TRY|RUB|BRL|MXN|KRW|ZAR|SGD|HKD|ILS"
_CURRENCY = rf"(?:[A-Z]{{0,3}}\p{{Sc}}|{_CODES}|kr\.?|zł|Kč|Rs\.?|元|円)"
_SPACE = r" \x{00a0}\x{202f}'\x{2019}"  # between thousands
_SIGN = r"-\x{2212}"
_AMOUNT = (
    rf"^\s*[{_SIGN}+]?(?P<before>{_CURRENCY})?\s*[{_SIGN}]?(?P<digits>[0-9]|[0-9][0-9.,{_SPACE}]*[0-9]|[.,][0-9]+)"
    rf"\s*(?P<after>{_CURRENCY})?\s*$"
)
_MINUS = rf"^[^0-9.,]*[{_SIGN}]"
_PATTERNS = {  # by the decimal sign
    ".": rf"^([0-9]+|[1-9][0-9]{{0,2}}([,{_SPACE}][0-9]{{3}})+|[1-9][0-9]?(,[0-9]{{2}})+,[0-9]{{3}})?(\.[0-9]+)?$",
    ",": rf"^([0-9]+|[1-9][0-9]{{0,2}}([.{_SPACE}][0-9]{{3}})+)?(,[0-9]+)?$",
}
_CODE = r"^0[0-9]|^[0-9]{19}"
# Other names of a currency in one list of prices.
_SIGNS = {"EUR": "€", "USD": "$", "US$": "$", "GBP": "£", "INR": "₹", "JPY": "¥", "CNY": "¥", "RMB": "¥"}


def read_numbers(
    texts: pa.Array, decimal: str | None = None, *, is_text_table: bool = True
) -> TypedValues | Ambiguous | None:
    """Read text as numbers.

    Args:
        texts: large_string [N], null where there is nothing to read.
        decimal: the decimal sign; by default it is found out, and codes such as 00123 are no numbers.
        is_text_table: whether the source is a text table; others can write numbers as numbers, so that digits alone
            are codes there.

    Returns:
        The numbers, int64 if none has a fraction, else float64; None if there are none, or too few.
    """
    parts = pc.extract_regex(texts, _AMOUNT)
    digits = pc.struct_field(parts, "digits")
    if digits.null_count == len(digits):
        return None
    if decimal is None:
        currency = _currencies(parts)
        has_signs = pc.any(pc.match_substring_regex(digits, "[^0-9]")).as_py() or pc.any(currency.is_valid()).as_py()
        if pc.any(pc.match_substring_regex(digits, _CODE)).as_py() or not (is_text_table or has_signs):
            return None
        required = MIN_SHARE * (len(texts) - texts.null_count)
        if _count(digits.is_valid()) < required:
            return None
        counts = sorted(pc.value_counts(currency.drop_null()).to_pylist(), key=lambda entry: -entry["counts"])
        if counts:
            digits = pc.if_else(pc.equal(currency, counts[0]["values"]).fill_null(True), digits, None)
        if _count(digits.is_valid()) < required:
            signs = " and ".join(repr(entry["values"]) for entry in counts[:2])
            return Ambiguous(f"it has amounts in {signs}", ["number"])
        found = _find_decimal(digits, required)
        if isinstance(found, Ambiguous):
            return found
        decimal = found
    return TypedValues("numbers", _convert(digits, pc.match_substring_regex(texts, _MINUS), decimal))


def _currencies(parts: pa.Array) -> pa.Array:
    """The sign of each amount's currency: large_string [N], null where there is none."""
    sign = pc.binary_join_element_wise(
        pc.struct_field(parts, "before"), pc.struct_field(parts, "after"), pa.scalar("", pa.large_string())
    )
    for name, short in _SIGNS.items():
        sign = pc.if_else(pc.equal(sign, name), short, sign)
    return pc.if_else(pc.equal(sign, ""), None, sign)


def _find_decimal(digits: pa.Array, required: float) -> str | Ambiguous:
    """The decimal sign of a column of amounts, at least `required` of which must fit it."""
    point, comma = (pc.match_substring_regex(digits, pattern) for pattern in _PATTERNS.values())
    only_point, only_comma = pc.and_not(point, comma), pc.and_not(comma, point)
    fits = {".": _count(point) >= required, ",": _count(comma) >= required}
    shows = {".": pc.any(only_point).as_py(), ",": pc.any(only_comma).as_py()}
    either = pc.and_(pc.and_(point, comma), pc.match_substring_regex(digits, "[.,]"))
    for sign, other in ((".", ","), (",", ".")):
        if fits[sign] and shows[sign] and not (fits[other] and shows[other]):
            return sign
    if not any(shows.values()) and not pc.any(either).as_py():
        return "."
    types = ["number", "decimal-comma"]
    if pc.any(either).as_py() and not any(shows.values()):
        example = digits.filter(either)[0].as_py()
        return Ambiguous(f"its values do not show whether {example!r} has thousands or decimals", types)
    examples = [repr(digits.filter(mask)[0].as_py()) for mask in (only_point, only_comma) if pc.any(mask).as_py()]
    return Ambiguous(f"{' and '.join(examples)} do not have one decimal sign", types)


def _convert(digits: pa.Array, is_negative: pa.Array, decimal: str) -> pa.Array:
    plain = pc.if_else(pc.match_substring_regex(digits, _PATTERNS[decimal]), digits, None)
    plain = pc.replace_substring_regex(plain, rf"[{',' if decimal == '.' else '.'}{_SPACE}]", "")
    plain = pc.replace_substring(plain, ",", ".")
    is_fraction = pc.any(pc.match_substring_regex(plain, r"\.|[0-9]{19}")).as_py()
    numbers = plain.cast(pa.float64() if is_fraction else pa.int64())
    return pc.if_else(is_negative, pc.negate(numbers), numbers)


def _count(mask: pa.Array) -> int:
    return pc.sum(mask).as_py() or 0
