"""How good lists of recommendations are, what else they do, and how sure a figure is.

Figures come one a user wherever they can, so that an interval can be put around their mean. Users count from 0. In
lists of item indices -1 stands for what was named and is not in the catalog: `faults` counts it, all else leaves it
out, and whoever has nothing left to average has nan. Letters: U users, N items of the catalog, D dimensions.
"""

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec.errors import InputError, ModelMissingError
from genrec.types import FloatArray, IntArray, ItemId

ItemLists = Sequence[Sequence[int] | IntArray]  # U lists of item indices, of any length
RESAMPLES = 2000
PERMUTATIONS = 10_000

_MEASURES = {"hit": "Success", "mrr": "RR", "ndcg": "nDCG", "precision": "P", "recall": "R"}
_MAX_VALUES_DRAWN = 1 << 22  # values drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """For a table: the interval in brackets, where there is one."""
        return f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.low < self.high else "")


@dataclass(frozen=True, slots=True)
class Parity:
    """A figure by groups of users: the mean of each, how many users it has, and the two that lie furthest apart."""

    means: Mapping[Hashable, float]
    users: Mapping[Hashable, int]
    highest: Hashable
    lowest: Hashable
    gap: Interval


def accuracy(
    lists: Sequence[Sequence[ItemId]], targets: Sequence[Collection[ItemId]], metrics: Sequence[str]
) -> dict[str, FloatArray]:
    """How well lists find what their users chose, by ir-measures: each metric's float64 [U], in the order of users.

    Only the order of a list counts. Ids are compared by their text, as in a catalog. An item that a list repeats counts
    where it stands first; its other places hold nothing and keep their rank. A list without a target is worth 0.

    Args:
        lists: U lists of item ids, best first, of any length.
        targets: the items that each user chose, in any order.
        metrics: `hit@k`, whether a target is among the first k; `mrr@k`, 1 / the rank of the first target; `ndcg@k`,
            the sum of 1 / log2(1 + rank) over targets, as a share of the best that k places allow (Järvelin and
            Kekäläinen, TOIS 2002); `precision@k`, the share of k places that hold a target, also where a list is
            shorter; `recall@k`, the share of all targets that is among the first k. k is 1 or more.

    Raises:
        InputError: a user has no target, a metric is unknown, or lists and targets differ in number.
        ModelMissingError: ir-measures is not installed.
    """
    parsed = {name: _parse_metric(name) for name in metrics}
    _require_same_length(lists=lists, targets=targets)
    try:
        import ir_measures
    except ImportError as error:
        raise ModelMissingError("ir-measures is not installed; run: pip install 'genrec[eval]'") from error
    run: dict[str, dict[str, float]] = {}
    truth: dict[str, dict[str, int]] = {}
    for user, (items, wanted) in enumerate(zip(lists, targets, strict=True)):
        if isinstance(items, str) or isinstance(wanted, str):
            raise InputError(f"user {user}, counted from 0, has a text for a list of ids; write ['id'], not 'id'")
        missing = {str(item) for item in wanted}
        if not missing:
            raise InputError(f"user {user}, counted from 0, has no target to be found; leave such users out")
        # Each place is a document of its own: repeats keep their rank, and no two scores are equal.
        run[str(user)] = {str(place): -float(place) for place in range(len(items))}
        found = truth[str(user)] = {}
        for place, item in enumerate(map(str, items)):
            if item in missing:
                missing.remove(item)
                found[str(place)] = 1
        found.update({f"missing {number}": 1 for number in range(len(missing))})
    values = {name: np.zeros(len(lists)) for name in parsed}
    measures = {getattr(ir_measures, kind) @ k: values[name] for name, (kind, k) in parsed.items()}
    for one in ir_measures.iter_calc(list(measures), truth, run) if measures else ():
        measures[one.measure][int(one.query_id)] = one.value
    return values


def metric_cutoff(metric: str) -> int:
    """The k of a metric's name: how many places it looks at.

    Raises:
        InputError: there is no such metric.
    """
    return _parse_metric(metric)[1]


def coverage(lists: ItemLists, catalog_size: int) -> float:
    """The share of the catalog that is recommended to anybody (Ge, Delgado-Battenfeld and Jannach, RecSys 2010).

    Raises:
        InputError: an index is outside the catalog.
    """
    return float(np.count_nonzero(_exposure_counts(lists, catalog_size)) / catalog_size)


def gini(lists: ItemLists, catalog_size: int) -> float:
    """How unevenly lists expose the catalog: 0 where every item is recommended as often, 1 where only one ever is.

    With n_1 <= ... <= n_N how often each item is recommended: sum over j of (2j - N - 1) n_j, over (N - 1) sum n.
    Source: Shani and Gunawardana, "Evaluating Recommendation Systems", Recommender Systems Handbook, 2011.

    Raises:
        InputError: an index is outside the catalog, or nothing is recommended.
    """
    exposure = np.sort(_exposure_counts(lists, catalog_size))
    if not exposure.any():
        raise InputError("the lists hold no item of the catalog, so none is exposed; check what was ranked")
    weights = 2 * np.arange(1, catalog_size + 1) - catalog_size - 1
    return float(weights @ exposure / (max(catalog_size - 1, 1) * exposure.sum()))


def novelty(lists: ItemLists, counts: ArrayLike) -> FloatArray:
    """How far lists are from what everybody meets: float64 [U], means of an item's self-information, -log2 p, in bits.

    p is the item's share of events, after one more event for each item: (count + 1) / (sum of counts + N); otherwise an
    item that nobody met would be infinitely new. Source: Vargas and Castells, "Rank and Relevance in Novelty and
    Diversity Metrics for Recommender Systems", RecSys 2011, without their discounts for rank and relevance.

    Args:
        lists: U lists.
        counts: [N], events of each item in training.

    Raises:
        InputError: an index is outside the catalog, or a count is negative or not finite.
    """
    events = _validated(counts, "the count of item", minimum=0)
    return _mean_per_list(lists, -np.log2((events + 1) / (events.sum() + len(events))))


def diversity(lists: ItemLists, vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """How unlike the items of a list are: float64 [U], means over all pairs of 1 - cosine, 0 to 2; nan below two items.

    Source: Ziegler et al., "Improving Recommendation Lists Through Topic Diversification", WWW 2005: their intra-list
    similarity, as a distance and averaged.

    Args:
        lists: U lists.
        vectors: [N, D].

    Raises:
        InputError: an index is outside the catalog, or a recommended item's vector is 0 or not finite.
    """
    _flatten(lists, len(vectors))
    found = np.full(len(lists), np.nan)
    for user, one in enumerate(lists):
        items = np.asarray(one, dtype=np.int64)
        items = items[items >= 0]
        rows = vectors[items].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)
        if (bad := ~np.isfinite(norms) | (norms == 0)).any():
            raise InputError(f"the vector of item {items[np.argmax(bad)]} has no direction; give it numbers, not all 0")
        if len(items) > 1:
            # The squared length of a sum of unit vectors is their number and twice the cosine of each pair.
            total = (rows / norms[:, None]).sum(axis=0)
            found[user] = max(0.0, 1 - (total @ total - len(items)) / (len(items) * (len(items) - 1)))
    return found


def popularity(lists: ItemLists, counts: ArrayLike) -> FloatArray:
    """How often the items of a list were met in training: float64 [U], means of `counts` [N]. Raises as `novelty`.

    Its mean is the average recommendation popularity of Abdollahpouri, Burke and Mobasher, "Managing Popularity Bias
    in Recommender Systems with Personalized Re-ranking", FLAIRS 2019.
    """
    return _mean_per_list(lists, _validated(counts, "the count of item", minimum=0))


def popularity_lift(lists: ItemLists, histories: ItemLists, counts: ArrayLike) -> float:
    """The mean `popularity` of lists over that of their users' histories; above 1, lists are the more popular.

    Users without a list or a history are left out of both. Source: Abdollahpouri et al., "The Unfairness of Popularity
    Bias in Recommendation", RMSE workshop at RecSys 2019, whose figure is this less 1.

    Raises:
        InputError: as `novelty`; lists and histories differ in number; or no history has an item that was met.
    """
    _require_same_length(lists=lists, histories=histories)
    recommended, chosen = popularity(lists, counts), popularity(histories, counts)
    both = ~np.isnan(recommended) & ~np.isnan(chosen)
    if not chosen[both].any():
        raise InputError("no user with a list has a history of items that were met; there is nothing to compare with")
    return float(recommended[both].mean() / chosen[both].mean())


def length_bias(lists: ItemLists, lengths: ArrayLike) -> FloatArray:
    """How long the titles of a list are over the mean of the catalog: float64 [U]; below 1, lists favour short titles.

    Args:
        lists: U lists.
        lengths: [N], of each title, in tokens or in characters.

    Raises:
        InputError: an index is outside the catalog, a length is below 0 or not finite, or all are 0.
    """
    figures = _validated(lengths, "the length of item", minimum=0)
    if not figures.any():
        raise InputError("every title has length 0; there is nothing to compare with")
    return _mean_per_list(lists, figures / figures.mean())


def list_defects(lists: ItemLists, histories: ItemLists, catalog_size: int) -> dict[str, FloatArray]:
    """What does not belong into a list, as shares of its places: each float64 [U], nan where a list is empty.

    `invalid`: not in the catalog (-1); `repeated`: further up in the same list already; `seen`: in the user's history.

    Raises:
        InputError: an index is outside the catalog, or lists and histories differ in number.
    """
    _require_same_length(lists=lists, histories=histories)
    (flat, owners), (met, watchers) = _flatten(lists, catalog_size), _flatten(histories, catalog_size)
    valid, pairs = flat >= 0, owners * catalog_size + flat
    repeated = valid.copy()
    repeated[np.flatnonzero(valid)[np.unique(pairs[valid], return_index=True)[1]]] = False
    seen = valid & np.isin(pairs, (watchers * catalog_size + met)[met >= 0])
    masks = {"invalid": ~valid, "repeated": repeated, "seen": seen}
    return {name: _mean_by_user(mask.astype(np.float64), owners, len(lists)) for name, mask in masks.items()}


def source_shares(sources: Sequence[Sequence[str]]) -> dict[str, float]:
    """The share of all recommended items that each source served, largest first; {} where nothing is recommended.

    Of `Recommendation.stage`, what the first step of a ladder did not serve is the fallback share.
    """
    served = Counter(chain.from_iterable(sources))
    return {source: count / served.total() for source, count in served.most_common()}


def mean_interval(values: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean of `values` [U] with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    The same whatever the order of users. Takes 100 MB at the most.

    Raises:
        InputError: there is no user, or a value is not finite.
    """
    figures = _validated(values, "the value of user")
    low, high = np.percentile(_bootstrap_means(figures, resamples, np.random.default_rng(seed)), [2.5, 97.5])
    return Interval(float(figures.mean()), float(low), float(high))


def difference_interval(ours: ArrayLike, theirs: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean of `ours` - `theirs`, [U] each of the same users in the same order; otherwise as `mean_interval`."""
    return mean_interval(_paired_differences(ours, theirs), seed=seed, resamples=resamples)


def randomisation_test(ours: ArrayLike, theirs: ArrayLike, *, seed: int, permutations: int = PERMUTATIONS) -> float:
    """The p-value, two-sided, of the difference between two rankers on the same users, [U] values each.

    Were the rankers alike, each user's two values could as well be swapped: p is the share of random swaps that bring
    a mean difference as large, the observed one counted as a swap, so p >= 1 / (1 + permutations). Takes 100 MB at
    the most. Source: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information
    Retrieval Evaluation", CIKM 2007.

    Raises:
        InputError: there is no user, a value is not finite, or the two differ in number.
    """
    differences = _paired_differences(ours, theirs)
    sizes = np.sort(np.abs(differences[differences != 0]))  # to swap equal values changes nothing
    if not len(sizes):
        return 1.0
    rng, total, width, reached = np.random.default_rng(seed), sizes.sum(), -(-len(sizes) // 8), 0
    least = abs(differences.sum()) - 1e-10 * total  # equal sums may be rounded apart
    for start, stop in _chunks(permutations, len(sizes)):
        drawn = np.frombuffer(rng.bytes((stop - start) * width), dtype=np.uint8).reshape(-1, width)
        swapped = np.unpackbits(drawn, axis=1, count=len(sizes)) @ sizes
        reached += int(np.count_nonzero(np.abs(total - 2 * swapped) >= least))
    return (1 + reached) / (1 + permutations)


def parity(values: ArrayLike, groups: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES) -> Parity:
    """How `values` [U] differ between groups of users, whose labels [U] are `groups`; groups sorted by their text.

    The gap is the largest difference of two group means. As that pair was picked for being the largest, its interval
    is as wide as all pairs need together: users are resampled within each group, and it reaches to either side as far
    as 95 % of the resamples move any two means apart. One that holds 0 shows no difference. A group of one never moves.

    Raises:
        InputError: a value is not finite, values and groups differ in number, or there are fewer than two groups.
    """
    figures = _validated(values, "the value of user")
    _require_same_length(values=figures, groups=groups)
    rows: dict[Hashable, list[int]] = {}
    for user, label in enumerate(groups):
        rows.setdefault(label, []).append(user)
    if len(rows) < 2:
        raise InputError(f"every user is in group {next(iter(rows))!r}; a gap takes two groups")
    own = {label: figures[rows[label]] for label in sorted(rows, key=str)}
    means = {label: float(one.mean()) for label, one in own.items()}
    rng = np.random.default_rng(seed)
    moves = np.stack([_bootstrap_means(one, resamples, rng) - means[label] for label, one in own.items()])
    reach = float(np.percentile(np.ptp(moves, axis=0), 95))
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    gap = means[highest] - means[lowest]
    users = {label: len(one) for label, one in own.items()}
    return Parity(means, users, highest, lowest, Interval(gap, gap - reach, gap + reach))


def _parse_metric(name: str) -> tuple[str, int]:
    match = re.fullmatch("([a-z]+)@([1-9][0-9]*)", name)
    if match is None or match[1] not in _MEASURES:
        known = ", ".join(f"{one}@k" for one in _MEASURES)
        raise InputError(f"no metric is called {name!r}; choose from {known}, with a whole number from 1 for k")
    return _MEASURES[match[1]], int(match[2])


def _flatten(lists: ItemLists, size: int) -> tuple[IntArray, IntArray]:
    """All indices, checked, one after the other; and the user whose list each is from."""
    arrays = [np.asarray(one, dtype=np.int64) for one in lists]
    flat = np.concatenate([np.empty(0, dtype=np.int64), *arrays])
    owners = np.repeat(np.arange(len(arrays)), np.array([len(one) for one in arrays], dtype=np.int64))
    if (bad := (flat < -1) | (flat >= size)).any():
        user, index = owners[np.argmax(bad)], flat[np.argmax(bad)]
        raise InputError(f"item index {index} of user {user} is not 0 to {size - 1}, nor -1 for an unknown item")
    return flat, owners


def _exposure_counts(lists: ItemLists, size: int) -> NDArray[np.intp]:
    flat, _ = _flatten(lists, size)
    return np.bincount(flat[flat >= 0], minlength=size)


def _mean_per_list(lists: ItemLists, item_values: FloatArray) -> FloatArray:
    flat, owners = _flatten(lists, len(item_values))
    return _mean_by_user(item_values[flat[flat >= 0]], owners[flat >= 0], len(lists))


def _mean_by_user(values: FloatArray, owners: IntArray, n_users: int) -> FloatArray:
    sums, counts = np.bincount(owners, values, n_users), np.bincount(owners, minlength=n_users)
    means = np.full(n_users, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _validated(values: ArrayLike, what: str, minimum: float = -np.inf) -> FloatArray:
    figures = np.asarray(values, dtype=np.float64)
    if figures.ndim != 1 or not len(figures):
        raise InputError(f"{what} must be one number each, one at least; got an array of shape {figures.shape}")
    if (bad := ~np.isfinite(figures) | (figures < minimum)).any():
        raise InputError(f"{what} {np.argmax(bad)} is {figures[np.argmax(bad)]}; mend it or leave it out")
    return figures


def _require_same_length(**columns: Sized) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        found = " and ".join(f"{len(column):,} {name}" for name, column in columns.items())
        raise InputError(f"got {found}; pass one of each for every user")


def _paired_differences(ours: ArrayLike, theirs: ArrayLike) -> FloatArray:
    one, other = (_validated(values, "the value of user") for values in (ours, theirs))
    _require_same_length(ours=one, theirs=other)
    return one - other


def _chunks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Where runs of rows start and stop, each of _CHUNK values at the most and one row at least."""
    step = max(1, _MAX_VALUES_DRAWN // width)
    return ((start, min(rows, start + step)) for start in range(0, rows, step))


def _bootstrap_means(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means of U values drawn with replacement: float64 [resamples]."""
    ordered, means = np.sort(values), np.empty(resamples)
    for start, stop in _chunks(resamples, len(ordered)):
        means[start:stop] = ordered[rng.integers(0, len(ordered), (stop - start, len(ordered)))].mean(axis=1)
    return means
