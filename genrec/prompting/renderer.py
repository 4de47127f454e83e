"""The one way from a person to the token ids of a prompt: ranking, training, batch and chat all come through here."""

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
    """A prompt, its token ids int64 [P], and what had to be left out of it."""

    prompt: Prompt
    token_ids: IntArray
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Shows people to a model through one template.

    Attributes:
        catalog: names the items.
        tokenizer: the model's.
        template: takes `history`, `words`, `candidates` or some of these; an item has `title` and its attributes.
        max_prompt_tokens: tokens a prompt may have.
        max_history: the most items of a history that are shown.
        history_step: how many of them leave together when one more would be too many; see `window_start`.

    Raises:
        InputError: the template asks for something else, or a number is below 1.
    """

    catalog: Catalog
    tokenizer: Tokenizer
    template: Template
    max_prompt_tokens: int
    max_history: int
    history_step: int = 4

    def __post_init__(self) -> None:
        if strange := sorted(set(self.template.inputs) - set(_KNOWN_INPUTS)):
            raise InputError(
                f"template {self.template.name!r} asks for {strange[0]!r}; a ranker can give {', '.join(_KNOWN_INPUTS)}"
            )
        for name in ("max_history", "history_step"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def render(self, history: IntArray, words: str, candidates: IntArray) -> RenderedPrompt:
        """The prompt for a person; where it would not fit, the oldest items go first, `history_step` at a time.

        While the window stays, what is shown of a history is the beginning of what is shown of it and one event more,
        so an engine that keeps the prompt's state computes only what is new.

        Args:
            history: int64 [H], item indices, oldest first; an item met again within the window keeps its first place.
            words: what the person says; cut after 1,000 characters.
            candidates: int64 [C], item indices shown where the template asks for them.

        Raises:
            EngineError: it does not fit even without a history.
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
    """What a template sees of an item."""
    item = catalog[item_index]
    return {**item.attributes, "title": one_line(item.title)[:_MAX_TITLE_CHARACTERS]}


def window_start(history: IntArray, max_items: int, stride: int) -> int:
    """The place from which a history is shown: it moves in jumps, so that between them prompts grow at their end only.

    `history[start:]` holds at most `max_items` distinct items. When one more comes, the `stride` that were not met for longest
    leave together, and the start moves to where the others begin. So what is shown are always the newest distinct
    items: all while there are no more than `max_items`, later `max_items` or up to `step - 1` fewer, never none. Between two
    moves lie at least `stride` new items, or `max_items` if that is less. The answer depends on every event from the first on.

    Args:
        history: int64 [H], item indices, oldest first.
        max_items, stride: at least 1.
    """
    start = 0
    last: dict[int, int] = {}
    for place, item in enumerate(history.tolist()):
        if item not in last and len(last) == max_items:
            kept = sorted(last.values())[stride:]
            start = kept[0] if kept else place
            last = {one: met for one, met in last.items() if met >= start}
        last[item] = place
    return start


def newest_distinct(history: IntArray, count: int) -> IntArray:
    """The newest `count` distinct items of a history, newest first."""
    reverse = history[::-1]
    _, first = np.unique(reverse, return_index=True)
    chosen: IntArray = reverse[np.sort(first)][:count]
    return chosen
