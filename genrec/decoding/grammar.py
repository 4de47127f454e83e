"""Text that is JSON of a given schema, or of a given grammar: an automaton over token ids, by llguidance, as vLLM too.

Nothing stands between the parts of what is written but what JSON needs, so that a small model does not go on with white
space for ever. Source: https://json-schema.org, as far as llguidance knows it; what it does not know is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import BoolArray

_COMPACT = {"whitespace_flexible": False}


class GrammarCompiler:
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
        self._tokenizer: Any = llguidance.LLTokenizer(tokenizer.tokenizer_json, eos_token=tokenizer.eos_token_id)
        self._vocab_size = tokenizer.vocab_size
        self._control_texts = [tokenizer.decode([token]) for token in tokenizer.control_token_ids]

    def compile_json_schema(self, schema: Mapping[str, Any]) -> "GrammarConstraint":
        """The constraint of a JSON Schema.

        Raises:
            InputError: it is none, or asks for what cannot be kept.
        """
        text = json.dumps(schema)
        grammar = self._matcher.grammar_from_json_schema(text, overrides=_COMPACT)
        return self._compile(f"the schema {text:.80}", grammar, json.dumps(schema, ensure_ascii=False), {"json": text})

    def compile_lark(self, grammar: str) -> "GrammarConstraint":
        """The constraint of a context-free grammar in the notation of Lark, as llguidance reads it.

        Raises:
            InputError: it is none, or asks for what cannot be kept.
        """
        parsed = self._matcher.grammar_from_lark(grammar)
        return self._compile(f"the grammar {grammar:.80}", parsed, grammar, {"grammar": grammar})

    def _compile(self, what: str, grammar: str, source: str, engine_args: Mapping[str, Any]) -> "GrammarConstraint":
        # llguidance writes what spells a control token with that token, which would end the text in its middle.
        if spelled := next((name for name in self._control_texts if name in source), ""):
            raise InputError(f"{what} spells the control token {spelled!r}; write it otherwise")
        if fault := self._matcher.validate_grammar(grammar, self._tokenizer):
            raise InputError(f"{what} cannot be kept: {' '.join(fault.split())}; write it otherwise")
        return GrammarConstraint(
            engine_args, lambda: GrammarState(self._matcher(self._tokenizer, grammar), self._vocab_size)
        )


class GrammarConstraint:
    """A schema or a grammar that texts are held to. Made by `GrammarCompiler`.

    Attributes:
        engine_args: the same for engines that constrain by themselves, see `genrec.backends.base.GenerationConstraint`.
    """

    def __init__(self, engine_args: Mapping[str, Any], start: "Callable[[], GrammarState]") -> None:
        self.engine_args, self._start = engine_args, start

    def start(self) -> "GrammarState":
        """The state before a text's first token."""
        return self._start()


class GrammarState:
    """Where one text stands; it moves."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def forced_tokens(self) -> Sequence[int]:
        """What follows in any case, written as the tokenizer writes it."""
        found: list[int] = self._matcher.compute_ff_tokens()
        return found

    def allowed_mask(self) -> BoolArray:
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

    def advance(self, token_id: int) -> None:
        """Go on behind one more token.

        Raises:
            InputError: it could not have been written.
        """
        if not self._matcher.consume_token(token_id):
            raise InputError(f"token {token_id} may not follow here; write only what is allowed")
