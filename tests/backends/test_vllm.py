"""vLLM in a process and over HTTP: the backend contract, the same rankings as Transformers, and failures."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from backend_contract import BackendContract, random_tree, read_log_probs
from backend_support import (
    check_texts,
    deadline_in,
    needs_httpx,
    needs_vllm,
    path_tree_bytes,
    save_adapter,
    send_signal,
)
from command_line import run

from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    RankRequest,
    TitleIdentifiers,
    open_dataset,
    read_template,
)
from genrec.backends.base import Backend, GenerationRequest
from genrec.backends.transformers import TransformersBackend
from genrec.data.subset import Subset
from genrec.datasets.registry import find_adapter
from genrec.deadline import Deadline
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.decoding.grammar import GrammarCompiler
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.decoding.search import beam_search, exhaustive_search
from genrec.decoding.search_request import SearchRequest
from genrec.errors import DeadlineExceededError, EngineError, InputError, MismatchError
from genrec.pipeline import Pipeline
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.prior_store import PriorSource
from genrec.types import FloatArray, IntArray, Message, Span

MESSAGE = (
    "Which of the products [Red Mug] and [Blue Lamp] do you recommend? Write names in brackets, such as [Red Mug]."
)
README = Path(__file__).parents[2] / "README.md"
TIMEOUT = 600.0  # seconds; a busy machine must not decide a test


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Any]:
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend = VllmEngineBackend(
        smollm2,
        context_length=1024,
        kv_cache_memory_bytes=1 << 30,
        timeout=TIMEOUT,
        llm_kwargs={"dtype": "float32"},
    )
    yield backend
    backend.close()


@pytest.fixture
def engine_with_adapters(smollm2: Path) -> Iterator[Any]:
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend = VllmEngineBackend(
        smollm2,
        context_length=1024,
        kv_cache_memory_bytes=1 << 28,
        max_adapters=2,
        timeout=TIMEOUT,
        llm_kwargs={"dtype": "float32"},
    )
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def server_url(smollm2: Path, index: CatalogIndex, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import vllm

    from genrec.backends.vllm_protocol import serve_options

    catalogs = tmp_path_factory.mktemp("catalogs")
    index.save(catalogs / "shop")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The module behind `vllm serve`; that command needs a package named vllm, and the CPU build has another name.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2),
        "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "1026",
        "--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", str(1 << 30),
        *serve_options(vllm.__version__),
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "GENREC_CATALOGS": str(catalogs)},
        )
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        else:
            pytest.fail(f"no server after ten minutes: {log.read_text(errors='replace')[-3000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def server(server_url: str) -> Iterator[Any]:
    from genrec.backends.vllm_server import VllmServerBackend

    backend = VllmServerBackend(server_url, model="smollm2", vocab_size=49152, timeout=TIMEOUT)
    backend.check_ready()
    yield backend
    backend.close()


class VllmBackendContract(BackendContract):
    # In float32, in which Transformers itself differs by 2e-4 from float64.
    atol = 2e-4

    def test_generation_under_a_schema_is_valid_json(self, backend: Backend, tokenizer: HuggingFaceTokenizer) -> None:
        """The engine's own structured outputs must satisfy the same schema as genrec's."""
        check_texts(backend, tokenizer, GrammarCompiler(tokenizer))

    def test_generation_under_a_grammar_is_a_sentence_of_it(
        self, backend: Backend, tokenizer: HuggingFaceTokenizer
    ) -> None:
        """Replies rely on grammars, streamed or not."""
        constraint = GrammarCompiler(tokenizer).compile_lark(
            'start: "Take [" ("1" | "2") "], " ("it is red" | "please") "."'
        )
        prompt = tokenizer.encode_prompt([Message("user", (Span(MESSAGE, False),))])
        request = GenerationRequest(prompt, tokenizer.control_token_ids, 40, 2.0, 1, constraint)
        streamed: list[int] = []
        for on_tokens in (None, lambda _, new: streamed.extend(new)):
            (text,) = backend.generate([request], on_tokens=on_tokens)
            written = tokenizer.decode(text.token_ids.tolist())
            assert text.stopped
            assert written in {f"Take [{one}], {what}." for one in (1, 2) for what in ("it is red", "please")}
        assert streamed == text.token_ids.tolist()

    def tree_bytes(self, tree: Any) -> int:
        return path_tree_bytes(tree)


@pytest.mark.vllm
@needs_vllm
class TestVllmEngineBackend(VllmBackendContract):
    subject = "VllmEngineBackend"

    @pytest.fixture
    def backend(self, engine: Backend) -> Backend:
        return engine


@pytest.mark.vllm
@needs_vllm
@needs_httpx
class TestVllmServerBackend(VllmBackendContract):
    subject = "VllmServerBackend"

    @pytest.fixture
    def backend(self, server: Backend) -> Backend:
        return server

    def test_repeated_calls_give_the_same_log_probs(
        self, backend: Backend, prompts: list[IntArray], server_url: str
    ) -> None:
        """Concurrent requests form random batches, which round differently; one at a time they must repeat."""
        from genrec.backends.vllm_server import VllmServerBackend

        parents, tokens, _ = random_tree(backend, prompts)
        answers = []
        for _ in range(2):
            tree = backend.open(prompts)
            tree.grow(np.array(parents), np.array(tokens))
            answers.append(read_log_probs(backend, tree))
        self.assert_close(*answers)
        alone = VllmServerBackend(server_url, model="smollm2", vocab_size=49152, timeout=TIMEOUT, max_concurrency=1)
        super().test_repeated_calls_give_the_same_log_probs(alone, prompts)
        alone.close()

    def test_a_model_that_is_not_served_is_rejected(self, backend: Any, server_url: str) -> None:
        """The scores of another model also give a ranking, but a wrong one."""
        from genrec.backends.vllm_server import VllmServerBackend

        with pytest.raises(EngineError, match="serves smollm2, not 'llama'"):
            VllmServerBackend(server_url, model="llama", vocab_size=49152)


@pytest.mark.vllm
@needs_vllm
@needs_httpx
def test_server_constrains_lists_to_the_catalog_or_rejects_the_request(
    server_url: str, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """The README shows these requests; versions of vLLM pass on their arguments and errors differently."""
    import httpx

    def ask(**keys: Any) -> httpx.Response:
        body = {
            "model": "smollm2", "messages": [{"role": "user", "content": "Name products, one a line."}],
            "vllm_xargs": {"genrec_catalog": "shop", "genrec_k": 3, **keys}, "return_token_ids": True,
        }  # fmt: skip
        return httpx.post(f"{server_url}/v1/chat/completions", json=body, timeout=TIMEOUT)

    some = [index.catalog.item_ids[item] for item in range(6)]
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    (body,) = re.findall(r"-d '(\{\n.*?\n\})'", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    shown = httpx.post(f"{server_url}/v1/chat/completions", json=json.loads(body), timeout=TIMEOUT)
    for answer, allowed in (
        (shown, range(len(index.catalog))),
        (ask(genrec_allow=some, genrec_deny=some[:2]), range(2, 6)),
    ):
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        items = grammar.start("list", k=3).parse_items(choice["token_ids"]).tolist()
        assert len(set(items)) == 3
        assert set(items) <= set(allowed)
        assert choice["finish_reason"] == "stop"
        assert len(choice["message"]["content"].splitlines()) == 3
    for wrong, message in (({"genrec_k": 41}, "k is 41, but 40 of 40"), ({"genrec_catalog": "no"}, "'no'; choose one")):
        answer = ask(**wrong)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


@pytest.mark.vllm
@needs_vllm
@needs_httpx
def test_server_constrains_item_links_to_the_catalog(
    server: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """In a chat the text is free, but linked items must be real and allowed, streamed or not."""
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    allowed = Subset.from_indices(len(index.catalog), [2, 3])
    ids = [index.catalog.item_ids[item] for item in (2, 3)]
    constraint = ItemLinkConstraint(grammar, index.to_row_subset(allowed), catalog_name="shop", item_ids=ids)
    requests = item_link_requests(tokenizer, constraint)
    received: dict[int, list[int]] = {}
    texts = server.generate(requests)
    streamed = server.generate(requests, on_tokens=lambda number, new: received.setdefault(number, []).extend(new))
    linked: set[int] = set()
    for number, (text, again) in enumerate(zip(texts, streamed, strict=True)):
        assert received[number] == again.token_ids.tolist()
        for token_ids in (text.token_ids.tolist(), again.token_ids.tolist()):
            state = constraint.start()
            for token in token_ids:
                state.advance(token)
            linked |= set(index.trie.items[list(state.state.written_rows)].tolist())
    assert linked
    assert linked <= {2, 3}
    with pytest.raises(EngineError, match="'attic'; choose one"):
        server.generate(item_link_requests(tokenizer, replace(constraint, catalog_name="attic")))


@pytest.mark.vllm
@needs_vllm
def test_engine_without_catalog_rejects_generation(
    engine: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """If the engine drops a constraint, the model can name items that do not exist."""
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    everything = Subset.everything(len(index.trie))
    ids = list(index.catalog.item_ids)
    for constraint, message in (
        (ItemLinkConstraint(grammar, everything, catalog_name="shop", item_ids=ids), "GENREC_CATALOGS is not set"),
        (ItemLinkConstraint(grammar, everything, unique=True), "supports neither unique nor max_links"),
        (ItemLinkConstraint(grammar, everything), "need catalog_name and item_ids"),
    ):
        with pytest.raises(EngineError, match=message):
            engine.generate(item_link_requests(tokenizer, constraint))


def item_link_requests(tokenizer: HuggingFaceTokenizer, constraint: ItemLinkConstraint) -> list[GenerationRequest]:
    turns = [Message("user", (Span(MESSAGE, False),)), Message("assistant", (Span("I recommend the", True),))]
    prompt = tokenizer.encode_prompt(turns)
    return [GenerationRequest(prompt, tokenizer.control_token_ids, 60, 1.0, seed, constraint) for seed in range(4)]


@pytest.fixture(scope="module")
def index(tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> CatalogIndex:
    catalog, _ = open_dataset("online-retail", tmp_path_factory.mktemp("cache"))
    some = Catalog.from_items(catalog[index] for index in range(0, 3600, 90))
    return CatalogIndex.build(some, TitleIdentifiers(), tokenizer)


@pytest.fixture(scope="module")
def prompts(tokenizer: HuggingFaceTokenizer) -> list[IntArray]:
    messages = ("I bought a red lamp. What next?", "Something for a child's birthday, please.", "Tea.")
    return [tokenizer.encode_prompt([Message("user", (Span(text, False),))]) for text in messages]


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_rankings_are_those_of_transformers(
    engine: Backend, smollm2_float32: Backend, index: CatalogIndex, prompts: list[IntArray]
) -> None:
    """Changing the engine must not change the lists."""
    request = SearchRequest([Subset.everything(len(index.trie))] * len(prompts), 10)
    for search in (
        lambda tree: beam_search(tree, index.trie, request, width=4, exact=True),
        lambda tree: beam_search(tree, index.trie, replace(request, score_kind="catalog"), width=12),
        lambda tree: exhaustive_search(tree, index.trie, request, max_nodes=64),
    ):
        found, expected = (search(backend.open(prompts)) for backend in (engine, smollm2_float32))
        for own, other in zip(found, expected, strict=True):
            assert own.item_indices.tolist() == other.item_indices.tolist()
            np.testing.assert_allclose(own.scores, other.scores, atol=2e-3)
            assert own.proven == other.proven


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_adapters_are_selected_per_request(
    engine_with_adapters: Any, smollm2: Path, smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, tmp_path: Path
) -> None:
    """One engine may serve several adapters; no request may use the adapter of another."""
    engine = engine_with_adapters
    from safetensors.numpy import save_file

    folder = save_adapter(
        tmp_path / "tuned", base_model_name_or_path=smollm2.name, lora_alpha=16, target_modules=["q_proj"]
    )
    random, part = np.random.default_rng(0), "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {f"{part}A.weight": random.normal(size=(2, 576)), f"{part}B.weight": random.normal(size=(576, 2))}
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, folder / "adapter_model.safetensors")
    tuned = engine.with_adapter(folder)
    assert tuned.name.startswith(f"{engine.name}+tuned-")
    prompt = [np.arange(20, 60)]
    plain, changed = read_log_probs(engine, engine.open(prompt)), read_log_probs(tuned, tuned.open(prompt))
    assert np.abs(plain - changed).max() > 0.1
    np.testing.assert_allclose(read_log_probs(engine, engine.open(prompt)), plain, atol=2e-4)
    np.testing.assert_allclose(read_log_probs(tuned, tuned.open(prompt)), changed, atol=2e-4)
    with pytest.raises(MismatchError, match="was trained for 'Example/Tiny'"):
        engine.with_adapter(save_adapter(tmp_path / "other"))
    # The shipped adapter gives the scores of the merged model, with the prior of the model without it.
    catalog, interactions = open_dataset("online-retail", tmp_path)
    folder, index = find_adapter("online-retail"), CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    history = catalog.item_ids.positions(interactions.histories()[0].item_ids)
    request = RankRequest(history, "", Subset.everything(len(catalog)))

    def ranker(backend: Backend, prior_backend: Backend | None) -> GenerativeRanker:
        return GenerativeRanker(
            index,
            backend,
            tokenizer,
            template=read_template("next-item"),
            cold_template=read_template("cold-start"),
            settings=GenerativeSettings(strategy="exhaustive"),
            prior=PriorSource(backend=prior_backend),
        )

    def scores(own: GenerativeRanker) -> FloatArray:
        return own.score([request], [np.arange(0, 600, 40)], deadline=Deadline.never())[0]

    merged = TransformersBackend(smollm2, adapter=folder, device="cpu", dtype=torch.float32)
    unmerged = ranker(engine.with_adapter(folder), engine)
    assert unmerged.notices == ()
    assert ranker(engine.with_adapter(folder), None).notices[0].code == "adapter_prior"
    expected = scores(ranker(merged, smollm2_float32))
    np.testing.assert_allclose(scores(unmerged), expected, atol=2e-2)
    assert np.abs(scores(ranker(smollm2_float32, None)) - expected).max() > 0.5


@pytest.mark.vllm
@needs_vllm
def test_deadline_does_not_stop_the_engine(engine: Any) -> None:
    """A caller must not wait beyond its deadline, for its own batch or another's, nor cause a restart."""
    short = [np.arange(30)]
    long = [np.random.default_rng(seed).integers(0, 49152, 900) for seed in range(6)]
    before, llm = read_log_probs(engine, engine.open(short)), engine.llm
    for prompts in (long, short):  # the second waits in the queue
        deadline = deadline_in(0.5)
        tree = engine.open(prompts, deadline=deadline)
        with pytest.raises(DeadlineExceededError):
            read_log_probs(engine, tree)
        assert deadline.remaining() > -1.0
    np.testing.assert_allclose(read_log_probs(engine, engine.open(short)), before, atol=2e-4)
    assert engine.llm is llm


@pytest.mark.vllm
@needs_vllm
def test_a_killed_engine_is_detected_and_restarts(engine: Any) -> None:
    """vLLM's own client waits forever; the fallback needs an error while there is time to answer."""
    prompts = [np.random.default_rng(seed).integers(0, 49152, 900) for seed in range(40)]
    before = read_log_probs(engine, engine.open([np.arange(30)]))
    failed: list[tuple[float, str]] = []

    def ask() -> None:
        try:
            read_log_probs(engine, engine.open(prompts))
        except EngineError as error:
            failed.append((time.monotonic(), str(error)))

    asking = threading.Thread(target=ask)
    asking.start()
    while not engine.llm.llm_engine.has_unfinished_requests():
        time.sleep(0.01)
    assert not failed
    killed = time.monotonic()
    send_signal(engine, signal.SIGKILL)
    asking.join(20)
    ((when, error),) = failed
    assert when - killed < 5
    assert error.endswith("is down: its process ended; it is being restarted, so try again later")
    waits = []
    for _ in range(600):
        start = time.monotonic()
        try:
            after = read_log_probs(engine, engine.open([np.arange(30)]))
            break
        except EngineError:
            waits.append(time.monotonic() - start)
            time.sleep(0.5)
    np.testing.assert_allclose(after, before, atol=2e-4)
    assert max(waits) < 1  # callers do not wait for the new engine
    engine.restart()
    np.testing.assert_allclose(read_log_probs(engine, engine.open([np.arange(30)])), before, atol=2e-4)


def test_with_adapter_names_the_missing_option() -> None:
    """Adapters must be enabled when the engine starts; later it is too late."""
    pytest.importorskip("vllm")
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend: Any = object.__new__(VllmEngineBackend)
    backend.name, backend._max_rank = "m", 0
    with pytest.raises(InputError, match="start it with max_adapters=1"):
        backend.with_adapter("anywhere")


@pytest.mark.vllm
@needs_vllm
def test_batch_runs_work_with_vllm(tmp_path: Path) -> None:
    """The README documents --engine for lists with the shipped adapter, and for texts."""
    items = [{"item_id": f"i{number}", "title": title} for number, title in enumerate(["Red Mug", "Tea Pot", "Lamp"])]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    rows = [{"history": ["i0"]}, {"history": ["i1", "i2"]}]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 3}
    request = json.dumps({"custom_id": "a", "body": body})
    (tmp_path / "requests.jsonl").write_text(request, encoding="utf-8")
    own = ("--items", str(tmp_path / "items.jsonl"), "--strategy", "exhaustive", "--fusion-weight", "0")
    own += ("--adapter", "online-retail", "--k", "1")
    for source, options, columns in (("users", own, "item_id"), ("requests", (), "text")):
        results = {}
        for engine in ("vllm", "transformers"):
            out = tmp_path / f"{source}-{engine}"
            done = run("batch", "run", tmp_path / f"{source}.jsonl", out, "--engine", engine, *options)
            assert done.exit_code == 0, done.err[-3000:]
            results[engine] = pq.read_table(out / "parts").to_pylist()
        assert len(results["vllm"]) == len(results["transformers"])
        for one, other in zip(results["vllm"], results["transformers"], strict=True):
            assert one["row"] == other["row"]
            assert one[columns]
            if columns == "item_id":
                assert one["item_id"] == other["item_id"]
                assert one["score"] == pytest.approx(other["score"], abs=0.5)  # bfloat16 in either


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
@needs_httpx
def test_commands_rank_with_a_server_that_scores_and_with_one_that_only_writes(server_url: str, smollm2: Path) -> None:
    """Otherwise the options of a command open another model than Python does, or none, and a fallback answers."""
    common = ("recommend", "15049", "-k", "3", "--encoder", "none", "--candidates", "12", "--json")
    scoring = ("--engine", "server", "--server-url", server_url, "--server-model", "smollm2")
    writing = ("--api-url", f"{server_url}/v1", "--model", "smollm2", "--api-timeout", str(TIMEOUT))
    for options, signals in ((scoring, {"language model", "blend"}), (writing, {"listwise"})):
        done = run(*common, *options)
        assert done.exit_code == 0, done.err
        (listed,) = (one["items"] for one in done.json)
        assert len({item["item_id"] for item in listed}) == 3
        assert {item["stage"] for item in listed} == {"generative"}
        assert {item["signal"] for item in listed} & signals


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
@needs_httpx
def test_a_server_that_only_writes_ranks_lists_and_reads_and_writes_conversations(
    server_url: str, smollm2: Path, tmp_path: Path
) -> None:
    """The protocol of OpenAI as a real server speaks it: schemas, streams, refusals, and the names of its models."""
    from genrec.backends.api_settings import ApiSettings
    from genrec.backends.openai_api import OpenAiBackend
    from genrec.chat.conversation import Conversation
    from genrec.chat.item_links import extract_item_ids
    from genrec.chat.loading import advisor_builder
    from genrec.errors import ModelMissingError
    from genrec.pipeline import ListwiseStage
    from genrec.prompting.message_tokenizer import MessageTokenizer
    from genrec.rankers.listwise import ListwiseRanker
    from genrec.rankers.listwise_settings import ListwiseSettings

    prices = ApiSettings(server_url, timeout=TIMEOUT, input_price=1.0, output_price=2.0)
    backend, tokenizer = OpenAiBackend("smollm2", prices, api_key=""), MessageTokenizer()
    try:
        backend.check_model()
        with pytest.raises(ModelMissingError, match="does not serve the model 'llama'; it serves smollm2"):
            OpenAiBackend("llama", prices, api_key="").check_model()
        check_texts(backend, tokenizer, GrammarCompiler(tokenizer))
        prompt = tokenizer.encode_prompt([Message("user", (Span("Name a colour.", trusted=False),))])
        pieces: list[int] = []
        request = GenerationRequest(prompt, tokenizer.control_token_ids, 12)
        (streamed,) = backend.generate([request], on_tokens=lambda _, new: pieces.extend(new))
        (whole,) = backend.generate([request])
        assert pieces == streamed.token_ids.tolist() == whole.token_ids.tolist()
        assert streamed.usage == whole.usage
        assert whole.usage is not None
        assert 0 < whole.usage.generated_tokens <= 12
        long = tokenizer.encode_prompt([Message("user", (Span("word " * 1500, trusted=False),))])
        with pytest.raises(EngineError, match=r"rejected the request with 400: "):
            backend.generate([GenerationRequest(long, tokenizer.control_token_ids, 400)])

        catalog, interactions = open_dataset("online-retail", tmp_path)
        plain = Pipeline.from_rankers(catalog, interactions)
        listwise = ListwiseRanker(
            catalog,
            backend,
            tokenizer,
            GrammarCompiler(tokenizer),
            retriever=plain.retriever,
            settings=ListwiseSettings(candidates=12, window=8, window_step=4),
        )
        recommender = replace(plain, llm=ListwiseStage(listwise)).recommender()
        lists = recommender.recommend(["15049", "12762", "13047"], 5, where="price < 5")
        for found in lists:
            assert len({item.item_id for item in found.items}) == 5
            assert {item.stage for item in found.items} == {"generative"}
            assert {item.signal for item in found.items} >= {"listwise"}
            assert all(catalog[catalog.index_of(item.item_id)].attributes["price"] < 5 for item in found.items)
            assert not found.proven
            assert found.cost == pytest.approx(found.tokens / 1e6, rel=1.0)
            assert found.cost > 0
        repeated = recommender.recommend("15049", 5, where="price < 5")
        assert [item.item_id for item in repeated.items] == [item.item_id for item in lists[0].items]

        advisor = advisor_builder(recommender, parser="model", reply_mode="free", ranking_timeout=TIMEOUT)(
            recommender, 3
        )
        conversation = advisor.respond(Conversation(), "I collect zinc things for the balcony")
        assert len(set(extract_item_ids(conversation.turns[-1].reply))) == 3
    finally:
        backend.close()
