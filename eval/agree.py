"""Rank the same people through vLLM and through Transformers, and say where the lists differ.

    python -m eval.agree --users 200

ranks customers of the embedded shop by beams over the whole catalog under both scores, and by scoring every one of 20
candidates. Both backends compute in the same dtype. Two lists that differ do so at a tie where the scores of what only
one of them holds lie within 0.02 nats. Writes one JSON object for each way. vLLM has to be installed beside genrec.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from eval.progress import show_progress
from eval.shop import open_shop
from genrec.cache import default_cache
from genrec.deadline import Deadline
from genrec.loading import find_model_directory, load_backend
from genrec.settings import LANGUAGE_MODEL
from genrec.types import Ranking

K, WIDTH, BATCH = 10, 10, 20
TIE_TOLERANCE = 0.02  # nats
TIMEOUT = 900.0  # seconds; the machine may have other work
SEED = 20261126
VARIANTS: dict[str, dict[str, Any]] = {
    "beam, model score": {"strategy": "beam", "score": "model"},
    "beam, catalog score": {"strategy": "beam", "score": "catalog"},
    "20 candidates": {"strategy": "candidates", "candidates": 20},
}


def compare(rankings: Sequence[Ranking], reference: Sequence[Ranking]) -> dict[str, Any]:
    """How two lists of rankings of the same people agree.

    Returns:
        `users`; `same_set` and `same_order`, how many have the same items; `apart`, how many of the others differ by
        more than a tie; `widest_tie`, nats between the best and the worst of what only one list holds, at the most;
        `score_difference`, nats between the two scores of one item, at the most.
    """
    found = {"users": len(rankings), "same_set": 0, "same_order": 0, "apart": 0}
    ties, gaps = [0.0], [0.0]
    for one, other in zip(rankings, reference, strict=True):
        scores, others = (
            dict(zip(ranking.item_indices.tolist(), ranking.scores.tolist(), strict=True)) for ranking in (one, other)
        )
        gaps += [abs(scores[item] - others[item]) for item in scores.keys() & others.keys()]
        swapped = [table[item] for table in (scores, others) for item in table if (item in scores) != (item in others)]
        if swapped:
            ties.append(max(swapped) - min(swapped))
            found["apart"] += ties[-1] > TIE_TOLERANCE
        found["same_set"] += not swapped
        found["same_order"] += list(scores) == list(others)
    return {**found, "widest_tie": max(ties), "score_difference": max(gaps)}


def main() -> None:
    """Rank, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m eval.agree", description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    options = parser.parse_args()
    from genrec.backends.vllm_engine import VllmEngineBackend

    shop = open_shop(options.users, seed=SEED)
    requests, (backend, _) = shop.requests, load_backend(LANGUAGE_MODEL, default_cache())
    engine = VllmEngineBackend(find_model_directory(LANGUAGE_MODEL, default_cache()), timeout=TIMEOUT)
    try:
        rankers = [shop.ranker(own, width=WIDTH, batch_size=BATCH) for own in (engine, backend)]
        for name, settings in VARIANTS.items():
            pairs = [ranker.with_settings(**settings) for ranker in rankers]
            lists: list[list[Ranking]] = [[], []]
            starts = range(0, len(requests), BATCH)
            for start in show_progress(starts, name, len(starts)):
                for own, ranker in zip(lists, pairs, strict=True):
                    own += ranker.rank(requests[start : start + BATCH], K, deadline=Deadline.never())
            print(json.dumps({"way": name, **compare(*lists)}), flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
