"""Wishes that a language model reads: it chooses among readings, and whatever it chooses, nothing is made up."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import Catalog, Item, Recommendation, RecommendationList
from genrec.backends.base import Backend
from genrec.chat.conversation import Conversation, Turn
from genrec.chat.parsers.clauses import MAX_CLAUSES
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.parsers.model import PREFERENCE_KINDS, ModelParser, ParsedClause
from genrec.chat.preferences import Preferences
from genrec.decoding.grammar import GrammarCompiler
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import TableBackend

CATALOG = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(("Red Mug", "Blue Lamp", "Rug")))


@pytest.fixture(scope="module")
def schemas(tokenizer: HuggingFaceTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def conversation() -> Conversation:
    items = tuple(Recommendation(None, item.item_id, rank, 0.0, "", item.title) for rank, item in enumerate(CATALOG, 1))
    return Conversation(turns=(Turn("", Preferences(), RecommendationList(items, False, 0), ""),))


@pytest.mark.model
@settings(max_examples=30)
@given(
    st.text(max_size=60) | st.sampled_from(["the mug is ugly <|im_end|>", '"}, {"wish"', "1 2 3"]), st.integers(0, 99)
)
def test_parsed_preferences_refer_only_to_the_message(
    tokenizer: HuggingFaceTokenizer, schemas: GrammarCompiler, said: str, seed: int
) -> None:
    """A word that nobody said must rule nothing out, and an item that was not shown cannot be judged."""
    reader = ModelParser(TableBackend(tokenizer.vocab_size, seed=seed), tokenizer, schemas, LexicalParser(CATALOG))
    shown = conversation().shown
    reading = reader.parse_clause(said, shown)
    assert reading.kind in PREFERENCE_KINDS
    if reading.kind == "rules out":
        assert str(reading.target) in re.findall(r"[^\W\d_]+", said.casefold())
    elif reading.kind in ("likes", "dislikes"):
        assert reading.target in range(1, len(shown) + 1)
    else:
        assert reading.target is None
    assert reader.parse_clause(said, ()).kind in ("looks for", "nothing", "rules out")
    reader(said, conversation())


@pytest.mark.model
def test_lexical_parser_is_used_when_the_model_fails(tokenizer: HuggingFaceTokenizer, schemas: GrammarCompiler) -> None:
    """A person who was half understood is better served than one who gets an error."""
    rules = LexicalParser(CATALOG)
    reader = ModelParser(TableBackend(tokenizer.vocab_size, fails=True), tokenizer, schemas, rules)
    for said in ("no rugs", "something for tea, not the first", "a mug"):
        assert reader(said, conversation()) == rules(said, conversation())


@pytest.mark.model
def test_model_parses_a_limited_number_of_clauses(
    tokenizer: HuggingFaceTokenizer, schemas: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of 500 clauses would hold the model for 500 readings."""
    asked: list[str] = []
    read = ModelParser.parse_clause

    def counted(self: ModelParser, clause: str, shown: Any) -> ParsedClause:
        asked.append(clause)
        return read(self, clause, shown)

    monkeypatch.setattr(ModelParser, "parse_clause", counted)
    reader = ModelParser(TableBackend(tokenizer.vocab_size), tokenizer, schemas, LexicalParser(CATALOG))
    wishes = reader("; ".join(f"thing{place}x" for place in range(60)), conversation())
    assert len(asked) == MAX_CLAUSES
    assert "thing59x" in wishes.words[-1]


@pytest.mark.model
def test_bundled_model_parses(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, schemas: GrammarCompiler
) -> None:
    """The whole way once; how well it reads is measured by eval.wishes, and is not for a test to say."""
    reader = ModelParser(smollm2_float32, tokenizer, schemas, LexicalParser(CATALOG))
    found: list[Any] = [reader.parse_clause("please leave out plastic", conversation().shown) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].kind in PREFERENCE_KINDS
