"""Where the tokens of one pass lie: in a row for the layers that see each alone, by prompts where they meet.

Prompts of a batch differ in length, and in how much grows behind them. Padded to the longest, every layer would compute
what nobody reads; padded for the attention only, as keys and values have to be, they cost little: the other layers are
92 % of the operations of a 135M model at 250 tokens.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenLayout:
    """The places of N tokens in a table [U, Q] of prompts and columns.

    Attributes:
        flat_indices: int64 [N], row * Q + column, distinct.
        shape: U and Q.
        keys_packed: whether keys and values come packed too, as they do where there is no cache.
    """

    flat_indices: torch.Tensor
    shape: tuple[int, int]
    keys_packed: bool = False

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """[1, H, N, D] as [U, H, Q, D], zeros where there is no token."""
        _, heads, _, size = packed.shape
        prompts, columns = self.shape
        table = packed.new_zeros((prompts * columns, heads, size))
        table[self.flat_indices] = packed[0].transpose(0, 1)
        return table.view(prompts, columns, heads, size).transpose(1, 2)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """[U, Q, ...] as [1, N, ...]."""
        return padded.flatten(0, 1)[self.flat_indices][None]
