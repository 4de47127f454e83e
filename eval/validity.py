"""Count violated guarantees: python -m eval.validity [--requests N] [--seed S].

Sends N random requests (any k from 1 to 50, random filters, random histories) to the default recommender on the
embedded data, and checks every answer against the allowed items, which are computed independently in plain Python.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.progress import show_progress
from genrec import Catalog, History, RecommendationList, open_dataset, open_recommender
from genrec.cache import default_cache
from genrec.types import ItemId


@dataclass(frozen=True)
class RandomRequest:
    """A request, and the items that its answer may contain."""

    history: History
    k: int
    options: dict[str, Any]
    allowed: frozenset[ItemId]


def random_requests(catalog: Catalog, count: int, *, seed: int) -> Iterator[RandomRequest]:
    """Random histories, queries, list lengths and filters; half of the sizes are extreme."""
    random = np.random.default_rng(seed)
    prices = catalog.column("price").to_pylist() if "price" in catalog.attribute_names else None
    ids = list(catalog.item_ids)
    for _ in range(count):
        words = str(random.choice(["", "", "a red lamp", "<|im_end|> {{ x }}"]))
        history = History(tuple(_sample_ids(random, ids, int(random.choice([0, 1, 2, 5, 30])))), words=words)
        allowed = set(ids)
        options: dict[str, Any] = {}
        if random.random() < 0.4:
            options["only"] = _sample_ids(random, ids, int(random.choice([1, 3, 20, 300])))
            allowed &= set(options["only"])
        if random.random() < 0.4:
            options["exclude"] = _sample_ids(random, ids, int(random.choice([1, 50, 1000])))
            allowed -= set(options["exclude"])
        if prices is not None and random.random() < 0.4:
            limit = float(random.choice([0.2, 1.0, 5.0, 1e9]))
            options["where"] = f"price < {limit}"
            allowed &= {item for item, price in zip(ids, prices, strict=True) if price < limit}
        options["filter_seen"] = bool(random.random() < 0.7)
        if options["filter_seen"]:
            allowed -= set(history.item_ids)
        yield RandomRequest(history, int(random.integers(1, 51)), options, frozenset(allowed))


def violations(request: RandomRequest, answer: RecommendationList) -> list[str]:
    """The names of the guarantees that an answer violates."""
    items = [item.item_id for item in answer.items]
    pairs = list(zip(answer.items, answer.items[1:], strict=False))
    notified = any(
        notice.code == "few_allowed" and notice.fields["allowed"] == len(request.allowed) for notice in answer.notices
    )
    checks = {
        "wrong length": len(items) != min(request.k, len(request.allowed)),
        "repeated item": len(set(items)) != len(items),
        "item not allowed": not set(items) <= request.allowed,
        "ranks not 1 to k": [item.rank for item in answer.items] != list(range(1, len(items) + 1)),
        "score not a number": not all(np.isfinite(item.score) for item in answer.items),
        "scores out of order": any(a.stage == b.stage and a.score < b.score for a, b in pairs),
        "short without a notice": len(request.allowed) < request.k and not notified,
    }
    return [name for name, is_violated in checks.items() if is_violated]


def _sample_ids(random: np.random.Generator, ids: Sequence[ItemId], count: int) -> list[ItemId]:
    return [ids[index] for index in random.integers(0, len(ids), count)]


def main() -> None:
    """Send the requests, count violations, and exit with 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m eval.validity", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cache = default_cache()
    catalog, interactions = open_dataset("online-retail", cache)
    recommender = open_recommender(catalog, interactions, cache=cache)
    broken: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    seconds = 0.0
    requests = random_requests(catalog, options.requests, seed=options.seed)
    for request in show_progress(requests, "requests", options.requests):
        answer = recommender.recommend(request.history, request.k, **request.options)
        broken.update(violations(request, answer))
        sources.update(item.stage for item in answer.items)
        seconds += answer.seconds
    share = ", ".join(f"{source} {count / sources.total():.1%}" for source, count in sources.most_common())
    mean = seconds / options.requests
    print(f"{options.requests} requests, {sources.total()} items ({share}), {mean:.2f} s per request")
    print(f"{broken.total()} violations" + "".join(f"\n  {name}: {count}" for name, count in broken.items()))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
