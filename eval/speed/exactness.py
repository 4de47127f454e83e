"""Count violated guarantees of the search on random small catalogs, against brute force (C14).

A third of the cases subtract a prior, the hardest case for the bounds of the search: scores can rise along a path.

Letters: U prompts, N items.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.progress import show_progress
from eval.speed import subject
from eval.speed.catalog import Identifiers
from eval.speed.report import BenchmarkRow, Target
from genrec.decoding import PriorPenalty, ScoreKind, score_tries
from genrec.index import TokenTrie
from genrec.testing import TableBackend
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

NO_VIOLATIONS = Target(0, 0, judged="genrec")
GUARANTEES = (
    "item not allowed",
    "item repeated",
    "list too short",
    "score of an item wrong",
    "full width differs from brute force",
    "exhaustive differs from brute force",
    "reported as proven but not the top k",
    "full width, exact or exhaustive, but not proven",
)


@dataclass(frozen=True)
class Case:
    """A catalog, a model, and a request."""

    codes: Identifiers
    backend: TableBackend
    prompts: list[IntArray]
    allowed: BoolArray  # [U, N]
    boost: FloatArray | None  # [U, N]
    kind: ScoreKind
    k: int
    width: int
    exact: bool
    prior_weight: float  # of the prior; 0 for none
    prior_backend: TableBackend  # the model of the prior
    background: IntArray  # the prompt of the prior

    def prior_penalty(self, trie: TokenTrie) -> PriorPenalty | None:
        """The prior that the search subtracts."""
        if not self.prior_weight:
            return None
        reading = score_tries(self.prior_backend.open([self.background]), [trie])[0]
        if reading is None:
            raise ValueError("the prior was not measured")
        return PriorPenalty(trie, reading.log_probs, self.prior_weight)


def rows(cases: int, seed: int = 1) -> Iterator[BenchmarkRow]:
    """For each guarantee, the number of random cases that violate it."""
    violated: Counter[str] = Counter()
    random = np.random.default_rng(seed)
    for _ in show_progress(range(cases), "cases", cases):
        violated.update(violations(draw(random)))
    for guarantee in GUARANTEES:
        yield BenchmarkRow("C14", guarantee, violated[guarantee], f"of {cases} cases", NO_VIOLATIONS)


def draw(random: np.random.Generator) -> Case:
    """A random case of up to 40 identifiers of 1 to 6 tokens; sizes are often extreme."""
    vocab_size = int(random.integers(3, 10))
    bodies = {
        tuple(random.integers(0, vocab_size - 1, int(random.integers(0, 6))).tolist())
        for _ in range(int(random.choice([1, 2, 8, 40])))
    }
    sequences = [np.array([*body, vocab_size - 1], dtype=np.int64) for body in sorted(bodies)]
    sequences = [sequences[place] for place in random.permutation(len(sequences))]
    users, count = int(random.integers(1, 4)), len(sequences)
    models = [
        TableBackend(vocab_size, seed=int(random.integers(1 << 30)), logit_std=float(random.choice([0, 0.5, 3])))
        for _ in range(2)
    ]
    return Case(
        codes=Identifiers.from_sequences("case", sequences, vocab_size),
        backend=models[0],
        prompts=[random.integers(0, vocab_size, int(random.integers(1, 5))) for _ in range(users)],
        allowed=random.random((users, count)) < random.choice([0.0, 0.1, 0.5, 1.0], p=[0.05, 0.25, 0.3, 0.4]),
        boost=random.normal(0, 2, (users, count)) if random.random() < 0.3 else None,
        kind="catalog" if random.random() < 0.5 else "model",
        k=int(random.choice([1, 3, 10, 50])),
        width=int(random.choice([1, 3, 10, count])),
        exact=bool(random.random() < 0.5),
        prior_weight=float(random.choice([0.5, 1.0, 2.0])) if random.random() < 1 / 3 else 0.0,
        prior_backend=models[1],
        background=random.integers(0, vocab_size, int(random.integers(1, 5))),
    )


def violations(case: Case) -> Iterator[str]:
    """The guarantees that the answers of a case violate, each once."""
    trie, count = subject.build(case.codes), len(case.codes)
    truth = brute_scores(case)
    asked: dict[str, Any] = {
        "k": case.k,
        "kind": case.kind,
        "allowed": case.allowed,
        "boost": case.boost,
        "prior_penalty": case.prior_penalty(trie),
    }
    beam = subject.search(case.backend, trie, case.prompts, width=case.width, exact=case.exact, **asked)
    wide = subject.search(case.backend, trie, case.prompts, width=count, **asked)
    every = subject.search_exhaustively(case.backend, trie, case.prompts, **asked)
    found = set()
    for rankings, name in ((beam, None), (wide, GUARANTEES[4]), (every, GUARANTEES[5])):
        for ranking, allowed, scores in zip(rankings, case.allowed, truth, strict=True):
            found |= _violated_guarantees(case, ranking, allowed, scores)
            if name is not None and not _is_best(case, ranking, scores):
                found.add(name)
            if (name is not None or case.exact) and not ranking.proven:
                found.add(GUARANTEES[7])
    yield from found


def _violated_guarantees(case: Case, ranking: Ranking, allowed: BoolArray, scores: FloatArray) -> set[str]:
    items = ranking.item_indices
    checks = {
        GUARANTEES[0]: not allowed[items].all(),
        GUARANTEES[1]: len(np.unique(items)) != len(items),
        GUARANTEES[2]: len(items) != min(case.k, int(allowed.sum())),
        GUARANTEES[3]: not np.allclose(ranking.scores, scores[items], atol=1e-9),
        GUARANTEES[6]: ranking.proven and not _is_best(case, ranking, scores),
    }
    return {name for name, is_violated in checks.items() if is_violated}


def _is_best(case: Case, ranking: Ranking, scores: FloatArray) -> bool:
    """Whether these are the k best; items whose scores differ only by rounding are interchangeable."""
    best = np.sort(scores[np.isfinite(scores)])[::-1][: case.k]
    return len(ranking.scores) == len(best) and bool(np.allclose(scores[ranking.item_indices], best, atol=1e-9))


def brute_scores(case: Case) -> FloatArray:
    """float64 [U, N], computed token by token without a trie; minus infinity if not allowed."""
    paths = [tuple(one.tolist()) for one in case.codes.sequences()]
    scores = np.full(case.allowed.shape, -np.inf)
    expected: dict[tuple[int, ...], FloatArray] = {}
    for user, prompt in enumerate(case.prompts):
        own = [path for path, allowed in zip(paths, case.allowed[user], strict=True) if allowed]
        known: dict[tuple[int, ...], FloatArray] = {}
        for item in np.flatnonzero(case.allowed[user]):
            score = _path_score(case.backend, case.kind, prompt, paths[item], own, known)
            if case.prior_weight:
                score -= case.prior_weight * _path_score(
                    case.prior_backend, case.kind, case.background, paths[item], own, expected
                )
            scores[user, item] = score
    return scores if case.boost is None else scores + case.boost


def _path_score(
    backend: TableBackend,
    kind: ScoreKind,
    prompt: IntArray,
    path: tuple[int, ...],
    paths: Sequence[tuple[int, ...]],
    known: dict[tuple[int, ...], FloatArray],
) -> float:
    score = 0.0
    for depth, token in enumerate(path):
        before = path[:depth]
        if before not in known:
            everything = np.arange(backend.vocab_size)
            tree = backend.open([np.concatenate([prompt, np.array(before, dtype=np.int64)])])
            known[before] = tree.log_probs(np.array([0]), everything, np.array([0, len(everything)]))
        score += known[before][token]
        if kind == "catalog":
            beside = sorted({other[depth] for other in paths if other[:depth] == before and len(other) > depth})
            score -= np.logaddexp.reduce(known[before][beside])
    return float(score)
