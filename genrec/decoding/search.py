"""Search of a catalog's token trie for the items that an LLM scores highest.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3 (beams constrained by a trie). The radix
nodes, the bounds and the proof are genrec's own.
Letters: U prompts, N rows of the trie.
"""

import numpy as np

from genrec.backends.base import TokenTree
from genrec.data.subset import Subset
from genrec.decoding.beam import BeamSearch
from genrec.decoding.bounds import prefix_sums, renormalize_over_children
from genrec.decoding.prior_penalty import PriorPenalty
from genrec.decoding.search_request import ScoreKind, SearchRequest
from genrec.decoding.tree_scoring import TreeScores, score_tries
from genrec.errors import InputError, check_count
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, Ranking

__all__ = ["ScoreKind", "SearchRequest", "beam_search", "exhaustive_search"]


def exhaustive_search(
    tree: TokenTree, trie: TokenTrie, request: SearchRequest, *, max_nodes: int = 512
) -> list[Ranking]:
    """Score every allowed row, in packed forward passes.

    Args:
        tree: U open prompts, of the tokenizer that the trie was built for.
        trie: every identifier of the catalog.
        request: the allowed rows, list length and score.
        max_nodes: the maximum number of nodes grown for a prompt in one pass.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order; always proven.

    Raises:
        InputError: the request does not fit the trie, or `max_nodes` is negative.
        EngineError: the model failed, or returned NaN.
    """
    request.validate(tree, trie)
    _check_max_nodes(max_nodes)
    subtries = [_restrict(trie, subset) for subset in request.allowed]
    branching_only = request.score_kind == "catalog"
    scores = score_tries(tree, subtries, branching_only=branching_only, max_nodes=max_nodes)
    return [
        request.rank(trie.items[:0], np.empty(0), proven=True)
        if subtrie is None or tree_scores is None
        else _rank_subtrie(trie, subtrie, request, prompt, tree_scores)
        for prompt, (subtrie, tree_scores) in enumerate(zip(subtries, scores, strict=True))
    ]


def beam_search(
    tree: TokenTree,
    trie: TokenTrie,
    request: SearchRequest,
    *,
    width: int,
    exact: bool = False,
    max_nodes: int = 1 << 20,
) -> list[Ranking]:
    """Rank, for each of U prompts, the k allowed rows of highest score.

    Each iteration opens the children of the open nodes and keeps, for each prompt, the `width` of highest priority;
    forced tokens are grown in the same pass. With `exact`, nodes that are not kept are deferred instead of pruned, and
    the search goes on until the top k is proven. A prompt that has grown `max_nodes` nodes prunes again, and ends.

    Args:
        tree: U open prompts, of the tokenizer that the trie was built for.
        trie: every identifier of the catalog.
        request: the allowed rows, list length and score.
        width: children kept per prompt and iteration, and never fewer than k; with `width >= len(trie)` nothing is
            pruned. With `exact` it is the number of nodes opened at once and may be less than k: a small width means
            many passes, and few nodes in total.
        exact: search until the ranking is proven.
        max_nodes: the limit of an exact search; the list is full at the limit too, but may be unproven.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order. `proven` is True if no pruned node could
        have beaten the k-th item; `generated_tokens` and `forward_passes` are the cost.

    Raises:
        InputError: the request does not fit the trie, or `width` or `max_nodes` is too small.
        EngineError: the model failed, or returned NaN.
    """
    request.validate(tree, trie)
    check_count("width", width)
    _check_max_nodes(max_nodes)
    search = BeamSearch(tree, trie, request, width, max_nodes=max_nodes if exact else 0)
    while search.step():
        pass
    return search.rankings()


def _check_max_nodes(max_nodes: int) -> None:
    if not max_nodes >= 0:
        raise InputError(f"max_nodes is {max_nodes}; it must be at least 0")


def _restrict(trie: TokenTrie, allowed: Subset) -> TokenTrie | None:
    """The trie of the allowed rows; None if there are none."""
    if len(allowed) == len(trie):
        return trie
    return trie.restrict(allowed.to_indices()) if len(allowed) else None


def _rank_subtrie(
    trie: TokenTrie, subtrie: TokenTrie, request: SearchRequest, prompt: int, tree_scores: TreeScores
) -> Ranking:
    """The ranking of one prompt, whose allowed rows are the trie `subtrie`."""
    is_catalog = request.score_kind == "catalog"
    rows = np.arange(len(trie)) if subtrie is trie else subtrie.items.astype(np.int64)
    log_probs = tree_scores.log_probs
    gains = renormalize_over_children(subtrie, log_probs) if is_catalog else log_probs
    penalty = request.prior_penalty
    if penalty is not None:
        prior = _restrict_prior(trie, subtrie, penalty)
        penalty.check_finite(prior)
        gains = gains - penalty.weight * (renormalize_over_children(subtrie, prior) if is_catalog else prior)
    # Summed token by token, as the beam does: paths that tie must tie to the last bit.
    scores = prefix_sums(subtrie, gains)[subtrie.last_positions] + request.boost_of(prompt).values_at(rows)
    return request.rank(
        trie.items[rows],
        scores,
        proven=True,
        generated_tokens=tree_scores.generated_tokens,
        forward_passes=tree_scores.forward_passes,
    )


def _restrict_prior(trie: TokenTrie, subtrie: TokenTrie, prior_penalty: PriorPenalty) -> FloatArray:
    """The prior log-probabilities of the tokens of a restriction of the trie."""
    if subtrie is trie:
        return prior_penalty.log_probs.astype(np.float64)
    log_probs = np.empty(len(subtrie.tokens))
    log_probs[subtrie.path_positions(np.arange(len(subtrie)))] = prior_penalty.log_probs_at(
        trie.path_positions(subtrie.items.astype(np.int64))
    )
    return log_probs
