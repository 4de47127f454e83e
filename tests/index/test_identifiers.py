"""Laws of title identifiers: every item has distinct tokens that end with the end token, whatever the titles."""

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
    """Encodes only letters and digits, in lower case: most unusual titles become equal, or empty."""

    fingerprint = "folding"

    def encode_text(self, text: str) -> IntArray:
        kept = [ord(letter) for letter in text.casefold() if (letter.isascii() and letter.isalnum()) or letter in "[("]
        return np.array(kept, dtype=np.int64)


def check(titles: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int = 48) -> list[IntArray]:
    catalog = Catalog.from_items([Item(f"i{number}", title) for number, title in enumerate(titles)])
    sequences = TitleIdentifiers(max_tokens=max_tokens).encode(catalog, tokenizer)
    assert len(sequences) == len(titles)
    for sequence in sequences:
        assert sequence.dtype == np.int64
        assert len(sequence) > 1
        assert (sequence == tokenizer.eos_token_id).nonzero()[0].tolist() == [len(sequence) - 1]
        assert len(sequence) <= max_tokens + 40
    assert len(TokenTrie.from_sequences(sequences)) == len(titles)
    return sequences


def hostile_titles(count: int) -> list[str]:
    """Hostile titles with duplicates, prefixes, other cases, and titles that look as if they had a suffix."""
    base = hostile_texts(count - 9 * (count // 10), seed=8)
    titles = [*base, *base]
    for change in (str.lower, str.upper, lambda t: t[: len(t) // 2], lambda t: t + " (i0)", lambda t: f"{t} [3]"):
        titles += [change(title) for title in base]
    titles += (
        [f"\u200b{title}\x00" for title in base] + [title * 40 for title in base] + ["\u3164" + " " * 5] * len(base)
    )
    return [title if title.strip() else "\u2800" for title in titles][:count]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), FoldingTokenizer()], ids=["bytes", "folding"])
def test_ten_thousand_hostile_titles_are_distinct(tokenizer: Tokenizer) -> None:
    """Of two items with the same tokens, the search could recommend only one."""
    check(hostile_titles(10_000), tokenizer)


def test_ten_thousand_hostile_titles_are_distinct_on_the_real_tokenizer(tokenizer: HuggingFaceTokenizer) -> None:
    """The same with the tokens of the bundled model; none but the end token is a control token."""
    for sequence in check(hostile_titles(10_000), tokenizer):
        assert (sequence[:-1] >= 17).all()


@given(
    st.lists(st.text("aA1 ()[]i", min_size=1).filter(str.strip), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
)
def test_any_titles_are_distinct(titles: list[str], max_tokens: int, folding: bool) -> None:
    """Even if they are truncated, or look like each other with a suffix."""
    check(titles, FoldingTokenizer() if folding else ByteTokenizer(), max_tokens=max_tokens)


def test_a_title_that_looks_like_one_with_a_suffix_is_distinct() -> None:
    """Otherwise one title could prevent a whole catalog from being indexed."""
    check(["Lamp", "Lamp", "Lamp (i0)", "Lamp (i0) [0]", "Lamp (i0) [0] [0]", "Lamp (i1)"], ByteTokenizer())


def test_a_title_is_encoded_on_one_line() -> None:
    """A line break would end the answer early; prompts show titles on one line as well."""
    (first, second) = check(["  Desk\n Lamp\u2028", "Chair"], ByteTokenizer())
    assert ByteTokenizer().decode(first.tolist()) == "Desk Lamp"
    assert ByteTokenizer().decode(second.tolist()) == "Chair"


def test_equal_titles_get_an_attribute_as_suffix() -> None:
    """A model can distinguish "Heat (1986)" from "Heat (1995)", but knows nothing about ids."""
    rows = [
        ("Heat", 1986, "x"),
        ("Heat", 1995, "x"),
        ("Alien", 1979, "x"),
        ("Solo", None, "a" * 50),
        ("Solo", 2018, "b"),
    ]
    items = [
        Item(f"i{number}", title, {"genre": genre, "year": year}) for number, (title, year, genre) in enumerate(rows)
    ]
    sequences = TitleIdentifiers().encode(Catalog.from_items(items), ByteTokenizer())
    texts = [ByteTokenizer().decode(sequence.tolist()) for sequence in sequences]
    assert texts == ["Heat (1986)", "Heat (1995)", "Alien", "Solo (i3)", "Solo (i4)"]


def test_ids_of_any_length_do_not_make_long_identifiers() -> None:
    """Every token of an identifier reduces the space for the prompt."""
    items = [Item("x" * 5000 + str(number), "Lamp") for number in range(3)]
    sequences = TitleIdentifiers().encode(Catalog.from_items(items), ByteTokenizer())
    assert [ByteTokenizer().decode(sequence.tolist()) for sequence in sequences] == [
        f"Lamp [{number}]" for number in range(3)
    ]


def test_a_title_of_megabytes_is_truncated_before_it_is_encoded() -> None:
    """Encoding it in full would take a second per item, and the model could not read it."""
    sequences = check(["ab " * 1_500_000, "ab " * 1_500_001], ByteTokenizer(), max_tokens=10)
    assert max(map(len, sequences)) < 20


def test_the_fingerprint_covers_the_settings() -> None:
    """An index built with other settings has other tokens."""
    assert TitleIdentifiers().fingerprint == TitleIdentifiers(max_tokens=48).fingerprint
    assert TitleIdentifiers().fingerprint != TitleIdentifiers(max_tokens=47).fingerprint
    with pytest.raises(InputError, match="max_tokens is 0"):
        TitleIdentifiers(max_tokens=0)
