"""Several rankers as one: the weighted sum of what each knows, with weights that are learned.

Source of the learning: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", 1974: what somebody took
is a choice among what they could have taken, here what the parts like best and some of the rest.
Letters: U requests, N items, P parts, C items compared in one request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from genrec.deadline import Deadline
from genrec.errors import InputError, check_count
from genrec.rankers.base import DenseRanker, RankRequest, top_k
from genrec.types import FloatArray, IntArray, Ranking

_MAX_BATCH_SIZE, _MAX_SCORES_PER_RANKER = 64, 1 << 22  # requests scored at once at most, and scores of one part
_MAX_SCORES_IN_MEMORY = 1 << 24  # scores of all parts that are kept side by side, 8 bytes each
_TOP_NEGATIVES, _RANDOM_NEGATIVES = 100, 200  # items that each choice is set against: of each part, and at random
_MIN_RELATIVE_SPREAD = 1e-9  # spread of a part's scores, beside their size, that is rounding
_REGULARIZATION = 20.0  # choices that the weights to start from are worth


class BlendRanker(DenseRanker):
    """Scores an item by the weighted sum of its parts' scores, and says which part spoke for it.

    A part that cannot rank a request, or knows nothing of an item, adds nothing; an item of which no part knows
    anything is not ranked.

    Args:
        rankers: P rankers by name.
        weights: by the same names, above 0, which make scores commensurable; see `fit_weights`.
        non_personalized: the names of parts that know nothing of persons, such as popularity: they count beside the others where
            there is a history, and rank nobody and nothing alone.
        source: the name that recommendations served by it carry.

    Raises:
        InputError: there is no part but support, one is no such ranker, a name is unknown, or a weight is missing or
            not above 0.
    """

    source = "blend"

    def __init__(
        self,
        rankers: Mapping[str, DenseRanker],
        weights: Mapping[str, float],
        *,
        non_personalized: Collection[str] = (),
        source: str = "blend",
    ) -> None:
        if rankers.keys() != weights.keys() or not set(non_personalized) < set(rankers):
            raise InputError(
                f"a blend of {', '.join(rankers) or 'nothing'} has weights of {', '.join(weights) or 'nothing'} and the "
                f"support {', '.join(non_personalized) or 'of nothing'}; give each part a weight, and one that is no support"
            )
        for name, part in rankers.items():
            if not isinstance(part, DenseRanker):
                raise InputError(f"part {name!r} is {part!r:.80}; a blend takes rankers that score whole catalogs")
        for name, weight in weights.items():
            if not 0 < weight < np.inf:
                raise InputError(f"the weight of {name!r} is {weight}; give a number above 0, or leave the part out")
        self.source = source
        self._personalized = {
            name: (part, weights[name]) for name, part in rankers.items() if name not in non_personalized
        }
        self._non_personalized = {
            name: (part, weights[name]) for name, part in rankers.items() if name in non_personalized
        }

    def can_rank(self, request: RankRequest) -> bool:
        """Whether any part can."""
        return any(part.can_rank(request) for part, _ in self._personalized.values())

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N]."""
        return self._weighted_sum(requests) if requests else np.empty((0, 0))

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request, exact, each with the part that spoke for it most.

        Of the parts that know the item, that is the one whose weighted score of it lies furthest above its own mean
        over all items that it knows. What is kept for this of some requests together takes 128 MB at most, or, of more
        than two million items, 8 bytes for each item and part.
        """
        check_count("k", k)
        answers: list[Ranking] = []
        names = [*self._personalized, *self._non_personalized]
        size = max(1, requests[0].allowed.universe) if requests else 1
        together = max(1, _MAX_SCORES_IN_MEMORY // (size * len(names)))
        for start in range(0, len(requests), together):
            batch = requests[start : start + together]
            tables = np.empty((len(names), len(batch), size))
            total = self._weighted_sum(batch, tables)
            for row, request in enumerate(batch):
                found = top_k(total[row], request.allowed, k, request.boost)
                spoke = _top_contributors(tables[:, row], found.item_indices)
                answers.append(replace(found, main_signals=tuple(names[part] for part in spoke)))
        return answers

    def _weighted_sum(self, requests: Sequence[RankRequest], tables: FloatArray | None = None) -> FloatArray:
        """[U, N]; `tables` [P, U, N] is filled with the weighted scores of each part, not finite where it is silent."""
        total = np.zeros((len(requests), requests[0].allowed.universe))
        known = np.zeros(total.shape, dtype=np.bool_)
        strangers = [not len(request.history) for request in requests]
        for place, (name, (part, weight)) in enumerate([*self._personalized.items(), *self._non_personalized.items()]):
            own = weight * _ranker_scores(part, requests)
            if name in self._non_personalized:
                own[strangers] = -np.inf
            finite = np.isfinite(own)
            total += np.where(finite, own, 0.0)
            if name in self._personalized:
                known |= finite
            if tables is not None:
                tables[place] = own
        return np.where(known, total, -np.inf)


def _top_contributors(ranker_scores: FloatArray, item_indices: IntArray) -> IntArray:
    """Of each item, the part of [P, N] whose score of it is furthest above that part's mean: int64 [k]."""
    finite = np.isfinite(ranker_scores)
    means = np.where(finite, ranker_scores, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    above = np.where(finite[:, item_indices], ranker_scores[:, item_indices] - means[:, None], -np.inf)
    spoke: IntArray = above.argmax(axis=0)
    return spoke


def fit_weights(
    rankers: Sequence[DenseRanker],
    requests: Sequence[RankRequest],
    targets: IntArray,
    *,
    initial_weights: FloatArray,
    seed: int,
) -> FloatArray:
    """Weights under which what people took stands out most from other allowed items: float64 [P], 0 or more.

    Each choice is set against the 100 allowed items that each part likes best, and 200 at random: with random ones
    alone the weights would not serve the top of a list, and with the best alone they would forget all else (measured
    in eval/RESULTS.md). With few requests they stay near those to start from.

    Args:
        rankers: rankers that have not counted what was taken.
        requests: U people before they took it.
        targets: int64 [U], the item each took; an allowed one.
        initial_weights: float64 [P], weights to start from.
        seed: of the items it is set against.

    Raises:
        InputError: `requests`, `targets`, `rankers` and `initial_weights` do not go together.
    """
    if len(requests) != len(targets) or len(rankers) != len(initial_weights):
        raise InputError(
            f"{len(requests)} requests and {len(targets)} items taken, {len(rankers)} parts and {len(initial_weights)} weights; "
            "give one for each"
        )
    compared, sizes = _choice_scores(rankers, requests, targets, np.random.default_rng(seed))
    if not len(sizes):
        return np.asarray(initial_weights, dtype=np.float64)
    spread = compared.std(axis=0)
    spread[spread <= _MIN_RELATIVE_SPREAD * np.abs(compared).max(axis=0)] = 0.0  # always the same, but for rounding
    scaled = np.where(spread > 0, compared, 0.0) / np.where(spread > 0, spread, 1.0)
    begin, own = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    first, doubt = np.asarray(initial_weights, dtype=np.float64) * spread, _REGULARIZATION / len(sizes)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        scores = scaled @ weights
        highest = np.maximum.reduceat(scores, begin)
        odds = np.exp(scores - highest[own])
        total = np.add.reduceat(odds, begin)
        expected = np.add.reduceat((odds / total[own])[:, None] * scaled, begin, axis=0)
        moved = weights - first
        value = float(doubt * moved @ moved + (highest + np.log(total) - scores[begin]).mean())
        return value, (expected - scaled[begin]).mean(axis=0) + 2 * doubt * moved

    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(rankers)).x
    return np.where(spread > 0, found / np.where(spread > 0, spread, 1.0), initial_weights)


def _choice_scores(
    rankers: Sequence[DenseRanker], requests: Sequence[RankRequest], targets: IntArray, random: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Scores of what each took and, behind it, of what it is set against, unknown ones 0: [C, P]; and how many each."""
    rows: list[FloatArray] = []
    together = (
        max(1, min(_MAX_BATCH_SIZE, _MAX_SCORES_PER_RANKER // max(requests[0].allowed.universe, 1))) if requests else 1
    )
    for start in range(0, len(requests), together):
        batch = requests[start : start + together]
        tables = [_ranker_scores(part, batch) for part in rankers]
        for row, request in enumerate(batch):
            item, size = int(targets[start + row]), request.allowed.universe
            liked = [_top_negatives(table[row], request) for table in tables]
            others = np.unique(np.concatenate([random.integers(0, size, _RANDOM_NEGATIVES), *liked]))
            others = others[(others != item) & request.allowed.contains(others)]
            if len(others):
                chosen = np.append(item, others)
                rows.append(np.stack([table[row, chosen] for table in tables], axis=-1))
    if not rows:
        return np.empty((0, len(rankers))), np.empty(0, dtype=np.int64)
    compared = np.concatenate(rows)
    return np.where(np.isfinite(compared), compared, 0.0), np.array([len(own) for own in rows])


def _top_negatives(scores: FloatArray, request: RankRequest) -> IntArray:
    """The allowed items that a part likes best; none where it likes all alike."""
    places = np.flatnonzero(np.isfinite(scores))
    places = places[request.allowed.contains(places)]
    own = scores[places]
    if not len(own) or own.min() == own.max():
        return places[:0]
    return places if len(own) <= _TOP_NEGATIVES else places[np.argpartition(-own, _TOP_NEGATIVES)[:_TOP_NEGATIVES]]


def _ranker_scores(ranker: DenseRanker, requests: Sequence[RankRequest]) -> FloatArray:
    """[U, N]; minus infinity throughout where the part cannot rank a request."""
    able = [row for row, request in enumerate(requests) if ranker.can_rank(request)]
    scores = np.full((len(requests), requests[0].allowed.universe), -np.inf)
    if able:
        scores[able] = ranker.scores([requests[row] for row in able])
    return scores
