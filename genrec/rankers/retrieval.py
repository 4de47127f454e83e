"""Candidate retrieval, and fusion of the retriever's scores with those of an LLM.

Letters: U requests, N items.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genrec.data.subset import Boost, Subset
from genrec.deadline import Deadline
from genrec.rankers.base import Ranker, RankRequest
from genrec.types import IntArray, Ranking

_LLM_SIGNAL = "language model"  # main signal of an item that the LLM favours more than the retriever does


def ordered_candidates(
    retriever: Ranker, requests: Sequence[RankRequest], n_candidates: int, *, deadline: Deadline
) -> list[IntArray]:
    """The retriever's best allowed items of each request, and its boosted items.

    Args:
        retriever: ranks the requests without their boosts.
        requests: U requests.
        n_candidates: number of items from the retriever, and limit of items with the highest boost above 0 beside them.
        deadline: passed to the retriever.

    Returns:
        U arrays of at most 2 * `n_candidates` distinct allowed items, int64: the retriever's, best first, and then the
        others, highest boost first.
    """
    candidates = []
    rankings = retriever.rank(_without_boosts(requests), n_candidates, deadline=deadline)
    for request, ranking in zip(requests, rankings, strict=True):
        items = ranking.item_indices
        if request.boost is not None:
            boosted, values = request.boost.indices, request.boost.values
            positive = np.flatnonzero(request.allowed.contains(boosted) & (values > 0))
            best = positive[np.argsort(-values[positive], kind="stable")[:n_candidates]]
            items = np.concatenate([items, boosted[best][~np.isin(boosted[best], items)]])
        candidates.append(items)
    return candidates


def retrieve_candidates(
    retriever: Ranker, requests: Sequence[RankRequest], n_candidates: int, *, deadline: Deadline
) -> list[Subset]:
    """The same as U subsets."""
    candidates = ordered_candidates(retriever, requests, n_candidates, deadline=deadline)
    return [
        Subset.from_indices(request.allowed.universe, items)
        for request, items in zip(requests, candidates, strict=True)
    ]


def fusion_boosts(
    retriever: Ranker,
    requests: Sequence[RankRequest],
    item_indices: Sequence[IntArray],
    *,
    weight: float,
    n_candidates: int,
    deadline: Deadline,
) -> list[Boost]:
    """The retriever's weighted scores of given items, standardised over its best `n_candidates` allowed items.

    An item that the retriever does not know gets the lowest of these scores. A request that it cannot rank, or whose
    best items all score the same, gets no boosts.

    Args:
        retriever: ranks and scores the requests without their boosts.
        requests: U requests.
        item_indices: U arrays, int64, the items to score.
        weight: nats per standard deviation.
        n_candidates: number of items whose mean and standard deviation standardise the scores.
        deadline: passed to the retriever.

    Returns:
        U boosts in nats.
    """
    boosts = [Boost.from_pairs([])] * len(item_indices)
    plain = _without_boosts(requests)
    rankable = [number for number, request in enumerate(plain) if retriever.can_rank(request)]
    ranked = [plain[number] for number in rankable]
    top = retriever.rank(ranked, n_candidates, deadline=deadline)
    scored = retriever.score(ranked, [item_indices[number] for number in rankable], deadline=deadline)
    for number, best, scores in zip(rankable, top, scored, strict=True):
        spread = float(best.scores.std()) if len(best.scores) else 0.0
        if spread > 0:
            known = np.where(np.isfinite(scores), scores, best.scores[-1])
            boosts[number] = Boost(item_indices[number], weight * (known - best.scores.mean()) / spread)
    return boosts


def with_main_signals(ranking: Ranking, k: int, boost: Boost, fusion_boost: Boost, retriever: str) -> Ranking:
    """The k best items of a fused ranking, each with its main signal: the retriever or the LLM.

    The main signal is the one whose part of the score lies further above its own mean over all compared items.

    Args:
        ranking: all compared items.
        k: list length.
        boost: boosts of the request, which belong to neither signal.
        fusion_boost: the retriever's part of the scores.
        retriever: name of the retriever as a signal.
    """
    items = ranking.item_indices
    retrieved = fusion_boost.values_at(items)
    generated = ranking.scores - retrieved - boost.values_at(items)
    by_retriever = np.zeros(len(items), dtype=np.bool_)
    if len(fusion_boost):
        by_retriever = retrieved - retrieved.mean() > generated - generated.mean()
    signals = tuple(retriever if is_retriever else _LLM_SIGNAL for is_retriever in by_retriever[:k])
    return replace(ranking, item_indices=items[:k], scores=ranking.scores[:k], main_signals=signals)


def _without_boosts(requests: Sequence[RankRequest]) -> list[RankRequest]:
    return [replace(request, boost=None) for request in requests]
