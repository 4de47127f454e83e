"""Laws of identifiers: whatever the titles, every item has tokens of its own, closed by the end token."""

from collections.abc import Sequence

import numpy as np
import pytest
from hostile import hostile_texts
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.catalog import Catalog
from genrec.errors import InputError
from genrec.index.identifiers import TitleIdentifiers
from genrec.index.trie import TokenTrie
from genrec.prompting.tokenizer import HuggingFaceTokenizer, Tokenizer
from genrec.testing import ByteTokenizer
from genrec.types import IntArray, Item


class FoldingTokenizer(ByteTokenizer):
    """Writes only letters and figures, in lower case: most odd titles become equal, or nothing at all."""

    fingerprint = "folding"

    def encode_text(self, text: str) -> IntArray:
        kept = [ord(letter) for letter in text.casefold() if (letter.isascii() and letter.isalnum()) or letter in "[("]
        return np.array(kept, dtype=np.int64)


def check(titles: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int = 48) -> list[IntArray]:
    catalog = Catalog.from_items([Item(f"i{place}", title) for place, title in enumerate(titles)])
    sequences = TitleIdentifiers(max_tokens=max_tokens).encode(catalog, tokenizer)
    assert len(sequences) == len(titles)
    for sequence in sequences:
        assert sequence.dtype == np.int64
        assert len(sequence) > 1
        assert (sequence == tokenizer.eos_token_id).nonzero()[0].tolist() == [len(sequence) - 1]
        assert len(sequence) <= max_tokens + 40
    assert len(TokenTrie.from_sequences(sequences)) == len(titles)
    return sequences


def twisted(count: int) -> list[str]:
    """Hostile titles, and beside them their doubles, beginnings, other cases, and what looks like a mark."""
    base = hostile_texts(count - 9 * (count // 10), seed=8)
    titles = [*base, *base]
    for change in (str.lower, str.upper, lambda t: t[: len(t) // 2], lambda t: t + " (i0)", lambda t: f"{t} [3]"):
        titles += [change(title) for title in base]
    titles += (
        [f"\u200b{title}\x00" for title in base] + [title * 40 for title in base] + ["\u3164" + " " * 5] * len(base)
    )
    return [title if title.strip() else "\u2800" for title in titles][:count]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), FoldingTokenizer()], ids=["bytes", "folding"])
def test_ten_thousand_hostile_titles_stay_apart(tokenizer: Tokenizer) -> None:
    """Two items with the same tokens would be one to the search, and one of them never recommended."""
    check(twisted(10_000), tokenizer)


def test_ten_thousand_hostile_titles_stay_apart_on_the_real_tokenizer(tokenizer: HuggingFaceTokenizer) -> None:
    """The same, with the tokens that the bundled model reads; none of them is a control token but the end."""
    for sequence in check(twisted(10_000), tokenizer):
        assert (sequence[:-1] >= 17).all()


@given(
    st.lists(st.text("aA1 ()[]i", min_size=1).filter(str.strip), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
)
def test_any_titles_stay_apart(titles: list[str], max_tokens: int, folding: bool) -> None:
    """However short they are cut, and however much they look like each other's marks."""
    check(titles, FoldingTokenizer() if folding else ByteTokenizer(), max_tokens=max_tokens)


def test_a_title_that_looks_like_a_marked_one_is_told_apart() -> None:
    """Otherwise a seller could keep a whole catalog from being built by the choice of one title."""
    check(["Lamp", "Lamp", "Lamp (i0)", "Lamp (i0) [0]", "Lamp (i0) [0] [0]", "Lamp (i1)"], ByteTokenizer())


def test_a_title_is_written_on_one_line() -> None:
    """A line break in the answer would end it early, and no prompt shows one either."""
    (first, second) = check(["  Desk\n Lamp\u2028", "Chair"], ByteTokenizer())
    assert ByteTokenizer().decode(first.tolist()) == "Desk Lamp"
    assert ByteTokenizer().decode(second.tolist()) == "Chair"


def test_equal_titles_are_told_apart_by_what_a_person_would_say() -> None:
    """A model can tell "Heat (1986)" from "Heat (1995)"; it cannot guess at ids."""
    rows = [
        ("Heat", 1986, "x"),
        ("Heat", 1995, "x"),
        ("Alien", 1979, "x"),
        ("Solo", None, "a" * 50),
        ("Solo", 2018, "b"),
    ]
    items = [
        Item(f"i{place}", title, {"genre": genre, "year": year}) for place, (title, year, genre) in enumerate(rows)
    ]
    sequences = TitleIdentifiers().encode(Catalog.from_items(items), ByteTokenizer())
    texts = [ByteTokenizer().decode(sequence.tolist()) for sequence in sequences]
    assert texts == ["Heat (1986)", "Heat (1995)", "Alien", "Solo (i3)", "Solo (i4)"]


def test_ids_of_any_length_do_not_make_long_identifiers() -> None:
    """An identifier's length is taken from the room that the prompt has."""
    items = [Item("x" * 5000 + str(place), "Lamp") for place in range(3)]
    sequences = TitleIdentifiers().encode(Catalog.from_items(items), ByteTokenizer())
    assert [ByteTokenizer().decode(sequence.tolist()) for sequence in sequences] == [
        f"Lamp [{place}]" for place in range(3)
    ]


def test_a_title_of_megabytes_is_cut_before_it_is_encoded() -> None:
    """Encoding it whole would take a second an item, and the model could not read it."""
    sequences = check(["ab " * 1_500_000, "ab " * 1_500_001], ByteTokenizer(), max_tokens=10)
    assert max(map(len, sequences)) < 20


def test_the_fingerprint_names_the_settings() -> None:
    """An index built with other settings holds other tokens."""
    assert TitleIdentifiers().fingerprint == TitleIdentifiers(max_tokens=48).fingerprint
    assert TitleIdentifiers().fingerprint != TitleIdentifiers(max_tokens=47).fingerprint
    with pytest.raises(InputError, match="max_tokens is 0"):
        TitleIdentifiers(max_tokens=0)
