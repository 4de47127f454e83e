"""A local torch model through Hugging Face Transformers, on CPU or GPU, as a growing token tree.

Nodes are query tokens of one sequence a prompt: a 4-D attention mask lets each see its prompt and its ancestors, and
position ids count along the path. The key-value cache only ever grows at its end, so no beam is copied or reordered.
What all prompts of a batch begin with is computed once, and its keys and values are given to each.
Source of the mask: Miao et al., "SpecInfer", ASPLOS 2024, section 4.2 (tree-based parallel decoding).
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from genrec.backends.adapter import Adapter, inspect_adapter
from genrec.backends.attention import use_packed_attention
from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.backends.generation import generate_with_tree
from genrec.backends.growing_cache import GrowingCache
from genrec.backends.precision import default_device, native_dtype
from genrec.backends.provenance import FILENAME as PROVENANCE
from genrec.backends.provenance import Provenance
from genrec.backends.quiet import progress_bars_disabled
from genrec.backends.token_layout import TokenLayout
from genrec.backends.tree_arrays import prompts_and_positions
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.types import BoolArray, FloatArray, IntArray

_LOGITS_CHUNK_SIZE = 256  # rows whose logits over the whole vocabulary exist at once
_MIN_SHARED_PREFIX_TOKENS = 64  # a pass over a shared head is worth its own cost where it spares so many tokens


class TransformersBackend:
    """A causal language model from a folder or the Hub.

    Args:
        model: a folder as `save_pretrained` writes it, or a Hub id. Only safetensors are read.
        adapter: a LoRA adapter's folder, merged into the weights when they are loaded; see `inspect_adapter`. Needs PEFT.
        device: where it runs; by default the first GPU, else the CPU.
        dtype: by default bfloat16 where the device computes in it, else float32.
        name: what results and caches call these weights, the dtype added; by default the last part of its path.

    Raises:
        ModelMissingError: there is no such model or adapter, its files are damaged, or PEFT is not installed.
        MismatchError: the adapter was made for another model, or is more than LoRA.
        EngineError: the architecture changes its logits in a way this backend does not reproduce, or remembers tokens
            in another way than by keys and values.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ) -> None:
        self.device = torch.device(device) if device else default_device()
        self.dtype = dtype or native_dtype(self.device)
        tuned = None if adapter is None else inspect_adapter(adapter, base=model)
        try:
            with progress_bars_disabled():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    str(model),
                    dtype=self.dtype if tuned is None else torch.float32,
                    attn_implementation="sdpa",
                    use_safetensors=True,
                )
        except Exception as error:  # safetensors, torch and Transformers raise their own
            raise ModelMissingError(f"cannot load the model {Path(model).name!r}: {error}") from error
        if tuned is not None:
            loaded = _merge_adapter(loaded, tuned)
        self.model: PreTrainedModel = loaded.to(device=self.device, dtype=self.dtype).eval()
        called = f"{name or Path(model).name}{'' if tuned is None else f'+{tuned.name}'}"
        self.name = f"{called}@{str(self.dtype).removeprefix('torch.')}"
        use_packed_attention(self.model)
        self.provenance = _read_merged_provenance(model) if tuned is None else tuned.provenance
        self.vocab_size = int(self.model.config.vocab_size)
        # Within its window, attention that slides sees everything: paths that fit are computed as the model would.
        window = GrowingCache(self.model.config).sliding_window
        self.context_length = min(int(self.model.config.max_position_embeddings), window)
        # Transformers 5.24 renames the argument and warns of the old name; earlier ones know only that.
        known = inspect.signature(self.model.base_model.forward).parameters
        self._cache_argument = "cache" if "cache" in known else "past_key_values"
        self._supports_packing = False
        self.token_bytes = self._measure_token_bytes()
        self._check_output_layer()
        self._supports_packing = self._probe_packing()

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "TransformersTree":
        """Compute U prompts once, in one batch, and open a tree behind them."""
        deadline = deadline or Deadline.never()
        deadline.check()
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < self.context_length:
                raise EngineError(
                    f"prompt {number} has {len(prompt)} tokens; {self.name} takes 1 to {self.context_length - 1}"
                )
        return TransformersTree(self, prompts, deadline)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Write a text behind each prompt, all in one batch."""
        return generate_with_tree(self, requests, deadline, on_tokens)

    def hidden_states(
        self,
        token_ids: IntArray,
        positions: IntArray,
        flat_indices: IntArray,
        visible_mask: BoolArray,
        cache: GrowingCache,
    ) -> torch.Tensor:
        """The last hidden states [N, D] of N new tokens; the cache gains their keys and values.

        Args:
            token_ids, positions: int64 [N].
            flat_indices: int64 [N], the place of each in the table [U, Q], counted row by row.
            visible_mask: [U, Q, S], what each place sees of what the cache will hold of its prompt.
            cache: keys and values of all tokens before.
        """
        prompts, columns = visible_mask.shape[:2]
        with self._inference_mode(f"{len(token_ids)} tokens of {prompts} prompts"):
            packing = TokenLayout(torch.from_numpy(flat_indices).to(self.device), (prompts, columns))
            mask = torch.zeros(visible_mask.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(torch.from_numpy(~visible_mask).to(self.device), torch.finfo(self.dtype).min)
            if self._supports_packing and len(flat_indices) < prompts * columns:
                return self._forward(token_ids[None], positions[None], mask, cache, packing)[0]
            table = np.zeros((2, prompts, columns), dtype=np.int64)
            table.reshape(2, -1)[:, flat_indices] = token_ids, positions
            return packing.pack(self._forward(table[0], table[1], mask, cache, None))[0]

    def _forward(
        self,
        token_ids: IntArray,
        positions: IntArray,
        mask: torch.Tensor,
        cache: GrowingCache,
        layout: TokenLayout | None,
    ) -> torch.Tensor:
        """The layers under the head: tokens [U, Q], or packed [1, N], to states [U, Q, D] or [1, N, D]."""
        options = {self._cache_argument: cache, **({} if layout is None else {"packing": layout})}
        with cache.update_with_layout(layout):
            answer = self.model.base_model(
                input_ids=torch.from_numpy(np.ascontiguousarray(token_ids)).to(self.device),
                position_ids=torch.from_numpy(np.ascontiguousarray(positions)).to(self.device),
                attention_mask=mask[:, None],
                use_cache=True,
                **options,
            )
        hidden: torch.Tensor = answer.last_hidden_state
        return hidden

    def log_probs(self, hidden: torch.Tensor, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen tokens at hidden states [Q, D]; the other arguments as in `TokenTree`."""
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        result = np.empty(len(tokens), dtype=np.float64)
        with self._inference_mode(f"the logits behind {len(hidden)} nodes"):
            for start in range(0, len(hidden), _LOGITS_CHUNK_SIZE):
                block = hidden[start : start + _LOGITS_CHUNK_SIZE]
                bounds = offsets[start : start + len(block) + 1]
                asked = tokens[bounds[0] : bounds[-1]]
                every = head(block)
                # What log_softmax takes away is the normaliser; it reads bfloat16 and sums in float32 in one pass.
                wide = torch.promote_types(every.dtype, torch.float32)
                normaliser = every[:, 0].to(wide) - every.log_softmax(dim=-1, dtype=wide)[:, 0]
                owner = torch.from_numpy(np.repeat(np.arange(len(block)), np.diff(bounds))).to(self.device)
                if every.dtype == wide:
                    logits = every[owner, torch.from_numpy(asked).to(self.device)]
                else:
                    # The chosen logits are computed again in float32: bfloat16 logits are 0.06 apart at 20.
                    kinds, kind = np.unique(asked, return_inverse=True)
                    chosen = torch.from_numpy(kinds).to(self.device)
                    bias = None if head.bias is None else head.bias[chosen].float()
                    some = torch.nn.functional.linear(block.float(), head.weight[chosen].float(), bias)
                    logits = some[owner, torch.from_numpy(kind).to(self.device)]
                # The two come from different roundings; a log-probability above 0 would break the search's bounds.
                steps = (logits - normaliser[owner]).clamp(max=0.0)
                result[bounds[0] : bounds[-1]] = steps.double().cpu().numpy()
        if np.isnan(result).any():
            raise self._nan_error()
        return result

    def logits(self, hidden: torch.Tensor) -> FloatArray:
        """Of all tokens at hidden states [Q, D]: float64 [Q, V]."""
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        with self._inference_mode(f"the logits behind {len(hidden)} nodes"):
            found: FloatArray = head(hidden).double().cpu().numpy()
        if np.isnan(found).any():
            raise self._nan_error()
        return found

    def _nan_error(self) -> EngineError:
        return EngineError(f"{self.name} returned NaN; load it in float32 or check its weights")

    @contextmanager
    def _inference_mode(self, description: str) -> Iterator[None]:
        """Without gradients, and with torch's errors, such as too little memory, as those the ladder steps down on."""
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self.name} failed on {description}: {error}") from error

    def _measure_token_bytes(self) -> int:
        """Bytes of one token's keys and values, as the model really lays them out, and of its hidden state."""
        cache, zero = GrowingCache(self.model.config), np.zeros(1, dtype=np.int64)
        hidden = self.hidden_states(zero, zero, zero, np.ones((1, 1, 1), dtype=bool), cache)
        held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        return sum(part.nbytes for part in (*held, hidden) if part is not None)

    def _probe_packing(self) -> bool:
        """Whether the model takes its tokens packed: tried, because architectures do not say."""
        prompts = [np.arange(1, 2), np.arange(1, 4)]
        asked = np.arange(min(self.vocab_size, 100))
        found = []
        for self._supports_packing in (False, True):
            try:
                tree = self.open([prompt % self.vocab_size for prompt in prompts])
                nodes = tree.grow(np.array([1, 0, 1, 2]), asked[:4])
                found.append(tree.log_probs(nodes, np.tile(asked, 4), np.arange(5) * len(asked)))
            except (EngineError, TypeError, LookupError, AttributeError, AssertionError):
                return False  # it takes no arguments that it does not know, or tokens of one shape only
        expected, packed = found
        return float(np.abs(packed - expected).max()) < 0.1 * float(expected.std())

    def _check_output_layer(self) -> None:
        """Refuse models that scale or cap their logits after the head, which `log_probs` would miss."""
        token_ids = torch.arange(4, device=self.device)[None] % self.vocab_size
        with torch.inference_mode():
            states = self.model.base_model(input_ids=token_ids).last_hidden_state
            head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
            expected = self.model(input_ids=token_ids).logits.float().log_softmax(dim=-1)
            found = head(states).float().log_softmax(dim=-1)
        if not torch.allclose(found, expected, atol=0.1):
            raise EngineError(f"{self.name} changes its logits behind the output layer; use another backend for it")


class TransformersTree:
    """Nodes behind U prompts, over one key-value cache [U, S] that is padded per prompt."""

    def __init__(self, backend: TransformersBackend, prompts: Sequence[IntArray], deadline: Deadline) -> None:
        self._backend, self._deadline = backend, deadline
        self._cache = GrowingCache(backend.model.config)
        count = self._num_prompts = len(prompts)
        lengths = self._prompt_lengths = np.array([len(prompt) for prompt in prompts])
        width = self._max_prompt_length = self._num_slots = int(lengths.max())
        inside = np.arange(width) < lengths[:, None]
        tokens = np.zeros((count, width), dtype=np.int64)
        tokens[inside] = np.concatenate(list(prompts))
        positions = np.tile(np.arange(width), (count, 1))
        causal = np.tri(width, dtype=bool)[None]
        head = _shared_prefix_length(tokens, int(lengths.min()))
        if head * (count - 1) < _MIN_SHARED_PREFIX_TOKENS:
            head = 0
        if head:
            backend.hidden_states(
                tokens[0, :head], positions[0, :head], np.arange(head), causal[:, :head, :head], self._cache
            )
            self._cache.batch_repeat_interleave(count)
        visible = causal[:, head:] & inside[:, None, :]
        own = inside[:, head:]
        hidden = backend.hidden_states(
            tokens[:, head:][own], positions[:, head:][own], np.flatnonzero(own), visible, self._cache
        )
        # A node: its prompt, its parent, its slot in the cache, its position, its hidden state.
        self._prompt = np.arange(count)
        self._parent = np.full(count, -1)
        self._slot = np.full(count, -1)
        self._position = lengths - 1
        self._hidden = [hidden[torch.from_numpy(np.cumsum(lengths - head) - 1)]]

    @property
    def size(self) -> int:
        """How many nodes there are, prompt ends included."""
        return len(self._prompt)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes over all prompts in one forward pass."""
        self._deadline.check()
        count, size = len(parents), self.size
        nodes = np.arange(size, size + count)
        if not count:
            return nodes
        if (parents >= nodes).any() or (parents < 0).any():
            raise InputError("a node's parent must stand before it")
        parent = np.concatenate([self._parent, parents])
        prompt, position = prompts_and_positions(parent, size, self._prompt, self._position)
        if int(position.max()) >= self._backend.context_length:
            raise EngineError(f"a path reaches {int(position.max()) + 1} tokens; the context is shorter")
        place = _rank_within(prompt[size:])
        columns = int(place.max()) + 1
        slot = np.concatenate([self._slot, self._num_slots + place])
        mask = np.zeros((self._num_prompts, columns, self._num_slots + columns), dtype=bool)
        mask[:, :, : self._max_prompt_length] = np.arange(self._max_prompt_length) < self._prompt_lengths[:, None, None]
        ancestor, row = nodes, np.arange(count)
        while row.size:
            mask[prompt[size + row], place[row], slot[ancestor]] = True
            ancestor = parent[ancestor]
            row, ancestor = row[ancestor >= self._num_prompts], ancestor[ancestor >= self._num_prompts]
        cells = prompt[size:] * columns + place
        hidden = self._backend.hidden_states(tokens, position[size:], cells, mask, self._cache)
        # Only now: a pass that failed leaves the tree as it was.
        self._hidden.append(hidden)
        self._parent, self._prompt, self._position, self._slot = parent, prompt, position, slot
        self._num_slots += columns
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen next tokens, normalised over the full vocabulary."""
        self._deadline.check()
        return self._backend.log_probs(self._hidden_at(nodes), tokens, offsets)

    def logits(self, nodes: IntArray) -> FloatArray:
        """Of the tokens behind some nodes: float64 [Q, V]."""
        self._deadline.check()
        return self._backend.logits(self._hidden_at(nodes))

    def _hidden_at(self, nodes: IntArray) -> torch.Tensor:
        if len(self._hidden) > 1:
            self._hidden = [torch.cat(self._hidden)]
        return self._hidden[0][torch.from_numpy(nodes)]

    def rewind(self, size: int) -> None:
        """Forget every node from number `size` on; their room in the cache is kept for what is grown next."""
        if size < self._num_prompts or size > self.size:
            raise InputError(f"cannot rewind to {size}: the tree has {self._num_prompts} prompts and {self.size} nodes")
        self._hidden = [torch.cat(self._hidden)[:size]]
        self._prompt, self._parent = self._prompt[:size], self._parent[:size]
        self._slot, self._position = self._slot[:size], self._position[:size]
        slots = max(self._max_prompt_length, int(self._slot.max()) + 1)
        if slots < self._num_slots:
            self._cache.crop(slots - self._num_slots)  # a negative length removes; a positive one newer versions refuse
            self._num_slots = slots


def _read_merged_provenance(model: str | Path) -> Provenance | None:
    """Of an adapter that was merged into a folder's weights."""
    return Provenance.read(Path(model)) if (Path(model) / PROVENANCE).is_file() else None


def _merge_adapter(model: Any, adapter: Adapter) -> Any:
    """The model with an adapter added to its weights, in the precision of these."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelMissingError("adapters need PEFT; run: pip install 'genrec[local]'") from error
    with progress_bars_disabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers by names of before
        return PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()


def _shared_prefix_length(tokens: IntArray, min_length: int) -> int:
    """How many first tokens all of [U, P] have in common; each prompt keeps one of its own, whose state is needed."""
    same = (tokens[:, : min_length - 1] == tokens[0, : min_length - 1]).all(axis=0)
    return int(np.cumprod(same).sum())


def _rank_within(groups: IntArray) -> IntArray:
    """For each entry, how many earlier entries belong to the same group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(groups[order]) != 0))
    ranks = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    result = np.empty(len(groups), dtype=np.int64)
    result[order] = ranks
    return result
