"""Real dialogues about films, with the items that are relevant at each turn.

The protocol is that of He et al., "Large Language Models as Zero-Shot Conversational Recommenders", CIKM 2023, section
3: the items that a turn recommends are relevant, except those that are not in the catalog and those mentioned before,
which may not be recommended either. Each relevant item is one example.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec import Catalog, History, Interactions, Item, read_interactions
from genrec.errors import InputError
from genrec.types import FloatArray, ItemId

MAX_CONTEXT_CHARS = 400  # characters at the end of a dialogue that form the query
MAX_CAST = 3  # values per attribute in the description of a film
_YEAR = re.compile(r"\((\d{4})\)")
_KINDS = ("genre", "director", "star", "actor")


@dataclass(frozen=True)
class Turn:
    """A turn of a dialogue that recommends something.

    Attributes:
        dialogue: the id of the dialogue.
        history: items whose titles were mentioned before, oldest first.
        mentioned: items that may not be recommended: the history and other items that annotators marked as mentioned.
        query: the last utterances before the turn.
        targets: relevant items; may be empty.
    """

    dialogue: str
    history: tuple[ItemId, ...]
    mentioned: frozenset[ItemId]
    query: str
    targets: tuple[ItemId, ...]

    @property
    def user(self) -> History:
        """The user for whom a ranker is asked."""
        return History(self.history, self.query)


@dataclass(frozen=True)
class Dialogues:
    """A data set.

    Attributes:
        name: such as `redial`.
        catalog: films; of equal titles the first one.
        test_turns: the turns that are evaluated, each with a relevant item.
        train_turns: turns of other dialogues, for training; empty for `redial`.
        digest: SHA-256 of the files.
    """

    name: str
    catalog: Catalog
    test_turns: tuple[Turn, ...]
    train_turns: tuple[Turn, ...]
    digest: str

    @property
    def descriptions(self) -> list[str]:
        """Title, genres, director and cast of each film, as one text."""
        return [_describe(item) for item in self.catalog]


def read_dialogues(folder: Path, name: str) -> Dialogues:
    """Read `NAME_items.parquet`, `NAME_valid.parquet` and, if it exists, `NAME_train.parquet`.

    Raises:
        InputError: a file is missing, or no turn has a relevant item.
    """
    paths = [folder / f"{name}_{part}.parquet" for part in ("items", "valid", "train")]
    for path in paths[:2]:
        if not path.is_file():
            raise InputError(f"{path} is missing; point --data to the folder of the dialogues")
    digest = sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()
    catalog = _catalog(pq.read_table(paths[0]).to_pylist(), name)
    asked = [turn for turn in _turns(paths[1], catalog) if turn.targets]
    if not asked:
        raise InputError(f"{paths[1]} holds no turn that recommends an item of the catalog; use other dialogues")
    others = list(_turns(paths[2], catalog)) if paths[2].is_file() else []
    return Dialogues(name, catalog, tuple(asked), tuple(others), digest)


def interactions_of(turns: Iterable[Turn]) -> Interactions | None:
    """Mentioned and recommended items, each dialogue as the history of one user; None if there are none."""
    items: dict[str, dict[ItemId, None]] = defaultdict(dict)
    for turn in turns:
        items[turn.dialogue].update(dict.fromkeys((*turn.history, *turn.targets)))
    rows = [(name, item, place) for name, own in items.items() for place, item in enumerate(own)]
    if not rows:
        return None
    users, ids, places = zip(*rows, strict=True)
    return read_interactions(
        pa.table({"user_id": list(users), "item_id": list(ids), "timestamp": pa.array(places, pa.int64())})
    )


def folds(turns: Sequence[Turn], count: int, seed: int) -> list[tuple[list[Turn], list[Turn]]]:
    """Split turns into folds by dialogue; the turns inside and outside of each fold."""
    names = list(dict.fromkeys(turn.dialogue for turn in turns))
    order = np.random.default_rng(seed).permutation(len(names))
    own = {names[place]: number % count for number, place in enumerate(order)}
    return [
        (
            [turn for turn in turns if own[turn.dialogue] == fold],
            [turn for turn in turns if own[turn.dialogue] != fold],
        )
        for fold in range(count)
    ]


def recall(turns: Sequence[Turn], lists: Sequence[Sequence[ItemId]], k: int) -> tuple[FloatArray, FloatArray]:
    """The number of relevant items among the first k, and of all relevant items, per turn: float64 [T] each."""
    found = [len(set(map(str, turn.targets)) & set(map(str, own[:k]))) for turn, own in zip(turns, lists, strict=True)]
    return np.array(found, dtype=np.float64), np.array([len(turn.targets) for turn in turns], dtype=np.float64)


def _catalog(rows: Iterable[Mapping[str, str]], name: str) -> Catalog:
    found: dict[str, Item] = {}
    for row in rows:
        attributes = json.loads(row["attributes"])
        found.setdefault(
            row["title"], Item(row["item_id"], row["title"], {kind: attributes.get(kind) for kind in _KINDS})
        )
    return Catalog.from_items(found.values(), name=name)


def _turns(path: Path, catalog: Catalog) -> Iterator[Turn]:
    by_title = dict(zip(catalog.titles, catalog.item_ids, strict=True))
    by_year: dict[str, list[str]] = defaultdict(list)
    for title in by_title:
        for year in _YEAR.findall(title)[-1:]:
            by_year[year].append(title)
    for row in pq.read_table(path).to_pylist():
        context = [utterance.strip() for utterance in row["context"] if utterance.strip()]
        text = "\n".join(context)
        # A title with its year is unambiguous; without a year it counts only if an annotator marked it.
        written = [title for year in sorted(set(_YEAR.findall(text))) for title in by_year[year] if title in text]
        mentioned = list(dict.fromkeys(title for title in (*row["entities"], *written) if title in by_title))
        relevant = dict.fromkeys(title for title in row["recommended"] if title in by_title and title not in mentioned)
        folded = text.casefold()
        yield Turn(
            f"{path.stem} {row['dialog_id']}",
            tuple(by_title[title] for title in mentioned if title.casefold() in folded),
            frozenset(by_title[title] for title in mentioned),
            _truncate_context(context),
            tuple(by_title[title] for title in relevant),
        )


def _truncate_context(context: Sequence[str]) -> str:
    """The last utterances that fit into `MAX_CONTEXT_CHARS`; of a longer one its end."""
    kept: list[str] = []
    for utterance in reversed(context):
        if kept and sum(map(len, kept)) + len(utterance) > MAX_CONTEXT_CHARS:
            break
        kept.append(utterance[-MAX_CONTEXT_CHARS:])
    return "\n".join(reversed(kept))


def _describe(item: Item) -> str:
    parts = [item.title]
    for kind in _KINDS:
        values = item.attributes.get(kind)
        if isinstance(values, str):
            parts.append(values)
        elif isinstance(values, Sequence):
            parts.append(", ".join(dict.fromkeys(map(str, values[:MAX_CAST]))))
    return ". ".join(parts)
