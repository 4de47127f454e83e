"""The constrained requests of an engine, for either of vLLM's model runners.

A constraint that cannot be made in the engine allows only a stop token: an error there would end every request.
Letters: R rows of a batch, V vocabulary size.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, process_dict_updates

from genrec.decoding.constraints import ConstraintState, advance
from genrec.decoding.delimiters import DelimiterTokens
from genrec.errors import InputError
from genrec.types import IntArray
from genrec.vllm_plugin.registry import CATALOGS_ENV, CatalogRegistry, is_genrec_key
from genrec.vllm_plugin.tensor_constraint import MIN_LOGIT, TensorConstraint

_LOGGER = logging.getLogger(__name__)

_T = TypeVar("_T")


def is_constrained(params: SamplingParams) -> bool:
    """Whether a request has keys of genrec, misspelled ones included."""
    return any(map(is_genrec_key, params.extra_args or ()))


@dataclass(slots=True)
class _ConstrainedRequest:
    """A constrained request of a batch.

    Attributes:
        initial_state: the state before the first token; None if the constraint could not be made.
        state: the state after the tokens consumed so far.
        token_ids: the generated tokens; the engine appends to this list.
        stop_token_id: a token that ends the request, the only one allowed if there is no state.
        tokens_consumed: the number of tokens that the state includes.
    """

    initial_state: ConstraintState | None
    state: ConstraintState | None
    token_ids: list[int]
    stop_token_id: int
    tokens_consumed: int = 0

    @property
    def next_tokens(self) -> IntArray:
        """The tokens that may follow; see `ConstraintState.next_tokens`."""
        return np.array([self.stop_token_id]) if self.state is None else self.state.next_tokens


class BatchRequests:
    """The constrained requests of a batch by row, for the first runner (V1).

    Args:
        registry: the catalogs that the engine serves, or None.
    """

    def __init__(self, registry: CatalogRegistry | None) -> None:
        self._registry = registry
        self._requests: dict[int, _ConstrainedRequest] = {}
        self._banned_mask: torch.Tensor | None = None

    def update(self, batch_update: BatchUpdate | None) -> None:
        """Apply the batch changes of a step; a resumed request enters with the tokens it has generated."""
        process_dict_updates(self._requests, batch_update, self._make_request)

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask logits float32 [R, V] in place."""
        if not self._requests:
            return logits
        # With asynchronous scheduling vLLM fills in the newest tokens only before this call.
        _advance_states(self._requests.values())
        if free := {
            row: request.state
            for row, request in self._requests.items()
            if request.state and request.state.in_free_text
        }:
            rows = torch.tensor(list(free), device=logits.device)
            banned = self._banned_mask_for(next(iter(free.values())).grammar.delimiters, logits)
            logits[rows] = logits[rows].masked_fill(banned, -torch.inf)
        if constrained := [(row, request.next_tokens) for row, request in self._requests.items() if row not in free]:
            rows = torch.tensor([row for row, _ in constrained], device=logits.device)
            row_of_token = np.repeat([row for row, _ in constrained], [len(tokens) for _, tokens in constrained])
            pairs = np.stack([row_of_token, np.concatenate([tokens for _, tokens in constrained])])
            row_index, token = torch.from_numpy(pairs).to(logits.device, non_blocking=True)
            kept = logits[row_index, token].clamp_(min=MIN_LOGIT)
            logits[rows] = -torch.inf
            logits[row_index, token] = kept
        return logits

    def _make_request(
        self, params: SamplingParams, _: list[int] | None, token_ids: list[int]
    ) -> _ConstrainedRequest | None:
        if not is_constrained(params):
            return None
        state = _or_none(lambda: _initial_state(self._registry, params))
        return _ConstrainedRequest(state, state, token_ids, _stop_token_id(params))

    def _banned_mask_for(self, delimiters: DelimiterTokens, logits: torch.Tensor) -> torch.Tensor:
        """bool [V], the tokens that free text must not contain; a model may have more tokens than its tokenizer."""
        if self._banned_mask is None:
            free_text = torch.from_numpy(delimiters.free_text[: logits.shape[1]])
            banned = torch.ones(logits.shape[1], dtype=torch.bool)
            banned[: len(free_text)] = ~free_text
            self._banned_mask = banned.to(logits.device)
        return self._banned_mask


class SlotRequests:
    """The constrained requests of an engine by slot, for the second runner (V2).

    Args:
        registry: the catalogs that the engine serves, or None.
        states: vLLM's states of the requests in its slots.
    """

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
        """Assign a request to a slot, which a finished request may have used; True if it is constrained."""
        if (previous := self._active.pop(slot, None)) is not None:
            previous.remove_request(slot)
        for table in (self._stop_token_ids, self._resumed):
            table.pop(slot, None)
        if not is_constrained(params):
            return False
        self._active[slot] = constraint = _or_none(lambda: self._assign(slot, params))
        if constraint is None:
            self._stop_token_ids[slot] = _stop_token_id(params)
            return True
        self._resumed[slot] = constraint, int(self._states.prefill_len.np[slot]) - int(self._states.prompt_len.np[slot])
        return True

    def replay_resumed(self) -> None:
        """Advance new requests over the tokens that they generated before they were paused."""
        for slot, (constraint, count) in self._resumed.items():
            slots = torch.tensor([slot], device=self._states.device)
            prompt_len = int(self._states.prompt_len.np[slot])
            for position in range(prompt_len, prompt_len + count):
                token = self._states.all_token_ids.gpu[slot, position : position + 1].long()
                constraint.advance(slots, token, torch.ones_like(slots, dtype=torch.bool))
            self._tokens_consumed[slot] = count
        self._resumed.clear()

    def mask(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        """The masked logits, float32 [R, V]; without speculative decoding a row is a request."""
        active = [self._active[slot] for slot in context.idx_mapping_np.tolist() if slot in self._active]
        if not active:
            return logits
        slots = context.expanded_idx_mapping.long()
        generated = context.pos.long() + 1 - self._states.prompt_len.gpu[slots].long()
        consumed = self._tokens_consumed[slots]
        has_new_token = generated == consumed + 1
        self._tokens_consumed[slots] = consumed = torch.where(has_new_token, generated, consumed)
        for constraint in {id(each): each for each in active if each is not None}.values():
            constraint.advance(slots, context.input_ids.long(), has_new_token)
            # The state of a row that is still in prefill, or that lost tokens, is out of sync.
            logits = constraint.mask(logits, slots, generated != consumed)
        for row, slot in enumerate(context.idx_mapping_np.tolist()):
            if slot in self._stop_token_ids:
                logits[row] = -torch.inf
                logits[row, self._stop_token_ids[slot]] = 0
        return logits

    def _assign(self, slot: int, params: SamplingParams) -> TensorConstraint:
        """The constraint of the request's catalog, with the request added to it."""
        state = _initial_state(self._registry, params)
        if id(state.grammar) not in self._constraints:  # a catalog that was saved after the engine started
            self._constraints[id(state.grammar)] = TensorConstraint(
                state.grammar, self._states.max_num_reqs, self._states.device
            )
        constraint = self._constraints[id(state.grammar)]
        constraint.add_request(slot, state)
        return constraint


def _initial_state(registry: CatalogRegistry | None, params: SamplingParams) -> ConstraintState:
    """The state of a request's constraint before the first token."""
    if registry is None:
        raise InputError(f"{CATALOGS_ENV} is not set where vLLM runs; set it to the folder of saved catalogs")
    return registry.start(params.extra_args or {})


def _or_none(make: Callable[[], _T]) -> _T | None:
    """The result of `make`, or None if it raises, which `validate_params` should have prevented.

    Catches every exception: an error here would end all requests of the engine.
    """
    try:
        return make()
    except Exception:
        _LOGGER.exception("The constraint of a request cannot be applied; its answer will be empty.")
        return None


def _stop_token_id(params: SamplingParams) -> int:
    """A token that ends the request."""
    return min(params.all_stop_token_ids, default=0)


def _advance_states(requests: Collection[_ConstrainedRequest]) -> None:
    """Advance every request over its new tokens, all requests token by token."""
    for request in requests:
        if request.tokens_consumed > len(request.token_ids):  # the engine took tokens back
            request.state, request.tokens_consumed = request.initial_state, 0
    while behind := [
        (request, request.state)
        for request in requests
        if request.state and request.tokens_consumed < len(request.token_ids)
    ]:
        token_ids = [request.token_ids[request.tokens_consumed] for request, _ in behind]
        # vLLM's placeholder token (-1) is not allowed, so it leads to a dead state.
        for (request, _), state in zip(behind, advance([state for _, state in behind], token_ids), strict=True):
            request.state, request.tokens_consumed = state, request.tokens_consumed + 1
