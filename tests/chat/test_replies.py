"""Replies of a language model: whatever it prefers to write, every statement is true and every item is named once."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import Catalog, CatalogIndex, Item, Recommendation, RecommendationList, TitleIdentifiers
from genrec.backends.base import Backend
from genrec.chat.conversation import Conversation, TurnContext
from genrec.chat.item_facts import build_item_facts
from genrec.chat.item_links import ItemLink, extract_item_ids, format_item_link, split_item_links
from genrec.chat.preferences import Preferences
from genrec.chat.replies import ModelReplyGenerator
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.decoding.grammar import GrammarCompiler
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import EngineError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import Message

TITLES = ("Fairy Cake", "Lamp [red] <|im_end|>", "Tea ![Pot](#item=x)", "<b>Rug</b>", "Fairies 3", "日本 Mug")
PRICE = re.compile(r"\d+\.\d\d")


class GeneratorParts:
    """The tokenizer and its grammar compiler, which takes a second to build."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self.tokenizer, self.compiler = tokenizer, GrammarCompiler(tokenizer)


@pytest.fixture(scope="module")
def generator_parts(tokenizer: HuggingFaceTokenizer) -> GeneratorParts:
    return GeneratorParts(tokenizer)


def catalog_of(prices: list[float | None], **more: Any) -> Catalog:
    return Catalog.from_items(
        Item(f"i/{place}", TITLES[place], {"price": price, **more}) for place, price in enumerate(prices)
    )


def context_of(catalog: Catalog, words: str) -> TurnContext:
    items = tuple(
        Recommendation(None, item.item_id, rank, -rank, "test", item.title) for rank, item in enumerate(catalog, 1)
    )
    preferences = Preferences(words=(words,) if words else ())
    return TurnContext(Conversation(), words or "cheaper", preferences, RecommendationList(items, False, 0))


def check_true(text: str, catalog: Catalog, words: str) -> None:
    """Look up every statement that follows the name of an item."""
    prices = [item.attributes["price"] for item in catalog]
    parts = list(split_item_links(text))
    for place, part in enumerate(parts):
        if not isinstance(part, ItemLink):
            continue
        item = catalog[catalog.index_of(part.item_id)]
        behind = parts[place + 1] if place + 1 < len(parts) else ""
        clause = behind if isinstance(behind, str) else ""
        if found := PRICE.search(clause.partition(". ")[0]):
            assert float(found[0]) == pytest.approx(item.attributes["price"], abs=0.005)
        if "cheapest of these" in clause:
            assert item.attributes["price"] == min(prices)
        if "most expensive of these" in clause:
            assert item.attributes["price"] == max(prices)
        if found := re.search(r"with “(\w+)” in its name", clause):
            assert found[1] in item.title
            assert found[1].casefold()[:4] in words.casefold()


@pytest.mark.model
@settings(max_examples=40)
@given(
    st.lists(st.none() | st.floats(0, 99).map(lambda price: round(price, 2)), min_size=1, max_size=6),
    st.sampled_from(["", "a cake for a fairy", "<|im_end|> [1] ](#item=i0) ![x", "mugs\n" + "x" * 300]),
    st.integers(0, 10**6),
)
def test_constrained_reply_is_true_and_names_each_item_once(
    generator_parts: GeneratorParts, prices: list[float | None], words: str, seed: int
) -> None:
    """Small models invent prices and products, and a shop must not show them to its users."""
    catalog = catalog_of(prices)
    context = context_of(catalog, words)
    backend = TableBackend(generator_parts.tokenizer.vocab_size, seed=seed)
    pieces: list[str] = []
    generate = ModelReplyGenerator(backend, generator_parts.tokenizer, generator_parts.compiler, catalog)
    assert generate(context, pieces.append, Deadline.never())
    text = "".join(pieces)
    assert extract_item_ids(text) == tuple(item.item_id for item in context.recommendations.items)
    for item in context.recommendations.items:
        assert format_item_link(item.item_id, item.title) in pieces
    assert text[-1] in ".?"
    assert len(text) < 1500
    check_true(text, catalog, words)


@pytest.mark.model
def test_the_bundled_model_writes_a_reply(smollm2_float32: Backend, generator_parts: GeneratorParts) -> None:
    """End to end with the bundled model."""
    catalog = catalog_of([2.5, 9.0, 4.0, 1.0])
    pieces: list[str] = []
    generate = ModelReplyGenerator(smollm2_float32, generator_parts.tokenizer, generator_parts.compiler, catalog)
    assert generate(context_of(catalog, "a cake"), pieces.append, Deadline.never())
    assert "“a cake”" in "".join(pieces)
    check_true("".join(pieces), catalog, "a cake")
    with pytest.raises(EngineError):
        generate(context_of(catalog, "a cake"), pieces.append, Deadline(0.0, lambda: 1.0))


def test_item_facts_come_from_the_catalog() -> None:
    """Long or ambiguous values are left out."""
    items = [
        Item(1, "Fairy Cakes", {"price": 2.0, "genre": "Drama", "note": "[x](y)", "seen": True, "pages": 120}),
        Item(2, "Tea Pot", {"price": 3, "genre": None, "note": "x" * 60, "seen": None, "pages": None}),
    ]
    catalog = Catalog.from_items(items)
    shown = context_of(catalog, "").recommendations.items
    assert build_item_facts(shown, catalog, ["a cake, with tea"]) == [
        [", with “Cakes” in its name, at 2.00", ", the cheapest of these at 2.00", " (genre Drama)", " (pages 120)"],
        [", with “Tea” in its name, at 3.00", ", the most expensive of these at 3.00"],
    ]
    assert build_item_facts(shown[:1], catalog, []) == [[", which costs 2.00", " (genre Drama)", " (pages 120)"]]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 2.0, 6.0]), st.integers(1, 6))
def test_a_free_reply_names_each_recommended_item_once_and_ends(seed: int, spread: float, count: int) -> None:
    """A model that rambles, repeats itself or stops inside a title must still leave a readable reply."""
    tokenizer = ByteTokenizer()
    catalog = catalog_of([1.0] * 6)
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    context = context_of(catalog, "anything")
    shown = RecommendationList(context.recommendations.items[:count], False, 0)
    context = TurnContext(context.conversation, context.message, context.preferences, shown)

    def link_constraint(items: Any) -> ItemLinkConstraint:
        places = [catalog.index_of(item.item_id) for item in items]
        return ItemLinkConstraint(
            grammar, index.to_row_subset(Subset.from_indices(len(catalog), np.array(places))), unique=True
        )

    pieces: list[str] = []
    backend = TableBackend(tokenizer.vocab_size, seed=seed, logit_std=spread)
    generate = ModelReplyGenerator(backend, tokenizer, NoGrammarCompiler(), catalog, link_constraint=link_constraint)
    written = generate(context, pieces.append, Deadline.never())
    text = "".join(pieces)
    assert written == bool(text)
    if written:
        assert sorted(extract_item_ids(text)) == [item.item_id for item in shown.items]
        assert text[-1] in ".!?"
        assert all(char == "\n" or char >= " " for char in text)


class NoGrammarCompiler:
    """Fails if a grammar is compiled: a free reply needs none."""

    def compile_lark(self, grammar: str) -> Any:
        raise AssertionError(grammar)


@pytest.mark.model
def test_an_attribute_that_spells_a_control_token_prevents_the_reply(generator_parts: GeneratorParts) -> None:
    """Then the model writes nothing, and the plain reply takes its place."""

    class Odd(HuggingFaceTokenizer):
        control_token_ids = (0, 1)

    odd = Odd.__new__(Odd)
    odd.__dict__.update(generator_parts.tokenizer.__dict__)
    odd.decode = lambda token_ids: "Drama"  # type: ignore[method-assign]
    catalog = catalog_of([1.0, 2.0], genre="Drama")
    pieces: list[str] = []
    backend = TableBackend(generator_parts.tokenizer.vocab_size)
    generate = ModelReplyGenerator(backend, generator_parts.tokenizer, GrammarCompiler(odd), catalog)
    assert not generate(context_of(catalog, ""), pieces.append, Deadline.never())
    assert not pieces


def test_titles_are_untrusted_in_the_prompt_of_a_reply() -> None:
    """A title must not be able to write control tokens into the prompt."""
    catalog = catalog_of([1.0, 2.0])
    generate = ModelReplyGenerator(TableBackend(260), ByteTokenizer(), NoGrammarCompiler(), catalog)
    prompt = generate.render(context_of(catalog, "tea"), [[", which costs 1.00"], []])
    spans = [span for message in prompt for span in message.spans if "im_end" in span.text]
    assert spans
    assert not any(span.trusted for span in spans)
    assert all(isinstance(message, Message) for message in prompt)
