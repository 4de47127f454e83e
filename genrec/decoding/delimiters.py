"""The delimiter tokens of a tokenizer: what separates identifiers in generated text.

Letters: V vocabulary size.
"""

from dataclasses import dataclass, field

import numpy as np

from genrec.errors import InputError
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import BoolArray

_OPENING, _CLOSING, _SEPARATOR = "[", "]", "\n"
_WORD = "a"  # before a delimiter: some tokenizers write a space before the first text


@dataclass(frozen=True, eq=False)
class DelimiterTokens:
    """The tokens that delimit identifiers. Made by `from_tokenizer`.

    Attributes:
        end_id: ends an answer, and every identifier in a trie.
        separator_id: the line break between two items of a list; None if the tokenizer writes it as several tokens.
        closing_id: the bracket that closes an item link; None if it is several tokens, or no token opens a link.
        opens_link: bool [V], tokens that open an item link: text that ends with the opening bracket.
        free_text: bool [V], tokens allowed outside of item links: those of `opens_link`, tokens without an opening
            bracket, and the end token. No other control token, and no token with a bracket in another position: the
            text after it would not be constrained.
    """

    end_id: int
    separator_id: int | None
    closing_id: int | None
    opens_link: BoolArray = field(repr=False)
    free_text: BoolArray = field(repr=False)

    def check(self, form: str) -> None:
        """Check that answers of a form can be delimited: "item", "list" or "text".

        Raises:
            InputError: the line break of a list, or the bracket that closes an item link, is not exactly one token; or
                no token opens an item link.
        """
        needed = {"list": (self.separator_id, "a line break"), "text": (self.closing_id, "the bracket of an item link")}
        token_id, what = needed.get(form, (self.end_id, ""))
        if token_id is None:
            raise InputError(
                f"form is {form!r}, which needs {what} in exactly one token, but this model's tokenizer has none; "
                "choose form 'item', or a model with a byte-level tokenizer",
                argument="form",
            )

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "DelimiterTokens":
        """Find the delimiters in a vocabulary; decodes every token once."""
        texts = tokenizer.token_texts()
        is_text = np.ones(len(texts), dtype=np.bool_)
        is_text[list(tokenizer.control_token_ids)] = False
        num_brackets = np.array([text.count(_OPENING) for text in texts])
        opens = is_text & (num_brackets == 1) & np.array([text.endswith(_OPENING) for text in texts])
        free_text = opens | (is_text & (num_brackets == 0))
        free_text[tokenizer.eos_token_id] = True
        closing_id = _single_token(tokenizer, _CLOSING) if opens.any() else None
        return cls(tokenizer.eos_token_id, _single_token(tokenizer, _SEPARATOR), closing_id, opens, free_text)


def _single_token(tokenizer: Tokenizer, text: str) -> int | None:
    """The only token of a text behind a word, or else alone; None if it is several tokens both times."""
    word = tokenizer.encode_text(_WORD).tolist()
    joined, alone = tokenizer.encode_text(_WORD + text).tolist(), tokenizer.encode_text(text).tolist()
    behind = joined[len(word) :] if joined[: len(word)] == word else alone
    return next((int(token_ids[0]) for token_ids in (behind, alone) if len(token_ids) == 1), None)
