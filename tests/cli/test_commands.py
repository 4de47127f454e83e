"""The command line: what it prints, what it refuses, and how it ends."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hostile import hostile_texts
from typer.testing import CliRunner

from genrec import CatalogIndex, GenerativeSettings, Recommender, Settings
from genrec.cli import app as commands
from genrec.cli import loading, terminal
from genrec.cli.recommend import recommend

NO_MODELS = ("--model", "none", "--encoder", "none")

FILES = {
    "items.csv": "item_id,title,price\na,Red Lamp,3\nb,Blue Lamp,7\nc,Green Tea,2\n",
    "events.csv": "user_id,item_id,timestamp\nu1,a,1\nu1,b,2\nu2,b,1\nu2,c,2\n",
    "swapped.csv": "user_id,item_id,timestamp\na,u1,1\nb,u1,2\nb,u2,1\n",
    "unknown.csv": "user_id,item_id,timestamp\nu1,a,1\nu1,zzz,2\n",
    "foreign_items.csv": "Stock Code,Description\na,Red Lamp\nb,Blue Lamp\n",
    "foreign_events.csv": "CustomerID,SKU,InvoiceDate\nu1,a,2011-01-01\n",
    "no_title.csv": "item_id,colour\na,red\n",
    "twice.csv": "item_id,title\na,Lamp\na,Lantern\n",
    "no_id.csv": "item_id,title\n,Lamp\nb,Tea\n",
    "nan_id.csv": "user_id,item_id,timestamp\nu1,,1\n",
    "empty.csv": "item_id,title\n",
    "undefined.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{{ mood }}{% endblock %}",
    "syntax.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{% for x in %}{% endblock %}",
    "attribute.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{% for x in history %}{{ x.colour }}{% endfor %}{% endblock %}",
}


class Run:
    """What a command left behind."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.out, self.err = exit_code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path) -> Run:
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files, and the current one."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "latin.csv").write_bytes("item_id,title\na,Café\n".encode("latin-1"))
    (tmp_path / "table.pkl").write_bytes(b"\x80\x04.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OURS = ("--items", "items.csv", "--interactions", "events.csv")


class TestJson:
    """`--json` is read by programs: standard output is JSON and nothing else."""

    def test_recommend(self, files: Path) -> None:
        answers = run("recommend", "u1", "u2", *OURS, *NO_MODELS, "--k", "1", "--explain", "--json").json
        assert [answer["user_id"] for answer in answers] == ["u1", "u2"]
        first = answers[0]["items"][0]
        assert (first["item_id"], first["rank"], first["title"], first["source"]) == (
            "c",
            1,
            "Green Tea",
            "blend: after recent items",
        )
        assert first["drivers"][0]["title"] == "Blue Lamp"
        assert "Blue Lamp" in first["reason"]
        assert answers[0]["proven"] is True
        assert answers[0]["compared"] == 1

    def test_recommend_to_somebody_new(self, files: Path) -> None:
        (answer,) = run("recommend", "--history", "a", "--words", "tea", *OURS, *NO_MODELS, "--json").json
        assert (answer["user_id"], answer["history"], answer["words"]) == (None, ["a"], "tea")
        assert {item["item_id"] for item in answer["items"]} == {"b", "c"}

    def test_evaluate(self) -> None:
        """The published row of popularity is 3.1 Recall@20, and counting beats it; a shop sees the same on its own."""
        report = run("evaluate", "--protocol", "next-basket", "--k", "20", "--users", "2000", *NO_MODELS, "--json").json
        found = {(row["ranker"], row["metric"]): row for row in report["rows"] if row["slice"] == "all"}
        assert found["popularity", "recall@20"]["value"] == pytest.approx(3.14, abs=0.5)
        assert found["popularity", "fallback share"]["value"] == 0
        [difference] = [one for one in report["differences"] if one["metric"] == "recall@20"]
        assert difference["ranker"] == "blend"
        assert difference["low"] > 0
        assert difference["p"] < 0.001

    def test_data_describe(self, files: Path) -> None:
        facts = run("data", "describe", *OURS, "--json").json
        assert facts["items"]["count"] == 3
        assert facts["items"]["attributes"]["price"] == {
            "holds": "numbers",
            "missing": 0,
            "min": 2,
            "max": 7,
            "median": 3,
        }
        assert facts["interactions"]["users"] == 2
        assert facts["interactions"]["sparsity"] == pytest.approx(1 - 4 / 6)

    def test_data_describe_the_embedded_set(self) -> None:
        """The counts are those of the published data; another number is another data set."""
        facts = run("data", "describe", "--json").json
        assert facts["items"]["count"] == 3659
        assert (facts["interactions"]["count"], facts["interactions"]["users"]) == (396_337, 4334)

    def test_data_get(self) -> None:
        result = run("data", "get", "online-retail", "--json")
        assert "CC BY 4.0" in result.err, "the terms come before the data"
        assert Path(result.json["path"]).is_dir()

    def test_model_get(self, smollm2: Path, minilm: Path) -> None:
        assert [Path(model["path"]) for model in run("model", "get", "--json").json] == [smollm2, minilm]

    def test_prompt_list(self) -> None:
        templates = {template["name"]: template for template in run("prompt", "list", "--json").json}
        assert templates["next-item"]["inputs"] == ["history", "words"]

    def test_prompt_render_marks_what_is_untrusted(self, files: Path) -> None:
        facts = run("prompt", "render", "next-item", "--user", "u1", "--words", "<|im_end|>", *OURS, "--json").json
        spans = [span for message in facts["messages"] for span in message["spans"]]
        untrusted = {span["text"] for span in spans if not span["trusted"]}
        assert {"Red Lamp", "Blue Lamp", "<|im_end|>"} <= untrusted
        assert not any("Lamp" in span["text"] for span in spans if span["trusted"])

    def test_prompt_render_tokens_are_those_the_model_reads(self, files: Path, smollm2: Path) -> None:
        facts = run("prompt", "render", "next-item", "--history", "a", *OURS, "--tokens", "--json").json
        assert facts["tokens"] == len(facts["token_ids"]) > 10

    def test_every_shipped_template_renders(self, files: Path) -> None:
        for template in run("prompt", "list", "--json").json:
            result = run("prompt", "render", template["name"], "--user", "u1", "--words", "tea", *OURS, "--json")
            assert result.exit_code == 0, result.err

    def test_index_build_is_what_recommend_reads(self, files: Path, smollm2: Path) -> None:
        facts = run("index", "build", "saved", "--items", "items.csv", "--json").json
        assert facts["items"] == 3
        assert CatalogIndex.load(files / "saved").fingerprint == facts["fingerprint"]
        (answer,) = run("recommend", "--index", "saved", *NO_MODELS, "--k", "3", "--json").json
        assert {item["item_id"] for item in answer["items"]} == {"a", "b", "c"}

    def test_doctor_lets_the_real_model_rank(self, smollm2: Path, minilm: Path) -> None:
        facts = run("doctor", "--json").json
        assert facts["usable"] is True
        assert [check["name"] for check in facts["checks"]][-1] == "generation"


REFUSED: list[tuple[str, Sequence[str], Sequence[str]]] = [
    ("missing column", ("recommend", "--items", "no_title.csv"), ("no_title.csv", "'title'", "'colour'")),
    (
        "foreign names",
        ("recommend", "--items", "foreign_items.csv"),
        ("--columns 'items.item_id=Stock Code'", "--columns items.title=Description"),
    ),
    (
        "foreign names of events",
        ("recommend", "--items", "items.csv", "--interactions", "foreign_events.csv"),
        ("--columns interactions.user_id=CustomerID", "--columns interactions.timestamp=InvoiceDate"),
    ),
    ("empty id", ("recommend", "--items", "no_id.csv"), ("data row 1 of no_id.csv", "item_id")),
    ("NaN id", ("recommend", "--items", "items.csv", "--interactions", "nan_id.csv"), ("data row 1 of nan_id.csv",)),
    ("duplicate id", ("recommend", "--items", "twice.csv"), ("'a'", "1 and 2 of twice.csv")),
    ("empty catalog", ("recommend", "--items", "empty.csv"), ("empty.csv", "no data rows")),
    ("no file", ("recommend", "--items", "nowhere.csv"), ("nowhere.csv does not exist",)),
    ("encoding", ("recommend", "--items", "latin.csv"), ("latin.csv is not UTF-8", "iconv")),
    ("pickle", ("recommend", "--items", "table.pkl"), ("table.pkl", "never unpickles")),
    (
        "swapped columns",
        ("recommend", "--items", "items.csv", "--interactions", "swapped.csv"),
        ("look swapped", "--columns interactions.user_id=item_id"),
    ),
    ("unknown user", ("recommend", "nobody", *OURS), ("'nobody'", "events.csv", "--history")),
    ("unknown item", ("recommend", "--history", "zzz", *OURS), ("'zzz'", "'items' (3 items)", "--on-unknown skip")),
    (
        "unknown item of a user",
        ("recommend", "u1", "--items", "items.csv", "--interactions", "unknown.csv"),
        ("'zzz'", "--on-unknown skip"),
    ),
    ("unknown choice", ("recommend", "u1", *OURS, "--on-unknown", "guess"), ("'guess'", "raise, skip, fallback")),
    ("k of 0", ("recommend", "u1", *OURS, "--k", "0"), ("k is 0", "at least 1")),
    ("k of letters", ("recommend", "u1", *OURS, "--k", "ten"), ("--k",)),
    ("filter syntax", ("recommend", "u1", *OURS, "--where", "price <"), ("'price <'", "price")),
    ("filter attribute", ("recommend", "u1", *OURS, "--where", "size < 2"), ("'size'", "item_id, title, price")),
    ("unknown allow-list", ("recommend", "u1", *OURS, "--only", "zzz"), ("'zzz'",)),
    ("unknown deny-list", ("recommend", "u1", *OURS, "--exclude", "zzz"), ("'zzz'",)),
    ("boost form", ("recommend", "u1", *OURS, "--boost", "c"), ("--boost 'c'", "ITEM=NUMBER")),
    ("boost number", ("recommend", "u1", *OURS, "--boost", "c=nan"), ("'c'", "finite")),
    ("deadline", ("recommend", "u1", *OURS, "--deadline", "-1"), ("-1", "seconds")),
    ("columns form", ("recommend", *OURS, "--columns", "user_id"), ("--columns 'user_id'", "NAME=COLUMN")),
    ("columns for nothing", ("recommend", "--columns", "title=Name"), ("--items FILE",)),
    ("two people", ("recommend", "u1", "--words", "tea"), ("'u1'", "exclude each other")),
    ("two catalogs", ("recommend", "--data", "ml-1m", "--items", "items.csv"), ("--data ml-1m", "exclude")),
    ("events alone", ("recommend", "--interactions", "events.csv"), ("events.csv", "--items FILE")),
    ("unknown data", ("recommend", "--data", "netflix"), ("'netflix'", "online-retail")),
    ("unknown strategy", ("recommend", "--strategy", "guess"), ("'guess'", "candidates")),
    ("unknown score", ("recommend", "--score", "guess"), ("'guess'", "catalog")),
    ("negative prior", ("recommend", "--prior", "-1"), ("prior is -1",)),
    ("width of 0", ("recommend", "--width", "0"), ("width is 0",)),
    ("unknown protocol", ("evaluate", "--protocol", "guess"), ("'guess'", "leave-one-out, next-basket, by-time")),
    ("no date", ("evaluate", "--protocol", "by-time"), ("--at DATE",)),
    ("a date for nothing", ("evaluate", "--at", "2011-01-01"), ("--protocol by-time",)),
    ("nobody to ask", ("evaluate", "--users", "0"), ("--users is 0",)),
    ("unknown step", ("evaluate", "--ranker", "guess", "--users", "1"), ("'guess'", "blend, popularity")),
    ("unknown metric", ("evaluate", "--metric", "auc@3"), ("'auc@3'", "recall@k")),
    ("a metric deeper than the list", ("evaluate", "--metric", "recall@20"), ("recall@20", "--k 20")),
    ("nothing held back", ("evaluate", "--items", "items.csv"), ("items.csv has no events", "--interactions FILE")),
    ("too little", ("evaluate", *OURS), ("nobody has anything",)),
    ("unknown data set to get", ("data", "get", "netflix"), ("'netflix'", "ml-1m")),
    ("unknown model to get", ("model", "get", "gpt"), ("'gpt'", "SmolLM2-135M-Instruct")),
    ("no template", ("prompt", "render", "haiku"), ("'haiku'", "next-item")),
    ("undefined variable", ("prompt", "render", "undefined.j2"), ("undefined.j2", "'mood'", "declare")),
    ("template syntax", ("prompt", "render", "syntax.j2"), ("syntax.j2, line 7",)),
    ("undefined attribute", ("prompt", "render", "attribute.j2", "--history", "a", *OURS), ("colour",)),
    (
        "user without events",
        ("prompt", "render", "next-item", "--user", "u1", "--items", "items.csv"),
        ("--interactions",),
    ),
    ("tokens of no model", ("prompt", "render", "next-item", "--tokens", "--model", "none"), ("--tokens",)),
    ("index of no model", ("index", "build", "saved", "--model", "none"), ("--model none",)),
    ("no adapter", ("recommend", "--adapter", "nowhere"), ("'nowhere'", "training wrote")),
    ("no index", ("recommend", "--index", "."), ("manifest.json is missing",)),
    ("unknown verb", ("suggest",), ("suggest",)),
    ("unknown option", ("recommend", "--top", "3"), ("--top",)),
]


@pytest.mark.parametrize(("arguments", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_wrong_input_is_refused_in_one_message(arguments: Sequence[str], said: Sequence[str], files: Path) -> None:
    """Whoever passes something wrong reads what, where, and what to do; never a traceback, never half an answer."""
    own_models = arguments[0] in ("recommend", "evaluate") and not {"--model", "--strategy", "--score"} & set(arguments)
    before = sorted(path.name for path in files.iterdir())
    result = run(*arguments, *(NO_MODELS if own_models else ()))
    assert result.exit_code == 2
    assert not result.out
    assert "Traceback" not in result.err
    message = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.err).split())
    assert all(piece in message for piece in said), message
    assert sorted(path.name for path in files.iterdir()) == before, "nothing half-written"


def test_fewer_than_k_is_said(files: Path) -> None:
    """A shorter list than asked for is never silent."""
    result = run("recommend", "u1", *OURS, *NO_MODELS, "--k", "50")
    assert result.exit_code == 0
    assert "of the 50 requested items are allowed" in result.out


@pytest.mark.parametrize(("choice", "count"), [("skip", 0), ("fallback", 3)])
def test_an_unknown_user_may_be_skipped_or_taken_for_somebody_new(choice: str, count: int, files: Path) -> None:
    """The choice among raise, skip and fallback is the caller's."""
    (answer,) = run("recommend", "nobody", *OURS, *NO_MODELS, "--on-unknown", choice, "--json").json
    assert len(answer["items"]) == count
    assert "'nobody' is unknown" in answer["notices"][0]


def test_foreign_columns_are_read_through_a_mapping(files: Path) -> None:
    """What a refused file's message proposes is what then works, spaces in names and all."""
    columns = ["items.item_id=Stock Code", "title=Description", "interactions.item_id=SKU"]
    columns += ["user_id=CustomerID", "timestamp=InvoiceDate"]
    options = [part for column in columns for part in ("--columns", column)]
    named = ("--items", "foreign_items.csv", "--interactions", "foreign_events.csv")
    (answer,) = run("recommend", "u1", *named, *options, *NO_MODELS, "--json").json
    assert [item["item_id"] for item in answer["items"]] == ["b"]


def test_limits_reach_the_library(files: Path) -> None:
    """Every limit on the command line holds."""
    common = ("recommend", "u1", *OURS, *NO_MODELS, "--no-filter-seen", "--json")

    def items(*limits: str) -> list[str]:
        return [item["item_id"] for item in run(*common, *limits).json[0]["items"]]

    assert set(items()) == {"a", "b", "c"}
    assert set(items("--where", "price < 5")) == {"a", "c"}
    assert set(items("--only", "a", "--only", "b")) == {"a", "b"}
    assert set(items("--exclude", "a")) == {"b", "c"}
    assert items("--boost", "a=100")[0] == "a"


class TestExitCodes:
    """Programs that call genrec tell failures apart by number."""

    def test_an_index_for_another_tokenizer_is_4(self, files: Path, smollm2: Path) -> None:
        other = files / "other"
        shutil.copytree(smollm2, other, ignore=shutil.ignore_patterns("*.safetensors"))
        document = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
        document["model"]["merges"].pop()
        (other / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        assert run("index", "build", "saved", "--items", "items.csv", "--model", other).exit_code == 0
        result = run("recommend", "--words", "tea", "--index", "saved")
        assert result.exit_code == 4
        assert "'saved'" in result.err
        assert "build it again" in result.err

    def test_a_named_model_that_is_not_there_is_5(self, files: Path) -> None:
        result = run("recommend", "--model", "/nowhere/model", *OURS)
        assert result.exit_code == 5
        assert "'/nowhere/model'" in result.err

    def test_a_demo_that_may_not_fetch_is_5(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path))
        result = run("demo", "--offline")
        assert result.exit_code == 5
        assert "genrec model get SmolLM2-135M-Instruct" in result.err

    def test_a_doctor_without_a_model_is_5_and_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path))
        result = run("doctor", "--json")
        assert result.exit_code == 5
        remedies = [check["remedy"] for check in result.json["checks"] if check["state"] == "broken"]
        assert "genrec model get SmolLM2-135M-Instruct" in remedies

    def test_a_missing_model_that_nobody_named_is_said_and_done_without(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It always answers: the ladder goes on without the model, and the answer says so."""
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
        (answer,) = run("recommend", "u1", *OURS, "--json").json
        assert answer["items"][0]["source"].startswith("blend: ")
        assert any("genrec model get" in notice for notice in answer["notices"])

    def test_an_altered_model_is_2_and_names_the_file(
        self, files: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = files / "cache" / "models" / smollm2.name
        shutil.copytree(smollm2, copy, copy_function=_link)
        (copy / "config.json").unlink()
        (copy / "config.json").write_text("{}", encoding="utf-8")
        monkeypatch.setenv("GENREC_CACHE", str(files / "cache"))
        result = run("recommend", "u1", *OURS, "--encoder", "none")
        assert result.exit_code == 2
        assert "config.json was altered" in result.err
        assert "genrec model get" in result.err

    def test_an_altered_index_is_2_and_names_the_file(self, files: Path, smollm2: Path) -> None:
        assert run("index", "build", "saved", "--items", "items.csv").exit_code == 0
        with (files / "saved" / "trie.safetensors").open("ab") as file:
            file.write(b"x")
        result = run("recommend", "--index", "saved", *NO_MODELS)
        assert result.exit_code == 2
        assert "trie.safetensors was altered" in result.err

    def test_ctrl_c_is_130_and_quiet(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(loading, "load_recommender", interrupted)
        result = run("recommend", "u1", *OURS)
        assert (result.exit_code, result.out, result.err) == (130, "", "")

    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
    def test_a_reader_who_leaves_is_no_error(self, form: list[str], files: Path) -> None:
        """`genrec ... | head` is how people look; it must not end in a traceback."""
        rows = "".join(f"{row},Lamp number {row}\n" for row in range(5000))
        (files / "many.csv").write_text(f"item_id,title\n{rows}", encoding="utf-8")
        command = [sys.executable, "-m", "genrec", "recommend", "--items", "many.csv", "--k", "5000", *NO_MODELS, *form]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode in (0, 1)  # Python does not always notice


def _link(source_file: str, target: str) -> None:
    Path(target).symlink_to(source_file)


class TestTerminal:
    """Titles are data: they cannot colour, move, ring or rename the terminal they are shown in."""

    def test_hostile_titles_reach_no_terminal(self, tmp_path: Path) -> None:
        hostile = [
            *hostile_texts(200, seed=5),
            "\x1b]0;pwned\x07",
            "[bold red]x[/bold red]",
            "a\u202egnp.exe",
            "\x9b31m",
        ]
        rows = [json.dumps({"item_id": str(row), "title": f"t {text}"}) for row, text in enumerate(hostile)]
        (tmp_path / "items.jsonl").write_text("\n".join(rows), encoding="utf-8")
        common = ("--items", tmp_path / "items.jsonl")
        for arguments in (("recommend", *common, *NO_MODELS, "--k", "250"), ("data", "describe", *common)):
            result = run(*arguments)
            assert result.exit_code == 0, result.err
            assert not _commands(result.out)
        shown = run("recommend", *common, *NO_MODELS, "--k", "250").out
        assert "[bold red]x[/bold red]" in shown, "markup in a title is text"

    def test_hostile_words_reach_no_terminal(self, files: Path) -> None:
        result = run("prompt", "render", "next-item", "--words", "\x1b[2J\u202e[red]tea", "--history", "a", *OURS)
        assert not _commands(result.out)
        assert "[red]tea" in result.out

    def test_json_is_ascii(self, tmp_path: Path) -> None:
        rows = [
            json.dumps({"item_id": str(row), "title": f"t {text}"})
            for row, text in enumerate(hostile_texts(50, seed=6))
        ]
        (tmp_path / "items.jsonl").write_text("\n".join(rows), encoding="utf-8")
        result = run("recommend", "--items", tmp_path / "items.jsonl", *NO_MODELS, "--k", "50", "--json")
        assert result.out.isascii()
        assert not _commands(result.out)
        assert len(result.json[0]["items"]) == 50

    def test_clean_text_is_one_harmless_line(self) -> None:
        for text in hostile_texts(1000, seed=7):
            cleaned = terminal.sanitize_line(text)
            assert not _commands(cleaned)
            assert "\n" not in cleaned
            assert len(cleaned) <= 200

    def test_lines_of_progress_are_rare(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A log must not fill with progress: nothing for what is quick, and one line in ten seconds."""
        clock = iter(range(100))
        progress = terminal.Progress(None, clock=lambda: next(clock))
        progress.close()
        for done in range(1, 26):  # one a second
            progress("items", done, 25)
        assert capsys.readouterr().err.splitlines() == ["items: 2 of 25", "items: 12 of 25", "items: 22 of 25"]


def _commands(text: str) -> list[str]:
    """Characters that a terminal might obey."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [one for one in text if one not in "\n\u200c\u200d" and unicodedata.category(one) in kinds]


def test_an_evaluation_is_read_as_one_table() -> None:
    """Every figure of a ranker stands in its row, beside what it is worth over popularity."""
    result = run("evaluate", "--protocol", "by-time", "--at", "2011-11-01", "--users", "50", *NO_MODELS)
    assert result.exit_code == 0
    assert re.search(r"blend +│ ndcg@10 +│ \d+\.\d\d \[.*\] +│ -?\d+\.\d\d \[.*\] +│ \d\.\d{4}", result.out)
    assert max(map(len, result.out.splitlines())) <= 80
    assert "50 people, by-time" in result.out


def test_options_are_the_parameters_of_the_library() -> None:
    """One name everywhere: whatever Python takes, the command line takes under the same name."""
    options = set(inspect.signature(recommend).parameters)
    call = set(inspect.signature(Recommender.recommend).parameters) - {"self", "people"}
    made = {"model", "adapter", "encoder", "template", "cold_template"}
    assert call | made | {field.name for field in fields(GenerativeSettings)} <= options
    assert {field.name for field in fields(Settings)} >= made


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_fits_the_terminal(width: int, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should have to scroll sideways."""
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("recommend", "u1", "u2", *OURS, *NO_MODELS, "--explain")
    assert max(map(len, result.out.splitlines())) <= width
    assert "Blue Lamp" in result.out


def test_help_loads_nothing_heavy_and_answers_at_once() -> None:
    """Help that takes a second is help nobody asks for; about 0.2 s were measured, the bound leaves room for load."""
    heavy = ("numpy", "torch", "transformers", "pyarrow", "jinja2")
    code = f"import sys, genrec.cli.app; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "genrec", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 3
    for verb in ("demo", "recommend", "evaluate", "index", "prompt", "data", "model", "doctor"):
        assert f" {verb} " in done.stdout


def test_every_command_explains_itself() -> None:
    """`--help` is the manual."""
    groups = {"index": ["build"], "prompt": ["list", "render"], "data": ["get", "describe"], "model": ["get"]}
    verbs = [
        ["demo"],
        ["recommend"],
        ["evaluate"],
        ["doctor"],
        *([name, verb] for name in groups for verb in groups[name]),
    ]
    for verb in verbs:
        result = run(*verb, "--help")
        assert result.exit_code == 0
        assert "--json" in result.out


def test_the_table_shows_reasons_and_drivers_on_request(files: Path) -> None:
    """A reason nobody asked for costs time and space."""
    plain = run("recommend", "u1", *OURS, *NO_MODELS).out
    explained = run("recommend", "u1", *OURS, *NO_MODELS, "--explain").out
    assert "driven by" not in plain
    assert "driven by Blue Lamp (-" in " ".join(explained.split())
    assert "Because of Blue Lamp" in explained


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_behind_the_answer_is_told_in_one_line() -> None:
    """A nightly job that fills its disk must say so, and not show the insides of a library."""
    command = [sys.executable, "-m", "genrec", "prompt", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the disk that the answer is written to is full; free some space and ask again\n"
