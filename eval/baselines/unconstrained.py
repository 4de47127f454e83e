"""The LLM that is asked for a list and writes what it likes; its lines are matched to titles afterwards.

Source: Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems", ECIR 2024, section 2.1, who
read a ranking out of the text in this way. Here a line counts where it is a title but for case and punctuation, or
nearly one.
"""

import re
import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from genrec.backends.precision import default_device, native_dtype
from genrec.backends.quiet import quiet
from genrec.catalog import Catalog
from genrec.renderer import Renderer
from genrec.template import Template
from genrec.tokenizer import HuggingFaceTokenizer
from genrec.types import History, IntArray, ItemId, Recommendation, RecommendationList

NOT_A_TITLE = "text: "  # what stands before a line that is no title, in the place of its item id
_CLOSE = 0.8  # of `difflib`: a title and a line that differ in a letter or a word
_TOKENS = 20  # an item may take, its number and line break included
_MARK = re.compile(r"\s*(?:\d+\s*[.):]|[-*•])\s*(.+)")
_ASIDE = re.compile(r"\s[-\u2013\u2014]\s|:\s")  # behind a name, what the model says about it


class UnconstrainedLlm:
    """Answers as `Recommender.recommend` does, but with whatever the model wrote: fewer items, strange ones, twice.

    Decoding is greedy. Nothing is filled up and nothing filtered; a line that is no title stands in the list as an item
    of the id `text: ...`, which no catalog has.

    Args:
        catalog: whose titles are meant.
        model: a folder of weights with their tokenizer.
        template: shows `history` and `candidates`, and asks for a list.
        max_history: the most items of a history that the prompt shows.
    """

    source = "unconstrained"

    def __init__(self, catalog: Catalog, model: Path, template: Template, *, max_history: int = 12) -> None:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=native_dtype(default_device()))
        self._model = loaded.to(default_device()).eval()
        self._catalog, self._tokenizer = catalog, HuggingFaceTokenizer.from_directory(model)
        room = int(self._model.config.max_position_embeddings) // 2  # the other half is for the answer
        self._renderer = Renderer(catalog, self._tokenizer, template, room, max_history)
        self._everything = self._by_key(range(len(catalog)))

    def recommend(
        self, people: Any, k: int = 10, *, filter_seen: bool = True, only: Iterable[ItemId] | None = None
    ) -> Any:
        """A list of at most k for one history, or one for each of many; `filter_seen` is beyond what can be asked."""
        if isinstance(people, History):
            return self.recommend([people], k, only=only)[0]
        start = time.perf_counter()
        candidates = np.empty(0, dtype=np.int64) if only is None else self._catalog.item_ids.positions(list(only))
        prompts = [self._render(person, candidates) for person in people]
        written = self._write(prompts, k)
        near = self._by_key(candidates.tolist()) if len(candidates) else self._everything
        seconds = (time.perf_counter() - start) / len(prompts)
        return [
            RecommendationList(
                tuple(self._items(person, self._tokenizer.decode(answer), near, k)),
                proven=False,
                compared=0,
                seconds=seconds,
                tokens=len(prompt) + len(answer),
            )
            for person, prompt, answer in zip(people, prompts, written, strict=True)
        ]

    def _render(self, person: History, candidates: IntArray) -> IntArray:
        places = self._catalog.item_ids.positions(list(person.item_ids))
        return self._renderer.render(places[places >= 0], person.words, candidates).token_ids

    @torch.inference_mode()
    def _write(self, prompts: Sequence[IntArray], k: int) -> list[list[int]]:
        """The tokens of each answer, its end left out."""
        longest, end = max(map(len, prompts)), self._tokenizer.end_id
        tokens = torch.full((len(prompts), longest), end)
        inside = torch.zeros(tokens.shape, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            inside[row, longest - len(prompt) :] = 1
        device = self._model.device
        found = self._model.generate(
            tokens.to(device),
            attention_mask=inside.to(device),
            do_sample=False,
            max_new_tokens=_TOKENS * k,
            eos_token_id=end,
            pad_token_id=end,
        )
        answers = found[:, longest:].tolist()
        return [answer[: answer.index(end)] if end in answer else answer for answer in answers]

    def _items(self, person: History, text: str, near: dict[str, int], k: int) -> list[Recommendation]:
        items = []
        for rank, line in enumerate(lines_of(text)[:k], 1):
            place = self._match(line, near)
            item_id: ItemId = f"{NOT_A_TITLE}{line}"
            title = line
            if place is not None:
                item_id, title = self._catalog[place].item_id, self._catalog[place].title
            items.append(Recommendation(person.user_id, item_id, rank, -float(rank), self.source, title))
        return items

    def item_of(self, line: str, among: Iterable[int] | None = None) -> int | None:
        """The index of the item that a line names: one of those that it was to choose from, else any, else None."""
        return self._match(line, self._everything if among is None else self._by_key(among))

    def _match(self, line: str, near: dict[str, int]) -> int | None:
        keys = [_key(piece) for piece in (line, _ASIDE.split(line)[0])]
        for titles in (near, self._everything):
            for key in keys:
                if key in titles:
                    return titles[key]
        close = [match for key in keys for match in get_close_matches(key, near, 1, _CLOSE)]
        return near[close[0]] if close else None

    def _by_key(self, places: Iterable[int]) -> dict[str, int]:
        """Items by what their titles are compared by; of several with one title the first."""
        found: dict[str, int] = {}
        for place in places:
            if key := _key(self._catalog.titles[place]):
                found.setdefault(key, place)
        return found


def lines_of(text: str) -> list[str]:
    """What a text lists: its numbered or dotted lines, or all of its lines where none is."""
    lines = [line for line in text.splitlines() if line.strip()]
    listed = [match[1] for line in lines if (match := _MARK.match(line))]
    return [line.strip(" \t\"'*_“”") for line in listed or lines]


def _key(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))
