"""A trie of nested dictionaries with the vocabulary mask of Hugging Face: a peer to compare to.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, whose trie most users of
`prefix_allowed_tokens_fn` reimplement.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from eval.speed.catalog import Identifiers, hashes
from genrec.types import IntArray

NAME = "dictionary trie and Hugging Face's mask"

Node = dict[int, Any]
"""Maps a token to the next node, and a last token to its item."""


def build(codes: Identifiers) -> Node:
    """Build from N unsorted identifiers."""
    root: Node = {}
    tokens, begin = codes.tokens.tolist(), 0
    for item, length in enumerate(codes.lengths.tolist()):
        node = root
        for token in tokens[begin : begin + length - 1]:
            below = node.get(token)
            if below is None:
                below = node[token] = {}
            node = below
        node[tokens[begin + length - 1]] = item
        begin += length
    return root


def below(codes: Identifiers, prefixes: IntArray) -> Node:
    """The part of the trie that lookups after prefixes [R, D] read; a trie of 10M items does not fit into memory."""
    depth = prefixes.shape[1]
    long = np.flatnonzero(codes.lengths > depth)
    place = codes.offsets[long][:, None] + np.arange(depth)
    begins, asked = hashes(codes.tokens[place]), np.unique(hashes(prefixes))
    nearest = np.minimum(np.searchsorted(asked, begins), len(asked) - 1)
    return build(_part(codes, long[asked[nearest] == begins]))


def allowed_tokens(root: Node, skip: int, *, otherwise: int) -> Callable[[int, torch.Tensor], list[int]]:
    """A `prefix_allowed_tokens_fn` for prompts of `skip` tokens; `otherwise` is allowed after a complete path."""

    def allowed(_: int, sent: torch.Tensor) -> list[int]:
        node: Any = root
        for token in sent[skip:].tolist():
            node = node.get(token) if isinstance(node, dict) else None
        return list(node) if isinstance(node, dict) else [otherwise]

    return allowed


def mask(root: Node, width: int) -> PrefixConstrainedLogitsProcessor:
    """Called with prefixes int64 [R, D] and log-probabilities [R, V]; R is a multiple of `width`."""
    return PrefixConstrainedLogitsProcessor(allowed_tokens(root, 0, otherwise=0), width)


def _part(codes: Identifiers, items: IntArray) -> Identifiers:
    offsets = codes.offsets
    pieces = [codes.tokens[offsets[item] : offsets[item + 1]] for item in items.tolist()]
    return Identifiers(codes.name, codes.vocab_size, np.concatenate(pieces), codes.lengths[items])
