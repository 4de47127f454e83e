"""Decoding constraints from JSON Schemas and context-free grammars, compiled by llguidance (which vLLM uses as well).

JSON is generated without optional white space, because small models can repeat it without end. Keywords of JSON Schema
that llguidance does not support are refused. Source: https://json-schema.org.
Letters: V vocabulary size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import BoolArray

_COMPACT = {"whitespace_flexible": False}


@runtime_checkable
class GrammarTokenizer(Tokenizer, Protocol):
    """A tokenizer with its vocabulary in the format of `tokenizer.json`."""

    @property
    def tokenizer_json(self) -> str:
        """The text of `tokenizer.json`."""
        ...


class GrammarCompiler:
    """Compiles schemas and grammars to constraints over the tokens of one tokenizer.

    Raises:
        ModelMissingError: llguidance is not installed.
    """

    def __init__(self, tokenizer: GrammarTokenizer) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise ModelMissingError(
                "llguidance is not installed; run: pip install 'genrec[local]' or 'genrec[api]'"
            ) from error
        self._matcher: Any = llguidance.LLMatcher
        self._tokenizer: Any = llguidance.LLTokenizer(tokenizer.tokenizer_json, eos_token=tokenizer.eos_token_id)
        self._vocab_size = tokenizer.vocab_size
        self._control_texts = [tokenizer.decode([token]) for token in tokenizer.control_token_ids]

    def compile_json_schema(self, schema: Mapping[str, Any]) -> "GrammarConstraint":
        """The constraint of a JSON Schema.

        Raises:
            InputError: the schema is invalid or not supported, or it contains the text of a control token.
        """
        text = json.dumps(schema)
        grammar = self._matcher.grammar_from_json_schema(text, overrides=_COMPACT)
        return self._compile(f"the schema {text:.80}", grammar, json.dumps(schema, ensure_ascii=False), {"json": text})

    def compile_lark(self, grammar: str) -> "GrammarConstraint":
        """The constraint of a context-free grammar in the notation of Lark, as llguidance reads it.

        Raises:
            InputError: the grammar is invalid or not supported, or it contains the text of a control token.
        """
        parsed = self._matcher.grammar_from_lark(grammar)
        return self._compile(f"the grammar {grammar:.80}", parsed, grammar, {"grammar": grammar})

    def _compile(self, what: str, grammar: str, source: str, engine_args: Mapping[str, Any]) -> "GrammarConstraint":
        # llguidance encodes the text of a control token as that token, which would end the generation early.
        if found := next((text for text in self._control_texts if text in source), ""):
            raise InputError(f"{what} contains the text of control token {found!r}; remove it")
        if fault := self._matcher.validate_grammar(grammar, self._tokenizer):
            raise InputError(f"{what} is not supported: {' '.join(fault.split())}; change it")
        return GrammarConstraint(
            engine_args, lambda: GrammarState(self._matcher(self._tokenizer, grammar), self._vocab_size)
        )


class GrammarConstraint:
    """A compiled schema or grammar. Made by `GrammarCompiler`.

    Attributes:
        engine_args: the same constraint for engines that apply it themselves; see
            `genrec.backends.base.GenerationConstraint`.
    """

    def __init__(self, engine_args: Mapping[str, Any], start: "Callable[[], GrammarState]") -> None:
        self.engine_args, self._start = engine_args, start

    def start(self) -> "GrammarState":
        """The state before the first token."""
        return self._start()


class GrammarState:
    """The state of one generation; `advance` changes it."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def forced_tokens(self) -> Sequence[int]:
        """The tokens that must follow, in the tokenizer's own encoding."""
        found: list[int] = self._matcher.compute_ff_tokens()
        return found

    def allowed_mask(self) -> BoolArray:
        """The tokens that may follow: bool [V], at least one; the end token where the text may end.

        Raises:
            EngineError: the schema exceeds the limits of llguidance.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        found: BoolArray = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)
        if self._matcher.is_error() or not found.any():
            reasons = str(self._matcher.get_error()).splitlines()
            reason = reasons[0] if reasons else "no token may follow"
            raise EngineError(f"the schema cannot be applied any further: {reason}; simplify the schema")
        return found

    def advance(self, token_id: int) -> None:
        """Move to the state after one more token.

        Raises:
            InputError: the token is not allowed.
        """
        if not self._matcher.consume_token(token_id):
            raise InputError(f"token {token_id} is not allowed here; choose one of allowed_mask")
