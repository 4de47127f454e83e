"""Leakage: held-out items that are in the training interactions of an adapter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.backends.provenance import Provenance, TrainingSource
from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.data.timestamps import to_epoch_seconds
from genrec.errors import InputError
from genrec.evaluation.experiment import Experiment
from genrec.evaluation.protocols import leave_one_out, next_basket
from genrec.types import BoolArray, FloatArray

_YEAR_SECONDS = 365 * 86_400.0  # smaller timestamps are positions in a log, not times


@dataclass(frozen=True)
class Leakage:
    """The held-out items of an experiment that an adapter may have been trained on.

    Attributes:
        leaked: number of held-out items that are in the training interactions, or may be.
        targets: number of all held-out items.
        users: number of users with such an item.
        exact: whether the training interactions were rebuilt from the evaluated ones. Otherwise every held-out item
            from the time span of the training counts.
        unknown: whether nothing is recorded about the training, or a part of it; then more may be leaked.
        remedy: which experiments are free of leakage.
    """

    leaked: int
    targets: int
    users: int
    exact: bool
    unknown: bool
    remedy: str = ""

    def check(self, adapter: str) -> None:
        """Check that no held-out item is leaked.

        Args:
            adapter: names the adapter in the message.

        Raises:
            InputError: one is, or may be; its code is "leakage".
        """
        if self.leaked:
            raise InputError(
                f"{self.leaked:,} of {self.targets:,} held-out items {'are' if self.exact else 'may be'} in the "
                f"training interactions of the adapter {adapter!r}, so its accuracy would be overstated",
                remedy=f"{self.remedy}allow it with --allow-leakage",
                code="leakage",
                leaked=self.leaked,
                targets=self.targets,
            )


def find_leakage(experiment: Experiment, interactions: Interactions, provenance: Provenance | None) -> Leakage:
    """Compare the held-out items of an experiment with the training interactions of an adapter.

    If the adapter was trained on a split of the same interactions, that split is made again, and the comparison is
    exact. Otherwise it is by time: a held-out item is free of leakage only if all its interactions with the user are
    outside the time span of the training.

    Args:
        experiment: the experiment.
        interactions: all interactions that it was made of.
        provenance: how the adapter was trained; None if that is not recorded.
    """
    log = interactions.restricted_to(experiment.catalog)
    known = [source for source in _sources(provenance) if source.data]
    pools = [_training_interactions(source, experiment.catalog, log) for source in known]
    leaked = targets = users = 0
    for case in experiment.cases:
        position = log.user_ids.position(case.history.user_id)
        codes = log.codes_of(case.history.user_id)
        times = log.timestamps[log.offsets[position] : log.offsets[position + 1]]
        is_target = np.isin(codes, log.item_ids.positions(list(case.targets)))
        found: set[int] = set()
        for source, pool in zip(known, pools, strict=True):
            if pool is None:
                within = _is_within(times, source) if log.order != "none" else np.ones(len(times), dtype=np.bool_)
                found |= set(codes[is_target & within].tolist())
            elif pool.user_ids.position(case.history.user_id) >= 0:
                found |= set(np.intersect1d(codes[is_target], pool.codes_of(case.history.user_id)).tolist())
        leaked, targets, users = leaked + len(found), targets + len(case.targets), users + bool(found)
    exact = bool(pools) and all(pool is not None for pool in pools)
    remedy = _remedy(known, exact, log) if leaked else ""
    return Leakage(leaked, targets, users, exact, len(known) < max(len(_sources(provenance)), 1), remedy)


def _sources(provenance: Provenance | None) -> Sequence[TrainingSource]:
    return () if provenance is None else provenance.sources


def _training_interactions(source: TrainingSource, catalog: Catalog, log: Interactions) -> Interactions | None:
    """The training interactions of an adapter, if they are a split of this log."""
    if source.protocol in ("leave-one-out", "candidates"):
        train, _ = log.leave_last_out(2)
    elif source.protocol == "next-basket":
        train, _ = log.leave_last_basket_out()
    else:
        return None
    if source.train is not None:
        return train if train.fingerprint == source.train else None
    # Adapters of genrec 0.1 record the digest of the whole experiment only.
    protocol = {"leave-one-out": leave_one_out, "next-basket": next_basket}.get(source.protocol)
    try:
        return train if protocol is not None and protocol(catalog, log).digest == source.data else None
    except InputError:  # nothing could be held out of this log
        return None


def _is_within(times: FloatArray, source: TrainingSource) -> BoolArray:
    """Whether each time is in the span of the training; true if times and positions in a log would be compared."""
    if source.first is None or source.last is None:
        return np.zeros(len(times), dtype=np.bool_)
    first, last = (_parse_time(text) for text in (source.first, source.last))
    same_unit = (times >= _YEAR_SECONDS) == (last >= _YEAR_SECONDS)
    within: BoolArray = ~same_unit | ((times >= first) & (times <= last))
    return within


def _parse_time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return to_epoch_seconds(text)


def _remedy(sources: Sequence[TrainingSource], exact: bool, log: Interactions) -> str:
    """The experiments that are free of leakage; "" if there is none."""
    protocols = {"leave-one-out" if source.protocol == "candidates" else source.protocol for source in sources}
    if exact and len(protocols) == 1:
        return f"use the protocol {protocols.pop()}, whose held-out items it was not trained on, or "
    last = max((source.last for source in sources if source.last is not None), key=_parse_time)
    if (log.timestamps > _parse_time(last)).any():
        return f"use the protocol by-time from a date after {last} on, or "
    return f"add interactions after {last}, the end of its training, and use the protocol by-time, or "
