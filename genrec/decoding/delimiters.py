"""The delimiter tokens of a tokenizer: what separates identifiers in generated text.

Letters: V vocabulary size.
"""

from dataclasses import dataclass, field

import numpy as np

from genrec.errors import InputError
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import BoolArray

_OPENING, _CLOSING = "[", "]"


@dataclass(frozen=True, eq=False)
class DelimiterTokens:
    """The tokens that delimit identifiers. Made by `from_tokenizer`.

    Attributes:
        end_id: ends an answer, and every identifier in a trie.
        separator_id: the line break between two items of a list.
        closing_id: the bracket that closes an item link.
        opens_link: bool [V], tokens that open an item link: text that ends with the opening bracket.
        free_text: bool [V], tokens allowed outside of item links: those of `opens_link`, tokens without an opening
            bracket, and the end token. No other control token, and no token with a bracket in another position: the
            text after it would not be constrained.
    """

    end_id: int
    separator_id: int
    closing_id: int
    opens_link: BoolArray = field(repr=False)
    free_text: BoolArray = field(repr=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "DelimiterTokens":
        """Find the delimiters in a vocabulary; decodes every token once.

        Raises:
            InputError: a line break or the closing bracket is not exactly one token, or no token opens an item link.
        """
        separator, closing = (_single_token(tokenizer, text) for text in ("\n", _CLOSING))
        texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
        is_text = np.ones(len(texts), dtype=np.bool_)
        is_text[list(tokenizer.control_token_ids)] = False
        num_brackets = np.array([text.count(_OPENING) for text in texts])
        opens = is_text & (num_brackets == 1) & np.array([text.endswith(_OPENING) for text in texts])
        if not opens.any():
            raise InputError(
                f"no token of this tokenizer ends with {_OPENING!r}, so no item link can be opened; "
                "choose a model with a byte-level tokenizer"
            )
        free_text = opens | (is_text & (num_brackets == 0))
        free_text[tokenizer.eos_token_id] = True
        return cls(tokenizer.eos_token_id, separator, closing, opens, free_text)


def _single_token(tokenizer: Tokenizer, text: str) -> int:
    token_ids = tokenizer.encode_text(text)
    if len(token_ids) != 1:
        raise InputError(
            f"this tokenizer encodes {text!r} as {len(token_ids)} tokens, but lists and item links need exactly one; "
            "choose a model with a byte-level tokenizer"
        )
    return int(token_ids[0])
