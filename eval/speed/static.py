"""The STATIC algorithm in PyTorch, as described in its paper: a peer to compare to.

Source: "STATIC", arXiv 2602.22647. States are numbered level by level; transitions lie in one compressed sparse row
table; the first two levels are looked up in dense tables. Codes must have equal lengths. Where the paper leaves
a choice, the faster variant is used. A last token leads to its row number, so that items can be identified.
Letters: N rows, L tokens in each, V vocabulary, R states per lookup, K maximum number of children on a level.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.speed.catalog import Identifiers
from genrec.types import FloatArray, IntArray

NAME = "STATIC, own version in PyTorch"


@dataclass(frozen=True)
class StaticIndex:
    """The transition tables.

    Attributes:
        table: int32 [E + K, 2], the token of each transition and the state it leads to, by state; then padding.
        pointer: int32 [S + 1], the first transition of each state.
        limits: maximum number of children of a state, by level.
        start: bool [V], valid first tokens.
        mask: bool [V, V], valid second tokens by first token.
        states: int32 [V, V], the state after both.
        items: int32 [N], the item of each row in sorted order.
    """

    table: torch.Tensor
    pointer: torch.Tensor
    limits: tuple[int, ...]
    start: torch.Tensor
    mask: torch.Tensor
    states: torch.Tensor
    items: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        tables = (self.table, self.pointer, self.start, self.mask, self.states, self.items)
        return sum(table.numel() * table.element_size() for table in tables)

    def to(self, device: torch.device) -> "StaticIndex":
        """A copy of the tables on a device."""
        held = ((one.name, getattr(self, one.name)) for one in fields(self))
        moved: dict[str, Any] = {name: one.to(device) for name, one in held if isinstance(one, torch.Tensor)}
        return replace(self, **moved)

    def locate(self, prefixes: IntArray) -> torch.Tensor:
        """int64 [R], the states after prefixes [R, D] of at least one token."""
        device = self.pointer.device
        state = torch.from_numpy(prefixes[:, 0] + 1).to(device)
        for depth in range(1, prefixes.shape[1]):
            token = torch.from_numpy(prefixes[:, depth]).to(device)
            if depth == 1:
                state = self.states[state - 1, token].long()
                continue
            begin, count = self.pointer[state], self.pointer[state + 1] - self.pointer[state]
            steps = torch.arange(self.limits[depth], device=device)
            place = begin[:, None] + steps
            found = (self.table[place, 0] == token[:, None]) & (steps < count[:, None])
            state = self.table[place[found], 1].long()
        return state

    @torch.inference_mode()
    def children(
        self, states: torch.Tensor, log_probs: torch.Tensor, depth: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All children of R states of depth 2 or more.

        Returns:
            float32, int32 and int32 [R, K]: log-probabilities, minus infinity where there is no child; tokens; states.
        """
        begin = self.pointer[states]
        count = self.pointer[states + 1] - begin
        place = torch.arange(self.limits[depth], device=states.device)
        burst = self.table[begin[:, None] + place]
        tokens = burst[..., 0]
        gathered = log_probs.gather(1, tokens.long())
        return gathered.masked_fill(place >= count[:, None], -torch.inf), tokens, burst[..., 1]

    @torch.inference_mode()
    def first(self, log_probs: torch.Tensor) -> torch.Tensor:
        """float32 [R, V], log-probabilities of first tokens; token t leads to state t + 1."""
        return torch.where(self.start, log_probs, -torch.inf)

    @torch.inference_mode()
    def second(self, states: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        """float32 [R, V], log-probabilities of second tokens; `second_states` names where they lead."""
        return torch.where(self.mask[states - 1], log_probs, -torch.inf)

    @torch.inference_mode()
    def second_states(self, states: torch.Tensor) -> torch.Tensor:
        """int32 [R, V], the states that second tokens lead to."""
        return self.states[states - 1]


def build(codes: Identifiers) -> StaticIndex:
    """Build from N unsorted rows of equal length."""
    order = _sorted(codes.rows)
    rows, vocab_size = codes.rows[order], codes.vocab_size
    count, length = rows.shape
    changed = rows[1:] != rows[:-1]
    fresh = np.ones(count, dtype=np.bool_)  # rows that begin a prefix of this depth
    fresh[1:] = changed[:, 0]
    state = rows[:, 0].astype(np.int32) + 1
    states = vocab_size + 1
    parents: list[NDArray[np.int32]] = []
    transitions: list[NDArray[np.int32]] = []
    limits = [int(fresh.sum())]
    for depth in range(1, length):
        fresh[1:] |= changed[:, depth]
        begins = np.flatnonzero(fresh)
        above = state[begins]
        parents.append(above)
        limits.append(int(np.diff(np.flatnonzero(np.concatenate([[True], above[1:] != above[:-1], [True]]))).max()))
        if depth < length - 1:
            state = (states - 1 + np.cumsum(fresh)).astype(np.int32)
            leads = state[begins]
            states += len(begins)
        else:
            leads = begins.astype(np.int32)
        transitions.append(np.stack([rows[begins, depth].astype(np.int32), leads], axis=1))
        if depth == 1:
            mask = np.zeros((vocab_size, vocab_size), dtype=np.bool_)
            dense = np.zeros((vocab_size, vocab_size), dtype=np.int32)
            mask[above - 1, rows[begins, 1]] = True
            dense[above - 1, rows[begins, 1]] = leads
    pointer = np.zeros(states + 1, dtype=np.int32)
    np.cumsum(np.bincount(np.concatenate(parents), minlength=states), out=pointer[1:])
    start = np.zeros(vocab_size, dtype=np.bool_)
    start[rows[:, 0]] = True
    padding = np.zeros((max(limits[1:]), 2), dtype=np.int32)
    return StaticIndex(
        table=torch.from_numpy(np.concatenate([*transitions, padding])),
        pointer=torch.from_numpy(pointer),
        limits=tuple(limits),
        start=torch.from_numpy(start),
        mask=torch.from_numpy(mask),
        states=torch.from_numpy(dense),
        items=torch.from_numpy(order.astype(np.int32)),
    )


def flat(log_probs: torch.Tensor, tokens: torch.Tensor | None = None) -> tuple[IntArray, IntArray, FloatArray]:
    """The unmasked entries as parallel arrays: row, token, log-probability; tokens are columns if not given."""
    row, column = (one.numpy() for one in torch.nonzero(log_probs > -torch.inf, as_tuple=True))
    found = column if tokens is None else tokens.numpy()[row, column].astype(np.int64)
    return row, found, log_probs.numpy()[row, column].astype(np.float64)


def _sorted(rows: NDArray[np.uint16]) -> IntArray:
    """The order of the rows: four tokens a key, the last keys first."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 4) * 4), dtype=">u2")
    padded[:, : rows.shape[1]] = rows
    keys = padded.view(">u8").astype(np.uint64)
    order = np.argsort(keys[:, -1], kind="stable")
    for column in range(keys.shape[1] - 2, -1, -1):
        order = order[np.argsort(keys[order, column], kind="stable")]
    return order
