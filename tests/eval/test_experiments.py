"""Runs, comparisons and reproductions of figures."""

import json
import shutil
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval import compare, rank, reproduce
from eval.config import read_config
from eval.data import open_experiment
from genrec.errors import InputError

CONFIG = """
protocol = "next-basket"
data = "online-retail"
users = 150
k = 20
metrics = ["ndcg@10", "recall@20"]
[rankers.popularity]
kind = "popularity"
[rankers.counting]
kind = "cooccurrence"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def run(config: Path, out: Path, *more: str) -> dict[tuple[str, str], float]:
    """Metrics of a run over all users."""
    report = out.with_suffix(".json")
    rank.main([str(config), "--out", str(out), "--json", str(report), *more])
    rows = json.loads(report.read_text())["rows"]
    return {(row["ranker"], row["metric"]): row["value"] for row in rows if row["slice"] == "all"}


def test_popularity_on_the_shop_reproduces_the_published_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published row of popularity is 3.1 Recall@20; another value means another protocol."""
    out, report = tmp_path / "run", tmp_path / "report.json"
    rank.main(["retail", "--rankers", "popularity", "--out", str(out), "--json", str(report)])
    rows = {row["metric"]: row["value"] for row in json.loads(report.read_text())["rows"] if row["slice"] == "all"}
    assert rows["recall@20"] == pytest.approx(3.14, abs=0.5)
    assert rows["invalid share"] == rows["repeated share"] == rows["seen share"] == rows["fallback share"] == 0
    assert "popularity" in capsys.readouterr().out


def test_candidate_lists_hold_the_true_item_last_and_once(tmp_path: Path) -> None:
    """The published protocol ranks twenty candidates, one of which is relevant."""
    items = [str(number) for number in range(40)]
    folder = tmp_path / "games"
    folder.mkdir()
    pq.write_table(pa.table({"item_id": items, "title": [f"Game {one}" for one in items]}), folder / "items.parquet")
    events = {"user_id": ["u"] * 5, "item_id": items[:5], "timestamp": list(range(5))}
    pq.write_table(pa.table(events), folder / "interactions.parquet")
    with pytest.raises(InputError, match=r"candidates_random_200\.parquet is missing"):
        open_experiment(read_config("games"), tmp_path, 1)
    lists = pa.table({"user_id": ["u"], "candidates": [items[2:38]]})
    pq.write_table(lists, folder / "candidates_random_200.parquet")
    with pytest.raises(InputError, match=r"contains no beauty/items\.parquet"):
        open_experiment(read_config("beauty"), folder, 1)
    [task] = open_experiment(read_config("games"), tmp_path, 1).cases
    assert task.candidates is not None
    assert task.candidates[-1] == "4"
    assert len(task.candidates) == len(set(task.candidates)) == 20
    assert task.history.item_ids == ("0", "1", "2", "3")


def test_a_stopped_run_resumes(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored answers are reused, and the figures are those of an uninterrupted run."""
    whole = run(config, tmp_path / "whole")
    asked: list[int] = []
    ask = rank.Experiment.evaluate

    def counted(self: rank.Experiment, *words: object, start: int, stop: int) -> object:
        asked.append(start)
        return ask(self, *words, start=start, stop=stop)  # type: ignore[arg-type]

    monkeypatch.setattr(rank.Experiment, "evaluate", counted)
    assert run(config, tmp_path / "run", "--rankers", "popularity")
    (tmp_path / "run" / "popularity" / "00000100.parquet").unlink()
    again = run(config, tmp_path / "run")
    assert Counter(asked) == {0: 2, 100: 3}, "only the deleted part is asked again"
    assert {key: value for key, value in again.items() if key[1] != "ms"} == {
        key: value for key, value in whole.items() if key[1] != "ms"
    }


def test_metrics_beyond_accuracy_are_reported(config: Path, tmp_path: Path) -> None:
    """Popularity recommends the same few items to all users, which accuracy alone does not show."""
    found = run(config, tmp_path / "run")
    popular, counting = ({key[1]: found[key] for key in found if key[0] == name} for name in ("popularity", "counting"))
    assert popular["coverage@10"] < counting["coverage@10"] < 100
    assert popular["gini@10"] > counting["gini@10"] > 0
    assert popular["novelty@10"] < counting["novelty@10"]
    assert popular["popularity lift@10"] > counting["popularity lift@10"] > 1
    assert 0.5 < counting["length@10"] < 2
    assert counting["gap of recall@20 between people"] > 0
    assert counting["tokens"] == 0


def test_a_trained_baseline_is_measured_like_any_other(config: Path, tmp_path: Path) -> None:
    """A figure of SASRec from another harness would not be comparable."""
    added = '[rankers.sasrec]\nkind = "sasrec"\nsettings = { epochs = 1, dimension = 8, blocks = 1 }\n'
    config.write_text(CONFIG + added, encoding="utf-8")
    found = run(config, tmp_path / "run", "--rankers", "sasrec")
    assert found["sasrec", "invalid share"] == found["sasrec", "repeated share"] == found["sasrec", "seen share"] == 0


def test_a_temporal_split_tests_on_later_interactions(config: Path) -> None:
    """Training data must end before the split, for all users."""
    later = '"by-time"\nat = "2011-11-01"'
    config.write_text(CONFIG.replace('"next-basket"', later), encoding="utf-8")
    experiment = open_experiment(read_config(str(config)), None, None)
    assert len(experiment.cases) == 150
    cut = datetime(2011, 11, 1, tzinfo=UTC).timestamp()
    assert experiment.train.timestamps.max() < cut
    assert all(task.targets.isdisjoint(task.history.item_ids) for task in experiment.cases)


@pytest.mark.model
def test_invalid_items_of_an_unconstrained_model_are_counted(config: Path, tmp_path: Path) -> None:
    """Invented titles are counted as invalid, and are never relevant."""
    added = '[rankers.free]\nkind = "unconstrained"\n[rankers.both]\nkind = "blend"\nparts = { free = 1.0 }\n'
    config.write_text(CONFIG + added, encoding="utf-8")
    found = run(config, tmp_path / "run", "--rankers", "free", "popularity", "--users", "2")
    assert found["free", "invalid share"] > 0
    assert found["free", "fallback share"] == 0
    assert found["free", "tokens"] > 100
    assert 0 < found["popularity", "diversity@10"] < 2
    with pytest.raises(SystemExit, match="'free' generates unconstrained text"):
        run(config, tmp_path / "other", "--rankers", "both", "--users", "2")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("users = 150", "users = 151", "whose users is 150, not 151"),
        ("k = 20", "k = 21", "whose k is 20, not 21"),
        ('kind = "cooccurrence"', 'kind = "cooccurrence"\nsettings = { decay = 0.5 }', "ranker 'counting'"),
    ],
)
def test_a_directory_of_another_run_is_rejected(config: Path, tmp_path: Path, old: str, new: str, says: str) -> None:
    """A mean must not mix the rows of two configurations."""
    run(config, tmp_path / "run")
    config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    with pytest.raises(SystemExit, match=says):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("k = 20", "k = 20\nkk = 3", "kk: Extra inputs"),
        (
            "k = 20",
            'k = 20\nat = "2011-11-01"',
            "the file: .*at is '2011-11-01'; the protocol by-time",
        ),
        ('"next-basket"', '"by-time"', "at is None; the protocol by-time needs a date"),
        ('"next-basket"', '"by-time"\nat = "2011-11-01"\npart = "validation"', "part is 'validation'"),
        ('kind = "popularity"', 'kind = "unconstrained"\nsettings = { k = 1 }', "unconstrained takes none"),
        ('kind = "popularity"', 'kind = "popularity"\nsettings = { k = 1 }', "popularity takes none"),
        ('kind = "popularity"', 'kind = "popular"', "rankers.popularity.kind"),
        ('kind = "popularity"', 'kind = "generative"\nproposer = "missing"', "names 'missing'"),
        ("[rankers.counting]", "[rankers.'Popularity!']", "'popularity' and 'Popularity!' would share a directory"),
        ("k = 20", "k = 19", "recall@20 needs longer lists than k = 19"),
        ("k = 20", "k = 0", "k: "),
        ("k = 20", "k = 20\nseed = -1", "seed: "),
        (
            "k = 20",
            'k = 20\nbaseline = "missing"',
            "the baseline 'missing' is not one of its rankers: popularity, counting",
        ),
        (CONFIG[CONFIG.index("[rankers") :], "", "names no rankers"),
        ('metrics = ["ndcg@10", "recall@20"]', "metrics = []", "metrics: "),
        ('kind = "popularity"', 'kind = "popularity"\nproposer = "counting"', "popularity takes no proposer"),
        ('kind = "popularity"', 'kind = "blend"\nparts = { popularity = 1 }', "'popularity' depends on itself"),
        ('kind = "cooccurrence"', 'kind = "itemknn"\nsettings = { neighbours = -1 }', "neighbours is -1"),
        ("k = 20", "k = ", "not valid TOML"),
        ('"recall@20"', '"recal@20"', "recal@20"),
    ],
)
def test_config_errors_name_the_key(config: Path, tmp_path: Path, old: str, new: str, says: str) -> None:
    """With an ignored key, a figure describes another configuration."""
    config.write_text(CONFIG.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SystemExit, match=says):
        run(config, tmp_path / "run")


def test_answers_of_another_run_are_never_summarised(config: Path, tmp_path: Path) -> None:
    """Stale, copied or truncated rows would falsify the figures."""
    out = tmp_path / "run"
    run(config, out)
    part = out / "popularity" / "00000000.parquet"
    whole = part.read_bytes()
    for damaged, says in (
        ((out / "counting" / part.name).read_bytes(), "belongs to another run; remove it"),
        ((out / "popularity" / "00000100.parquet").read_bytes(), "has 50 rows, not 100; remove it"),
        (whole[:500], "is damaged"),
    ):
        part.write_bytes(damaged)
        with pytest.raises(SystemExit, match=says):
            run(config, out)
    part.write_bytes(whole)
    manifest = (out / "run.json").read_text()
    for text, says in (("", "is damaged"), ("{}", "is damaged")):
        (out / "run.json").write_text(text)
        for again in (lambda: run(config, out), lambda: compare.main([str(out)])):
            with pytest.raises(SystemExit, match=says):
                again()
    (out / "run.json").unlink()
    with pytest.raises(SystemExit, match=r"is not empty, but contains no run\.json"):
        run(config, out)
    (out / "run.json").write_text(manifest)
    assert run(config, out)


def test_a_changed_template_is_another_run(config: Path, tmp_path: Path) -> None:
    """The prompt changes the answers, and a template file can change under the same name."""
    template = tmp_path / "own.j2"
    source = files("genrec.prompts").joinpath("next-item.j2").read_text(encoding="utf-8")
    template.write_text(source, encoding="utf-8")
    config.write_text(f'template = "{template}"\n{CONFIG}', encoding="utf-8")
    run(config, tmp_path / "run", "--rankers", "popularity")
    template.write_text(source.replace("next?", "now?"), encoding="utf-8")
    with pytest.raises(SystemExit, match="whose template is"):
        run(config, tmp_path / "run", "--rankers", "popularity")


def test_two_rankers_are_compared_on_the_same_users(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference needs an interval and a test; a page must show titles as text."""
    run(config, tmp_path / "run")
    lines = compare.compare([compare.read_run(tmp_path / "run")], "ndcg@10", None)
    assert [line.ranker for line in lines] == ["popularity", "counting"]
    assert lines[0].difference is None
    difference, p = lines[1].difference, lines[1].p
    assert difference is not None
    assert p is not None
    assert difference.low > 0
    assert p < 0.05
    assert difference.value == pytest.approx(lines[1].value.value - lines[0].value.value)
    config.write_text(f'baseline = "popularity"\n{CONFIG}', encoding="utf-8")
    again = run(config, tmp_path / "run")  # the same run: the baseline does not change answers
    assert again["counting", "ndcg@10 over popularity"] == difference.value
    assert ("popularity", "ndcg@10 over popularity") not in again
    assert "ndcg@10 over popularity" in capsys.readouterr().out
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    compare.main([str(tmp_path / "run"), "--html", str(page), "--png", str(picture)])
    assert "counting" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    text = page.read_text(encoding="utf-8")
    assert text.count("<section>") == compare.SAMPLE_USERS
    assert "http" not in text
    (tmp_path / "run" / "counting" / "00000100.parquet").unlink()
    compare.main([str(tmp_path / "run")])
    assert "not all users have been asked: counting" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")
    compare.main([str(tmp_path / "run"), str(tmp_path / "other" / "run")])
    assert str(tmp_path / "other" / "run")[:20] in capsys.readouterr().out


def test_a_table_reports_which_figures_are_reproduced(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On other data than the table's, a difference would mean nothing."""
    found = run(config, tmp_path / "run")
    digest = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    table = tmp_path / "table.toml"
    figure = '[[figures]]\nranker = "popularity"\nmetric = "ndcg@10"\nvalue = {}\nwithin = 0.1\n'

    def written(value: float, data: str) -> list[str]:
        table.write_text(f'config = "{config}"\ndata = "{data}"\n{figure.format(value)}', encoding="utf-8")
        return [str(table), "--out", str(tmp_path / "run")]

    value = found["popularity", "ndcg@10"]
    for shift, code in ((0.05, 0), (0.15, 1)):
        with pytest.raises(SystemExit) as ended:
            reproduce.main(written(value + shift, digest[:16]))
        assert ended.value.code == code
    assert "OFF" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the data are"):
        reproduce.main(written(value, "0123456789abcdef"))


def test_errors_of_unknown_names_list_the_known_ones() -> None:
    """The error message is the only place where a user learns the names."""
    with pytest.raises(InputError, match=r"beauty, beauty_model, games, games_full, .*, retail, .*retail_ways"):
        read_config("nothing")
    with pytest.raises(InputError, match="beauty, games"):
        reproduce.read_table("nothing")
    with pytest.raises(InputError, match="needs --data"):
        open_experiment(read_config("games"), None, 5)
