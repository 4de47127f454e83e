"""The one way from a person to token ids."""

import numpy as np
import pytest

from genrec import Catalog, Item, Template, read_template
from genrec.errors import EngineError, InputError
from genrec.renderer import Renderer, newest_distinct
from genrec.testing import ByteTokenizer

NOBODY = np.empty(0, dtype=np.int64)
CATALOG = Catalog.from_items(Item(f"i{place}", f"Thing {place}") for place in range(200))


def renderer(room: int = 10_000, max_history: int = 10, template: str = "next-item") -> Renderer:
    return Renderer(CATALOG, ByteTokenizer(), read_template(template), room, max_history)


def test_the_newest_distinct_items_are_shown_oldest_first() -> None:
    """A person who bought one thing ten times must not look like somebody with one thing only."""
    shown = renderer(max_history=3).render(np.array([5, 1, 2, 9, 2, 2]), "", NOBODY)
    text = shown.prompt[-1].text
    assert [text.index(f"Thing {item}") for item in (1, 9, 2)] == sorted(text.index(f"Thing {i}") for i in (1, 9, 2))
    assert "Thing 5" not in text
    assert not shown.notices
    assert newest_distinct(np.array([5, 1, 2, 9, 2, 2]), 3).tolist() == [2, 9, 1]


def test_a_history_longer_than_the_context_loses_its_old_end_and_says_so() -> None:
    """What is cut silently cannot be understood later; what is cut from the new end is what mattered."""
    history = np.arange(150)
    full = renderer(max_history=150).render(history, "", NOBODY)
    room = len(full.token_ids) - 500
    cut = renderer(room=room, max_history=150).render(history, "", NOBODY)
    assert len(cut.token_ids) <= room
    assert "Thing 149" in cut.prompt[-1].text
    assert "1. Thing 0\n" not in cut.prompt[-1].text
    assert cut.notices
    assert "of 150 history items" in cut.notices[0]


def test_a_prompt_that_cannot_fit_is_refused() -> None:
    """Sending it anyway would push the question itself out of the context."""
    with pytest.raises(EngineError, match="does not fit 20 tokens"):
        renderer(room=20).render(np.array([1]), "", NOBODY)


def test_a_template_is_given_only_what_a_ranker_has() -> None:
    """A template that asks for more would fail on the first request, in production."""
    source = read_template("next-item").source.replace('["history", "words"]', '["history", "words", "weather"]')
    with pytest.raises(InputError, match="weather"):
        Renderer(CATALOG, ByteTokenizer(), Template.from_source(source), 1000, 10)


def test_candidates_are_shown_where_the_template_asks_for_them() -> None:
    """The layout that shows candidates must show all of them, and the other none."""
    with_list = renderer(template="rank-candidates").render(np.array([1]), "", np.array([7, 8]))
    assert all(f"- Thing {item}\n" in with_list.prompt[-1].text for item in (7, 8))
    assert "Thing 7" not in renderer().render(np.array([1]), "", np.array([7, 8])).prompt[-1].text
