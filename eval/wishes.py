"""How often wishes are read as a person would read them: by the rules, by the model, and by both.

    python -m eval.wishes [--out FILE]

The utterances of `wishes.jsonl` were written and labelled by hand. Every second one, from the first, was looked at
while the rules' successor and its prompt were written; the others were not, and are the figures to believe. An
utterance counts where everything that is wished is what was labelled: items liked and disliked, what is ruled out, and
what is looked for, up to punctuation.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from genrec import Catalog, Item, Recommendation, RecommendationList
from genrec.advisor import Read
from genrec.assembly import LANGUAGE_MODEL, default_cache, load_backend
from genrec.conversation import Conversation, Limit, Turn, Wishes
from genrec.critique import CritiqueReader, lacking
from genrec.json_constraint import JsonGrammar
from genrec.wish_reader import ModelReader, Way

LABELLED = Path(__file__).parent / "wishes.jsonl"
SHOWN = (
    ("Red Retrospot Mug", 2.10),
    ("Pink Fairy Cake Tin", 4.95),
    ("Vintage Wooden Clock", 8.50),
    ("Blue Polkadot Umbrella", 6.75),
    ("Scented Vanilla Candle", 1.25),
)


def shown() -> tuple[Catalog, Conversation]:
    """A catalog of five things, and a conversation in which they were recommended."""
    catalog = Catalog.from_items(
        Item(number, title, {"price": price}) for number, (title, price) in enumerate(SHOWN, 1)
    )
    items = tuple(Recommendation(None, item.item_id, rank, 0.0, "", item.title) for rank, item in enumerate(catalog, 1))
    turn = Turn("", Wishes(), RecommendationList(items, proven=False, compared=0), "")
    return catalog, Conversation(turns=(turn,))


def expected(row: Mapping[str, Any]) -> Wishes:
    """The wishes of a labelled utterance."""
    limits = []
    if said := row["limits"]:
        limits = [Limit("price", said) if said.startswith("price ") else lacking(said.casefold())]
    words = (row["words"],) if row["words"] else ()
    return Wishes(tuple(row["likes"]), tuple(row["dislikes"]), words, tuple(limits))


def plain(wishes: Wishes) -> tuple[Any, ...]:
    """Wishes as they are compared."""
    words = re.findall(r"\w+", " ".join(wishes.words).casefold())
    limits = {re.sub(r"s(?=' not in title)", "", own.where) for own in wishes.limits}  # one mug or many
    return set(wishes.liked), set(wishes.disliked), words, limits


def wrongly_bound(found: Wishes, label: Wishes) -> bool:
    """Whether something is ruled out or judged that nobody spoke of: worse than words that are only looked for."""
    one, other = plain(found), plain(label)
    return any(bool(set(mine) - set(theirs)) for mine, theirs in ((one[place], other[place]) for place in (0, 1, 3)))


class _NoRules(CritiqueReader):
    """Leaves everything to the model."""

    def read(self, said: str, conversation: Conversation) -> tuple[Wishes, list[str]]:
        return conversation.wishes, [said]


def readers(ways: Sequence[Way]) -> dict[str, Read]:
    """What is compared."""
    catalog, _ = shown()
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    grammar, rules = JsonGrammar(tokenizer), CritiqueReader(catalog)
    found: dict[str, Read] = {"rules": rules}
    for way in ways:
        found[f"model, {way}"] = ModelReader(backend, tokenizer, grammar, _NoRules(catalog), way)
        found[f"rules, then model, {way}"] = ModelReader(backend, tokenizer, grammar, rules, way)
    return found


def measure(read: Callable[[str, Conversation], Wishes], *, tell: bool = False) -> dict[str, Any]:
    """How a reader does on both halves."""
    _, conversation = shown()
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    counts: dict[str, Any] = {}
    for half, name in enumerate(("seen", "unseen")):
        right = bound = 0
        part = rows[half::2]
        for row in part:
            found, label = read(row["said"], conversation), expected(row)
            right += plain(found) == plain(label)
            bound += wrongly_bound(found, label)
            if tell and plain(found) != plain(label):
                sys.stderr.write(f"{name}: {row['said']!r}: {found.chips}\n")
        counts[name] = {"utterances": len(part), "right": right, "wrongly bound": bound}
    return counts


def main() -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--way", choices=get_args(Way), action="append", help="how the model reads; both by default")
    parser.add_argument("--tell", action="store_true", help="show what was read wrongly")
    chosen = parser.parse_args()
    figures = {}
    for name, read in readers(chosen.way or get_args(Way)).items():
        figures[name] = measure(read, tell=chosen.tell)
        sys.stdout.write(f"{name}: {figures[name]}\n")
        sys.stdout.flush()
    if chosen.out:
        chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
