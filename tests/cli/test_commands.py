"""Commands print what they promise, as JSON, and refuse invalid input with one message."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import NO_MODELS, OURS, run

from genrec import CatalogIndex


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
        ("recommend", "--items", "own_items.csv"),
        ("--columns 'items.item_id=Stock Code'", "--columns items.title=..."),
    ),
    (
        "foreign names of events",
        ("recommend", "--items", "items.csv", "--interactions", "own_events.csv"),
        ("--columns interactions.user_id=CustomerID", "--columns interactions.timestamp=..."),
    ),
    ("empty id", ("recommend", "--items", "no_id.csv"), ("data row 1 of no_id.csv", "item_id")),
    ("NaN id", ("recommend", "--items", "items.csv", "--interactions", "nan_id.csv"), ("data row 1 of nan_id.csv",)),
    ("duplicate id", ("recommend", "--items", "twice.csv"), ("'a'", "1 and 2 of twice.csv")),
    ("empty catalog", ("recommend", "--items", "empty.csv"), ("empty.csv", "no data rows")),
    ("no file", ("recommend", "--items", "nowhere.csv"), ("nowhere.csv does not exist",)),
    ("encoding", ("recommend", "--items", "latin.csv"), ("latin.csv is not UTF-8", "--encoding items=cp1252")),
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
    ("second filter", ("recommend", "u1", *OURS, "--where", "price < 5", "--where", "price <"), ("'price <'",)),
    ("filter attribute", ("recommend", "u1", *OURS, "--where", "size < 2"), ("'size'", "item_id, title, price")),
    ("unknown allow-list", ("recommend", "u1", *OURS, "--only", "zzz"), ("'zzz'",)),
    ("unknown deny-list", ("recommend", "u1", *OURS, "--exclude", "zzz"), ("'zzz'",)),
    ("boost form", ("recommend", "u1", *OURS, "--boost", "c"), ("--boost 'c'", "ITEM=NUMBER")),
    ("boost number", ("recommend", "u1", *OURS, "--boost", "c=nan"), ("'c'", "finite")),
    ("deadline", ("recommend", "u1", *OURS, "--deadline", "-1"), ("-1", "seconds")),
    ("columns form", ("recommend", *OURS, "--columns", "user_id"), ("--columns 'user_id'", "NAME=COLUMN")),
    ("columns for nothing", ("recommend", "--columns", "title=Name"), ("--items FILE",)),
    ("two people", ("recommend", "u1", "--words", "tea"), ("'u1'", "cannot be combined")),
    ("two catalogs", ("recommend", "--data", "ml-1m", "--items", "items.csv"), ("--data ml-1m", "cannot be combined")),
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
    (
        "nothing held back",
        ("evaluate", "--items", "items.csv"),
        ("items.csv has no interactions", "--interactions FILE"),
    ),
    ("too little", ("evaluate", *OURS), ("no user has a new item",)),
    ("unknown data set to get", ("data", "get", "netflix"), ("'netflix'", "ml-1m")),
    ("unknown model to get", ("model", "get", "gpt"), ("'gpt'", "SmolLM2-135M-Instruct")),
    ("no template", ("prompt", "render", "haiku"), ("'haiku'", "next-item")),
    ("undefined variable", ("prompt", "render", "undefined.j2"), ("undefined.j2", "'mood'", "inputs")),
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
    ("an id that begins with a dash", ("recommend", "-1Ye"), ("begin with '-'", "after --")),
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


def test_an_id_that_begins_with_a_dash_goes_after_two(files: Path) -> None:
    """The advice works, and options take such an id as it is."""
    (answer,) = run("recommend", *OURS, *NO_MODELS, "--on-unknown", "fallback", "--json", "--", "-1Ye").json
    assert answer["user_id"] == "-1Ye"
    assert "item '-1Ye'" in run("recommend", "--history", "-1Ye", *OURS, *NO_MODELS).err


@pytest.mark.parametrize(
    "arguments", [("chat", "--history", "zz"), ("prompt", "render", "next-item", "--history", "zz")]
)
def test_no_command_advises_an_option_that_it_does_not_have(arguments: tuple[str, ...], files: Path) -> None:
    """Following the advice gives the next error."""
    result = run(*arguments, *OURS, *(NO_MODELS if arguments[0] == "chat" else ()))
    assert result.exit_code == 2
    assert "item 'zz' is not in catalog" in result.err
    assert "--on-unknown" not in result.err


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


def test_files_of_well_known_names_need_no_options(files: Path) -> None:
    """Otherwise the first command of every new user fails; what was taken is said, apart from the answer."""
    done = run(
        "recommend", "u1", "--items", "foreign_items.csv", "--interactions", "foreign_events.csv", *NO_MODELS, "--json"
    )
    assert [item["item_id"] for item in done.json[0]["items"]] == ["b"]
    assert "note: foreign_items.csv: read 'Stock Code' as item_id, 'Description' as title" in done.err


def test_the_options_of_files_that_an_error_names_read_them(files: Path) -> None:
    """A remedy must be the next command, as it is printed."""
    command = ("recommend", "--items", "unnamed.dat", *NO_MODELS, "--json")
    told = run(*command)
    assert told.exit_code == 2
    remedy = told.err.strip().rpartition("; ")[2]
    assert "--columns items=item_id,title,column_3" in remedy
    options = ("--columns", "items=item_id,title,genre", "--separator", "::", "--encoding", "items=utf-8")
    done = run(*command, *options, "--where", "genre == 'Drama'")
    assert [item["title"] for item in done.json[0]["items"]] == ["Caf\xe9 Noir"]
    assert run(*command, "--separator", ";;").exit_code == 2


def test_limits_reach_the_library(files: Path) -> None:
    """Every limit on the command line holds."""
    common = ("recommend", "u1", *OURS, *NO_MODELS, "--no-filter-seen", "--json")

    def items(*limits: str) -> list[str]:
        return [item["item_id"] for item in run(*common, *limits).json[0]["items"]]

    assert set(items()) == {"a", "b", "c"}
    assert set(items("--where", "price < 5")) == {"a", "c"}
    assert items("--where", "price < 5 # or (", "--where", "price < 3 or price > 5") == ["c"]
    assert set(items("--only", "a", "--only", "b")) == {"a", "b"}
    assert set(items("--exclude", "a")) == {"b", "c"}
    assert items("--boost", "a=100")[0] == "a"
