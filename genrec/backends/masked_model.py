"""A model whose attention takes a mask: all nodes of a token tree in one sequence, see `TransformersTree`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from genrec.backends.attention import masked_attentions
from genrec.backends.growing_cache import GrowingCache
from genrec.backends.inference import UNSUPPORTED_ERRORS, inference_mode
from genrec.backends.output_layer import logits_transform
from genrec.backends.plain_tree import PlainModel, PlainTree
from genrec.backends.precision import log_probs_agree, probe_tokens
from genrec.backends.token_layout import TokenLayout
from genrec.backends.transformers_tree import NewTokens, TransformersTree
from genrec.backends.tree_arrays import check_prompt_lengths, nan_error
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.types import FloatArray, IntArray

_LOGITS_CHUNK_SIZE = 256  # rows whose logits over the full vocabulary are in memory at once


class MaskedModel:
    """The hidden states and log-probabilities of a model for token trees.

    Args:
        plain: the same model, which computes whole paths.

    Attributes:
        context_length: the longest path, in tokens; not longer than the shortest sliding window, within which a path is
            computed as the model would compute it.
        token_bytes: of one token's keys, values and hidden state.

    Raises:
        EngineError: a layer keeps state other than keys and values, or the log-probabilities of a tree differ from
            those of its paths.
    """

    def __init__(self, plain: PlainModel) -> None:
        self.model: PreTrainedModel = plain.model
        self.name, self.vocab_size, self.device, self.dtype = plain.name, plain.vocab_size, plain.device, plain.dtype
        config = self.model.config.get_text_config(decoder=True)
        self.context_length = min(plain.context_length, GrowingCache(self.model.config).sliding_window)
        self._cache_argument = plain.cache_argument
        decoder: Any = self.model.get_decoder()  # type: ignore[no-untyped-call]
        self._decoder: Any = decoder if decoder is not self.model else self.model.base_model
        self._head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._transform = logits_transform(config)
        self._supports_packing = False
        expected = self._choose_attention(plain)
        self.token_bytes = self._measure_token_bytes()
        self._supports_packing = self._accepts_packed_tokens(expected)

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TransformersTree:
        """Compute U prompts in one batch, and open a tree over them."""
        deadline = deadline or Deadline.never()
        deadline.check()
        check_prompt_lengths(prompts, self.name, self.context_length)
        return TransformersTree(self, prompts, deadline)

    def hidden_states(self, batch: NewTokens, cache: GrowingCache) -> torch.Tensor:
        """Compute the last hidden states [N, D] of N new tokens, and append their keys and values to the cache."""
        flat_indices, visible_mask = batch.flat_indices, batch.visible_mask
        prompts, columns = visible_mask.shape[:2]
        with inference_mode(self.name, f"{len(batch.token_ids)} tokens of {prompts} prompts"):
            packing = TokenLayout(torch.from_numpy(flat_indices).to(self.device), (prompts, columns))
            mask = torch.zeros(visible_mask.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(torch.from_numpy(~visible_mask).to(self.device), torch.finfo(self.dtype).min)
            if self._supports_packing and len(flat_indices) < prompts * columns:
                return self._forward(batch.token_ids[None], batch.positions[None], mask, cache, packing)[0]
            table = np.zeros((2, prompts, columns), dtype=np.int64)
            table.reshape(2, -1)[:, flat_indices] = batch.token_ids, batch.positions
            return packing.pack(self._forward(table[0], table[1], mask, cache, None))[0]

    def _forward(
        self,
        token_ids: IntArray,
        positions: IntArray,
        mask: torch.Tensor,
        cache: GrowingCache,
        layout: TokenLayout | None,
    ) -> torch.Tensor:
        """Run the layers below the output layer: tokens [U, Q], or packed [1, N], to states [U, Q, D] or [1, N, D]."""
        options = {self._cache_argument: cache, **({} if layout is None else {"packing": layout})}
        with cache.update_with_layout(layout):
            output = self._decoder(
                input_ids=torch.from_numpy(np.ascontiguousarray(token_ids)).to(self.device),
                position_ids=torch.from_numpy(np.ascontiguousarray(positions)).to(self.device),
                attention_mask=mask[:, None],
                use_cache=True,
                **options,
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def log_probs(self, hidden: torch.Tensor, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen tokens at hidden states [Q, D]; the other arguments as in `TokenTree`."""
        head = self._head
        result = np.empty(len(tokens), dtype=np.float64)
        with inference_mode(self.name, f"the logits of {len(hidden)} nodes"):
            for start in range(0, len(hidden), _LOGITS_CHUNK_SIZE):
                block = hidden[start : start + _LOGITS_CHUNK_SIZE]
                block_offsets = offsets[start : start + len(block) + 1]
                queried = tokens[block_offsets[0] : block_offsets[-1]]
                all_logits = self._transform(head(block))
                # log_softmax subtracts the normaliser; in one pass it reads bfloat16 and sums in float32.
                wide = torch.promote_types(all_logits.dtype, torch.float32)
                normaliser = all_logits[:, 0].to(wide) - all_logits.log_softmax(dim=-1, dtype=wide)[:, 0]
                owner = torch.from_numpy(np.repeat(np.arange(len(block)), np.diff(block_offsets))).to(self.device)
                if all_logits.dtype == wide:
                    logits = all_logits[owner, torch.from_numpy(queried).to(self.device)]
                else:
                    # The chosen logits are recomputed in float32: near 20, bfloat16 values are 0.06 apart.
                    distinct, column = np.unique(queried, return_inverse=True)
                    chosen = torch.from_numpy(distinct).to(self.device)
                    bias = None if head.bias is None else head.bias[chosen].float()
                    values = torch.nn.functional.linear(block.float(), head.weight[chosen].float(), bias)
                    chosen_logits = self._transform(values)
                    logits = chosen_logits[owner, torch.from_numpy(column).to(self.device)]
                # The two are rounded differently; a log-probability above 0 would break the search's bounds.
                log_probs = (logits - normaliser[owner]).clamp(max=0.0)
                result[block_offsets[0] : block_offsets[-1]] = log_probs.double().cpu().numpy()
        if np.isnan(result).any():
            raise nan_error(self.name)
        return result

    def logits(self, hidden: torch.Tensor) -> FloatArray:
        """Logits of all tokens at hidden states [Q, D]: float64 [Q, V]."""
        head = self._head
        with inference_mode(self.name, f"the logits of {len(hidden)} nodes"):
            result: FloatArray = self._transform(head(hidden)).double().cpu().numpy()
        if np.isnan(result).any():
            raise nan_error(self.name)
        return result

    def _measure_token_bytes(self) -> int:
        """Measure the bytes of one token's keys, values and hidden state."""
        cache, zero = GrowingCache(self.model.config), np.zeros(1, dtype=np.int64)
        hidden = self.hidden_states(NewTokens(zero, zero, zero, np.ones((1, 1, 1), dtype=bool)), cache)
        cached = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        return sum(tensor.nbytes for tensor in (*cached, hidden) if tensor is not None)

    def _choose_attention(self, plain: PlainModel) -> FloatArray:
        """Choose the fastest attention under which a tree has the log-probabilities of its paths.

        Returns:
            The log-probabilities of the probe under that attention.

        Raises:
            EngineError: there is none. The model then has its own attention again, which is the faster one for paths.
        """
        failures: list[EngineError] = []
        for _ in masked_attentions(self.model):
            try:
                return self._check_tree(plain)
            except EngineError as error:
                failures.append(error)
        raise failures[-1]

    def _check_tree(self, plain: PlainModel) -> FloatArray:
        """Compare the log-probabilities of a tree with those of its paths, and return them."""
        expected, actual = self._probe(plain), self._probe(self)
        if not log_probs_agree(actual, expected, self.dtype):
            difference = float(np.abs(actual - expected).max())
            raise EngineError(
                f"{self.name} gives log-probabilities in a tree that differ by {difference:.3g} from those of its paths"
            )
        return actual

    def _accepts_packed_tokens(self, expected: FloatArray) -> bool:
        """Try whether the model accepts packed tokens, because architectures do not declare it."""
        self._supports_packing = True
        try:
            return log_probs_agree(self._probe(self), expected, self.dtype, float32_tolerance=0.1)
        except EngineError:
            return False  # it rejects unknown arguments, or needs tokens of one shape

    def _probe(self, model: "MaskedModel | PlainModel") -> FloatArray:
        """Log-probabilities at the nodes of a tree of two prompts and three branches, float64 [7 * queried tokens].

        Raises:
            EngineError: the model cannot compute them.
        """
        ids = probe_tokens(10, self.vocab_size)
        prompts, parents, tokens = [ids[1:4], ids[3:10]], np.array([0, 0, 1, 2, 4, 1, 5]), ids[[5, 6, 7, 8, 9, 8, 2]]
        queried = np.arange(min(self.vocab_size, 100))
        try:
            tree: TransformersTree | PlainTree = model.open(prompts)
            nodes = np.concatenate([tree.grow(parents[:3], tokens[:3]), tree.grow(parents[3:], tokens[3:])])
            return tree.log_probs(nodes, np.tile(queried, 7), np.arange(8) * len(queried))
        except UNSUPPORTED_ERRORS as error:
            raise EngineError(f"{self.name} cannot compute a tree: {error}") from error
