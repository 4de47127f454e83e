"""Filters: results equal those of Python conditions, missing values are not allowed, and no Python code runs."""

import contextlib
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop import ITEMS

from genrec.data.catalog import Catalog, read_catalog
from genrec.data.filter_syntax import all_of, parse_filter
from genrec.data.filters import filter_mask
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, FilterError, InputError
from genrec.types import Item


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.from_items(ITEMS, name="shop")


def allowed(catalog: Catalog, expression: Any) -> list[int]:
    mask = catalog.where(expression)
    assert mask.dtype == np.bool_
    assert mask.shape == (len(catalog),)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("price < 5", [0, 3]),
        ("price < 5 and genre in ['Horror', 'Comedy']", [0, 3]),
        ("5 > price", [0, 3]),
        ("price == 9", [1]),
        ("price >= -1 and price != 0", [0, 1]),
        ("1979 < year <= 2000", [0, 1]),
        ("year in (1979, 2000.0, 3.5, 99999999999999999999)", [1, 3]),
        ("year < 99999999999999999999", [0, 1, 3]),
        ("year not in [1979]", [0, 1]),
        ("genre in []", []),
        ("genre not in []", [0, 1, 3]),
        ("discontinued", [1]),
        ("not discontinued", [0, 3]),
        ("discontinued == False", [0, 3]),
        ("'lamp' in title", [0, 1]),
        ("'lamp' not in title", [2, 3]),
        ("'.' in title", []),
        ("'lamp' in words(title)", [0]),
        ("'LAMP' not in words(title)", [1, 2, 3]),
        ("'lam' in words(title)", []),
        ("'air' not in words(title) and 'chair' in words(title)", [2]),
        ("not ('lamp' in words(title))", [1, 2, 3]),
        ("title == 'Chair'", [2]),
        ("title != 'Chair' and title >= 'B'", [0, 1]),
        ("'b' in tags", [0, 3]),
        ("'B' in tags", []),
        ("'b' not in tags", [1]),
        ("price is None", [2]),
        ("price is not None", [0, 1, 3]),
        ("not (price < 5)", [1]),
        ("price < 5 or price is None", [0, 2, 3]),
        ("price < year", [0, 1, 3]),
        ("item_id in ['i1', 'i2']", [1, 2]),
        ("  price < 5  # cheap", [0, 3]),
    ],
)
def test_filters_allow_the_expected_rows(catalog: Catalog, expression: str, expected: list[int]) -> None:
    """Otherwise users see items they excluded. Missing values are allowed only by `is None`."""
    assert allowed(catalog, expression) == expected


WORDS = st.text(st.sampled_from("aAß\u017féE\u0301kK_1 -'.\\n\\\\(*ñΣσς漢\u212a"), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=6), WORDS.filter(str.strip))
def test_whole_words_end_where_no_letter_of_any_script_follows(titles: list[str], text: str) -> None:
    """ "No art" must not exclude "party", and "no Été" must exclude "été"."""
    catalog = Catalog.from_items(Item(place, f"x {title} x") for place, title in enumerate(titles))
    held = allowed(catalog, f"{text!r} in words(title)")
    assert set(held) <= set(allowed(catalog, f"{text!r} in title"))
    assert sorted([*held, *allowed(catalog, f"{text!r} not in words(title)")]) == list(range(len(titles)))
    letter = re.compile(r"\w|\u0301")
    for place, title in enumerate(catalog.titles):
        ends = (found.span() for found in re.finditer(f"(?={re.escape(text)})", title))
        alone = any(
            not (letter.match(text[0]) and letter.match(title[start - 1 : start] or " "))
            and not (letter.match(text[-1]) and letter.match(title[start + len(text) :] or " "))
            for start, _ in ends
        )
        assert not alone or place in held


def test_whole_words_of_missing_text_are_unknown() -> None:
    """Items with missing text are not allowed, whether the condition is negated or not."""
    catalog = Catalog.from_items([Item("a", "x", {"note": "art deco"}), Item("b", "y", {"note": None})])
    assert allowed(catalog, "'art' in words(note)") == [0]
    assert allowed(catalog, "'art' not in words(note)") == []
    assert allowed(catalog, "'dec' not in words(note)") == [0]


def test_arrow_expressions_are_filters(catalog: Catalog) -> None:
    """Rows with an unknown result are not allowed here either."""
    assert allowed(catalog, pc.field("price") < 5) == allowed(catalog, "price < 5")
    assert allowed(catalog, ~(pc.field("price") < 5)) == [1]
    for wrong in (pc.field("nope") < 5, pc.field("price") < "x", pc.field("price")):
        with pytest.raises(FilterError, match="the attributes are item_id, title, price"):
            catalog.where(wrong)


def test_dates_are_compared_with_dates_in_text() -> None:
    """Otherwise release dates cannot be filtered."""
    days = ["2020-01-01", "2021-06-30", None]
    for kind in (pa.date32(), pa.timestamp("ns"), pa.timestamp("ms", "Europe/Paris"), pa.string()):
        released = pa.array(days).cast(pa.timestamp("s") if kind == pa.timestamp("ms", "Europe/Paris") else kind)
        if kind == pa.timestamp("ms", "Europe/Paris"):
            released = pc.assume_timezone(released, "Europe/Paris").cast(kind)
        catalog = read_catalog(pa.table({"item_id": [1, 2, 3], "title": list("abc"), "released": released}))
        assert allowed(catalog, "released >= '2020-12-31'") == [1]
        assert allowed(catalog, "released in ['2021-06-29']") == []
    with pytest.raises(FilterError, match="released holds dates, but 'soon' is not a date"):
        read_catalog(pa.table({"item_id": [1], "title": ["a"], "released": pa.array([0], pa.date32())})).where(
            "released > 'soon'"
        )
    beyond = "0001-01-01T00:00:00+14:00"  # in UTC a year that no calendar has
    with pytest.raises(FilterError, match="released holds dates, but '0001-01-01T"):
        read_catalog(pa.table({"item_id": [1], "title": ["a"], "released": pa.array([0], pa.timestamp("us"))})).where(
            f"released > '{beyond}'"
        )


def test_elements_under_null_lists_are_ignored() -> None:
    """Arrow may keep elements under a null list or before a slice; they belong to no row."""
    hidden = pa.LargeListArray.from_arrays(
        pa.array([0, 2, 4, 5]), pa.array(["a", "b", "c", "d", "a"]), mask=pa.array([False, True, False])
    )
    table = pa.table({"item_id": [1, 2, 3], "title": list("xyz"), "tags": hidden})
    catalog, part = read_catalog(table), read_catalog(table.slice(1))
    assert [allowed(catalog, f"'{tag}' in tags") for tag in "abcd"] == [[0, 2], [0], [], []]
    assert [allowed(part, f"'{tag}' in tags") for tag in "abcd"] == [[1], [], [], []]
    rebuilt = pa.table({"item_id": [2, 3], "title": ["y", "z"], "tags": [None, ["a"]]})
    assert part.fingerprint == read_catalog(rebuilt).fingerprint


def test_an_attribute_without_values_allows_no_item() -> None:
    """Otherwise an empty column fails open."""
    catalog = Catalog.from_items([Item("a", "x", {"p": None}), Item("b", "y", {"p": None})])
    for expression in ("p < 5", "not p < 5", "p", "not p", "p in [1]", "'x' in p", "p == p", "not (p in [1])"):
        assert allowed(catalog, expression) == []
    assert allowed(catalog, "p is None") == [0, 1]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("pric < 5", ["'pric' is not an attribute", "did you mean 'price'", "genre"]),
        ("genre == Horror", ["'Horror' is not an attribute", "quotes"]),
        ("price < '5'", ["price holds numbers", "'5' is text"]),
        ("title == 5", ["title holds text", "5 is a number"]),
        ("price == True", ["price holds numbers", "True is true or false"]),
        ("discontinued < True", ["discontinued", "no order"]),
        ("price < genre", ["price holds numbers and genre text"]),
        ("price", ["price holds numbers; compare"]),
        ("not title", ["title holds text; compare"]),
        ("tags == 'b'", ["'b' in tags"]),
        ("tags in ['b']", ["tags holds lists"]),
        ("5 in title", ["title holds text"]),
        ("5 in tags", ["tags holds text, but 5 is a number"]),
        ("'x' in price", ["price holds numbers; use in with text or lists"]),
        ("'x' in ['x']", ["is not an attribute"]),
        ("'x' in 'xyz'", ["'xyz'"]),
        ("'x' in words(tags)", ["tags holds", "use words with text"]),
        ("5 in words(title)", ["title holds text, but 5 is not text"]),
        ("' ' in words(title)", ["' ' has no words"]),
        ("'x' in lower(title)", ["'lower(title)'", "'art' in words(title)"]),
        ("'x' in words(title, genre)", ["for whole words write"]),
        ("'x' in words('x')", ["for whole words write"]),
        ("'x' in words(titel)", ["'titel' is not an attribute", "did you mean 'title'"]),
        ("words(title) == 'x'", ["neither is an attribute"]),
        ("price == None", ["is None"]),
        ("price is 5", ["None"]),
        ("1 < 2", ["neither is an attribute"]),
        ("True", ["'True' is not a condition"]),
        ("price <", ["does not parse"]),
        ("price = 5", ["does not parse"]),
        ("price < 5; price > 1", ["does not parse"]),
        ("", ["is empty"]),
        ("__import__('os').system('x')", ["is not a condition"]),
        ("len(title) > 5", ["'len(title)'"]),
        ("title.__class__ == 'x'", ["'title.__class__'"]),
        ("price + 1 < 5", ["'price + 1'"]),
        ("[x for x in title]", ["is not a condition"]),
        ("lambda: 1", ["is not a condition"]),
        ("(x := 5) < price", ["'x := 5'"]),
        ("f'{price}' == title", ["neither"]),
        ("title == b'x'", ["b'x'"]),
        ("price < 1j", ["'1j'"]),
        ("price < -'x'", ["sign"]),
        ("title == '\\ud800'", ["UTF-8"]),
        ("(" * 250 + "price < 5" + ")" * 250, ["does not parse"]),
        ("not " * 60 + "discontinued", ["nested more than 32"]),
        ("not " * 2000 + "discontinued", ["nested|parse"]),
        ("price < " + "-" * 3000 + "5", ["sign|parse"]),
        ("price < " + "9" * 5000, ["does not parse"]),
        ("title == '" + "x" * 10_000 + "'", ["10,0", "allow-list"]),
        ("price < 5\0", ["does not parse"]),
    ],
)
def test_an_invalid_filter_is_refused_with_a_reason(catalog: Catalog, expression: str, words: list[str]) -> None:
    """Only comparisons are evaluated; otherwise a filter from a request could run code or end the process."""
    with pytest.raises(FilterError) as caught:
        catalog.where(expression)
    text = str(caught.value)
    assert all(any(choice in text for choice in word.split("|")) for word in words), text
    assert "attributes: item_id, title, price" in text


def test_a_filter_of_another_type_is_refused(catalog: Catalog) -> None:
    """Otherwise a caller that passes None for "no filter" gets another result without an error."""
    for wrong in (None, 5, ["i0"], lambda item: True):
        with pytest.raises(FilterError, match="a filter is a text"):
            catalog.where(wrong)


@given(st.text(alphabet="price title tags()[]'\"<>=!,.019 -andortifsNeTu\\\n", max_size=40))
def test_every_filter_text_gives_a_mask_or_a_filter_error(text: str) -> None:
    """Any other exception would be a server error for the client that sent the filter."""
    catalog = Catalog.from_items(ITEMS)
    with contextlib.suppress(FilterError):
        assert catalog.where(text).shape == (4,)


Truth = bool | None
Condition = tuple[str, Callable[[dict[str, Any]], Truth]]
WORDS = st.sampled_from(["a", "B", "ab", "Ab", "ba", "É", "é x", "it's", '"', "\\", ".*", "[a]"])
# Neighbours of 2 ** 53, from where float64 skips whole numbers, and of the ends of int64 and float64.
WHOLES = [sign * (number + step) for sign in (1, -1) for number in (2**53, 2**63 - 3) for step in (-1, 0, 1, 2)]
FRACTIONS = [-1.5, -0.0, 0.0, 0.5, 2.0, 2.0**53, 2.0**53 + 2, -(2.0**63), 2.0**63, 1e300]
NUMBERS = st.one_of(
    st.integers(-3, 3), st.sampled_from([*WHOLES, *FRACTIONS, 2**63, -(2**63) - 1, 10**20, 10**400, -(10**400)])
)


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def compared(name: str, symbol: str, value: Any) -> Condition:
    membership = {"in": lambda a, b: a in b, "not in": lambda a, b: a not in b}
    compare = {**COMPARISONS, **membership}[symbol]
    return f"{name} {symbol} {value!r}", lambda row: None if row[name] is None else compare(row[name], value)


def columns_compared(left: str, symbol: str, right: str) -> Condition:
    def truth(row: dict[str, Any]) -> Truth:
        known = row[left] is not None and row[right] is not None
        return COMPARISONS[symbol](row[left], row[right]) if known else None

    return f"{left} {symbol} {right}", truth


def listed(number: Any) -> Condition:
    return f"{number!r} in counts", lambda row: None if row["counts"] is None else number in row["counts"]


def contains(name: str, word: str, negated: bool) -> Condition:
    def truth(row: dict[str, Any]) -> Truth:
        if row[name] is None:
            return None
        found = word in row[name] if name == "tags" else word.lower() in row[name].lower()
        return found != negated

    return f"{word!r} {'not in' if negated else 'in'} {name}", truth


ORDER = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
AMONG = st.sampled_from(["in", "not in"])
WHOLE_OR_FRACTION = st.sampled_from(["whole", "fraction"])
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(
        st.builds(compared, st.sampled_from(["whole", "fraction"]), ORDER, NUMBERS),
        st.builds(compared, st.sampled_from(["title", "word"]), ORDER, WORDS),
        st.builds(compared, st.sampled_from(["whole", "fraction"]), AMONG, st.lists(NUMBERS, max_size=3)),
        st.builds(compared, st.sampled_from(["title", "word"]), AMONG, st.lists(WORDS, max_size=3)),
        st.builds(columns_compared, WHOLE_OR_FRACTION, ORDER, WHOLE_OR_FRACTION),
        st.builds(listed, NUMBERS),
        st.builds(contains, st.sampled_from(["title", "word", "tags"]), WORDS, st.booleans()),
        st.just(("flag", lambda row: row["flag"])),
        st.sampled_from(["whole", "word", "tags", "flag"]).map(lambda n: (f"{n} is None", lambda row: row[n] is None)),
    ),
    lambda inner: st.one_of(
        inner.map(lambda c: (f"not ({c[0]})", lambda row: None if c[1](row) is None else not c[1](row))),
        st.tuples(inner, inner).map(lambda cs: (f"({cs[0][0]}) and ({cs[1][0]})", lambda row: kleene_and(cs, row))),
        st.tuples(inner, inner).map(lambda cs: (f"({cs[0][0]}) or ({cs[1][0]})", lambda row: kleene_or(cs, row))),
    ),
    max_leaves=6,
)


def kleene_and(conditions: tuple[Condition, ...], row: dict[str, Any]) -> Truth:
    truths = [truth(row) for _, truth in conditions]
    return False if False in truths else None if None in truths else True


def kleene_or(conditions: tuple[Condition, ...], row: dict[str, Any]) -> Truth:
    truths = [truth(row) for _, truth in conditions]
    return True if True in truths else None if None in truths else False


FIELDS = st.fixed_dictionaries(
    {
        "title": WORDS,
        "word": st.none() | WORDS,
        "whole": st.none() | st.integers(-3, 3) | st.sampled_from(WHOLES),
        "fraction": st.none() | st.sampled_from(FRACTIONS),
        "flag": st.none() | st.booleans(),
        "tags": st.none() | st.lists(WORDS, max_size=2),
        "counts": st.none() | st.lists(st.sampled_from(WHOLES), max_size=2),
    }
)
SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "title": pa.string(),
        "word": pa.string(),
        "whole": pa.int64(),
        "fraction": pa.float64(),
        "flag": pa.bool_(),
        "tags": pa.list_(pa.string()),
        "counts": pa.list_(pa.int64()),
    }
)


@given(st.lists(FIELDS, min_size=1, max_size=5), CONDITIONS)
def test_filters_agree_with_python_on_every_row(rows: list[dict[str, Any]], condition: Condition) -> None:
    """The columnar evaluation must match the documented meaning."""
    table = pa.Table.from_pylist([{"item_id": index, **row} for index, row in enumerate(rows)], schema=SCHEMA)
    text, truth = condition
    assert allowed(read_catalog(table), text) == [index for index, row in enumerate(rows) if truth(row) is True]


def test_filters_compare_large_whole_numbers_exactly() -> None:
    """Ids and instants in nanoseconds exceed 2 ** 53, where float64 skips every second number: a neighbour of the
    asked-for value was allowed as well, or the filter was refused because of the data of another row."""
    wholes, fractions = [2**53, 2**53 + 1, 2**62 + 1, -(2**63)], [2.0**53, 2.0**53, 0.5, -(2.0**63)]
    table = {"item_id": list("abcd"), "title": list("abcd"), "n": wholes, "x": fractions}
    catalog = read_catalog(pa.table(table))
    for expression, expected in {
        "n > 9007199254740992.0": [1, 2],
        "n == 9007199254740993": [1],
        "n in [9007199254740993, 0.5]": [1],
        "n != 0.5": [0, 1, 2, 3],
        "n < 1e30 and n > -1e30": [0, 1, 2, 3],
        "n == x": [0, 3],
        "x < n": [1, 2],
        "x >= 9007199254740993": [],
        "x < 9007199254740993": [0, 1, 2, 3],
        "x < 1" + "0" * 400: [0, 1, 2, 3],
    }.items():
        assert allowed(catalog, expression) == expected, expression


def test_the_two_zeros_are_one_number() -> None:
    """`x == 0` and `x in [0]` must allow the same items, also those whose value is written -0.0."""
    catalog = read_catalog(pa.table({"item_id": list("abc"), "title": list("abc"), "x": [0.0, -0.0, 1.0]}))
    for expression in ("x == 0", "x in [0]", "x in [-0.0]", "x == -0.0"):
        assert allowed(catalog, expression) == [0, 1], expression


DECORATED = st.tuples(
    CONDITIONS,
    st.sampled_from(
        ["{}", "  {} ", "({})", "( ({}))", "{} # ) and (price", "{}\n# or\n", "\n{}", "(\n{}\n# '\n)", "{}  # it's"]
    ),
).map(lambda drawn: (drawn[1].format(drawn[0][0]), drawn[0][1]))
"""Conditions with brackets, blanks, line breaks and comments around them."""


@given(DECORATED)
def test_the_text_form_of_a_filter_parses_to_the_same_filter(condition: Condition) -> None:
    """Otherwise a filter that is stored or sent as text changes its meaning."""
    parsed = parse_filter(condition[0])
    again = parse_filter(str(parsed))
    assert again == parsed
    assert str(again) == str(parsed)
    assert hash(again) == hash(parsed)
    assert "\n" not in str(parsed)


@given(st.lists(FIELDS, min_size=1, max_size=5), st.lists(DECORATED, min_size=1, max_size=4))
def test_joined_filters_allow_the_rows_that_each_of_them_allows(
    rows: list[dict[str, Any]], conditions: list[Condition]
) -> None:
    """A comment, a bracket or an `or` in one filter must not change what another one means."""
    table = pa.Table.from_pylist([{"item_id": index, **row} for index, row in enumerate(rows)], schema=SCHEMA)
    catalog, joined = read_catalog(table), all_of(parse_filter(text) for text, _ in conditions)
    expected = [index for index, row in enumerate(rows) if all(truth(row) is True for _, truth in conditions)]
    assert allowed(catalog, joined) == allowed(catalog, str(joined)) == expected
    assert parse_filter(str(joined)) == joined
    assert all_of(joined.conjuncts) == joined


@given(st.text(alphabet="price title tags()[]'\"<>=!,.019 -andortifsNeTu\\\n#Ⅳªſ", max_size=40))
def test_every_filter_that_parses_has_a_text_form(text: str) -> None:
    """The property above, for filters that nobody would write."""
    try:
        parsed = parse_filter(text)
    except FilterError:
        return
    assert parse_filter(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("price<5", "price < 5"),
        ("  ( ((price <5)) ) # cheap", "price < 5"),
        ("price <\n  5\n  or price is None", "price < 5 or price is None"),
        ("(a and (b and c)) or d", "(a and b and c) or d"),
        ("not(a or b)", "not (a or b)"),
        ('"it\'s" not in words(title)', '"it\'s" not in words(title)'),
        ("x in (1, -2.50, 'a' 'b')", "x in [1, -2.5, 'ab']"),
        ("0x10 > x >= +1_000", "16 > x >= 1000"),
        ("x < 1e400 and x > -1e400", "x < 1e999 and x > -1e999"),
    ],
)
def test_the_text_form_is_short_and_without_comments(text: str, form: str) -> None:
    """Users see the text form of a limit, and clients compare it."""
    assert str(parse_filter(text)) == form


def test_a_filter_cannot_close_a_bracket_that_it_did_not_open() -> None:
    """Conditions over several lines are read inside brackets, which the text must not leave."""
    for text in ("price < 5) or (price > 1", "price < 5)\nor (\nprice > 1", "a, \nb", "x for x\nin y"):
        with pytest.raises(FilterError):
            parse_filter(text)


def test_nesting_and_length_do_not_keep_filters_from_being_joined() -> None:
    """A conversation with many long limits, each of which is valid, must not fail at every later turn."""
    deep = "price < 5"
    for _ in range(15):
        deep = f"not (price > 9 or {deep})"
    long = parse_filter(f"title != '{'x' * 9_900}'")
    joined = all_of([parse_filter(deep), parse_filter(f"price == 1 or {deep}"), long, long])
    assert len(Catalog.from_items(ITEMS).where(joined)) == len(ITEMS)
    with pytest.raises(InputError, match="no filter to join"):
        all_of([])


def test_numbers_that_python_cannot_write_are_refused() -> None:
    """Otherwise the text form of a filter fails, and with it each message that quotes it."""
    for number in ("0x" + "f" * 9_000, "-0x" + "f" * 9_000):
        with pytest.raises(FilterError, match="too large a number"):
            parse_filter(f"price < {number}")


@pytest.mark.parametrize("form", ["a < {}", "{} < a < 9", "flag", "a in [{}]", "a is None", "{} in tags"])
def test_every_kind_of_condition_counts_as_a_scan(form: str) -> None:
    """A condition that is not counted can be repeated a thousand times without a look at the clock."""
    size = 600_000
    columns = {
        "a": pa.array(np.arange(size)),
        "flag": pa.array(np.arange(size) % 2 == 0),
        "tags": pa.LargeListArray.from_arrays(np.arange(size + 1), np.ones(size, dtype=np.int64)),
    }
    expired, repeated = Deadline(0.0, lambda: 1.0), " and ".join(form.format(place) for place in range(6))
    with pytest.raises(DeadlineExceededError) as caught:
        filter_mask(repeated, columns, deadline=expired)
    assert caught.value.fields["conditions"] == 2
    assert len(filter_mask("flag", columns, deadline=expired)) == size
    few = {name: column.slice(0, 1000) for name, column in columns.items()}
    assert len(filter_mask(repeated, few, deadline=expired)) == 1000


@pytest.mark.parametrize("condition", ["price < '$5'", "price < '5'", "price >= '$5.00'", "'$5' > price", "1 < price"])
def test_prices_written_as_text_are_not_compared_by_their_letters(condition: str) -> None:
    """As text, $15.00 is less than $5: a limit would let through what it excludes."""
    items = [Item("a", "Mug", {"price": "$5.00"}), Item("b", "Lamp", {"price": "$15.00"}), Item("c", "Tray", {})]
    with pytest.raises(FilterError, match=r"price holds text.*\$.*the column as numbers"):
        Catalog.from_items(items).where(condition)
    assert allowed(Catalog.from_items(items), "price == '$5.00'") == [0]


def test_text_in_the_order_of_its_numbers_can_be_compared() -> None:
    """Dates in text files stay text, and codes of equal length have an order."""
    items = [
        Item("a", "2", {"day": "2020-01-01", "zip": "01234", "age": "5 €"}),
        Item("b", "10 Lamps", {"day": "2021-01-01", "zip": "99999", "age": "7 €"}),
    ]
    catalog = Catalog.from_items(items)
    assert allowed(catalog, "day >= '2020-06' and zip > '05000' and age > '6'") == [1]
    assert allowed(catalog, "title < 'M' and day < '2021'") == [0]
