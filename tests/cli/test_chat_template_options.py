"""Arguments of a model's chat template reach every prompt that a command makes, and every key made from prompts."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import OURS, run
from thinking_model import CHAT_TEMPLATE, write_thinking_model

from genrec import ChatTemplateSettings, Settings, open_recommender, read_catalog, read_interactions
from genrec.cli.chat_template_options import canonical_arguments, chat_template_from_options
from genrec.cli.loading import generative_rankers
from genrec.data.subset import Subset
from genrec.errors import ArtifactError, InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.base import RankRequest
from genrec.rankers.generative import GenerativeRanker

pytestmark = pytest.mark.model
OPTIONS = ("--chat-template-arg", "style=short", "--chat-template-date", "2026-12-02")
CHOSEN = ChatTemplateSettings(arguments={"style": "short"}, date=datetime.date(2026, 12, 2))
THINKING = ("--chat-template-arg", "enable_thinking=true")
UNREAD = ("--chat-template-arg", "enable_thinkin=false")


@pytest.fixture
def model(files: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose template reads arguments, in the current folder, and an empty cache."""
    monkeypatch.setenv("GENREC_CACHE", str(files / "cache"))
    (files / "users.csv").write_text("user_id\nu1\n", encoding="utf-8")
    return write_thinking_model(files / "model", smollm2)


def open_ranker(folder: Path, chat_template: ChatTemplateSettings) -> GenerativeRanker:
    settings = Settings(model=folder, encoder=None, chat_template=chat_template, compute_priors=True)
    data = read_catalog("items.csv"), read_interactions("events.csv")
    (ranker,) = generative_rankers(open_recommender(*data, cache=Path("cache"), settings=settings))
    return ranker


def test_one_prompt_from_every_door(model: Path) -> None:
    """A date or an argument that one door drops gives the model another prompt than it was measured with."""
    given = ("--items", "items.csv", "--history", "a", "--model", model, "--tokens", "--json")
    command = run("prompt", "render", "next-item", *given, *OPTIONS).json
    ranker = open_ranker(model, CHOSEN)
    request = RankRequest(np.array([0]), "", Subset.everything(3))
    rendered = ranker.render(request)
    assert command["token_ids"] == rendered.token_ids.tolist()

    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(model)
    reference.chat_template = CHAT_TEMPLATE.replace("strftime_now('%Y-%m-%d')", "'2026-12-02'")
    messages = [{"role": message.role, "content": message.text} for message in rendered.prompt]
    variables = {"style": "short", "enable_thinking": False, "return_dict": False}
    assert command["token_ids"] == reference.apply_chat_template(messages, add_generation_prompt=True, **variables)
    assert command["token_ids"] != open_ranker(model, ChatTemplateSettings()).render(request).token_ids.tolist()


def test_a_prior_is_cached_for_its_prompts(model: Path) -> None:
    """The prior of other prompts corrects the score by something that the model never answered."""
    counts = []
    for chosen in (ChatTemplateSettings(), CHOSEN, CHOSEN, ChatTemplateSettings(arguments={"unread": 1})):
        open_ranker(model, chosen)
        counts.append(len(list(Path("cache/priors").iterdir())))
    assert counts == [2, 4, 4, 4]  # of users with a history, and of those without


def test_a_batch_run_is_one_of_its_arguments(model: Path) -> None:
    """Half of a run with other prompts is two runs in one folder."""
    command = ("batch", "run", "users.csv", "out", *OURS, "--model", model, "--encoder", "none", "--offline")
    more = ("--chat-template-arg", "enable_thinking=false")
    first = run(*command, *OPTIONS, *more)
    assert first.exit_code == 0, first.err
    config = json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))["facts"]
    assert config["chat_template_arg"] == ["enable_thinking=false", 'style="short"']
    assert config["chat_template_date"] == "2026-12-02"
    assert (
        run(*command, *more, "--chat-template-date", "2026-12-02", "--chat-template-arg", 'style="short"').exit_code
        == 0
    )
    assert run("batch", "resume", "out").exit_code == 0
    other = run(*command, *more)
    assert (other.exit_code, "contains a run whose chat_template_" in other.err) == (4, True)
    texts = run("batch", "run", "users.csv", "lists", *OURS, "--ranker", "popularity", "--encoder", "none", *more)
    assert (texts.exit_code, "does not use" in texts.err) == (2, True)


@pytest.mark.parametrize(
    "command",
    [
        ("recommend", "u1", *OURS, "--encoder", "none", "--json"),
        ("evaluate", *OURS, "--encoder", "none", "--protocol", "by-time", "--at", "2", "--json"),
        ("batch", "run", "users.csv", "out", *OURS, "--encoder", "none", "--offline"),
        ("batch", "plan", "users.csv", *OURS, "--encoder", "none", "--offline"),
        ("batch", "run", "users.csv", "out", "--prompt", "text.j2", "--max-tokens", "2", "--offline"),
        ("index", "build", "index", *OURS[:2]),
        ("prompt", "render", "next-item", *OURS[:2], "--history", "a", "--tokens"),
        ("doctor", "--encoder", "none", "--json"),
        ("chat", *OURS, "--encoder", "none"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_door_tells_what_the_template_does_not_do(command: tuple[str, ...], model: Path) -> None:
    """A typing error in an argument, or reasoning that is skipped, is seen nowhere else."""
    text = '{#\nname="x"\nversion=1\ninputs=["user_id"]\noutput="text"\n#}\n{% block user %}{{ user_id }}{% endblock %}'
    Path("text.j2").write_text(text, encoding="utf-8")
    result = run(*command, "--model", model, *THINKING, *UNREAD)
    shown = " ".join((result.out + result.err).split())
    assert "was trained to reason first" in shown, shown
    assert "does not read these arguments" in shown
    assert "enable_thinkin" in shown


def test_an_index_is_of_the_template_that_it_was_built_for(model: Path) -> None:
    """Another template may end answers with another token, and then no item is found."""
    templates = [
        {"name": "default", "template": CHAT_TEMPLATE},
        {"name": "plain", "template": "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"},
    ]
    (model / "chat_template.jinja").unlink()
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": templates}), encoding="utf-8")
    named = ("--model", model, "--chat-template-name", "plain")
    assert run("index", "build", "index", "--items", "items.csv", *named).exit_code == 0
    command = ("recommend", "--history", "a", "--encoder", "none", "--index", "index")
    assert run(*command, *named).exit_code == 0
    other = run(*command, "--model", model)
    assert (other.exit_code, "tokenizer" in other.err) == (4, True)
    absent = run(*command, "--model", model, "--chat-template-name", "rag")
    assert absent.exit_code == 2, absent.err
    assert "no chat template 'rag' (it has default, plain)" in absent.err


def test_a_template_that_fails_with_its_arguments_fails_before_the_catalog_is_embedded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding a million titles takes an hour, and the template is rendered in a millisecond."""
    monkeypatch.setattr("genrec.precomputed.open_encoder", lambda *_, **__: pytest.fail("slow work"))
    (model / "chat_template.jinja").write_text(
        "{{ raise_exception('no ' ~ style) if style is defined }}" + CHAT_TEMPLATE
    )
    settings = Settings(model=model, chat_template=CHOSEN)
    with pytest.raises(ArtifactError, match="no short; change the chat template arguments style"):
        open_recommender(read_catalog("items.csv"), None, cache=Path("cache"), settings=settings, need_model=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a=true", True),
        ("a=3", 3),
        ("a=0.5", 0.5),
        ("a=null", None),
        ('a={"b": [1]}', {"b": [1]}),
        ("a=low", "low"),
        ("a=b=c", "b=c"),
        ("a=", ""),
        ("a=NaN", "NaN"),
        ("a=1e999", "1e999"),
        ("a=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_values_are_json_or_text(value: str, expected: object) -> None:
    """`false` as text is true in a template."""
    options = {"chat_template_arg": [value]}
    assert chat_template_from_options(options).arguments == {"a": expected}
    assert chat_template_from_options({"chat_template_arg": canonical_arguments([value])}).arguments == {"a": expected}


@pytest.mark.parametrize(
    "arguments", [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"": 1}, {"messages": []}]
)
def test_arguments_that_no_template_can_read_are_refused(arguments: dict[str, object]) -> None:
    """They would fail inside a template, or be replaced without a word."""
    with pytest.raises(InputError, match="chat template argument"):
        ChatTemplateSettings(arguments=arguments)


def test_the_fingerprint_of_a_template_is_of_what_it_renders(model: Path) -> None:
    """Adapters are compared by it: equal prompts must not warn, and other prompts must."""

    def fingerprint(**settings: object) -> str:
        chosen = ChatTemplateSettings(**settings)  # type: ignore[arg-type]
        return HuggingFaceTokenizer.from_directory(model, chosen).chat_template_fingerprint

    tomorrow = datetime.date(2026, 12, 3)
    same = [fingerprint(), fingerprint(arguments={"unread": 1}), fingerprint(arguments={"enable_thinking": False})]
    others = [fingerprint(date=tomorrow), fingerprint(arguments={"style": "short"})]
    (model / "chat_template.jinja").write_text(
        CHAT_TEMPLATE.replace("strftime_now('%Y-%m-%d')", "''"), encoding="utf-8"
    )
    undated = [fingerprint(), fingerprint(date=tomorrow)]
    assert [len(set(each)) for each in (same, [*same, *others], undated)] == [1, 3, 1]
