"""The option --ranker of servers and batch runs: the ranker with which the fallback chain begins."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.recommender import Recommender

GENERATIVE, BLEND, EMBEDDING, POPULARITY = RANKERS = ("generative", "blend", "embedding", "popularity")


def check_ranker(ranker: str) -> None:
    """Check that a ranker exists.

    Raises:
        InputError: it does not.
    """
    if ranker not in RANKERS:
        raise InputError(f"--ranker is {ranker!r}; choose one of {', '.join(RANKERS)}")


def without_unused_models(options: Mapping[str, Any], ranker: str) -> dict[str, Any]:
    """Options of settings without the models and counts that only rankers before the first one use."""
    models = {"model": "none"} if ranker != GENERATIVE else {}
    return {**options, **models, **({"encoder": "none", "lexical": False} if ranker == POPULARITY else {})}


def check_data(ranker: str, recommender: "Recommender", data_name: str) -> None:
    """Check that a ranker has the data that it needs, before any model is loaded.

    Raises:
        InputError: the blend needs interactions, and there are none.
    """
    if ranker == BLEND and recommender.interactions is None:
        others = [name for name in RANKERS if name != ranker]
        raise InputError(f"{unavailable_ranker_error(ranker, data_name, others)}, or add --interactions FILE")


def unavailable_ranker_error(ranker: str, data_name: str, available: Iterable[str]) -> InputError:
    """The error for a ranker that could not be loaded."""
    return InputError(f"--ranker {ranker} is not available for {data_name}; choose from {', '.join(available)}")
