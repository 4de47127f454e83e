"""Conversations with scripted shoppers: python -m eval.chat simulate [--turns N].

A shopper is a customer whose last basket is held out. The target is one item of it, whose title and price the shopper
knows. The first message is a word or two of the title; the next ones criticise the list in one of the kinds of
`eval.shopper.KINDS` that the target allows. After every turn the list is checked in plain Python over the rows of the
catalog, without genrec's filters: every item is in the catalog, allowed, distinct, and new while new ones are left, and
the list is as long as possible. It is also counted whether the preferences match the shopper's intent; that says that
the rules parse what they were written for, and nothing about real users (`python -m eval.preferences` does). Two other
strategies are measured for comparison: paging through lists after the first message, and saying nothing at all.
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

from eval.intent import Intent, ItemFacts, excluded_words, item_facts_of, lacks_text, satisfies_price_bound
from eval.progress import report_progress, show_progress, wide_console
from eval.shopper import KINDS, Shopper, Utterance
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
from genrec.chat import Advisor, Conversation, Preferences
from genrec.errors import GenrecError, InputError
from genrec.evaluation import mean_interval
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
    """The result of one strategy.

    Attributes:
        turns: turns with a list.
        items: recommended items.
        faults: faulty items by fault, and turns with too few items.
        found_at_turn: for each shopper the turn, from 1, at which the target was recommended; None if it was not.
        seconds: total time of ranking.
    """

    turns: int = 0
    items: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    found_at_turn: list[int | None] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class ParserAccuracy:
    """How many utterances of each kind there were and how many were understood, with those that were not."""

    total: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Simulation:
    """The setting of conversations, and the counts that they add to.

    Attributes:
        advisor: replies to the shoppers.
        item_facts: the items of its catalog.
        strategy: one of `STRATEGIES`.
        max_turns: turns of all conversations together.
        result: counts of the strategy.
        accuracy: counts of the utterances.
    """

    advisor: Advisor
    item_facts: ItemFacts
    strategy: str
    max_turns: int
    result: StrategyResult
    accuracy: ParserAccuracy


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print a table, write JSON."""
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
    # A misunderstood message may let through items that it meant to exclude; any other fault is an error.
    if any(
        count for way in summary["ways"].values() for name, count in way["faults"].items() if name != CONTRADICTS_INTENT
    ):
        sys.exit(1)


def simulate(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate the given number of turns of each strategy.

    Raises:
        InputError: no user has enough baskets.
    """
    begun = commit()  # the code that runs, even if another commit is checked out meanwhile
    catalog, interactions = _open(options)
    train, held = interactions.restricted_to(catalog).leave_last_basket_out(1)
    baskets = [own for own in held if set(own.item_ids) - set(own.history.item_ids)]
    model = None if options.model == "none" else options.model
    tells: dict[str, Callable[[int, int], None]] = {}
    # Compute and save the whole prior at once; otherwise every run would compute parts of it on demand.
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
        raise InputError("no user has three baskets with a new item in the last one; give longer histories")
    advisor, item_facts = Advisor(recommender, k=K), item_facts_of(catalog)
    results: dict[str, StrategyResult] = {}
    accuracy = ParserAccuracy()
    for strategy in options.ways:
        result = results[strategy] = StrategyResult()
        simulation = Simulation(advisor, item_facts, strategy, options.turns, result, accuracy)
        # Every strategy meets the same shoppers with the same targets.
        for number in show_progress(range(options.turns), strategy, options.turns):
            if result.turns > number:
                continue
            basket = baskets[int(order[len(result.found_at_turn) % len(order)])]
            history, items = basket.history, basket.item_ids
            rng = np.random.default_rng([options.seed, len(result.found_at_turn)])
            new_items = sorted(set(items) - set(history.item_ids), key=str)
            shopper = Shopper(catalog, new_items[int(rng.integers(len(new_items)))], rng)
            start = Conversation(history.user_id, tuple(dict.fromkeys(history.item_ids)))
            run_conversation(simulation, start, shopper)
    return {
        "commit": begun,
        "machine": machine(),
        "seed": options.seed,
        "data": catalog.name,
        "items": len(catalog),
        "fingerprint": catalog.fingerprint,
        "model": options.model,
        "ways": {strategy: _summarize(result, options.seed) for strategy, result in results.items()},
        "reading": {
            kind: {"said": accuracy.total[kind], "read": accuracy.correct[kind], "missed": accuracy.errors[kind][:5]}
            for kind in KINDS
            if accuracy.total[kind]
        },
    }


def run_conversation(simulation: Simulation, conversation: Conversation, shopper: Shopper) -> None:
    """Run one conversation, until the target is recommended or the turns are used up."""
    advisor, result = simulation.advisor, simulation.result
    intents: list[Intent] = [Intent()]
    found = None
    for turn in range(1, MAX_TURNS + 1):
        if result.turns >= simulation.max_turns:
            return
        utterance = (
            shopper.next_utterance(conversation, intents[-1])
            if simulation.strategy == STRATEGIES[0] or (turn == 1 and simulation.strategy == STRATEGIES[1])
            else Utterance("ok")
        )
        before = conversation
        if utterance.removed_preference is not None:
            conversation = advisor.update_preferences(before, before.preferences.without(utterance.removed_preference))
        else:
            conversation = advisor.respond(before, utterance.text)
        if utterance.kind == "undo":
            intents = intents[:-1]
        elif utterance.kind != "question":
            intents.append(utterance.update_intent(intents[-1]))
        if utterance.kind:
            _record_utterance(simulation.accuracy, utterance, before.preferences, conversation.preferences)
        result.turns += 1
        # After an undo or a question the list is an earlier one; the same if a message was misread as either.
        if utterance.kind not in ("undo", "question") and len(conversation.turns) > len(before.turns):
            check_list(simulation.item_facts, before, conversation, intents[-1], result)
        result.seconds += conversation.turns[-1].recommendations.seconds if conversation.turns else 0.0
        if shopper.target in [item.item_id for item in conversation.shown]:
            found = turn
            break
    result.found_at_turn.append(found)


def check_list(
    item_facts: ItemFacts, before: Conversation, conversation: Conversation, intent: Intent, result: StrategyResult
) -> None:
    """Count the faults of the last list, evaluating every filter in plain Python."""
    preferences = conversation.preferences
    shown = [item.item_id for item in conversation.shown]
    filters = [own.where for own in preferences.filters]
    had = {str(item) for item in (*conversation.history, *preferences.liked, *preferences.disliked)}
    allowed = {
        name
        for name, (title, price) in item_facts.items()
        if name not in had and all(satisfies_filter(own, title, price) for own in filters)
    }
    seen = {str(item.item_id) for turn in before.turns for item in turn.recommendations.items}
    names = list(map(str, shown))
    known = [name for name in names if name in item_facts]
    result.items += len(names)
    result.faults["outside the catalog"] += len(names) - len(known)
    result.faults["ruled out by the wishes"] += sum(
        not all(satisfies_filter(own, *item_facts[name]) for own in filters) for name in known
    )
    result.faults[CONTRADICTS_INTENT] += sum(not intent.allows(name, *item_facts[name]) for name in known)
    result.faults["repeated"] += len(names) - len(set(names))
    result.faults["disliked or had"] += sum(name in had for name in names)
    result.faults["too few"] += len(names) != min(K, len(allowed))
    again = sum(name in seen for name in names)
    left = min(K, len(allowed - seen)) - (len(names) - again)
    result.faults["shown before"] += min(again, max(0, left))


def satisfies_filter(where: str, title: str, price: float | None) -> bool:
    """Evaluate a filter of a conversation on an item, without genrec's filters.

    Raises:
        InputError: the filter is of an unknown kind.
    """
    if found := _PRICE.fullmatch(where):
        return satisfies_price_bound(price, found[1], float(found[2]))
    if words := excluded_words(where):
        return all(lacks_text(title, word) for word in words)
    raise InputError(f"the filter {where!r} is of an unknown kind; add it to `satisfies_filter`")


def _record_utterance(accuracy: ParserAccuracy, utterance: Utterance, before: Preferences, after: Preferences) -> None:
    accuracy.total[utterance.kind] += 1
    if utterance.is_understood(before, after):
        accuracy.correct[utterance.kind] += 1
    else:
        accuracy.errors[utterance.kind].append(f"{utterance.text!r}: {before.labels} -> {after.labels}")


def _summarize(result: StrategyResult, seed: int) -> dict[str, Any]:
    """Counts, and the percentage of shoppers whose target was recommended by each turn."""
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
        raise InputError("--items and --interactions go together; give both, or neither for the embedded shop")
    if options.items is None:
        return open_dataset("online-retail", default_cache())
    return read_catalog(options.items), read_interactions(options.interactions)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.chat simulate", description=__doc__)
    parser.add_argument("--turns", type=int, default=2000, metavar="N", help="turns of each strategy")
    parser.add_argument("--model", default=LANGUAGE_MODEL, help="the language model that ranks, or none")
    parser.add_argument("--ways", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="run only these strategies")
    parser.add_argument("--items", type=Path, metavar="FILE", help="another catalog, with a column price")
    parser.add_argument("--interactions", type=Path, metavar="FILE", help="interactions with the items of --items")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="seed of shoppers and messages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    options = parser.parse_args(arguments)
    if options.turns < 1:
        parser.error(f"--turns is {options.turns}; give 1 or more")
    if options.json and (options.json.is_dir() or not os.access(options.json.parent, os.W_OK)):
        parser.error(f"--json {options.json} is not writable; name a writable file")
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
    spoken = Table(title="messages understood")
    for column in ("kind", "said", "read as meant", "%"):
        spoken.add_column(column)
    for kind, own in summary["reading"].items():
        spoken.add_row(kind, str(own["said"]), str(own["read"]), f"{100 * own['read'] / own['said']:.1f}")
    console.print(spoken)
