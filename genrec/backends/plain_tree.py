"""A token tree for architectures whose layers ignore or lack an attention mask: whole paths, right-padded in batches.

A tree in one sequence needs a mask that hides every node from the other paths. Recurrent layers have none, and some
models compute their attention otherwise. Here each queried path is a row of its own. What the model keeps of a prompt
(keys, values and recurrent states) is computed once and copied for every batch of rows, so a row holds only the tokens
behind the prompt, and of these neither the last one, which is only read, nor any that a longer row computes, too.
Padding is at the end of a row, where a causal model cannot see it.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from genrec.backends.context_length import context_length
from genrec.backends.inference import UNSUPPORTED_ERRORS, inference_mode
from genrec.backends.path_rows import ReadTokens, longest_rows, row_batches
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.backends.precision import log_probs_agree, probe_tokens
from genrec.backends.tree_arrays import nan_error
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.types import FloatArray, IntArray

_CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
_PROBE_TOKENS = 32
_MAX_LOGITS = 1 << 25  # logits of one pass; 128 MiB in float32


class PlainModel:
    """A causal language model of any architecture, run on whole paths.

    Args:
        model: the model.
        name: how results and caches name it.

    Attributes:
        vocab_size, context_length: as in `Backend`.
        cache_argument: the name of the argument that takes what the model kept of earlier tokens.
        copies_state: whether copies of what the model keeps of a prompt give the logits of whole paths.
        token_bytes: of one token in a tree and in what the model keeps of a prompt. The logits of a pass come on top;
            `PlainTree` bounds them.

    Raises:
        EngineError: the model fails, returns NaN, or is not causal.
    """

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self.model, self.name = model, name
        self.device, self.dtype = model.device, model.dtype
        config = model.config.get_text_config(decoder=True)
        self.vocab_size = int(config.vocab_size)
        self.context_length = context_length(config.to_dict())
        # Transformers 5.24 renamed this argument and warns about the old name, the only one in earlier versions.
        parameters = inspect.signature(model.forward).parameters
        self.cache_argument = next((key for key in _CACHE_ARGUMENTS if key in parameters), "")
        self._keeps_last_logits = "logits_to_keep" in parameters
        self.copies_state, self._continues_stepwise = bool(self.cache_argument), False
        if self.copies_state and not self._probe_state():
            self._continues_stepwise = True  # some recurrent layers continue a state by one token at a time only
            self.copies_state = self._probe_state()
        logits, state = self.run(probe_tokens(_PROBE_TOKENS, self.vocab_size)[None], None, last_only=True)
        if logits.isnan().any():
            raise nan_error(name)
        self._check_causality()
        self.token_bytes = TOKEN_BYTES + state_bytes(state) // _PROBE_TOKENS

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "PlainTree":
        """Open a tree over U prompts."""
        return PlainTree(self, prompts, deadline or Deadline.never())

    def run(self, token_ids: IntArray, state: Any, *, last_only: bool = False) -> tuple[torch.Tensor, Any]:
        """Run the whole model on new tokens.

        Args:
            token_ids: int64 [B, L].
            state: what the model kept of earlier tokens, for B rows; changed in place. None for none.
            last_only: only the logits of the last token are read, so the model need not compute others.

        Returns:
            Logits [B, L, V], or of fewer tokens if `last_only`; and what the model kept of all tokens, None if that
            cannot be copied.

        Raises:
            EngineError: the model failed.
        """
        if state is not None and self._continues_stepwise:
            steps = [self._forward(token_ids[:, [at]], state) for at in range(token_ids.shape[1])]
            return torch.cat([logits for logits, _ in steps], dim=1), steps[-1][1]
        return self._forward(token_ids, state, last_only)

    def _forward(self, token_ids: IntArray, state: Any, last_only: bool = False) -> tuple[torch.Tensor, Any]:
        options = {} if state is None else {self.cache_argument: state}
        if last_only and self._keeps_last_logits:
            options["logits_to_keep"] = 1
        with inference_mode(self.name, f"{token_ids.size} tokens of {len(token_ids)} paths"):
            output = self.model(
                input_ids=torch.from_numpy(token_ids).to(self.device), use_cache=self.copies_state, **options
            )
        logits: torch.Tensor = output.logits
        return logits, output.get(self.cache_argument) if self.copies_state else None

    def _check_causality(self) -> None:
        """Check that no token changes the logits of earlier ones, as in encoders such as BERT."""
        rows = np.repeat(probe_tokens(8, self.vocab_size)[None], 2, axis=0)
        rows[1, -1] = rows[0, 0]
        one, other = self.run(rows, None)[0][:, :-1].double().cpu().numpy()
        if not log_probs_agree(one, other, self.dtype):
            raise EngineError(
                f"{self.name} is not a causal language model: a token changes the logits of the tokens before it",
                remedy="choose an instruction-tuned LLM",
            )

    def _probe_state(self) -> bool:
        """Try whether copies of what the model keeps of a prompt give the logits of whole paths."""
        tokens = probe_tokens(8, self.vocab_size)[None]
        try:
            expected = self.run(np.repeat(tokens, 2, axis=0), None)[0][:, 5:]
            state = copied_state(self.run(tokens[:, :5], None)[1], 2)
            actual = self.run(np.repeat(tokens[:, 5:], 2, axis=0), state)[0]
        except (EngineError, *UNSUPPORTED_ERRORS):
            return False
        actual_logits, expected_logits = (logits.double().cpu().numpy() for logits in (actual, expected))
        return log_probs_agree(actual_logits, expected_logits, self.dtype, float32_tolerance=1e-4)


def copied_state(state: Any, rows: int) -> Any:
    """A copy of what a model kept of one row, for several rows."""
    state = copy.deepcopy(state)
    if rows > 1:  # the only way to repeat rows that recurrent layers have, too
        state.reorder_cache(torch.zeros(rows, dtype=torch.long, device="cpu"))
    return state


def state_bytes(state: Any) -> int:
    """The bytes of the tensors that a model kept; 0 for None."""
    return sum(_tensor_bytes(vars(layer)) for layer in getattr(state, "layers", ()))


def _tensor_bytes(value: object) -> int:
    """The bytes of a tensor, or of all tensors in a container; 0 for anything else."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_tensor_bytes, values))


class PlainTree(PathTree):
    """A token tree over U prompts that computes a path when it is queried.

    Args:
        model: the backend.
        prompts: U arrays of token ids, int64.
        deadline: when the caller stops waiting.

    Raises:
        EngineError: a prompt is empty or does not fit the context.
        InputError: a token id is not in the vocabulary.
    """

    def __init__(self, model: PlainModel, prompts: Sequence[IntArray], deadline: Deadline) -> None:
        self._paths = _PathScorer(model, [prompt.tolist() for prompt in prompts])
        super().__init__(self._paths, prompts, deadline)

    def logits(self, nodes: IntArray) -> FloatArray:
        """Logits of the next tokens at Q nodes: float64 [Q, V]."""
        self._deadline.check()
        return np.stack([self._paths.logits(int(self._prompt[node]), self._path(int(node))) for node in nodes])


class _PathScorer:
    """Scores paths behind some prompts, whose states it keeps.

    A path that another path continues is read from that one's row, and rows of similar length share a pass.
    """

    scores_path_tokens = True

    def __init__(self, model: PlainModel, prompts: Sequence[list[int]]) -> None:
        self.name, self.vocab_size, self.context_length = model.name, model.vocab_size, model.context_length
        self.max_logprobs = model.vocab_size
        self._model, self._prompts = model, prompts
        self._ends: dict[int, tuple[Any, torch.Tensor | None]] = {}  # by prompt: its state, and the logits behind it
        self._last_paths: dict[int, tuple[list[int], Any]] = {}  # by prompt, the last path of `logits` and its state

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Log-probabilities of the queried tokens, see `PathScorer.score`."""
        results: list[FloatArray] = [np.empty(0)] * len(requests)
        for prompt in dict.fromkeys(request.prompt for request in requests):
            numbers = [number for number, request in enumerate(requests) if request.prompt == prompt]
            deadline.check()
            num_kept = self._num_kept(prompt)
            read = [ReadTokens.from_request(requests[number], num_kept) for number in numbers]
            rows, row_of = longest_rows([one.row for one in read])
            members: list[list[int]] = [[] for _ in rows]
            for member, row in enumerate(row_of):
                members[row].append(member)
            for batch in row_batches([len(row) for row in rows], _MAX_LOGITS // self.vocab_size):
                deadline.check()
                logits = self._logits(prompt, rows[batch])
                with inference_mode(self.name, f"the logits of {len(logits)} paths"):
                    for number, own in enumerate(members[batch]):
                        for member in own:
                            results[numbers[member]] = read[member].log_probs(logits[number], self._ends[prompt][1])
        return results

    def logits(self, prompt: int, path: list[int]) -> FloatArray:
        """Logits behind one path [V]. A path that continues the last one of its prompt computes its new tokens only."""
        done, state = self._last_paths.pop(prompt, ([], None))  # a pass that fails leaves the state half changed
        if state is None or len(path) <= len(done) or path[: len(done)] != done:
            done, state = path[: self._num_kept(prompt)], self._copied_state(prompt, 1)
        end = self._ends[prompt][1]
        if len(done) < len(path) or end is None:
            logits, state = self._model.run(np.array([path[len(done) :]]), state, last_only=True)
            end = logits[0, -1]
        self._last_paths[prompt] = (path, state)
        result: FloatArray = end.double().cpu().numpy()
        if np.isnan(result).any():
            raise nan_error(self.name)
        return result

    def _logits(self, prompt: int, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [B, L, V] behind each token of some rows, which continue a prompt."""
        table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        if not table.size:  # only the end of the prompt is read
            return torch.empty((len(rows), 0, self.vocab_size), device=self._model.device)
        return self._model.run(table, self._copied_state(prompt, len(rows)))[0]

    def _num_kept(self, prompt: int) -> int:
        """How many tokens of a prompt its state holds."""
        return len(self._prompts[prompt]) if self._state(prompt) is not None else 0

    def _state(self, prompt: int) -> Any:
        if prompt not in self._ends:
            self._ends[prompt] = (None, None)
            if self._model.copies_state:
                logits, state = self._model.run(np.array([self._prompts[prompt]]), None, last_only=True)
                self._ends[prompt] = (state, logits[0, -1].clone())
        return self._ends[prompt][0]

    def _copied_state(self, prompt: int, rows: int) -> Any:
        state = self._state(prompt)
        with inference_mode(self.name, f"{rows} copies of the state of a prompt"):
            return None if state is None else copied_state(state, rows)
