"""Laws of the catalog constraint inside vLLM's engine, with the first model runner (V1) on the CPU."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here; its CPU build runs these laws")

from shop import ITEMS
from vllm import LLM
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch
from vllm_requests import REFUSAL, params, written

from eval.soak import ListParser, random_constraints, soak
from genrec import Catalog, CatalogIndex, TitleIdentifiers
from genrec.backends.transformers import TransformersBackend
from genrec.decoding.constraints import CatalogGrammar, advance
from genrec.errors import ArtifactError, InputError, TokenizerMismatchError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer
from genrec.types import Message, Role, Span
from genrec.vllm_plugin.processor import CatalogLogitsProcessor
from genrec.vllm_plugin.registry import CHAT_TEMPLATE_KEY

QUESTION = "I bought a red lamp and a tea towel. Name products I may like, one a line."

pytestmark = [pytest.mark.model, pytest.mark.vllm]


def test_lists_are_valid_whole_and_without_repeats(
    engine: LLM, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """Every list has k distinct, allowed items: with and without filters, at any temperature."""
    before = preemptions(engine)
    counts = soak(engine, index, tokenizer, catalog="retail", count=64)
    assert counts["lists"] == 64
    assert not [counts[fault] for fault in ("invalid", "repeated", "short") if counts[fault]]
    assert preemptions(engine) > before, "preempted requests must be covered too"


def preemptions(engine: LLM) -> int:
    return sum(int(metric.value) for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions")


def test_requests_without_a_catalog_are_not_changed(
    engine: LLM, index: CatalogIndex, grammar: CatalogGrammar, prompt: dict[str, list[int]]
) -> None:
    """Other requests of the same engine must not be affected by constrained ones."""
    plain = params(max_tokens=24)
    (alone,) = written(engine, [prompt], [plain])
    random = np.random.default_rng(3)
    constraints = [random_constraints(index, random, catalog="retail") for _ in range(6)]
    settings = [one for constraint in constraints for one in (params(**constraint, temperature=2.0), plain)]
    answers = written(engine, [prompt] * len(settings), settings)
    assert all(answer == alone for answer in answers[1::2])
    parser = ListParser(index, grammar.delimiters)
    for constraint, answer in zip(constraints, answers[::2], strict=True):
        assert not parser.faults(answer, constraint)


def test_the_list_parser_finds_faults(index: CatalogIndex, grammar: CatalogGrammar) -> None:
    """The parser that counts faults must find them, without using the constraint that it checks."""
    parser, (one, two, three) = (
        ListParser(index, grammar.delimiters),
        (index.trie.tokens_of_row(row).tolist() for row in (0, 1, 2)),
    )
    end, line = grammar.delimiters.end_id, grammar.delimiters.separator_id
    constraint = {"genrec_catalog": "retail", "genrec_k": 2}
    right = [*one[:-1], line, *two]
    item = index.catalog.item_ids[int(index.trie.items[0])]
    assert parser.faults(right, constraint) == []
    assert parser.faults(right, {**constraint, "genrec_deny": [item]}) == ["invalid"]
    assert parser.faults(right, {**constraint, "genrec_allow": [item]}) == ["invalid"]
    assert parser.faults([*one[:-1], line, *one], constraint) == ["repeated"]
    assert parser.faults(one, constraint) == ["short"]
    assert parser.faults([*one[:-1], line, *two[:-1]], constraint) == ["invalid"]
    assert parser.faults([*right, end], constraint) == ["invalid"]
    assert parser.faults([*three[:-1], *one], {**constraint, "genrec_k": 1}) == ["invalid"]


def test_a_greedy_item_is_the_greedy_walk_over_the_trie(
    engine: LLM, grammar: CatalogGrammar, prompt: dict[str, list[int]], smollm2_float32: TransformersBackend
) -> None:
    """The constraint removes tokens; it must not change the logits of the others."""
    state, tree, node = grammar.start("item"), smollm2_float32.open([np.array(prompt["prompt_token_ids"])]), 0
    walked: list[int] = []
    while not state.is_complete:
        log_probs = tree.log_probs(np.array([node]), state.next_tokens, np.array([0, len(state.next_tokens)]))
        walked.append(int(state.next_tokens[log_probs.argmax()]))
        (state,) = advance([state], walked[-1:])
        node = int(tree.grow(np.array([node]), np.array(walked[-1:]))[0])
    (answer,) = written(engine, [prompt], [params(genrec_catalog="retail", genrec_form="item")])
    assert answer == walked


def test_every_item_link_in_free_text_is_an_item(
    engine: LLM, index: CatalogIndex, grammar: CatalogGrammar, tokenizer: HuggingFaceTokenizer
) -> None:
    """In free text, every text in brackets must still be the title of an item."""
    shown = "[RED LAMP]\n[TEA TOWEL]\n"  # so that the greedy answer contains item links as well
    turns: list[tuple[Role, str]] = [
        ("user", f"{QUESTION} Write each as [product]."),
        ("assistant", shown),
        ("user", "Name more."),
    ]
    token_ids = tokenizer.encode_prompt([Message(role, (Span(text, False),)) for role, text in turns])
    prompts = [{"prompt_token_ids": token_ids.tolist()}] * 12
    temperatures = [0.0, *[2.0] * 11]
    settings = [
        params(genrec_catalog="retail", genrec_form="text", temperature=temperature, max_tokens=120)
        for temperature in temperatures
    ]
    state, end, num_links = grammar.start("text"), tokenizer.eos_token_id, 0
    for whole in written(engine, prompts, settings):
        answer = [token for token in whole if token != end]
        for size in range(len(answer), -1, -1):  # a truncated answer is parsed up to its last complete link
            try:
                items = state.parse_items([*answer[:size], end])
            except InputError:
                continue
            break
        assert len(answer) - size < 60
        num_links += len(items)
        text = tokenizer.decode(answer[:size])
        for row in index.trie.rows_of_items[items]:
            assert f"[{tokenizer.decode(index.trie.tokens_of_row(int(row))[:-1])}]" in text
    assert num_links


def test_one_request_may_have_several_answers(
    engine: LLM, grammar: CatalogGrammar, prompt: dict[str, list[int]]
) -> None:
    """vLLM copies a request for each answer; a copy without its constraint would be unconstrained."""
    settings = params(genrec_catalog="retail", genrec_k=3, temperature=2.0, n=4)
    (answer,) = engine.generate([prompt], [settings], use_tqdm=False)
    lists = [grammar.start("list", k=3).parse_items(one.token_ids).tolist() for one in answer.outputs]
    assert len(lists) == 4
    assert all(len(set(items)) == 3 for items in lists)
    assert all(one.finish_reason == "stop" for one in answer.outputs)


@pytest.fixture
def processor(engine: LLM) -> CatalogLogitsProcessor:
    return CatalogLogitsProcessor(engine.llm_engine.vllm_config, torch.device("cpu"), False)


def update(**changes: Any) -> BatchUpdate:
    return BatchUpdate(batch_size=8, **{"removed": [], "added": [], "moved": [], **changes})


def allowed_by(processor: CatalogLogitsProcessor, rows: int) -> list[list[int]]:
    masked = processor.apply(torch.zeros(rows, 49152))
    return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in masked]


def test_a_request_keeps_its_constraint_when_it_moves(
    processor: CatalogLogitsProcessor, grammar: CatalogGrammar, index: CatalogIndex
) -> None:
    """An engine moves, swaps, pauses and removes requests; each must keep its own constraint."""
    everything = list(range(49152))
    text = index.trie.tokens_of_row(7).tolist()
    first, second = params(genrec_catalog="retail", genrec_form="item"), params(genrec_catalog="retail", genrec_k=2)
    token_ids: list[int] = []
    roots = grammar.start("item").next_tokens.tolist()
    processor.update_state(
        update(added=[(0, first, [1], token_ids), (1, params(), [1], []), (2, second, [1], text[:3])])
    )
    resumed = grammar.start("list", k=2)
    for token in text[:3]:
        (resumed,) = advance([resumed], [token])
    assert allowed_by(processor, 3) == [roots, everything, sorted(resumed.next_tokens.tolist())]
    processor.update_state(update(moved=[(0, 1, MoveDirectionality.SWAP)]))
    assert allowed_by(processor, 3) == [everything, roots, sorted(resumed.next_tokens.tolist())]
    token_ids.append(text[0])
    (after,) = advance([grammar.start("item")], text[:1])
    processor.update_state(update(removed=[2], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert allowed_by(processor, 2) == [sorted(after.next_tokens.tolist()), everything]
    token_ids.clear()
    assert allowed_by(processor, 1) == [roots]
    processor.update_state(update(added=[(0, params(), [1], [])]))
    assert allowed_by(processor, 1) == [everything]


def test_a_placeholder_token_ends_the_answer(
    processor: CatalogLogitsProcessor, tokenizer: HuggingFaceTokenizer
) -> None:
    """With placeholders instead of tokens the state is unknown, so only the end token may follow."""
    for form in ("item", "list", "text"):
        processor.update_state(update(added=[(0, params(genrec_catalog="retail", genrec_form=form), [1], [-1])]))
        assert allowed_by(processor, 1) == [[tokenizer.eos_token_id]]


def test_a_constraint_that_fails_in_the_engine_allows_only_a_stop_token(
    processor: CatalogLogitsProcessor, tokenizer: HuggingFaceTokenizer
) -> None:
    """A request that was not validated must not be unconstrained, and must not end the engine."""
    wrong = params(genrec_catalog="nowhere", stop_token_ids=[tokenizer.eos_token_id])
    processor.update_state(update(added=[(0, wrong, [1], [5])]))
    assert allowed_by(processor, 1) == [[tokenizer.eos_token_id]]


def test_vllm_fills_in_generated_tokens_with_asynchronous_scheduling(
    engine: LLM, index: CatalogIndex, prompt: dict[str, list[int]]
) -> None:
    """On GPUs vLLM schedules one step ahead and passes placeholders, unless a request of the batch has bad words."""
    checked = params(genrec_catalog="retail", genrec_form="item")
    for settings, repaired in ((checked, [7]), (params(), [-1])):
        engine.llm_engine.input_processor._validate_params(settings, ("generate",))
        older = "kernel_block_sizes" in inspect.signature(InputBatch).parameters
        batch = InputBatch(
            max_num_reqs=4, max_model_len=64, max_num_batched_tokens=64, device=torch.device("cpu"), vocab_size=49152,
            block_sizes=[16], max_num_blocks_per_req=[4], **({"kernel_block_sizes": [16]} if older else {}),
        )  # fmt: skip
        request = CachedRequestState("a", [1, 2], [], settings, None, [[0]], 0, [])
        batch.add_request(request)
        batch.refresh_metadata()
        batch.set_async_sampled_token_ids(torch.tensor([[7]]), SimpleNamespace(synchronize=lambda: None))
        batch.prev_req_id_to_index = {"a": 0}
        request.output_token_ids.append(-1)
        batch.update_async_output_token_ids()
        assert request.output_token_ids == repaired


def test_an_invalid_catalog_stops_the_start(
    engine: LLM, catalogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token ids of another tokenizer every list would silently be wrong."""
    config = engine.llm_engine.vllm_config
    CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), ByteTokenizer()).save(tmp_path / "a" / "bytes")
    monkeypatch.setenv("GENREC_CATALOGS", str(tmp_path / "a"))
    with pytest.raises(TokenizerMismatchError, match="bytes' was built for tokenizer"):
        CatalogLogitsProcessor(config, torch.device("cpu"), False)
    damaged = tmp_path / "b" / "shop"
    damaged.mkdir(parents=True)
    for file in (catalogs / "shop").iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "trie.safetensors").write_bytes(b"x")
    monkeypatch.setenv("GENREC_CATALOGS", str(tmp_path / "b"))
    with pytest.raises(ArtifactError, match=r"trie\.safetensors was altered"):
        CatalogLogitsProcessor(config, torch.device("cpu"), False)
    monkeypatch.setenv("GENREC_CATALOGS", str(tmp_path / "c"))
    with pytest.raises(InputError, match="which is not a folder"):
        CatalogLogitsProcessor(config, torch.device("cpu"), False)


def test_a_chat_template_gets_the_arguments_of_the_additional_config(
    engine: LLM, grammar: CatalogGrammar, prompt: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them vLLM does not start with a model whose template needs one, or answers end with other tokens."""
    config = engine.llm_engine.vllm_config
    assert config.additional_config == {CHAT_TEMPLATE_KEY: {"arguments": {"style": "short"}}}
    (answer,) = written(engine, [prompt], [params(genrec_catalog="retail", genrec_k=2)])
    assert len(set(grammar.start("list", k=2).parse_items(answer).tolist())) == 2
    for extra, message in (({}, "set style"), ({CHAT_TEMPLATE_KEY: {"arguments": {"tone": 1}}}, "set style")):
        monkeypatch.setattr(config, "additional_config", extra)
        with pytest.raises(ArtifactError, match=message):
            CatalogLogitsProcessor(config, torch.device("cpu"), False)


def test_without_catalogs_the_plugin_changes_nothing(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed plugin without catalogs must not affect vLLM."""
    monkeypatch.delenv("GENREC_CATALOGS")
    processor = CatalogLogitsProcessor(engine.llm_engine.vllm_config, torch.device("cpu"), False)
    processor.update_state(update(added=[(0, params(), [1], [])]))
    assert allowed_by(processor, 1) == [list(range(49152))]
    with pytest.raises(REFUSAL, match="GENREC_CATALOGS is not set"):
        engine.generate(["a"], [params(genrec_catalog="retail")], use_tqdm=False)


def test_first_model_runner_loads_the_plugin() -> None:
    """A plugin that a runner refuses stops every engine, with or without constrained requests."""
    from vllm.v1.sample.logits_processor import _load_logitsprocs_plugins

    assert CatalogLogitsProcessor in _load_logitsprocs_plugins()
