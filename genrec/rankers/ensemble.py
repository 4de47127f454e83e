"""An ensemble of rankers: the weighted sum of their scores, with learned weights.

Source of the learning: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", 1974. An interaction is a
choice of one item among alternatives: the items that each ranker scores highest, and random ones.
Letters: U requests, N items, P rankers, C items compared for one request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from genrec.deadline import Deadline
from genrec.errors import InputError, check_count, format_value
from genrec.rankers.base import DenseRanker, DenseScores, RankRequest, top_k
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

_MAX_BATCH_SIZE, _MAX_SCORES_PER_RANKER = 64, 1 << 21  # limits of a batch: requests, and scores per ranker
_MAX_SCORES_IN_MEMORY = 1 << 24  # scores of all rankers that are kept at once, 8 bytes each
_TOP_NEGATIVES, _RANDOM_NEGATIVES = 100, 200  # alternatives of each choice: top items per ranker, random items
_MIN_RELATIVE_SPREAD = 1e-9  # relative spread of scores below which they differ by rounding only
_REGULARIZATION = 20.0  # weight of the initial weights, in choices


class BlendRanker(DenseRanker):
    """Scores an item by the weighted sum of the scores of several rankers, and names the main signal of each item.

    A ranker that cannot rank a request, or does not know an item, adds nothing. An item that no personalized ranker
    knows is not ranked.

    Args:
        rankers: P rankers by name.
        weights: weights above 0 by the same names, which also bring scores to one scale; see `fit_weights`.
        non_personalized: names of rankers that ignore the user, such as popularity. Their scores are added for requests
            with a history; they never rank a request or an item alone.
        source: name of the stage in recommendations.

    Raises:
        InputError: there is no personalized ranker, a ranker is not a `DenseRanker`, a name is unknown, or a weight is
            missing or not above 0.
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
                f"the rankers are {', '.join(rankers) or 'none'}, the weights are for {', '.join(weights) or 'none'}, "
                f"and non_personalized holds {', '.join(non_personalized) or 'none'}; pass one weight for each ranker, "
                "and at least one personalized ranker"
            )
        for name, ranker in rankers.items():
            if not isinstance(ranker, DenseRanker):
                raise InputError(
                    f"ranker {name!r} is {format_value(ranker)}; pass a DenseRanker, which scores the whole catalog"
                )
        for name, weight in weights.items():
            if not 0 < weight < np.inf:
                raise InputError(f"the weight of {name!r} is {weight}; pass a number above 0, or omit the ranker")
        self.source = source
        weighted = {name: (ranker, weights[name]) for name, ranker in rankers.items()}
        self._personalized = {name: pair for name, pair in weighted.items() if name not in non_personalized}
        self._non_personalized = {name: pair for name, pair in weighted.items() if name in non_personalized}

    @property
    def reads_words(self) -> bool:
        """Whether any of the rankers reads words."""
        return any(ranker.reads_words for ranker, _ in self._personalized.values())

    def can_rank(self, request: RankRequest) -> bool:
        """True if any personalized ranker can rank the request."""
        return any(ranker.can_rank(request) for ranker, _ in self._personalized.values())

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N] before boosts; minus infinity for items that no personalized ranker knows."""
        return self._weighted_sum(requests) if requests else np.empty((0, 0))

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the k best allowed items of each request; exact, so proven. Each item has its main signal.

        The main signal of an item is the ranker whose weighted score of it is furthest above that ranker's mean over
        all items it knows. Uses at most 128 MB of memory for scores or, if that is more, 8 bytes per item and ranker.

        Args:
            requests: U requests.
            k: list length.
            deadline: checked between groups of requests whose scores fit into the memory above; the first group is
                ranked even if it has passed.

        Returns:
            U rankings, best first, ties in catalog order; shorter than k if fewer items are allowed or known.

        Raises:
            InputError: k is below 1.
            DeadlineExceededError: the deadline passed before the last group.
        """
        check_count("k", k)
        rankings: list[Ranking] = []
        names = [*self._personalized, *self._non_personalized]
        size = max(1, requests[0].allowed.universe) if requests else 1
        batch_size = max(1, _MAX_SCORES_IN_MEMORY // (size * len(names)))
        memory = np.empty((len(names), min(batch_size, len(requests)), size))  # new memory in each batch takes longer
        for start in range(0, len(requests), batch_size):
            if start:
                deadline.check()
            batch = requests[start : start + batch_size]
            tables = memory[:, : len(batch)]
            total = self._weighted_sum(batch, tables)
            for row, request in enumerate(batch):
                ranking = top_k(total[row], request.allowed, k, request.boost)
                signals = _main_signals(tables[:, row], ranking.item_indices)
                rankings.append(replace(ranking, main_signals=tuple(names[number] for number in signals)))
        return rankings

    def _weighted_sum(self, requests: Sequence[RankRequest], tables: FloatArray | None = None) -> FloatArray:
        """[U, N]; fills `tables` [P, U, N] with the weighted scores of each ranker, not finite for unknown items."""
        total = np.zeros((len(requests), requests[0].allowed.universe))
        known = np.zeros(total.shape, dtype=np.bool_)
        without_history = [not len(request.history) for request in requests]
        for number, (name, (ranker, weight)) in enumerate((self._personalized | self._non_personalized).items()):
            weighted = np.empty(total.shape) if tables is None else tables[number]
            np.multiply(_ranker_scores(ranker, requests), weight, out=weighted, dtype=np.float64)
            if name in self._non_personalized:
                weighted[without_history] = -np.inf
            finite = np.isfinite(weighted)
            total += _zero_where_unknown(weighted, finite)
            if name in self._personalized:
                known |= finite
        total[~known] = -np.inf
        return total


def _zero_where_unknown(scores: FloatArray, known: BoolArray) -> FloatArray:
    """A copy of scores with 0 for unknown items; on their bits, where a choice for each item would take longer."""
    bits: IntArray = scores.view(np.int64) * known
    return bits.view(np.float64)


def _main_signals(ranker_scores: FloatArray, item_indices: IntArray) -> IntArray:
    """For each item, the ranker of [P, N] whose score of it is furthest above that ranker's mean: int64 [k]."""
    above = ranker_scores[:, item_indices]
    for row, scores in zip(above, ranker_scores, strict=True):
        known = np.isfinite(scores)
        row -= _zero_where_unknown(scores, known).sum() / max(np.count_nonzero(known), 1)
    signals: IntArray = np.where(np.isfinite(above), above, -np.inf).argmax(axis=0)
    return signals


def fit_weights(
    rankers: Sequence[DenseRanker],
    requests: Sequence[RankRequest],
    targets: IntArray,
    *,
    initial_weights: FloatArray,
    seed: int,
) -> FloatArray:
    """Fit the weights of a blend to held-out interactions, by maximum likelihood.

    The alternatives of each target are the 100 allowed items that each ranker scores highest, and 200 random ones.
    Random ones alone would not fit the top of a list; top ones alone would not fit the rest (measured in
    eval/RESULTS.md). With few requests the weights stay near the initial ones.

    Args:
        rankers: P rankers, fitted without the targets.
        requests: U requests, without the targets in their histories.
        targets: int64 [U], the allowed item that each user interacted with.
        initial_weights: float64 [P].
        seed: of the random alternatives.

    Returns:
        float64 [P], 0 or more.

    Raises:
        InputError: the numbers of requests and targets, or of rankers and weights, differ.
    """
    if len(requests) != len(targets) or len(rankers) != len(initial_weights):
        raise InputError(
            f"there are {len(requests)} requests and {len(targets)} targets, {len(rankers)} rankers and "
            f"{len(initial_weights)} weights; pass one target for each request, and one weight for each ranker"
        )
    compared, sizes = _choice_scores(rankers, requests, targets, np.random.default_rng(seed))
    if not len(sizes):
        return np.asarray(initial_weights, dtype=np.float64)
    spread = compared.std(axis=0)
    spread[spread <= _MIN_RELATIVE_SPREAD * np.abs(compared).max(axis=0)] = 0.0  # equal but for rounding
    scaled = np.where(spread > 0, compared, 0.0) / np.where(spread > 0, spread, 1.0)
    begin, choice = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    initial, regularization = np.asarray(initial_weights, dtype=np.float64) * spread, _REGULARIZATION / len(sizes)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        scores = scaled @ weights
        highest = np.maximum.reduceat(scores, begin)
        odds = np.exp(scores - highest[choice])
        total = np.add.reduceat(odds, begin)
        expected = np.add.reduceat((odds / total[choice])[:, None] * scaled, begin, axis=0)
        change = weights - initial
        value = float(regularization * change @ change + (highest + np.log(total) - scores[begin]).mean())
        return value, (expected - scaled[begin]).mean(axis=0) + 2 * regularization * change

    fitted = minimize(loss, initial, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(rankers)).x
    return np.where(spread > 0, fitted / np.where(spread > 0, spread, 1.0), initial_weights)


def _choice_scores(
    rankers: Sequence[DenseRanker], requests: Sequence[RankRequest], targets: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Scores of each target and its alternatives, target first, 0 for unknown items.

    Returns:
        The scores [C, P] of all choices in one array, and the number of items of each choice.
    """
    choices: list[FloatArray] = []
    size = requests[0].allowed.universe if requests else 1
    batch_size = max(1, min(_MAX_BATCH_SIZE, _MAX_SCORES_PER_RANKER // max(size, 1)))
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        tables = [_ranker_scores(ranker, batch) for ranker in rankers]
        for row, request in enumerate(batch):
            item, size = int(targets[start + row]), request.allowed.universe
            top = [_top_negatives(table[row], request) for table in tables]
            others = np.unique(np.concatenate([rng.integers(0, size, _RANDOM_NEGATIVES), *top]))
            others = others[(others != item) & request.allowed.contains(others)]
            if len(others):
                chosen = np.append(item, others)
                choices.append(np.stack([table[row, chosen] for table in tables], axis=-1))
    if not choices:
        return np.empty((0, len(rankers))), np.empty(0, dtype=np.int64)
    compared = np.concatenate(choices)
    return np.where(np.isfinite(compared), compared, 0.0), np.array([len(scores) for scores in choices])


def _top_negatives(scores: DenseScores, request: RankRequest) -> IntArray:
    """The allowed items that a ranker scores highest; none if all scores are equal."""
    ranking = top_k(scores, request.allowed, _TOP_NEGATIVES)
    if len(ranking.scores) and ranking.scores[0] == ranking.scores[-1]:
        items = np.flatnonzero(np.isfinite(scores))
        known = scores[items[request.allowed.contains(items)]]
        if known.min() == known.max():
            return ranking.item_indices[:0]
    return ranking.item_indices


def _ranker_scores(ranker: DenseRanker, requests: Sequence[RankRequest]) -> DenseScores:
    """[U, N]; minus infinity for all items of a request that the ranker cannot rank. May be read-only."""
    rankable = [row for row, request in enumerate(requests) if ranker.can_rank(request)]
    if len(rankable) == len(requests):
        return ranker.scores(requests)
    scores = np.full((len(requests), requests[0].allowed.universe), -np.inf)
    if rankable:
        scores[rankable] = ranker.scores([requests[row] for row in rankable])
    return scores
