"""Laws of the catalog constraint: it allows exactly the answers that name allowed items."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from shop import ITEMS
from tiny_grammar import CLOSING, DELIMITERS, END, FIRST, OPENING, SEPARATOR, VOCABULARY, Written, trie_of

from genrec.data.catalog import Catalog
from genrec.data.subset import Mask, Subset
from genrec.decoding.constraints import CatalogGrammar, ConstraintState, advance
from genrec.decoding.delimiters import DelimiterTokens
from genrec.errors import InputError, TokenizerMismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.index.trie import TokenTrie
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer

bodies = st.sets(
    st.lists(st.integers(CLOSING, VOCABULARY - 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5
)


def subset_of(size: int, draw: st.DataObject) -> Subset:
    """Random rows, as a mask, a list, or both."""
    chosen = np.array(draw.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    chosen[draw.draw(st.integers(0, size - 1))] = True
    by_mask, by_list = Subset.from_mask(Mask.from_bool(chosen)), Subset.from_indices(size, np.flatnonzero(chosen))
    by_denylist = Subset.everything(size).without(np.flatnonzero(~chosen))
    return draw.draw(st.sampled_from([by_mask, by_list, by_denylist, Subset.from_mask(by_mask.mask)]))


def following(state: ConstraintState) -> list[int]:
    return np.flatnonzero(DELIMITERS.free_text).tolist() if state.in_free_text else state.next_tokens.tolist()


def language(state: ConstraintState, max_tokens: int) -> Iterator[tuple[Written, Written]]:
    """Every answer of at most `max_tokens` tokens, and its rows."""
    if state.is_complete:
        yield (), state.written_rows
    elif max_tokens:
        tokens = following(state)
        assert tokens, "at least one token must be allowed"
        assert len(set(tokens)) == len(tokens)
        for token, after in zip(tokens, advance([state] * len(tokens), tokens), strict=True):
            assert not after.is_dead, "an allowed token must not lead to a dead state"
            yield from (((token, *rest), rows) for rest, rows in language(after, max_tokens - 1))


@given(bodies, st.data())
def test_item_and_list_languages_equal_brute_force(bodies: set[Written], draw: st.DataObject) -> None:
    """One answer too many is an item that does not exist; one too few is an item that can never be recommended."""
    trie = trie_of(bodies)
    grammar, allowed = CatalogGrammar(trie, DELIMITERS), subset_of(len(trie), draw)
    rows = [tuple(trie.tokens_of_row(row)[:-1].tolist()) for row in range(len(trie))]
    max_k = min(len(allowed), 3)
    for form, k in [("item", None), *(("list", size) for size in range(1, max_k + 1))]:
        expected = {}
        for chosen in permutations(allowed.to_indices().tolist(), k or 1):
            text = [token for row in chosen for token in (*rows[row], SEPARATOR)]
            expected[(*text[:-1], END)] = chosen
        state = grammar.start(form, k=k, allowed=allowed)
        found = list(language(state, 100))
        assert len(found) == len(expected)
        assert dict(found) == expected
        assert max(map(len, expected)) <= grammar.max_answer_tokens(form, k=k, allowed=allowed)
        for text, chosen in expected.items():
            assert state.parse_items(text).tolist() == trie.items[list(chosen)].tolist()


@given(bodies, st.data())
def test_text_language_equals_brute_force(bodies: set[Written], draw: st.DataObject) -> None:
    """A link without an item is an invention, in the only form with free text."""
    trie = trie_of(bodies)
    grammar, allowed = CatalogGrammar(trie, DELIMITERS), subset_of(len(trie), draw)
    rows = {tuple(trie.tokens_of_row(row)[:-1].tolist()): row for row in range(len(trie))}
    if any(row[: len(other) + 1] == (*other, CLOSING) for row in rows for other in rows):
        with pytest.raises(InputError, match="continues with token 2 where another one ends"):
            grammar.start("text", allowed=allowed)
        return
    plain = [token for token in np.flatnonzero(DELIMITERS.free_text).tolist() if token not in (END, OPENING)]
    pieces = {(token,): () for token in plain} | {
        (OPENING, *body, CLOSING): (row,) for body, row in rows.items() if allowed.contains([row])[0]
    }
    max_tokens, expected, unfinished = 5, {}, {((), ())}
    while unfinished:
        expected |= {(*text, END): named for text, named in unfinished}
        unfinished = {
            ((*text, *piece), named + more)
            for text, named in unfinished
            for piece, more in pieces.items()
            if len(text) + len(piece) < max_tokens
        }
    state = grammar.start("text", allowed=allowed)
    found = list(language(state, max_tokens))
    assert len(found) == len(expected)
    assert dict(found) == expected


@pytest.mark.parametrize("seed", range(5))
def test_random_generations_name_k_distinct_items(seed: int) -> None:
    """Every list has exactly k distinct, allowed items."""
    random = np.random.default_rng(seed)
    size = int(random.integers(50, 3000))
    bodies = {tuple(random.integers(FIRST, 40, random.integers(1, 9)).tolist()) for _ in range(size)}
    trie = trie_of(bodies)
    delimiters = replace(DELIMITERS, opens_link=np.arange(40) == OPENING, free_text=np.arange(40) != 6)
    grammar = CatalogGrammar(trie, delimiters)
    masks = [Mask.from_bool(random.random(len(trie)) < share) for share in (0.1, 0.5)]
    subsets, states, sizes = [], [], []
    for number in range(60):
        few = random.permutation(len(trie))[: random.integers(1, 30)]
        whole = Subset.everything(len(trie))
        by_mask = Subset.from_mask(masks[number % 2])
        allowed = [whole, by_mask, whole.intersect(few), by_mask.without(few), whole.without(few)][number % 5]
        k = int(random.integers(1, min(len(allowed), 25) + 1))
        subsets.append(allowed)
        states.append(grammar.start("list", k=k, allowed=allowed))
        sizes.append(k)
    first, written = list(states), [[] for _ in states]
    while not all(state.is_complete for state in states):
        tokens = [int(random.choice(state.next_tokens)) for state in states]
        for state, token, text in zip(states, tokens, written, strict=True):
            text += [] if state.is_complete else [token]
        after = advance(states, tokens)
        states = [before if before.is_complete else now for before, now in zip(states, after, strict=True)]
    for state, start, text, allowed, k in zip(states, first, written, subsets, sizes, strict=True):
        assert len(text) <= grammar.max_answer_tokens("list", k=k, allowed=allowed)
        assert len(set(state.written_rows)) == k
        assert allowed.contains(list(state.written_rows)).all()
        assert start.parse_items(text).tolist() == trie.items[list(state.written_rows)].tolist()


def test_batched_states_advance_as_they_do_alone() -> None:
    """The constraint of a request must not depend on the other requests of its batch."""
    random = np.random.default_rng(7)
    trie = trie_of({tuple(random.integers(FIRST, 8, random.integers(1, 6)).tolist()) for _ in range(80)})
    grammar = CatalogGrammar(trie, DELIMITERS)
    masks = [Mask.from_bool(random.random(len(trie)) < 0.6) for _ in range(3)]
    together = [
        grammar.start(form, allowed=Subset.from_mask(mask)) for mask in masks for form in ("item", "list", "text")
    ]
    alone = list(together)
    for _ in range(60):
        tokens = [int(random.choice(following(state))) for state in alone]
        together = advance(together, tokens)
        alone = [advance([state], [token])[0] for state, token in zip(alone, tokens, strict=True)]
        assert [following(state) for state in together] == [following(state) for state in alone]
        assert [state.written_rows for state in together] == [state.written_rows for state in alone]


@pytest.mark.parametrize("form", ["item", "list", "text"])
def test_disallowed_token_ends_the_state(form: str) -> None:
    """A constraint that continues after a disallowed token fails open; an engine may pass any token."""
    grammar = CatalogGrammar(trie_of({(4, 4), (4, 5), (5, 4)}), DELIMITERS)
    start = grammar.start(form, k=2 if form == "list" else None)
    wrong = {"item": [[6], [4, 6], [-1], [END], [4, END], [4, 4, SEPARATOR], [4, 4, END, END]]}
    wrong["list"] = [[6], [SEPARATOR], [4, 4, END], [4, 4, SEPARATOR, 4, 4], [4, 4, SEPARATOR, 5, 4, SEPARATOR], [-1]]
    wrong["text"] = [[6], [-1], [999], [OPENING, END], [OPENING, CLOSING], [5, OPENING, 4, CLOSING], [END, END]]
    for text in wrong[form]:
        state = start
        for token in text:
            assert not state.is_dead
            (state,) = advance([state], [token])
        assert state.is_dead
        assert state.next_tokens.tolist() == [END]
        assert advance([state], [END])[0].is_dead
        message = f"token {text[-1]} at position {len(text) - 1} of {len(text)} is not allowed"
        with pytest.raises(InputError, match=message):
            start.parse_items(text)


def test_a_truncated_answer_is_refused() -> None:
    """Half a list looks like a complete one, and half a title like the title of another item."""
    grammar = CatalogGrammar(trie_of({(4,), (4, 5), (5, 4)}), DELIMITERS)
    for form, k, text in (
        ("item", None, [4, 5, END]),
        ("list", 3, [4, SEPARATOR, 5, 4, SEPARATOR, 4, 5, END]),
        ("text", None, [5, OPENING, 4, 5, CLOSING, OPENING, 4, 5, CLOSING, END]),
    ):
        start = grammar.start(form, k=k)
        assert len(start.parse_items(text)) == {"item": 1, "list": 3, "text": 2}[form]
        for size in range(len(text)):
            with pytest.raises(InputError, match=f"is truncated after {size} tokens"):
                start.parse_items(text[:size])


def test_invalid_constraint_arguments_are_refused() -> None:
    """A constraint that cannot be applied must raise, never be ignored."""
    grammar = CatalogGrammar(trie_of({(4,), (5,), (6,)}), DELIMITERS)
    for arguments, message in (
        ({"form": "poem"}, "form is 'poem'; choose one of item, list, text"),
        ({"k": 0}, "k is 0; give a whole number"),
        ({"k": True}, "k is True"),
        ({"k": 2.0}, "k is 2.0"),
        ({"form": "item", "k": 1}, "form 'item' takes no k"),
        ({"form": "text", "k": 3}, "form 'text' takes no k"),
        ({"k": 4}, "k is 4, but 3 of 3 items are allowed; ask for fewer"),
        ({"k": 2, "allowed": Subset.from_indices(3, [1])}, "k is 2, but 1 of 3 items"),
        ({"form": "text", "allowed": Subset.from_indices(3, [])}, "none of 3 items is allowed; allow at least one"),
        ({"k": 1, "allowed": Subset.everything(4)}, "allowed is a subset of 4 rows, but the trie has 3"),
    ):
        with pytest.raises(InputError, match=message):
            grammar.start(**arguments)
    with pytest.raises(TokenizerMismatchError, match="not every identifier ends with end token 5"):
        CatalogGrammar(trie_of({(4,), (6,)}), replace(DELIMITERS, end_id=5))
    with pytest.raises(TokenizerMismatchError, match="or one contains it elsewhere"):
        CatalogGrammar(TokenTrie.from_sequences([np.array([4, END, 5, END]), np.array([5, END])]), DELIMITERS)
    lines = CatalogGrammar(TokenTrie.from_sequences([np.array([4, SEPARATOR, 5, END]), np.array([4, END])]), DELIMITERS)
    with pytest.raises(InputError, match="continues with token 1 where another one ends"):
        lines.start("list", k=1)
    assert lines.start("item").parse_items([4, SEPARATOR, 5, END]).tolist() == [0]


def test_every_item_link_is_constrained(tokenizer: HuggingFaceTokenizer) -> None:
    """A bracket in the middle of a token would open a link that is not constrained."""
    delimiters = DelimiterTokens.from_tokenizer(tokenizer)
    assert tokenizer.decode([delimiters.separator_id, delimiters.closing_id]) == "\n]"
    assert len(delimiters.free_text) == len(delimiters.opens_link) == tokenizer.vocab_size
    for token in range(tokenizer.vocab_size):
        text = tokenizer.decode([token])
        if delimiters.opens_link[token]:
            assert text.endswith("[")
            assert "[" not in text[:-1]
        elif delimiters.free_text[token] and token != tokenizer.eos_token_id:
            assert "[" not in text
    assert not delimiters.free_text[tokenizer.control_token_ids[0]]
    assert delimiters.opens_link.sum() > 2
    assert delimiters.free_text.sum() > 0.99 * tokenizer.vocab_size - len(tokenizer.control_token_ids)


def test_generated_titles_are_parsed_to_their_items() -> None:
    """End to end: items are parsed from tokens, not from text."""
    tokenizer = ByteTokenizer()
    index = CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), tokenizer)
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    answer = [*tokenizer.encode_text("Chair\nDesk Lamp").tolist(), tokenizer.eos_token_id]
    assert grammar.start("list", k=2).parse_items(answer).tolist() == [2, 0]
    talk = [*tokenizer.encode_text("Sit on [Chair] or [Chair].").tolist(), tokenizer.eos_token_id]
    assert grammar.start("text").parse_items(talk).tolist() == [2, 2]
    with pytest.raises(InputError, match="is not allowed by the constraint"):
        grammar.start("text").parse_items(tokenizer.encode_text("Sit on [Sofa].").tolist())


def test_a_form_whose_delimiter_is_no_token_is_refused() -> None:
    """With a separator of two tokens, its first token alone could end an item; single items need none."""

    class Wordy(ByteTokenizer):
        def encode_text(self, text: str) -> np.ndarray:
            return np.repeat(super().encode_text(text), 2)

    delimiters = DelimiterTokens.from_tokenizer(Wordy())
    grammar = CatalogGrammar(trie_of({(4,), (6,)}), replace(DELIMITERS, separator_id=delimiters.separator_id))
    with pytest.raises(InputError, match="form is 'list', which needs a line break in exactly one token"):
        grammar.start("list", k=2)
    assert grammar.start("item").parse_items([4, END]).tolist() == [0]
    assert grammar.start("text").parse_items([OPENING, 6, CLOSING, END]).tolist() == [1]
    closed = CatalogGrammar(grammar.trie, replace(DELIMITERS, closing_id=delimiters.closing_id))
    with pytest.raises(InputError, match="form is 'text', which needs the bracket of an item link"):
        closed.start("text")
    assert closed.start("list", k=2).parse_items([6, SEPARATOR, 4, END]).tolist() == [1, 0]


def test_a_line_break_is_found_behind_a_word() -> None:
    """Llama 2 and Phi-3 write a space before the first text, so that a line break alone is two tokens."""
    vocabulary = {"<unk>": 0, "</s>": 1, "\u2581": 2, "\n": 3, "a": 4, "]": 5, "[": 6, "\u2581a": 7}
    model = tokenizers.models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>")
    prepending = tokenizers.Tokenizer(model)
    prepending.normalizer = tokenizers.normalizers.Prepend("\u2581")
    prepending.decoder = tokenizers.decoders.Replace("\u2581", " ")
    prepending.add_special_tokens(["</s>"])
    adapted = HuggingFaceTokenizer(prepending.to_str(), chat_template=None, bos_token="", eos_token="</s>")
    assert adapted.encode_text("\n").tolist() == [2, 3]
    delimiters = DelimiterTokens.from_tokenizer(adapted)
    assert (delimiters.separator_id, delimiters.closing_id) == (3, 5)
    assert np.flatnonzero(delimiters.opens_link).tolist() == [6]


def test_the_texts_of_tokens_are_those_of_decoding_each(tokenizer: HuggingFaceTokenizer) -> None:
    """They are decoded in one call, because a vocabulary of 262,144 tokens takes a minute one by one."""
    texts = tokenizer.token_texts()
    assert len(texts) == tokenizer.vocab_size
    some = [*range(300), *tokenizer.control_token_ids, tokenizer.vocab_size - 1]
    assert [texts[token] for token in some] == [tokenizer.decode([token]) for token in some]
