"""Early checks: no command loads a model, encodes titles or writes before it has checked its arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import OURS, run

from genrec import Catalog, History, Item, Settings, open_recommender
from genrec.errors import GenrecError, InputError
from genrec.pipeline import Pipeline
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.recommender import Recommender

STRANGER = ("--on-unknown", "maybe")
CHECKED = [
    ("recommend", "u1", "--where", "price <"),
    ("recommend", "u1", "--where", "colour == 'red'"),
    ("recommend", "u1", "--k", "0"),
    ("recommend", "u1", "--deadline", "-1"),
    ("recommend", "u1", "--only", "zz"),
    ("recommend", "u1", "--exclude", "zz"),
    ("recommend", "u1", "--boost", "zz=1"),
    ("recommend", "u1", "--boost", "a=nan"),
    ("recommend", "u1", *STRANGER),
    ("recommend", "nobody"),
    ("recommend", "--history", "zz"),
    ("recommend", "u1", "--template", "haiku"),
    ("recommend", "u1", "--cold-template", "undefined"),
    ("recommend", "u1", "--adapter", "nowhere"),
    ("recommend", "u1", "--width", "0"),
    ("recommend", "u1", "--chat-template-arg", "enable_thinking"),
    ("recommend", "u1", "--chat-template-arg", "=true"),
    ("recommend", "u1", "--chat-template-arg", "messages=[]"),
    ("recommend", "u1", "--chat-template-arg", "a b=1"),
    ("recommend", "u1", "--chat-template-arg", "a=1", "--chat-template-arg", "a=2"),
    ("recommend", "u1", "--chat-template-date", "today"),
    ("index", "build", "index", "--chat-template-date", "2025-13-01"),
    ("batch", "run", "users.csv", "out", "--offline", "--chat-template-arg", "a"),
    ("chat", "--user", "nobody"),
    ("chat", "--history", "zz"),
    ("chat", "--k", "0"),
    ("chat", "--reader", "guess"),
    ("chat", "--replies", "loud"),
    ("chat", "--ranking-timeout", "0"),
    ("serve", "--port", "0", "--store", "sqlite:///events.db", "--reader", "guess"),
    ("serve", "--port", "0", "--store", "sqlite:///events.db", "--ranking-timeout", "nan"),
    ("serve", "--port", "0", "--store", "sqlite:///events.db", "--template", "haiku"),
    ("serve", "--port", "0", "--ranker", "guess"),
    ("serve", "--host", "0.0.0.0"),
    ("evaluate", "--ranker", "guess"),
    ("evaluate", "--users", "0"),
    ("evaluate", "--k", "0"),
    ("evaluate", "--metric", "auc@3"),
    ("evaluate", "--at", "2011-01-01"),
    ("evaluate", "--protocol", "guess"),
    ("evaluate", "--protocol", "by-time", "--at", "never"),
    ("batch", "run", "users.csv", "folder", "--offline"),
    ("batch", "run", "users.csv", "users.csv", "--offline"),
    ("batch", "run", "users.csv", "users.csv/out", "--offline"),
    ("batch", "run", "users.csv", "out", "--offline", "--where", "price <"),
    ("batch", "run", "users.csv", "out", "--offline", "--k", "0"),
    ("batch", "run", "users.csv", "out", "--offline", "--part-rows", "9" * 30),
    ("batch", "run", "users.csv", "out", "--offline", "--exclude", "zz"),
    ("batch", "run", "users.csv", "out", "--offline", "--ranker", "guess"),
    ("batch", "run", "users.csv", "out", "--offline", *STRANGER),
    ("batch", "run", "empty.csv", "out", "--offline"),
    ("batch", "run", "events.csv", "out", "--offline"),
    ("batch", "run", "nothing.csv", "out", "--offline"),
    ("batch", "plan", "users.csv", "--offline", "--where", "price <"),
    ("batch", "plan", "events.csv", "--offline"),
    ("index", "build", "folder"),
    ("index", "build", "users.csv/index"),
]
TEXTS = [
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "haiku"),
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "next-item"),
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "text.j2", "--temperature", "9"),
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "text.j2", "--max-tokens", "0"),
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "text.j2", "--batch-size", "0"),
    ("batch", "run", "users.csv", "out", "--offline", "--prompt", "text.j2", "--schema", "users.csv"),
    ("batch", "run", "users.csv", "folder", "--offline", "--prompt", "text.j2"),
    ("batch", "run", "lines.jsonl", "out", "--offline"),
]
TEXT_TEMPLATE = """{#
name="x"
version=1
inputs=["user_id"]
output="text"
#}
{% block user %}{{ user_id }}{% endblock %}"""


def reached(*_: object, **__: object) -> Any:
    """Stands for every slow step: a command that gets here has not checked its arguments."""
    pytest.fail("slow work before the arguments were checked")


@pytest.fixture
def no_work(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The slow steps fail the test; models count as downloaded."""
    for name in ("language_model.load_backend", "pipeline.open_index", "pipeline.load_collaborative_model"):
        monkeypatch.setattr(f"genrec.loading.{name}", reached)
    for name in ("open_encoder", "load_item_vectors"):
        monkeypatch.setattr(f"genrec.precomputed.{name}", reached)
    monkeypatch.setattr("genrec.index.catalog_index.CatalogIndex.build", reached)
    monkeypatch.setattr("genrec.cli.model_downloads.fetch_models", lambda *_: None)
    (files / "users.csv").write_text("user_id\nu1\n", encoding="utf-8")
    (files / "lines.jsonl").write_text('{"custom_id": "a", "body": {}}\n', encoding="utf-8")
    (files / "text.j2").write_text(TEXT_TEMPLATE, encoding="utf-8")
    (files / "folder").mkdir()
    (files / "folder" / "photo.jpg").write_bytes(b"x")
    return files


@pytest.mark.parametrize("arguments", [*CHECKED, *TEXTS], ids=" ".join)
def test_arguments_are_checked_before_work(arguments: tuple[str, ...], no_work: Path) -> None:
    """Otherwise a typing error is told after the minute that it takes to encode a catalog."""
    data = () if arguments in TEXTS else OURS[:2] if arguments[0] == "index" else OURS
    result = run(*arguments, *data)
    assert result.exit_code in (2, 4), result.err
    assert "error" in result.err.lower()
    assert not (no_work / "out").exists()


@pytest.mark.parametrize("option", ["--model", "--encoder"])
def test_a_folder_that_is_no_model_is_refused_before_work(option: str, no_work: Path) -> None:
    """Otherwise a path to the wrong folder is told after libraries, and perhaps another model, have been loaded."""
    result = run("recommend", "u1", *OURS, option, "folder")
    assert (result.exit_code, "no config.json" in result.err) == (5, True), result.err


@pytest.mark.parametrize("command", [("batch", "run", "users.csv", "out", "--offline"), ("serve", "--port", "0")])
def test_a_ranker_without_its_data_is_refused_before_work(command: tuple[str, ...], no_work: Path) -> None:
    """The ensemble needs interactions, whatever model there is."""
    store = () if command[0] == "batch" else ("--store", "sqlite:///events.db")
    result = run(*command, *store, "--items", "items.csv", "--ranker", "blend")
    assert (result.exit_code, "--interactions" in result.err) == (2, True)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(template="haiku"),
        Settings(cold_template="haiku"),
        Settings(template="reply"),
        Settings(template="rank-candidates", generative=GenerativeSettings(strategy="beam")),
    ],
    ids=lambda settings: f"{settings.template} {settings.cold_template}",
)
def test_opening_a_recommender_checks_its_settings_before_work(settings: Settings, no_work: Path) -> None:
    """A template's name is checked before the titles are encoded."""
    with pytest.raises(GenrecError):
        open_recommender(Catalog.from_items([Item("a", "A")]), None, cache=no_work, settings=settings)


class UnreachedRanker(DenseRanker):
    """A ranker that must not be asked."""

    source = "unreached"

    def can_rank(self, request: RankRequest) -> bool:
        return reached()  # type: ignore[no-any-return]

    scores: Callable[..., Any] = reached


@pytest.mark.parametrize("wrong", ["nobody", 1.5, None, History(("zz",)), History("a")])  # type: ignore[arg-type]
def test_every_user_is_checked_before_the_first_is_ranked(wrong: Any) -> None:
    """Otherwise one unknown user among a million is told after hours, and the lists of the others are lost."""
    catalog = Catalog.from_items([Item("a", "A"), Item("b", "B")])
    recommender = Recommender(catalog, [UnreachedRanker()])
    users = [*[History(("a",))] * 1000, wrong]
    for call in (recommender.recommend, recommender.check):
        with pytest.raises(InputError):
            call(users, 1)


def test_a_check_accepts_what_can_be_recommended() -> None:
    """A check that refuses more than the call itself is no check."""
    catalog = Catalog.from_items([Item("a", "A", {"price": 1.0}), Item("b", "B")])
    recommender = Pipeline.from_rankers(catalog, None).recommender()
    for users, options in (
        ("ann", {"on_unknown": "fallback"}),
        ([History(("zz",)), "bob"], {"on_unknown": "skip"}),
        ([], {"where": "price < 5", "boost": {"a": 1.0}, "explain": True}),
    ):
        recommender.check(users, 1, **options)
        recommender.recommend(users, 1, **options)
