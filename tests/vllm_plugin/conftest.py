"""The vLLM engine of the tests of the plugin, and the catalogs that it serves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shop import ITEMS

from genrec import Catalog, CatalogIndex, TitleIdentifiers, open_dataset
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Message, Span
from genrec.vllm_plugin.registry import CHAT_TEMPLATE_KEY

if TYPE_CHECKING:
    from vllm import LLM

QUESTION = "I bought a red lamp and a tea towel. Name products I may like, one a line."


@pytest.fixture(scope="session")
def index(tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> CatalogIndex:
    catalog, _ = open_dataset("online-retail", tmp_path_factory.mktemp("cache"))
    return CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)


@pytest.fixture(scope="session")
def catalogs(index: CatalogIndex, tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogs")
    index.save(folder / "retail")
    CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), tokenizer).save(folder / "shop")
    (folder / "notes.txt").write_text("not a catalog")
    return folder


@pytest.fixture(scope="session")
def model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with a chat template that fails without an argument."""
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    folder.mkdir()
    for file in smollm2.iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer = json.loads((smollm2 / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = smollm2 / "chat_template.jinja"
    template = own.read_text(encoding="utf-8") if own.is_file() else tokenizer["chat_template"]
    needs_style = "{% if style is not defined %}{{ raise_exception('set style') }}{% endif %}"
    (folder / own.name).unlink(missing_ok=True)
    (folder / own.name).write_text(needs_style + template, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")  # other engines must not find its catalogs in the environment
def engine(model: Path, catalogs: Path) -> "Iterator[LLM]":
    """An engine with so little memory that requests are preempted; it finds the plugin by its entry point."""
    from vllm import LLM

    patch = pytest.MonkeyPatch()
    patch.setenv("GENREC_CATALOGS", str(catalogs))
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    yield LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=32,
        block_size=32,
        num_gpu_blocks_override=48,
        disable_log_stats=False,
        additional_config={CHAT_TEMPLATE_KEY: {"arguments": {"style": "short"}}},
    )
    patch.undo()


@pytest.fixture(scope="session")
def grammar(index: CatalogIndex, tokenizer: HuggingFaceTokenizer) -> CatalogGrammar:
    return CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))


@pytest.fixture
def prompt(tokenizer: HuggingFaceTokenizer) -> dict[str, list[int]]:
    return {"prompt_token_ids": tokenizer.encode_prompt([Message("user", (Span(QUESTION, False),))]).tolist()}
