"""Laws of the constraint inside vLLM's own engine, on the CPU."""

import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here; its CPU build runs these laws")

from shop import ITEMS
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from eval.soak import ListParser, random_constraints, soak
from genrec import Catalog, CatalogIndex, TitleIdentifiers, open_dataset
from genrec.backends.transformers import TransformersBackend
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar, advance
from genrec.decoding.delimiters import DelimiterTokens
from genrec.errors import ArtifactError, InputError, TokenizerMismatchError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer
from genrec.types import Message, Role, Span
from genrec.vllm_plugin.processor import CatalogLogitsProcessor

HAS_SECOND = find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
needs_second = pytest.mark.skipif(not HAS_SECOND, reason="before 0.31 vLLM runs processors on the first runner only")

pytestmark = [pytest.mark.model, pytest.mark.vllm]

# Before 0.27 vLLM passes a processor's own ValueError on; a server answers 400 for either.
REFUSAL = InputError if issubclass(VLLMValidationError, ValueError) else VLLMValidationError

ASKED = "I bought a red lamp and a tea towel. Name products I may like, one a line."


@pytest.fixture(scope="session")
def index(tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> CatalogIndex:
    catalog, _ = open_dataset("online-retail", tmp_path_factory.mktemp("cache"))
    return CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)


@pytest.fixture(scope="session")
def catalogs(index: CatalogIndex, tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogs")
    index.save(folder / "retail")
    CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), tokenizer).save(folder / "shop")
    (folder / "notes.txt").write_text("no catalog")
    return folder


@pytest.fixture(scope="session")
def engine(smollm2: Path, catalogs: Path) -> Iterator[LLM]:
    """One engine for all: so little memory that requests are preempted, and the plugin found by its entry point."""
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
    return {"prompt_token_ids": tokenizer.encode_prompt([Message("user", (Span(ASKED, False),))]).tolist()}


def params(**settings: Any) -> SamplingParams:
    """Settings of a request; those of genrec by their keys."""
    # Some versions of vLLM let any temperature in, others refuse it before genrec can.
    temperature = settings.pop("temperature", 0.0)
    ours = {name: settings.pop(name) for name in list(settings) if name.strip().casefold().startswith("genrec")}
    made = SamplingParams(
        **{"temperature": 2.0 if temperature else 0.0, "max_tokens": 400, "extra_args": ours or None, **settings}
    )
    made.temperature = temperature
    return made


def written(engine: LLM, prompts: list[Any], settings: list[SamplingParams]) -> list[list[int]]:
    return [list(answer.outputs[0].token_ids) for answer in engine.generate(prompts, settings, use_tqdm=False)]


def test_lists_are_valid_whole_and_without_repeats(
    engine: LLM, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """The promise of this package, kept by the engine that serves it: in every list, filtered or not, hot or cold."""
    before = preemptions(engine)
    counts = soak(engine, index, tokenizer, catalog="retail", count=64)
    assert counts["lists"] == 64
    assert not [counts[fault] for fault in ("invalid", "repeated", "short") if counts[fault]]
    assert preemptions(engine) > before, "a request that comes back has to be tried too"


def preemptions(engine: LLM) -> int:
    return sum(int(metric.value) for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions")


def test_requests_without_a_catalog_are_left_alone(
    engine: LLM, index: CatalogIndex, grammar: CatalogGrammar, prompt: dict[str, list[int]]
) -> None:
    """Whoever shares an engine with recommendations must not notice them."""
    plain = params(max_tokens=24)
    (alone,) = written(engine, [prompt], [plain])
    random = np.random.default_rng(3)
    wishes = [random_constraints(index, random, catalog="retail") for _ in range(6)]
    settings = [one for wish in wishes for one in (params(**wish, temperature=2.0), plain)]
    answers = written(engine, [prompt] * len(settings), settings)
    assert all(answer == alone for answer in answers[1::2])
    reader = ListParser(index, grammar.delimiters)
    for wish, answer in zip(wishes, answers[::2], strict=True):
        assert not reader.faults(answer, wish)


def test_a_list_that_is_wrong_is_found_out(index: CatalogIndex, grammar: CatalogGrammar) -> None:
    """What counts faults must be able to find some, and may not ask the constraint that it judges."""
    reader, (one, two, three) = (
        ListParser(index, grammar.delimiters),
        (index.trie.tokens_of_row(row).tolist() for row in (0, 1, 2)),
    )
    end, line = grammar.delimiters.end_id, grammar.delimiters.separator_id
    wish = {"genrec_catalog": "retail", "genrec_k": 2}
    right = [*one[:-1], line, *two]
    item = index.catalog.item_ids[int(index.trie.items[0])]
    assert reader.faults(right, wish) == []
    assert reader.faults(right, {**wish, "genrec_deny": [item]}) == ["invalid"]
    assert reader.faults(right, {**wish, "genrec_allow": [item]}) == ["invalid"]
    assert reader.faults([*one[:-1], line, *one], wish) == ["repeated"]
    assert reader.faults(one, wish) == ["short"]
    assert reader.faults([*one[:-1], line, *two[:-1]], wish) == ["invalid"]
    assert reader.faults([*right, end], wish) == ["invalid"]
    assert reader.faults([*three[:-1], *one], {**wish, "genrec_k": 1}) == ["invalid"]


def test_one_greedy_item_is_the_likeliest_walk(
    engine: LLM, grammar: CatalogGrammar, prompt: dict[str, list[int]], smollm2_float32: TransformersBackend
) -> None:
    """The constraint chooses among what the model says; it must not change what the model says."""
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
    """Where the model may talk, it may still not invent: what stands in brackets is sold here."""
    shown = "[RED LAMP]\n[TEA TOWEL]\n"  # so that the greedy answer has mentions too, whatever the hot ones draw
    turns: list[tuple[Role, str]] = [
        ("user", f"{ASKED} Write each as [product]."),
        ("assistant", shown),
        ("user", "Name more."),
    ]
    asked = tokenizer.encode_prompt([Message(role, (Span(text, False),)) for role, text in turns])
    prompts = [{"prompt_token_ids": asked.tolist()}] * 12
    heats = [0.0, *[2.0] * 11]
    settings = [params(genrec_catalog="retail", genrec_form="text", temperature=heat, max_tokens=120) for heat in heats]
    state, end, mentions = grammar.start("text"), tokenizer.eos_token_id, 0
    for whole in written(engine, prompts, settings):
        answer = [token for token in whole if token != end]
        for size in range(len(answer), -1, -1):  # one that ran out of tokens is read up to its last whole mention
            try:
                items = state.parse_items([*answer[:size], end])
            except InputError:
                continue
            break
        assert len(answer) - size < 60
        mentions += len(items)
        text = tokenizer.decode(answer[:size])
        for row in index.trie.rows_of_items[items]:
            assert f"[{tokenizer.decode(index.trie.tokens_of_row(int(row))[:-1])}]" in text
    assert mentions


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"genrec_catalog": "nowhere"}, "'nowhere'; choose one of the catalogs in GENREC_CATALOGS: retail, shop"),
    ({"genrec_catalog": "../retail"}, "choose one of the catalogs"),
    ({"genrec_catalog": ["retail"]}, "choose one of the catalogs"),
    ({"genrec_catalog": "shop", "genrec_form": "poem"}, "genrec_form is 'poem'; choose one of item, list, text"),
    ({"genrec_catalog": "shop", "genrec_k": 0}, "^genrec_k is 0; give a whole number"),
    ({"genrec_catalog": "shop", "genrec_k": 1.5}, "k is 1.5"),
    ({"genrec_catalog": "shop"}, "k is 10, but 4 of 4 items are allowed"),
    ({"genrec_catalog": "shop", "genrec_k": 3, "genrec_deny": ["i0", "i1"]}, "k is 3, but 2 of 4 items are allowed"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_allow": ["i0", "i9"]}, "item 'i9', which is not in"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_deny": "i0"}, "genrec_deny is 'i0'; give a list"),
    ({"genrec_catalog": "shop", "genrec_filter": "x"}, "'genrec_filter' is not a key of genrec"),
    ({"genrec_catalogue": "shop"}, "'genrec_catalogue' is not a key of genrec; use the keys genrec_catalog"),
    ({"Genrec_Catalog": "shop"}, "'Genrec_Catalog' is not a key of genrec"),
    ({" genrec_catalog": "shop"}, "' genrec_catalog' is not a key of genrec"),
    ({"genrec_k": 3}, "genrec_catalog is missing"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "genrec_allow": []}, "none of 4 items is allowed; allow at least one"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_deny": ["i9"]}, "not in catalog 'shop'"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": float("nan")}, "temperature is nan"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": float("inf")}, "temperature is inf"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": 1e300}, "temperature is 1e\\+300"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "repetition_penalty": 1e-300}, "repetition_penalty is 1e-300"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "repetition_penalty": 1e38}, "set it from 0.01 to 100"),
    ({"genrec_catalog": "retail", "max_tokens": 16}, r"max_tokens is 16, but a list of 10 of these .* set max_"),
    ({"genrec_catalog": "retail", "genrec_k": 100, "max_tokens": None}, "the model's context is 512; ask for fewer"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "stop": ["\n"]}, "stop contains '\\\\n', which can truncate an answer of genrec_form 'item'"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "stop_token_ids": [0, 198]}, "stop_token_ids contains 198"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "logit_bias": {5: 1.0}}, "logit_bias is .* conflicts with genrec_catalog"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "allowed_token_ids": [5]}, "allowed_token_ids is"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "bad_words": ["Lamp"]}, "bad_words is"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "min_tokens": 2}, "min_tokens is 2"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "ignore_eos": True}, "ignore_eos is True"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSALS)
def test_unsatisfiable_constraint_fails_its_request(
    engine: LLM, prompt: dict[str, list[int]], settings: dict[str, Any], message: str
) -> None:
    """A constraint that is dropped in silence recommends what is not sold; one that ends the engine, nothing."""
    with pytest.raises(REFUSAL, match=message):
        engine.generate([prompt], [params(**settings)], use_tqdm=False)
    (answer,) = written(engine, [prompt], [params(genrec_catalog="shop", genrec_form="item")])
    assert answer


def test_one_request_may_have_several_answers(
    engine: LLM, grammar: CatalogGrammar, prompt: dict[str, list[int]]
) -> None:
    """vLLM copies a request for its answers; a copy that lost its constraint would be free."""
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


def test_a_request_keeps_its_constraint_wherever_it_goes(
    processor: CatalogLogitsProcessor, grammar: CatalogGrammar, index: CatalogIndex
) -> None:
    """An engine moves, swaps, pauses and drops requests; one that takes over another's constraint is held wrongly."""
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


def test_a_token_that_is_not_known_yet_ends_the_answer(
    processor: CatalogLogitsProcessor, tokenizer: HuggingFaceTokenizer
) -> None:
    """Where vLLM hands out placeholders, a guess at what was written could let anything through."""
    for form in ("item", "list", "text"):
        processor.update_state(update(added=[(0, params(genrec_catalog="retail", genrec_form=form), [1], [-1])]))
        assert allowed_by(processor, 1) == [[tokenizer.eos_token_id]]


def test_a_constraint_that_cannot_be_made_in_the_engine_leaves_nothing(
    processor: CatalogLogitsProcessor, tokenizer: HuggingFaceTokenizer
) -> None:
    """A request that nobody checked must not be free, and must not end the engine that others wait for."""
    wrong = params(genrec_catalog="nowhere", stop_token_ids=[tokenizer.eos_token_id])
    processor.update_state(update(added=[(0, wrong, [1], [5])]))
    assert allowed_by(processor, 1) == [[tokenizer.eos_token_id]]


def test_vllm_fills_in_what_was_written_where_it_schedules_ahead(
    engine: LLM, index: CatalogIndex, prompt: dict[str, list[int]]
) -> None:
    """On GPUs vLLM runs a step ahead of what it tells processors, unless a request asks for something that needs it."""
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


def test_a_catalog_that_is_not_for_this_model_stops_the_start(
    engine: LLM, catalogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another tokenizer's numbers every list would be nonsense that nothing notices."""
    config = engine.llm_engine.vllm_config
    CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), ByteTokenizer()).save(tmp_path / "a" / "bytes")
    monkeypatch.setenv("GENREC_CATALOGS", str(tmp_path / "a"))
    with pytest.raises(TokenizerMismatchError, match="index 'bytes' was built for tokenizer"):
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


def test_without_catalogs_nothing_happens(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installs genrec beside vLLM and wants no constraint must not notice."""
    monkeypatch.delenv("GENREC_CATALOGS")
    processor = CatalogLogitsProcessor(engine.llm_engine.vllm_config, torch.device("cpu"), False)
    processor.update_state(update(added=[(0, params(), [1], [])]))
    assert allowed_by(processor, 1) == [list(range(49152))]
    with pytest.raises(REFUSAL, match="GENREC_CATALOGS is not set"):
        engine.generate(["a"], [params(genrec_catalog="retail")], use_tqdm=False)


def test_an_engine_that_leaves_processors_out_is_refused(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM drops processors in silence where it decodes speculatively: the constraint would be off."""
    monkeypatch.setattr(engine.llm_engine.input_processor.vllm_config, "speculative_config", SimpleNamespace())
    with pytest.raises(REFUSAL, match="uses speculative decoding"):
        engine.generate(["a"], [params(genrec_catalog="retail")], use_tqdm=False)


def test_a_check_outside_an_engine_is_refused() -> None:
    """What is checked against no engine is not checked."""
    with pytest.raises(InputError, match="validated outside of a vLLM engine"):
        CatalogLogitsProcessor.validate_params(params(genrec_catalog="retail"))
    CatalogLogitsProcessor.validate_params(params())


def test_first_model_runner_loads_the_plugin() -> None:
    """A plugin that a runner refuses stops every engine that runs it, constrained requests or not."""
    from vllm.v1.sample.logits_processor import _load_logitsprocs_plugins

    assert CatalogLogitsProcessor in _load_logitsprocs_plugins()


@needs_second
def test_second_model_runner_loads_the_plugin() -> None:
    """The same on GPUs, where vLLM runs the second runner."""
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_plugins

    assert CatalogLogitsProcessor in _load_v2_logitsprocs_plugins()


@pytest.mark.skipif(HAS_SECOND, reason="from vLLM 0.31 on the second runner takes processors")
def test_a_second_runner_that_takes_no_plugin_is_not_run(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs vLLM would run it; with the plugin left out, every list would be free."""
    config = engine.llm_engine.vllm_config
    assert "custom logits processors" in config._get_v2_model_runner_unsupported_features()
    monkeypatch.setattr("vllm.config.vllm.HAS_TRITON", True)
    assert not config.use_v2_model_runner


class SecondRunner:
    """What vLLM's second runner tells a processor, on the CPU, where that runner itself does not run."""

    def __init__(self, config: Any, slots: int) -> None:
        self.token_ids = np.zeros((slots, 256), dtype=np.int32)
        self.prompt_len, self.prefill_len, self.written = (np.zeros(slots, dtype=np.int32) for _ in range(3))
        tables = {
            name: SimpleNamespace(np=getattr(self, key), gpu=torch.from_numpy(getattr(self, key)))
            for name, key in (
                ("all_token_ids", "token_ids"), ("prompt_len", "prompt_len"), ("prefill_len", "prefill_len"),
                ("total_len", "written"),
            )
        }  # fmt: skip
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        device = torch.device("cpu")
        states = LogitsProcRequestState(device=device, max_num_reqs=slots, vocab_size=49152, **tables)
        self.processor = CatalogLogitsProcessor(config, states)

    def enter(self, slot: int, settings: SamplingParams, prompt: list[int], token_ids: list[int]) -> bool:
        whole = [*prompt, *token_ids]
        self.token_ids[slot, : len(whole)] = whole
        self.prompt_len[slot], self.prefill_len[slot], self.written[slot] = len(prompt), len(whole), len(whole)
        return self.processor.add_request(slot, settings)

    def step(self, slots: list[int], *, short: int = 0) -> list[list[int]]:
        """What may follow in each of these slots; with `short`, so many tokens before their newest."""
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

        self.processor.apply_staged_writes()
        rows, pos = np.array(slots), self.written[slots] - 1 - short
        mapping = torch.from_numpy(rows.astype(np.int32))
        context = LogitsContext(
            expanded_idx_mapping=mapping, idx_mapping=mapping, idx_mapping_np=rows,
            expanded_local_pos=torch.zeros(len(rows), dtype=torch.int32),
            input_ids=torch.from_numpy(self.token_ids[rows, pos]), pos=torch.from_numpy(pos.astype(np.int64)),
            seq_lens_upper_bound_np=pos + 1,
        )  # fmt: skip
        masked = self.processor.apply(torch.zeros(len(rows), 49152), context)
        return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in masked]

    def write(self, slot: int, token: int) -> None:
        self.token_ids[slot, self.written[slot]] = token
        self.written[slot] += 1


@needs_second
def test_the_second_runner_is_held_to_the_same_catalog(
    engine: LLM, grammar: CatalogGrammar, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """On GPUs this is the runner that serves; requests share its slots, pause, and come back with what they wrote."""
    random, runner = np.random.default_rng(4), SecondRunner(engine.llm_engine.vllm_config, 6)
    shop = CatalogGrammar(
        CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), tokenizer).trie, grammar.delimiters
    )
    everything, prompt = list(range(49152)), [1, 2, 3]
    few = [index.catalog.item_ids[item] for item in range(5)]
    settings = {
        0: params(genrec_catalog="retail", genrec_k=3),
        1: params(),
        2: params(genrec_catalog="shop", genrec_k=4),
        3: params(genrec_catalog="retail", genrec_form="text", genrec_deny=few),
        4: params(genrec_catalog="retail", genrec_form="item", genrec_allow=few),
        5: params(genrec_catalog="nowhere", stop_token_ids=[tokenizer.eos_token_id]),
    }
    rows = index.to_row_subset(Subset.from_indices(len(index.trie), range(5)))
    states = {
        0: grammar.start("list", k=3),
        2: shop.start("list", k=4),
        3: grammar.start("text", allowed=Subset.everything(len(index.trie)).without(rows.listed)),
        4: grammar.start("item", allowed=rows),
    }
    starts, finished = dict(states), 0
    for slot, one in settings.items():
        assert runner.enter(slot, one, prompt, []) == (slot != 1)
    answers: dict[int, list[int]] = {slot: [] for slot in settings}
    for step in range(120):
        slots = random.permutation(6)[: random.integers(1, 7)].tolist()
        for slot, found in zip(slots, runner.step(slots), strict=True):
            if slot in states:
                state = states[slot]
                free = np.flatnonzero(grammar.delimiters.free_text).tolist()
                assert found == (free if state.in_free_text else sorted(state.next_tokens.tolist())), (step, slot)
                opening = np.flatnonzero(grammar.delimiters.opens_link)
                token = int(random.choice(opening if state.in_free_text and step % 2 else found))
                (states[slot],) = advance([state], [token])
            else:
                assert found == ([tokenizer.eos_token_id] if settings[slot].extra_args else everything)
                token = int(random.choice(found))
            runner.write(slot, token)
            answers[slot].append(token)
            if slot in states and states[slot].is_complete:  # the next request takes the slot
                assert len(starts[slot].parse_items(answers[slot])) >= len(states[slot].written_rows)
                runner.enter(slot, settings[slot], prompt, [])
                states[slot], answers[slot], finished = starts[slot], [], finished + 1
        if step % 10 == 9:  # somebody pauses, and comes back in a slot that was another's
            one, other = random.permutation(6)[:2].tolist()
            for table in (settings, answers, states, starts):
                pair = table.pop(one, None), table.pop(other, None)
                table |= {slot: value for slot, value in ((other, pair[0]), (one, pair[1])) if value is not None}
            for slot in (one, other):
                runner.enter(slot, settings[slot], prompt, answers[slot])
            runner.step([one, other], short=1)
    assert finished > 5
