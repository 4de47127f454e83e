"""Several rankers as one: the weighted sum of what each knows, with weights that are learned.

Source of the learning: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", 1974: what somebody took
is a choice among what they could have taken, here what the parts like best and some of the rest.
Letters: U requests, N items, P parts, C items compared in one request.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from genrec.deadline import Deadline
from genrec.errors import InputError, check_count
from genrec.rankers.base import DenseRanker, RankRequest, top_k
from genrec.types import FloatArray, IntArray, Ranking

_BATCH, _VALUES = 64, 1 << 22  # requests scored at once at most, and scores of one part
_KEPT = 1 << 21  # scores of one part that are kept beside those of the others
_LIKED, _OTHERS = 100, 200  # items that each choice is set against: of each part, and at random
_SILENT = 1e-9  # spread of a part's scores, beside their size, that is rounding
_DOUBT = 20.0  # choices that the weights to start from are worth


class BlendRanker(DenseRanker):
    """Scores an item by the weighted sum of its parts' scores, and says which part spoke for it.

    A part that cannot rank a request, or knows nothing of an item, adds nothing; an item of which no part knows
    anything is not ranked.

    Args:
        parts: rankers by name.
        weights: by the same names, above 0, which make scores commensurable; see `fit_weights`.
        support: the names of parts that know nothing of persons, such as popularity: they count beside the others where
            there is a history, and rank nobody and nothing alone.

    Raises:
        InputError: there is no part but support, or a weight is missing, left over, or not above 0.
    """

    source = "blend"

    def __init__(
        self, parts: Mapping[str, DenseRanker], weights: Mapping[str, float], *, support: Collection[str] = ()
    ) -> None:
        if parts.keys() != weights.keys() or not set(parts) - set(support) or not min(weights.values()) > 0:
            raise InputError(
                f"a blend of {', '.join(parts) or 'nothing'} has the weights {dict(weights)}; it needs at least one "
                "part that knows persons, and a weight above 0 for each"
            )
        self._parts = {name: (part, weights[name]) for name, part in parts.items() if name not in support}
        self._support = {name: (part, weights[name]) for name, part in parts.items() if name in support}

    def can_rank(self, request: RankRequest) -> bool:
        """Whether any part can."""
        return any(part.can_rank(request) for part, _ in self._parts.values())

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N]."""
        if not requests:
            return np.empty((0, 0))
        total = np.zeros((len(requests), requests[0].allowed.universe))
        known = np.zeros(total.shape, dtype=np.bool_)
        for name, own in self._tables(requests):
            total += np.where(np.isfinite(own), own, 0.0)
            known |= np.isfinite(own) & (name not in self._support)
        return np.where(known, total, -np.inf)

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request, exact, each with the part that spoke for it most.

        That is the part whose weighted score of the item lies furthest above its own mean over all items.
        """
        check_count("k", k)
        answers: list[Ranking] = []
        together = max(1, _KEPT // requests[0].allowed.universe) if requests else 1
        for start in range(0, len(requests), together):
            batch = requests[start : start + together]
            names, tables = zip(*self._tables(batch), strict=True)
            stacked = np.stack(tables)  # [P, U, N]
            finite = np.isfinite(stacked)
            known = finite[[name not in self._support for name in names]].any(axis=0)
            stacked[~finite] = 0.0
            total = np.where(known, stacked.sum(axis=0), -np.inf)
            means = stacked.mean(axis=2)
            for row, request in enumerate(batch):
                found = top_k(total[row], request.allowed, k, request.boost)
                above = stacked[:, row, found.item_indices] - means[:, row, None]
                answers.append(replace(found, evidence=tuple(names[part] for part in above.argmax(axis=0))))
        return answers

    def _tables(self, requests: Sequence[RankRequest]) -> Iterator[tuple[str, FloatArray]]:
        """Each part's weighted scores [U, N], of support only for those who have a history; the rest is not finite."""
        for name, (part, weight) in self._parts.items():
            yield name, weight * _scores(part, requests)
        for name, (part, weight) in self._support.items():
            own = weight * _scores(part, requests)
            own[[not len(request.history) for request in requests]] = -np.inf
            yield name, own


def fit_weights(
    parts: Sequence[DenseRanker], requests: Sequence[RankRequest], taken: IntArray, *, start: FloatArray, seed: int
) -> FloatArray:
    """Weights under which what people took stands out most from other allowed items: float64 [P], 0 or more.

    Each choice is set against the 100 allowed items that each part likes best, and 200 at random: with random ones
    alone the weights would not serve the top of a list, and with the best alone they would forget all else (measured
    in eval/RESULTS.md). With few requests they stay near those to start from.

    Args:
        parts: rankers that have not counted what was taken.
        requests: U people before they took it.
        taken: int64 [U], the item each took; an allowed one.
        start: float64 [P], weights to start from.
        seed: of the items it is set against.

    Raises:
        InputError: `requests`, `taken`, `parts` and `start` do not go together.
    """
    if len(requests) != len(taken) or len(parts) != len(start):
        raise InputError(
            f"{len(requests)} requests and {len(taken)} items taken, {len(parts)} parts and {len(start)} weights; "
            "give one for each"
        )
    compared, sizes = _compared(parts, requests, taken, np.random.default_rng(seed))
    if not len(sizes):
        return np.asarray(start, dtype=np.float64)
    spread = compared.std(axis=0)
    spread[spread <= _SILENT * np.abs(compared).max(axis=0)] = 0.0  # always the same, but for rounding
    scaled = np.where(spread > 0, compared, 0.0) / np.where(spread > 0, spread, 1.0)
    begin, own = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    first, doubt = np.asarray(start, dtype=np.float64) * spread, _DOUBT / len(sizes)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        scores = scaled @ weights
        highest = np.maximum.reduceat(scores, begin)
        odds = np.exp(scores - highest[own])
        total = np.add.reduceat(odds, begin)
        expected = np.add.reduceat((odds / total[own])[:, None] * scaled, begin, axis=0)
        moved = weights - first
        value = float(doubt * moved @ moved + (highest + np.log(total) - scores[begin]).mean())
        return value, (expected - scaled[begin]).mean(axis=0) + 2 * doubt * moved

    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(parts)).x
    return np.where(spread > 0, found / np.where(spread > 0, spread, 1.0), start)


def _compared(
    parts: Sequence[DenseRanker], requests: Sequence[RankRequest], taken: IntArray, random: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Scores of what each took and, behind it, of what it is set against, unknown ones 0: [C, P]; and how many each."""
    rows: list[FloatArray] = []
    together = max(1, min(_BATCH, _VALUES // max(requests[0].allowed.universe, 1))) if requests else 1
    for start in range(0, len(requests), together):
        batch = requests[start : start + together]
        tables = [_scores(part, batch) for part in parts]
        for row, request in enumerate(batch):
            item, size = int(taken[start + row]), request.allowed.universe
            liked = [_best(table[row], request) for table in tables]
            others = np.unique(np.concatenate([random.integers(0, size, _OTHERS), *liked]))
            others = others[(others != item) & request.allowed.contains(others)]
            if len(others):
                chosen = np.append(item, others)
                rows.append(np.stack([table[row, chosen] for table in tables], axis=-1))
    if not rows:
        return np.empty((0, len(parts))), np.empty(0, dtype=np.int64)
    compared = np.concatenate(rows)
    return np.where(np.isfinite(compared), compared, 0.0), np.array([len(own) for own in rows])


def _best(scores: FloatArray, request: RankRequest) -> IntArray:
    """The allowed items that a part likes best; none where it likes all alike."""
    places = np.flatnonzero(np.isfinite(scores))
    places = places[request.allowed.contains(places)]
    own = scores[places]
    if not len(own) or own.min() == own.max():
        return places[:0]
    return places if len(own) <= _LIKED else places[np.argpartition(-own, _LIKED)[:_LIKED]]


def _scores(part: DenseRanker, requests: Sequence[RankRequest]) -> FloatArray:
    """[U, N]; minus infinity throughout where the part cannot rank a request."""
    able = [row for row, request in enumerate(requests) if part.can_rank(request)]
    scores = np.full((len(requests), requests[0].allowed.universe), -np.inf)
    if able:
        scores[able] = part.scores([requests[row] for row in able])
    return scores
