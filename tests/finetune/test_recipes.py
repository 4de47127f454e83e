"""What is learned from is what is served, and a run that was killed ends where it would have ended."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_support import save_adapter
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.config import TrainConfig, read_config
from finetune.data import TrainingData
from finetune.folder import last_checkpoint
from finetune.forward import ExampleLogProbs, compute_log_probs, item_log_probs, pack_examples
from finetune.merge import merge
from finetune.model import open_model
from finetune.objectives import compute_loss, constrained_loss, likelihood_loss, listwise_loss
from finetune.promote import AdapterComparison, main, promote
from finetune.tasks import query_text
from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeSettings,
    Item,
    Settings,
    TitleIdentifiers,
    open_dataset,
    open_recommender,
    read_template,
)
from genrec.backends.attention import use_packed_attention
from genrec.backends.base import Backend
from genrec.backends.provenance import Provenance
from genrec.backends.transformers import TransformersBackend
from genrec.data.subset import Subset
from genrec.decoding.search import SearchRequest, exhaustive_search
from genrec.errors import InputError, MismatchError
from genrec.evaluation.metrics import Interval
from genrec.index.training_examples import Target, TrainingExample, build_example
from genrec.prompting.renderer import Renderer
from genrec.prompting.tokenizer import HuggingFaceTokenizer

pytestmark = pytest.mark.model
TITLES = ["The Babadook", "Alien", "Aliens", "The Thing", "Heat", "Blade Runner", "The Terminator", "The Matrix"]


def test_a_score_in_training_is_the_score_in_serving(
    smollm2: Path, smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer
) -> None:
    """A packed tree that leaked one token into another would teach a game that is not played."""
    catalog = Catalog.from_items(Item(title, title) for title in TITLES)
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    renderer = Renderer(catalog, tokenizer, read_template("next-item"), 2000, 12)
    people = [np.array([1, 4, 2, 6]), np.array([7, 0, 3])]
    targets = [[Target(2, np.array([0, 5])), Target(3, np.array([7]))], [Target(1, np.array([1, 2, 3]))]]
    pairs = zip(people, targets, strict=True)
    packed = pack_examples([build_example(renderer, index, history, own) for history, own in pairs], [True, True])
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    use_packed_attention(model)
    with torch.inference_mode():
        reading = compute_log_probs(model, packed)
        found = item_log_probs(reading.item_tokens, packed).numpy()
    expected = []
    for history, own in zip(people, targets, strict=True):
        for target in own:
            items = [int(history[target.event_index]), *target.negatives.tolist()]
            prompt = renderer.render(history[: target.event_index], "", np.empty(0, dtype=np.int64)).token_ids
            tree = smollm2_float32.open([prompt])
            terms = SearchRequest([index.to_row_subset(Subset.from_indices(len(catalog), items))], len(catalog))
            (ranking,) = exhaustive_search(tree, index.trie, terms)
            scores = dict(zip(ranking.item_indices.tolist(), ranking.scores.tolist(), strict=True))
            expected += [scores[item] for item in items]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert packed["items"][packed["taken"]].tolist() == [2, 6, 0]
    # What of a step lies among the catalog's tokens is what the search calls the score of the catalog.
    sure = [float(reading.allowed_tokens[packed["forks"] == step]) for step in packed["forks"]]
    assert float(reading.item_tokens[packed["forks"]].sum()) <= sum(sure) < 0
    catalog_score = -constrained_loss(reading.item_tokens, packed["forks"], reading.allowed_tokens, 1)
    expected = []
    for history, own in zip(people, targets, strict=True):
        for target in own:
            prompt = renderer.render(history[: target.event_index], "", np.empty(0, dtype=np.int64)).token_ids
            terms = SearchRequest([index.to_row_subset(Subset.everything(len(catalog)))], len(catalog), "catalog")
            (ranking,) = exhaustive_search(smollm2_float32.open([prompt]), index.trie, terms)
            expected += ranking.scores[ranking.item_indices == history[target.event_index]].tolist()
    assert float(catalog_score) == pytest.approx(sum(expected), abs=2e-3)


@pytest.mark.parametrize("objective", ["listwise", "dpo", "likelihood", "constrained"])
def test_a_mixture_is_its_parts(objective: str) -> None:
    """Choices counted wrongly in a mixed batch would set one person's item against another's."""
    config = TrainConfig.model_validate(
        {"data": "games", "protocol": "candidates", "steps": 1, "objective": objective, "likelihood_weight": 0.5}
    )
    random = np.random.default_rng(0)

    def example(counts: list[int]) -> TrainingExample:
        """Targets with so many choices each, three steps a choice; what was taken has a fork at its second one."""
        targets = np.repeat(np.arange(len(counts)), counts)
        size, starts = 3 * len(targets), 3 * np.cumsum([0, *counts[:-1]])
        steps = np.arange(1, size + 1)
        return TrainingExample(
            token_ids=random.integers(0, 50, size + 1),
            parents=np.arange(-1, size),
            positions=np.arange(size + 1),
            item_indices=random.integers(0, 9, len(targets)),
            item_targets=targets,
            item_tokens=steps,
            token_items=np.repeat(np.arange(len(targets)), 3),
            branch_points=starts + 1,
            branch_offsets=np.arange(0, 2 * len(counts) + 1, 2),
            branch_tokens=random.integers(0, 50, 2 * len(counts)),
        )

    parts, ranked = [example([3, 2]), example([1, 1]), example([4]), example([2, 2, 2])], [True, False, True, False]

    def loss(chosen: list[int]) -> float:
        packed = pack_examples([parts[place] for place in chosen], [ranked[place] for place in chosen])
        steps = torch.cat([logs[place] for place in chosen])
        allowed = torch.cat([sure[place] for place in chosen])
        return float(compute_loss(config, ExampleLogProbs(steps, allowed), packed, torch.zeros(len(packed["items"]))))

    logs = [-torch.rand(len(part.item_tokens), generator=torch.Generator().manual_seed(1)) for part in parts]
    sure = [torch.full((len(part.branch_points),), -0.01) for part in parts]
    # Means over targets, or over steps, of as many for each.
    expected = 3 / 8 * loss([0, 2]) + 5 / 8 * loss([1, 3])
    assert loss([0, 1, 2, 3]) == pytest.approx(expected, abs=1e-5)
    if objective in ("listwise", "dpo"):
        logs = [torch.full((len(part.item_tokens),), -1.0) for part in parts]
        assert loss([2]) == pytest.approx(np.log(4) + 0.5, abs=1e-5)  # nothing learned: any of four


def test_objectives_are_what_they_say() -> None:
    """A softmax over the wrong group would still fall, and teach nothing."""
    scores, targets = torch.tensor([2.0, 1.0, 0.0, 3.0, -1.0]), torch.tensor([0, 0, 0, 1, 1])
    found = listwise_loss(scores, targets, torch.tensor([0, 3]), 2.0)
    one, other = torch.log_softmax(scores[:3] / 2, 0)[0], torch.log_softmax(scores[3:] / 2, 0)[0]
    assert float(found) == pytest.approx(float(-(one + other) / 2))
    steps, choices = torch.tensor([-1.0, -2.0, -4.0, -8.0]), torch.tensor([0, 0, 1, 2])
    assert float(likelihood_loss(steps, choices, torch.tensor([0, 2]))) == pytest.approx(11 / 3)


def test_a_config_that_is_wrong_is_named(tmp_path: Path) -> None:
    """A key that is passed over in silence is a run of something else."""
    path = tmp_path / "one.toml"
    good = 'data = "online-retail"\nprotocol = "next-basket"\nsteps = 2\n'
    for text, message in (
        (good + "step = 3\n", "step: Extra inputs"),
        (good.replace("2", "0"), "steps: "),
        (good + 'objective = "luck"\n', "objective: "),
        (good + "others = 0\n", "others is 0; the objective listwise sets each target against 1 other or more"),
        ("steps", "no TOML"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_config(str(path))
    with pytest.raises(InputError, match="games_cpu"):
        read_config("nothing")
    with pytest.raises(InputError, match=r"'objective=dpo' is no KEY=VALUE of TOML.*quote text"):
        read_config("games_cpu", ["objective=dpo"])
    assert json.loads(read_config("games_cpu").model_dump_json())["data"] == "games"


def test_each_task_says_what_it_promises() -> None:
    """A search for words that the answer lacks, or a description that is its title, teaches the wrong thing."""
    catalog = Catalog.from_items(
        [Item("a", "Alien"), Item("b", "The Big Red Wooden Box", {"price": 2.5, "colour": None})]
    )
    random = np.random.default_rng(0)
    assert query_text("next-item", catalog, 0, 1, random) == query_text("candidates", catalog, 0, 1, random) == ""
    assert query_text("cold-start", catalog, 0, 1, random) == "Something like Alien"
    assert query_text("search", catalog, 1, 0, random) == "Alien"
    searched = {query_text("search", catalog, 0, 1, random) for _ in range(50)}
    assert searched == {"The Big", "Big Red", "Red Wooden", "Wooden Box"}
    described = {query_text("description", catalog, 0, 1, random) for _ in range(50)}
    assert len(described) > 5
    for text in described:
        words, fact = text.split(", ")
        assert fact == "price 2.5"
        assert len(words.split()) == 3
        assert set(words.split()) < {"The", "Big", "Red", "Wooden", "Box"}


def test_tasks_are_drawn_as_often_as_asked(cache: Path) -> None:
    """A mixture that is not the one in the config compares nothing."""
    mixture = {"next-item": 2.0, "candidates": 1.0, "cold-start": 1.0}
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, others=3, targets=2, tasks=mixture)
    rows = TrainingData(config, None).sample_examples(2000)
    counts = Counter(row["task"] for row in rows)
    assert {task: round(counts[task] / 500, 1) for task in mixture} == pytest.approx(mixture, abs=0.2)
    for row in rows:
        asked = zip(*(row[name] for name in ("places", "known", "others", "words", "candidates")), strict=True)
        for place, known, others, words, candidates in asked:
            taken = row["history"][place]
            assert 1 <= known <= place
            assert taken not in row["history"][:known]
            assert bool(others) <= (row["task"] == "next-item")
            assert (taken in candidates) == bool(candidates) == (row["task"] == "candidates")
            assert words.startswith("Something like ") == (row["task"] == "cold-start")


def test_of_a_basket_nothing_is_known_before_all_of_it_is_taken() -> None:
    """Who asks for the next basket has shown none of it; learning from half of it learns another question."""
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, others=1, targets=4, evaluate_users=50)
    moments = TrainingData(config, None)
    log = moments.interactions
    expected, cut = {}, set()
    for user, history in enumerate(log.histories()):
        items = tuple(moments.catalog.indices_of(history.item_ids).tolist())
        times = log.timestamps[log.offsets[user] : log.offsets[user + 1]].tolist()
        expected[items] = [times.index(time) for time in times]
        cut.add(items[: times.index(times[-1])])
    lists = [tuple(history.items.tolist()) for history in moments.train]
    assert set(lists[:50]) <= cut, "of those who tell, the last basket is kept whole"
    assert [history.known.tolist() for history in moments.train[50:]] == [expected[items] for items in lists[50:]]
    shared = 0
    for row in moments.sample_examples(200):
        whole = next(items for items in expected if items[: len(row["history"])] == tuple(row["history"]))
        assert row["known"] == [expected[whole][place] for place in row["places"]]
        shared += len(set(row["known"])) < len(row["known"])
    assert shared > 100, "what one basket holds is asked for with one prompt"


def test_new_events_are_learned_and_old_ones_replayed() -> None:
    """Without the new ones nothing is learned by continuing; without the old ones they are forgotten."""
    since = "2011-10-01"
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, since=since, replay=0.25, others=1)
    moments = TrainingData(config, None)
    old, _ = moments.interactions.split_by_time(since)
    past = {tuple(moments.catalog.indices_of(one.item_ids).tolist()) for one in old.histories()}
    beginnings = {history[:size] for history in past for size in range(1, len(history) + 1)}
    # Whose first items are those of somebody else cannot be told apart: rows with more are looked at.
    rows = [row for row in moments.sample_examples(2000) if row["places"][0] > 4]
    replayed = 0
    for row in rows:
        sides = {tuple(row["history"][: place + 1]) in beginnings for place in row["places"]}
        assert len(sides) == 1, "a tree holds new targets, or old ones"
        replayed += sides.pop()
    assert replayed / len(rows) == pytest.approx(0.25, abs=0.1)
    with pytest.raises(InputError, match="nobody took anything since 2031-01-01"):
        TrainingData(config.model_copy(update={"since": "2031-01-01"}), None)


def test_only_what_ranks_no_worse_is_promoted(tmp_path: Path) -> None:
    """A night's training that went wrong must not serve in the morning."""
    for value, passed in ((0.0, True), (-0.01, False), (1.0, True)):
        assert AdapterComparison("ndcg@10", 1.0, 1.0 + value, Interval(value, value - 1, value + 1)).passed == passed
    place = tmp_path / "serving" / "adapter"
    for rank in (2, 3, 2):
        folder = tmp_path / f"rank{rank}"
        if not folder.exists():
            save_adapter(folder, rank=rank, base_model_name_or_path="SmolLM2-135M-Instruct")
        promote(folder, place)
        assert json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))["r"] == rank
        assert place.is_symlink()
    assert len(list((tmp_path / "serving" / "adapter.versions").iterdir())) == 2


ASKED = """
protocol = "next-basket"
data = "online-retail"
users = 8  # of whom the untrained model ranks some well, so that there is something to lose
seed = 54
background = 0
k = 10
metrics = ["ndcg@10"]

[rankers.popularity]
kind = "popularity"
"""


def test_an_adapter_is_measured_before_it_serves(
    smollm2: Path, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs this at night reads the exit status, and finds in the morning what served the day before."""
    (tmp_path / "asked.toml").write_text(ASKED, encoding="utf-8")
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, rank=2)
    for name, size in (("idle", 0.0), ("broken", 1.0)):
        model = open_model(config, smollm2)
        torch.manual_seed(0)
        for parameter in (own for name, own in model.named_parameters() if "lora_B" in name):
            torch.nn.init.normal_(parameter, std=size)
        model.peft_config["default"].base_model_name_or_path = smollm2.name
        model.save_pretrained(str(tmp_path / name))
    place = tmp_path / "serving"
    main([str(tmp_path / "idle"), str(place), str(tmp_path / "asked.toml")])
    assert "difference 0.00\n" in capsys.readouterr().out
    serving = place.resolve()
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "broken"), str(place), str(tmp_path / "asked.toml")])
    assert stopped.value.code == 3
    assert place.resolve() == serving
    with pytest.raises(SystemExit, match="cannot read the adapter 'nothing'"):
        main([str(tmp_path / "nothing"), str(place), str(tmp_path / "asked.toml")])


def test_checkpoints_that_are_not_whole_are_passed_over(tmp_path: Path) -> None:
    """A disk that filled up while the newest one was written must not cost those before; and none is unpickled."""
    for step in (4, 8, 12):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in ("adapter_model.safetensors", "scheduler.pt", "trainer_state.json"):
            (folder / name).write_bytes(b"" if (step, name) == (12, "scheduler.pt") else b"{}")
        torch.save({}, folder / "optimizer.pt")
    for name in ("trainer_state.json", "optimizer.pt"):  # cut short
        folder = tmp_path / "checkpoints" / f"checkpoint-2{len(name)}"
        shutil.copytree(tmp_path / "checkpoints" / "checkpoint-8", folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-8")
    (tmp_path / "checkpoints" / "checkpoint-8" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(MismatchError, match=r"adapter_model\.bin is pickled"):
        last_checkpoint(tmp_path)
    assert last_checkpoint(tmp_path / "nothing") is None


SMALL = """
data = "online-retail"
protocol = "next-basket"
prior = 0.0
rank = 2
others = 2
targets = 1
trees = 1
steps = 20
evaluate_every = 4
evaluate_users = 2
warmup = 2
"""


def start(config: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "finetune.train", str(config), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def weights(out: Path) -> bytes:
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_that_was_killed_ends_with_the_weights_it_would_have_had(
    smollm2: Path, smollm2_float32: Backend, tmp_path: Path
) -> None:
    """Whoever cannot go on from a kill trains for hours and has nothing; and what differs is no repetition."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL, encoding="utf-8")
    whole, killed = start(config, tmp_path / "whole"), start(config, tmp_path / "killed")
    while killed.poll() is None and not (tmp_path / "killed/checkpoints/checkpoint-8/trainer_state.json").is_file():
        time.sleep(0.05)
    killed.kill()
    _, told = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, told.decode()
    assert not (tmp_path / "killed" / "adapter").exists()
    again = start(config, tmp_path / "killed", "--resume")
    for run in (whole, again):
        _, told = run.communicate(timeout=600)
        assert run.returncode == 0, told.decode()
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    # What comes out is served, and is another model than before.
    tuned = TransformersBackend(smollm2, adapter=tmp_path / "whole" / "adapter", device="cpu", dtype=torch.float32)
    prompt, nodes, offsets = np.arange(5), np.array([0]), np.array([0, 50])
    one, other = (own.open([prompt]).log_probs(nodes, np.arange(50), offsets) for own in (tuned, smollm2_float32))
    assert tuned.name.startswith("SmolLM2-135M-Instruct+adapter-")
    assert 0 < np.abs(one - other).max() < 2
    # It says what it was made of, and merged it is the same model.
    folder = tmp_path / "whole" / "adapter"
    facts = Provenance.read(folder)
    assert (facts.base, facts.config["rank"], facts.metrics["tokens"] > 0) == ("SmolLM2-135M-Instruct", 2, True)
    assert facts == Provenance.read(tmp_path / "killed" / "adapter")
    assert "NDCG@10" in (folder / "README.md").read_text(encoding="utf-8")
    merge(folder, tmp_path / "merged")
    merged = TransformersBackend(tmp_path / "merged", device="cpu", dtype=torch.float32)
    again = merged.open([prompt]).log_probs(nodes, np.arange(50), offsets)
    assert np.abs(again - one).max() < np.abs(again - other).max() / 2  # bfloat16 rounds what was added
    # Another run goes on from it; not with another rank or scale, nor behind another template.
    further = read_config(str(config), ["steps=1", f'start="{folder}"', "learning_rate=1e-12"])
    for change, message in (
        ({"rank": 3}, "the r of .* is 2, and 3 here"),
        ({"alpha": 3}, "the lora_alpha of .* is 32, and 3 here"),
        ({"template": "cold-start"}, "was trained with template"),
        ({"identifiers": "codes"}, "was trained with identifiers = 'titles', not 'codes'"),
    ):
        with pytest.raises(MismatchError, match=message):
            open_model(further.model_copy(update=change), smollm2)
    begun, held = (
        get_peft_model_state_dict(open_model(further, smollm2)),
        load_file(folder / "adapter_model.safetensors"),
    )
    assert all(torch.equal(begun[name].to(torch.bfloat16), held[name]) for name in held)
    # Of a folder that holds a run nothing is written over.
    config.write_text(SMALL.replace("rank = 2", "rank = 3"), encoding="utf-8")
    for more, message in (("--resume", b"whose rank is 2, not 3"), ("--report-to=none", b"whose rank is 2, not 3")):
        run = start(config, tmp_path / "whole", more)
        _, told = run.communicate(timeout=120)
        assert run.returncode == 1
        assert message in told


def test_two_processes_learn_what_one_would(smollm2: Path, tmp_path: Path) -> None:
    """Several that each learn by themselves, or all the same, are several times the cost of one."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL.replace("steps = 20", "steps = 4"), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "finetune.train", str(config), "--out", str(tmp_path / "two")]
    told = subprocess.run(command, capture_output=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr.decode()
    for name, change in (("one", "trees=2"), ("in turn", "accumulate=2")):
        alone = start(config, tmp_path / name, "--set", change)
        _, said = alone.communicate(timeout=600)
        assert alone.returncode == 0, said.decode()
    learned = {}
    for name in ("one", "two", "in turn"):
        curve = json.loads((tmp_path / name / "curve.json").read_text(encoding="utf-8"))
        assert curve[-1]["targets"] == 8
        own = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        learned[name] = torch.cat([own[key].flatten().float() for key in sorted(own) if "lora_B" in key])
    assert learned["one"].abs().max() > 1e-4
    # Where a gradient is next to nothing, the optimizer makes a step of its sign, which rounding decides.
    for name in ("two", "in turn"):
        assert float(torch.nn.functional.cosine_similarity(learned[name], learned["one"], dim=0)) > 0.99, name


def test_an_adapter_that_writes_codes_is_served_with_its_codes(smollm2: Path, cache: Path, tmp_path: Path) -> None:
    """Titles put before a model that learned codes rank by what it has forgotten."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL.replace("20", "1").replace("evaluate_every = 4", "evaluate_every = 1"), encoding="utf-8")
    run = start(config, tmp_path / "run", "--set", 'identifiers="codes"', "width=64")
    _, told = run.communicate(timeout=600)
    assert run.returncode == 0, told.decode()
    folder = tmp_path / "run" / "adapter"
    catalog, interactions = open_dataset("online-retail", cache)
    as_trained = GenerativeSettings(prior=0.0)
    settings = Settings(adapter=folder, generative=as_trained)
    recommender = open_recommender(catalog, interactions, cache=cache, settings=settings)
    assert not recommender.notices
    assert [item.stage for item in recommender.recommend("12748", k=3).items] == ["generative"] * 3
    without = open_recommender(catalog, interactions, cache=cache, settings=replace(settings, encoder=None))
    assert any("writes codes, which need the sentence encoder" in str(notice) for notice in without.notices)
