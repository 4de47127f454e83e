"""The one way from a person to the token ids of a prompt: ranking, training, batch and chat all come through here."""

from dataclasses import dataclass

import numpy as np

from genrec.catalog import Catalog
from genrec.errors import EngineError, InputError
from genrec.template import Prompt, Template, one_line
from genrec.tokenizer import Tokenizer
from genrec.types import IntArray

_TITLE_CHARACTERS = 200
_WORDS_CHARACTERS = 1000
_INPUTS = ("history", "words", "candidates")


@dataclass(frozen=True)
class Rendered:
    """A prompt, its token ids int64 [P], and what had to be left out of it."""

    prompt: Prompt
    token_ids: IntArray
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Shows people to a model through one template.

    Attributes:
        catalog: names the items.
        tokenizer: the model's.
        template: takes `history`, `words`, `candidates` or some of these; an item has `title` and its attributes.
        room: tokens a prompt may have.
        max_history: the newest distinct items of a history that are shown.
    """

    catalog: Catalog
    tokenizer: Tokenizer
    template: Template
    room: int
    max_history: int

    def __post_init__(self) -> None:
        if strange := sorted(set(self.template.inputs) - set(_INPUTS)):
            raise InputError(
                f"template {self.template.name!r} asks for {strange[0]!r}; a ranker can give {', '.join(_INPUTS)}"
            )

    def render(self, history: IntArray, words: str, candidates: IntArray) -> Rendered:
        """The prompt for a person; the oldest items go first where it would not fit.

        Args:
            history: int64 [H], item indices, oldest first; of an item met twice the newer place counts.
            words: what the person says; cut after 1,000 characters.
            candidates: int64 [C], item indices shown where the template asks for them.

        Raises:
            EngineError: it does not fit even without a history.
        """
        shown = newest_distinct(history, self.max_history)[::-1]
        for start in range(len(shown) + 1):
            prompt = self._fill_in(shown[start:], words, candidates)
            token_ids = self.tokenizer.encode_prompt(prompt)
            if len(token_ids) <= self.room:
                kept = f"the prompt shows the newest {len(shown) - start} of {len(shown)} history items"
                notices = (f"{kept}; the rest does not fit {self.room} tokens",) if start else ()
                return Rendered(prompt, token_ids, notices)
        raise EngineError(
            f"template {self.template.name!r} does not fit {self.room} tokens even without a history; "
            "shorten the words, the candidates or the template"
        )

    def _fill_in(self, history: IntArray, words: str, candidates: IntArray) -> Prompt:
        items = {"history": history, "candidates": candidates}
        values: dict[str, object] = {"words": one_line(words)[:_WORDS_CHARACTERS]}
        for name in items.keys() & set(self.template.inputs):
            values[name] = [self._view(int(item)) for item in items[name]]
        return self.template.render(**{name: values[name] for name in self.template.inputs})

    def _view(self, index: int) -> dict[str, object]:
        item = self.catalog[index]
        return {**item.attributes, "title": one_line(item.title)[:_TITLE_CHARACTERS]}


def newest_distinct(history: IntArray, count: int) -> IntArray:
    """The newest `count` distinct items of a history, newest first."""
    reverse = history[::-1]
    _, first = np.unique(reverse, return_index=True)
    chosen: IntArray = reverse[np.sort(first)][:count]
    return chosen
