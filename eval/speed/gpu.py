"""Benchmarks on one GPU: the constraint, tree search in Transformers, and ranking inside vLLM (G1 to G12).

The vLLM rows need vLLM, with genrec installed in the same environment so that vLLM finds the plugin. Weights (in the
shape of a model with 1.7B parameters) and prompts are random, because the time of a pass does not depend on them. With
`--quick` everything is small and also runs without a GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from eval.soak import ListParser, serving_catalogs
from eval.speed import static, subject
from eval.speed.catalog import uniform
from eval.speed.measurement import Timing, call_and_store, interleave
from eval.speed.model import write_model
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from eval.speed.vllm import BEAMS, plugin_row, throughput_row, token_prompts
from genrec import Catalog, CatalogIndex, Item, TitleIdentifiers
from genrec.backends import Backend, default_device, native_dtype
from genrec.cache import default_cache
from genrec.data import Subset
from genrec.decoding import CatalogGrammar, DelimiterTokens
from genrec.errors import InputError
from genrec.loading import find_model_directory
from genrec.prompting import HuggingFaceTokenizer
from genrec.settings import LANGUAGE_MODEL
from genrec.types import IntArray
from genrec.vllm_plugin import TensorAllowedBatch, TensorTrie

ROWS = 140  # nodes of a step: 2 users and 70 beams, as in the peer's publication
REPLAYS = 200  # replays of a graph per timing
CONSTRAINT_STEP = Target(33e-6, 10e-6, judged="genrec")
TREE = Target(95e-3, 42e-3, judged="genrec")
MANY = {50: Target(3.0, 7.0, at="least"), 128: Target(6.0, 12.0, at="least")}
SUFFIX = Target(10.0, 40.0, at="least")
ADAPTER = Target(0.8, 0.9, at="least")
SECOND_TURN = Target(0.8, 0.95, judged="genrec", at="least")

Step = Callable[[], tuple[torch.Tensor, ...]]


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed gpu`."""
    if not torch.cuda.is_available() and not options.quick:
        raise InputError("torch finds no GPU; run on a machine with a GPU, or with --quick to test the benchmark")
    return [
        BenchmarkJob("constraint", ("G1",), partial(_constraint, options)),
        BenchmarkJob("Transformers", ("G6",), partial(_tree, options)),
        BenchmarkJob("vLLM", ("G3", "G4", "G5", "G8", "G12"), partial(_engine, options)),
        BenchmarkJob("vLLM with an adapter", ("G10",), partial(_adapter, options)),
    ]


def _constraint(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """G1: the children of 140 nodes with their log-probabilities, entirely on the device."""
    codes, device = uniform(20_000 if options.quick else 20_000_000, 8, 2048), default_device()
    host = subject.build(codes)
    trie, peer = TensorTrie(host, device), static.build(codes).to(device)
    log_probs = torch.randn((ROWS, codes.vocab_size), device=device).log_softmax(dim=1)
    denied = np.random.default_rng(1).integers(0, len(host), (ROWS, 100))
    allowed = TensorAllowedBatch([Subset.everything(len(host)).without(np.unique(own)) for own in denied], device)
    owner = torch.arange(ROWS, device=device)
    for depth in (2, 4):
        prefixes = codes.prefixes(depth, ROWS, seed=1)
        states, most = _walk(trie, prefixes), trie.max_children_from_depth[depth]
        theirs = peer.locate(prefixes)

        def step(states: torch.Tensor = states, most: int = most) -> tuple[torch.Tensor, ...]:
            return _constrained_step(trie, states, log_probs, most)

        def filtered(states: torch.Tensor = states, most: int = most) -> tuple[torch.Tensor, ...]:
            return _constrained_step(trie, states, log_probs, most, owner=owner, allowed=allowed)

        def other(states: torch.Tensor = theirs, depth: int = depth) -> tuple[torch.Tensor, ...]:
            return peer.children(states, log_probs, depth)

        steps: dict[str, Step] = {"genrec": step, "with 100 items denied": filtered, "peer": other}
        mine, reference = step(), other()
        if int((mine[0] > -torch.inf).sum()) != int((reference[0] > -torch.inf).sum()):
            raise ValueError(f"two indexes differ after {ROWS} nodes of depth {depth}")
        for launch, works in _launch_variants(steps):
            found = interleave(works, rounds=options.rounds, min_seconds=0.0)
            for name in ("genrec", "with 100 items denied"):
                variant = f"{codes.name} depth {depth}, {launch}{'' if name == 'genrec' else ', ' + name}"
                note = (
                    f"{most} positions per node, the peer reads {peer.limits[depth]}; genrec's steps have no host sync"
                )
                times = [_per_unit(found[one], REPLAYS) for one in (name, "peer")]
                target = Target() if options.quick else CONSTRAINT_STEP
                yield timed("G1", variant, *times, target=target, peer_name=static.NAME, note=note)


def _constrained_step(
    trie: TensorTrie, states: torch.Tensor, log_probs: torch.Tensor, max_children: int, **allowed: Any
) -> tuple[torch.Tensor, ...]:
    """A constrained step of genrec: float32 and int64 [R, M] log-probabilities, tokens, states."""
    found = trie.children(states, max_children, **allowed)
    gathered = log_probs.gather(1, found.tokens).masked_fill(~found.valid, -torch.inf)
    return gathered, found.tokens, found.states


def _walk(trie: TensorTrie, prefixes: IntArray) -> torch.Tensor:
    """int64 [R], the states after prefixes [R, D]."""
    states = torch.zeros(len(prefixes), dtype=torch.int64, device=default_device())
    for column in torch.from_numpy(prefixes.T).to(default_device()):
        states = trie.advance(states, column)
    return states


def _launch_variants(steps: dict[str, Step]) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """The steps launched one by one, captured as graphs, and compiled and captured."""
    if not torch.cuda.is_available():
        yield "on the CPU", {name: partial(_repeat, step) for name, step in steps.items()}
        return
    with _no_sync():
        for step in list(steps.values())[:2]:
            step()
    yield "launched one by one", {name: partial(_repeat, step) for name, step in steps.items()}
    yield "a graph", {name: partial(_repeat, _graph(step)) for name, step in steps.items()}
    compiled = {name: torch.compile(step, dynamic=False) for name, step in steps.items()}
    yield "compiled, a graph", {name: partial(_repeat, _graph(step)) for name, step in compiled.items()}


@contextmanager
def _no_sync() -> Iterator[None]:
    """Make every synchronisation with the GPU an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _graph(step: Step) -> Callable[[], object]:
    """Capture a step as a graph, and return its replay function."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _repeat(work: Callable[[], object]) -> None:
    for _ in range(REPLAYS):
        work()
    _synchronize()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _per_unit(timing: Timing, count: int) -> Timing:
    """The timing of one of `count` units."""
    return replace(timing, seconds=timing.seconds / count, low=timing.low / count, high=timing.high / count)


def _tree(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """G6: beam search for one request, including its prompt, in Transformers."""
    from genrec.backends import TransformersBackend

    shape, length, width, count = ("tiny", 100, 16, 2000) if options.quick else ("1.7B", 5000, 256, 1_000_000)
    device = default_device()
    with TemporaryDirectory() as folder:
        write_model(shape, Path(folder), device=device)
        backend = TransformersBackend(folder, device=str(device), dtype=native_dtype(device), name=f"random {shape}")
    trie = subject.build(uniform(count, 3, 256))
    prompt = np.random.default_rng(2).integers(0, backend.vocab_size, length)
    last: dict[str, Any] = {}
    works: dict[str, Callable[[], Any]] = {
        "genrec": partial(
            call_and_store, last, "genrec", partial(subject.search, backend, trie, [prompt], k=width, width=width)
        ),
        "prompt": partial(_read_prompt, backend, prompt),
    }
    found = interleave(works, rounds=2 * options.rounds, min_seconds=0.0)
    ranking = last["genrec"][0]
    yield timed(
        "G6",
        f"{shape}, prompt {length}, width {width}, 3 tokens, {count:,} items",
        found["genrec"],
        found["prompt"],
        target=Target() if options.quick else TREE,
        peer_name="Transformers, the prompt alone",
        note=f"{len(ranking.item_indices)} items, {ranking.generated_tokens} tokens in {ranking.forward_passes} passes",
    )
    del backend
    torch.cuda.empty_cache()


def _read_prompt(backend: Any, prompt: IntArray) -> None:
    backend.open([prompt])
    _synchronize()


def _engine(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """The rows that share one vLLM engine."""
    from genrec.backends import VllmEngineBackend

    quick = options.quick
    shape, longest = ("12M", 512) if quick else ("1.7B", 4096)
    beams = {4: 2, 8: 2} if quick else {50: 16, 128: 16}  # users of each width
    with TemporaryDirectory() as place:
        model, catalogs = Path(place) / "model", Path(place) / "catalogs"
        write_model(
            shape, model, tokenizer=find_model_directory(LANGUAGE_MODEL, default_cache()), device=default_device()
        )
        tokenizer = HuggingFaceTokenizer.from_directory(model)
        index = CatalogIndex.build(word_catalog(tokenizer, 500 if quick else 20_000), TitleIdentifiers(), tokenizer)
        index.save(catalogs / "words")
        with serving_catalogs(catalogs):
            backend = VllmEngineBackend(
                model,
                context_length=longest,
                name=f"random {shape}",
                llm_kwargs={"max_logprobs": 2 * max(beams), "skip_tokenizer_init": False, **_half_gpu_memory()},
            )
            try:
                yield from _engine_rows(options, backend, _ListGenerator(backend.llm, index, tokenizer), beams)
            finally:
                backend.close()


def _engine_rows(
    options: BenchmarkOptions, backend: Any, generator: "_ListGenerator", beams: Mapping[int, int]
) -> Iterator[BenchmarkRow]:
    if options.wants("G3"):
        yield from _plugin(options, generator)
    if options.wants("G4"):
        for width, users in beams.items():
            yield from _concurrent_users(options, backend, generator, width, users)
    if options.wants("G5"):
        yield _wide_beams(options, backend)
    if options.wants("G8"):
        yield _suffixes(options, backend)
    if options.wants("G12"):
        yield _second_turn(options, generator)


def _half_gpu_memory() -> dict[str, Any]:
    """Leave memory for the peer's logits of every prompt token beside the engine's pool."""
    return {"gpu_memory_utilization": 0.5} if torch.cuda.is_available() else {}


def word_catalog(tokenizer: HuggingFaceTokenizer, count: int) -> Catalog:
    """Items of three words, each one token: as long as semantic ids, but from the model's own vocabulary."""
    random = np.random.default_rng(3)
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    words = sorted({text.strip() for text in texts if text.startswith(" ") and text[1:].isalpha() and text.isascii()})
    words = [word for word in words if len(tokenizer.encode_text(word)) == len(tokenizer.encode_text(f" {word}")) == 1]
    chosen = random.permutation(words)[:256]
    titles = {" ".join(random.choice(chosen, 3)) for _ in range(2 * count)}
    return Catalog.from_items(Item(str(number), title) for number, title in enumerate(sorted(titles)[:count]))


class _ListGenerator:
    """Generates greedy lists with the plugin."""

    def __init__(self, llm: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer) -> None:
        delimiters = DelimiterTokens.from_tokenizer(tokenizer)
        self.llm, self._grammar, self._count = llm, CatalogGrammar(index.trie, delimiters), len(index.trie)
        self._parser = ListParser(index, delimiters)

    def generate(self, prompts: list[list[int]], k: int) -> list[list[int]]:
        """The tokens of a list of k items for each prompt."""
        return [list(answer.outputs[0].token_ids) for answer in self.outputs(prompts, k)]

    def outputs(self, prompts: list[list[int]], k: int) -> list[Any]:
        """The vLLM outputs of a list of k items for each prompt."""
        from vllm import SamplingParams

        room = self._grammar.max_answer_tokens("list", k=k)
        constraints = {"genrec_catalog": "words", "genrec_k": k}
        params = SamplingParams(temperature=0.0, max_tokens=room, extra_args=constraints, detokenize=False)
        found: list[Any] = self.llm.generate(token_prompts(prompts), params, use_tqdm=False)
        return found

    def check(self, token_ids: Sequence[list[int]], k: int) -> str:
        """The faults of lists, as text."""
        faults = Counter(fault for tokens in token_ids for fault in self._parser.faults(tokens, {"genrec_k": k}))
        found = ", ".join(f"{faults[name]} {name}" for name in ("invalid", "repeated", "short"))
        return f"{len(token_ids)} lists of {self._count:,} items: {found}"


def _prompts(count: int, length: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1000, 40_000, length).tolist() for _ in range(count)]


def _plugin(options: BenchmarkOptions, generator: _ListGenerator) -> Iterator[BenchmarkRow]:
    """G3: decode throughput with the plugin over throughput without it."""
    for users in (2,) if options.quick else (1, 64, 256):
        prompts, k = _prompts(users, 100 if options.quick else 512, seed=users), 10
        last: dict[str, Any] = {}
        row = plugin_row(
            options,
            generator.llm,
            prompts,
            partial(call_and_store, last, "lists", partial(generator.generate, prompts, k)),
        )
        yield replace(row, note=generator.check(last["lists"], k))


def _concurrent_users(
    options: BenchmarkOptions, backend: Any, generator: _ListGenerator, width: int, users: int
) -> Iterator[BenchmarkRow]:
    """G4: requests per second of beams and lists over vLLM's beams of the same width, without prefix cache hits."""
    from vllm.sampling_params import BeamSearchParams

    prompts = _prompts(users, 100 if options.quick else 2500, seed=width)
    trie = subject.build(uniform(2000 if options.quick else 1_000_000, 4, 256))
    arrays, llm = [np.array(prompt) for prompt in prompts], backend.llm
    search = partial(subject.search, backend, trie, arrays, k=width, width=width)
    last: dict[str, Any] = {}
    params = BeamSearchParams(beam_width=width, max_tokens=4, ignore_eos=True)
    works: dict[str, Callable[[], Any]] = {
        f"beams, width {width}, 4 tokens": partial(search, kind="model"),
        f"list of {width}": partial(generator.generate, prompts, width),
        "peer": partial(llm.beam_search, token_prompts(prompts), params, use_tqdm=False),
    }
    fresh = {
        name: partial(_without_prefix_cache, llm, partial(call_and_store, last, name, work))
        for name, work in works.items()
    }
    found = interleave(fresh, rounds=options.rounds, warm_up=False)
    theirs = found.pop("peer")
    for name, ours in found.items():
        target = Target() if options.quick else MANY[width]
        note = f"{users} users at once in {ours.seconds:.3g} s, the peer in {theirs.seconds:.3g} s"
        if name.startswith("list"):
            note += f"; {generator.check(last[name], width)}"
        row = BenchmarkRow("G4", f"{name}, prompts of {len(prompts[0])}", None, "requests/s", target, peer_name=BEAMS)
        yield throughput_row(replace(row, note=note), ours, users, theirs, users)


def _without_prefix_cache(llm: Any, work: Callable[[], Any]) -> Any:
    llm.reset_prefix_cache()
    return work()


def _wide_beams(options: BenchmarkOptions, backend: Any) -> BenchmarkRow:
    """G5: 512 beams for 8 users at once."""
    width, users = (16, 2) if options.quick else (512, 8)
    prompts = [np.array(prompt) for prompt in _prompts(users, 100 if options.quick else 2500, seed=5)]
    trie = subject.build(uniform(2000 if options.quick else 1_000_000, 4, 256))
    search = partial(subject.search, backend, trie, prompts, k=width, width=width)
    found = interleave(
        {"genrec": partial(_without_prefix_cache, backend.llm, search)}, rounds=min(options.rounds, 3), warm_up=False
    )
    ours = found["genrec"]
    rate, range_ = users / ours.seconds, (users / ours.high, users / ours.low)
    target = Target() if options.quick else Target(1e-9, 8.0, judged="genrec", at="least")
    return BenchmarkRow(
        "G5", f"beams, width {width}, {users} users at once", rate, "requests/s", target, genrec_range=range_
    )


def _suffixes(options: BenchmarkOptions, backend: Any) -> BenchmarkRow:
    """G8: 500 candidates of 4 tokens after one prompt, which is computed once, over vLLM's `prompt_logprobs`."""
    from vllm import SamplingParams

    length, count = (100, 20) if options.quick else (2048, 500)
    codes, prompt = uniform(count, 4, 2048), _prompts(1, length, seed=8)[0]
    trie = subject.build(codes)
    whole = [[*prompt, *own.tolist()] for own in codes.sequences()]
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    last: dict[str, Any] = {}
    score = partial(subject.search_exhaustively, backend, trie, [np.array(prompt)], k=count)
    works: dict[str, Callable[[], Any]] = {
        "genrec": partial(_without_prefix_cache, backend.llm, score),
        "peer": partial(
            _without_prefix_cache,
            backend.llm,
            partial(backend.llm.generate, token_prompts(whole), params, use_tqdm=False),
        ),
    }
    found = interleave(
        {n: partial(call_and_store, last, n, w) for n, w in works.items()}, rounds=options.rounds, warm_up=False
    )
    theirs = {
        number: sum(next(iter(place.values())).logprob for place in answer.prompt_logprobs[length:])
        for number, answer in enumerate(last["peer"])
    }
    ranking = last["genrec"][0]
    apart = max(abs(theirs[int(n)] - s) for n, s in zip(ranking.item_indices, ranking.scores, strict=True))
    return timed(
        "G8",
        f"{count} candidates of 4 tokens after {length}",
        found["genrec"],
        found["peer"],
        target=Target() if options.quick else SUFFIX,
        peer_name="vLLM, prompt_logprobs",
        ratio_of="peer/genrec",
        note=f"scores differ by at most {apart:.2g} nats",
    )


def _second_turn(options: BenchmarkOptions, generator: _ListGenerator) -> BenchmarkRow:
    """G12: the share of a chat's second prompt that comes from the prefix cache."""
    first = _prompts(8, 100 if options.quick else 512, seed=12)
    said = [[*prompt, *answer] for prompt, answer in zip(first, generator.generate(first, 10), strict=True)]
    second = [[*own, *more] for own, more in zip(said, _prompts(8, 20, seed=13), strict=True)]
    shares = [one.num_cached_tokens / len(own) for one, own in zip(generator.outputs(second, 10), said, strict=True)]
    target = Target() if options.quick else SECOND_TURN
    note = f"of the {len(said[0])} tokens before the last message"
    return BenchmarkRow(
        "G12", "second turn of a chat, with lists", float(np.mean(shares)), "of tokens", target, note=note
    )


def _adapter(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """G10: beam search with a LoRA adapter over beam search with the base model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from genrec.backends import VllmEngineBackend, load_pretrained

    shape, length, width, users = ("12M", 100, 4, 2) if options.quick else ("1.7B", 2500, 50, 16)
    with TemporaryDirectory() as place:
        model = write_model(shape, Path(place) / "model", device=default_device())
        tuned = get_peft_model(
            load_pretrained(AutoModelForCausalLM, model), LoraConfig(r=16, target_modules="all-linear")
        )
        tuned.save_pretrained(str(Path(place) / "adapter"))
        trie = subject.build(uniform(2000 if options.quick else 1_000_000, 4, 256))
        prompts = [np.array(prompt) for prompt in _prompts(users, length, seed=10)]
        found: dict[str, Timing] = {}
        for name, adapters in (("base", 0), ("adapter", 1)):
            plain = VllmEngineBackend(model, context_length=4096, max_adapters=adapters, llm_kwargs=_half_gpu_memory())
            try:
                backend: Backend = plain.with_adapter(Path(place) / "adapter") if adapters else plain
                search = partial(subject.search, backend, trie, prompts, k=width, width=width)
                works = {name: partial(_without_prefix_cache, plain.llm, search)}
                found.update(interleave(works, rounds=options.rounds, warm_up=False))
            finally:
                plain.close()
    target = Target() if options.quick else ADAPTER
    row = BenchmarkRow("G10", f"{shape}, width {width}, {users} users, rank 16", None, "requests/s", target)
    # Merged weights have the same shapes, and so the same speed, as the base model.
    yield throughput_row(replace(row, peer_name="genrec, no adapter"), found["adapter"], users, found["base"], users)
