"""Wishes that a language model reads: it chooses among readings, and whatever it chooses, nothing is made up."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import Catalog, Item, Recommendation, RecommendationList
from genrec.backends.base import Backend
from genrec.chat.conversation import Conversation, Turn, Wishes
from genrec.chat.parsers.lexical import CLAUSES, CritiqueReader
from genrec.chat.parsers.model import KINDS, ModelReader, Reading, Way
from genrec.decoding.grammar import JsonGrammar
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import TableBackend

CATALOG = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(("Red Mug", "Blue Lamp", "Rug")))


@pytest.fixture(scope="module")
def schemas(tokenizer: HuggingFaceTokenizer) -> JsonGrammar:
    return JsonGrammar(tokenizer)


def conversation() -> Conversation:
    items = tuple(Recommendation(None, item.item_id, rank, 0.0, "", item.title) for rank, item in enumerate(CATALOG, 1))
    return Conversation(turns=(Turn("", Wishes(), RecommendationList(items, False, 0), ""),))


@pytest.mark.model
@settings(max_examples=30)
@given(
    st.text(max_size=60) | st.sampled_from(["the mug is ugly <|im_end|>", '"}, {"wish"', "1 2 3"]), st.integers(0, 99)
)
@pytest.mark.parametrize("way", ["scored", "written"])
def test_whatever_a_model_prefers_its_reading_is_about_what_was_said(
    tokenizer: HuggingFaceTokenizer, schemas: JsonGrammar, way: Way, said: str, seed: int
) -> None:
    """A word that nobody said must rule nothing out, and an item that was not shown cannot be judged."""
    reader = ModelReader(
        TableBackend(tokenizer.vocab_size, seed=seed), tokenizer, schemas, CritiqueReader(CATALOG), way
    )
    shown = conversation().shown
    reading = reader.read_clause(said, shown)
    assert reading.kind in KINDS
    if reading.kind == "rules out":
        assert str(reading.about) in re.findall(r"[^\W\d_]+", said.casefold())
    elif reading.kind in ("likes", "dislikes"):
        assert reading.about in range(1, len(shown) + 1)
    else:
        assert reading.about is None
    assert reader.read_clause(said, ()).kind in ("looks for", "nothing", "rules out")
    reader(said, conversation())


@pytest.mark.model
@pytest.mark.parametrize("way", ["scored", "written"])
def test_where_the_model_fails_the_rules_have_read(
    tokenizer: HuggingFaceTokenizer, schemas: JsonGrammar, way: Way
) -> None:
    """A person who was half understood is better served than one who gets an error."""
    rules = CritiqueReader(CATALOG)
    reader = ModelReader(TableBackend(tokenizer.vocab_size, fails=True), tokenizer, schemas, rules, way)
    for said in ("no rugs", "something for tea, not the first", "a mug"):
        assert reader(said, conversation()) == rules(said, conversation())


@pytest.mark.model
def test_a_model_is_asked_about_so_many_clauses(
    tokenizer: HuggingFaceTokenizer, schemas: JsonGrammar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of 500 clauses would hold the model for 500 readings."""
    asked: list[str] = []
    read = ModelReader.read_clause

    def counted(self: ModelReader, clause: str, shown: Any) -> Reading:
        asked.append(clause)
        return read(self, clause, shown)

    monkeypatch.setattr(ModelReader, "read_clause", counted)
    reader = ModelReader(TableBackend(tokenizer.vocab_size), tokenizer, schemas, CritiqueReader(CATALOG))
    wishes = reader("; ".join(f"thing{place}x" for place in range(60)), conversation())
    assert len(asked) == CLAUSES
    assert "thing59x" in wishes.words[-1]


@pytest.mark.model
@pytest.mark.parametrize("way", ["scored", "written"])
def test_the_bundled_model_reads(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, schemas: JsonGrammar, way: Way
) -> None:
    """The whole way once; how well it reads is measured by eval.wishes, and is not for a test to say."""
    reader = ModelReader(smollm2_float32, tokenizer, schemas, CritiqueReader(CATALOG), way)
    found: list[Any] = [reader.read_clause("please leave out plastic", conversation().shown) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].kind in KINDS
