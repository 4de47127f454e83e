"""Real models for every test that wants one; the first run fetches them."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import postgres
import pytest
from hypothesis import settings

from genrec.backends.base import Backend
from genrec.datasets.models import cache_directory, get_model
from genrec.prompting.tokenizer import HuggingFaceTokenizer

# Two threads that spin for each other on busy cores are many times slower than two that sleep; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Timings never decide a test: two cores may be busy with something else.
settings.register_profile("genrec", deadline=None)
settings.load_profile("genrec")


# The environment that has vLLM has no trainer, and older ones lack the server: they ask for none of their tests.
NEEDS = {
    "cli/test_serve.py": ("fastapi", "sqlalchemy"),
    "test_recorded.py": ("fastapi", "sqlalchemy"),
    "store/test_database.py": ("sqlalchemy",),
    "finetune/test_architectures.py": ("peft", "datasets"),
    "finetune/test_chat_template.py": ("peft", "datasets"),
    "finetune/test_recipes.py": ("peft", "datasets"),
    "serve/test_page.py": ("fastapi", "playwright", "sqlalchemy"),
    "serve/test_app.py": ("fastapi", "sqlalchemy"),
    "serve/test_auth.py": ("fastapi", "sqlalchemy"),
    "serve/test_chat.py": ("fastapi", "openai", "sqlalchemy"),
    "serve/test_overload.py": ("fastapi", "sqlalchemy"),
    "serve/test_vllm_outage.py": ("fastapi", "sqlalchemy"),
    "serve/test_raw_requests.py": ("fastapi", "sqlalchemy"),
    "serve/test_hostile_bodies.py": ("fastapi", "sqlalchemy"),
    "serve/test_openapi.py": ("fastapi", "schemathesis", "sqlalchemy"),
    "serve/test_streaming.py": ("fastapi", "sqlalchemy"),
    "serve/test_service.py": ("fastapi", "sqlalchemy"),
    "store/test_events.py": ("sqlalchemy",),
    "store/test_forget.py": ("sqlalchemy",),
    "store/test_hostile_events.py": ("sqlalchemy",),
    "store/test_revisions.py": ("sqlalchemy",),
    "store/test_durability.py": ("sqlalchemy",),
}
collect_ignore = [name for name, packages in NEEDS.items() if not all(map(find_spec, packages))]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make test-models` runs, unless an option names it."""
    if re.search(r"\bmodels\b", config.option.markexpr or "") or any("::" in name for name in config.args):
        return
    chosen = [item for item in items if item.get_closest_marker("models") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session")
def cache() -> Path:
    """The folder that models and data sets are kept in, the user's own."""
    return cache_directory(os.environ)


@pytest.fixture(scope="session")
def smollm2(cache: Path) -> Path:
    """A checkpoint of SmolLM2-135M-Instruct."""
    return get_model("SmolLM2-135M-Instruct", cache)


@pytest.fixture(scope="session")
def minilm(cache: Path) -> Path:
    """A checkpoint of all-MiniLM-L6-v2."""
    return get_model("all-MiniLM-L6-v2", cache)


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> HuggingFaceTokenizer:
    """The tokenizer of SmolLM2-135M-Instruct."""
    return HuggingFaceTokenizer.from_directory(smollm2)


@pytest.fixture(scope="session")
def smollm2_float64(smollm2: Path) -> Backend:
    """SmolLM2-135M-Instruct in float64, where what is not rounding shows."""
    import torch

    from genrec.backends.transformers import TransformersBackend

    return TransformersBackend(smollm2, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="session")
def smollm2_float32(smollm2: Path) -> Backend:
    """SmolLM2-135M-Instruct in float32: slower than bfloat16, and exact enough to compare with."""
    import torch

    from genrec.backends.transformers import TransformersBackend

    return TransformersBackend(smollm2, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def mortal_engine(smollm2: Path) -> Iterator[Backend]:
    """A vLLM engine that tests stop and kill; each of them leaves it running, or restarting."""
    from backend_support import ENGINE_TIMEOUT

    from genrec.backends.vllm_engine import VllmEngineBackend

    engine = VllmEngineBackend(smollm2, context_length=1024, kv_cache_memory_bytes=1 << 28, timeout=ENGINE_TIMEOUT)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A temporary PostgreSQL server."""
    with postgres.running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: postgres.PostgresServer) -> str:
    """The URL of an empty PostgreSQL schema."""
    return postgres_server.new_schema()
