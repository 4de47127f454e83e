"""A local PyTorch model through Hugging Face Transformers, on CPU or GPU."""

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
from genrec.backends.base import DEFAULT_BATCH_SIZE, Completion, GenerationRequests, OnTokens
from genrec.backends.generation import generate_with_tree
from genrec.backends.growing_cache import GrowingCache
from genrec.backends.precision import default_device, native_dtype
from genrec.backends.pretrained import load_pretrained
from genrec.backends.provenance import PROVENANCE_FILE, Provenance
from genrec.backends.quiet import progress_bars_disabled
from genrec.backends.token_layout import TokenLayout
from genrec.backends.transformers_tree import NewTokens, TransformersTree
from genrec.backends.tree_arrays import check_prompt_lengths
from genrec.deadline import Deadline
from genrec.errors import EngineError, ModelMissingError
from genrec.types import FloatArray, IntArray

_LOGITS_CHUNK_SIZE = 256  # rows whose logits over the full vocabulary are in memory at once


class TransformersBackend:
    """A causal language model from a folder or the Hub.

    Args:
        model: a folder that `save_pretrained` wrote, or a Hub id. Only safetensors are read.
        adapter: the folder of a LoRA adapter, which is merged into the weights; see `inspect_adapter`. Needs PEFT.
        device: the torch device; by default the first GPU, else the CPU.
        dtype: by default bfloat16 if the device supports it, else float32.
        name: how results and caches name these weights, before the dtype; by default the last part of the path.
        trust_remote_code: run Python code of the model, see `load_pretrained`.

    Raises:
        ModelMissingError: the model or the adapter does not exist or is damaged, the model needs code that is not
            trusted, or PEFT is not installed.
        MismatchError: the adapter was trained for another model, or uses more than LoRA.
        EngineError: the architecture changes its logits in a way that this backend does not reproduce, or keeps state
            other than keys and values.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = torch.device(device) if device else default_device()
        self.dtype = dtype or native_dtype(self.device)
        # On a CPU a batch saves no time where prompts and candidates fill the cores; a list depends on its prompt only.
        self.batch_size = 1 if self.device.type == "cpu" else DEFAULT_BATCH_SIZE
        tuned = None if adapter is None else inspect_adapter(adapter, base=model)
        loaded = load_pretrained(
            AutoModelForCausalLM,
            model,
            trust_remote_code=trust_remote_code,
            dtype=self.dtype if tuned is None else torch.float32,
            attn_implementation="sdpa",
        )
        if tuned is not None:
            loaded = _merge_adapter(loaded, tuned)
        self.model: PreTrainedModel = loaded.to(device=self.device, dtype=self.dtype).eval()
        weights = f"{name or Path(model).name}{'' if tuned is None else f'+{tuned.name}'}"
        self.name = f"{weights}@{str(self.dtype).removeprefix('torch.')}"
        use_packed_attention(self.model)
        self.provenance = _read_merged_provenance(model) if tuned is None else tuned.provenance
        self.vocab_size = int(self.model.config.vocab_size)
        # A path that fits the window of sliding attention is computed exactly as the model would compute it.
        window = GrowingCache(self.model.config).sliding_window
        self.context_length = min(int(self.model.config.max_position_embeddings), window)
        # Transformers 5.24 renamed this argument and warns about the old name, the only one in earlier versions.
        parameters = inspect.signature(self.model.base_model.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        self._supports_packing = False
        self.token_bytes = self._measure_token_bytes()
        self._check_output_layer()
        self._supports_packing = self._probe_packing()

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TransformersTree:
        """Compute U prompts in one batch, and open a tree over them."""
        deadline = deadline or Deadline.never()
        deadline.check()
        check_prompt_lengths(prompts, self.name, self.context_length)
        return TransformersTree(self, prompts, deadline)

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt, all in one batch."""
        return generate_with_tree(self, requests, deadline, on_tokens)

    def hidden_states(self, batch: NewTokens, cache: GrowingCache) -> torch.Tensor:
        """Compute the last hidden states [N, D] of N new tokens, and append their keys and values to the cache."""
        flat_indices, visible_mask = batch.flat_indices, batch.visible_mask
        prompts, columns = visible_mask.shape[:2]
        with self._inference_mode(f"{len(batch.token_ids)} tokens of {prompts} prompts"):
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
            output = self.model.base_model(
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
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        result = np.empty(len(tokens), dtype=np.float64)
        with self._inference_mode(f"the logits of {len(hidden)} nodes"):
            for start in range(0, len(hidden), _LOGITS_CHUNK_SIZE):
                block = hidden[start : start + _LOGITS_CHUNK_SIZE]
                block_offsets = offsets[start : start + len(block) + 1]
                queried = tokens[block_offsets[0] : block_offsets[-1]]
                all_logits = head(block)
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
                    chosen_logits = torch.nn.functional.linear(block.float(), head.weight[chosen].float(), bias)
                    logits = chosen_logits[owner, torch.from_numpy(column).to(self.device)]
                # The two are rounded differently; a log-probability above 0 would break the search's bounds.
                log_probs = (logits - normaliser[owner]).clamp(max=0.0)
                result[block_offsets[0] : block_offsets[-1]] = log_probs.double().cpu().numpy()
        if np.isnan(result).any():
            raise self._nan_error()
        return result

    def logits(self, hidden: torch.Tensor) -> FloatArray:
        """Logits of all tokens at hidden states [Q, D]: float64 [Q, V]."""
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        with self._inference_mode(f"the logits of {len(hidden)} nodes"):
            result: FloatArray = head(hidden).double().cpu().numpy()
        if np.isnan(result).any():
            raise self._nan_error()
        return result

    def _nan_error(self) -> EngineError:
        return EngineError(f"{self.name} returned NaN; load it in float32 or check its weights")

    @contextmanager
    def _inference_mode(self, description: str) -> Iterator[None]:
        """Disable gradients, and raise torch's errors, such as out of memory, as `EngineError`."""
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self.name} failed on {description}: {error}") from error

    def _measure_token_bytes(self) -> int:
        """Measure the bytes of one token's keys, values and hidden state."""
        cache, zero = GrowingCache(self.model.config), np.zeros(1, dtype=np.int64)
        hidden = self.hidden_states(NewTokens(zero, zero, zero, np.ones((1, 1, 1), dtype=bool)), cache)
        cached = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        return sum(tensor.nbytes for tensor in (*cached, hidden) if tensor is not None)

    def _probe_packing(self) -> bool:
        """Try whether the model accepts packed tokens, because architectures do not declare it."""
        prompts = [np.arange(1, 2), np.arange(1, 4)]
        queried = np.arange(min(self.vocab_size, 100))
        results = []
        for self._supports_packing in (False, True):
            try:
                tree = self.open([prompt % self.vocab_size for prompt in prompts])
                nodes = tree.grow(np.array([1, 0, 1, 2]), queried[:4])
                results.append(tree.log_probs(nodes, np.tile(queried, 4), np.arange(5) * len(queried)))
            except (EngineError, TypeError, LookupError, AttributeError, AssertionError):
                return False  # it rejects unknown arguments, or needs tokens of one shape
        expected, packed = results
        return float(np.abs(packed - expected).max()) < 0.1 * float(expected.std())

    def _check_output_layer(self) -> None:
        """Reject models that scale or cap their logits after the output layer, which `log_probs` would miss."""
        token_ids = torch.arange(4, device=self.device)[None] % self.vocab_size
        with torch.inference_mode():
            states = self.model.base_model(input_ids=token_ids).last_hidden_state
            head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
            expected = self.model(input_ids=token_ids).logits.float().log_softmax(dim=-1)
            actual = head(states).float().log_softmax(dim=-1)
        if not torch.allclose(actual, expected, atol=0.1):
            raise EngineError(f"{self.name} changes its logits after the output layer; use another backend for it")


def _read_merged_provenance(model: str | Path) -> Provenance | None:
    """Read the provenance of an adapter that was merged into the weights of a folder."""
    return Provenance.read(Path(model)) if (Path(model) / PROVENANCE_FILE).is_file() else None


def _merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Merge an adapter into the weights of a model, in the precision of the weights."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelMissingError("adapters need PEFT; run: pip install 'genrec[local]'") from error
    with progress_bars_disabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses old names of Transformers
        return PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
