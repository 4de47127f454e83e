"""A local PyTorch model through Hugging Face Transformers, on CPU or GPU."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from genrec.backends.adapter import Adapter, inspect_adapter
from genrec.backends.base import DEFAULT_BATCH_SIZE, Completion, GenerationRequests, OnTokens
from genrec.backends.generation import generate_with_tree
from genrec.backends.masked_model import MaskedModel
from genrec.backends.model_name import model_name
from genrec.backends.placement import check_device_map
from genrec.backends.plain_tree import PlainModel, PlainTree
from genrec.backends.precision import find_device, native_dtype
from genrec.backends.pretrained import causal_model_class, load_pretrained
from genrec.backends.provenance import Provenance
from genrec.backends.quantization import check_quantization, quantization_method
from genrec.backends.quiet import progress_bars_disabled
from genrec.backends.transformers_tree import TransformersTree
from genrec.backends.windowed_tree import WindowedTree
from genrec.deadline import Deadline
from genrec.errors import EngineError, ModelMissingError, format_value
from genrec.types import IntArray

TreeKind = Literal["masked", "paths"]
_ANSWER_TOKENS = 128  # what most trees grow to behind their prompts; a longer path costs a second pass at a window


class TransformersBackend:
    """A causal language model from a folder or the Hub.

    Args:
        model: a folder that `save_pretrained` wrote, or a Hub id. Only safetensors are read.
        adapter: the folder of a LoRA adapter, which is merged into the weights; see `inspect_adapter`. Needs PEFT.
        device: the torch device; by default the first GPU, else the CPU.
        dtype: by default bfloat16 if the device supports it, else float32.
        device_map: distributes the model over several devices instead, see `Placement`. Needs Accelerate.
        name: how results and caches name these weights, before the dtype; by default the last part of the path.
        trust_remote_code: run Python code of the model, see `load_pretrained`.

    Attributes:
        plain: computes whole paths, for every architecture.
        masked: computes all paths of a prompt in one sequence; None if the architecture does not allow it.

    Raises:
        ModelMissingError: the model or the adapter does not exist or is damaged, the model needs code that is not
            trusted, or PEFT or the package that quantised the model is not installed.
        MismatchError: the adapter was trained for another model, or uses more than LoRA, or the model is quantised.
        EngineError: this machine does not have the device, `device_map` moves the first layer to the disk, or the model
            returns NaN.
        InputError: an adapter is given with `device_map`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | Mapping[str, int | str] | None = None,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = find_device(device)
        self.dtype = dtype or native_dtype(self.device)
        # On a CPU a batch saves no time where prompts and candidates fill the cores; a list depends on its prompt only.
        self.batch_size = 1 if self.device.type == "cpu" else DEFAULT_BATCH_SIZE
        tuned = None if adapter is None else inspect_adapter(adapter, base=model)
        check_device_map(device_map, adapter)
        method = quantization_method(model)
        if method is not None:
            check_quantization(model, method, adapter)
            device_map = device_map or {"": str(self.device)}  # quantised weights cannot be moved or converted
        loaded = load_pretrained(
            causal_model_class(model),
            model,
            trust_remote_code=trust_remote_code,
            dtype=self.dtype if tuned is None else torch.float32,
            **({} if device_map is None else {"device_map": device_map}),
        )
        if tuned is not None:
            loaded = _merge_adapter(loaded, tuned)
        self.model: PreTrainedModel = _place(loaded, self.device, self.dtype) if device_map is None else loaded.eval()
        self.device = self.model.device
        if self.device.type == "meta":
            raise EngineError(
                f"device_map {format_value(device_map)} moves the first layer of {str(model)!r} off the device",
                remedy="keep the embedding of the tokens on a device",
            )
        weights = f"{name or model_name(model)}{'' if tuned is None else f'+{tuned.name}'}"
        self.name = f"{weights}@{str(self.dtype).removeprefix('torch.')}"
        self.provenance = Provenance.find(Path(model)) if tuned is None else tuned.provenance
        self.plain = PlainModel(self.model, self.name)
        self.vocab_size, self.context_length = self.plain.vocab_size, self.plain.context_length
        self.masked: MaskedModel | None = None
        with suppress(EngineError):
            self.masked = MaskedModel(self.plain)
        self.token_bytes = self.plain.token_bytes if self.masked is None else self.masked.token_bytes

    @property
    def tree(self) -> TreeKind:
        """How trees are computed: `masked` (one sequence under a mask), or `paths` (one row per path, slower)."""
        return "paths" if self.masked is None else "masked"

    def open(
        self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None
    ) -> TransformersTree | WindowedTree | PlainTree:
        """Compute U prompts in one batch, and open a tree over them."""
        model = self._model_for(max(map(len, prompts), default=0) + _ANSWER_TOKENS)
        if isinstance(model, MaskedModel) and model.context_length < self.plain.context_length:
            return WindowedTree(model, self.plain, prompts, deadline or Deadline.never())
        return model.open(prompts, deadline=deadline)

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt, all in one batch."""
        longest = max((len(request.prompt) + request.max_tokens for request in requests), default=0)
        return generate_with_tree(self._model_for(longest), requests, deadline, on_tokens)

    def _model_for(self, length: int) -> MaskedModel | PlainModel:
        """The fastest way to compute paths of up to `length` tokens."""
        if self.masked is None or (self.masked.context_length < min(length, self.context_length)):
            return self.plain
        return self.masked


def _place(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return model.to(device=device, dtype=dtype).eval()


def _merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Merge an adapter into the weights of a model, in the precision of the weights."""
    try:
        from peft import PeftConfig, get_peft_model
    except ImportError as error:
        raise ModelMissingError("adapters need PEFT; run: pip install 'genrec[local]'") from error
    from genrec.backends.adapter_weights import load_adapter_weights

    with progress_bars_disabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses old names of Transformers, and names the model by its folder
        tuned = get_peft_model(model, PeftConfig.from_pretrained(str(adapter.folder)))
        load_adapter_weights(tuned, adapter.folder)
        return tuned.merge_and_unload()
