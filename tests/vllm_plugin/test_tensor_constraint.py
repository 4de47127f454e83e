"""Laws of the constraint on a device: it lets through what the constraint on the host does, and never waits."""

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


def masked(constraint: TensorConstraint, slots: list[int], lost: list[int] | None = None) -> list[list[int]]:
    logits = torch.randn(len(slots), VOCABULARY)
    after = constraint.mask(logits, torch.tensor(slots), torch.isin(torch.tensor(slots), torch.tensor(lost or [])))
    return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in after]


def test_the_device_lets_through_what_the_host_does() -> None:
    """Two constraints that differ are one that is wrong; and slots are used again, by requests of every kind."""
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
            # Now and then a token that leads nowhere, and now and then a row that has not moved.
            tokens = [
                int(random.integers(-1, VOCABULARY)) if random.random() < 0.01 else int(random.choice(following(state)))
                for state in states
            ]
            moved = random.random(len(slots)) < 0.9
            constraint.advance(torch.tensor(slots), torch.tensor(tokens), torch.from_numpy(moved))
            after = advance(states, tokens)
            states = [new if now else old for old, new, now in zip(states, after, moved, strict=True)]


def test_a_row_whose_state_is_lost_may_only_end() -> None:
    """A device that cannot say what was written must not guess."""
    random = np.random.default_rng(2)
    grammar = grammar_of(random)
    constraint = TensorConstraint(grammar, 4, "cpu")
    for slot, state in enumerate(starts_of(grammar, random, 3)):
        constraint.add_request(slot, state)
    assert masked(constraint, [0, 1, 2, 3], [0, 1, 2, 3]) == [[END], [END], [END], list(range(VOCABULARY))]


def test_what_is_possible_keeps_its_logit_and_nothing_else_took_all_of_it() -> None:
    """The constraint chooses; it must not change what the model says, nor leave it without a word."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint = TensorConstraint(grammar, 1, "cpu")
    constraint.add_request(0, grammar.start("item"))
    logits, slots, known = torch.randn(1, VOCABULARY), torch.tensor([0]), torch.tensor([False])
    tokens = grammar.start("item").next_tokens
    assert torch.equal(constraint.mask(logits, slots, known)[0, tokens], logits[0, tokens])
    nothing = constraint.mask(torch.full_like(logits, -torch.inf), slots, known)
    assert torch.isfinite(nothing[0, tokens]).all()


def test_one_request_may_not_widen_the_tables_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is full of other requests has no memory left for a filter of a million items in every slot."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint, everything = TensorConstraint(grammar, 2, "cpu"), Subset.everything(len(grammar.trie))
    monkeypatch.setattr(tensor_constraint, "MAX_LISTED_ROWS", 3)
    constraint.add_request(0, grammar.start("item", allowed=everything.without([1, 2, 3])))
    for allowed, says in (
        (everything.without([1, 2, 3, 4]), "denies 4 items"),
        (everything.intersect([1, 2, 3, 4]), "allows 4 items"),
        (Subset.from_mask(Mask.from_bool(everything.to_bool())), f"allows {len(grammar.trie)} items"),
    ):
        with pytest.raises(InputError, match=says):
            constraint.add_request(1, grammar.start("item", allowed=allowed))
    assert masked(constraint, [1]) == [list(range(VOCABULARY))]


def test_tables_are_narrow_again_when_a_wide_request_has_left() -> None:
    """Every step looks at all of a table: one request of yesterday must not slow all of today's."""
    grammar = grammar_of(np.random.default_rng(2))
    constraint, everything = TensorConstraint(grammar, 2, "cpu"), Subset.everything(len(grammar.trie))
    widths = []
    for k, denied in ((30, 20), (1, 0)):
        constraint.add_request(0, grammar.start("list", k=k, allowed=everything.without(range(denied))))
        widths.append((constraint._allowed_batch._listed.shape[1], constraint._allowed_batch._written.shape[1]))
        constraint.remove_request(0)
    assert widths == [(32, 32), (1, 1)]


def test_nothing_waits_for_the_device() -> None:
    """A value that Python reads stops the GPU's queue; tensors without values refuse such a read."""
    random = np.random.default_rng(5)
    grammar = grammar_of(random)
    constraint = TensorConstraint(grammar, 6, "cpu")
    for slot, state in enumerate(starts_of(grammar, random, 6)):
        constraint.add_request(slot, state)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        slots, tokens = fake.from_tensor(torch.arange(6)), fake.from_tensor(torch.full((6,), FIRST))
        known = fake.from_tensor(torch.zeros(6, dtype=torch.bool))
        logits = fake.from_tensor(torch.zeros(6, VOCABULARY))
        constraint.advance(slots, tokens, ~known)
        assert constraint.mask(logits, slots, known).shape == (6, VOCABULARY)
