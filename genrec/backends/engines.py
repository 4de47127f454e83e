"""Engines: what runs a language model, and how each one is opened for a folder of weights and an adapter."""

import atexit
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from genrec.backends.api_connection import API_KEY_VARIABLE, check_server_url
from genrec.backends.base import Backend
from genrec.backends.provenance import Provenance
from genrec.errors import InputError, format_value

Engine = Literal["transformers", "vllm", "server"]
ENGINES: tuple[str, ...] = get_args(Engine)
DEFAULT_ENGINE: Engine = "transformers"


@dataclass(frozen=True)
class ModelSource:
    """The language model that an engine runs.

    Attributes:
        folder: its weights, tokenizer and configuration; a server needs the last two only.
        name: how results and caches name the weights.
        served_name: the name under which a server serves the model.
        adapter: the folder of a LoRA adapter; a server serves it under the folder's name.
        trust_remote_code: run Python code of the model.
        dtype: the number type, see `Placement`; a server has its own.
    """

    folder: Path
    name: str
    served_name: str
    adapter: Path | None = None
    trust_remote_code: bool = False
    dtype: str | None = None


def check_engine(engine: str, server_url: str | None) -> None:
    """Check the name of an engine, and that a URL is given if it is a server, and only then.

    Raises:
        InputError: the engine does not exist, or the URL is missing, not valid, or of no use.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is {format_value(engine)}; choose one of {', '.join(ENGINES)}")
    if engine != "server" and server_url is not None:
        raise InputError(f"server_url is set, but engine is {engine!r}; set engine to server, or omit server_url")
    if engine == "server":
        if server_url is None:
            raise InputError(
                "engine is 'server', but server_url is not set; set it to a URL such as http://127.0.0.1:8000"
            )
        check_server_url(server_url, "server_url")


def open_vllm(source: ModelSource) -> tuple[Backend, Backend | None]:
    """Start vLLM in a process of its own; it ends with this process.

    Returns:
        The model with its adapter, and the model without it; None without an adapter.

    Raises:
        InputError: the adapter is merged into the weights, so that the model without it cannot be run.
        ModelMissingError: vLLM is not installed, or a file of the model is missing.
        MismatchError: the adapter was trained for another model.
        EngineError: vLLM did not start.
    """
    _check_not_merged(source, "vllm")
    from genrec.backends.vllm_engine import VllmEngineBackend

    base = VllmEngineBackend(
        source.folder,
        max_adapters=0 if source.adapter is None else 1,
        name=source.name,
        llm_kwargs={
            "trust_remote_code": source.trust_remote_code,
            **({} if source.dtype is None else {"dtype": source.dtype}),
        },
    )
    atexit.register(base.close)
    if source.adapter is None:
        return base, None
    return base.with_adapter(source.adapter), base


def open_server(source: ModelSource, url: str, *, vocab_size: int) -> tuple[Backend, Backend | None]:
    """Open the model on a vLLM server at a base URL; `vocab_size` is the number of token ids of its tokenizer.

    Returns:
        The model with its adapter, and the model without it; None without an adapter.

    Raises:
        InputError: the adapter is merged into the weights, so that the model without it is not known to the server.
        ModelMissingError: httpx is not installed, or a file of the adapter is missing.
        MismatchError: the adapter was trained for another model.
        EngineError: the server cannot be reached, or does not serve this model.
    """
    _check_not_merged(source, "server")
    from genrec.backends.vllm_server import VllmServerBackend

    def open_model(served_name: str, name: str) -> VllmServerBackend:
        backend = VllmServerBackend(
            url,
            model=served_name,
            vocab_size=vocab_size,
            api_key=os.environ.get(API_KEY_VARIABLE) or None,
            name=f"{name}@{urlsplit(url).netloc.rpartition('@')[2]}",
        )
        atexit.register(backend.close)
        return backend

    # The server tells nothing of its weights, so caches name the server too.
    base = open_model(source.served_name, f"{source.name}-{source.served_name}")
    if source.adapter is None:
        return base, None
    from genrec.backends.adapter import inspect_adapter

    inspected = inspect_adapter(source.adapter, base=source.folder)
    tuned = open_model(source.adapter.name, f"{source.name}-{source.served_name}+{inspected.name}")
    tuned.provenance = inspected.provenance
    return tuned, base


def _check_not_merged(source: ModelSource, engine: str) -> None:
    if Provenance.find(source.folder) is not None:
        raise InputError(
            f"{source.folder} has a merged adapter, which the engine {engine!r} does not support; pass the original "
            "model with --model, and the adapter with --adapter"
        )
