"""Bootstrap intervals, randomisation tests and gaps between groups of users.

Letters: U users.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from genrec.errors import InputError
from genrec.evaluation.checks import finite_values, require_same_length
from genrec.types import FloatArray

RESAMPLES = 2000
PERMUTATIONS = 10_000

_MAX_VALUES_DRAWN = 1 << 22  # values drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The value with the interval in brackets, if the interval is not a single point."""
        return f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.low < self.high else "")


@dataclass(frozen=True, slots=True)
class Parity:
    """Means of a value by groups of users.

    Attributes:
        means: mean of each group.
        users: number of users of each group.
        highest, lowest: the two groups whose means differ most.
        gap: the difference of these two means.
    """

    means: Mapping[Hashable, float]
    users: Mapping[Hashable, int]
    highest: Hashable
    lowest: Hashable
    gap: Interval


def mean_interval(values: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean of `values` [U] with its percentile bootstrap interval.

    The result does not depend on the order of users. Uses at most 100 MB of memory. Source: Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 13.3.

    Args:
        values: [U], one value per user.
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Raises:
        InputError: there is no user, or a value is not finite.
    """
    figures = finite_values(values, "the value of user")
    low, high = np.percentile(_bootstrap_means(figures, resamples, np.random.default_rng(seed)), [2.5, 97.5])
    return Interval(float(figures.mean()), float(low), float(high))


def difference_interval(ours: ArrayLike, theirs: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean of `ours` - `theirs` with its interval, as `mean_interval`; [U] each, for the same users in order."""
    return mean_interval(_paired_differences(ours, theirs), seed=seed, resamples=resamples)


def randomisation_test(ours: ArrayLike, theirs: ArrayLike, *, seed: int, permutations: int = PERMUTATIONS) -> float:
    """The two-sided p-value of the difference between two rankers, by Fisher's randomisation test.

    Under the null hypothesis each user's two values can be swapped. p is the share of random swaps whose mean
    difference is at least as large as the observed one. The observed one counts as a swap, so p is at least
    1 / (1 + permutations). Uses at most 100 MB of memory. Source: Smucker, Allan and Carterette, "A Comparison of
    Statistical Significance Tests for Information Retrieval Evaluation", CIKM 2007.

    Args:
        ours, theirs: [U] each, values of the same users in the same order.
        seed: of the swaps.
        permutations: number of random swaps.

    Raises:
        InputError: there is no user, a value is not finite, or the lengths differ.
    """
    differences = _paired_differences(ours, theirs)
    sizes = np.sort(np.abs(differences[differences != 0]))  # swapping equal values changes nothing
    if not len(sizes):
        return 1.0
    rng, total, width, reached = np.random.default_rng(seed), sizes.sum(), -(-len(sizes) // 8), 0
    least = abs(differences.sum()) - 1e-10 * total  # equal sums may differ by rounding
    for start, stop in _chunks(permutations, len(sizes)):
        drawn = np.frombuffer(rng.bytes((stop - start) * width), dtype=np.uint8).reshape(-1, width)
        swapped = np.unpackbits(drawn, axis=1, count=len(sizes)) @ sizes
        reached += int(np.count_nonzero(np.abs(total - 2 * swapped) >= least))
    return (1 + reached) / (1 + permutations)


def parity(values: ArrayLike, groups: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES) -> Parity:
    """The differences between groups of users in the mean of a value.

    The gap is the largest difference between two group means. Because that pair is selected for being the largest, its
    interval is simultaneous for all pairs: users are resampled within each group, and the half-width is the 95th
    percentile of the largest shift between any two means. An interval that contains 0 shows no difference. The mean of
    a group with one user has no variance.

    Args:
        values: [U], one value per user.
        groups: [U], the group of each user; the result is sorted by the text of the groups.
        seed: of the resampling.
        resamples: number of bootstrap samples.

    Raises:
        InputError: a value is not finite, the lengths differ, or there are fewer than two groups.
    """
    figures = finite_values(values, "the value of user")
    require_same_length(values=figures, groups=groups)
    rows: dict[Hashable, list[int]] = {}
    for user, label in enumerate(groups):
        rows.setdefault(label, []).append(user)
    if len(rows) < 2:
        raise InputError(f"every user is in group {next(iter(rows))!r}; pass at least two groups")
    group_values = {label: figures[rows[label]] for label in sorted(rows, key=str)}
    means = {label: float(group.mean()) for label, group in group_values.items()}
    rng = np.random.default_rng(seed)
    moves = np.stack([_bootstrap_means(group, resamples, rng) - means[label] for label, group in group_values.items()])
    reach = float(np.percentile(np.ptp(moves, axis=0), 95))
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    gap = means[highest] - means[lowest]
    users = {label: len(group) for label, group in group_values.items()}
    return Parity(means, users, highest, lowest, Interval(gap, gap - reach, gap + reach))


def _paired_differences(ours: ArrayLike, theirs: ArrayLike) -> FloatArray:
    one, other = (finite_values(values, "the value of user") for values in (ours, theirs))
    require_same_length(ours=one, theirs=other)
    return one - other


def _chunks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks of rows with at most `_MAX_VALUES_DRAWN` values each, but at least one row."""
    step = max(1, _MAX_VALUES_DRAWN // width)
    return ((start, min(rows, start + step)) for start in range(0, rows, step))


def _bootstrap_means(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means of U values drawn with replacement: float64 [resamples]."""
    ordered, means = np.sort(values), np.empty(resamples)
    for start, stop in _chunks(resamples, len(ordered)):
        means[start:stop] = ordered[rng.integers(0, len(ordered), (stop - start, len(ordered)))].mean(axis=1)
    return means
