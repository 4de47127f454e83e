"""Scripted shoppers who look for something and say what shoppers say: python -m eval.chat simulate [--turns N].

A shopper is a customer whose last basket is held back; what they look for is one thing of it, and they know what it is
called and costs. They say a word or two of its title, and then criticise what they are shown, each time in one of the
ways of `PREFERENCE_KINDS` that the thing they look for allows. After every turn it is checked, by plain Python over the rows of
the items and with nothing of genrec's filters, that what is shown is in the catalog, is allowed, is as much as can be,
is distinct, and was not shown before while something else was left; and whether the wishes are what was meant, which
says that rules read what they were made for, and nothing of real people (`python -m eval.preferences` does). Two
other ways are measured beside it: whoever only turns pages after their first words, and whoever says nothing at all.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from eval.progress import report_progress, show_progress, wide_console
from eval.shopper import (
    KINDS,
    Intent,
    ItemFacts,
    Shopper,
    Utterance,
    excluded_words,
    item_facts_of,
    lacks_text,
    satisfies_price_bound,
)
from eval.speed.report import commit, machine
from genrec import (
    Catalog,
    Interactions,
    Settings,
    open_dataset,
    open_recommender,
    read_catalog,
    read_interactions,
)
from genrec.cache import default_cache
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation
from genrec.chat.preferences import Preferences
from genrec.errors import GenrecError, InputError
from genrec.evaluation.metrics import mean_interval
from genrec.settings import LANGUAGE_MODEL

SEED = 20261122
K = 5
MAX_TURNS = 8  # turns of a conversation
STRATEGIES = ("critique", "words, then pages", "nothing said")
_PRICE = re.compile(r"price (<=|>=|<|>) (\S+)")
CONTRADICTS_INTENT = "ruled out as meant"
FAULTS = (
    "outside the catalog",
    "ruled out by the wishes",
    CONTRADICTS_INTENT,
    "repeated",
    "disliked or had",
    "too few",
    "shown before",
)


@dataclass
class StrategyResult:
    """What one way of talking came to.

    Attributes:
        turns: with a list.
        items: shown.
        faults: items, or turns of too few, by what is wrong with them.
        found_at_turn: the turn at which each shopper was shown what they look for, from 1; None where they were not.
        seconds: all together.
    """

    turns: int = 0
    items: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    found_at_turn: list[int | None] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class ParserAccuracy:
    """How often each kind of utterance was said, and read as it was meant; and what was misread."""

    total: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def main(arguments: Sequence[str] | None = None) -> None:
    """Let shoppers talk, print, write."""
    options = _parse(arguments)
    try:
        summary = simulate(options)
        if options.json:
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        _print(summary)
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    # What was misread is counted above, and may let through what was not meant; all else must not be.
    if any(
        count for way in summary["ways"].values() for name, count in way["faults"].items() if name != CONTRADICTS_INTENT
    ):
        sys.exit(1)


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    """As many turns as were asked for in each way.

    Raises:
        InputError: the data hold nobody to be asked, or no price.
    """
    begun = commit()  # of the code that runs, whatever is checked out while it does
    catalog, interactions = _open(options)
    train, held = interactions.restricted_to(catalog).leave_last_basket_out(1)
    baskets = [own for own in held if set(own.item_ids) - set(own.history.item_ids)]
    model = None if options.model == "none" else options.model
    tells: dict[str, Callable[[int, int], None]] = {}
    # The whole prior at once, since it is kept: what one run measured as it came up, the next would measure again.
    settings = Settings(model=model, compute_priors=model is not None)
    recommender = open_recommender(
        catalog,
        train,
        cache=default_cache(),
        settings=settings,
        on_progress=lambda what, done, total: tells.setdefault(what, report_progress(what))(done, total),
    )
    order = np.random.default_rng(options.seed).permutation(len(baskets))
    if not len(order):
        raise InputError("nobody has three baskets, the last with something new in it; give longer histories")
    advisor, shelf = Advisor(recommender, k=K), item_facts_of(catalog)
    scores: dict[str, StrategyResult] = {}
    reading = ParserAccuracy()
    for way in options.ways:
        score = scores[way] = StrategyResult()
        # Whoever talks in one way talks in each other too, and looks for the same.
        for number in show_progress(range(options.turns), way, options.turns):
            if score.turns > number:
                continue
            place = int(order[len(score.found_at_turn) % len(order)])
            history, items = baskets[place].history, baskets[place].item_ids
            random = np.random.default_rng([options.seed, len(score.found_at_turn)])
            wanted = sorted(set(items) - set(history.item_ids), key=str)
            shopper = Shopper(catalog, wanted[int(random.integers(len(wanted)))], random)
            start = Conversation(history.user_id, tuple(dict.fromkeys(history.item_ids)))
            run_conversation(advisor, shelf, start, shopper, way, score, reading, options.turns)
    return {
        "commit": begun,
        "machine": machine(),
        "seed": options.seed,
        "data": catalog.name,
        "items": len(catalog),
        "fingerprint": catalog.fingerprint,
        "model": options.model,
        "ways": {way: _summarize(score, options.seed) for way, score in scores.items()},
        "reading": {
            kind: {"said": reading.total[kind], "read": reading.correct[kind], "missed": reading.errors[kind][:5]}
            for kind in KINDS
            if reading.total[kind]
        },
    }


def run_conversation(
    advisor: Advisor,
    item_facts: ItemFacts,
    conversation: Conversation,
    shopper: Shopper,
    strategy: str,
    result: StrategyResult,
    accuracy: ParserAccuracy,
    max_turns: int,
) -> None:
    """One conversation, until what is looked for is shown or patience ends."""
    meant: list[Intent] = [Intent()]
    found = None
    for turn in range(1, MAX_TURNS + 1):
        if result.turns >= max_turns:
            return
        said = (
            shopper.next_utterance(conversation, meant[-1])
            if strategy == STRATEGIES[0] or (turn == 1 and strategy == STRATEGIES[1])
            else Utterance("ok")
        )
        before = conversation
        if said.removed_preference is not None:
            conversation = advisor.update_preferences(before, before.preferences.without(said.removed_preference))
        else:
            conversation = advisor.respond(before, said.text)
        if said.kind == "undo":
            meant = meant[:-1]
        elif said.kind != "question":
            meant.append(said.update_intent(meant[-1]))
        if said.kind:
            _record_utterance(accuracy, said, before.preferences, conversation.preferences)
        result.turns += 1
        # Taking back and asking leave a list that stood before; so does what was misread as either.
        if said.kind not in ("undo", "question") and len(conversation.turns) > len(before.turns):
            check_list(item_facts, before, conversation, meant[-1], result)
        result.seconds += conversation.turns[-1].recommendations.seconds if conversation.turns else 0.0
        if shopper.target in [item.item_id for item in conversation.shown]:
            found = turn
            break
    result.found_at_turn.append(found)


def check_list(
    item_facts: ItemFacts, before: Conversation, conversation: Conversation, intent: Intent, result: StrategyResult
) -> None:
    """Count what is wrong with the newest list, evaluating every limit in plain Python."""
    wishes = conversation.preferences
    shown = [item.item_id for item in conversation.shown]
    limits = [own.where for own in wishes.filters]
    had = {str(item) for item in (*conversation.history, *wishes.liked, *wishes.disliked)}
    allowed = {
        name
        for name, (title, price) in item_facts.items()
        if name not in had and all(satisfies_filter(one, title, price) for one in limits)
    }
    seen = {str(item.item_id) for turn in before.turns for item in turn.recommendations.items}
    names = list(map(str, shown))
    known = [name for name in names if name in item_facts]
    result.items += len(names)
    result.faults["outside the catalog"] += len(names) - len(known)
    result.faults["ruled out by the wishes"] += sum(
        not all(satisfies_filter(one, *item_facts[name]) for one in limits) for name in known
    )
    result.faults[CONTRADICTS_INTENT] += sum(not intent.allows(name, *item_facts[name]) for name in known)
    result.faults["repeated"] += len(names) - len(set(names))
    result.faults["disliked or had"] += sum(name in had for name in names)
    result.faults["too few"] += len(names) != min(K, len(allowed))
    again = sum(name in seen for name in names)
    left = min(K, len(allowed - seen)) - (len(names) - again)
    result.faults["shown before"] += min(again, max(0, left))


def satisfies_filter(where: str, title: str, price: float | None) -> bool:
    """Whether an item is as a limit of a conversation says; a text that is no such limit is an error of this check.

    Raises:
        InputError: it cannot be read.
    """
    if found := _PRICE.fullmatch(where):
        return satisfies_price_bound(price, found[1], float(found[2]))
    if words := excluded_words(where):
        return all(lacks_text(title, word) for word in words)
    raise InputError(f"the limit {where!r} is none that shoppers know; teach `obeys` to read it")


def _record_utterance(accuracy: ParserAccuracy, utterance: Utterance, before: Preferences, after: Preferences) -> None:
    accuracy.total[utterance.kind] += 1
    if utterance.is_understood(before, after):
        accuracy.correct[utterance.kind] += 1
    else:
        accuracy.errors[utterance.kind].append(f"{utterance.text!r}: {before.labels} -> {after.labels}")


def _summarize(result: StrategyResult, seed: int) -> dict[str, Any]:
    """Counts as they are, and shares of shoppers who were shown what they look for by each turn, times 100."""
    by_turn = {}
    for turn in range(1, MAX_TURNS + 1):
        hits = [100.0 * (own is not None and own <= turn) for own in result.found_at_turn]
        by_turn[str(turn)] = asdict(mean_interval(hits or [0.0], seed=seed))
    return {
        "turns": result.turns,
        "items": result.items,
        "shoppers": len(result.found_at_turn),
        "faults": {name: int(result.faults[name]) for name in FAULTS},
        "found": by_turn,
        "seconds a turn": result.seconds / max(result.turns, 1),
    }


def _open(options: argparse.Namespace) -> tuple[Catalog, Interactions]:
    if (options.items is None) != (options.interactions is None):
        raise InputError("--items and --interactions go together; give both, or none for the embedded shop")
    if options.items is None:
        return open_dataset("online-retail", default_cache())
    return read_catalog(options.items), read_interactions(options.interactions)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.chat simulate", description=__doc__)
    parser.add_argument("--turns", type=int, default=2000, metavar="N", help="of each way of talking")
    parser.add_argument("--model", default=LANGUAGE_MODEL, help="the language model that ranks, or none")
    parser.add_argument("--ways", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="these ways of talking only")
    parser.add_argument("--items", type=Path, metavar="FILE", help="another catalog, with a column price")
    parser.add_argument("--interactions", type=Path, metavar="FILE", help="what people took of it")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="of shoppers and what they say")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args(arguments)
    if options.turns < 1:
        parser.error(f"--turns is {options.turns}; simulate 1 or more")
    if options.json and (options.json.is_dir() or not os.access(options.json.parent, os.W_OK)):
        parser.error(f"--json {options.json} cannot be written; name a file that can")
    return options


def _print(summary: Mapping[str, Any]) -> None:
    console = wide_console()
    table = Table(title=f"{summary['data']}, {summary['items']:,} items, model {summary['model']}")
    for column in ("way", "turns", "items", "shoppers", *(f"found by {turn}" for turn in (1, 2, 4, MAX_TURNS)), "ms"):
        table.add_column(column)
    for column in FAULTS:
        table.add_column(column, justify="right")
    for way, own in summary["ways"].items():
        shares = [own["found"][str(turn)] for turn in (1, 2, 4, MAX_TURNS)]
        table.add_row(
            way,
            *(f"{own[name]:,}" for name in ("turns", "items", "shoppers")),
            *(f"{one['value']:.1f} [{one['low']:.1f}, {one['high']:.1f}]" for one in shares),
            f"{1000 * own['seconds a turn']:.0f}",
            *(str(own["faults"][name]) for name in FAULTS),
        )
    console.print(table)
    spoken = Table(title="what was read as it was meant")
    for column in ("kind", "said", "read as meant", "%"):
        spoken.add_column(column)
    for kind, own in summary["reading"].items():
        spoken.add_row(kind, str(own["said"]), str(own["read"]), f"{100 * own['read'] / own['said']:.1f}")
    console.print(spoken)
