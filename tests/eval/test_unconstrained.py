"""The unconstrained baseline: lines are matched leniently to titles, and lists are never repaired."""

from pathlib import Path

import pytest

from eval.baselines.unconstrained import NOT_A_TITLE, UnconstrainedLlm, listed_lines
from genrec import Catalog, History, Item, read_template
from genrec.errors import InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer

pytestmark = pytest.mark.model
TITLES = ("The Babadook", "Alien (1979)", "Alien 3", "Heat - Director's Cut", "!?", "Heat")


@pytest.fixture(scope="module")
def baseline(smollm2: Path) -> UnconstrainedLlm:
    catalog = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(TITLES))
    template = read_template(Path(__file__).parents[2] / "eval" / "unconstrained.j2")
    return UnconstrainedLlm(catalog, smollm2, template)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('Sure:\n1. Alien\n2) "Heat"\n\nEnjoy!', ["Alien", "Heat"]),
        ("1. Alien\n   - with a cat\n2. Heat\n3. ***", ["Alien", "Heat"]),
        ("Alien\n007: Nightfire\n- Heat", ["Alien", "007: Nightfire", "- Heat"]),
        ("- **Alien**\n* Heat", ["Alien", "Heat"]),
        ("Alien\n\nHeat", ["Alien", "Heat"]),
        ("", []),
    ],
)
def test_lists_of_any_format_are_parsed(text: str, lines: list[str]) -> None:
    """A parser that misses lines would make the baseline look worse than it is."""
    assert listed_lines(text) == lines


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("the babadook", "The Babadook"),
        ("ALIEN, 1979", "Alien (1979)"),
        ("The Babadok", "The Babadook"),
        ("Alien 3: the one with the dog", "Alien 3"),
        ("Heat - Director's Cut", "Heat - Director's Cut"),
        ("The Matrix", None),
        ("...", None),
    ],
)
def test_a_line_matches_a_similar_title(baseline: UnconstrainedLlm, line: str, title: str | None) -> None:
    """A wrong match would be a false hit, and a missing match a false miss."""
    assert baseline.match_line(line) == (None if title is None else TITLES.index(title))


def test_candidates_are_preferred_over_other_titles(baseline: UnconstrainedLlm) -> None:
    """A title outside the candidates counts as a real item that is not allowed."""
    assert baseline.match_line("Alien 3", candidates=[0, 1]) == TITLES.index("Alien 3")
    assert baseline.match_line("Alien 1978", candidates=[0, 1]) == TITLES.index("Alien (1979)")
    assert baseline.match_line("Heat - Director's Cut", candidates=[5]) == TITLES.index("Heat - Director's Cut")
    assert baseline.match_line("Heat: with Al Pacino", candidates=[0, 5]) == TITLES.index("Heat")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1. Alien 3\n2. Gattaca\n3. Alien 3\n", ["i2", f"{NOT_A_TITLE}Gattaca", "i2"]),
        ("1. Heat\n2. Alien 3\n3. The Babadook\n4. Heat", ["i5", "i2", "i0"]),
        ("", []),
    ],
)
def test_lists_are_neither_padded_nor_filtered(
    baseline: UnconstrainedLlm, tokenizer: HuggingFaceTokenizer, text: str, ids: list[str]
) -> None:
    """Repeated and unknown titles are the faults that this baseline measures."""
    answer = [*tokenizer.encode_text(text).tolist(), tokenizer.eos_token_id]
    items = baseline.parse_answer(answer, 3)
    assert [item.item_id for item in items] == ids
    assert [item.rank for item in items] == list(range(1, len(ids) + 1))


def test_a_truncated_line_does_not_count(baseline: UnconstrainedLlm, tokenizer: HuggingFaceTokenizer) -> None:
    """A truncated title is caused by the token limit, not by the model."""
    items = baseline.parse_answer(tokenizer.encode_text("1. Alien 3\n2. The Bab").tolist(), 3)
    assert [item.item_id for item in items] == ["i2"]


def test_recommend_takes_one_user_or_many(baseline: UnconstrainedLlm) -> None:
    """It has the interface of `Recommender`, including its errors."""
    users = [History(("i0", "i1", "i2"), user_id="u"), History(("i2",))]
    answers = baseline.recommend(users, 2)
    assert all(answer.tokens > 0 and len(answer.items) <= 2 for answer in answers)
    assert {item.user_id for item in answers[0].items} <= {"u"}
    assert baseline.recommend([], 2) == []
    assert baseline.recommend(users[1], 2, only=["i2", "i3"]).tokens > 0
    for only, message in (([], "only holds nothing"), (["i9"], r"only holds \['i9'\]")):
        with pytest.raises(InputError, match=message):
            baseline.recommend(users, 2, only=only)
    with pytest.raises(InputError, match="k is 0"):
        baseline.recommend(users, 0)
