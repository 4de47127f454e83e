"""Laws of the search: it finds what brute force finds, and `proven` is true only where that holds.

The brute force uses no trie: it scores one token after the other, each behind a prompt of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import get_args

import numpy as np
import pytest
from brute import path_score
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.decoding.prior_penalty import PriorPenalty
from genrec.decoding.search import beam_search, exhaustive_search
from genrec.decoding.search_request import ScoreKind, SearchRequest
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.notices import Notice
from genrec.testing import TableBackend, TableTree
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

CASES = range(200)
KINDS = get_args(ScoreKind)
END = 0
PRIOR = np.array([1])


@dataclass
class Case:
    """A random catalog, its model, and a request."""

    backend: TableBackend
    sequences: list[tuple[int, ...]]
    prompts: list[IntArray]
    allowed: BoolArray  # [U, N], by item
    k: int
    weight: float  # of the prior; 0 for none
    boost: FloatArray | None  # [U, N], by item

    @cached_property
    def trie(self) -> TokenTrie:
        return TokenTrie.from_sequences([np.array(sequence) for sequence in self.sequences])

    @cached_property
    def other(self) -> TableBackend:
        """The model of the prior."""
        return TableBackend(self.backend.vocab_size, seed=self.backend.seed + 1000, logit_std=self.backend.logit_std)

    @cached_property
    def penalty(self) -> PriorPenalty | None:
        if not self.weight:
            return None
        scores = score_tries(self.other.open([PRIOR]), [self.trie])[0]
        assert scores is not None
        return PriorPenalty(self.trie, scores.log_probs, self.weight)

    def request(self, kind: ScoreKind) -> SearchRequest:
        items = self.trie.items
        # The same rows as a list, or as a mask minus a list.
        mask = Mask.from_bool(self.allowed[:, items].any(axis=0))
        allowed = []
        for number, own in enumerate(self.allowed[:, items]):
            masked = Subset.from_mask(mask).without(np.flatnonzero(~own))
            allowed.append(Subset.from_indices(len(items), np.flatnonzero(own)) if number % 2 else masked)
        boosts = None
        if self.boost is not None:
            boosts = [Boost(np.flatnonzero(own), own[own != 0]) for own in self.boost[:, items]]
        return SearchRequest(allowed, self.k, kind, self.penalty, boosts)

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
                if self.weight:
                    scores[item] -= self.weight * path_score(self.other, PRIOR, path, paths, kind)
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
    boost = random.normal(size=allowed.shape) * 3
    boost *= random.random(allowed.shape) < random.choice([0.0, 0.2, 1.0])
    weight = float(random.choice([0.5, 1.0, 2.0])) if seed % 3 == 0 else 0.0
    backend = TableBackend(vocab_size, seed=seed, logit_std=spread)
    return Case(backend, sequences, prompts, allowed, int(random.integers(1, 12)), weight, boost if seed % 2 else None)


def check(ranking: Ranking, best: list[tuple[float, int]]) -> None:
    assert ranking.item_indices.tolist() == [item for _, item in best]
    np.testing.assert_allclose(ranking.scores, [score for score, _ in best], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_search_equals_brute_force(kind: ScoreKind) -> None:
    """At full width no node is pruned, so any difference is a bug of the search."""
    for seed in CASES:
        case = make_case(seed)
        request = case.request(kind)
        searches = [
            exhaustive_search(case.backend.open(case.prompts), case.trie, request),
            exhaustive_search(case.backend.open(case.prompts), case.trie, request, max_nodes=17),
            beam_search(case.backend.open(case.prompts), case.trie, request, width=len(case.trie)),
            beam_search(case.backend.open(case.prompts), case.trie, request, width=1, exact=True),
        ]
        for prompt in range(len(case.prompts)):
            best = case.best(prompt, kind)
            for rankings in searches:
                check(rankings[prompt], best)
                assert rankings[prompt].proven


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_search_is_proven_only_where_it_is_right(kind: ScoreKind) -> None:
    """`proven` is a guarantee; and a narrow list must still be full, allowed, distinct and correctly scored."""
    proven = unproven = 0
    for seed in CASES:
        case = make_case(seed)
        for width in (1, 2, 5):
            rankings = beam_search(case.backend.open(case.prompts), case.trie, case.request(kind), width=width)
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
def test_ties_are_in_item_order(search: str, kind: ScoreKind) -> None:
    """The same request must give the same list on every machine, in every batch and at every width."""
    for seed in range(60):
        case = replace(make_case(seed, spread=0.0), boost=None, weight=0.0)
        tree, request = case.backend.open(case.prompts), case.request(kind)
        if search == "exhaustive":
            rankings = exhaustive_search(tree, case.trie, request, max_nodes=seed)
        elif search == "wide":
            rankings = beam_search(tree, case.trie, request, width=len(case.trie))
        else:
            rankings = beam_search(tree, case.trie, request, width=1 + seed % 3, exact=search == "exact")
        for prompt, ranking in enumerate(rankings):
            if search == "narrow" and not ranking.proven:
                continue
            truth = {item: round(score, 9) for item, score in case.truth(prompt, kind).items()}
            assert ranking.item_indices.tolist() == [item for _, item in ranked(truth)[: case.k]]


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS))
def test_an_exact_beam_breaks_ties_as_scoring_every_row_does(seed: int, kind: ScoreKind) -> None:
    """A bound that is rounded below the score of its row hides a row that ties with the k-th, or proves a wrong list.

    Few distinct log-probabilities, priors and boosts, whose sums are inexact, make most lists end in a tie.
    """
    random = np.random.default_rng(seed)
    vocab_size, users = int(random.integers(3, 8)), 2
    bodies = [tuple(random.integers(1, vocab_size, random.integers(1, 7)).tolist()) for _ in range(60)]
    sequences = [np.array([*body, END]) for body in dict.fromkeys(bodies)]
    trie, size = TokenTrie.from_sequences(sequences), len(set(bodies))
    backend = TableBackend(vocab_size, seed=seed, logit_std=float(random.choice([0.0, 0.0, 1.0])))
    prompts = [random.integers(0, vocab_size, 3) for _ in range(users)]
    (prior,) = score_tries(backend.open(prompts[:1]), [trie])
    assert prior is not None
    weight = float(random.choice([0.3, 0.7, 1.0, 2.0]))
    penalty = PriorPenalty(trie, prior.log_probs.astype(np.float32), weight) if random.random() < 0.8 else None
    boosted = np.flatnonzero(random.random(size) < random.choice([0.0, 0.05, 0.5, 1.0]))
    boosts = [Boost(boosted, random.choice([0.1, 0.3, 0.7], len(boosted))) for _ in range(users)]
    allowed = Subset.everything(size)
    if random.random() < 0.5:
        allowed = allowed.without(np.flatnonzero(random.random(size) < 0.3))
    request = SearchRequest([allowed] * users, int(random.integers(1, 6)), kind, penalty, boosts)
    expected = exhaustive_search(backend.open(prompts), trie, request)
    for options in ({"width": 1, "exact": True}, {"width": 2, "exact": True}, {"width": 3}):
        found = beam_search(backend.open(prompts), trie, request, **options)
        for own, other in zip(found, expected, strict=True):
            assert own.proven or not options.get("exact")
            if own.proven:
                assert own.item_indices.tolist() == other.item_indices.tolist()
                assert own.scores.tolist() == other.scores.tolist()


class RoundingBackend(TableBackend):
    """A model whose log-probabilities of certain tokens are rounded to just above 0."""

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TableTree:
        tree = super().open(prompts, deadline=deadline)
        read = tree.log_probs
        tree.log_probs = lambda *query: np.maximum(read(*query), 0.0) + 1e-7  # type: ignore[method-assign]
        return tree


def test_log_probabilities_just_above_zero_do_not_break_a_proof() -> None:
    """If a score rises along a path, a longer title beats its bound, and a list is called proven that is wrong."""
    sequences = [np.array([1, END]), *(np.array([2, *[3] * length, END]) for length in range(1, 9))]
    trie, backend = TokenTrie.from_sequences(sequences), RoundingBackend(5)
    request = SearchRequest([Subset.everything(len(sequences))], 1)
    for search in (
        exhaustive_search(backend.open([PRIOR]), trie, request),
        beam_search(backend.open([PRIOR]), trie, request, width=1, exact=True),
    ):
        assert search[0].item_indices.tolist() == [0]
        assert search[0].scores.tolist() == [0.0]
        assert search[0].proven


def test_a_limit_on_an_exact_search_keeps_the_list_full() -> None:
    """A search that stops without a proof must still return k items."""
    for seed in CASES:
        case = make_case(seed)
        for max_nodes in (1, 5, 20):
            rankings = beam_search(
                case.backend.open(case.prompts),
                case.trie,
                case.request("model"),
                width=2,
                exact=True,
                max_nodes=max_nodes,
            )
            for prompt, ranking in enumerate(rankings):
                assert len(ranking.item_indices) == min(case.k, int(case.allowed[prompt].sum()))
                if ranking.proven:
                    check(ranking, case.best(prompt, "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_ranking_does_not_depend_on_the_batch(kind: ScoreKind) -> None:
    """A user's recommendations must not depend on the other users of the batch."""
    for seed in range(50):
        case = make_case(seed)
        for options in ({"width": 3}, {"width": 2, "exact": True}):
            together = beam_search(case.backend.open(case.prompts), case.trie, case.request(kind), **options)
            for prompt, ranking in enumerate(together):
                own = slice(prompt, prompt + 1)
                boost = None if case.boost is None else case.boost[own]
                alone = replace(case, prompts=case.prompts[own], allowed=case.allowed[own], boost=boost)
                (other,) = beam_search(alone.backend.open(alone.prompts), alone.trie, alone.request(kind), **options)
                assert other.item_indices.tolist() == ranking.item_indices.tolist()
                assert other.scores.tolist() == ranking.scores.tolist()
                assert (other.proven, other.num_scored) == (ranking.proven, ranking.num_scored)


def test_nothing_allowed_is_an_empty_and_proven_list() -> None:
    """A filter that no item passes must give an empty list."""
    case = make_case(4)
    nothing = [Subset.from_indices(len(case.trie), [])] * len(case.prompts)
    request = replace(case.request("model"), allowed=nothing)
    for rankings in (
        beam_search(case.backend.open(case.prompts), case.trie, request, width=4),
        exhaustive_search(case.backend.open(case.prompts), case.trie, request),
    ):
        assert all(len(ranking.item_indices) == 0 and ranking.proven for ranking in rankings)
        assert all(ranking.notices == (Notice("nothing_allowed"),) for ranking in rankings)


def test_empty_batch_gives_no_rankings() -> None:
    """An empty batch must not raise an index error."""
    case = make_case(4)
    request = SearchRequest([], case.k)
    assert beam_search(case.backend.open([]), case.trie, request, width=4) == []
    assert exhaustive_search(case.backend.open([]), case.trie, request) == []


def test_invalid_search_request_raises() -> None:
    """A mask of another catalog would silently filter the wrong items."""
    case = make_case(1)
    good = case.request("model")
    users, size = len(case.prompts), len(case.trie)
    other = make_case(3).penalty
    for change, message in [
        ({"k": 0}, "k is 0; give a whole number of at least 1"),
        ({"score_kind": "best"}, "score_kind is 'best'; choose one of model, catalog"),
        ({"allowed": [Subset.everything(size + 1)] * users}, rf"subset of {size + 1} rows, but the trie has {size}"),
        ({"prior_penalty": other}, "prior_penalty was made for another trie"),
        ({"boosts": []}, "there are 0 boosts for"),
        ({"boosts": [Boost(np.array([size]), np.array([1.0]))] * users}, f"row {size} is boosted"),
    ]:
        for search in (exhaustive_search, lambda *args: beam_search(*args, width=3)):
            with pytest.raises(InputError, match=message):
                search(case.backend.open(case.prompts), case.trie, replace(good, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_nodes is -1"):
        beam_search(case.backend.open(case.prompts), case.trie, good, width=3, exact=True, max_nodes=-1)
    with pytest.raises(InputError, match="width is 0"):
        beam_search(case.backend.open(case.prompts), case.trie, good, width=0)


def test_a_tree_of_other_prompts_is_refused() -> None:
    """Prompts are identified by their number: with one missing, a user would be ranked behind the prompt of another."""
    case = make_case(1)
    request = replace(case.request("model"), boosts=None)
    for prompts in (case.prompts[:-1], [*case.prompts, case.prompts[0]]):
        for search in (exhaustive_search, lambda *args: beam_search(*args, width=3)):
            with pytest.raises(InputError, match=f"the request has {len(case.prompts)} subsets, but the tree has"):
                search(case.backend.open(prompts), case.trie, request)


def test_an_exact_search_reports_its_cost_and_saves_nodes() -> None:
    """Callers need the cost of a proof; it must not exceed the cost of growing the whole trie."""
    for seed in range(50):
        case = make_case(seed)
        tree = case.backend.open(case.prompts)
        rankings = beam_search(tree, case.trie, case.request("model"), width=1, exact=True)
        assert sum(ranking.generated_tokens for ranking in rankings) == tree.size - len(case.prompts)
        for ranking in rankings:
            assert ranking.forward_passes <= ranking.generated_tokens <= len(case.trie.tokens)
