"""Benchmarks of the search: beams, bookkeeping, exactness and whole rankings (C10, C11, C13, C14, C17)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from eval.speed import dictionary, exactness, huggingface, size, subject
from eval.speed.catalog import Identifiers, uniform, zipf
from eval.speed.measurement import call_and_store, interleave
from eval.speed.model import TableLookupBackend, random_backend
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    Interactions,
    RankRequest,
    TitleIdentifiers,
    open_dataset,
    read_template,
)
from genrec.cache import default_cache
from genrec.data import Subset
from genrec.datasets import get_dataset
from genrec.deadline import Deadline
from genrec.errors import GenrecError
from genrec.loading import load_backend
from genrec.settings import LANGUAGE_MODEL

NARROW_BEAMS = Target(8, 13, at="least")
WIDE_BEAMS = Target(15, 25, at="least")
BOOKKEEPING = Target(5e-3, 1e-3, judged="genrec")
FULL_RANKING = Target(2.0, 1.3)

K = 10  # list length of a whole ranking
BATCH = 64  # prompts per batch


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed search`."""
    beams = ((256, 20, "C10", NARROW_BEAMS), (512, 50, "C11", WIDE_BEAMS))
    cases = 150 if options.quick else 1000
    return [
        BenchmarkJob("bookkeeping", ("C13",), partial(_bookkeeping, options)),
        BenchmarkJob("exactness", ("C14",), partial(exactness.rows, cases)),
        BenchmarkJob("films", ("C17",), partial(_films, options)),
        BenchmarkJob("beams", ("C10", "C11"), partial(_beams, options, beams)),
        *size.jobs(options),
    ]


def grid(count: int, vocab_size: int, *, seed: int = 1) -> Identifiers:
    """Items of 4 tokens that branch at every token, so that no step can be skipped."""
    random = np.random.default_rng(seed)
    base = int(np.ceil((2 * count) ** 0.25))
    chosen = random.permutation(base**4)[:count]
    codes = np.stack(np.unravel_index(chosen, (base,) * 4), axis=1)
    tokens = random.permutation(min(vocab_size, 1 << 16))[: 4 * base].reshape(4, base)
    return Identifiers.from_rows(f"{count} items", tokens[np.arange(4), codes].astype(np.uint16), vocab_size)


def _beams(options: BenchmarkOptions, shapes: tuple[tuple[int, int, str, Target], ...]) -> Iterator[BenchmarkRow]:
    """C10 and C11: beam search of equal width on equal weights."""
    shape = "12M" if options.quick else "0.6B"
    backend = random_backend(shape)
    for length, width, identifier, target in shapes:
        if not options.wants(identifier):
            continue
        codes = grid(10_000, backend.vocab_size)
        trie, root = subject.build(codes), dictionary.build(codes)
        prompt = np.random.default_rng(2).integers(0, backend.vocab_size, length)
        works: dict[str, Callable[[], Any]] = {
            "genrec": partial(subject.search, backend, trie, [prompt], k=width, width=width),
            "peer": partial(huggingface.generate, backend.model, prompt, root, width=width, steps=4),
        }
        last: dict[str, Any] = {}
        found = interleave(
            {name: partial(call_and_store, last, name, work) for name, work in works.items()},
            rounds=1 if options.quick and width > 20 else options.rounds,
            warm_up=False,
        )
        mine = last["genrec"][0].item_indices.tolist()
        theirs = [huggingface.item_of(root, path) for path in last["peer"]]
        yield timed(
            identifier,
            f"{backend.name}, prompt {length}, width {width}, 4 steps",
            found["genrec"],
            found["peer"],
            target=target if not options.quick else Target(),
            peer_name=huggingface.BEAMS,
            ratio_of="peer/genrec",
            note=_agreement(mine, theirs) + (f"; quick: {shape} random weights, no floor" if options.quick else ""),
        )


def _bookkeeping(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """C13: the time of a search step without a model."""
    count = 100_000 if options.quick else 1_000_000
    for codes in (uniform(count, 8, 2048), zipf(count, 8, 2048), uniform(count, 4, 8192)):
        trie, backend = subject.build(codes), TableLookupBackend(codes.vocab_size)
        work = partial(subject.search, backend, trie, [np.array([1])], k=K, width=256)
        found = interleave({"genrec": work}, rounds=options.rounds, min_seconds=0.2)["genrec"]
        steps = max(1, backend.steps)
        bounds = (found.low / steps, found.high / steps)
        note = f"{steps} steps in {found.seconds * 1e3:.3g} ms, opening and closing the search included"
        yield BenchmarkRow(
            "C13", f"{codes.name}, width 256", found.seconds / steps, "s", BOOKKEEPING, note=note, genrec_range=bounds
        )


def _films(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """C17: the top 10 of a whole catalog for many users, over the time of their prompts alone."""
    name, catalog, interactions = _film_catalog(fetch=not options.quick)
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    settings = GenerativeSettings(strategy="beam", prior=0.0, width=K, batch_size=BATCH)
    warm, cold = read_template("next-item"), read_template("cold-start")
    requests = _user_requests(catalog, interactions, 2 if options.quick else 64)
    few = 1 if options.quick else 3
    plain = GenerativeRanker(index, backend, tokenizer, template=warm, cold_template=cold, settings=settings)
    prompts = [plain.render(request).token_ids for request in requests]
    titles = Identifiers.from_sequences(name, TitleIdentifiers().encode(catalog, tokenizer), tokenizer.vocab_size)
    root, steps = dictionary.build(titles), int(titles.lengths.max())
    ask: dict[str, Callable[[], Any]] = {
        score: partial(plain.with_settings(score=score, exact=exact).rank, requests, K, deadline=Deadline.never())
        for score, exact in (("model", False), ("catalog", True))
    }
    ask["prompts"] = partial(huggingface.read_prompts, backend.model, prompts, BATCH)
    ask["generate"] = lambda: [
        huggingface.generate(backend.model, prompt, root, width=K, steps=steps, end=tokenizer.eos_token_id)
        for prompt in prompts[:few]
    ]
    last: dict[str, Any] = {}
    works = {name: partial(call_and_store, last, name, work) for name, work in ask.items()}
    found = interleave(works, rounds=1 if options.quick else options.rounds, warm_up=False)
    variant = f"{len(requests)} users, {len(catalog)} items of {name}, {backend.name}, width {K}"
    mean = f"prompts of {np.mean([len(prompt) for prompt in prompts]):.0f} tokens, in batches of {BATCH}"
    for score in ("model", "catalog"):
        own = last[score]
        note = (
            f"{mean}; {np.mean([ranking.generated_tokens for ranking in own]):.0f} tokens after each, "
            f"{100 * np.mean([ranking.proven for ranking in own]):.0f} % proven"
        )
        one = f"{variant}, {score} score{', exact' if score == 'catalog' else ''}"
        yield timed(
            "C17", one, found[score], found["prompts"], target=FULL_RANKING, peer_name=huggingface.PROMPTS, note=note
        )
    share, peer = len(requests) / few, found["generate"]
    theirs = [[huggingface.item_of(root, path) for path in paths] for paths in last["generate"]]
    pairs = zip(last["model"], theirs, strict=False)
    agreements = [_agreement(ranking.item_indices.tolist(), items) for ranking, items in pairs]
    masses = [
        sum(float(np.exp(own).sum()) for own in plain.score(requests[:few], lists, deadline=Deadline.never()))
        for lists in ([one.item_indices for one in last["model"][:few]], [np.array(items) for items in theirs])
    ]
    yield BenchmarkRow(
        "C17",
        f"{variant}, model score",
        found["model"].seconds,
        "s",
        Target(),
        peer.seconds * share,
        huggingface.BEAMS,
        timed("C17", "", peer, peer_name=huggingface.BEAMS).peer_version,
        "peer/genrec",
        note=f"the peer's time for {few} users, scaled: {peer.seconds * share / found['prompts'].seconds:.1f} times "
        f"the prompts alone; {'; '.join(agreements)} (narrow beams prune different paths: genrec's have "
        f"{masses[0] / masses[1]:.2f} times the probability of the peer's)",
        genrec_range=(found["model"].low, found["model"].high),
        peer_range=(peer.low * share, peer.high * share),
    )


def _film_catalog(*, fetch: bool) -> tuple[str, Catalog, Interactions]:
    cache, name = default_cache(), "ml-latest-small"
    try:
        if fetch:
            get_dataset(name, cache)
        return name, *open_dataset(name, cache)
    except GenrecError:
        return "online-retail", *open_dataset("online-retail", cache)


def _user_requests(catalog: Catalog, interactions: Interactions, count: int) -> list[RankRequest]:
    """Users with at least ten events; all items are allowed, because the peer cannot exclude any."""
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    long = np.flatnonzero(np.diff(offsets) >= 10)
    chosen = np.random.default_rng(1).permutation(long)[:count]
    everything = Subset.everything(len(catalog))
    return [RankRequest(items[offsets[user] : offsets[user + 1]], "", everything) for user in chosen]


def _agreement(mine: list[int], theirs: list[int | None]) -> str:
    """Whether two rankings are the same."""
    if mine == theirs:
        return f"the same {len(mine)} items in the same order"
    return f"{len(set(mine) & set(theirs))} of {len(mine)} items the same"
