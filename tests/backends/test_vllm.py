"""vLLM itself, in a process and behind HTTP: the contract, the same rankings as elsewhere, and its ways to fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from backend_support import check_texts, needs_vllm, path_tree_bytes, save_adapter, strike
from contracts import BackendContract, random_tree, read_log_probs

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
from genrec.decoding.constraints import CatalogGrammar, DelimiterTokens
from genrec.decoding.grammar import GrammarCompiler
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.decoding.search import SearchRequest, beam_search, exhaustive_search
from genrec.errors import DeadlineExceededError, EngineError, InputError, MismatchError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import FloatArray, IntArray, Message, Span

SAID = "Which of the products [Red Mug] and [Blue Lamp] do you recommend? Write names in brackets, such as [Red Mug]."
PATIENCE = 600.0  # seconds; a machine that is busy with other things must not decide a test

needs_httpx = pytest.mark.skipif(find_spec("httpx") is None, reason="httpx is not installed; see genrec's extra vllm")


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Any]:
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend = VllmEngineBackend(
        smollm2, dtype="float32", context_length=1024, kv_cache_memory_bytes=1 << 30, timeout=PATIENCE
    )
    yield backend
    backend.close()


@pytest.fixture
def engine_with_adapters(smollm2: Path) -> Iterator[Any]:
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend = VllmEngineBackend(
        smollm2, dtype="float32", context_length=1024, kv_cache_memory_bytes=1 << 28, max_adapters=2, timeout=PATIENCE
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
    # What `vllm serve` runs; the command itself asks for a package called vllm, and the CPU's has another name.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2),
        "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "1026",
        "--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", str(1 << 30),
        *serve_options(vllm.__version__),
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            stdout=written,
            stderr=written,
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

    backend = VllmServerBackend(server_url, model="smollm2", vocab_size=49152, timeout=PATIENCE)
    backend.check_ready()
    yield backend
    backend.close()


class VllmBackendContract(BackendContract):
    # In float32, where Transformers alone is 2e-4 from float64.
    atol = 2e-4

    def test_a_text_that_is_held_to_a_schema_is_json_of_it(
        self, backend: Backend, tokenizer: HuggingFaceTokenizer
    ) -> None:
        """The engine's own way to keep it, which must keep what genrec's does."""
        check_texts(backend, tokenizer, GrammarCompiler(tokenizer))

    def test_a_text_that_is_held_to_a_grammar_is_a_sentence_of_it(
        self, backend: Backend, tokenizer: HuggingFaceTokenizer
    ) -> None:
        """Replies are held so, whoever writes them; told as they come or not."""
        constraint = GrammarCompiler(tokenizer).compile_lark(
            'start: "Take [" ("1" | "2") "], " ("it is red" | "please") "."'
        )
        prompt = tokenizer.encode_prompt([Message("user", (Span(SAID, False),))])
        request = GenerationRequest(prompt, tokenizer.control_token_ids, 40, 2.0, 1, constraint)
        told: list[int] = []
        for on_tokens in (None, lambda _, new: told.extend(new)):
            (text,) = backend.generate([request], on_tokens=on_tokens)
            written = tokenizer.decode(text.token_ids.tolist())
            assert text.stopped
            assert written in {f"Take [{one}], {what}." for one in (1, 2) for what in ("it is red", "please")}
        assert told == text.token_ids.tolist()

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

    def test_the_same_call_gives_the_same_numbers(
        self, backend: Backend, prompts: list[IntArray], server_url: str
    ) -> None:
        """Requests under way together meet in batches of chance, which round otherwise; one by one they repeat."""
        from genrec.backends.vllm_server import VllmServerBackend

        parents, tokens, _ = random_tree(backend, prompts)
        answers = []
        for _ in range(2):
            tree = backend.open(prompts)
            tree.grow(np.array(parents), np.array(tokens))
            answers.append(read_log_probs(backend, tree))
        self.assert_close(*answers)
        alone = VllmServerBackend(server_url, model="smollm2", vocab_size=49152, timeout=PATIENCE, max_concurrency=1)
        super().test_the_same_call_gives_the_same_numbers(alone, prompts)
        alone.close()

    def test_a_model_that_is_not_served_is_refused_by_name(self, backend: Any, server_url: str) -> None:
        """Another model's scores rank too, only wrongly."""
        from genrec.backends.vllm_server import VllmServerBackend

        with pytest.raises(EngineError, match="serves smollm2, not 'llama'"):
            VllmServerBackend(server_url, model="llama", vocab_size=49152)


@pytest.mark.vllm
@needs_vllm
@needs_httpx
def test_a_server_holds_a_list_to_the_catalog_or_refuses_it(
    server_url: str, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """What the README shows; versions pass a request's keys and a plugin's refusal on in ways of their own."""
    import httpx

    def ask(**keys: Any) -> httpx.Response:
        body = {
            "model": "smollm2", "messages": [{"role": "user", "content": "Name products, one a line."}],
            "vllm_xargs": {"genrec_catalog": "shop", "genrec_k": 3, **keys}, "return_token_ids": True,
        }  # fmt: skip
        return httpx.post(f"{server_url}/v1/chat/completions", json=body, timeout=PATIENCE)

    some = [index.catalog.item_ids[item] for item in range(6)]
    answer = ask(genrec_allow=some, genrec_deny=some[:2])
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    items = (
        CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
        .start("list", k=3)
        .parse_items(choice["token_ids"])
        .tolist()
    )
    assert len(set(items)) == 3
    assert set(items) <= {2, 3, 4, 5}
    assert choice["finish_reason"] == "stop"
    for wrong, says in (({"genrec_k": 41}, "k is 41, but 40 of 40"), ({"genrec_catalog": "no"}, "'no'; choose one")):
        answer = ask(**wrong)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


@pytest.mark.vllm
@needs_vllm
@needs_httpx
def test_server_constrains_item_links_to_the_catalog(
    server: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """In a conversation the words are free, and what is named is not; told as they come or not."""
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    allowed = Subset.from_indices(len(index.catalog), [2, 3])
    ids = [index.catalog.item_ids[item] for item in (2, 3)]
    constraint = ItemLinkConstraint(grammar, index.to_row_subset(allowed), catalog_name="shop", item_ids=ids)
    requests = mention_requests(tokenizer, constraint)
    told: dict[int, list[int]] = {}
    texts = server.write(requests)
    streamed = server.write(requests, on_tokens=lambda number, new: told.setdefault(number, []).extend(new))
    named: set[int] = set()
    for number, (text, again) in enumerate(zip(texts, streamed, strict=True)):
        assert told[number] == again.token_ids.tolist()
        for token_ids in (text.token_ids.tolist(), again.token_ids.tolist()):
            state = constraint.start()
            for token in token_ids:
                state.advance(token)
            named |= set(index.trie.items[list(state.state.written_rows)].tolist())
    assert named
    assert named <= {2, 3}
    with pytest.raises(EngineError, match="'attic'; choose one"):
        server.write(mention_requests(tokenizer, replace(constraint, catalog="attic")))


@pytest.mark.vllm
@needs_vllm
def test_engine_without_catalog_rejects_generation(
    engine: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer
) -> None:
    """A constraint that is dropped on the way lets the model name what nobody sells."""
    grammar = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    everything = Subset.everything(len(index.trie))
    ids = list(index.catalog.item_ids)
    for constraint, says in (
        (ItemLinkConstraint(grammar, everything, catalog_name="shop", item_ids=ids), "GENREC_CATALOGS is not set"),
        (ItemLinkConstraint(grammar, everything, unique=True), "counts no mentions"),
        (ItemLinkConstraint(grammar, everything), "need a catalog that the engine serves"),
    ):
        with pytest.raises(EngineError, match=says):
            engine.write(mention_requests(tokenizer, constraint))


def mention_requests(tokenizer: HuggingFaceTokenizer, constraint: ItemLinkConstraint) -> list[GenerationRequest]:
    turns = [Message("user", (Span(SAID, False),)), Message("assistant", (Span("I recommend the", True),))]
    prompt = tokenizer.encode_prompt(turns)
    return [GenerationRequest(prompt, tokenizer.control_token_ids, 60, 1.0, seed, constraint) for seed in range(4)]


@pytest.fixture(scope="module")
def index(tokenizer: HuggingFaceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> CatalogIndex:
    catalog, _ = open_dataset("online-retail", tmp_path_factory.mktemp("cache"))
    some = Catalog.from_items(catalog[place] for place in range(0, 3600, 90))
    return CatalogIndex.build(some, TitleIdentifiers(), tokenizer)


@pytest.fixture(scope="module")
def prompts(tokenizer: HuggingFaceTokenizer) -> list[IntArray]:
    asked = ("I bought a red lamp. What next?", "Something for a child's birthday, please.", "Tea.")
    return [tokenizer.encode_prompt([Message("user", (Span(text, False),))]) for text in asked]


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_rankings_are_those_of_transformers(
    engine: Backend, smollm2_float32: Backend, index: CatalogIndex, prompts: list[IntArray]
) -> None:
    """Who moves from one engine to the other must find the same lists."""
    terms = SearchRequest([Subset.everything(len(index.trie))] * len(prompts), 10)
    for search in (
        lambda tree: beam_search(tree, index.trie, terms, width=4, exact=True),
        lambda tree: beam_search(tree, index.trie, replace(terms, score_kind="catalog"), width=12),
        lambda tree: exhaustive_search(tree, index.trie, terms, max_nodes=64),
    ):
        found, expected = (search(backend.open(prompts)) for backend in (engine, smollm2_float32))
        for own, other in zip(found, expected, strict=True):
            assert own.item_indices.tolist() == other.item_indices.tolist()
            np.testing.assert_allclose(own.scores, other.scores, atol=2e-3)
            assert own.proven == other.proven


@pytest.mark.vllm
@pytest.mark.model
@needs_vllm
def test_an_adapter_is_chosen_by_the_request(
    engine_with_adapters: Any, smollm2: Path, smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, tmp_path: Path
) -> None:
    """One engine serves many shops; none may see what another was tuned to."""
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
    tuned.unload_adapter()
    np.testing.assert_allclose(read_log_probs(tuned, tuned.open(prompt)), changed, atol=2e-4)
    with pytest.raises(MismatchError, match="was made for 'Somebody/Tiny'"):
        engine.with_adapter(save_adapter(tmp_path / "other"))
    # The one that ships scores items as it does merged into the weights, less the prior of the model without it.
    catalog, interactions = open_dataset("online-retail", tmp_path)
    folder, index = find_adapter("online-retail"), CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    history = catalog.item_ids.positions(interactions.histories()[0].item_ids)
    request = RankRequest(history, "", Subset.everything(len(catalog)))

    def ranker(backend: Backend, without: Backend | None) -> GenerativeRanker:
        return GenerativeRanker(
            index,
            backend,
            tokenizer,
            template=read_template("next-item"),
            cold_template=read_template("cold-start"),
            settings=GenerativeSettings(strategy="exhaustive"),
            prior_backend=without,
        )

    def scores(own: GenerativeRanker) -> FloatArray:
        return own.score([request], [np.arange(0, 600, 40)], deadline=Deadline.never())[0]

    merged = TransformersBackend(smollm2, adapter=folder, device="cpu", dtype=torch.float32)
    there = ranker(engine.with_adapter(folder), engine)
    assert there.notices == ()
    assert ranker(engine.with_adapter(folder), None).notices[0].code == "adapter_prior"
    expected = scores(ranker(merged, smollm2_float32))
    np.testing.assert_allclose(scores(there), expected, atol=2e-2)
    assert np.abs(scores(ranker(smollm2_float32, None)) - expected).max() > 0.5


def within(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds, time.monotonic)


@pytest.mark.vllm
@needs_vllm
def test_deadline_does_not_stop_the_engine(engine: Any) -> None:
    """A caller in a hurry must neither wait for a batch, their own or another's, nor have the engine started again."""
    short = [np.arange(30)]
    long = [np.random.default_rng(seed).integers(0, 49152, 900) for seed in range(6)]
    before, llm = read_log_probs(engine, engine.open(short)), engine.llm
    for prompts in (long, short):  # the second waits behind the first
        deadline = within(0.5)
        tree = engine.open(prompts, deadline=deadline)
        with pytest.raises(DeadlineExceededError):
            read_log_probs(engine, tree)
        assert deadline.remaining() > -1.0
    np.testing.assert_allclose(read_log_probs(engine, engine.open(short)), before, atol=2e-4)
    assert engine.llm is llm


@pytest.mark.vllm
@needs_vllm
def test_a_killed_engine_is_noticed_and_comes_back_by_itself(engine: Any) -> None:
    """vLLM's own client waits for ever; the ladder needs an error while there is still time to answer."""
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
    strike(engine, signal.SIGKILL)
    asking.join(20)
    ((when, error),) = failed
    assert when - killed < 5
    assert error.endswith("is down: its process ended; another one is being started")
    waits = []
    for _ in range(600):
        asked = time.monotonic()
        try:
            after = read_log_probs(engine, engine.open([np.arange(30)]))
            break
        except EngineError:
            waits.append(time.monotonic() - asked)
            time.sleep(0.5)
    np.testing.assert_allclose(after, before, atol=2e-4)
    assert max(waits) < 1  # nobody waits for the new engine but who has the time
    engine.restart()
    np.testing.assert_allclose(read_log_probs(engine, engine.open([np.arange(30)])), before, atol=2e-4)


MODELS = {"data": [{"id": "m", "max_model_len": 100}]}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler, int], None]], str]]:
    """Serve one model, and answer requests by a function of the handler and how many came before."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                send(self, 200, json.dumps(MODELS))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                counts.append(1)
                answer(self, len(counts) - 1)

            def log_message(self, *_: object) -> None: ...

        counts: list[int] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def send(handler: BaseHTTPRequestHandler, status: int, body: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


RIGHT = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token_id": 3, "logprob": -2.5}]}]}}]})
OLDER = RIGHT.replace('"token_id": 3', '"token": "token_id:3"')
EMPTY = json.dumps({"choices": []})


def ask(url: str, *, deadline: Deadline | None = None, **options: Any) -> float:
    from genrec.backends.vllm_server import VllmServerBackend

    backend = VllmServerBackend(url, model="m", vocab_size=10, **options)
    try:
        tree = backend.open([np.array([1])], deadline=deadline)
        return float(tree.log_probs(np.array([0]), np.array([3]), np.array([0, 1]))[0])
    finally:
        backend.close()


@needs_httpx
@pytest.mark.parametrize("body", [RIGHT, OLDER], ids=["0.32", "0.25"])
def test_a_lost_request_is_sent_again(serve: Any, body: str) -> None:
    """Servers are restarted and connections break; requests only read, so nothing is done twice."""

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            drop(handler)
        elif before == 1:
            send(handler, 503, "busy")
        else:
            send(handler, 200, body)

    assert ask(serve(answer)) == -2.5


@needs_httpx
@pytest.mark.parametrize(
    ("answer", "says", "requests"),
    [
        (lambda handler, _: drop(handler), "failed 4 times: RemoteProtocolError", 4),
        (lambda handler, _: send(handler, 500, "oh"), "failed 4 times: it answered 500", 4),
        (lambda handler, _: send(handler, 404, "no such path"), "refused .*404: no such path; .*serve_options", 1),
        (lambda handler, _: send(handler, 200, "<html>"), "something else than vLLM", 1),
        (lambda handler, _: send(handler, 200, "[]"), "something else than vLLM", 1),
        (lambda handler, _: send(handler, 200, EMPTY), "something else than vLLM", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", '"x"')), "something else than vLLM", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", "-9999.0")), "returned NaN", 1),
        (lambda handler, _: send(handler, 200, RIGHT.replace("-2.5", "7.5")), "--logprobs-mode raw_logprobs", 1),
    ],
    ids=["drops", "fails", "refuses", "a page", "a list", "no choice", "a word", "NaN", "logits"],
)
def test_a_server_that_fails_is_named(serve: Any, answer: Any, says: str, requests: int) -> None:
    """Whoever is on call must read what failed, where, and what to do."""
    seen: list[int] = []

    def counted(handler: BaseHTTPRequestHandler, before: int) -> None:
        seen.append(before)
        answer(handler, before)

    with pytest.raises(EngineError, match=says):
        ask(serve(counted))
    assert len(seen) == requests


@needs_httpx
def test_a_server_that_is_slow_but_answers_is_waited_for(serve: Any) -> None:
    """A large batch takes long; that is no reason to throw away what has come of it."""
    from genrec.backends.vllm_server import VllmServerBackend

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.4)
        send(handler, 200, RIGHT)

    backend = VllmServerBackend(serve(answer), model="m", vocab_size=10, timeout=1.5, max_concurrency=1)
    try:
        begun = time.monotonic()
        tree = backend.open([np.array([1])] * 6)
        found = tree.log_probs(np.arange(6), np.full(6, 3), np.arange(7))
        assert found.tolist() == [-2.5] * 6
        assert time.monotonic() - begun > 1.5
    finally:
        backend.close()


@needs_httpx
@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_hangs_is_left_in_time(serve: Any, drips: bool) -> None:
    """A request without end holds its customer, and then all the others behind it."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.1):
            if drips:
                handler.wfile.write(b" ")

    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"did not answer within 1 s"):
        ask(serve(answer), timeout=1.0)
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="did not answer before the deadline"):
        ask(serve(answer), deadline=within(1.0))
    assert time.monotonic() - begun < 5
    over.set()


@needs_httpx
def test_slow_stream_is_cut_at_the_deadline(serve: Any) -> None:
    """A time-out is of each piece that is read: a connection that never ends would be lost for good."""
    from genrec.backends.vllm_server import VllmServerBackend

    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before:
            return send(handler, 200, RIGHT)
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.1):
            handler.wfile.write(b" ")

    backend = VllmServerBackend(serve(answer), model="m", vocab_size=10, max_concurrency=1)
    asked = (np.array([0]), np.array([3]), np.array([0, 1]))
    with pytest.raises(DeadlineExceededError):
        backend.open([np.array([1])], deadline=within(0.5)).log_probs(*asked)
    assert np.isfinite(backend.open([np.array([1])], deadline=within(30)).log_probs(*asked)).all()
    over.set()
    backend.close()
    with pytest.raises(EngineError, match="was closed; open another backend"):
        backend.open([np.array([1])]).log_probs(*asked)


@needs_httpx
def test_no_request_is_sent_again_after_the_deadline(serve: Any) -> None:
    """Attempts and their pauses would cost the caller the time that the next step of the ladder needs."""
    seen: list[int] = []

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        seen.append(before)
        time.sleep(0.3)
        send(handler, 503, "busy")

    with pytest.raises(DeadlineExceededError, match="before the deadline"):
        ask(serve(answer), deadline=within(0.5))
    time.sleep(1.0)
    assert len(seen) <= 2


@needs_httpx
def test_a_server_that_is_not_there_is_named() -> None:
    """The first thing that goes wrong in every installation."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"the vLLM server at 127.0.0.1:{port} failed 4 times: ConnectError"):
            ask(f"http://127.0.0.1:{port}")


def test_an_engine_without_adapters_says_how_to_have_them() -> None:
    """The option is given at the start; afterwards it is too late."""
    pytest.importorskip("vllm")
    from genrec.backends.vllm_engine import VllmEngineBackend

    backend: Any = object.__new__(VllmEngineBackend)
    backend.name, backend._max_rank = "m", 0
    with pytest.raises(InputError, match="start it with adapters=1"):
        backend.with_adapter("anywhere")


@pytest.mark.vllm
@needs_vllm
def test_a_batch_run_takes_vllm_for_its_engine(tmp_path: Path) -> None:
    """Lists under the shipped adapter, and texts: what the README promises of --engine, by the command itself."""
    items = [{"item_id": f"i{number}", "title": title} for number, title in enumerate(["Red Mug", "Tea Pot", "Lamp"])]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    rows = [{"history": ["i0"]}, {"history": ["i1", "i2"]}]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 3}
    asked = json.dumps({"custom_id": "a", "body": body})
    (tmp_path / "asked.jsonl").write_text(asked, encoding="utf-8")
    own = ("--items", str(tmp_path / "items.jsonl"), "--strategy", "exhaustive", "--evidence", "0")
    own += ("--adapter", "online-retail", "--k", "1")
    for source, options, columns in (("people", own, "item_id"), ("asked", (), "text")):
        told = {}
        for engine in ("vllm", "transformers"):
            command = [sys.executable, "-m", "genrec", "batch", "run", str(tmp_path / f"{source}.jsonl")]
            out = tmp_path / f"{source}-{engine}"
            done = subprocess.run(
                [*command, str(out), "--engine", engine, *options], capture_output=True, check=False, timeout=PATIENCE
            )
            assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
            told[engine] = pq.read_table(out / "parts").to_pylist()
        assert len(told["vllm"]) == len(told["transformers"])
        for one, other in zip(told["vllm"], told["transformers"], strict=True):
            assert one["row"] == other["row"]
            assert one[columns]
            if columns == "item_id":
                assert one["item_id"] == other["item_id"]
                assert one["score"] == pytest.approx(other["score"], abs=0.5)  # bfloat16 in either
