"""Text that is JSON of a given schema: an automaton over token ids, by llguidance, as vLLM has it too.

Nothing stands between the parts of what is written but what JSON needs, so that a small model does not go on with white
space for ever. Source: https://json-schema.org, as far as llguidance knows it; what it does not know is refused.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.tokenizer import HuggingFaceTokenizer
from genrec.types import BoolArray

_COMPACT = {"whitespace_flexible": False}


class JsonGrammar:
    """Makes constraints for the texts of one tokenizer.

    Raises:
        ModelMissingError: llguidance is not installed.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise ModelMissingError("schemas need llguidance; run: pip install 'genrec[local]'") from error
        self._matcher: Any = llguidance.LLMatcher
        self._tokenizer: Any = llguidance.LLTokenizer(tokenizer.document, eos_token=tokenizer.end_id)
        self._vocab_size = tokenizer.vocab_size

    def constrain(self, schema: Mapping[str, Any]) -> "JsonConstraint":
        """The constraint of a JSON Schema.

        Raises:
            InputError: it is none, or asks for what cannot be kept.
        """
        text = json.dumps(schema)
        grammar = self._matcher.grammar_from_json_schema(text, overrides=_COMPACT)
        if fault := self._matcher.validate_grammar(grammar, self._tokenizer):
            raise InputError(f"the schema {text:.80} cannot be kept: {' '.join(fault.split())}; write it otherwise")
        return JsonConstraint(text, lambda: JsonState(self._matcher(self._tokenizer, grammar), self._vocab_size))


class JsonConstraint:
    """A schema that texts are held to. Made by `JsonGrammar.constrain`.

    Attributes:
        schema: as JSON, for engines that constrain by themselves.
    """

    def __init__(self, schema: str, start: "Callable[[], JsonState]") -> None:
        self.schema, self._start = schema, start

    def start(self) -> "JsonState":
        """The state before a text's first token."""
        return self._start()


class JsonState:
    """Where one text stands; it moves."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> BoolArray:
        """What may follow: bool [V], at least one; the end token where the text may end.

        Raises:
            EngineError: the schema leads into more than can be kept track of.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        found: BoolArray = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        if self._matcher.is_error() or not found.any():
            told = str(self._matcher.get_error()).splitlines()
            raise EngineError(f"a schema cannot be kept any further: {told[0] if told else 'nothing may follow'}")
        return found

    def advance(self, token: int) -> None:
        """Go on behind one more token.

        Raises:
            InputError: it could not have been written.
        """
        if not self._matcher.consume_token(token):
            raise InputError(f"token {token} may not follow here; write only what is allowed")
