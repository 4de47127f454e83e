"""Laws of the guide: sums and shares are those of the paths, and no row wins more than the bound says."""

import numpy as np
import pytest

from genrec.decoding.bounds import PriorPenalty, ScoreBound, prefix_sums, renormalize_over_children, renormalize_runs
from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray


def random_trie(random: np.random.Generator, count: int = 40) -> TokenTrie:
    vocab_size = int(random.integers(3, 20))
    bodies = {tuple(random.integers(1, vocab_size, random.integers(1, 7)).tolist()) for _ in range(count)}
    return TokenTrie.from_sequences([np.array([*body, 0]) for body in bodies])


def test_catalog_log_probs_normalise_over_siblings() -> None:
    """Under this score forced tokens cost nothing, and the choices at each node add up to one."""
    for seed in range(50):
        random = np.random.default_rng(seed)
        trie = random_trie(random)
        steps = -random.random(len(trie.tokens))
        families: dict[int, list[int]] = {}
        for place, parent in enumerate(trie.parents.tolist()):
            families.setdefault(parent, []).append(place)
        expected = np.empty(len(steps))
        for family in families.values():
            expected[family] = steps[family] - np.logaddexp.reduce(steps[family])
        np.testing.assert_allclose(renormalize_over_children(trie, steps), expected, atol=1e-12)
        assert all(
            renormalize_over_children(trie, steps)[family[0]] == 0.0 for family in families.values() if len(family) == 1
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
def test_shares_are_numbers_at_the_edge_of_what_can_be_told_apart(steps: FloatArray) -> None:
    """A NaN would compare false with every bound and hide an item."""
    shares = renormalize_runs(steps, np.array([0, 2]) if len(steps) else np.empty(0, dtype=np.int64))
    assert not np.isnan(shares).any()
    assert (shares <= 0).all()
    assert shares[2:].tolist() == [0.0] * len(shares[2:])


@pytest.mark.parametrize("count", [1, 5, 40, 400])
def test_bound_is_the_maximum_score_of_a_row(count: int) -> None:
    """Less would prove a wrong list, more would prove none."""
    random = np.random.default_rng(count)
    trie = random_trie(random, count)
    wins = random.normal(size=len(trie.tokens)) * 3
    most, totals = ScoreBound(trie, wins), prefix_sums(trie, wins)
    low = random.integers(0, len(trie), 200)
    high = np.minimum(low + random.integers(1, len(trie) + 1, 200), len(trie))
    places = trie.row_starts(low)
    expected = [
        totals[trie.last_positions[a:b]].max() - totals[place] for a, b, place in zip(low, high, places, strict=True)
    ]
    np.testing.assert_allclose(most.max_gain(low, high, places), expected, atol=1e-12)


def test_missing_or_mismatched_prior_raises() -> None:
    """Half a prior would rank by whether an item has one."""
    trie = random_trie(np.random.default_rng(1))
    with pytest.raises(InputError, match=r"the prior has shape \(2,\); the trie has"):
        PriorPenalty(trie, np.zeros(2), 1.0)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="the prior's weight is"):
            PriorPenalty(trie, np.zeros(len(trie.tokens)), weight)
    steps = np.zeros(len(trie.tokens))
    steps[3] = np.nan
    with pytest.raises(InputError, match="1 tokens have no prior, or one that is not finite"):
        PriorPenalty(trie, steps, 1.0).score_bound("model")
