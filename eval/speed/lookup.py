"""Benchmarks of one constraint lookup, from nodes and log-probabilities to all children, against other tries.

Letters: R nodes looked up at once, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from eval.speed import dictionary, static, subject
from eval.speed.catalog import Identifiers
from eval.speed.measurement import cycling, interleave
from eval.speed.report import BenchmarkOptions, BenchmarkRow, Target, timed
from genrec.types import FloatArray, IntArray

USERS, WIDTH = 2, 70
ROWS = USERS * WIDTH
BATCHES = 16  # sets of nodes that are looked up in turn, so that caches do not serve repeated nodes

STATIC = Target(1.0, 0.5)
DICTIONARY = Target(25, 60, at="least")
SCALE = Target(1.25, 1.1)
WIDE = Target(1.0, 0.3)
TITLES = Target(2, 1.3)


def deep_rows(
    options: BenchmarkOptions, codes: Identifiers, trie: Any, peer: static.StaticIndex, depth: int
) -> Iterator[BenchmarkRow]:
    """C1: nodes of one depth, 2 or more."""
    log_probs, prefixes = some_log_probs(codes), some_prefixes(codes, depth)
    states = [peer.locate(own) for own in prefixes]
    _compare(trie, prefixes[0], log_probs, static.flat(*peer.children(states[0], log_probs, depth)[:2]))
    masked, children = _masked(codes, trie, prefixes, log_probs)
    found = interleave(
        {
            "genrec": look_up_prefixes(trie, prefixes, log_probs),
            "static": cycling(lambda own: peer.children(own, log_probs, depth), [(own,) for own in states]),
            "dictionary": masked,
        },
        rounds=2 * options.rounds + 1,
    )
    variant = f"{codes.name} depth {depth}"
    note = f"{children:.2f} children per node, the same from all; STATIC reads {peer.limits[depth]} per node"
    yield timed("C1", variant, found["genrec"], found["static"], target=STATIC, peer_name=static.NAME, note=note)
    yield _beside_dictionary("C1", variant, found)


def wide_rows(
    options: BenchmarkOptions, codes: Identifiers, trie: Any, peer: static.StaticIndex
) -> Iterator[BenchmarkRow]:
    """C4: the root, and the first tokens that most items share."""
    log_probs, hot = some_log_probs(codes), codes.most_frequent_first_tokens(ROWS)
    root, places, states = subject.root(trie, ROWS), subject.locate(trie, hot), peer.locate(hot)
    _compare(trie, hot[:, :0], log_probs, static.flat(peer.first(log_probs)))
    _compare(trie, hot, log_probs, static.flat(peer.second(states, log_probs)))
    found = interleave(
        {
            "genrec 0": lambda: subject.children(trie, root, log_probs),
            "genrec 1": lambda: subject.children(trie, places, log_probs),
            "static 0": lambda: peer.first(log_probs),
            "static 1": lambda: peer.second(states, log_probs),
            "static 1, next states too": lambda: (peer.second(states, log_probs), peer.second_states(states)),
        },
        rounds=2 * options.rounds + 1,
    )
    counts = [np.diff(subject.children(trie, own, log_probs).offsets) for own in (root, places)]
    for name in [name for name in found if name.startswith("static")]:
        depth = int(name.split()[1].strip(","))
        note = f"{counts[depth].mean():.0f} children per node, {counts[depth].max()} at most, the same from both"
        if "too" not in name:
            note += "; the peer returns masked log-probabilities over the vocabulary, and no next states"
        yield timed(
            "C4",
            f"{codes.name} depth {name.removeprefix('static ')}",
            found[f"genrec {depth}"],
            found[name],
            target=WIDE,
            peer_name=static.NAME,
            note=note,
        )


def scale_rows(options: BenchmarkOptions, small: Identifiers, large: Identifiers) -> Iterator[BenchmarkRow]:
    """C2: the same lookup in a catalog ten times as large."""
    works: dict[str, Callable[[], object]] = {}
    widths: dict[str, float] = {}
    for codes in (small, large):
        trie = subject.build(codes)
        for depth in (2, 4):
            prefixes = some_prefixes(codes, depth)
            works[f"{codes.name} {depth}"] = look_up_prefixes(trie, prefixes, some_log_probs(codes))
            widths[f"{codes.name} {depth}"] = _width(trie, prefixes, codes)
    found = interleave(works, rounds=2 * options.rounds + 1)
    for depth in (2, 4):
        names = [f"{codes.name} {depth}" for codes in (large, small)]
        peer_name = f"{subject.NAME} on {small.name}"
        note = "{:.2f} children per node, in the smaller catalog {:.2f}".format(*(widths[name] for name in names))
        times = [found[name] for name in names]
        yield timed("C2", f"{large.name} depth {depth}", *times, target=SCALE, peer_name=peer_name, note=note)


def title_rows(options: BenchmarkOptions, titled: Identifiers, codes: Identifiers) -> Iterator[BenchmarkRow]:
    """C15: size and lookups of titles, relative to those of codes."""
    trie, base = subject.build(titled), subject.build(codes)
    peer_name = f"{subject.NAME} on {codes.name}"
    sizes = [subject.nbytes(built) / count for built, count in ((trie, len(titled)), (base, len(codes)))]
    note = f"{titled.lengths.mean():.1f} tokens per item"
    yield BenchmarkRow("C15", f"{titled.name}, bytes an item", sizes[0], "B", TITLES, sizes[1], peer_name, note=note)
    widths = {depth: _width(base, some_prefixes(codes, depth), codes) for depth in (1, 2)}
    for depth in (2, 4):
        log_probs, prefixes = some_log_probs(titled), some_prefixes(titled, depth)
        masked, children = _masked(titled, trie, prefixes, log_probs)
        # A lookup takes longer the more children a node has, so codes are compared at a depth with as many children.
        alike = min(widths, key=lambda own: abs(np.log(widths[own] / children)))
        found = interleave(
            {
                "genrec": look_up_prefixes(trie, prefixes, log_probs),
                "codes": look_up_prefixes(base, some_prefixes(codes, alike), some_log_probs(codes)),
                "dictionary": masked,
            },
            rounds=2 * options.rounds + 1,
        )
        variant = f"{titled.name} depth {depth}"
        note = f"{children:.2f} children per node, in the codes at depth {alike} {widths[alike]:.2f}"
        yield timed("C15", variant, found["genrec"], found["codes"], target=TITLES, peer_name=peer_name, note=note)
        yield _beside_dictionary("C15", variant, found)


def _width(trie: Any, prefixes: list[IntArray], codes: Identifiers) -> float:
    """The mean number of children after prefixes."""
    found = subject.children(trie, subject.locate(trie, prefixes[0]), some_log_probs(codes))
    return len(found.tokens) / ROWS


def look_up_prefixes(trie: Any, prefixes: list[IntArray], log_probs: torch.Tensor) -> Callable[[], object]:
    """genrec's lookup after each set of prefixes in turn."""
    places = [(subject.locate(trie, own),) for own in prefixes]
    return cycling(lambda own: subject.children(trie, own, log_probs), places)


def some_prefixes(codes: Identifiers, depth: int, among: IntArray | None = None) -> list[IntArray]:
    """Random sets of R prefixes."""
    return [codes.prefixes(depth, ROWS, seed=seed, items=among) for seed in range(BATCHES)]


def some_log_probs(codes: Identifiers) -> torch.Tensor:
    """float32 [R, V], like those of a model."""
    logits = torch.randn((ROWS, codes.vocab_size), generator=torch.Generator().manual_seed(1))
    return logits.log_softmax(dim=1)


def same_children(mine: tuple[IntArray, IntArray, FloatArray], other: tuple[IntArray, IntArray, FloatArray]) -> bool:
    """Whether two lookups returned the same children with the same log-probabilities, in any order."""
    orders = [np.lexsort((token, row)) for row, token, _ in (mine, other)]
    return all(np.array_equal(a[orders[0]], b[orders[1]]) for a, b in zip(mine, other, strict=True))


def _masked(
    codes: Identifiers, trie: Any, prefixes: list[IntArray], log_probs: torch.Tensor
) -> tuple[Callable[[], object], float]:
    """The dictionary's lookup, and the mean number of children per node."""
    mask = dictionary.mask(dictionary.below(codes, np.concatenate(prefixes)), WIDTH)
    sent = [torch.from_numpy(own) for own in prefixes]
    found = static.flat(mask(sent[0], log_probs))
    _compare(trie, prefixes[0], log_probs, found)
    return cycling(lambda own: mask(own, log_probs), [(own,) for own in sent]), len(found[0]) / ROWS


def _compare(
    trie: Any, prefixes: IntArray, log_probs: torch.Tensor, other: tuple[IntArray, IntArray, FloatArray]
) -> None:
    mine = subject.flat(subject.children(trie, subject.locate(trie, prefixes), log_probs))
    if not same_children(mine, other):
        raise ValueError(f"two indexes differ: {len(mine[0])} and {len(other[0])} children after {len(prefixes)} nodes")


def _beside_dictionary(identifier: str, variant: str, found: Any) -> BenchmarkRow:
    return timed(
        identifier,
        variant,
        found["genrec"],
        found["dictionary"],
        target=DICTIONARY,
        peer_name=dictionary.NAME,
        ratio_of="peer/genrec",
        note="the peer contains only the subtrees of the requested nodes, which favours it",
    )
