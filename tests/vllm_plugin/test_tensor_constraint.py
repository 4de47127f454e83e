"""Laws of the constraint on a device: it allows what the constraint on the host allows, without synchronisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_grammar import CLOSING, DELIMITERS, END, FIRST, OPENING, trie_of
from torch._subclasses.fake_tensor import FakeTensorMode

from genrec.data.subset import Mask, Subset
from genrec.decoding.constraints import CatalogGrammar, ConstraintState, Form, advance
from genrec.errors import InputError
from genrec.vllm_plugin import tensor_constraint
from genrec.vllm_plugin.tensor_constraint import TensorConstraint

VOCABULARY = 24
WIDE = replace(
    DELIMITERS,
    opens_link=np.arange(20) == OPENING,
    free_text=np.isin(np.arange(20), [END, CLOSING, OPENING, 5, 9]),
)


def grammar_of(random: np.random.Generator, size: int = 60) -> CatalogGrammar:
    return CatalogGrammar(
        trie_of({tuple(random.integers(FIRST, 20, random.integers(1, 6)).tolist()) for _ in range(size)}), WIDE
    )


def starts_of(grammar: CatalogGrammar, random: np.random.Generator, count: int) -> list[ConstraintState]:
    whole, starts = Subset.everything(len(grammar.trie)), []
    forms: tuple[Form, ...] = ("list", "item", "text")
    for number in range(count):
        few = random.permutation(len(grammar.trie))[: random.integers(1, 20)]
        masked = Subset.from_mask(Mask.from_bool(random.random(len(grammar.trie)) < 0.5))
        allowed = [whole, whole.intersect(few), whole.without(few), masked][number % 4]
        form = forms[number % 3]
        k = int(random.integers(1, min(len(allowed), 12) + 1)) if form == "list" else None
        starts.append(grammar.start(form, k=k, allowed=allowed))
    return starts


def following(state: ConstraintState) -> list[int]:
    return np.flatnonzero(WIDE.free_text).tolist() if state.in_free_text else sorted(state.next_tokens.tolist())


def masked(constraint: TensorConstraint, slots: list[int], out_of_sync: list[int] | None = None) -> list[list[int]]:
    logits = torch.randn(len(slots), VOCABULARY)
    after = constraint.mask(
        logits, torch.tensor(slots), torch.isin(torch.tensor(slots), torch.tensor(out_of_sync or []))
    )
    return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in after]


def test_device_and_host_constraints_agree() -> None:
    """If the two constraints differ, one is wrong; slots are reused by requests of every form."""
    random = np.random.default_rng(11)
    grammar = grammar_of(random)
    constraint, everything = TensorConstraint(grammar, 16, "cpu"), list(range(VOCABULARY))
    for _ in range(6):
        slots = random.permutation(16)[:12].tolist()
        states = starts_of(grammar, random, len(slots))
        for slot, state in zip(slots, states, strict=True):
            constraint.add_request(slot, state)
        idle = sorted(set(range(16)) - set(slots))
        for slot in idle:
            constraint.remove_request(slot)
        for step in range(80):
            assert masked(constraint, slots) == [following(state) for state in states], step
            assert masked(constraint, idle) == [everything] * len(idle)
            # Occasionally a disallowed token, and occasionally a row without a new token.
            tokens = [
                int(random.integers(-1, VOCABULARY)) if random.random() < 0.01 else int(random.choice(following(state)))
                for state in states
            ]
            has_new_token = random.random(len(slots)) < 0.9
            constraint.advance(torch.tensor(slots), torch.tensor(tokens), torch.from_numpy(has_new_token))
            after = advance(states, tokens)
            states = [new if now else old for old, new, now in zip(states, after, has_new_token, strict=True)]


def test_an_out_of_sync_row_may_only_end() -> None:
    """Without a known state only the end token is safe."""
    random = np.random.default_rng(2)
    grammar = grammar_of(random)
    constraint = TensorConstraint(grammar, 4, "cpu")
    for slot, state in enumerate(starts_of(grammar, random, 3)):
        constraint.add_request(slot, state)
    assert masked(constraint, [0, 1, 2, 3], [0, 1, 2, 3]) == [[END], [END], [END], list(range(VOCABULARY))]


def test_allowed_tokens_keep_their_logits_and_stay_possible() -> None:
    """The constraint must not change the logits of allowed tokens, nor leave no token possible."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint = TensorConstraint(grammar, 1, "cpu")
    constraint.add_request(0, grammar.start("item"))
    logits, slots, in_sync = torch.randn(1, VOCABULARY), torch.tensor([0]), torch.tensor([False])
    tokens = grammar.start("item").next_tokens
    assert torch.equal(constraint.mask(logits, slots, in_sync)[0, tokens], logits[0, tokens])
    nothing = constraint.mask(torch.full_like(logits, -torch.inf), slots, in_sync)
    assert torch.isfinite(nothing[0, tokens]).all()


def test_a_request_that_lists_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All slots share the table width: one filter of a million items would take the memory of every other request."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint, everything = TensorConstraint(grammar, 2, "cpu"), Subset.everything(len(grammar.trie))
    monkeypatch.setattr(tensor_constraint, "MAX_LISTED_ROWS", 3)
    constraint.add_request(0, grammar.start("item", allowed=everything.without([1, 2, 3])))
    for allowed, message in (
        (everything.without([1, 2, 3, 4]), "denies 4 items"),
        (everything.intersect([1, 2, 3, 4]), "allows 4 items"),
        (Subset.from_mask(Mask.from_bool(everything.to_bool())), f"allows {len(grammar.trie)} items"),
    ):
        with pytest.raises(InputError, match=message):
            constraint.add_request(1, grammar.start("item", allowed=allowed))
    assert masked(constraint, [1]) == [list(range(VOCABULARY))]


def test_tables_shrink_after_a_wide_request() -> None:
    """Every step reads whole tables: a finished request must not slow down later ones."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint, everything = TensorConstraint(grammar, 2, "cpu"), Subset.everything(len(grammar.trie))
    widths = []
    for k, denied in ((30, 20), (1, 0)):
        constraint.add_request(0, grammar.start("list", k=k, allowed=everything.without(range(denied))))
        widths.append((constraint._allowed_batch._listed.shape[1], constraint._allowed_batch._written.shape[1]))
        constraint.remove_request(0)
    assert widths == [(32, 32), (1, 1)]


def test_no_operation_synchronises_with_the_device() -> None:
    """Reading a value in Python stalls the GPU; fake tensors refuse such a read."""
    random = np.random.default_rng(5)
    grammar = grammar_of(random)
    constraint = TensorConstraint(grammar, 6, "cpu")
    for slot, state in enumerate(starts_of(grammar, random, 6)):
        constraint.add_request(slot, state)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        slots, tokens = fake.from_tensor(torch.arange(6)), fake.from_tensor(torch.full((6,), FIRST))
        in_sync = fake.from_tensor(torch.zeros(6, dtype=torch.bool))
        logits = fake.from_tensor(torch.zeros(6, VOCABULARY))
        constraint.advance(slots, tokens, ~in_sync)
        assert constraint.mask(logits, slots, in_sync).shape == (6, VOCABULARY)
