"""Benchmarks of the index: build, size, memory, load, filters, updates; lookups in `lookup` (C1 to C9, C15)."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from eval.speed import dictionary, lookup, selection, static, subject
from eval.speed.catalog import Identifiers, titles, uniform, zipf
from eval.speed.measurement import Peak, cycling, interleave, peak_memory
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed, version_of
from genrec import TitleIdentifiers, open_dataset
from genrec.cache import default_cache
from genrec.loading import find_model_directory
from genrec.prompting import HuggingFaceTokenizer
from genrec.settings import LANGUAGE_MODEL
from genrec.types import IntArray

BUILD = {1_000_000: Target(0.5, 0.15, judged="genrec"), 10_000_000: Target(5, 2, judged="genrec")}
BYTES = {8: Target(25, 20, judged="genrec"), 4: Target(20, 14, judged="genrec")}
# These targets apply only at 10M items.
PEAK = {10_000_000: Target(2, 1, judged="genrec")}
LOAD = {10_000_000: Target(0.5, 0.05, judged="genrec")}
UPDATE = {10_000_000: Target(1, 0.2, judged="genrec")}
FILTER = Target(1.25, 1.1)
INFORMS = Target()


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed index`: 1M and 10M items, or 100k and 1M with `quick`."""
    small, large = (100_000, 1_000_000) if options.quick else (1_000_000, 10_000_000)
    listed: list[BenchmarkJob] = []
    for count in (small, large):
        for draw, length, vocab_size in ((uniform, 8, 2048), (zipf, 8, 2048), (uniform, 4, 8192), (zipf, 4, 8192)):
            law = draw.__name__
            if options.quick and (count, law, length) not in ((small, "uniform", 8), (large, "zipf", 4)):
                continue
            row_ids = {"C5", "C6", "C1" if length == 8 else "C4"} - ({"C4"} if law == "uniform" else set())
            run = partial(_codes, options, partial(draw, count, length, vocab_size))
            listed.append(BenchmarkJob(f"{count} {law} L{length}", tuple(row_ids), run))
    for draw in (uniform,) if options.quick else (uniform, zipf):
        listed.append(BenchmarkJob(f"scale {draw.__name__}", ("C2",), partial(_scale, options, draw, small, large)))
    listed.append(BenchmarkJob("selection", ("C3",), partial(selection.rows, options, small)))
    for length, vocab_size in ((8, 2048),) if options.quick else ((8, 2048), (4, 8192)):
        listed.append(BenchmarkJob(f"peak memory L{length}", ("C7",), partial(_peak, large, length, vocab_size)))
    listed.append(BenchmarkJob("load, filter, change", ("C8", "C9"), partial(_living, options, large)))
    return [*listed, BenchmarkJob("titles", ("C15",), partial(_titles, options, small))]


def _codes(options: BenchmarkOptions, draw: Callable[[], Identifiers]) -> Iterator[BenchmarkRow]:
    """Build, size and lookups of one catalog of codes."""
    codes = draw()
    length = codes.rows.shape[1]
    if options.wants("C5"):
        yield from _build(options, codes)
    if not options.wants("C1", "C4", "C6"):
        return
    trie, peer = subject.build(codes), static.build(codes)
    if options.wants("C6"):
        kept, peer_kept = subject.nbytes(trie) / len(codes), peer.nbytes / len(codes)
        version = version_of(static.NAME)
        yield BenchmarkRow("C6", codes.name, kept, "B", BYTES[length], peer_kept, static.NAME, version)
        if len(codes) <= 1_000_000 and not options.quick:
            peer_kept = _peak_of("dictionary", codes).kept / len(codes)
            yield BenchmarkRow("C6", codes.name, kept, "B", BYTES[length], peer_kept, dictionary.NAME)
    if length == 8 and options.wants("C1"):
        for depth in (2, 4):
            yield from lookup.deep_rows(options, codes, trie, peer, depth)
    if length == 4 and options.wants("C4") and "zipf" in codes.name:
        yield from lookup.wide_rows(options, codes, trie, peer)


def _build(options: BenchmarkOptions, codes: Identifiers) -> Iterator[BenchmarkRow]:
    """C5: from unsorted rows to the first lookup."""
    works: dict[str, Callable[[], object]] = {
        "genrec": partial(subject.build, codes),
        static.NAME: partial(static.build, codes),
    }
    if len(codes) <= (100_000 if options.quick else 1_000_000):
        works[dictionary.NAME] = partial(dictionary.build, codes)
    subject.build(uniform(1000, 4, 64))  # compiles the kernels
    found = interleave(works, rounds=options.rounds, warm_up=False)
    for name in list(works)[1:]:
        target = BUILD.get(len(codes), INFORMS)
        yield timed("C5", codes.name, found["genrec"], found[name], target=target, peer_name=name)


def _scale(
    options: BenchmarkOptions, draw: Callable[[int, int, int], Identifiers], small: int, large: int
) -> Iterator[BenchmarkRow]:
    yield from lookup.scale_rows(options, draw(small, 8, 2048), draw(large, 8, 2048))


def _peak(count: int, length: int, vocab_size: int) -> Iterator[BenchmarkRow]:
    """C7: the peak memory of a process that builds an index, including its input."""
    codes = uniform(count, length, vocab_size)
    mine, peer = _peak_of("genrec", codes), _peak_of("STATIC", codes)
    yield BenchmarkRow(
        "C7",
        codes.name,
        (mine.highest - mine.imported) / 1e9,
        "GB",
        PEAK.get(count, INFORMS),
        (peer.highest - peer.imported) / 1e9,
        static.NAME,
        version_of(static.NAME),
        note=f"rows of {codes.tokens.nbytes / 1e9:.2f} GB included; with the imports too it is "
        f"{mine.highest / 1e9:.2f} GB, the peer's {peer.highest / 1e9:.2f} GB",
    )


def _peak_of(builder: str, codes: Identifiers) -> Peak:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, codes.rows, allow_pickle=False)
        return peak_memory(builder, path, codes.vocab_size)


def _living(options: BenchmarkOptions, count: int) -> Iterator[BenchmarkRow]:
    """Loading, filters and updates of an index."""
    codes = uniform(count, 8, 2048)
    trie = subject.build(codes)
    if options.wants("C8"):
        yield _load(options, codes, trie)
    if options.wants("C9"):
        yield from _filters(options, codes, trie)
        yield _update(options, codes, trie)


def _load(options: BenchmarkOptions, codes: Identifiers, trie: Any) -> BenchmarkRow:
    """C8: from a directory to the first lookup."""
    target = LOAD.get(len(codes), INFORMS)
    with TemporaryDirectory() as folder:
        subject.save(trie, Path(folder) / "index")
        found = interleave({"genrec": partial(subject.load, Path(folder) / "index")}, rounds=options.rounds)
    note = "peers rebuild; the files are in the page cache"
    return timed("C8", codes.name, found["genrec"], target=target, note=note)


def _filters(options: BenchmarkOptions, codes: Identifiers, trie: Any) -> Iterator[BenchmarkRow]:
    """C9: a search step with a filter over the same step without it: from logits to the next beams of each user."""
    random = np.random.default_rng(2)
    half = random.random(len(codes)) < 0.5
    denied = random.choice(len(codes), 1000, replace=False)
    few = random.choice(len(codes), len(codes) // 100, replace=False)
    filters: dict[str, tuple[Callable[[], Any], IntArray]] = {
        "1,000 denied": (lambda: subject.deny(trie, denied), np.setdiff1d(np.arange(len(codes)), denied)),
        "a predicate that half of the items satisfy": (lambda: subject.allow_mask(trie, half), np.flatnonzero(half)),
        "1 % allowed": (lambda: subject.allow(trie, few), few),
    }
    logits = lookup.some_log_probs(codes)
    scores = torch.linspace(-1, -9, lookup.ROWS)
    for name, (make, among) in filters.items():
        begin = time.perf_counter()
        allowed = make()
        once = time.perf_counter() - begin
        for depth in (1, 2):
            # Beams exist only at nodes with allowed items.
            prefixes = lookup.some_prefixes(codes, depth, among)
            places = [(subject.locate(trie, own),) for own in prefixes]
            works: dict[str, Callable[[], object]] = {}
            for kind, chosen in (("filter", allowed), ("plain", None)):
                works[kind] = cycling(partial(_select, trie, logits, scores, chosen), places)
                works[f"{kind} lookup"] = cycling(partial(_look_up, trie, logits, chosen), places)
            found = interleave(works, rounds=2 * options.rounds + 1)
            alone = found["filter lookup"].seconds / found["plain lookup"].seconds
            yield timed(
                "C9",
                f"{codes.name} depth {depth}, {name}",
                found["filter"],
                found["plain"],
                target=FILTER,
                peer_name=f"{subject.NAME} without",
                note=f"and {once * 1e3:.3g} ms once per request; the lookup alone takes {alone:.2f} of the plain one",
            )


def _select(trie: Any, logits: Any, scores: Any, allowed: Any, places: Any) -> object:
    return subject.select(trie, places, logits, scores, lookup.WIDTH, allowed)


def _look_up(trie: Any, logits: Any, allowed: Any, places: Any) -> object:
    return subject.children(trie, places, logits, allowed)


def _update(options: BenchmarkOptions, codes: Identifiers, trie: Any) -> BenchmarkRow:
    """C9: add 1 % of the items and withdraw as many, in one call."""
    target, change = UPDATE.get(len(codes), INFORMS), len(codes) // 100
    variant = f"{codes.name}, {change} added, {change} withdrawn"
    longer = uniform(len(codes) + change, 8, 2048)  # extends the same draw
    added = Identifiers.from_rows("added", longer.rows[-change:], codes.vocab_size)
    withdrawn = np.random.default_rng(3).choice(len(codes), change, replace=False)
    numbers = np.arange(len(codes), len(codes) + change)
    update = partial(subject.update, trie, added, numbers, withdrawn)
    found = interleave({"genrec": update}, rounds=options.rounds)
    return timed("C9", variant, found["genrec"], target=target)


def _titles(options: BenchmarkOptions, count: int) -> Iterator[BenchmarkRow]:
    """C15: the shop's titles, and as many synthetic titles as codes."""
    cache = default_cache()
    tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(LANGUAGE_MODEL, cache))
    catalog, _ = open_dataset("online-retail", cache)
    shop = TitleIdentifiers().encode(catalog, tokenizer)
    codes = uniform(count, 8, 2048)
    name = f"{len(shop)} titles of a shop V{tokenizer.vocab_size}"
    yield from lookup.title_rows(options, Identifiers.from_sequences(name, shop, tokenizer.vocab_size), codes)
    yield from lookup.title_rows(options, titles(count, catalog.titles, tokenizer), codes)
