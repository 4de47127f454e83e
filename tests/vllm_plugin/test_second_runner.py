"""Laws of the constraint on vLLM's second model runner (V2), simulated on the CPU."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here; its CPU build runs these laws")

from shop import ITEMS
from vllm import LLM, SamplingParams
from vllm_requests import params

from genrec import Catalog, CatalogIndex, TitleIdentifiers
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar, advance
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.vllm_plugin.processor import CatalogLogitsProcessor

HAS_SECOND = find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
needs_second = pytest.mark.skipif(not HAS_SECOND, reason="before 0.31 vLLM runs processors on the first runner only")

pytestmark = [pytest.mark.model, pytest.mark.vllm]


@needs_second
def test_second_model_runner_loads_the_plugin() -> None:
    """The same for the second runner, which vLLM uses on GPUs."""
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_plugins

    assert CatalogLogitsProcessor in _load_v2_logitsprocs_plugins()


@pytest.mark.skipif(HAS_SECOND, reason="from vLLM 0.31 on the second runner takes processors")
def test_vllm_avoids_a_second_runner_without_processors(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise vLLM would use it on GPUs without the plugin, and every list would be unconstrained."""
    config = engine.llm_engine.vllm_config
    assert "custom logits processors" in config._get_v2_model_runner_unsupported_features()
    monkeypatch.setattr("vllm.config.vllm.HAS_TRITON", True)
    assert not config.use_v2_model_runner


class SecondRunner:
    """Simulates on the CPU what vLLM's second runner, which needs a GPU, passes to a processor."""

    def __init__(self, config: Any, slots: int) -> None:
        self.token_ids = np.zeros((slots, 256), dtype=np.int32)
        self.prompt_len, self.prefill_len, self.total_len = (np.zeros(slots, dtype=np.int32) for _ in range(3))
        tables = {
            name: SimpleNamespace(np=getattr(self, key), gpu=torch.from_numpy(getattr(self, key)))
            for name, key in (
                ("all_token_ids", "token_ids"), ("prompt_len", "prompt_len"), ("prefill_len", "prefill_len"),
                ("total_len", "total_len"),
            )
        }  # fmt: skip
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        device = torch.device("cpu")
        states = LogitsProcRequestState(device=device, max_num_reqs=slots, vocab_size=49152, **tables)
        self.processor = CatalogLogitsProcessor(config, states)

    def add_request(self, slot: int, settings: SamplingParams, prompt: list[int], token_ids: list[int]) -> bool:
        """Add a request that has generated `token_ids` before; True if it is constrained."""
        whole = [*prompt, *token_ids]
        self.token_ids[slot, : len(whole)] = whole
        self.prompt_len[slot], self.prefill_len[slot], self.total_len[slot] = len(prompt), len(whole), len(whole)
        return self.processor.add_request(slot, settings)

    def step(self, slots: list[int], *, tokens_missing: int = 0) -> list[list[int]]:
        """The tokens that may follow in each slot, if `tokens_missing` of its newest tokens are not computed yet."""
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

        self.processor.apply_staged_writes()
        rows, pos = np.array(slots), self.total_len[slots] - 1 - tokens_missing
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
        self.token_ids[slot, self.total_len[slot]] = token
        self.total_len[slot] += 1


@needs_second
def test_the_second_runner_applies_the_same_constraint(
    engine: LLM, grammar: CatalogGrammar, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """vLLM uses this runner on GPUs; requests reuse slots, pause, and resume with the tokens they generated."""
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
        assert runner.add_request(slot, one, prompt, []) == (slot != 1)
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
            if slot in states and states[slot].is_complete:  # the next request reuses the slot
                assert len(starts[slot].parse_items(answers[slot])) >= len(states[slot].written_rows)
                runner.add_request(slot, settings[slot], prompt, [])
                states[slot], answers[slot], finished = starts[slot], [], finished + 1
        if step % 10 == 9:  # two requests pause, and resume in each other's slots
            one, other = random.permutation(6)[:2].tolist()
            for table in (settings, answers, states, starts):
                pair = table.pop(one, None), table.pop(other, None)
                table |= {slot: value for slot, value in ((other, pair[0]), (one, pair[1])) if value is not None}
            for slot in (one, other):
                runner.add_request(slot, settings[slot], prompt, answers[slot])
            runner.step([one, other], tokens_missing=1)
    assert finished > 5
