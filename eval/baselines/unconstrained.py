"""An unconstrained language model that is prompted for a list; its lines are matched to titles afterwards.

Source: Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems", ECIR 2024, section 2.1, who
parse rankings from text in the same way. A line matches a title that is equal except for case and punctuation, or
nearly equal.
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

from genrec.backends import default_device, load_pretrained, native_dtype
from genrec.data import Catalog
from genrec.errors import InputError, check_count
from genrec.prompting import HuggingFaceTokenizer, Renderer, Template
from genrec.types import History, IntArray, ItemId, Recommendation, RecommendationList

NOT_A_TITLE = "text: "  # prefix of the item id of a line that matches no title
_MIN_SIMILARITY = 0.8  # ratio of `difflib`; allows a different letter or word
_EXTRA_TOKENS_PER_LINE = 6  # tokens of a line besides its title: number, punctuation, line break
_LIST_MARKERS = (re.compile(r"\d+\s*[.)]\s*(.+)"), re.compile(r"[-*•]\s*(.+)"))
_SEPARATOR = re.compile(r"\s[-\u2013\u2014]\s|:\s")  # separates a title from a comment of the model


class UnconstrainedLlm:
    """Answers like `Recommender.recommend`, but with the raw lines of the model: fewer, unknown or repeated items.

    Decoding is greedy. Lists are neither filled nor filtered; a line that matches no title becomes an item with the id
    `text: ...`, which is in no catalog. An answer may have as many tokens as k long titles of the catalog (95th
    percentile); a line that is cut off by the limit does not count.

    Args:
        catalog: the catalog of the titles.
        model: a directory of weights and their tokenizer.
        template: a template of `history` and `candidates` that asks for a list.
        max_history: maximum number of history items in the prompt.
    """

    source = "unconstrained"

    def __init__(self, catalog: Catalog, model: Path, template: Template, *, max_history: int = 12) -> None:
        loaded = load_pretrained(AutoModelForCausalLM, model, dtype=native_dtype(default_device()))
        self._model = loaded.to(default_device()).eval()
        self._catalog, self._tokenizer = catalog, HuggingFaceTokenizer.from_directory(model)
        room = int(self._model.config.max_position_embeddings) // 2  # the other half is reserved for the answer
        self._renderer = Renderer(catalog, self._tokenizer, template, room, max_history)
        lengths = [len(self._tokenizer.encode_text(title)) for title in catalog.titles]
        self._line = int(np.percentile(lengths, 95)) + _EXTRA_TOKENS_PER_LINE
        self._everything = self._by_key(range(len(catalog)))

    def recommend(
        self, users: Any, k: int = 10, *, filter_seen: bool = True, only: Iterable[ItemId] | None = None
    ) -> Any:
        """At most k items for one history, or for each of several; `filter_seen` is ignored.

        Raises:
            InputError: k is below 1, or `only` is empty or contains an unknown item.
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
                raise InputError(f"only holds {unknown[:1] or 'nothing'}; give items of the catalog, or omit it")
            near = self._by_key(candidates.tolist())
        prompts = [self._render(user, candidates) for user in users]
        written = self._generate(prompts, k)
        seconds = (time.perf_counter() - start) / len(prompts)
        return [
            RecommendationList(
                tuple(replace(item, user_id=user.user_id) for item in self._items(answer, near, k)),
                proven=False,
                compared=0,
                seconds=seconds,
                tokens=len(prompt) + len(answer),
            )
            for user, prompt, answer in zip(users, prompts, written, strict=True)
        ]

    def _render(self, user: History, candidates: IntArray) -> IntArray:
        places = self._catalog.item_ids.positions(list(user.item_ids))
        return self._renderer.render(places[places >= 0], user.words, candidates).token_ids

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[IntArray], k: int) -> list[list[int]]:
        """The tokens of each answer, including the end token if it was generated."""
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
        """At most k items parsed from the tokens of an answer; any title of the catalog may match."""
        return list(self._items(answer, self._everything, k))

    def match_line(self, line: str, candidates: Iterable[int] | None = None) -> int | None:
        """The index of the item that a line names: a candidate if possible, else any item, else None."""
        return self._match(line, self._everything if candidates is None else self._by_key(candidates))

    def _match(self, line: str, candidates: dict[str, int]) -> int | None:
        # Exact matches of the whole line first, then of the line without its comment, then similar titles.
        keys = list(dict.fromkeys(_normalized_title(piece) for piece in (line, _SEPARATOR.split(line)[0])))
        for key in keys:
            for titles in (candidates, self._everything):
                if key in titles:
                    return titles[key]
        close = [match for key in keys for match in get_close_matches(key, candidates, 1, _MIN_SIMILARITY)]
        return candidates[close[0]] if close else None

    def _by_key(self, item_indices: Iterable[int]) -> dict[str, int]:
        """Items by normalized title; the first of several with the same title."""
        found: dict[str, int] = {}
        for place in item_indices:
            if key := _normalized_title(self._catalog.titles[place]):
                found.setdefault(key, place)
        return found


def listed_lines(text: str) -> list[str]:
    """The items of a list: numbered lines if they are at least half, else bulleted lines likewise, else all lines."""
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
