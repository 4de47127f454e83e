"""Agreement of vLLM and Transformers: rank the same users through both backends and compare the lists.

    python -m eval.agree --users 200

ranks users of the embedded shop by beam search over the whole catalog under both scores, and by scoring 20 candidates.
Both backends compute in the same dtype. A difference between two lists counts as a tie if the scores of the items in
only one of them lie within 0.02 nats. Prints one JSON object per variant. vLLM must be installed.
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
TIMEOUT = 900.0  # seconds; long, since the machine may be busy
SEED = 20261126
VARIANTS: dict[str, dict[str, Any]] = {
    "beam, model score": {"strategy": "beam", "score": "model"},
    "beam, catalog score": {"strategy": "beam", "score": "catalog"},
    "20 candidates": {"strategy": "candidates", "candidates": 20},
}


def compare(rankings: Sequence[Ranking], reference: Sequence[Ranking]) -> dict[str, Any]:
    """Compare two lists of rankings of the same users.

    Returns:
        `users`; `same_set` and `same_order`, the users with the same items; `apart`, the users whose lists differ by
        more than a tie; `widest_tie`, the largest range in nats of the scores of items in only one list;
        `score_difference`, the largest difference in nats between the two scores of an item.
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
    """Rank with both backends and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m eval.agree", description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    options = parser.parse_args()
    from genrec.backends import VllmEngineBackend

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
