"""Conversational recommendation on real dialogues: python -m eval.chat --data DIR [--model-turns N] [--json FILE].

DIR holds `redial_*.parquet` and `opendialkg_*.parquet`. Prints recall at 1, 5 and 10 of each ranker with 95 % bootstrap
intervals over dialogues, its difference to the blend, and how many recommended items are outside the catalog, repeated
or excluded. The protocol is described in `eval/dialogue.py`, the rankers in `eval/dialogue_rankers.py`. `python -m
eval.chat simulate` simulates conversations with scripted shoppers (`eval/simulate.py`), and `python -m eval.chat words`
measures the value of search words in addition to a history (`eval/words.py`).
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from eval.dialogue import Dialogues, Turn, read_dialogues, recall
from eval.dialogue_rankers import (
    BLEND,
    POPULAR,
    FoldRankers,
    LlmRankers,
    TextVectors,
    make_embed,
    make_fold_rankers,
    make_recommender,
)
from eval.progress import show_progress, wide_console
from eval.simulate import main as simulate
from eval.speed.report import commit, machine
from eval.words import main as words
from genrec import Recommender
from genrec.cache import default_cache
from genrec.errors import GenrecError
from genrec.evaluation import RESAMPLES, Interval
from genrec.types import FloatArray, ItemId

SEED = 20261122
DATASETS = ("redial", "opendialkg")
CUTOFFS = (1, 5, 10)
MODEL_TURNS = 200  # turns of each data set that the language model ranks
QUICK_TURNS = 100  # turns of each data set
# He et al., "Large Language Models as Zero-Shot Conversational Recommenders", CIKM 2023, on test turns; ours are
# validation turns. Here mentioned items are removed from the targets and from the recommendations.
PUBLISHED = {
    "redial": {
        "published, its test turns: GPT-4": (5.04, 13.97, 20.08),
        "published, its test turns: GPT-3.5": (4.31, 12.64, 18.31),
        "published, its test turns: Vicuna-13B": (3.38, 8.91, 12.03),
    }
}


@dataclass
class RankerAnswers:
    """The lists of one ranker.

    Attributes:
        turns: the ranked turns.
        lists: recommended items of each turn, best first.
        filled: how many items of each list came from the popularity fallback.
        seconds: the time of each turn.
    """

    turns: list[Turn] = field(default_factory=list)
    lists: list[list[ItemId]] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def for_turns(self, turns: Sequence[Turn]) -> "RankerAnswers":
        """The answers for some of the turns."""
        chosen = set(map(id, turns))
        places = [place for place, turn in enumerate(self.turns) if id(turn) in chosen]
        columns = (self.turns, self.lists, self.filled, self.seconds)
        return RankerAnswers(*([column[place] for place in places] for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ResultRow:
    """A row of the table; shares are percentages, and faults are counted over all positions of all lists."""

    data: str
    ranker: str
    recall: Mapping[str, Interval]
    to_blend: Interval | None
    turns: int
    examples: int
    places: int
    outside: int
    repeated: int
    ruled_out: int
    filled: float
    milliseconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank every turn, print tables, write JSON."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    others = {"simulate": simulate, "words": words}
    if arguments and arguments[0] in others:
        others[arguments[0]](arguments[1:])
        return
    options = _parse(arguments)
    summary: dict[str, Any] = {"seed": options.seed, "commit": commit(), "machine": machine(), "data": {}, "rows": []}
    try:
        for name in options.sets:
            data = read_dialogues(options.data, name)
            lines, weights = measure(data, options)
            summary["data"][name] = {"digest": data.digest, "weights": weights}
            summary["rows"] += [asdict(line) for line in lines]
            _print(data, lines)
        if options.json:
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def measure(data: Dialogues, options: argparse.Namespace) -> tuple[list[ResultRow], list[dict[str, float]]]:
    """Measure every ranker; a row for each, and the weights of each fold's blend."""
    cache = default_cache()
    texts = TextVectors.from_dialogues(data, make_embed(cache))
    random = np.random.default_rng(options.seed)
    order = random.permutation(len(data.test_turns))
    asked = {id(data.test_turns[place]) for place in order[: QUICK_TURNS if options.quick else len(order)]}
    read = {id(data.test_turns[place]) for place in order[: options.model_turns]} & asked
    model = LlmRankers(data, cache, options.seed) if read else None
    answers: dict[str, RankerAnswers] = {}
    weights = []
    for own in make_fold_rankers(data, texts, options.seed):
        weights.append(own.weights)
        _run_fold(data, own, model, asked, read, answers)
    if model is not None:
        model.save_priors()
    _add_blend_on_model_turns(answers)
    return [_result_row(data, name, own, answers, options.seed) for name, own in answers.items()], weights


def _run_fold(
    data: Dialogues,
    fold: FoldRankers,
    model: LlmRankers | None,
    test_turns: set[int],
    model_turns: set[int],
    answers: dict[str, RankerAnswers],
) -> None:
    popular = fold.rankers[POPULAR]
    for name, ranker in fold.rankers.items():
        turns = [turn for turn in fold.turns if id(turn) in test_turns]
        run_turns(data, make_recommender(data, ranker, popular), turns, name, answers.setdefault(name, RankerAnswers()))
    if model is not None:
        for name, reading in model.for_retriever(fold.rankers[BLEND]).items():
            turns = [turn for turn in fold.turns if id(turn) in model_turns]
            run_turns(
                data, make_recommender(data, reading, popular), turns, name, answers.setdefault(name, RankerAnswers())
            )


def run_turns(
    data: Dialogues, recommender: Recommender, turns: Sequence[Turn], name: str, answers: RankerAnswers
) -> None:
    """Rank some turns, and add the lists to the answers."""
    for turn in show_progress(turns, f"{data.name}, {name}", len(turns)):
        found = recommender.recommend(turn.user, CUTOFFS[-1], exclude=turn.mentioned)
        answers.turns.append(turn)
        answers.lists.append([item.item_id for item in found.items])
        answers.filled.append(sum(item.stage == POPULAR for item in found.items))
        answers.seconds.append(found.seconds)


def cluster_interval(hits: FloatArray, totals: FloatArray, dialogue_ids: Sequence[str], *, seed: int) -> Interval:
    """100 times a ratio of sums, with a bootstrap interval that resamples whole dialogues, whose turns are dependent.

    Args:
        hits: float64 [T], the relevant items found at each turn, or the difference to another ranker.
        totals: float64 [T], all relevant items of each turn.
        dialogue_ids: [T], the dialogue of each turn.
        seed: of the resampling.
    """
    _, places = np.unique(np.array(dialogue_ids), return_inverse=True)
    up, down = np.bincount(places, hits), np.bincount(places, totals)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(up), (RESAMPLES, len(up)))
    low, high = np.percentile(100 * up[drawn].sum(axis=1) / down[drawn].sum(axis=1), [2.5, 97.5])
    return Interval(float(100 * hits.sum() / totals.sum()), float(low), float(high))


def _add_blend_on_model_turns(answers: dict[str, RankerAnswers]) -> None:
    """For every ranker that ranked some turns only, add the blend on the same turns."""
    for own in list(answers.values()):
        if len(own.turns) < len(answers[BLEND].turns):
            answers[f"{BLEND}, on the same turns"] = answers[BLEND].for_turns(own.turns)


def _result_row(
    data: Dialogues, name: str, own: RankerAnswers, answers: Mapping[str, RankerAnswers], seed: int
) -> ResultRow:
    owners = [turn.dialogue for turn in own.turns]
    recalls = {}
    for k in CUTOFFS:
        found, there = recall(own.turns, own.lists, k)
        recalls[f"recall@{k}"] = cluster_interval(found, there, owners, seed=seed)
    blend = dict(zip(map(id, answers[BLEND].turns), answers[BLEND].lists, strict=True))
    theirs, _ = recall(own.turns, [blend[id(turn)] for turn in own.turns], CUTOFFS[-1])
    known = set(map(str, data.catalog.item_ids))
    places = sum(map(len, own.lists))
    return ResultRow(
        data.name,
        name,
        recalls,
        None if name.startswith(BLEND) else cluster_interval(found - theirs, there, owners, seed=seed),
        len(own.turns),
        int(there.sum()),
        places,
        *_count_faults(own, known),
        100 * sum(own.filled) / max(places, 1),
        1000 * sum(own.seconds) / len(own.turns),
    )


def _count_faults(own: RankerAnswers, known: set[str]) -> tuple[int, int, int]:
    """How many items are outside the catalog, repeated within a list, or excluded, over all lists."""
    outside = repeated = ruled_out = 0
    for turn, found in zip(own.turns, own.lists, strict=True):
        ids, banned = list(map(str, found)), set(map(str, turn.mentioned))
        outside += sum(item not in known for item in ids)
        repeated += len(ids) - len(set(ids))
        ruled_out += sum(item in banned for item in ids)
    return outside, repeated, ruled_out


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.chat", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the dialogues")
    parser.add_argument("--sets", nargs="+", choices=DATASETS, default=DATASETS, help="run only these data sets")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="seed of folds, samples and intervals")
    parser.add_argument(
        "--model-turns",
        type=int,
        default=MODEL_TURNS,
        metavar="N",
        help="turns that the LLM ranks; 0 for none",
    )
    parser.add_argument("--quick", action="store_true", help=f"rank only {QUICK_TURNS} turns of each data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    options = parser.parse_args(arguments)
    if options.model_turns < 0:
        parser.error(f"--model-turns is {options.model_turns}; give 0 or more")
    if options.json and (options.json.is_dir() or not os.access(options.json.parent, os.W_OK)):
        parser.error(f"--json {options.json} is not writable; name a writable file")
    return options


def _print(data: Dialogues, lines: Iterable[ResultRow]) -> None:
    dialogues = len({turn.dialogue for turn in data.test_turns})
    title = f"{data.name}: {len(data.test_turns):,} turns of {dialogues:,} dialogues, {len(data.catalog):,} films"
    table = Table(title=f"{title}, {data.digest[:16]}")
    for column in ("ranker", *(f"Recall@{k}" for k in CUTOFFS), "@10 to the blend", "examples"):
        table.add_column(column)
    for column in ("outside", "repeated", "ruled out", "filled %", "ms"):
        table.add_column(column, justify="right")
    for line in lines:
        faults = (line.outside, line.repeated, line.ruled_out)
        table.add_row(
            line.ranker,
            *map(str, line.recall.values()),
            str(line.to_blend or ""),
            f"{line.examples:,}",
            *map(str, faults),
            f"{line.filled:.1f}",
            f"{line.milliseconds:.0f}",
        )
    for name, values in PUBLISHED.get(data.name, {}).items():
        table.add_row(name, *(f"{value:.2f}" for value in values))
    wide_console().print(table)


if __name__ == "__main__":
    main()
