"""The unconstrained baseline: what a model wrote is read as kindly as can be, and never helped."""

from pathlib import Path

import pytest

from eval.baselines.unconstrained import NOT_A_TITLE, UnconstrainedLlm, lines_of
from genrec import Catalog, History, Item, read_template

pytestmark = pytest.mark.model
TITLES = ("The Babadook", "Alien (1979)", "Alien 3", "Heat - Director's Cut", "!?")


@pytest.fixture(scope="module")
def baseline(smollm2: Path) -> UnconstrainedLlm:
    catalog = Catalog.from_items(Item(f"i{place}", title) for place, title in enumerate(TITLES))
    template = read_template(Path(__file__).parents[1] / "eval" / "unconstrained.j2")
    return UnconstrainedLlm(catalog, smollm2, template)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('Sure:\n1. Alien\n2) "Heat"\n\nEnjoy!', ["Alien", "Heat"]),
        ("- **Alien**\n* Heat", ["Alien", "Heat"]),
        ("Alien\n\nHeat", ["Alien", "Heat"]),
        ("", []),
    ],
)
def test_a_list_is_read_in_whatever_way_it_is_written(text: str, lines: list[str]) -> None:
    """A reader that misses lines would make the baseline look worse than it is."""
    assert lines_of(text) == lines


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
def test_a_line_is_the_title_that_it_nearly_is(baseline: UnconstrainedLlm, line: str, title: str | None) -> None:
    """What is taken for another title is a hit that was not named, what is not taken a miss that was."""
    assert baseline.item_of(line) == (None if title is None else TITLES.index(title))


def test_of_several_it_is_one_that_was_to_be_ranked(baseline: UnconstrainedLlm) -> None:
    """A title outside of the candidates counts as what was named: a real item, which is not allowed."""
    assert baseline.item_of("Alien 3", among=[0, 1]) == TITLES.index("Alien 3")
    assert baseline.item_of("Alien 1978", among=[0, 1]) == TITLES.index("Alien (1979)")


def test_nothing_is_filled_up_and_nothing_made_up_by_the_reader(baseline: UnconstrainedLlm) -> None:
    """The rows beside genrec's are worth what this reader leaves as it was."""
    people = [History(("i0", "i1"), user_id="u"), History(("i2",))]
    answers = baseline.recommend(people, 3)
    assert [len(answer.items) <= 3 and answer.tokens > 0 for answer in answers] == [True, True]
    for item in (item for answer in answers for item in answer.items):
        assert item.item_id in {"i0", "i1", "i2", "i3", "i4"} or str(item.item_id).startswith(NOT_A_TITLE)
    assert baseline.recommend(people[0], 3, only=["i2", "i3"]).items[0].user_id == "u"
