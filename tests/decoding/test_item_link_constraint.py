"""Laws of the item link constraint: every link in a generated text is an allowed item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import Catalog, CatalogIndex, Item, TitleIdentifiers
from genrec.backends.base import Backend, GenerationRequest
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import EngineError, InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import Message, Span

TITLES = ("Red Mug", "Red Mug Large", "Red Lamp", "Tea [Pot]", "Rug")
TOKENIZER = ByteTokenizer()


def grammar_of(tokenizer: ByteTokenizer | HuggingFaceTokenizer) -> tuple[CatalogIndex, CatalogGrammar]:
    catalog = Catalog.from_items(Item(place, title) for place, title in enumerate(TITLES))
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    return index, CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))


INDEX, GRAMMAR = grammar_of(TOKENIZER)


def rows_of(items: set[int]) -> Subset:
    return INDEX.to_row_subset(Subset.from_indices(len(TITLES), sorted(items)))


@settings(max_examples=60)
@given(
    st.sets(st.integers(0, len(TITLES) - 1), min_size=1),
    st.booleans(),
    st.none() | st.integers(0, 3),
    st.integers(0, 10**6),
)
def test_sampled_text_links_allowed_items_only(items: set[int], unique: bool, max_links: int | None, seed: int) -> None:
    """A reply must not link an item that is not allowed, or link one too often."""
    constraint = ItemLinkConstraint(GRAMMAR, rows_of(items), unique=unique, max_links=max_links)
    request = GenerationRequest(np.array([258, 65]), (256,), 120, 3.0, seed, constraint)
    streamed: list[int] = []
    (text,) = TableBackend(TOKENIZER.vocab_size, seed=seed).generate(
        [request], on_tokens=lambda _, new: streamed.extend(new)
    )
    assert streamed == text.token_ids.tolist()
    state = constraint.start()
    for token in streamed:
        assert state.allowed_mask()[token]
        state.advance(token)
    found = INDEX.trie.items[np.array(state.state.written_rows, dtype=np.int64)].tolist()
    assert set(found) <= items
    assert not unique or len(set(found)) == len(found)
    assert max_links is None or len(found) <= max_links


def test_forced_tokens_are_the_only_allowed_ones() -> None:
    """A token that is added without the model must be the only one allowed."""
    state = ItemLinkConstraint(GRAMMAR, Subset.everything(len(TITLES))).start()
    assert not state.forced_tokens()
    for token in TOKENIZER.encode_text("Take the [Red "):
        state.advance(int(token))
    assert not state.forced_tokens()
    state.advance(ord("M"))
    forced = list(state.forced_tokens())
    assert bytes(forced) == b"ug"
    for token in forced:
        assert np.flatnonzero(state.allowed_mask()).tolist() == [token]
        state.advance(token)
    with pytest.raises(InputError, match="token 65 is not allowed here"):
        state.advance(65)


def test_incomplete_constraint_prevents_generation() -> None:
    """A limit that an engine silently ignores would be exceeded."""
    found = ItemLinkConstraint(GRAMMAR, Subset.everything(5), catalog_name="shop", item_ids=[3, 4]).engine_args
    assert found == {"genrec_catalog": "shop", "genrec_form": "text", "genrec_allow": [3, 4]}
    for wrong in (
        ItemLinkConstraint(GRAMMAR, Subset.everything(5)),
        ItemLinkConstraint(GRAMMAR, Subset.everything(5), unique=True, catalog_name="shop", item_ids=[3]),
        ItemLinkConstraint(GRAMMAR, Subset.everything(5), max_links=1, catalog_name="shop", item_ids=[3]),
    ):
        with pytest.raises(EngineError):
            wrong.engine_args  # noqa: B018


@pytest.mark.model
def test_a_real_model_links_allowed_items_only(smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer) -> None:
    """End to end, at a temperature at which an unconstrained model names anything."""
    index, grammar = grammar_of(tokenizer)
    allowed = index.to_row_subset(Subset.from_indices(len(TITLES), [0, 2]))
    constraint = ItemLinkConstraint(grammar, allowed, unique=True)
    said = "Which colours do my products have? Answer with [Red Mug] is red, [Red Lamp] is red."
    turns = [Message("user", (Span(said, trusted=False),)), Message("assistant", (Span("Answer:", trusted=True),))]
    requests = [
        GenerationRequest(tokenizer.encode_prompt(turns), tokenizer.control_token_ids, 40, 0.7, seed, constraint)
        for seed in range(4)
    ]
    texts = [tokenizer.decode(text.token_ids.tolist()) for text in smollm2_float32.generate(requests)]
    assert any("[" in text for text in texts)
    for text in texts:
        named = [part.partition("]") for part in text.split("[")[1:]]
        assert all(title in ("Red Mug", "Red Lamp") for title, closed, _ in named if closed), text
