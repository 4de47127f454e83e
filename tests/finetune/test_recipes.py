"""Training uses the prompts and scores of serving, and a resumed run ends with the same weights."""

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

from finetune.card import build_provenance
from finetune.config import TrainConfig, read_config
from finetune.data import TrainingData
from finetune.folder import last_checkpoint
from finetune.forward import ExampleLogProbs, TreeLayout, compute_log_probs, item_log_probs, pack_examples
from finetune.merge import merge
from finetune.model import open_model
from finetune.objectives import compute_loss, constrained_loss, likelihood_loss, listwise_loss
from finetune.promote import AdapterComparison, promote
from finetune.promote import main as promote_main
from finetune.tasks import query_text
from finetune.train import main as train_main
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
from genrec.datasets.registry import find_adapter
from genrec.decoding.search import exhaustive_search
from genrec.decoding.search_request import SearchRequest
from genrec.errors import InputError, MismatchError
from genrec.evaluation.intervals import Interval
from genrec.evaluation.leakage import find_leakage
from genrec.evaluation.protocols import leave_one_out
from genrec.index.training_examples import Target, TrainingExample, build_example
from genrec.prompting.renderer import Renderer
from genrec.prompting.tokenizer import HuggingFaceTokenizer

pytestmark = pytest.mark.model
TITLES = ["The Babadook", "Alien", "Aliens", "The Thing", "Heat", "Blade Runner", "The Terminator", "The Matrix"]


def test_a_score_in_training_is_the_score_in_serving(
    smollm2: Path, smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer
) -> None:
    """If packing leaks one token into another, training optimises another score than serving uses."""
    catalog = Catalog.from_items(Item(title, title) for title in TITLES)
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    renderer = Renderer(catalog, tokenizer, read_template("next-item"), 2000, 12)
    histories = [np.array([1, 4, 2, 6]), np.array([7, 0, 3])]
    targets = [[Target(2, np.array([0, 5])), Target(3, np.array([7]))], [Target(1, np.array([1, 2, 3]))]]
    pairs = zip(histories, targets, strict=True)
    packed = pack_examples(
        [build_example(renderer, index, history, own) for history, own in pairs], [True, True], TreeLayout("packed")
    )
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    use_packed_attention(model)
    with torch.inference_mode():
        log_probs = compute_log_probs(model, packed)
        found = item_log_probs(log_probs.item_tokens, packed).numpy()
    expected = []
    for history, own in zip(histories, targets, strict=True):
        for target in own:
            items = [int(history[target.event_index]), *target.negatives.tolist()]
            prompt = renderer.render(history[: target.event_index], "", np.empty(0, dtype=np.int64)).token_ids
            tree = smollm2_float32.open([prompt])
            request = SearchRequest([index.to_row_subset(Subset.from_indices(len(catalog), items))], len(catalog))
            (ranking,) = exhaustive_search(tree, index.trie, request)
            scores = dict(zip(ranking.item_indices.tolist(), ranking.scores.tolist(), strict=True))
            expected += [scores[item] for item in items]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert packed["items"][packed["taken"]].tolist() == [2, 6, 0]
    # The likelihood among the allowed tokens is the `catalog` score of the search.
    allowed = [float(log_probs.allowed_tokens[packed["forks"] == step]) for step in packed["forks"]]
    assert float(log_probs.item_tokens[packed["forks"]].sum()) <= sum(allowed) < 0
    catalog_score = -constrained_loss(log_probs.item_tokens, packed["forks"], log_probs.allowed_tokens, 1)
    expected = []
    for history, own in zip(histories, targets, strict=True):
        for target in own:
            prompt = renderer.render(history[: target.event_index], "", np.empty(0, dtype=np.int64)).token_ids
            request = SearchRequest([index.to_row_subset(Subset.everything(len(catalog)))], len(catalog), "catalog")
            (ranking,) = exhaustive_search(smollm2_float32.open([prompt]), index.trie, request)
            expected += ranking.scores[ranking.item_indices == history[target.event_index]].tolist()
    assert float(catalog_score) == pytest.approx(sum(expected), abs=2e-3)


@pytest.mark.parametrize("objective", ["listwise", "dpo", "likelihood", "constrained"])
def test_loss_of_a_mixed_batch_is_the_weighted_mean_of_its_parts(objective: str) -> None:
    """If choices are numbered wrongly in a mixed batch, items of different users compete."""
    config = TrainConfig.model_validate(
        {"data": "games", "protocol": "candidates", "steps": 1, "objective": objective, "likelihood_weight": 0.5}
    )
    random = np.random.default_rng(0)

    def example(counts: list[int]) -> TrainingExample:
        """A tree with three steps for each choice, and a fork at the second step of each positive choice."""
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
        packed = pack_examples(
            [parts[part] for part in chosen], [ranked[part] for part in chosen], TreeLayout("packed")
        )
        steps = torch.cat([logs[part] for part in chosen])
        allowed = torch.cat([allowed_logs[part] for part in chosen])
        return float(compute_loss(config, ExampleLogProbs(steps, allowed), packed, torch.zeros(len(packed["items"]))))

    logs = [-torch.rand(len(part.item_tokens), generator=torch.Generator().manual_seed(1)) for part in parts]
    allowed_logs = [torch.full((len(part.branch_points),), -0.01) for part in parts]
    # The means are over targets or steps, and the parts have equally many steps for each target.
    expected = 3 / 8 * loss([0, 2]) + 5 / 8 * loss([1, 3])
    assert loss([0, 1, 2, 3]) == pytest.approx(expected, abs=1e-5)
    if objective in ("listwise", "dpo"):
        logs = [torch.full((len(part.item_tokens),), -1.0) for part in parts]
        assert loss([2]) == pytest.approx(np.log(4) + 0.5, abs=1e-5)  # an untrained model chooses any of four


def test_objectives_equal_their_formulas() -> None:
    """A softmax over the wrong group also decreases during training, but does not improve the ranking."""
    scores, targets = torch.tensor([2.0, 1.0, 0.0, 3.0, -1.0]), torch.tensor([0, 0, 0, 1, 1])
    found = listwise_loss(scores, targets, torch.tensor([0, 3]), 2.0)
    one, other = torch.log_softmax(scores[:3] / 2, 0)[0], torch.log_softmax(scores[3:] / 2, 0)[0]
    assert float(found) == pytest.approx(float(-(one + other) / 2))
    steps, choices = torch.tensor([-1.0, -2.0, -4.0, -8.0]), torch.tensor([0, 0, 1, 2])
    assert float(likelihood_loss(steps, choices, torch.tensor([0, 2]))) == pytest.approx(11 / 3)


def test_a_wrong_config_is_rejected_with_its_key(tmp_path: Path) -> None:
    """If an unknown key is ignored, the run is not the one that was configured."""
    path = tmp_path / "one.toml"
    good = 'data = "online-retail"\nprotocol = "next-basket"\nsteps = 2\n'
    for text, message in (
        (good + "step = 3\n", "step: Extra inputs"),
        (good.replace("2", "0"), "steps: "),
        (good + 'objective = "luck"\n', "objective: "),
        (good + "others = 0\n", "others is 0; the objective listwise needs at least 1 negative for each target"),
        ("steps", "not valid TOML"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_config(str(path))
    with pytest.raises(InputError, match="games_cpu"):
        read_config("nothing")
    with pytest.raises(InputError, match=r"'objective=dpo' is not KEY=VALUE in TOML.*quote text"):
        read_config("games_cpu", ["objective=dpo"])
    assert json.loads(read_config("games_cpu").model_dump_json())["data"] == "games"


def test_each_task_generates_its_kind_of_message() -> None:
    """Search words that are not in the answer, or a description that is its title, train the wrong task."""
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


def test_tasks_are_drawn_in_proportion_to_their_weights(cache: Path) -> None:
    """With another mixture than the configured one, comparisons of mixtures are wrong."""
    mixture = {"next-item": 2.0, "candidates": 1.0, "cold-start": 1.0}
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, others=3, targets=2, tasks=mixture)
    rows = TrainingData(config, None).sample_examples(2000)
    counts = Counter(row["task"] for row in rows)
    assert {task: round(counts[task] / 500, 1) for task in mixture} == pytest.approx(mixture, abs=0.2)
    names = ("event_indices", "num_known", "negatives", "words", "candidates")
    for row in rows:
        for event, known, negatives, words, candidates in zip(*(row[name] for name in names), strict=True):
            target = row["history"][event]
            assert 1 <= known <= event
            assert target not in row["history"][:known]
            assert bool(negatives) <= (row["task"] == "next-item")
            assert (target in candidates) == bool(candidates) == (row["task"] == "candidates")
            assert words.startswith("Something like ") == (row["task"] == "cold-start")


def test_no_item_of_a_basket_is_known_to_its_other_items() -> None:
    """Serving never sees a part of the next basket; training on parts of it trains another task."""
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, others=1, targets=4, evaluate_users=50)
    training_data = TrainingData(config, None)
    log = training_data.interactions
    expected, cut = {}, set()
    for user, history in enumerate(log.histories()):
        items = tuple(training_data.catalog.indices_of(history.item_ids).tolist())
        times = log.timestamps[log.offsets[user] : log.offsets[user + 1]].tolist()
        expected[items] = [times.index(time) for time in times]
        cut.add(items[: times.index(times[-1])])
    lists = [tuple(history.items.tolist()) for history in training_data.train]
    assert set(lists[:50]) <= cut, "the whole last basket of validation users is left out"
    assert [history.num_known.tolist() for history in training_data.train[50:]] == [
        expected[items] for items in lists[50:]
    ]
    shared = 0
    for row in training_data.sample_examples(200):
        whole = next(items for items in expected if items[: len(row["history"])] == tuple(row["history"]))
        assert row["num_known"] == [expected[whole][event] for event in row["event_indices"]]
        shared += len(set(row["num_known"])) < len(row["num_known"])
    assert shared > 100, "the items of a basket share a prompt"


def test_new_events_are_trained_on_and_old_ones_replayed() -> None:
    """Without new events, continued training learns nothing new; without old ones, it forgets them."""
    since = "2011-10-01"
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, since=since, replay=0.25, others=1)
    training_data = TrainingData(config, None)
    old, _ = training_data.interactions.split_by_time(since)
    past = {tuple(training_data.catalog.indices_of(one.item_ids).tolist()) for one in old.histories()}
    beginnings = {history[:size] for history in past for size in range(1, len(history) + 1)}
    # Short histories of different users may be equal, so only longer ones are checked.
    rows = [row for row in training_data.sample_examples(2000) if row["event_indices"][0] > 4]
    replayed = 0
    for row in rows:
        sides = {tuple(row["history"][: event + 1]) in beginnings for event in row["event_indices"]}
        assert len(sides) == 1, "a tree has only new targets, or only old ones"
        replayed += sides.pop()
    assert replayed / len(rows) == pytest.approx(0.25, abs=0.1)
    with pytest.raises(InputError, match="no user has a target since 2031-01-01"):
        TrainingData(config.model_copy(update={"since": "2031-01-01"}), None)


def test_only_an_adapter_that_ranks_no_worse_is_promoted(tmp_path: Path) -> None:
    """An adapter from a failed nightly training must not go into production."""
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


COMPARISON = """
protocol = "next-basket"
data = "online-retail"
users = 8  # the untrained model ranks some of them well, so a worse adapter is measurable
seed = 54
background = 0
k = 10
metrics = ["ndcg@10"]

[rankers.popularity]
kind = "popularity"
"""


def test_an_adapter_is_compared_before_it_is_promoted(
    smollm2: Path, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A nightly job relies on the exit status, and on the old adapter still serving after a failure."""
    (tmp_path / "comparison.toml").write_text(COMPARISON, encoding="utf-8")
    config = TrainConfig(data="online-retail", protocol="next-basket", steps=1, rank=2)
    for name, size in (("idle", 0.0), ("broken", 1.0)):
        model, _ = open_model(config, smollm2)
        torch.manual_seed(0)
        for parameter in (own for name, own in model.named_parameters() if "lora_B" in name):
            torch.nn.init.normal_(parameter, std=size)
        model.peft_config["default"].base_model_name_or_path = smollm2.name
        model.save_pretrained(str(tmp_path / name))
    place = tmp_path / "serving"
    promote_main([str(tmp_path / "idle"), str(place), str(tmp_path / "comparison.toml")])
    assert "difference 0.00\n" in capsys.readouterr().out
    serving = place.resolve()
    with pytest.raises(SystemExit) as stopped:
        promote_main([str(tmp_path / "broken"), str(place), str(tmp_path / "comparison.toml")])
    assert stopped.value.code == 3
    assert place.resolve() == serving
    with pytest.raises(SystemExit, match=r"cannot read the adapter '.*nothing'"):
        promote_main([str(tmp_path / "nothing"), str(place), str(tmp_path / "comparison.toml")])


def test_an_adapter_is_not_compared_on_items_that_it_was_trained_on(tmp_path: Path) -> None:
    """It would always be promoted."""
    config = COMPARISON.replace("next-basket", "leave-one-out").replace("users = 8", "users = 100")
    (tmp_path / "comparison.toml").write_text(config, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"held-out items are in the training interactions .*use the protocol"):
        promote_main([str(find_adapter("online-retail")), str(tmp_path / "serving"), str(tmp_path / "comparison.toml")])


def test_the_record_of_an_adapter_tells_what_it_was_trained_on(
    smollm2: Path, cache: Path, tokenizer: HuggingFaceTokenizer
) -> None:
    """Otherwise an evaluation on the same items could not be refused, for it or for adapters that continue from it."""
    catalog, interactions = open_dataset("online-retail", cache)
    index, template = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer), read_template("next-item")
    shipped = find_adapter("online-retail")
    for start, earlier in ((None, ()), (str(shipped), Provenance.read(shipped).sources)):
        config = TrainConfig(data="online-retail", protocol="leave-one-out", steps=1, start=start)
        record = build_provenance(config, TrainingData(config, None), smollm2, index, template, {})
        assert record.earlier == earlier
        assert (record.trained_at is None) == bool(earlier), "the shipped adapter does not say when it was trained"
        assert record.user_data["users"] == len(TrainingData(config, None).interactions.user_ids)
        found = find_leakage(leave_one_out(catalog, interactions), interactions, record)
        assert found.exact
        assert (found.leaked > 0) == bool(earlier)


def test_incomplete_checkpoints_are_skipped(tmp_path: Path) -> None:
    """If the disk was full while the newest checkpoint was written, earlier ones still work; none is unpickled."""
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
others = 1
targets = 1
trees = 1
steps = 8
evaluate_every = 4
evaluate_users = 2
warmup = 2
max_history = 2  # short prompts: nothing here depends on their length
learning_rate = 2e-3  # so that a few steps change more than bfloat16 rounds away
"""


def start(config: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start a run in a process of its own, which can be killed."""
    command = [sys.executable, "-m", "finetune.train", str(config), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def weights(out: Path) -> bytes:
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_killed_run_resumes_to_the_same_weights(smollm2: Path, smollm2_float32: Backend, tmp_path: Path) -> None:
    """Without resumption a killed run loses hours; with other weights its result cannot be reproduced."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL, encoding="utf-8")
    whole, killed = start(config, tmp_path / "whole"), start(config, tmp_path / "killed")
    while killed.poll() is None and not (tmp_path / "killed/checkpoints/checkpoint-4/trainer_state.json").is_file():
        time.sleep(0.05)
    killed.kill()
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors.decode()
    assert not (tmp_path / "killed" / "adapter").exists()
    again = start(config, tmp_path / "killed", "--resume")
    for run in (whole, again):
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors.decode()
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    # The adapter can be served, and it changes the model.
    tuned = TransformersBackend(smollm2, adapter=tmp_path / "whole" / "adapter", device="cpu", dtype=torch.float32)
    prompt, nodes, offsets = np.arange(5), np.array([0]), np.array([0, 50])
    one, other = (own.open([prompt]).log_probs(nodes, np.arange(50), offsets) for own in (tuned, smollm2_float32))
    assert tuned.name.startswith("SmolLM2-135M-Instruct+adapter-")
    assert 0 < np.abs(one - other).max() < 2
    # It has its provenance, and the merged model is the same model.
    folder = tmp_path / "whole" / "adapter"
    provenance = Provenance.read(folder)
    assert (provenance.base, provenance.config["rank"], provenance.metrics["tokens"] > 0) == (
        "SmolLM2-135M-Instruct",
        2,
        True,
    )
    assert provenance.user_data["kind"] == "aggregate"
    resumed = Provenance.read(tmp_path / "killed" / "adapter")
    assert replace(provenance, trained_at=0.0) == replace(resumed, trained_at=0.0)
    assert resumed.trained_at is not None
    assert resumed.trained_at <= (tmp_path / "killed" / "config.json").stat().st_mtime, "when the data were first read"
    assert "NDCG@10" in (folder / "README.md").read_text(encoding="utf-8")
    merge(folder, tmp_path / "merged")
    merged = TransformersBackend(tmp_path / "merged", device="cpu", dtype=torch.float32)
    again = merged.open([prompt]).log_probs(nodes, np.arange(50), offsets)
    assert np.abs(again - one).max() < np.abs(again - other).max() / 2  # bfloat16 rounds the merged weights
    # Another run can continue from it, but not with another rank, scale, template or kind of identifiers.
    further = read_config(str(config), ["steps=1", f'start="{folder}"', "learning_rate=1e-12"])
    for change, message in (
        ({"rank": 3}, "r of .* is 2, not 3; set it to 2"),
        ({"alpha": 3}, "lora_alpha of .* is 32, not 3; set it to 32"),
        ({"template": "cold-start"}, "was trained with template"),
        ({"identifiers": "codes"}, "was trained with identifiers = 'titles', not 'codes'"),
    ):
        with pytest.raises(MismatchError, match=message):
            open_model(further.model_copy(update=change), smollm2)
    continued, saved = (
        get_peft_model_state_dict(open_model(further, smollm2)[0]),
        load_file(folder / "adapter_model.safetensors"),
    )
    assert all(torch.equal(continued[name].to(torch.bfloat16), saved[name]) for name in saved)
    # A folder that contains another run is never overwritten.
    config.write_text(SMALL.replace("rank = 2", "rank = 3"), encoding="utf-8")
    for more in ("--resume", "--report-to=none"):
        with pytest.raises(SystemExit, match="whose rank is 2, not 3") as stopped:
            train_main([str(config), "--out", str(tmp_path / "whole"), more])
        assert isinstance(stopped.value.code, str)  # printed to stderr; the exit status is then 1


def test_two_processes_learn_the_same_as_one(smollm2: Path, tmp_path: Path) -> None:
    """Processes that train independently, or on the same batches, cost more and learn nothing more."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL.replace("steps = 8", "steps = 4"), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "finetune.train", str(config), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for name, change in (("one", "trees=2"), ("in turn", "accumulate=2")):
        train_main([str(config), "--out", str(tmp_path / name), "--set", change])
    learned = {}
    for name in ("one", "two", "in turn"):
        curve = json.loads((tmp_path / name / "curve.json").read_text(encoding="utf-8"))
        assert curve[-1]["targets"] == 8
        own = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        learned[name] = torch.cat([own[key].flatten().float() for key in sorted(own) if "lora_B" in key])
    assert learned["one"].abs().max() > 1e-4
    # Where a gradient is almost 0, rounding decides its sign, and the optimizer steps by the sign.
    for name in ("two", "in turn"):
        assert float(torch.nn.functional.cosine_similarity(learned[name], learned["one"], dim=0)) > 0.99, name


def test_an_adapter_for_semantic_ids_is_served_with_them(smollm2: Path, cache: Path, tmp_path: Path) -> None:
    """A model that was trained on semantic ids ranks titles badly."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL, encoding="utf-8")
    changes = ("steps=1", "evaluate_every=1", "max_history=12", 'identifiers="codes"', "width=64")
    train_main([str(config), "--out", str(tmp_path / "run"), "--set", *changes])
    folder = tmp_path / "run" / "adapter"
    catalog, interactions = open_dataset("online-retail", cache)
    as_trained = GenerativeSettings(prior=0.0)
    settings = Settings(adapter=folder, generative=as_trained)
    recommender = open_recommender(catalog, interactions, cache=cache, settings=settings)
    assert not recommender.notices
    assert [item.stage for item in recommender.recommend("12748", k=3).items] == ["generative"] * 3
    without = open_recommender(catalog, interactions, cache=cache, settings=replace(settings, encoder=None))
    assert any("uses semantic ids, which need a sentence encoder" in str(notice) for notice in without.notices)
