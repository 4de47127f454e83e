"""The logits processor that applies catalog constraints inside vLLM.

The masks themselves are computed in `genrec.vllm_plugin.logits_masks` (on the host, first runner) and
`genrec.vllm_plugin.tensor_constraint` (on the device, second runner).

vLLM finds it by its entry point and makes it once per engine, for either of its model runners: the first (V1) passes
batches on the host, the second (V2, on GPUs from vLLM 0.31) passes slots on the device. A request opts in with flat
keys in `SamplingParams.extra_args` (over HTTP: `vllm_xargs`); requests without them are not changed:

    genrec_catalog  a sub-folder of the folder that the environment variable GENREC_CATALOGS names, written by
                    `CatalogIndex.save`; each process reads it once, so a changed catalog needs a restart
    genrec_form     "list" (the default), "item" or "text"; see `genrec.decoding.constraints`
    genrec_k        the number of items in a list, 10 by default
    genrec_allow    ids of the items that may be generated, by default all
    genrec_deny     ids of items that may not

Catalogs that were built with arguments of the model's chat template (`--chat-template-arg`) are served by an engine
whose additional configuration has the same: `{"genrec_chat_template": {"arguments": {...}, "date": ..., "name": ...}}`.

Requests are validated when they enter, and invalid ones are refused there (HTTP 400). In the engine an error would end
all requests, so a constraint that cannot be applied allows only a stop token: the answer is empty or truncated, and
`genrec.decoding.constraints.ConstraintState.parse_items` refuses it.

Letters: R rows of a batch, V vocabulary size.
"""

import datetime
import logging
import os
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from genrec.errors import GenrecError, InputError
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.prompting.tokenizer_file import TOKENIZER_FILES
from genrec.vllm_plugin.logits_masks import BatchRequests, SlotRequests, is_constrained
from genrec.vllm_plugin.registry import CATALOGS_ENV, CHAT_TEMPLATE_KEY, EXTRA_ARG_KEYS, CatalogRegistry
from genrec.vllm_plugin.request_validation import (
    reject_conflicting_params,
    reject_foreign_arguments,
    reject_insufficient_tokens,
    remove_penalties,
)
from genrec.vllm_plugin.tensor_constraint import check_listed_rows

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotProcessor
except ImportError:  # vLLM before 0.31 runs processors on the first runner only

    class SlotProcessor:  # type: ignore[no-redef]
        """Placeholder for the base class of the second runner's processors."""


_LOGGER = logging.getLogger(__name__)

# Of the part of vLLM that validates requests, which holds them until it ends.
_REGISTRY_ATTRIBUTE, _DEFAULTS_ATTRIBUTE = "genrec_catalog_registry", "genrec_default_params"


class CatalogLogitsProcessor(LogitsProcessor, SlotProcessor):  # type: ignore[misc]
    """Constrains every request that names a catalog; see the module's docstring.

    Args:
        vllm_config: the engine's configuration.
        device_or_states: the device of the logits; the second runner passes its request states, which contain it.
        is_pin_memory: not used.

    Raises:
        GenrecError: at the start of the engine, if a catalog is damaged or was built for another tokenizer (named).
    """

    def __init__(self, vllm_config: VllmConfig, device_or_states: Any, is_pin_memory: bool = False) -> None:
        registry = _open_registry(vllm_config) if os.environ.get(CATALOGS_ENV) else None
        if registry:
            for notice in registry.notices:
                _LOGGER.warning("%s", notice)
            for name in registry.names:
                registry.load(name)
        is_first_runner = isinstance(device_or_states, torch.device)
        self._batch_requests = BatchRequests(registry) if is_first_runner else None
        self._slot_requests = None if is_first_runner else SlotRequests(registry, device_or_states)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose constraint cannot be applied, when it enters.

        Changes parameters of the request: penalties of the engine's defaults, such as those of a model's
        `generation_config.json`, are removed, the end token of the catalog's identifiers becomes a stop token, and a
        bad word that cannot be generated is added, because with asynchronous scheduling vLLM passes processors the
        generated tokens (instead of placeholders) only if a request of the batch has bad words.

        Raises:
            InputError: see `CatalogRegistry.start`; or a parameter conflicts with the constraint.
        """
        if not is_constrained(sampling_params):
            return
        engine = _engine_of_caller()
        config: VllmConfig = engine.vllm_config
        if config.speculative_config is not None:
            raise InputError(
                "genrec_catalog is set, but this engine uses speculative decoding, which ignores logits processors; "
                "start vLLM without a speculative config"
            )
        try:
            state = _registry_of(engine).start(sampling_params.extra_args or {})
            if getattr(config, "use_v2_model_runner", False):
                check_listed_rows(state)
        except InputError:
            raise
        except GenrecError as error:
            raise InputError(str(error)) from error  # vLLM answers any other error as a server error
        end_id = state.grammar.delimiters.end_id
        reject_conflicting_params(sampling_params, state, end_id)
        reject_foreign_arguments(sampling_params, EXTRA_ARG_KEYS, _other_processors(config))
        remove_penalties(sampling_params, _default_params_of(engine))
        reject_insufficient_tokens(sampling_params, state, config.model_config.max_model_len)
        sampling_params.stop_token_ids = sorted({*(sampling_params.stop_token_ids or ()), end_id})
        sampling_params._bad_words_token_ids = [[end_id, end_id]]

    def is_argmax_invariant(self) -> bool:
        """False: the constraint changes greedy choices too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner: apply the batch changes of a step."""
        if self._batch_requests is not None:
            self._batch_requests.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: assign a request to a slot; True if it is constrained."""
        return self._slot_requests is not None and self._slot_requests.add_request(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """Second runner: advance resumed requests over the tokens that they generated before they were paused."""
        if self._slot_requests is not None:
            self._slot_requests.replay_resumed()

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Mask logits float32 [R, V]; the second runner passes a context that maps rows to slots."""
        if self._batch_requests is not None:
            return self._batch_requests.mask(logits)
        return logits if self._slot_requests is None else self._slot_requests.mask(logits, ctx)


def _other_processors(config: VllmConfig) -> list[str]:
    """The names of the engine's custom logits processors besides genrec's."""
    given = [one if isinstance(one, str) else one.__qualname__ for one in config.model_config.logits_processors or ()]
    plugins = [entry.value for entry in entry_points(group="vllm.logits_processors")]
    names = {name.replace(":", ".").rpartition(".")[2] for name in (*given, *plugins)}
    return sorted(names - {CatalogLogitsProcessor.__name__})


def _engine_of_caller() -> Any:
    """The part of vLLM that validates a request, with the attribute `vllm_config`; vLLM passes only the parameters."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if getattr(caller, "vllm_config", None) is not None:
            return caller
        frame = frame.f_back
    raise InputError(
        "genrec_catalog was validated outside of a vLLM engine; "
        "send the request to an engine of vLLM 0.25.1 to 0.32, which genrec's plugin supports"
    )


def _registry_of(engine: Any) -> CatalogRegistry:
    """The catalogs against which an engine's requests are validated.

    vLLM validates through the class, without an instance, so the engine itself holds them; they end with it.
    """
    folder, registry = os.environ.get(CATALOGS_ENV), vars(engine).get(_REGISTRY_ATTRIBUTE)
    if not isinstance(registry, CatalogRegistry) or not folder or registry.folder != Path(folder):
        registry = _open_registry(engine.vllm_config)
        setattr(engine, _REGISTRY_ATTRIBUTE, registry)
    return registry


def _default_params_of(engine: Any) -> dict[str, Any]:
    """The parameters that the engine sets where a request does not, such as those of `generation_config.json`."""
    if _DEFAULTS_ATTRIBUTE not in vars(engine):
        setattr(engine, _DEFAULTS_ATTRIBUTE, engine.vllm_config.model_config.get_diff_sampling_param())
    return dict(vars(engine)[_DEFAULTS_ATTRIBUTE])


def _open_registry(config: VllmConfig) -> CatalogRegistry:
    folder = os.environ.get(CATALOGS_ENV)
    if not folder:
        raise InputError(f"{CATALOGS_ENV} is not set where vLLM runs; set it to the folder of saved catalogs")
    model = config.model_config
    tokenizer = _tokenizer_folder(str(model.tokenizer), model.tokenizer_revision)
    return CatalogRegistry(Path(folder), tokenizer, _chat_template_of(config))


def _chat_template_of(config: VllmConfig) -> ChatTemplateSettings:
    """The chat template settings of the catalogs, from the engine's additional configuration.

    Raises:
        InputError: a key is unknown, or a value is not one of `ChatTemplateSettings`.
    """
    extra = config.additional_config
    given = extra.get(CHAT_TEMPLATE_KEY, {}) if isinstance(extra, dict) else {}
    names = [field.name for field in fields(ChatTemplateSettings)]
    if not isinstance(given, dict) or (unknown := sorted(map(str, given.keys() - set(names)))):
        wrong = f"has the key {unknown[0]!r}" if isinstance(given, dict) else f"is {given!r:.60}"
        raise InputError(f"{CHAT_TEMPLATE_KEY} of the additional config {wrong}; give an object of {', '.join(names)}")
    try:
        dates = {"date": datetime.date.fromisoformat(given["date"])} if "date" in given else {}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"date of {CHAT_TEMPLATE_KEY} is {given['date']!r:.60}; write a date such as 2025-01-01"
        ) from error
    if not isinstance(given.get("arguments", {}), dict):
        raise InputError(f"arguments of {CHAT_TEMPLATE_KEY} is {given['arguments']!r:.60}; give an object")
    return ChatTemplateSettings(**{**given, **dates})


def _tokenizer_folder(model: str, revision: str | None) -> Path:
    """The folder of a model's tokenizer; vLLM has downloaded it from the Hub before it makes processors."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision, allow_patterns=list(TOKENIZER_FILES)))
