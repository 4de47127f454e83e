"""Laws of grammar constraints: every generation is valid under its schema or grammar."""

from typing import Any

import numpy as np
import pytest
from backend_support import MESSAGES, check_texts

from genrec.backends.base import Backend, GenerationRequest
from genrec.decoding.grammar import GrammarCompiler
from genrec.errors import EngineError, InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import TableBackend
from genrec.types import Message, Span

GRAMMAR = 'start: "Take [" ("1" | "2") "], it is " ("“é {{ x }}”" | "red") "."'


@pytest.fixture(scope="module")
def grammar(tokenizer: HuggingFaceTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.mark.model
def test_text_constrained_by_a_schema_is_json_of_it(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """One invalid answer in a thousand would break every program that parses them as JSON."""
    check_texts(smollm2_float32, tokenizer, grammar)


@pytest.mark.model
def test_allowed_tokens_exclude_control_tokens_except_end(
    tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """A control token within a string would end the text early, or be read as one by the next model."""
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
    with pytest.raises(InputError, match="token 5 is not allowed here"):
        state.advance(5)


@pytest.mark.model
@pytest.mark.parametrize("excess", [1, -1, -40])
def test_models_may_have_fewer_or_more_tokens_than_the_tokenizer(
    tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler, excess: int
) -> None:
    """Gemma 3 1B has no embedding for one control token, and most models have more than their tokenizer names."""
    constraint = grammar.compile_json_schema({"enum": ["Alien", "Heat"]})
    backend = TableBackend(tokenizer.vocab_size - excess, seed=3)
    request = GenerationRequest(np.array([5, 6]), (tokenizer.eos_token_id,), 30, constraint=constraint)
    text = tokenizer.decode(backend.generate([request])[0].token_ids.tolist())
    assert text in ('"Alien"', '"Heat"')


@pytest.mark.model
def test_text_constrained_by_a_grammar_is_a_sentence_of_it(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """Forced tokens are added without the model, and must be the only ones allowed."""
    constraint = grammar.compile_lark(GRAMMAR)
    prompt = tokenizer.encode_prompt([Message("user", (Span(MESSAGES[0], trusted=False),))])
    requests = [GenerationRequest(prompt, tokenizer.control_token_ids, 40, 3.0, seed, constraint) for seed in range(8)]
    streamed: dict[int, list[int]] = {}
    texts = smollm2_float32.generate(
        requests, on_tokens=lambda number, new: streamed.setdefault(number, []).extend(new)
    )
    written = {tokenizer.decode(text.token_ids.tolist()) for text in texts}
    assert written <= {f"Take [{one}], it is {what}." for one in (1, 2) for what in ("“é {{ x }}”", "red")}
    assert len(written) > 1
    for number, text in enumerate(texts):
        assert text.stopped
        assert streamed[number] == text.token_ids.tolist()
    with pytest.raises(InputError, match="is not supported"):
        grammar.compile_lark("start: nothing")
    with pytest.raises(InputError, match=r"contains the text of control token '<\|im_end\|>'"):
        grammar.compile_lark('start: "a <|im_end|>"')


@pytest.mark.model
def test_a_schema_beyond_the_limits_raises_while_generating(
    tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler
) -> None:
    """Otherwise a truncated text counts as complete."""
    pattern = "^((.{0,90}x.{0,90}y){1,60}|(.{3,77}z)+)$"
    state = grammar.compile_json_schema({"type": "string", "pattern": pattern}).start()
    random = np.random.default_rng(0)
    letters = [int(tokenizer.encode_text(letter)[0]) for letter in "xyz"]
    state.advance(int(tokenizer.encode_text('"')[0]))

    def write(count: int) -> None:
        for _ in range(count):
            allowed = state.allowed_mask()
            state.advance(next(int(one) for one in random.permutation(letters) if allowed[one]))

    with pytest.raises(EngineError, match="cannot be applied any further"):
        write(400)


@pytest.mark.model
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"enum": ["a <|im_end|>"]}, "contains the text of control token"),
    ],
)
def test_an_unsupported_schema_is_refused(grammar: GrammarCompiler, schema: dict[str, Any], message: str) -> None:
    """A keyword that is silently ignored is not enforced."""
    with pytest.raises(InputError, match=message):
        grammar.compile_json_schema(schema)
