"""A model that cannot be opened: the recommender answers without it and says why; where it is needed, one line does.

Every kind of failure takes the same way, so the tests are a table of kinds.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_byte_tokenizer, save_tiny_llama
from transformers import BertConfig, BertLMHeadModel
from typer.testing import CliRunner

from genrec import Catalog, History, Item, Settings, open_recommender
from genrec.cli import app as commands
from genrec.errors import MODEL_ERRORS, explain_model_errors
from genrec.loading import load_backend

CATALOG = Catalog.from_items([Item("a", "Alien"), Item("b", "Blade Runner"), Item("c", "Casablanca")])
SIZES = {"vocab_size": 260, "max_position_embeddings": 4096}
Break = Callable[[Path], "dict[str, Any] | None"]


def _remove(*patterns: str) -> Break:
    def change(folder: Path) -> None:
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink()

    return change


def _write(name: str, content: str | bytes) -> Break:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def _pickle_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _shard_without_its_second_file(folder: Path) -> None:
    save_tiny_llama(folder, folder.parent / "tokenizer", max_shard_size="5KB", **SIZES)
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _configure(**changes: Any) -> Break:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return change


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _cut_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _change_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Break:
    def rewrite(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})

    return rewrite


def _smaller_vocabulary(folder: Path) -> None:
    save_tiny_llama(folder, folder.parent / "tokenizer", vocab_size=200)


def _turn_into_encoder(folder: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**{**SIZES, **sizes}, initializer_range=1.0)).save_pretrained(folder)


def _only_sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def _turn_into_adapter(folder: Path) -> None:
    _remove("*")(folder)
    _write("adapter_config.json", "{}")(folder)


def _adapter_of(base: str, names: Sequence[str] = ("q_proj.lora_A", "q_proj.lora_B"), **config: Any) -> Break:
    def change(folder: Path) -> dict[str, Any]:
        adapter = folder.parent / "tuned"
        adapter.mkdir()
        settings = {"base_model_name_or_path": base, "r": 2, "peft_type": "LORA", "task_type": "CAUSAL_LM", **config}
        (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        shapes = {"lora_A": (2, 16), "lora_B": (16, 2)}
        prefix = "base_model.model.model.layers.0.self_attn"
        weights = {f"{prefix}.{name}.weight": torch.zeros(shapes[name.rpartition(".")[2]]) for name in names}
        save_file(weights, adapter / "adapter_model.safetensors")
        return {"adapter": adapter}

    return change


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
RAISING = "{{ raise_exception('no\nconversation\ntoday') }}"
KINDS: dict[str, tuple[Break, str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "FOLDER' is not a folder, not .*; check the name"),
    "no configuration": (
        _remove("config.json"),
        "FOLDER' contains no model, because it has no config.json; name the folder",
    ),
    "an adapter": (_turn_into_adapter, "FOLDER' is an adapter, not a model; name it as the adapter"),
    "no weights": (_remove("*.safetensors"), "FOLDER' has no weights .*; name the folder"),
    "a pickle": (_pickle_weights, "FOLDER' has its weights in pytorch_model.bin, .* convert it with: python -c"),
    "a missing shard": (_shard_without_its_second_file, "FOLDER' lacks model-00002-of-.*; copy or download"),
    "an index that is none": (_write("model.safetensors.index.json", "[]"), "FOLDER/model.safetensors.index.json"),
    "cut weights": (
        _cut_weights,
        r"FOLDER/model.safetensors is cut: it has [\d,]+ bytes, and [\d,]+ bytes are needed for its tensors; download",
    ),
    "weights that are cut in their header": (
        _cut_header,
        "FOLDER/model.safetensors is cut: it has 100 bytes, and it ends within its header; download or copy",
    ),
    "weights that are none": (
        _write("model.safetensors", b"x" * 100),
        "cannot load the model 'model' from FOLDER: SafetensorError: .*; give a folder",
    ),
    "a weight that is missing": (
        _change_weights(lambda weights: {name: weights[name] for name in weights if "k_proj" not in name}),
        r"model 'model' in FOLDER lack 1 of its 11 weights, the first is model\.layers\.0\.self_attn\.k_proj\.weight; ",
    ),
    "weights of another architecture": (
        _change_weights(lambda weights: {f"encoder.{name}": weight for name, weight in weights.items()}),
        r"model 'model' in FOLDER lack 11 of its 11 weights, the first is model\.embed_tokens\.weight; download",
    ),
    "weights of another size": (
        _configure(intermediate_size=48),
        r"3 of the 11 weights of the model 'model' in FOLDER have another shape than its config\.json says, the first "
        r"is model\.layers\.0\.mlp\.gate_proj\.weight: \[32, 16\], not \[48, 16\]; download or copy",
    ),
    "weights that are NaN": (
        _change_weights(lambda weights: {name: weight * float("nan") for name, weight in weights.items()}),
        "model-.*@.*float.* returned NaN; load it in float32 or check its weights",
    ),
    "a configuration that is no JSON": (_write("config.json", "{"), "cannot read FOLDER/config.json: .*; copy or"),
    "a configuration that is no object": (
        _write("config.json", "[1]"),
        r"FOLDER/config.json is \[1\], not a JSON object; copy or download the model again",
    ),
    "a quantisation that is no object": (
        _configure(quantization_config="int4"),
        "quantization_config in FOLDER/config.json is 'int4', not a JSON object; copy or download",
    ),
    "weights that Git LFS did not fetch": (
        _write("model.safetensors", LFS_POINTER),
        "FOLDER' has only Git LFS pointers instead of model.safetensors; install Git LFS",
    ),
    "a tokenizer that Git LFS did not fetch": (
        _write("tokenizer.json", LFS_POINTER),
        "FOLDER' has only Git LFS pointers instead of tokenizer.json; install Git LFS",
    ),
    "an encoder": (_turn_into_encoder, "model.* is not a causal language model: .*; choose an instruction-tuned LLM"),
    "an encoder with a decoder": (
        _configure(model_type="t5"),
        "'model' in FOLDER has the model_type 't5', which is not a causal language model; choose an instruction-tuned",
    ),
    "an unknown architecture": (_configure(model_type="haiku"), "cannot load the model 'model' from FOLDER: .*haiku"),
    "sizes that cannot be": (
        _configure(hidden_size=-1),
        "cannot load the model 'model' from FOLDER: .*; give a folder",
    ),
    "no tokenizer": (
        _remove("tokenizer.json"),
        "no readable tokenizer in FOLDER: there is no tokenizer.json; fetch the model again",
    ),
    "a tokenizer that is none": (
        _write("tokenizer.json", "{}"),
        "FOLDER: tokenizer.json has no list added_tokens; fetch the model again",
    ),
    "only tokenizer.model": (
        _only_sentencepiece,
        "the tokenizer in FOLDER is tokenizer.model, not tokenizer.json, .*; run: pip install sentencepiece; or save",
    ),
    "another tokenizer": (_smaller_vocabulary, "has 260 tokens, the model FOLDER only 200; load the model's own"),
    "a template that raises": (
        _write("chat_template.jinja", RAISING),
        "FOLDER: the model's chat template rejects the roles user: no conversation today; correct the chat",
    ),
    "an empty template": (
        _write("chat_template.jinja", ""),
        "FOLDER: the model's chat template does not show the messages user once and in order; correct the chat",
    ),
    "a template that loops without end": (
        _write(
            "chat_template.jinja", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
        ),
        "FOLDER: the model's chat template takes more than 100,000 steps .*, perhaps without end; correct the chat",
    ),
    "a template that is none": (_write("chat_template.jinja", "{% for %}"), "FOLDER: .* template is not valid: .*; "),
    "an adapter of another base": (
        _adapter_of("Example/Other"),
        "the adapter 'HOME/tuned' was trained for 'Example/Other', not for the model 'FOLDER'; load that model",
    ),
    "an adapter that lacks weights": (
        _adapter_of("model", ["q_proj.lora_A", "q_proj.lora_B", "v_proj.lora_A"], target_modules=["q_proj", "v_proj"]),
        r"the adapter in .*tuned lacks 1 of 4 LoRA weights, .* the first is .*v_proj\.lora_B\.weight; copy the whole",
    ),
    "an adapter of other layers": (
        _adapter_of("model", ["q_proj.lora_A", "q_proj.lora_B", "o_proj.lora_B"], target_modules=["q_proj"]),
        r"the adapter in .*tuned has 1 weights of layers that its configuration does not name .* "
        r"the first is .*o_proj\.lora_B\.weight; copy the whole",
    ),
    "an adapter of another rank": (
        _adapter_of("model", r=4, target_modules=["q_proj"]),
        r"the adapter in .*tuned lacks 2 of 2 LoRA weights, or has them in other shapes than its configuration says",
    ),
    "an adapter whose names do not match": (
        _adapter_of("model", ["decoder.q_proj.lora_A", "decoder.q_proj.lora_B"], target_modules=["q_proj"]),
        "the adapter 'HOME/tuned' has a LoRA weight .* for model.layers.0.self_attn.decoder.q_proj.weight, whose shape "
        "in 'FOLDER",
    ),
    "an adapter that PEFT does not read": (_adapter_of("model", peft_type="HAIKU"), "cannot open the model .*HAIKU"),
}


@pytest.fixture(scope="session")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be opened, and the folder of its tokenizer beside it."""
    home = tmp_path_factory.mktemp("whole")
    tokenizer = save_byte_tokenizer(home / "tokenizer")
    return save_tiny_llama(home / "model", tokenizer, **SIZES)


@pytest.fixture(params=KINDS)
def broken(request: pytest.FixtureRequest, whole_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings with a model that cannot be opened, and a pattern of the message."""
    shutil.copytree(whole_model.parent, tmp_path / "home")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    change, pattern = KINDS[request.param]
    folder = tmp_path / "home" / "model"
    settings = Settings(model=folder, encoder=None, **(change(folder) or {}))
    return settings, pattern.replace("FOLDER", re.escape(str(folder))).replace("HOME", re.escape(str(folder.parent)))


def test_a_whole_model_is_opened(whole_model: Path, tmp_path: Path) -> None:
    """Otherwise the table below proves nothing: every row would fail for one reason."""
    settings = Settings(model=whole_model, encoder=None)
    recommender = open_recommender(CATALOG, None, cache=tmp_path, settings=settings, need_model=True)
    assert {item.source for item in recommender.recommend(History(("a",)), k=2).items} == {"generative: language model"}


def test_whatever_is_wrong_with_a_model_the_recommender_answers_and_says_it(broken: Any, tmp_path: Path) -> None:
    """A shop must not be empty because a file of the model is; and silence would hide the worse lists."""
    settings, pattern = broken
    recommender = open_recommender(CATALOG, None, cache=tmp_path / "cache", settings=settings)
    assert len(recommender.recommend(History(("a",)), k=2).items) == 2
    (notice,) = (notice for notice in recommender.notices if notice.code == "no_language_model")
    assert re.search(pattern, str(notice.fields["reason"]))


def test_whatever_is_wrong_with_a_model_that_is_needed_one_line_says_it_before_slow_work(
    broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of another stage is no answer of the model that was named, and hours of counting come after."""
    settings, pattern = broken
    for name in ("embed_texts", "open_index", "load_collaborative_model"):
        monkeypatch.setattr(f"genrec.loading.pipeline.{name}", lambda *_, **__: pytest.fail("slow work"))
    with pytest.raises(MODEL_ERRORS, match=pattern) as raised:
        open_recommender(CATALOG, None, cache=tmp_path / "cache", settings=settings, need_model=True)
    assert len(str(raised.value).splitlines()) == 1
    assert "; " in str(raised.value)  # the remedy


def test_whatever_is_wrong_with_a_model_that_a_command_names_one_line_says_it(broken: Any, tmp_path: Path) -> None:
    """Lists of another stage under the name of the model would be published as its own."""
    settings, pattern = broken
    (tmp_path / "items.csv").write_text("item_id,title\na,Alien\nb,Blade Runner\n", encoding="utf-8")
    adapter = () if settings.adapter is None else ("--adapter", str(settings.adapter))
    items = ("--items", str(tmp_path / "items.csv"))
    arguments = ("recommend", "--history", "a", *items, "--encoder", "none", "--model", str(settings.model), *adapter)
    done = CliRunner().invoke(commands.app, [*arguments], env={"GENREC_CACHE": str(tmp_path / "cache")})
    assert (done.exit_code in (2, 4, 5), done.stdout) == (True, ""), done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert re.search(pattern, line), line


def test_a_model_in_shards_is_opened(whole_model: Path, tmp_path: Path) -> None:
    """Every model above a few gigabytes comes in shards; they must give the weights of one file."""
    sharded = save_tiny_llama(tmp_path / "sharded", whole_model, max_shard_size="5KB", **SIZES)
    assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 2
    one, other = (load_backend(folder, tmp_path)[0].model.state_dict() for folder in (sharded, whole_model))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_command_that_converts_a_pickle_does_so(whole_model: Path, tmp_path: Path) -> None:
    """A remedy that does not work is worse than none; the folder has what a shell would read in its name."""
    folder = tmp_path / "it's $HOME"
    shutil.copytree(whole_model, folder)
    _pickle_weights(folder)
    with pytest.raises(MODEL_ERRORS) as raised:
        load_backend(folder, tmp_path)
    command = str(raised.value).partition("convert it with: ")[2]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment, capture_output=True)
    converted, expected = (load_backend(path, tmp_path)[0].model.state_dict() for path in (folder, whole_model))
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_an_exception_that_nobody_foresaw_is_one_of_a_model() -> None:
    """Libraries add exceptions in every release, and the way must be the same for them."""
    for error in (RuntimeError("CUDA error:\nout of memory"), KeyError("x"), AssertionError()):
        with pytest.raises(MODEL_ERRORS, match=r"'m': \w+.*; run genrec doctor") as raised, explain_model_errors("m"):
            raise error
        assert len(str(raised.value).splitlines()) == 1
