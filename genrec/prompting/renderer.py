"""The renderer from a user to the token ids of a prompt, shared by ranking, training, batch runs and chat."""

from dataclasses import dataclass

import numpy as np

from genrec.data.catalog import Catalog
from genrec.errors import EngineError, InputError
from genrec.notices import Notice
from genrec.prompting.template import Prompt, Template, one_line
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import IntArray

_MAX_TITLE_CHARACTERS = 200
_MAX_WORDS_CHARACTERS = 1000
_KNOWN_INPUTS = ("history", "words", "candidates")


@dataclass(frozen=True)
class RenderedPrompt:
    """A rendered prompt.

    Attributes:
        prompt: its messages.
        token_ids: int64 [P].
        notices: what was omitted from it.
    """

    prompt: Prompt
    token_ids: IntArray
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Renders users as prompts with one template.

    Attributes:
        catalog: the items.
        tokenizer: the model's tokenizer.
        template: has some of the inputs `history`, `words` and `candidates`; items have `title` and their attributes.
        max_prompt_tokens: the maximum length of a prompt, in tokens.
        max_history: the maximum number of history items in a prompt.
        history_step: how many items leave the window at once when it is full; see `window_start`.

    Raises:
        InputError: the template has another input, or a number is below 1.
    """

    catalog: Catalog
    tokenizer: Tokenizer
    template: Template
    max_prompt_tokens: int
    max_history: int
    history_step: int = 4

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.template.inputs) - set(_KNOWN_INPUTS)):
            raise InputError(
                f"template {self.template.name!r} has the input {unknown[0]!r}; a ranker provides only "
                f"{', '.join(_KNOWN_INPUTS)}"
            )
        for name in ("max_history", "history_step"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def render(self, history: IntArray, words: str, candidates: IntArray) -> RenderedPrompt:
        """Render the prompt of a user; if it is too long, drop the oldest items, `history_step` at a time.

        While the window does not move, each prompt's history extends the one before, so an engine with a prefix cache
        computes only the new tokens.

        Args:
            history: int64 [H], item indices, oldest first; a repeated item keeps its first position in the window.
            words: the user's message; truncated after 1,000 characters.
            candidates: int64 [C], item indices, for templates with the input `candidates`.

        Returns:
            The prompt, with a notice if items were dropped.

        Raises:
            EngineError: the prompt is too long even without a history.
        """
        recent = history[window_start(history, self.max_history, self.history_step) :]
        shown = np.array(list(dict.fromkeys(recent.tolist())), dtype=np.int64)
        steps = range(0, max(len(shown), 1), self.history_step)
        for start in (*steps, *range(steps[-1] + 1, len(shown) + 1)):
            prompt = self._render_prompt(shown[start:], words, candidates)
            token_ids = self.tokenizer.encode_prompt(prompt)
            if len(token_ids) <= self.max_prompt_tokens:
                fields = {"shown": len(shown) - start, "total": len(shown), "max_tokens": self.max_prompt_tokens}
                notices = (Notice("history_truncated", fields),) if start else ()
                return RenderedPrompt(prompt, token_ids, notices)
        raise EngineError(
            f"template {self.template.name!r} does not fit {self.max_prompt_tokens} tokens even without a history; "
            "shorten the words, the candidates or the template"
        )

    def _render_prompt(self, history: IntArray, words: str, candidates: IntArray) -> Prompt:
        items = {"history": history, "candidates": candidates}
        values: dict[str, object] = {"words": one_line(words)[:_MAX_WORDS_CHARACTERS]}
        for name in items.keys() & set(self.template.inputs):
            values[name] = [item_variables(self.catalog, int(item)) for item in items[name]]
        return self.template.render(**{name: values[name] for name in self.template.inputs})


def item_variables(catalog: Catalog, item_index: int) -> dict[str, object]:
    """The variables of an item in a template: its title and its attributes."""
    item = catalog[item_index]
    return {**item.attributes, "title": one_line(item.title)[:_MAX_TITLE_CHARACTERS]}


def window_start(history: IntArray, max_items: int, stride: int) -> int:
    """Find the start of the history window, which moves in jumps: between two jumps, prompts only grow at their end.

    `history[start:]` has at most `max_items` distinct items. When one more would enter, the `stride` least recent items
    leave together, and the start moves to the first of the others. So the window always has the newest distinct items:
    all of them up to `max_items`, and later between `max_items - stride + 1` and `max_items`, at least one. There are
    at least `stride` new items between two jumps, or `max_items` if that is less. The result depends on the whole
    history, not only on its end.

    Args:
        history: int64 [H], item indices, oldest first.
        max_items: the maximum number of distinct items, at least 1.
        stride: how many items leave together, at least 1.

    Returns:
        An index into `history`.
    """
    start = 0
    last_seen: dict[int, int] = {}
    for position, item in enumerate(history.tolist()):
        if item not in last_seen and len(last_seen) == max_items:
            kept = sorted(last_seen.values())[stride:]
            start = kept[0] if kept else position
            last_seen = {other: seen for other, seen in last_seen.items() if seen >= start}
        last_seen[item] = position
    return start


def newest_distinct(history: IntArray, count: int) -> IntArray:
    """The newest `count` distinct items of a history int64 [H], newest first."""
    reverse = history[::-1]
    _, first = np.unique(reverse, return_index=True)
    chosen: IntArray = reverse[np.sort(first)][:count]
    return chosen
