"""Laws of the search: it finds what brute force finds, and says "proven" only where that is so.

The brute force below knows no trie: it reads one token after the other, each behind a prompt of its own.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import get_args

import numpy as np
import pytest
from brute import log_probs, path_score

from genrec.errors import InputError
from genrec.search import (
    ScoreKind,
    Terms,
    beam_search,
    catalog_steps,
    exhaustive_search,
    path_log_probs,
    prefix_sums,
)
from genrec.testing import TableBackend
from genrec.trie import TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

CASES = range(200)
KINDS = get_args(ScoreKind)
END = 0


@dataclass
class Case:
    """A random catalog, its model, and what is asked of it."""

    backend: TableBackend
    sequences: list[tuple[int, ...]]
    prompts: list[IntArray]
    allowed: BoolArray  # [U, N], by item
    k: int
    prior: FloatArray | None  # [N], by item: what the guide must add
    guide: FloatArray | None  # [T]
    boost: FloatArray | None  # [U, N], by item

    @cached_property
    def trie(self) -> TokenTrie:
        return TokenTrie.from_sequences([np.array(sequence) for sequence in self.sequences])

    def terms(self, kind: ScoreKind) -> Terms:
        items = self.trie.items
        boost = None if self.boost is None else self.boost[:, items]
        return Terms(self.allowed[:, items], self.k, kind, self.guide, boost)

    @cached_property
    def _known(self) -> dict[tuple[int, str], dict[int, float]]:
        return {}

    def truth(self, prompt: int, kind: ScoreKind) -> dict[int, float]:
        """The score of every allowed item."""
        if (prompt, kind) not in self._known:
            items = np.flatnonzero(self.allowed[prompt]).tolist()
            paths = [self.sequences[item] for item in items]
            scores = {}
            for item, path in zip(items, paths, strict=True):
                scores[item] = path_score(self.backend, self.prompts[prompt], path, paths, kind)
                scores[item] += 0.0 if self.prior is None else self.prior[item]
                scores[item] += 0.0 if self.boost is None else self.boost[prompt, item]
            self._known[prompt, kind] = scores
        return self._known[prompt, kind]

    def best(self, prompt: int, kind: ScoreKind) -> list[tuple[float, int]]:
        """(score, item) of the k best allowed items, ties in item order."""
        return ranked(self.truth(prompt, kind))[: self.k]


def ranked(scores: dict[int, float]) -> list[tuple[float, int]]:
    return sorted(((score, item) for item, score in scores.items()), key=lambda pair: (-pair[0], pair[1]))


@cache
def make_case(seed: int, *, spread: float = 2.0) -> Case:
    random = np.random.default_rng(seed)
    vocab_size, count = int(random.integers(3, 20)), int(random.integers(1, 40))
    bodies = [tuple(random.integers(1, vocab_size, random.integers(1, 7)).tolist()) for _ in range(count)]
    sequences = [(*body, END) for body in dict.fromkeys(bodies)]
    users = int(random.integers(1, 4))
    prompts = [random.integers(0, vocab_size, random.integers(1, 9)) for _ in range(users)]
    allowed = random.random((users, len(sequences))) < random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    case = Case(
        TableBackend(vocab_size, seed=seed, spread=spread), sequences, prompts, allowed, int(random.integers(1, 12)),
        prior=None, guide=None, boost=random.normal(size=allowed.shape) * 3 if seed % 2 else None,
    )  # fmt: skip
    if seed % 3 == 0:
        other, prompt = TableBackend(vocab_size, seed=seed + 1000), np.array([1])
        steps = path_log_probs(other.open([prompt]), case.trie, [np.arange(len(case.trie))])[0]
        weight = float(random.choice([0.5, 1.0, 2.0]))
        prior = [-weight * path_score(other, prompt, path, [], "model") for path in sequences]
        case = replace(case, prior=np.array(prior), guide=-weight * prefix_sums(case.trie, steps))
    return case


def check(ranking: Ranking, best: list[tuple[float, int]]) -> None:
    assert ranking.item_indices.tolist() == [item for _, item in best]
    np.testing.assert_allclose(ranking.scores, [score for score, _ in best], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_search_equals_brute_force(kind: ScoreKind) -> None:
    """Anything else is a search bug: at full width no node is ever dropped."""
    for seed in CASES:
        case = make_case(seed)
        terms = case.terms(kind)
        searches = [
            exhaustive_search(case.backend.open(case.prompts), case.trie, terms),
            exhaustive_search(case.backend.open(case.prompts), case.trie, terms, max_nodes=17),
            beam_search(case.backend.open(case.prompts), case.trie, terms, width=len(case.trie)),
            beam_search(case.backend.open(case.prompts), case.trie, terms, width=1, exact=True),
        ]
        for prompt in range(len(case.prompts)):
            best = case.best(prompt, kind)
            for rankings in searches:
                check(rankings[prompt], best)
                assert rankings[prompt].proven


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_search_never_claims_what_it_does_not_know(kind: ScoreKind) -> None:
    """`proven` is read as a promise; and a narrow list must still be full, allowed, distinct and truly scored."""
    proven = unproven = 0
    for seed in CASES:
        case = make_case(seed)
        for width in (1, 2, 5):
            rankings = beam_search(case.backend.open(case.prompts), case.trie, case.terms(kind), width=width)
            for prompt, ranking in enumerate(rankings):
                truth = case.truth(prompt, kind)
                items = ranking.item_indices.tolist()
                assert len(items) == len(set(items)) == min(case.k, int(case.allowed[prompt].sum()))
                check(ranking, ranked({item: truth[item] for item in items}))
                if ranking.proven:
                    check(ranking, case.best(prompt, kind))
                proven += ranking.proven
                unproven += not ranking.proven
    assert proven > 100
    assert unproven > 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", ["exhaustive", "wide", "exact", "narrow"])
def test_equal_scores_stand_in_item_order(search: str, kind: ScoreKind) -> None:
    """The same request must give the same list on every machine, in every batch, under every width."""
    for seed in range(60):
        case = replace(make_case(seed, spread=0.0), boost=None, prior=None, guide=None)
        tree, terms = case.backend.open(case.prompts), case.terms(kind)
        if search == "exhaustive":
            rankings = exhaustive_search(tree, case.trie, terms, max_nodes=seed)
        elif search == "wide":
            rankings = beam_search(tree, case.trie, terms, width=len(case.trie))
        else:
            rankings = beam_search(tree, case.trie, terms, width=1 + seed % 3, exact=search == "exact")
        for prompt, ranking in enumerate(rankings):
            if search == "narrow" and not ranking.proven:
                continue
            truth = {item: round(score, 9) for item, score in case.truth(prompt, kind).items()}
            assert ranking.item_indices.tolist() == [item for _, item in ranked(truth)[: case.k]]


def test_a_limit_on_an_exact_search_keeps_the_list_full() -> None:
    """A search that gives up on its proof must not give up on its list."""
    for seed in CASES:
        case = make_case(seed)
        for max_nodes in (1, 5, 20):
            rankings = beam_search(
                case.backend.open(case.prompts),
                case.trie,
                case.terms("model"),
                width=2,
                exact=True,
                max_nodes=max_nodes,
            )
            for prompt, ranking in enumerate(rankings):
                assert len(ranking.item_indices) == min(case.k, int(case.allowed[prompt].sum()))
                if ranking.proven:
                    check(ranking, case.best(prompt, "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_each_alone(kind: ScoreKind) -> None:
    """Whoever shares a batch with somebody must not be recommended anything else for it."""
    for seed in range(50):
        case = make_case(seed)
        for options in ({"width": 3}, {"width": 2, "exact": True}):
            together = beam_search(case.backend.open(case.prompts), case.trie, case.terms(kind), **options)
            for prompt, ranking in enumerate(together):
                own = slice(prompt, prompt + 1)
                boost = None if case.boost is None else case.boost[own]
                alone = replace(case, prompts=case.prompts[own], allowed=case.allowed[own], boost=boost)
                (other,) = beam_search(alone.backend.open(alone.prompts), alone.trie, alone.terms(kind), **options)
                assert other.item_indices.tolist() == ranking.item_indices.tolist()
                assert other.scores.tolist() == ranking.scores.tolist()
                assert (other.proven, other.compared) == (ranking.proven, ranking.compared)


def test_nothing_allowed_is_an_empty_and_proven_list() -> None:
    """A filter that nothing passes must give nothing, never something else."""
    case = make_case(4)
    terms = replace(case.terms("model"), allowed=np.zeros_like(case.allowed))
    for rankings in (
        beam_search(case.backend.open(case.prompts), case.trie, terms, width=4),
        exhaustive_search(case.backend.open(case.prompts), case.trie, terms),
    ):
        assert all(len(ranking.item_indices) == 0 and ranking.proven for ranking in rankings)


def test_nobody_asked_is_nobody_answered() -> None:
    """A batch that a filter emptied must not end in an error of indices."""
    case = make_case(4)
    terms = Terms(np.ones((0, len(case.trie)), dtype=bool), case.k)
    assert beam_search(case.backend.open([]), case.trie, terms, width=4) == []
    assert exhaustive_search(case.backend.open([]), case.trie, terms) == []


def test_bad_terms_are_refused_by_value() -> None:
    """A mask of the wrong catalog would silently filter other items."""
    case = make_case(1)
    good = case.terms("model")
    wide = np.ones((len(case.prompts), len(case.trie) + 1), dtype=bool)
    for change, message in [
        ({"k": 0}, "k is 0; ask for at least 1"),
        ({"kind": "best"}, "score 'best' is none of model, catalog"),
        ({"allowed": wide}, r"allowed has shape \(\d, \d+\); the trie wants"),
        ({"allowed": good.allowed[0]}, "allowed has shape"),
        ({"guide": np.zeros(3)}, r"guide has shape \(3,\)"),
        ({"boost": np.full(good.allowed.shape, np.nan)}, "boost must be finite"),
        ({"boost": np.zeros(3)}, "boost must be finite and of shape"),
    ]:
        for search in (exhaustive_search, lambda *args: beam_search(*args, width=3)):
            with pytest.raises(InputError, match=message):
                search(case.backend.open(case.prompts), case.trie, replace(good, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="width is 0"):
        beam_search(case.backend.open(case.prompts), case.trie, good, width=0)


@pytest.mark.parametrize("max_nodes", [1, 2, 7, 30, 512])
def test_paths_have_the_log_probs_of_their_tokens_whatever_the_packing(max_nodes: int) -> None:
    """Packing is for speed alone; a score that depends on it depends on the machine's memory."""
    for seed in range(25):
        case = make_case(seed)
        rows = [np.flatnonzero(case.allowed[prompt][case.trie.items]) for prompt in range(len(case.prompts))]
        tree = case.backend.open(case.prompts)
        before = tree.grow(np.array([0]), np.array([1]))
        found = path_log_probs(tree, case.trie, rows, max_nodes=max_nodes)
        assert tree.size == int(before[0]) + 1
        for prompt, own in enumerate(rows):
            expected = [
                log_probs(case.backend, [*case.prompts[prompt], *tokens[:depth]], [token])[0]
                for tokens in (case.trie.row(row).tolist() for row in own)
                for depth, token in enumerate(tokens)
            ]
            np.testing.assert_allclose(found[prompt], expected, atol=1e-12)


def test_catalog_steps_are_the_shares_of_siblings() -> None:
    """Under this score forced tokens cost nothing, and the choices at each node add up to one."""
    for seed in range(50):
        case = make_case(seed)
        steps = -np.random.default_rng(seed).random(len(case.trie.tokens))
        rows = [tuple(case.trie.row(row).tolist()) for row in range(len(case.trie))]
        # A token's step belongs to its prefix, so rows that share a prefix must say the same.
        first: dict[tuple[int, ...], float] = {}
        prefixes = [row[: depth + 1] for row in rows for depth in range(len(row))]
        steps = np.array([first.setdefault(prefix, step) for prefix, step in zip(prefixes, steps, strict=True)])
        expected = []
        for prefix in prefixes:
            siblings = {other for other in first if len(other) == len(prefix) and other[:-1] == prefix[:-1]}
            expected.append(first[prefix] - np.logaddexp.reduce([first[other] for other in siblings]))
        np.testing.assert_allclose(catalog_steps(case.trie, steps), expected, atol=1e-12)
        sums = [sum(first[prefix[: depth + 1]] for depth in range(len(prefix))) for prefix in prefixes]
        np.testing.assert_allclose(prefix_sums(case.trie, steps), sums, atol=1e-12)
