"""Number type, device and device map: checked before slow work, applied, and recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from tiny_models import save_byte_tokenizer, save_tiny_llama

from genrec import Catalog, History, Item, Settings, open_recommender
from genrec.backends.base import Backend
from genrec.backends.placement import Placement
from genrec.backends.transformers import TransformersBackend
from genrec.errors import EngineError, InputError
from genrec.loading import load_backend

CATALOG = Catalog.from_items([Item("a", "Alien"), Item("b", "Blade Runner"), Item("c", "Casablanca")])
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "int8"}, "dtype is 'int8'; choose one of bfloat16, float16, float32"),
    ({"device": "CUDA 1"}, "device is 'CUDA 1'; name a torch device such as cpu, cuda or cuda:1"),
    ({"device_map": "spread"}, "device_map is 'spread'; choose one of auto, balanced, balanced_low_0, sequential"),
    ({"device": "cpu", "device_map": "auto"}, "device is 'cpu' and device_map is 'auto'; omit one of them"),
    ({"engine": "vllm", "device": "cpu"}, "device is 'cpu', and engine 'vllm' decides it; set CUDA_VISIBLE_DEVICES"),
    (
        {"engine": "server", "server_url": "http://127.0.0.1:9", "dtype": "float32"},
        "dtype is 'float32', and engine 'server' decides it; omit it",
    ),
    ({"device_map": "auto", "adapter": "online-retail"}, "the adapter 'online-retail' is merged into weights on one"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers."""
    home = tmp_path_factory.mktemp("placement")
    tokenizer = save_byte_tokenizer(home / "tokenizer")
    return save_tiny_llama(home / "model", tokenizer, vocab_size=260, num_hidden_layers=2, max_position_embeddings=4096)


def log_probs(backend: Backend) -> Any:
    """Log-probabilities of a few tokens behind a prompt."""
    tree = backend.open([np.arange(1, 20)])
    nodes = tree.grow(np.zeros(3, dtype=np.int64), np.array([5, 6, 7]))
    return tree.log_probs(nodes, np.tile(np.arange(100), 3), np.arange(4) * 100)


@pytest.mark.parametrize(("options", "message"), INVALID, ids=lambda value: str(value)[:50])
def test_values_are_checked_when_they_are_set(options: dict[str, Any], message: str) -> None:
    """Otherwise a typing error is told after the weights have been read, or never."""
    with pytest.raises(InputError) as raised:
        Settings(**options)
    assert message in str(raised.value)
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = run("recommend", "15049", *flags)
    assert (result.exit_code, result.out) == (2, "")
    assert message in " ".join(result.err.split())


def test_a_device_that_is_not_there_is_named_with_those_that_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recommender answers without the model; a command that asks for the device fails before it reads the data."""
    settings = Settings(model=model, encoder=None, device="cuda:99")
    said = r"device 'cuda:99' is not on this machine; use one of cpu"
    recommender = open_recommender(CATALOG, None, cache=tmp_path, settings=settings)
    assert len(recommender.recommend(History(("a",)), k=2).items) == 2
    assert any(said in str(notice) for notice in recommender.notices)
    with pytest.raises(EngineError, match=said) as raised:
        open_recommender(CATALOG, None, cache=tmp_path, settings=settings, need_model=True)
    assert raised.value.code == "device_missing"
    monkeypatch.setattr("genrec.cli.data_source.DataSource.read", lambda *_: pytest.fail("slow work"))
    result = run("recommend", "15049", "--device", "cuda:99", "--model", model)
    assert (result.exit_code, said in result.err) == (5, True), result.err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_number_type_is_that_of_the_weights_and_in_the_name(model: Path, tmp_path: Path, dtype: str) -> None:
    """Priors are cached under the name: those of another number type differ by more than rounding."""
    backend, _ = load_backend(model, tmp_path, placement=Placement(dtype=dtype, device="cpu"))
    assert {weight.dtype for weight in backend.model.parameters()} == {getattr(torch, dtype)}
    assert backend.name.endswith(f"@{dtype}")
    assert str(backend.device) == "cpu"


@pytest.mark.parametrize(
    "device_map",
    ["auto", {"": "cpu"}, {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}],
    ids=str,
)
def test_a_distributed_model_gives_the_same_log_probabilities(model: Path, device_map: Any) -> None:
    """Modules that Accelerate moves get their inputs moved, too; a mask that stays behind would hide tokens."""
    moves = isinstance(device_map, dict) and len(device_map) > 1
    if moves:
        device_map = {**device_map, "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    whole = TransformersBackend(model, device="cpu", dtype=torch.float32)
    spread = TransformersBackend(model, device_map=device_map, dtype=torch.float32)
    assert hasattr(spread.model, "hf_device_map") or not moves
    np.testing.assert_allclose(log_probs(spread), log_probs(whole), atol=1e-5)


def test_the_first_layer_stays_on_a_device(model: Path) -> None:
    """Tokens are sent there."""
    with pytest.raises(EngineError, match=r"moves the first layer of '.*model' off the device; keep the embedding"):
        TransformersBackend(model, device_map={"": "disk"}, dtype=torch.float32)


def test_a_batch_run_records_them(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed with another number type has two kinds of scores in one table."""
    monkeypatch.chdir(tmp_path)
    Path("items.csv").write_text("item_id,title\na,Alien\nb,Blade Runner\nc,Casablanca\n", encoding="utf-8")
    Path("users.jsonl").write_text(json.dumps({"history": ["a"]}) + "\n", encoding="utf-8")
    arguments = ("batch", "run", "users.jsonl", "out", "--items", "items.csv", "--model", model, "--encoder", "none")
    placed = ("--dtype", "float32", "--device", "cpu", "--prior", "0", "-k", "2", "--offline")
    result = run(*arguments, *placed)
    assert result.exit_code == 0, result.err
    manifest = Path("out", "manifest.json").read_text(encoding="utf-8")
    assert all(part in manifest for part in ('"dtype": "float32"', '"device": "cpu"', "torch.float32 on cpu"))
    changed = run(*arguments, *placed[2:], "--dtype", "bfloat16")
    assert (changed.exit_code, "dtype" in changed.err) == (4, True), changed.err
