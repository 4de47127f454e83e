"""Protocols that hold out interactions: leave one out, temporal split, next basket, random hold-out.

Each protocol returns an `Experiment`. The held-out interactions of a user are never among those that rankers may learn
from. Interactions with items that the catalog lacks are ignored.
"""

from typing import Literal

import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.errors import InputError, check_count
from genrec.evaluation.experiment import EvaluationCase, Experiment
from genrec.types import History, IntArray

Split = Literal["validation", "test"]

_HOLDOUT_DISTANCE: dict[Split, int] = {"validation": 2, "test": 1}  # held-out item or basket, counted from the end


def leave_one_out(
    catalog: Catalog, interactions: Interactions, *, part: Split = "test", users: int | None = None, seed: int = 0
) -> Experiment:
    """Hold out one item of each user, and rank all items that the user does not have.

    The last item of a history is the test item, the one before it the validation item. Rankers learn from all
    interactions but these two of each user. Users with fewer than three items, and users whose held-out item is in
    their history, are not evaluated.

    Args:
        catalog: the items that can be recommended.
        interactions: all interactions.
        part: which item is held out.
        users: evaluate a random sample of this many users; None for all.
        seed: of the sample.

    Raises:
        InputError: no user has a new item that could be held out.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section IV.A.
    """
    interactions = interactions.restricted_to(catalog)
    cases = []
    for history in interactions.histories():
        items = history.item_ids
        if len(items) >= 3 and (target := items[-_HOLDOUT_DISTANCE[part]]) not in items[: -_HOLDOUT_DISTANCE[part]]:
            cases.append(
                EvaluationCase(
                    History(items[: -_HOLDOUT_DISTANCE[part]], user_id=history.user_id), None, frozenset([target])
                )
            )
    train, _ = interactions.leave_last_out(2)
    return Experiment(catalog, train, _sample(cases, users, seed))


def temporal_split(
    catalog: Catalog, interactions: Interactions, *, at: float | str, users: int | None = None, seed: int = 0
) -> Experiment:
    """Hold out all interactions from a time on, and rank all items that the user does not have.

    Rankers learn from the interactions before that time. Users with no interaction before it, or no new item after it,
    are not evaluated.

    Args:
        catalog: the items that can be recommended.
        interactions: all interactions.
        at: seconds since 1970 or a date, see `Interactions.split_by_time`.
        users: evaluate a random sample of this many users; None for all.
        seed: of the sample.

    Raises:
        InputError: no user has interactions before the time and new items after it.
    """
    before, after = interactions.restricted_to(catalog).split_by_time(at)
    past = {history.user_id: history for history in before.histories()}
    cases = []
    for later in after.histories():
        history = past.get(later.user_id)
        if history is not None and (targets := frozenset(later.item_ids) - frozenset(history.item_ids)):
            cases.append(EvaluationCase(history, None, targets))
    if not cases:
        times = interactions.timestamps
        raise InputError(
            f"no user has interactions before {at!r} and new items from then on; the timestamps are from "
            f"{times.min():g} to {times.max():g} (seconds since 1970, or positions in a log); choose a time between "
            "them, such as 2011-10-01"
        )
    return Experiment(catalog, before, _sample(cases, users, seed))


def next_basket(
    catalog: Catalog, interactions: Interactions, *, part: Split = "test", users: int | None = None, seed: int = 0
) -> Experiment:
    """Hold out one basket of each user, and rank all items that the user does not have.

    A basket is all interactions of one user with the same timestamp. Users with at least three baskets are evaluated:
    `test` holds out the last basket, `validation` the one before it. Rankers learn from the baskets before the held-out
    one and, of users who are not evaluated, from all but the last.

    Args:
        catalog: the items that can be recommended.
        interactions: all interactions.
        part: which basket is held out.
        users: evaluate a random sample of this many users; None for all.
        seed: of the sample.

    Raises:
        InputError: no user has a new item in the held-out basket.
    """
    train, baskets = interactions.restricted_to(catalog).leave_last_basket_out(_HOLDOUT_DISTANCE[part])
    cases = []
    for history, item_ids in baskets:
        if targets := frozenset(item_ids) - frozenset(history.item_ids):
            cases.append(EvaluationCase(history, None, targets))
    return Experiment(catalog, train, _sample(cases, users, seed))


def random_hold_out(
    catalog: Catalog, interactions: Interactions, *, part: Split = "test", users: int | None = None, seed: int = 0
) -> Experiment:
    """Hold out one random item of each user, and rank all items that the user does not have: for events without times.

    A test item and a validation item are drawn for each user with at least three items. All interactions of the user
    with the held-out item are held out; rankers learn from the others as in `next_basket`, where an item is a basket.
    No order of the interactions is used.

    Args:
        catalog: the items that can be recommended.
        interactions: all interactions.
        part: which item is held out.
        users: evaluate a random sample of this many users; None for all.
        seed: of the items and of the sample.

    Raises:
        InputError: no user has three items.
    """
    check_count("seed", seed, 0)
    shuffled = interactions.restricted_to(catalog).in_random_order(seed)
    return next_basket(catalog, shuffled, part=part, users=users, seed=seed)


def _sample(cases: list[EvaluationCase], n_users: int | None, seed: int) -> list[EvaluationCase]:
    """A random sample of `n_users` cases; a larger sample with the same seed starts with the smaller one."""
    check_count("seed", seed, 0)
    if n_users is not None:
        check_count("users", n_users)
    if n_users is None or n_users >= len(cases):
        return cases
    chosen: IntArray = np.random.default_rng(seed).permutation(len(cases))[:n_users]
    return [cases[number] for number in chosen]
