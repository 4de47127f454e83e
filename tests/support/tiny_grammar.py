"""A vocabulary of eight tokens and tries over it, for tests of decoding constraints."""

import numpy as np

from genrec.decoding.delimiters import DelimiterTokens
from genrec.index.trie import TokenTrie

END, SEPARATOR, CLOSING, OPENING, FIRST, VOCABULARY = 0, 1, 2, 3, 4, 8


DELIMITERS = DelimiterTokens(
    END,
    SEPARATOR,
    CLOSING,
    opens_link=np.arange(VOCABULARY) == OPENING,
    free_text=np.isin(np.arange(VOCABULARY), [END, CLOSING, OPENING, 5]),
)


Written = tuple[int, ...]


def trie_of(bodies: set[Written]) -> TokenTrie:
    return TokenTrie.from_sequences([np.array([*body, END]) for body in sorted(bodies)])
