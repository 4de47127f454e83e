"""Laws of score bounds: sums and normalised values are those of the paths, and no row exceeds its bound."""

import numpy as np
import pytest

from genrec.decoding.bounds import ScoreBound, prefix_sums, renormalize_over_children, renormalize_runs
from genrec.decoding.prior_penalty import PriorPenalty
from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray


def random_trie(random: np.random.Generator, count: int = 40) -> TokenTrie:
    vocab_size = int(random.integers(3, 20))
    bodies = {tuple(random.integers(1, vocab_size, random.integers(1, 7)).tolist()) for _ in range(count)}
    return TokenTrie.from_sequences([np.array([*body, 0]) for body in bodies])


def test_catalog_log_probs_normalise_over_siblings() -> None:
    """Under this score forced tokens cost nothing, and the probabilities at each node add up to one."""
    for seed in range(50):
        random = np.random.default_rng(seed)
        trie = random_trie(random)
        steps = -random.random(len(trie.tokens))
        siblings: dict[int, list[int]] = {}
        for position, parent in enumerate(trie.parents.tolist()):
            siblings.setdefault(parent, []).append(position)
        expected = np.empty(len(steps))
        for group in siblings.values():
            expected[group] = steps[group] - np.logaddexp.reduce(steps[group])
        np.testing.assert_allclose(renormalize_over_children(trie, steps), expected, atol=1e-12)
        assert all(
            renormalize_over_children(trie, steps)[group[0]] == 0.0 for group in siblings.values() if len(group) == 1
        )


def test_prefix_sums_add_up_along_the_path() -> None:
    """A row's score is the sum at its last token."""
    for seed in range(50):
        random = np.random.default_rng(seed)
        trie = random_trie(random)
        steps = random.normal(size=len(trie.tokens))
        sums = prefix_sums(trie, steps)
        for row in range(len(trie)):
            np.testing.assert_allclose(
                sums[trie.path_positions(np.array([row]))], np.cumsum(steps[trie.path_positions(np.array([row]))])
            )


@pytest.mark.parametrize("steps", [np.array([-np.inf, -np.inf, -1.0]), np.array([-700.0, -750.0, -1.0]), np.empty(0)])
def test_normalised_values_are_finite_at_the_limits_of_precision(steps: FloatArray) -> None:
    """A NaN would compare false with every bound and hide an item."""
    normalized = renormalize_runs(steps, np.array([0, 2]) if len(steps) else np.empty(0, dtype=np.int64))
    assert not np.isnan(normalized).any()
    assert (normalized <= 0).all()
    assert normalized[2:].tolist() == [0.0] * len(normalized[2:])


@pytest.mark.parametrize("count", [1, 5, 40, 400])
def test_bound_is_the_maximum_score_of_a_row(count: int) -> None:
    """A bound that is too low proves a wrong list; one that is too high proves none."""
    random = np.random.default_rng(count)
    trie = random_trie(random, count)
    gains = random.normal(size=len(trie.tokens)) * 3
    bound, totals = ScoreBound(trie, gains), prefix_sums(trie, gains)
    low = random.integers(0, len(trie), 200)
    high = np.minimum(low + random.integers(1, len(trie) + 1, 200), len(trie))
    positions = trie.row_starts(low)
    expected = [
        totals[trie.last_positions[a:b]].max() - totals[position]
        for a, b, position in zip(low, high, positions, strict=True)
    ]
    np.testing.assert_allclose(bound.max_gain(low, high, positions), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["model", "catalog"])
def test_no_score_exceeds_its_bound_by_rounding(kind: str) -> None:
    """Bound and score add the same numbers in another order; a bound that is lower by one bit hides a row."""
    for seed in range(100):
        random = np.random.default_rng(seed)
        trie, weight = random_trie(random, 60), float(random.choice([0.3, 0.7, 1.0, 3.0]))
        prior = -random.choice([0.1, 0.3, 0.7, 13.7], len(trie.tokens)).astype(np.float32)
        bound = PriorPenalty(trie, prior, weight).score_bound(kind)
        gains = prior.astype(np.float64)
        if kind == "catalog":
            gains = renormalize_over_children(trie, gains)
        gains = gains * -weight
        start, boost = -float(random.choice([0.1, 1e3]) * random.random()), float(random.choice([0.1, -0.3, 1e3]))
        for row in range(len(trie)):
            path = trie.path_positions(np.array([row]))
            for depth, position in enumerate(path):
                score = start
                for gain in gains[path[depth + 1 :]]:  # the highest score: every log-probability is 0
                    score += gain
                at = np.array([row])
                limit = start + boost + bound.max_gain(at, at + 1, np.array([position]))
                limit += bound.rounding_error(np.array([abs(start) + abs(boost)]))
                assert limit[0] >= score + boost
                assert limit[0] <= score + boost + 1e-9


def test_missing_or_mismatched_prior_raises() -> None:
    """With half a prior, items would be ranked by whether they have one."""
    trie = random_trie(np.random.default_rng(1))
    with pytest.raises(InputError, match=r"the prior has shape \(2,\), but the trie has"):
        PriorPenalty(trie, np.zeros(2), 1.0)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="the weight of the prior is"):
            PriorPenalty(trie, np.zeros(len(trie.tokens)), weight)
    steps = np.zeros(len(trie.tokens))
    steps[3] = np.nan
    with pytest.raises(InputError, match="1 tokens have no prior"):
        PriorPenalty(trie, steps, 1.0).score_bound("model")
