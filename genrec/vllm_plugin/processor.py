"""The catalog constraint inside vLLM: a logits processor that masks what would leave the catalog.

vLLM finds it by its entry point and makes it once per engine, for either of its model runners: the first one (V1) hands
it batches on the host, the second (V2, on GPUs from vLLM 0.31 on) slots on the device. A request asks for it
with flat keys in `SamplingParams.extra_args` (over HTTP: `vllm_xargs`), and is untouched without them:

    genrec_catalog  a sub-folder of the folder that the environment variable GENREC_CATALOGS names, written by
                    `CatalogIndex.save`; read once per process, again only after a restart
    genrec_form     "list" (the default), "item" or "text"; see `genrec.decoding.constraints`
    genrec_k        how many items a list has, 10 by default
    genrec_allow    item ids that may be written, by default all
    genrec_deny     item ids that may not

What a request asks for is checked where it enters, and a wrong one is refused there (HTTP 400). In the engine, where
an error would end the requests of everybody, a constraint that cannot be applied leaves the end token alone: the
answer is empty or cut short, and `genrec.decoding.constraints.ConstraintState.parse_items` refuses it.

Letters: R rows of a step, V vocabulary.
"""

import logging
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from genrec.decoding.constraints import ConstraintState, DelimiterTokens, advance
from genrec.errors import GenrecError, InputError
from genrec.types import IntArray
from genrec.vllm_plugin.registry import CATALOGS_ENV, CatalogRegistry, is_genrec_key
from genrec.vllm_plugin.tensor_constraint import MIN_LOGIT, TensorConstraint, check_listed_rows

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotProcessor
except ImportError:  # vLLM before 0.31 runs processors on the first runner only

    class SlotProcessor:  # type: ignore[no-redef]
        """Stands for what there is not."""


# Each of these takes tokens away, forces some, or ends the answer: no token could be left, or one too many let in.
# By its name in vLLM what it is called in an error; a server makes structured outputs of a request's response_format.
_CONFLICTING_PARAMS = {
    "allowed_token_ids": "allowed_token_ids",
    "bad_words": "bad_words",
    "ignore_eos": "ignore_eos",
    "logit_bias": "logit_bias",
    "min_tokens": "min_tokens",
    "repetition_detection": "repetition_detection",
    "structured_outputs": "structured_outputs (or response_format)",
    "thinking_token_budget": "thinking_token_budget",
    "trace_decode_token_ids": "trace_decode_token_ids",
}

_FLOAT32_MAX = float(np.finfo(np.float32).max)  # what is more is infinite in the engine
_REPETITION_PENALTY_RANGE = 0.01, 100.0

_LOGGER = logging.getLogger(__name__)

_T = TypeVar("_T")


class CatalogLogitsProcessor(LogitsProcessor, SlotProcessor):  # type: ignore[misc]
    """Holds every request that names a catalog to it; see the module's docstring.

    Args:
        vllm_config: the engine's.
        device_or_states: where logits lie; the second runner passes its requests' states instead, which say that too.
        is_pin_memory: not used.

    Raises:
        GenrecError: when the engine starts, for a catalog that is damaged or was built for another tokenizer (named).
    """

    # vLLM checks requests through the class, before and apart from any object: what a process has read is kept here.
    _registries: ClassVar[dict[tuple[str, str], CatalogRegistry]] = {}

    def __init__(self, vllm_config: VllmConfig, device_or_states: Any, is_pin_memory: bool = False) -> None:
        shelf = self._registry_for(vllm_config) if os.environ.get(CATALOGS_ENV) else None
        if shelf:
            for name in shelf.names:
                shelf.load(name)
        self._requests: Any = (
            _BatchRequests(shelf)
            if isinstance(device_or_states, torch.device)
            else _SlotRequests(shelf, device_or_states)
        )

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose constraint could not be kept, where it enters.

        Two settings of the request are completed: the end token of the catalog's identifiers stops it, and a word that
        cannot be written is forbidden, because vLLM tells a processor what was written (instead of placeholders, while
        it schedules ahead) only where somebody in the batch has forbidden words.

        Raises:
            InputError: see `Shelf.start`; or settings that would fight the constraint.
        """
        wishes = sampling_params.extra_args or {}
        if not any(map(is_genrec_key, wishes)):
            return
        config = _config_of_caller()
        if config.speculative_config is not None:
            raise InputError(
                "genrec_catalog was asked of an engine that decodes speculatively, which leaves logits processors out; "
                "start vLLM without a speculative config"
            )
        try:
            state = cls._registry_for(config).start(wishes)
            if getattr(config, "use_v2_model_runner", False):
                check_listed_rows(state)
        except InputError:
            raise
        except GenrecError as error:
            raise InputError(str(error)) from error  # vLLM answers any other error as its own fault
        end = state.grammar.delimiters.end_id
        _reject_conflicting_params(sampling_params, state, end)
        _reject_insufficient_tokens(sampling_params, state, config.model_config.max_model_len)
        sampling_params.stop_token_ids = sorted({*(sampling_params.stop_token_ids or ()), end})
        sampling_params._bad_words_token_ids = [[end, end]]

    @classmethod
    def _registry_for(cls, config: VllmConfig) -> CatalogRegistry:
        folder, model = os.environ.get(CATALOGS_ENV), str(config.model_config.tokenizer)
        if not folder:
            raise InputError(f"{CATALOGS_ENV} is not set where vLLM runs; start it with the folder of saved catalogs")
        if (folder, model) not in cls._registries:
            where = _tokenizer_folder(model, config.model_config.tokenizer_revision)
            cls._registries[folder, model] = CatalogRegistry(Path(folder), where)
        return cls._registries[folder, model]

    def is_argmax_invariant(self) -> bool:
        """A greedy choice may leave the catalog too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner: follow requests as they enter, leave and change places."""
        self._requests.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: a request takes a slot; whether it is constrained."""
        constrained: bool = self._requests.enter(req_idx, sampling_params)
        return constrained

    def apply_staged_writes(self) -> None:
        """Second runner: read what requests that enter wrote before they were paused."""
        self._requests.replay()

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Mask float32 [R, V]; with a context of the second runner, which says what slot a row is of."""
        masked: torch.Tensor = self._requests.mask(logits, ctx)
        return masked


def _initial_state(registry: CatalogRegistry | None, params: SamplingParams) -> ConstraintState:
    """A request's constraint, before its first token."""
    if registry is None:
        raise InputError(f"{CATALOGS_ENV} is not set where vLLM runs; start it with the folder of saved catalogs")
    return registry.start(params.extra_args or {})


def _or_none(make: Callable[[], _T]) -> _T | None:
    """What holds a request; None where it cannot be made, which `validate_params` should have found.

    Whatever goes wrong: an error here would end the requests of everybody.
    """
    try:
        return make()
    except Exception:
        _LOGGER.exception("A request's constraint cannot be applied; its answer stays empty.")
        return None


def _stop_token_id(params: SamplingParams) -> int:
    """A token that ends a request."""
    return min(params.all_stop_token_ids, default=0)


@dataclass(slots=True)
class _ConstrainedRequest:
    """A constrained request of a batch.

    Attributes:
        initial_state: the state before its first token; None where the constraint could not be made.
        state: the state behind the tokens that were seen.
        token_ids: what it wrote, as the engine goes on writing it.
        stop_token_id: a token that ends it, where there is no state.
        tokens_consumed: how many tokens the state knows of.
    """

    initial_state: ConstraintState | None
    state: ConstraintState | None
    token_ids: list[int]
    stop_token_id: int
    tokens_consumed: int = 0

    @property
    def next_tokens(self) -> IntArray:
        """What may follow; see `ConstraintState.next_tokens`."""
        return np.array([self.stop_token_id]) if self.state is None else self.state.next_tokens


class _BatchRequests:
    """The constrained requests of a batch by their rows, for the first runner."""

    def __init__(self, registry: CatalogRegistry | None) -> None:
        self._registry = registry
        self._requests: dict[int, _ConstrainedRequest] = {}
        self._banned_mask: torch.Tensor | None = None

    def update(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests; one may enter with what it wrote before it was paused."""
        process_dict_updates(self._requests, batch_update, self._make_request)

    def mask(self, logits: torch.Tensor, _: None) -> torch.Tensor:
        """Mask, in place, float32 [R, V]."""
        if not self._requests:
            return logits
        # Only by now has vLLM, where it schedules ahead, filled in what was written last.
        _advance_states(self._requests.values())
        if free := {
            number: row.state for number, row in self._requests.items() if row.state and row.state.in_free_text
        }:
            rows = torch.tensor(list(free), device=logits.device)
            banned = self._banned_mask_for(next(iter(free.values())).grammar.delimiters, logits)
            logits[rows] = logits[rows].masked_fill(banned, -torch.inf)
        if held := [(number, row.next_tokens) for number, row in self._requests.items() if number not in free]:
            rows = torch.tensor([number for number, _ in held], device=logits.device)
            owner = np.repeat([number for number, _ in held], [len(tokens) for _, tokens in held])
            places = np.stack([owner, np.concatenate([tokens for _, tokens in held])])
            row, token = torch.from_numpy(places).to(logits.device, non_blocking=True)
            kept = logits[row, token].clamp_(min=MIN_LOGIT)
            logits[rows] = -torch.inf
            logits[row, token] = kept
        return logits

    def _make_request(
        self, params: SamplingParams, _: list[int] | None, token_ids: list[int]
    ) -> _ConstrainedRequest | None:
        if not any(map(is_genrec_key, params.extra_args or ())):
            return None
        state = _or_none(lambda: _initial_state(self._registry, params))
        return _ConstrainedRequest(state, state, token_ids, _stop_token_id(params))

    def _banned_mask_for(self, delimiters: DelimiterTokens, logits: torch.Tensor) -> torch.Tensor:
        """Bool [V], what free text may not be written with; a model's vocabulary may be wider than its tokenizer's."""
        if self._banned_mask is None:
            free = torch.from_numpy(delimiters.free_text[: logits.shape[1]])
            banned = torch.ones(logits.shape[1], dtype=torch.bool)
            banned[: len(free)] = ~free
            self._banned_mask = banned.to(logits.device)
        return self._banned_mask


def _advance_states(requests: Collection[_ConstrainedRequest]) -> None:
    """Move every row behind what was written since, all of them token by token."""
    for row in requests:
        if row.tokens_consumed > len(row.token_ids):  # the engine took tokens back
            row.state, row.tokens_consumed = row.initial_state, 0
    while behind := [(row, row.state) for row in requests if row.state and row.tokens_consumed < len(row.token_ids)]:
        token_ids = [row.token_ids[row.tokens_consumed] for row, _ in behind]
        # A placeholder of vLLM's (-1) leads nowhere, as any token does that could not have been written.
        for (row, _), state in zip(behind, advance([state for _, state in behind], token_ids), strict=True):
            row.state, row.tokens_consumed = state, row.tokens_consumed + 1


class _SlotRequests:
    """The constrained requests of an engine by their slots, for the second runner; `states` are vLLM's."""

    def __init__(self, registry: CatalogRegistry | None, states: Any) -> None:
        self._registry, self._states = registry, states
        size, device = states.max_num_reqs, states.device
        grammars = [registry.load(name)[1] for name in registry.names] if registry else []
        self._constraints = {id(grammar): TensorConstraint(grammar, size, device) for grammar in grammars}
        self._active: dict[int, TensorConstraint | None] = {}
        self._stop_token_ids: dict[int, int] = {}
        self._tokens_consumed = torch.zeros(size, dtype=torch.int64, device=device)
        self._resumed: dict[int, tuple[TensorConstraint, int]] = {}

    def add_request(self, slot: int, params: SamplingParams) -> bool:
        """A request takes a slot, whoever had it before; whether it is constrained."""
        if (before := self._active.pop(slot, None)) is not None:
            before.remove_request(slot)
        for table in (self._stop_token_ids, self._resumed):
            table.pop(slot, None)
        if not any(map(is_genrec_key, params.extra_args or ())):
            return False
        self._active[slot] = constraint = _or_none(lambda: self._assign(slot, params))
        if constraint is None:
            self._stop_token_ids[slot] = _stop_token_id(params)
            return True
        self._resumed[slot] = constraint, int(self._states.prefill_len.np[slot]) - int(self._states.prompt_len.np[slot])
        return True

    def _assign(self, slot: int, params: SamplingParams) -> TensorConstraint:
        """The constraint of a request's catalog, which the request has entered."""
        state = _initial_state(self._registry, params)
        if id(state.grammar) not in self._constraints:  # a catalog that was saved since the engine started
            made = TensorConstraint(state.grammar, self._states.max_num_reqs, self._states.device)
            self._constraints[id(state.grammar)] = made
        constraint = self._constraints[id(state.grammar)]
        constraint.add_request(slot, state)
        return constraint

    def replay(self) -> None:
        """Read what the requests that entered had written before they were paused."""
        for slot, (constraint, count) in self._resumed.items():
            here = torch.tensor([slot], device=self._states.device)
            prompt = int(self._states.prompt_len.np[slot])
            for place in range(prompt, prompt + count):
                token = self._states.all_token_ids.gpu[slot, place : place + 1].long()
                constraint.advance(here, token, torch.ones_like(here, dtype=torch.bool))
            self._tokens_consumed[slot] = count
        self._resumed.clear()

    def mask(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        """Float32 [R, V], masked; without drafts a row is a request."""
        here = [self._active[slot] for slot in context.idx_mapping_np.tolist() if slot in self._active]
        if not here:
            return logits
        slots = context.expanded_idx_mapping.long()
        written = context.pos.long() + 1 - self._states.prompt_len.gpu[slots].long()
        seen = self._tokens_consumed[slots]
        moved = written == seen + 1
        self._tokens_consumed[slots] = seen = torch.where(moved, written, seen)
        for constraint in {id(one): one for one in here if one is not None}.values():
            constraint.advance(slots, context.input_ids.long(), moved)
            # A row that is still being filled in, or that lost tokens, is not where its state says.
            logits = constraint.mask(logits, slots, written != seen)
        for row, slot in enumerate(context.idx_mapping_np.tolist()):
            if slot in self._stop_token_ids:
                logits[row] = -torch.inf
                logits[row, self._stop_token_ids[slot]] = 0
        return logits


def _reject_conflicting_params(params: SamplingParams, state: ConstraintState, end_id: int) -> None:
    """Refuse what would leave a request without tokens, let others in, or end it too early."""
    usual = SamplingParams()
    for name, said in _CONFLICTING_PARAMS.items():
        if (value := getattr(params, name, None)) and value != getattr(usual, name, None):
            raise InputError(f"{said} is {value!r:.60} beside genrec_catalog, and would fight it; leave it out")
    if not abs(params.temperature) <= _FLOAT32_MAX:
        raise InputError(f"temperature is {params.temperature} beside genrec_catalog; give a finite number")
    # vLLM multiplies masked logits by it: one that is nothing or infinite in float32 leaves no numbers.
    least, most = _REPETITION_PENALTY_RANGE
    if not least <= params.repetition_penalty <= most:
        raise InputError(
            f"repetition_penalty is {params.repetition_penalty} beside genrec_catalog; give {least} to {most:g}"
        )
    marks, written = state.grammar.delimiters, state.grammar.trie.tokens
    # Servers add tokens of their own that stop an answer; only those that an item is written with cut it short.
    cuts = [
        one for one in params.stop_token_ids or () if one != end_id and (one == marks.separator_id or one in written)
    ]
    for name, stops in (("stop", params.stop), ("stop_token_ids", cuts)):
        if state.form != "text" and stops:
            first = stops if isinstance(stops, str) else stops[0]
            raise InputError(
                f"{name} has {first!r:.60} beside genrec_form {state.form!r}, and would cut it short; leave it out"
            )


def _reject_insufficient_tokens(params: SamplingParams, state: ConstraintState, max_model_len: int) -> None:
    """Refuse what could be cut short for want of tokens behind an empty prompt; the length of its own is not known."""
    need = state.grammar.max_answer_tokens(
        state.form, k=state.remaining_items if state.form == "list" else None, allowed=state.allowed
    )
    what = f"a list of {state.remaining_items} of these items" if state.form == "list" else "one of these items"
    if need >= max_model_len:
        raise InputError(f"{what} can take {need} tokens, and the model's context has {max_model_len}; ask for fewer")
    # A server that was told no max_tokens puts in what the prompt has left of the context.
    if params.max_tokens is not None and params.max_tokens < need:
        raise InputError(
            f"there is room for {params.max_tokens} tokens, and {what} can take {need}; set max_tokens to {need} or "
            "more, or show a shorter prompt"
        )


def _config_of_caller() -> VllmConfig:
    """The configuration of the engine that is checking a request; vLLM hands its check the parameters alone."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        config = getattr(frame.f_locals.get("self"), "vllm_config", None)
        if config is not None:
            return config
        frame = frame.f_back
    raise InputError("no engine of vLLM is checking this request; genrec's plugin works with vLLM 0.25 to 0.32")


def _tokenizer_folder(model: str, revision: str | None) -> Path:
    """Where a model's tokenizer lies; one from the Hub was fetched by vLLM before it makes processors."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    files = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    return Path(snapshot_download(model, revision=revision, allow_patterns=files))
