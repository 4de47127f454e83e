"""One vLLM engine for all tests of the plugin, and the catalogs that it serves."""

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
def engine(smollm2: Path, catalogs: Path) -> "Iterator[LLM]":
    """One engine with so little memory that requests are preempted; it finds the plugin by its entry point."""
    from vllm import LLM

    patch = pytest.MonkeyPatch()
    patch.setenv("GENREC_CATALOGS", str(catalogs))
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    yield LLM(
        str(smollm2),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=32,
        block_size=32,
        num_gpu_blocks_override=48,
        disable_log_stats=False,
    )
    patch.undo()


@pytest.fixture(scope="session")
def grammar(index: CatalogIndex, tokenizer: HuggingFaceTokenizer) -> CatalogGrammar:
    return CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))


@pytest.fixture
def prompt(tokenizer: HuggingFaceTokenizer) -> dict[str, list[int]]:
    return {"prompt_token_ids": tokenizer.encode_prompt([Message("user", (Span(QUESTION, False),))]).tolist()}
