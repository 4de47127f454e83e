"""Filters keep their meaning when they are serialised, and contradicting price bounds never add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.chat.languages.exclusion_phrases import exclude_word
from genrec.chat.preferences import PreferenceFilter, Preferences, PriceBound

BOUNDS = st.builds(PriceBound, st.sampled_from(["<", "<=", ">", ">="]), st.floats(0, 1000))
FILTERS = (
    BOUNDS.map(lambda bound: PreferenceFilter.from_bound("price", bound))
    | st.text(min_size=1, max_size=12).map(exclude_word)
    | st.text(min_size=1, max_size=12).map(PreferenceFilter.from_phrase)
)


@given(FILTERS)
def test_filter_is_restored_from_its_key_and_condition(preference_filter: PreferenceFilter) -> None:
    """Otherwise a client that sends preferences back gets another label, or a bound that nothing can replace."""
    restored = PreferenceFilter.from_condition(preference_filter.key, preference_filter.where)
    assert restored == preference_filter
    assert restored.excluded_phrase == preference_filter.excluded_phrase
    assert restored.bound == preference_filter.bound


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("price to", "price < cheap"),
        ("price to", "price in [1, 2]"),
        ("price to", "price < 5 or price is None"),
        ("price to", "price is None or price < 5"),
        ("price to", "price < 5 and stock > 0"),
        ("price to", "price > 5"),
        ("price to", "price < True"),
        ("word mug", "'mug' not in words(title) or price < 5"),
        ("word mug", "'cup' not in words(title)"),
        ("words", "'' == title"),
        ("'mug' not in words(title)", "'mug' not in words(title)"),
    ],
)
def test_other_conditions_are_kept_as_they_are(key: str, where: str) -> None:
    """A client may send any filter; what genrec did not write must neither fail nor be described as an exclusion."""
    restored = PreferenceFilter.from_condition(key, where)
    assert (restored.key, restored.where) == (key, where)
    assert (restored.excluded_phrase, restored.bound) == (None, None)
    changed = Preferences(filters=(restored,)).with_price_bound("price", PriceBound(">=", 3.0))
    assert changed.filters[-1].bound == PriceBound(">=", 3.0)


@pytest.mark.parametrize("where", ["price<5", "5 > price", "(price < 5.0)", "price < 5 # ) and (price > 1"])
def test_bound_is_read_from_the_condition_however_it_is_written(where: str) -> None:
    """Otherwise a newer bound does not replace it, and both together exclude everything."""
    restored = PreferenceFilter.from_condition("price to", where)
    assert restored.bound == PriceBound("<", 5.0)
    changed = Preferences(filters=(restored,)).with_price_bound("price", PriceBound(">=", 6.0))
    assert [own.where for own in changed.filters] == ["price >= 6.0"]


@given(st.floats(0, allow_nan=False) | st.sampled_from([float("inf")]))
def test_every_amount_gives_a_filter(amount: float) -> None:
    """ "Under 999..." with four hundred digits must not fail at every later turn."""
    own = PreferenceFilter.from_bound("price", PriceBound("<=", amount))
    assert PreferenceFilter.from_condition(own.key, own.where).bound == PriceBound("<=", amount)


@given(BOUNDS, BOUNDS, st.floats(0, 1000))
def test_contradicting_price_bounds_do_not_coexist(first: PriceBound, second: PriceBound, price: float) -> None:
    """Together they would exclude the whole catalog."""
    preferences = Preferences().with_price_bound("price", first).with_price_bound("price", second)
    kept = [own.bound for own in preferences.filters]
    assert kept[-1] == second
    if first.is_upper == second.is_upper or first.contradicts(second):
        assert kept == [second]
    else:
        assert kept == [first, second]
    assert preferences.without_price_bounds() == Preferences()
