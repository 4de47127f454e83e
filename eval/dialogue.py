"""Real dialogues about films, and what would have been right at each of their turns.

The protocol is that of He et al., "Large Language Models as Zero-Shot Conversational Recommenders", CIKM 2023, section
3: what is recommended in a turn is true; what was mentioned before is neither true nor may it be recommended; what the
catalog lacks is not true; each true item that remains is one example.
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

MAX_CONTEXT_CHARS = 400  # characters of a dialogue's end that are read
MAX_CAST = 3  # actors and genres that describe a film
_YEAR = re.compile(r"\((\d{4})\)")
_KINDS = ("genre", "director", "star", "actor")


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue in which something is recommended.

    Attributes:
        dialogue: whose turn it is.
        history: items that were mentioned before, in words that stand there, oldest first.
        mentioned: all that may not be recommended: the history, and what only an annotator found.
        query: the newest utterances before it.
        targets: items that are recommended and were not mentioned; may be empty.
    """

    dialogue: str
    history: tuple[ItemId, ...]
    mentioned: frozenset[ItemId]
    query: str
    targets: tuple[ItemId, ...]

    @property
    def user(self) -> History:
        """Who is asked for."""
        return History(self.history, self.query)


@dataclass(frozen=True)
class Dialogues:
    """A data set.

    Attributes:
        name: such as `redial`.
        catalog: films; of those that are called alike the first one.
        test_turns: turns that are measured, with a truth each.
        train_turns: turns of other dialogues, which may be counted and learned from; none in `redial`.
        digest: SHA-256 of the files.
    """

    name: str
    catalog: Catalog
    test_turns: tuple[Turn, ...]
    train_turns: tuple[Turn, ...]
    digest: str

    @property
    def descriptions(self) -> list[str]:
        """Of each film its title, genres, director and cast, as one text."""
        return [_describe(item) for item in self.catalog]


def read_dialogues(folder: Path, name: str) -> Dialogues:
    """`NAME_items.parquet`, `NAME_valid.parquet` and, where there is one, `NAME_train.parquet`.

    Raises:
        InputError: a file is missing, or no turn has anything to be found.
    """
    paths = [folder / f"{name}_{part}.parquet" for part in ("items", "valid", "train")]
    for path in paths[:2]:
        if not path.is_file():
            raise InputError(f"{path} is missing; point --data to the folder that holds the dialogues")
    digest = sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()
    catalog = _catalog(pq.read_table(paths[0]).to_pylist(), name)
    asked = [turn for turn in _turns(paths[1], catalog) if turn.targets]
    if not asked:
        raise InputError(f"{paths[1]} holds no turn that recommends an item of the catalog; give it others")
    others = list(_turns(paths[2], catalog)) if paths[2].is_file() else []
    return Dialogues(name, catalog, tuple(asked), tuple(others), digest)


def interactions_of(turns: Iterable[Turn]) -> Interactions | None:
    """What was mentioned and recommended, each dialogue a person's history; None where nothing was."""
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
    """Turns inside and outside of each fold; a dialogue's turns are in one fold together."""
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
    """How many true items are among the first k, and how many there are, of each turn: float64 [T] each."""
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
        context = [said.strip() for said in row["context"] if said.strip()]
        text = "\n".join(context)
        # A title with its year is one wherever it stands; others are words like others, and need an annotator.
        written = [title for year in sorted(set(_YEAR.findall(text))) for title in by_year[year] if title in text]
        mentioned = list(dict.fromkeys(title for title in (*row["entities"], *written) if title in by_title))
        truth = dict.fromkeys(title for title in row["recommended"] if title in by_title and title not in mentioned)
        said = text.casefold()
        yield Turn(
            f"{path.stem} {row['dialog_id']}",
            tuple(by_title[title] for title in mentioned if title.casefold() in said),
            frozenset(by_title[title] for title in mentioned),
            _truncate_context(context),
            tuple(by_title[title] for title in truth),
        )


def _truncate_context(context: Sequence[str]) -> str:
    """The newest utterances that fit into WORDS characters, and of a longer last one its end."""
    kept: list[str] = []
    for said in reversed(context):
        if kept and sum(map(len, kept)) + len(said) > MAX_CONTEXT_CHARS:
            break
        kept.append(said[-MAX_CONTEXT_CHARS:])
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
