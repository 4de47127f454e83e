"""Metrics of recommendation lists: accuracy, and beyond accuracy.

Values are returned per user where possible, so that an interval can be computed for their mean. Users are numbered from
0. In lists of item indices, -1 stands for a recommended item that is not in the catalog: `list_defects` counts it, all
other metrics ignore it. The value of a user with nothing to average is nan. Letters: U users, N items, D dimensions.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec.errors import InputError, ModelMissingError, format_value
from genrec.evaluation.checks import finite_values, require_same_length
from genrec.types import FloatArray, IntArray, ItemId

ItemLists = Sequence[Sequence[int] | IntArray]  # U lists of item indices, of any length

_MEASURES = {"hit": "Success", "mrr": "RR", "ndcg": "nDCG", "precision": "P", "recall": "R"}


def accuracy(
    lists: Sequence[Sequence[ItemId]], targets: Sequence[Collection[ItemId]], metrics: Sequence[str]
) -> dict[str, FloatArray]:
    """Accuracy metrics per user, computed by ir-measures.

    Ids are compared by their text, as in a catalog. A repeated item counts at its first rank only; the items after its
    other occurrences keep their ranks. A list without a target scores 0.

    Args:
        lists: U lists of item ids, best first, of any length.
        targets: the relevant items of each user, in any order.
        metrics: `hit@k`, 1 if a target is among the first k; `mrr@k`, 1 / rank of the first target; `ndcg@k`, the sum
            of 1 / log2(1 + rank) over targets, divided by its greatest possible value (Järvelin and Kekäläinen, TOIS
            2002); `precision@k`, number of targets among the first k, divided by k even if a list is shorter;
            `recall@k`, the share of all targets that are among the first k. k is 1 or more.

    Returns:
        For each metric, float64 [U] in the order of users.

    Raises:
        InputError: a user has no target, a metric is unknown, or the numbers of lists and targets differ.
        ModelMissingError: ir-measures is not installed.
    """
    parsed = {name: _parse_metric(name) for name in metrics}
    require_same_length(lists=lists, targets=targets)
    try:
        import ir_measures
    except ImportError as error:
        raise ModelMissingError("ir-measures is not installed; run: pip install 'genrec[eval]'") from error
    run: dict[str, dict[str, float]] = {}
    truth: dict[str, dict[str, int]] = {}
    for user, (items, user_targets) in enumerate(zip(lists, targets, strict=True)):
        if isinstance(items, str) or isinstance(user_targets, str):
            raise InputError(
                f"user {user}, counted from 0, has a string instead of a list of ids; pass ['id'], not 'id'"
            )
        missing = {str(item) for item in user_targets}
        if not missing:
            raise InputError(f"user {user}, counted from 0, has no target; omit such users")
        # Each rank is a document of its own, so that repeats keep their rank and no two scores are equal.
        run[str(user)] = {str(position): -float(position) for position in range(len(items))}
        found = truth[str(user)] = {}
        for position, item in enumerate(map(str, items)):
            if item in missing:
                missing.remove(item)
                found[str(position)] = 1
        found.update({f"missing {number}": 1 for number in range(len(missing))})
    values = {name: np.zeros(len(lists)) for name in parsed}
    measures = {getattr(ir_measures, kind) @ k: values[name] for name, (kind, k) in parsed.items()}
    for result in ir_measures.iter_calc(list(measures), truth, run) if measures else ():
        measures[result.measure][int(result.query_id)] = result.value
    return values


def metric_cutoff(metric: str) -> int:
    """The k of a metric's name, such as 10 for `ndcg@10`.

    Raises:
        InputError: the metric is unknown.
    """
    return _parse_metric(metric)[1]


def coverage(lists: ItemLists, catalog_size: int) -> float:
    """The share of the catalog that is recommended to at least one user.

    Source: Ge, Delgado-Battenfeld and Jannach, "Beyond Accuracy: Evaluating Recommender Systems by Coverage and
    Serendipity", RecSys 2010.

    Raises:
        InputError: an index is outside the catalog.
    """
    return float(np.count_nonzero(_exposure_counts(lists, catalog_size)) / catalog_size)


def gini(lists: ItemLists, catalog_size: int) -> float:
    """The Gini index of exposure: 0 if all items are recommended equally often, 1 if only one item is recommended.

    With n_1 <= ... <= n_N the number of times each item is recommended: sum over j of (2j - N - 1) n_j, divided by
    (N - 1) times the sum of n.
    Source: Shani and Gunawardana, "Evaluating Recommendation Systems", Recommender Systems Handbook, 2011.

    Raises:
        InputError: an index is outside the catalog, or nothing is recommended.
    """
    exposure = np.sort(_exposure_counts(lists, catalog_size))
    if not exposure.any():
        raise InputError("the lists hold no item of the catalog, so exposure is undefined; check what was ranked")
    weights = 2 * np.arange(1, catalog_size + 1) - catalog_size - 1
    return float(weights @ exposure / (max(catalog_size - 1, 1) * exposure.sum()))


def novelty(lists: ItemLists, counts: ArrayLike) -> FloatArray:
    """Novelty: float64 [U], the mean self-information -log2 p of the items of a list, in bits.

    p is the item's share of interactions with add-one smoothing, (count + 1) / (sum of counts + N), so that items
    without interactions have finite novelty. Source: Vargas and Castells, "Rank and Relevance in Novelty and Diversity
    Metrics for Recommender Systems", RecSys 2011, without their discounts for rank and relevance.

    Args:
        lists: U lists.
        counts: [N], interactions of each item in training.

    Raises:
        InputError: an index is outside the catalog, or a count is negative or not finite.
    """
    events = finite_values(counts, "the count of item", minimum=0)
    return _mean_per_list(lists, -np.log2((events + 1) / (events.sum() + len(events))))


def diversity(lists: ItemLists, vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Intra-list diversity: float64 [U], the mean of 1 - cosine over all pairs of items, 0 to 2; nan below two items.

    Source: Ziegler et al., "Improving Recommendation Lists Through Topic Diversification", WWW 2005: the mean of
    their intra-list similarity, as a distance.

    Args:
        lists: U lists.
        vectors: [N, D], item vectors.

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
            raise InputError(
                f"the vector of item {items[np.argmax(bad)]} has no direction; pass finite numbers that are not all 0"
            )
        if len(items) > 1:
            # The squared norm of a sum of unit vectors is their number plus twice the cosine of each pair.
            total = (rows / norms[:, None]).sum(axis=0)
            found[user] = max(0.0, 1 - (total @ total - len(items)) / (len(items) * (len(items) - 1)))
    return found


def popularity(lists: ItemLists, counts: ArrayLike) -> FloatArray:
    """Popularity: float64 [U], the mean number of training interactions, `counts` [N], of the items of a list.

    Its mean over users is the average recommendation popularity of Abdollahpouri, Burke and Mobasher, "Managing
    Popularity Bias in Recommender Systems with Personalized Re-ranking", FLAIRS 2019.

    Raises:
        InputError: as `novelty`.
    """
    return _mean_per_list(lists, finite_values(counts, "the count of item", minimum=0))


def popularity_lift(lists: ItemLists, histories: ItemLists, counts: ArrayLike) -> float:
    """The mean `popularity` of lists divided by that of their users' histories; above 1, lists are more popular.

    Users without a list or a history are ignored. Source: Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", RMSE workshop at RecSys 2019, whose value is this minus 1.

    Raises:
        InputError: as `novelty`; the numbers of lists and histories differ; or no history item has interactions.
    """
    require_same_length(lists=lists, histories=histories)
    recommended, chosen = popularity(lists, counts), popularity(histories, counts)
    both = ~np.isnan(recommended) & ~np.isnan(chosen)
    if not chosen[both].any():
        raise InputError(
            "no user with a list has a history of items with interactions, so the lift is undefined; pass counts that "
            "include these histories"
        )
    return float(recommended[both].mean() / chosen[both].mean())


def length_bias(lists: ItemLists, lengths: ArrayLike) -> FloatArray:
    """The mean title length of a list divided by that of the catalog: float64 [U]; below 1, lists favour short titles.

    Args:
        lists: U lists.
        lengths: [N], length of each title, in tokens or in characters.

    Raises:
        InputError: an index is outside the catalog, a length is below 0 or not finite, or all are 0.
    """
    figures = finite_values(lengths, "the length of item", minimum=0)
    if not figures.any():
        raise InputError("every title has length 0, so the bias is undefined; pass the lengths of the titles")
    return _mean_per_list(lists, figures / figures.mean())


def list_defects(lists: ItemLists, histories: ItemLists, catalog_size: int) -> dict[str, FloatArray]:
    """Shares of recommended items that should not be in a list.

    Returns:
        Three arrays, each float64 [U], nan for an empty list: `invalid`, items that are not in the catalog (-1);
        `repeated`, items that occur earlier in the same list; `seen`, items of the user's history.

    Raises:
        InputError: an index is outside the catalog, or the numbers of lists and histories differ.
    """
    require_same_length(lists=lists, histories=histories)
    (flat, owners), (seen_items, seen_owners) = _flatten(lists, catalog_size), _flatten(histories, catalog_size)
    valid, pairs = flat >= 0, owners * catalog_size + flat
    repeated = valid.copy()
    repeated[np.flatnonzero(valid)[np.unique(pairs[valid], return_index=True)[1]]] = False
    seen = valid & np.isin(pairs, (seen_owners * catalog_size + seen_items)[seen_items >= 0])
    masks = {"invalid": ~valid, "repeated": repeated, "seen": seen}
    return {name: _mean_by_user(mask.astype(np.float64), owners, len(lists)) for name, mask in masks.items()}


def _parse_metric(name: str) -> tuple[str, int]:
    match = re.fullmatch("([a-z]+)@([1-9][0-9]{0,8})", name) if isinstance(name, str) else None
    if match is None or match[1] not in _MEASURES:
        known = ", ".join(f"{one}@k" for one in _MEASURES)
        raise InputError(
            f"unknown metric {format_value(name)}; choose from {known}, with a whole number of at least 1 for k"
        )
    return _MEASURES[match[1]], int(match[2])


def _flatten(lists: ItemLists, size: int) -> tuple[IntArray, IntArray]:
    """All item indices in one array, and for each the user whose list it is from; checks the indices."""
    arrays = [np.asarray(one, dtype=np.int64) for one in lists]
    flat = np.concatenate([np.empty(0, dtype=np.int64), *arrays])
    owners = np.repeat(np.arange(len(arrays)), np.array([len(one) for one in arrays], dtype=np.int64))
    if (bad := (flat < -1) | (flat >= size)).any():
        user, index = owners[np.argmax(bad)], flat[np.argmax(bad)]
        raise InputError(
            f"item index {index} of user {user} is not in 0 to {size - 1}; use -1 for an item outside the catalog"
        )
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
