"""Preferences parsed by a language model: whatever it writes, nothing is made up."""

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
def compiler(tokenizer: HuggingFaceTokenizer) -> GrammarCompiler:
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
    tokenizer: HuggingFaceTokenizer, compiler: GrammarCompiler, message: str, seed: int
) -> None:
    """A word that the user did not write must exclude nothing, and an item that was not shown cannot be judged."""
    parser = ModelParser(TableBackend(tokenizer.vocab_size, seed=seed), tokenizer, compiler, LexicalParser(CATALOG))
    shown = conversation().shown
    parsed = parser.parse_clause(message, shown)
    assert parsed.kind in PREFERENCE_KINDS
    if parsed.kind == "rules out":
        assert str(parsed.target) in re.findall(r"[^\W\d_]+", message.casefold())
    elif parsed.kind in ("likes", "dislikes"):
        assert parsed.target in range(1, len(shown) + 1)
    else:
        assert parsed.target is None
    assert parser.parse_clause(message, ()).kind in ("looks for", "nothing", "rules out")
    parser(message, conversation())


class BrokenBackend(TableBackend):
    """A model that fails as no backend of genrec does."""

    def generate(self, requests: Any, **_: Any) -> Any:
        raise RuntimeError("CUDA error")


@pytest.mark.model
@pytest.mark.parametrize("backend", [TableBackend(49_152, fails=True), BrokenBackend(49_152)])
def test_lexical_parser_is_used_when_the_model_fails(
    tokenizer: HuggingFaceTokenizer, compiler: GrammarCompiler, backend: TableBackend
) -> None:
    """A user who is partly understood is better served than one who gets an error."""
    rules = LexicalParser(CATALOG)
    parser = ModelParser(backend, tokenizer, compiler, rules)
    for message in ("no rugs", "something for tea, not the first", "a mug"):
        assert parser(message, conversation()) == rules(message, conversation())


@pytest.mark.model
def test_model_parses_a_limited_number_of_clauses(
    tokenizer: HuggingFaceTokenizer, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one message of 500 clauses would occupy the model 500 times."""
    clauses: list[str] = []
    parse = ModelParser.parse_clause

    def counted(self: ModelParser, clause: str, shown: Any, deadline: Any) -> ParsedClause:
        clauses.append(clause)
        return parse(self, clause, shown, deadline)

    monkeypatch.setattr(ModelParser, "parse_clause", counted)
    parser = ModelParser(TableBackend(tokenizer.vocab_size), tokenizer, compiler, LexicalParser(CATALOG))
    preferences = parser("; ".join(f"thing{place}x" for place in range(60)), conversation())
    assert len(clauses) == MAX_CLAUSES
    assert "thing59x" in preferences.words[-1]


@pytest.mark.model
def test_bundled_model_parses(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, compiler: GrammarCompiler
) -> None:
    """End to end with the bundled model; eval.preferences measures its accuracy."""
    parser = ModelParser(smollm2_float32, tokenizer, compiler, LexicalParser(CATALOG))
    found: list[Any] = [parser.parse_clause("please leave out plastic", conversation().shown) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].kind in PREFERENCE_KINDS
