"""The LLM that is asked for a list and writes what it likes; its lines are matched to titles afterwards.

Source: Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems", ECIR 2024, section 2.1, who
read a ranking out of the text in this way. Here a line counts where it is a title but for case and punctuation, or
nearly one.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from genrec.backends import default_device, native_dtype, progress_bars_disabled
from genrec.data import Catalog
from genrec.errors import InputError, check_count
from genrec.prompting import HuggingFaceTokenizer, Renderer, Template
from genrec.types import History, IntArray, ItemId, Recommendation, RecommendationList

NOT_A_TITLE = "text: "  # what stands before a line that is no title, in the place of its item id
_MIN_SIMILARITY = 0.8  # of `difflib`: a title and a line that differ in a letter or a word
_EXTRA_TOKENS_PER_LINE = 6  # tokens of a line beside its title: number, marks, line break
_LIST_MARKERS = (re.compile(r"\d+\s*[.)]\s*(.+)"), re.compile(r"[-*•]\s*(.+)"))
_SEPARATOR = re.compile(r"\s[-\u2013\u2014]\s|:\s")  # behind a name, what the model says about it


class UnconstrainedLlm:
    """Answers as `Recommender.recommend` does, but with whatever the model wrote: fewer items, strange ones, twice.

    Decoding is greedy. Nothing is filled up and nothing filtered; a line that is no title stands in the list as an item
    of the id `text: ...`, which no catalog has. An answer may take as many tokens as k of the catalog's longer titles
    would (its 95th percentile); a line that is cut off there does not count.

    Args:
        catalog: whose titles are meant.
        model: a folder of weights with their tokenizer.
        template: shows `history` and `candidates`, and asks for a list.
        max_history: the most items of a history that the prompt shows.
    """

    source = "unconstrained"

    def __init__(self, catalog: Catalog, model: Path, template: Template, *, max_history: int = 12) -> None:
        with progress_bars_disabled():
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=native_dtype(default_device()))
        self._model = loaded.to(default_device()).eval()
        self._catalog, self._tokenizer = catalog, HuggingFaceTokenizer.from_directory(model)
        room = int(self._model.config.max_position_embeddings) // 2  # the other half is for the answer
        self._renderer = Renderer(catalog, self._tokenizer, template, room, max_history)
        lengths = [len(self._tokenizer.encode_text(title)) for title in catalog.titles]
        self._line = int(np.percentile(lengths, 95)) + _EXTRA_TOKENS_PER_LINE
        self._everything = self._by_key(range(len(catalog)))

    def recommend(
        self, users: Any, k: int = 10, *, filter_seen: bool = True, only: Iterable[ItemId] | None = None
    ) -> Any:
        """A list of at most k for one history, or one for each of many; `filter_seen` is beyond what can be asked.

        Raises:
            InputError: k is below 1, or `only` holds nothing or what the catalog lacks.
        """
        check_count("k", k)
        if isinstance(users, History):
            return self.recommend([users], k, only=only)[0]
        if not users:
            return []
        start = time.perf_counter()
        candidates, near = np.empty(0, dtype=np.int64), self._everything
        if only is not None:
            ids = list(only)
            candidates = self._catalog.item_ids.positions(ids)
            if not ids or (candidates < 0).any():
                unknown = [one for one, place in zip(ids, candidates, strict=True) if place < 0]
                raise InputError(f"only holds {unknown[:1] or 'nothing'}; give items of the catalog, or leave it out")
            near = self._by_key(candidates.tolist())
        prompts = [self._render(person, candidates) for person in users]
        written = self._generate(prompts, k)
        seconds = (time.perf_counter() - start) / len(prompts)
        return [
            RecommendationList(
                tuple(replace(item, user_id=person.user_id) for item in self._items(answer, near, k)),
                proven=False,
                compared=0,
                seconds=seconds,
                tokens=len(prompt) + len(answer),
            )
            for person, prompt, answer in zip(users, prompts, written, strict=True)
        ]

    def _render(self, user: History, candidates: IntArray) -> IntArray:
        places = self._catalog.item_ids.positions(list(user.item_ids))
        return self._renderer.render(places[places >= 0], user.words, candidates).token_ids

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[IntArray], k: int) -> list[list[int]]:
        """The tokens of each answer, with its end where it came to one."""
        longest, end = max(map(len, prompts)), self._tokenizer.eos_token_id
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
            max_new_tokens=self._line * k,
            eos_token_id=end,
            pad_token_id=end,
        )
        answers = found[:, longest:].tolist()
        return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]

    def _items(self, answer: list[int], candidates: dict[str, int], k: int) -> Iterator[Recommendation]:
        whole = answer[-1:] == [self._tokenizer.eos_token_id]
        lines = listed_lines(self._tokenizer.decode(answer[:-1] if whole else answer))
        for rank, line in enumerate((lines if whole else lines[:-1])[:k], 1):
            place = self._match(line, candidates)
            item_id: ItemId = f"{NOT_A_TITLE}{line}"
            title = line
            if place is not None:
                item_id, title = self._catalog[place].item_id, self._catalog[place].title
            yield Recommendation(None, item_id, rank, -float(rank), self.source, title)

    def parse_answer(self, answer: list[int], k: int) -> list[Recommendation]:
        """At most k items out of the tokens of an answer, in which any title may stand."""
        return list(self._items(answer, self._everything, k))

    def match_line(self, line: str, candidates: Iterable[int] | None = None) -> int | None:
        """The index of the item that a line names: one of those that it was to choose from, else any, else None."""
        return self._match(line, self._everything if candidates is None else self._by_key(candidates))

    def _match(self, line: str, candidates: dict[str, int]) -> int | None:
        # What the line says in whole goes before what it says without an aside, and both before what is only close.
        keys = list(dict.fromkeys(_normalized_title(piece) for piece in (line, _SEPARATOR.split(line)[0])))
        for key in keys:
            for titles in (candidates, self._everything):
                if key in titles:
                    return titles[key]
        close = [match for key in keys for match in get_close_matches(key, candidates, 1, _MIN_SIMILARITY)]
        return candidates[close[0]] if close else None

    def _by_key(self, item_indices: Iterable[int]) -> dict[str, int]:
        """Items by what their titles are compared by; of several with one title the first."""
        found: dict[str, int] = {}
        for place in item_indices:
            if key := _normalized_title(self._catalog.titles[place]):
                found.setdefault(key, place)
        return found


def listed_lines(text: str) -> list[str]:
    """What a text lists: its numbered lines where half of all are, else its dotted ones likewise, else all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in _LIST_MARKERS:
        listed = [match[1] for line in lines if (match := mark.fullmatch(line))]
        if 2 * len(listed) >= len(lines):
            lines = listed
            break
    bare = [line.strip(" \t\"'*_“”") for line in lines]
    return [line for line in bare if line]


def _normalized_title(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))
