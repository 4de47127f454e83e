"""Accuracy of preference parsers on labelled utterances: the lexical rules, the language model, and both.

    python -m eval.preferences [--out FILE]

Three data sets, of which only the last is held out:

- `preferences.jsonl`, 90 utterances written and labelled by the author of the rules. Development data: every second
  one, from the first, was used while the rules were written ("seen"), the others when they were revised ("read").
- `preferences_blind.jsonl`, 60 utterances by a writer who had not seen the rules. They were measured once on the rules
  of that time (`FIRST_HELD_OUT_RESULT`); then the rules were revised on them, so they are development data now.
- `preferences_blind_again.jsonl`, 60 utterances by another writer who had not seen the rules, after that revision. No
  rule was changed for them, so this is the figure to trust.

An utterance counts as right if all of its preferences are: liked and disliked items, the search phrase up to
punctuation, and the items that the filters exclude from a probe catalog. A filter that excludes only the singular or
only the plural of a word is wrong.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from genrec import Catalog, Item, Recommendation, RecommendationList
from genrec.cache import default_cache
from genrec.chat import Conversation, LexicalParser, ModelParser, PreferenceFilter, PreferenceParser, Preferences, Turn
from genrec.deadline import Deadline
from genrec.decoding import GrammarCompiler
from genrec.loading import load_backend
from genrec.settings import LANGUAGE_MODEL

DATA_DIR = Path(__file__).parent
LABELLED = DATA_DIR / "preferences.jsonl"
HELD_OUT = DATA_DIR / "preferences_blind.jsonl"
SECOND_HELD_OUT = DATA_DIR / "preferences_blind_again.jsonl"
# The rules before they were revised on these utterances; Wilson's interval.
FIRST_HELD_OUT_RESULT = {"utterances": 60, "right": 36, "low": 0.474, "high": 0.714, "wrongly bound": 9}
SHOWN_ITEMS = (
    ("Red Retrospot Mug", 2.10),
    ("Pink Fairy Cake Tin", 4.95),
    ("Vintage Wooden Clock", 8.50),
    ("Blue Polkadot Umbrella", 6.75),
    ("Scented Vanilla Candle", 1.25),
)


def example_conversation() -> tuple[Catalog, Conversation]:
    """A catalog of five items, and a conversation in which all of them were recommended."""
    catalog = Catalog.from_items(
        Item(number, title, {"price": price}) for number, (title, price) in enumerate(SHOWN_ITEMS, 1)
    )
    items = tuple(Recommendation(None, item.item_id, rank, 0.0, "", item.title) for rank, item in enumerate(catalog, 1))
    turn = Turn("", Preferences(), RecommendationList(items, proven=False, compared=0), "")
    return catalog, Conversation(turns=(turn,))


@cache
def probe_items() -> Catalog:
    """Items that tell filters apart: every word of the labels and utterances in singular and plural, and many prices.

    Prices are 5 cents apart and never round: whether "under 5" includes 5.00 is left open. The shown items are in.
    """
    rows = [*read_labelled(LABELLED), *read_labelled(HELD_OUT), *read_labelled(SECOND_HELD_OUT)]
    written = {
        word for row in rows for word in re.findall(r"[^\W\d_]{3,}", f"{row['said']} {row['limits']}".casefold())
    }
    words = written | {word + "s" for word in written} | {word.removesuffix("s") for word in written}
    titles = [*(title for title, _ in SHOWN_ITEMS), *sorted(words)]
    prices = [*(price for _, price in SHOWN_ITEMS), *(0.01 + 0.05 * step for step in range(600))]
    items = [(title, 3.33) for title in titles] + [("Thing", round(price, 2)) for price in prices]
    return Catalog.from_items(Item(number, title, {"price": price}) for number, (title, price) in enumerate(items))


def read_labelled(path: Path) -> list[dict[str, Any]]:
    """Read labelled utterances from JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected_preferences(row: Mapping[str, Any]) -> Preferences:
    """The preferences of a labelled utterance; an excluded word is excluded in singular and plural."""
    filters: list[PreferenceFilter] = []
    if limit := row["limits"].casefold():
        singular = limit.removesuffix("s")
        plural = singular[:-1] + "ies" if singular.endswith("y") else singular + "s"
        exclusion = f"{singular!r} not in words(title) and {plural!r} not in words(title)"
        filters = [PreferenceFilter.from_condition(limit, limit if limit.startswith("price ") else exclusion)]
    words = (row["words"],) if row["words"] else ()
    return Preferences(tuple(row["likes"]), tuple(row["dislikes"]), words, tuple(filters))


def normalized(preferences: Preferences) -> tuple[set[Any], set[Any], list[str], frozenset[int]]:
    """Preferences in comparable form: liked items, disliked items, words, and the probe items that filters exclude."""
    words = re.findall(r"\w+", " ".join(preferences.words).casefold())
    excluded = [np.flatnonzero(~probe_items().where(own.where)).tolist() for own in preferences.filters]
    return (
        set(preferences.liked),
        set(preferences.disliked),
        words,
        frozenset(item_index for item_indices in excluded for item_index in item_indices),
    )


def is_wrongly_constrained(found: Preferences, label: Preferences) -> bool:
    """Whether preferences judge or exclude items that the utterance did not mention."""
    (liked, disliked, _, excluded), (likes, dislikes, _, expected) = normalized(found), normalized(label)
    return bool(liked - likes or disliked - dislikes or excluded - expected)


class _AbstainingParser(LexicalParser):
    """Recognises nothing, so that the model parses every clause."""

    def parse(self, message: str, conversation: Conversation) -> tuple[Preferences, list[str]]:
        """See `LexicalParser.parse`."""
        return conversation.preferences, [message]


def parsers() -> dict[str, PreferenceParser]:
    """The parsers that are compared, by name."""
    catalog, _ = example_conversation()
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    compiler, rules = GrammarCompiler(tokenizer), LexicalParser(catalog)
    return {
        "rules": rules,
        "model": ModelParser(backend, tokenizer, compiler, _AbstainingParser(catalog)),
        "rules, then model": ModelParser(backend, tokenizer, compiler, rules),
    }


def measure(parse: PreferenceParser, *, verbose: bool = False) -> dict[str, Any]:
    """Count the utterances of each data set that a parser gets right, and those in which it constrains wrongly."""
    _, conversation = example_conversation()
    known = read_labelled(LABELLED)
    parts = {"seen": known[::2], "read": known[1::2], "once blind": read_labelled(HELD_OUT)}
    parts["blind again"] = read_labelled(SECOND_HELD_OUT)
    counts: dict[str, Any] = {}
    for name, rows in parts.items():
        right = bound = 0
        for row in rows:
            found, label = parse(row["said"], conversation, Deadline.never()), expected_preferences(row)
            right += normalized(found) == normalized(label)
            bound += is_wrongly_constrained(found, label)
            if verbose and normalized(found) != normalized(label):
                sys.stderr.write(f"{name}: {row['said']!r}: {found.labels}\n")
        counts[name] = {"utterances": len(rows), "right": right, "wrongly bound": bound}
    return counts


def main() -> None:
    """Measure every parser and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the counts to this file, as JSON")
    parser.add_argument("--tell", action="store_true", help="show the utterances that are parsed wrongly")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rules, blind, before they were revised": FIRST_HELD_OUT_RESULT}
    sys.stdout.write(f"rules, blind, before they were revised: {FIRST_HELD_OUT_RESULT}\n")
    for name, parse in parsers().items():
        figures[name] = measure(parse, verbose=options.tell)
        sys.stdout.write(f"{name}: {figures[name]}\n")
        sys.stdout.flush()
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
