"""Benchmarks: peers return the same results as genrec, and reports are correct."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.speed import dictionary, exactness, huggingface, lookup, static, subject, tree
from eval.speed import open as opening
from eval.speed.catalog import Identifiers, titles, uniform, zipf
from eval.speed.measurement import interleave, peak_memory
from eval.speed.model import random_backend
from eval.speed.plot import draw_runs, read_runs
from eval.speed.report import BenchmarkOptions, BenchmarkRow, Target, write_json
from eval.speed.search import grid
from eval.speed.tree import hybrid_backend
from genrec import open_dataset
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Ranking


@given(
    seed=st.integers(0, 2**32),
    vocab_size=st.integers(2, 40),
    length=st.integers(3, 6),
    count=st.integers(1, 300),
)
def test_static_dictionary_and_genrec_find_the_same_children(
    seed: int, vocab_size: int, length: int, count: int
) -> None:
    """A ratio of two lookups with different results means nothing."""
    random = np.random.default_rng(seed)
    rows = np.unique(random.integers(0, vocab_size, (count, length), dtype=np.uint16), axis=0)
    codes = Identifiers.from_rows("random", random.permutation(rows), vocab_size)
    trie, table, root = subject.build(codes), static.build(codes), dictionary.build(codes)
    for depth in range(length):
        prefixes = codes.prefixes(depth, 12, seed=seed)
        log_probs = torch.randn((12, vocab_size), generator=torch.Generator().manual_seed(depth)).log_softmax(1)
        mine = subject.flat(subject.children(trie, subject.locate(trie, prefixes), log_probs))
        masked = dictionary.mask(root, 12)(torch.from_numpy(prefixes), log_probs)
        assert lookup.same_children(mine, static.flat(masked))
        if depth == 0:
            theirs = static.flat(table.first(log_probs))
        elif depth == 1:
            theirs = static.flat(table.second(table.locate(prefixes), log_probs))
        else:
            theirs = static.flat(*table.children(table.locate(prefixes), log_probs, depth)[:2])
        assert lookup.same_children(mine, theirs)


def test_a_part_of_the_dictionary_gives_the_same_children() -> None:
    """At 10M items only a part of it fits into memory."""
    codes = uniform(2000, 4, 16)
    prefixes = codes.prefixes(2, 20, seed=0)
    log_probs = torch.zeros((20, 16))
    both = dictionary.build(codes), dictionary.below(codes, prefixes)
    masks = [dictionary.mask(root, 20)(torch.from_numpy(prefixes), log_probs) for root in both]
    assert torch.equal(*masks)


def test_static_leads_every_row_to_its_item() -> None:
    """An index that cannot name the item is smaller than one that can."""
    codes = uniform(500, 4, 32)
    table = static.build(codes)
    last = table.locate(codes.rows[:, :3].astype(np.int64))
    log_probs = torch.zeros((500, 32))
    found, tokens, states = table.children(last, log_probs, 3)
    own = (tokens == torch.from_numpy(codes.rows[:, 3:].astype(np.int32))) & (found > -torch.inf)
    assert torch.equal(table.items[states[own].long()], torch.arange(500, dtype=torch.int32))


@pytest.mark.parametrize("draw", [uniform, zipf])
def test_catalogs_hold_distinct_items(draw: type) -> None:
    """genrec rejects duplicate identifiers, and a peer would count them once."""
    codes: Identifiers = draw(5000, 4, 64)
    assert len(np.unique(codes.rows, axis=0)) == len(codes) == 5000


def test_titles_are_encoded_as_their_text(tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    """Titles are concatenated from encoded words, which must equal the encoded title."""
    catalog, _ = open_dataset("online-retail", tmp_path)
    codes = titles(2000, catalog.titles, tokenizer)
    sequences = codes.sequences()
    assert len({tuple(one.tolist()) for one in sequences}) == 2000
    bodies = {tuple(one[:-1].tolist()) for one in sequences}
    assert any(body[:end] in bodies for body in bodies for end in range(1, len(body)))
    for one in sequences[:300]:
        assert one[-1] == tokenizer.eos_token_id
        np.testing.assert_array_equal(one[:-1], tokenizer.encode_text(tokenizer.decode(one[:-1].tolist())))


def test_workloads_are_timed_in_turns() -> None:
    """A slow phase of the machine must affect both."""
    called: list[str] = []
    found = interleave({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=5, warm_up=False)
    assert called == ["a", "b"] * 5
    assert found["a"].rounds == 5
    assert found["a"].low <= found["a"].seconds <= found["a"].high


def test_peak_memory_is_that_of_the_build(tmp_path: Path) -> None:
    """The memory of the parent process must not be counted."""
    held = np.ones(40_000_000)
    np.save(tmp_path / "rows.npy", uniform(200_000, 4, 2048).rows)
    peak = peak_memory("dictionary", tmp_path / "rows.npy", 2048)
    assert peak.imported < peak.highest
    assert 50 * 200_000 < peak.kept < 5000 * 200_000
    assert held.nbytes > 0


def test_rows_are_judged_by_the_value_of_their_target(tmp_path: Path) -> None:
    """Readers of the file must see which rows met their bounds without knowing the bounds."""
    rows = [
        BenchmarkRow("C1", "fast", 1.0, "s", Target(25, 60, at="least"), 30.0, ratio_of="peer/genrec"),
        BenchmarkRow("C5", "slow", 6.0, "s", Target(5, 2, judged="genrec"), 1.0),
        BenchmarkRow("C8", "none", None, "s", Target(0.5, 0.05, judged="genrec")),
    ]
    write_json(tmp_path / "report.json", rows, {"machine": {}, "commit": "0", "seconds": 1.0, "arguments": []})
    written = json.loads((tmp_path / "report.json").read_text())
    assert [row["ratio"] for row in written["rows"]] == [30.0, 6.0, None]
    assert [row["holds"] for row in written["rows"]] == [True, False, None]
    assert [row["aim_holds"] for row in written["rows"]] == [False, False, None]
    named = {
        "id",
        "variant",
        "genrec",
        "peer",
        "peer_name",
        "peer_version",
        "ratio",
        "ratio_of",
        "unit",
        "floor",
        "aim",
    }
    assert named <= set(written["rows"][0])
    assert {"machine", "commit", "seconds", "arguments"} <= set(written)


def some_rows() -> list[BenchmarkRow]:
    """One row of each kind that a figure can show."""
    least, own = Target(25, 60, at="least"), Target(5, 2, judged="genrec")
    return [
        BenchmarkRow("C1", "fast", 1.0, "s", least, 70.0, "dictionary", ratio_of="peer/genrec"),
        BenchmarkRow("C1", "slow", 1.0, "s", least, 20.0, "dictionary", ratio_of="peer/genrec"),
        BenchmarkRow("C2", "even", 1.0, "s", Target(1.25, 1.1), 0.9, "genrec on less"),
        BenchmarkRow("C5", "late", 6.0, "s", own, 9.0, "STATIC"),
        BenchmarkRow("C5", "late", 6.0, "s", own, 40.0, "dictionary"),
        BenchmarkRow("C8", "none", None, "s", own),
        BenchmarkRow("C13", "lone", 3.0, "s", own),
        BenchmarkRow("C14", "item repeated", 0, "of 60 cases", Target(0, 0, judged="genrec")),
        BenchmarkRow("C14", "list too short", 2, "of 60 cases", Target(0, 0, judged="genrec")),
        BenchmarkRow("S1", "informs", 0.7, "s"),
    ]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (slice(None), ["speed.svg", "speed-own.svg"]),
        (slice(0, 1), ["speed.svg"]),
        (slice(2, 3), ["speed.svg"]),
        (slice(6, 7), ["speed-own.svg"]),
        (slice(5, 6), []),
        (slice(7, None), []),
        (slice(0, 0), []),
    ],
)
def test_any_rows_can_be_drawn(chosen: slice, expected: list[str], tmp_path: Path) -> None:
    """A run with few or no comparable rows must still give the other figures."""
    facts: dict[str, Any] = {"machine": {}, "commit": "0", "seconds": 1.0, "arguments": []}
    write_json(tmp_path / "run.json", some_rows()[chosen], facts)
    written = draw_runs([tmp_path / "run.json"], tmp_path / "figures")
    assert [path.name for path in written] == expected
    for path in written:
        assert "<svg" in path.read_text(encoding="utf-8")
        assert path.with_suffix(".png").stat().st_size > 1000


def test_figures_are_deterministic(tmp_path: Path) -> None:
    """A figure that differs every time fills the repository with empty changes."""
    write_json(tmp_path / "run.json", some_rows(), {})
    first, second = (draw_runs([tmp_path / "run.json"], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_later_measurement_replaces_an_earlier_one(tmp_path: Path) -> None:
    """Two dots for one row would look like a spread between variants."""
    rows = some_rows()
    write_json(tmp_path / "old.json", rows, {"commit": "1"})
    write_json(tmp_path / "new.json", [replace(rows[0], genrec=2.0)], {"commit": "2"})
    found, runs = read_runs([tmp_path / "old.json", tmp_path / "new.json"])
    assert len(found) == len(rows)
    assert [row["genrec"] for row in found if row["variant"] == "fast"] == [2.0]
    assert [run["commit"] for run in runs] == ["1", "2"]


def test_generate_and_genrec_find_the_same_items() -> None:
    """Timings are comparable only if both find the same items."""
    backend = random_backend("tiny")
    codes = grid(300, backend.vocab_size)
    trie, root = subject.build(codes), dictionary.build(codes)
    for seed, width in ((1, 4), (2, 20)):
        prompt = np.random.default_rng(seed).integers(0, backend.vocab_size, 12)
        mine = subject.search(backend, trie, [prompt], k=width, width=width)[0]
        theirs = huggingface.generate(backend.model, prompt, root, width=width, steps=4)
        assert mine.item_indices.tolist() == [huggingface.item_of(root, path) for path in theirs]


def test_trees_and_generate_rank_the_same_candidates() -> None:
    """A tree that is faster because it ranks other titles is not faster."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    backend = hybrid_backend(3, **sizes, initializer_range=0.2)
    assert backend.tree == "paths"
    rows = list(tree.rows(BenchmarkOptions(quick=True, rounds=1), backend))
    assert [row.id for row in rows] == ["C19", "C19"]
    assert rows[1].note.endswith("the same list for 1 of them")  # beams as wide as the candidates prune nothing


def test_generate_finds_paths_of_any_length() -> None:
    """A path that is truncated, or continues after its end token, is not an item."""
    backend = random_backend("tiny")
    sequences = [np.array(one) for one in ([5, 9], [5, 6, 9], [7, 8, 4, 9], [3, 9])]
    codes = Identifiers.from_sequences("titles", sequences, backend.vocab_size)
    prompt = np.array([11, 12, 13])
    root = dictionary.build(codes)
    theirs = huggingface.generate(backend.model, prompt, root, width=4, steps=4, end=9)
    mine = subject.search(backend, subject.build(codes), [prompt], k=4, width=4)[0]
    assert mine.item_indices.tolist() == [huggingface.item_of(root, path) for path in theirs]


def test_all_scoring_methods_give_the_same_scores() -> None:
    """Different scores would mean that one method skips work."""
    backend = random_backend("tiny")
    random = np.random.default_rng(1)
    prompt, chosen = random.integers(0, 500, 9), np.unique(random.integers(0, 500, (20, 4)), axis=0)
    trie = subject.build(Identifiers.from_rows("candidates", chosen.astype(np.uint16), 500))
    ranking = subject.search_exhaustively(backend, trie, [prompt], k=20)[0]
    for score in (huggingface.score_alone, huggingface.score_repeated):
        scores = score(backend.model, prompt, chosen)
        np.testing.assert_allclose(scores[ranking.item_indices], ranking.scores, atol=1e-4)


def test_random_cases_violate_no_guarantee() -> None:
    """The published number of violations is zero; so is that of this smaller run."""
    assert {row.variant: row.genrec for row in exactness.rows(60, seed=7)} == dict.fromkeys(exactness.GUARANTEES, 0)


def test_a_third_of_the_random_cases_subtract_a_prior() -> None:
    """Scores can rise along a path only with a prior, which is the hard case for the bounds."""
    random = np.random.default_rng(7)
    cases = [exactness.draw(random) for _ in range(300)]
    with_prior = [case for case in cases if case.prior_weight]
    assert 0.25 < len(with_prior) / len(cases) < 0.42
    assert {(case.prior_weight, case.kind) for case in with_prior} == {
        (weight, kind) for weight in (0.5, 1.0, 2.0) for kind in ("model", "catalog")
    }


def test_a_prior_that_is_not_subtracted_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force must compute the prior independently of the search."""
    monkeypatch.setattr(exactness.Case, "prior_penalty", lambda *_: None)
    counted = {row.variant: row.genrec for row in exactness.rows(30, seed=7)}
    assert counted["score of an item wrong"]


def test_a_wrong_search_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is always zero proves nothing."""

    def backwards(*arguments: Any, **options: Any) -> list[Ranking]:
        found = subject.search_exhaustively(
            *arguments, **{name: options[name] for name in options if name not in ("width", "exact")}
        )
        return [replace(one, item_indices=one.item_indices[::-1]) for one in found]

    monkeypatch.setattr(subject, "search", backwards)
    counted = {row.variant: row.genrec for row in exactness.rows(30, seed=7)}
    assert counted["score of an item wrong"]
    assert counted["full width differs from brute force"] or counted["reported as proven but not the top k"]


def test_genrec_and_its_peer_open_the_same_log(tmp_path: Path) -> None:
    """A command that fails, or a file that a peer cannot read, would be found only in the long measurement."""
    opening.write_log(tmp_path, scale=200)
    files = ["--items", str(tmp_path / "items.csv"), "--interactions", str(tmp_path / "events.csv")]
    genrec = [sys.executable, "-m", "genrec", "recommend", "u0", *files, "--model", "none", "--encoder", "none"]
    peer = [sys.executable, "eval/speed/open_peers.py", "implicit", str(tmp_path / "events.csv"), "9"]
    for command in (genrec, peer):
        cost = opening.run_measured(command, {"GENREC_CACHE": str(tmp_path / "cache")})
        assert cost.seconds > 0
        assert cost.megabytes > 10
    with pytest.raises(ValueError, match="exit code"):
        opening.run_measured([*peer[:-2], str(tmp_path / "absent.csv"), "9"], {})
