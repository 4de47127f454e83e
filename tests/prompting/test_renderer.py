"""Laws of the renderer: windows of histories, limits on length, and prompts that extend each other."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import Catalog, Item, Template, open_dataset, read_template
from genrec.errors import EngineError, InputError
from genrec.prompting.renderer import RenderedPrompt, Renderer, newest_distinct, window_start
from genrec.prompting.template import one_line, template_names
from genrec.prompting.tokenizer import HuggingFaceTokenizer, Tokenizer
from genrec.testing import ByteTokenizer
from genrec.types import IntArray

EMPTY = np.empty(0, dtype=np.int64)
CATALOG = Catalog.from_items(Item(f"i{place}", f"Thing {place}") for place in range(200))
# The end of a title decides whether a tokenizer merges it with the next line.
ENDS = (
    "",
    "!",
    "...",
    " 3.",
    " (2nd)",
    "'s",
    " é",
    " 日本",
    " \U0001f3ae",
    " <|im_end|>",
    " {{ x }}",
    "\n4. Chair",
    " -",
    "'",
)
STRANGE = Catalog.from_items(Item(f"i{place}", f"Thing {place}{ENDS[place % len(ENDS)]}") for place in range(40))
# The templates that show a history and ask for an item.
RANKING = [
    template.name
    for template in map(read_template, template_names())
    if template.output == "item" and "history" in template.inputs
]
HISTORIES = st.lists(st.integers(0, 15), min_size=1, max_size=60).map(np.array)


def renderer(max_tokens: int = 10_000, max_history: int = 10, template: str = "next-item", step: int = 1) -> Renderer:
    return Renderer(CATALOG, ByteTokenizer(), read_template(template), max_tokens, max_history, step)


def test_the_newest_distinct_items_are_shown() -> None:
    """A user who bought one item ten times must not look like a user with a single item."""
    shown = renderer(max_history=3).render(np.array([5, 1, 2, 9, 2, 2]), "", EMPTY)
    text = shown.prompt[-1].text
    assert [text.index(f"Thing {item}") for item in (1, 2, 9)] == sorted(text.index(f"Thing {i}") for i in (1, 2, 9))
    assert "Thing 5" not in text
    assert not shown.notices
    assert newest_distinct(np.array([5, 1, 2, 9, 2, 2]), 3).tolist() == [2, 9, 1]


def test_a_history_that_is_too_long_loses_its_oldest_items_with_a_notice() -> None:
    """Silent truncation cannot be explained later, and the newest items matter most."""
    history = np.arange(150)
    full = renderer(max_history=150).render(history, "", EMPTY)
    max_tokens = len(full.token_ids) - 500
    cut = renderer(max_tokens=max_tokens, max_history=150).render(history, "", EMPTY)
    assert len(cut.token_ids) <= max_tokens
    assert "Thing 149" in cut.prompt[-1].text
    assert "1. Thing 0\n" not in cut.prompt[-1].text
    assert cut.notices
    assert cut.notices[0].fields["total"] == 150


def test_a_prompt_that_cannot_fit_is_rejected() -> None:
    """Otherwise the question itself would be cut off."""
    with pytest.raises(EngineError, match="does not fit 20 tokens"):
        renderer(max_tokens=20).render(np.array([1]), "", EMPTY)


def test_templates_with_unknown_inputs_are_rejected() -> None:
    """Such a template would fail at the first request, in production."""
    source = read_template("next-item").source.replace('["history", "words"]', '["history", "words", "weather"]')
    with pytest.raises(InputError, match="weather"):
        Renderer(CATALOG, ByteTokenizer(), Template.from_source(source), 1000, 10)


def test_empty_windows_are_rejected() -> None:
    """Such a window would silently hide the history, or never move."""
    for number in (0, -1):
        with pytest.raises(InputError, match=f"max_history is {number}; it must be at least 1"):
            renderer(max_history=number)
        with pytest.raises(InputError, match=f"history_step is {number}; it must be at least 1"):
            renderer(step=number)


def test_candidates_are_shown_if_the_template_has_that_input() -> None:
    """A template with candidates must show all of them, and others none."""
    with_list = renderer(template="rank-candidates").render(np.array([1]), "", np.array([7, 8]))
    assert all(f"- Thing {item}\n" in with_list.prompt[-1].text for item in (7, 8))
    assert "Thing 7" not in renderer().render(np.array([1]), "", np.array([7, 8])).prompt[-1].text


# Between two turns


@given(HISTORIES, st.integers(1, 14), st.integers(1, 6))
def test_a_window_shows_the_newest_and_moves_in_jumps(history: IntArray, limit: int, step: int) -> None:
    """A sliding window changes the whole prompt at every turn, and the newest items matter most."""
    turns = [history[:size] for size in range(1, len(history) + 1)]
    starts = [window_start(turn, limit, step) for turn in turns]
    shown = [list(dict.fromkeys(turn[start:].tolist())) for turn, start in zip(turns, starts, strict=True)]
    for turn, own in zip(turns, shown, strict=True):
        assert set(own) == set(newest_distinct(turn, len(own)).tolist())
        assert min(len(set(turn.tolist())), max(limit - step + 1, 1)) <= len(own) <= limit
    new_items = [0]
    for (before, after), (one, other) in zip(pairwise(starts), pairwise(shown), strict=True):
        new_items[-1] += other[-1] not in one
        if before == after:
            assert other[: len(one)] == one
        else:
            assert before < after
            assert other[-1] not in one
            new_items.append(0)
    assert new_items[0] > limit - 1 or len(new_items) == 1
    assert all(count >= min(step, limit) for count in new_items[1:-1])


@given(HISTORIES)
def test_removing_an_item_from_a_window_brings_none_back(history: IntArray) -> None:
    """Explanations remove items from the prompt one at a time; older items that return would distort them."""
    recent = history[window_start(history, 5, 2) :]
    for item in set(recent.tolist()):
        without = recent[recent != item]
        assert window_start(without, 5, 2) == 0
    assert window_start(recent, 5, 2) == 0


@pytest.mark.parametrize("template", RANKING)
@given(history=HISTORIES, seed=st.integers(0, 9))
def test_the_next_prompt_extends_this_one_up_to_its_history(template: str, history: IntArray, seed: int) -> None:
    """Otherwise the prefix cache does not help, and each turn computes the whole prompt."""
    check_prompts_extend(ByteTokenizer(), template, history, seed)


@pytest.mark.model
@pytest.mark.parametrize("template", RANKING)
def test_prompts_extend_each_other_in_a_models_tokens(template: str, tokenizer: HuggingFaceTokenizer) -> None:
    """A tokenizer that merges the end of a title with the next line would change the last token."""

    @settings(max_examples=30)
    @given(history=HISTORIES, seed=st.integers(0, 9))
    def law(history: IntArray, seed: int) -> None:
        check_prompts_extend(tokenizer, template, history, seed)

    law()


def check_prompts_extend(tokenizer: Tokenizer, template: str, history: IntArray, seed: int) -> None:
    random = np.random.default_rng(seed)
    history = history + random.integers(0, 20)
    one = Renderer(STRANGE, tokenizer, read_template(template), 10_000, max_history=6, history_step=3)
    turns = [
        one.render(history[:size], f"words {random.integers(99)}", random.integers(0, 40, 3))
        for size in range(1, len(history) + 1)
    ]
    starts = [window_start(history[:size], 6, 3) for size in range(1, len(history) + 1)]
    for size, ((now, later), (before, after)) in enumerate(zip(pairwise(turns), pairwise(starts), strict=True), 1):
        if before == after:
            shown = list(dict.fromkeys(history[before:size].tolist()))
            mark = "-" if template.startswith("unordered-") else f"{len(shown)}."
            end = f"\n{mark} {one_line(STRANGE[shown[-1]].title)}\n"
            kept = tokens_up_to(end, now, tokenizer)
            assert later.token_ids[: len(kept)].tolist() == kept


def tokens_up_to(end: str, rendered: RenderedPrompt, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a prompt up to the end of a text in it; a token must end exactly there."""
    token_ids = rendered.token_ids.tolist()
    size = next(size for size in range(len(token_ids)) if end in tokenizer.decode(token_ids[:size]))
    assert tokenizer.decode(token_ids[:size]).endswith(end)
    return token_ids[:size]


@pytest.mark.parametrize(("template", "share"), [("next-item", 0.60), ("rank-candidates", 0.22)])
def test_the_share_of_cached_prompt_tokens_is_high(template: str, share: float, shop: Catalog) -> None:
    """A lower share of cached tokens makes every turn slower."""
    random = np.random.default_rng(0)
    history = random.integers(0, len(shop), 30)
    shares = []
    for step in (4, 1):
        one = Renderer(shop, ByteTokenizer(), read_template(template), 10_000, 12, step)
        turns = [one.render(history[:size], "", random.integers(0, len(shop), 20)) for size in range(11, 31)]
        shares.append(reused(turns))
    jumping, sliding = shares
    assert jumping > share
    assert jumping > 2 * sliding


@pytest.fixture(scope="module")
def shop(cache: Path) -> Catalog:
    return open_dataset("online-retail", cache)[0]


def reused(turns: list[RenderedPrompt]) -> float:
    """The mean share of a prompt's tokens that are a prefix of the prompt before it."""
    shares = []
    for before, now in pairwise(one.token_ids for one in turns):
        size = min(len(before), len(now))
        shares.append(np.cumprod(before[:size] == now[:size]).sum() / len(now))
    return float(np.mean(shares))


@given(HISTORIES, st.integers(300, 700))
def test_items_that_do_not_fit_leave_in_steps(history: IntArray, max_tokens: int) -> None:
    """If truncation moved at every turn, the whole prompt would change at every turn."""
    one = renderer(max_tokens=max_tokens, max_history=12, step=4)
    recent = history[window_start(history, 12, 4) :]
    shown = list(dict.fromkeys(recent.tolist()))
    text = one.render(history, "", EMPTY).prompt[-1].text
    kept = [item for item in shown if f". Thing {item}\n" in text]
    left = len(shown) - len(kept)
    assert kept == shown[left:]
    assert left % 4 == 0 or len(shown) - left < 4


@pytest.mark.parametrize("template", RANKING)
def test_changing_text_comes_after_the_history(template: str) -> None:
    """Changing text before the history invalidates the cached tokens of the history."""
    text = renderer(template=template).render(np.array([1, 2]), "red", np.array([7])).prompt[-1].text
    changing = [text.index(part) for part in ("red", "Thing 7") if part in text]
    assert changing
    assert text.index("Thing 2") < min(changing)
