"""Texts that are JSON of a schema, whatever the model would rather write."""

from typing import Any

import numpy as np
import pytest
from backend_support import SAID, check_texts

from genrec.backends.base import Backend, GenerationRequest
from genrec.decoding.grammar import GrammarCompiler
from genrec.errors import EngineError, InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Message, Span

GRAMMAR = 'start: "Take [" ("1" | "2") "], it is " ("“é {{ x }}”" | "red") "."'


@pytest.fixture(scope="module")
def grammar(tokenizer: HuggingFaceTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.mark.model
def test_a_text_that_is_held_to_a_schema_is_json_of_it(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """Whoever reads it as JSON would fall over the one in a thousand that is none."""
    check_texts(smollm2_float32, tokenizer, grammar)


@pytest.mark.model
def test_allowed_tokens_exclude_control_tokens_except_end(
    tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """A control token within a string would end the text there, or speak to the next reader of it."""
    state = grammar.compile_json_schema({"type": "string", "maxLength": 3}).start()
    control = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
    control[list(tokenizer.control_token_ids)] = True
    for token in tokenizer.encode_text('"a<'):
        allowed = state.allowed_mask()
        assert allowed.shape == (tokenizer.vocab_size,)
        assert allowed[token]
        assert not (allowed & control).any()
        state.advance(int(token))
    state.advance(int(tokenizer.encode_text('"')[0]))
    assert np.flatnonzero(state.allowed_mask()).tolist() == [tokenizer.eos_token_id]
    with pytest.raises(InputError, match="token 5 may not follow here"):
        state.advance(5)


@pytest.mark.model
def test_a_text_that_is_held_to_a_grammar_is_a_sentence_of_it(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """What is forced is written without the model, and must be what it would have had to write."""
    constraint = grammar.compile_lark(GRAMMAR)
    prompt = tokenizer.encode_prompt([Message("user", (Span(SAID[0], trusted=False),))])
    requests = [GenerationRequest(prompt, tokenizer.control_token_ids, 40, 3.0, seed, constraint) for seed in range(8)]
    told: dict[int, list[int]] = {}
    texts = smollm2_float32.generate(requests, on_tokens=lambda number, new: told.setdefault(number, []).extend(new))
    written = {tokenizer.decode(text.token_ids.tolist()) for text in texts}
    assert written <= {f"Take [{one}], it is {what}." for one in (1, 2) for what in ("“é {{ x }}”", "red")}
    assert len(written) > 1
    for number, text in enumerate(texts):
        assert text.stopped
        assert told[number] == text.token_ids.tolist()
    with pytest.raises(InputError, match="cannot be kept"):
        grammar.compile_lark("start: nothing")
    with pytest.raises(InputError, match=r"spells the control token '<\|im_end\|>'"):
        grammar.compile_lark('start: "a <|im_end|>"')


@pytest.mark.model
def test_a_schema_that_grows_beyond_what_can_be_kept_track_of_is_an_error(
    tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """Else the text ends in the middle, and counts as whole."""
    pattern = "^((.{0,90}x.{0,90}y){1,60}|(.{3,77}z)+)$"
    state = grammar.compile_json_schema({"type": "string", "pattern": pattern}).start()
    random = np.random.default_rng(0)
    letters = [int(tokenizer.encode_text(letter)[0]) for letter in "xyz"]
    state.advance(int(tokenizer.encode_text('"')[0]))

    def write(count: int) -> None:
        for _ in range(count):
            allowed = state.allowed_mask()
            state.advance(next(int(one) for one in random.permutation(letters) if allowed[one]))

    with pytest.raises(EngineError, match="cannot be kept any further"):
        write(400)


@pytest.mark.model
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"enum": ["a <|im_end|>"]}, "spells the control token"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(
    grammar: GrammarCompiler, schema: dict[str, Any], message: str
) -> None:
    """What is left out of it without a word would not be kept either."""
    with pytest.raises(InputError, match=message):
        grammar.compile_json_schema(schema)
