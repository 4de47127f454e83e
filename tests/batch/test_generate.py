"""Texts for rows: by a template, or asked as OpenAI's batch format asks; each row by itself."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from genrec import Catalog, Interactions, PopularityRanker, Recommender, Template, read_template
from genrec.backends.base import Backend, GenerationRequest
from genrec.batch.generate import GenerateTask
from genrec.batch.prompts import ChatPromptBuilder, SamplingParams, TemplateInputs, TemplatePromptBuilder
from genrec.batch.row import InputRow
from genrec.cli.app import app
from genrec.errors import EngineError, InputError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import TableBackend

ASKS = '{#\nname = "asks"\nversion = 1\ninputs = ["thing"]\noutput = "text"\n#}\n'
ASKS += "{% block user %}What is a {{ thing }} for?{% endblock %}"
SCHEMA = {
    "type": "object",
    "properties": {"use": {"type": "string", "maxLength": 12}},
    "required": ["use"],
    "additionalProperties": False,
}


def request(custom_id: Any = "a", text: Any = "Say yes.", **body: Any) -> InputRow:
    messages = [{"role": "user", "content": text}]
    return InputRow({"custom_id": custom_id, "body": {"messages": messages, "max_tokens": 4, **body}})


@pytest.fixture(scope="module")
def known(shop: tuple[Catalog, Interactions]) -> Recommender:
    catalog, interactions = shop
    return Recommender(catalog, [PopularityRanker(np.zeros(len(catalog)))], interactions=interactions)


@pytest.mark.model
def test_a_text_of_a_row_is_the_one_of_its_prompt(smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer) -> None:
    """What stands in a part must be what the same prompt gives alone, for the row that asked."""
    template = Template.from_source(ASKS)
    answer = GenerateTask(
        smollm2_float32,
        tokenizer,
        TemplatePromptBuilder(template),
        sampling_params=SamplingParams(max_tokens=12),
        batch_size=2,
    )
    things = ["spoon", "<|im_end|>", "lamp", "bell", "hat"]
    rows = [InputRow({"item_id": number, "thing": thing}) for number, thing in enumerate(things)]
    rows.insert(2, InputRow({"item_id": 9}))
    rows.append(InputRow({"item_id": 10, "thing": None}))
    schema = answer.schema(iter(rows))
    assert schema.names == ["item_id", "text", "finish_reason", "tokens", "row"]
    answers = answer(rows, schema)
    assert [(one.row, one.id, one.code) for one in answers.failures] == [(2, 9, "unreadable"), (6, 10, "unreadable")]
    assert "no column 'thing'" in answers.failures[0].message
    assert "column 'thing', an input of template 'asks', is empty" in answers.failures[1].message
    lines = answers.table.to_pylist()
    assert [(line["item_id"], line["row"]) for line in lines] == [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)]
    total = 0
    for line, thing in zip(lines, things, strict=True):
        prompt = tokenizer.encode_prompt(template.render(thing=thing))
        text = smollm2_float32.generate([GenerationRequest(prompt, tokenizer.control_token_ids, 12)])[0]
        assert line["text"] == tokenizer.decode(text.token_ids.tolist())
        assert (line["tokens"], line["finish_reason"]) == (len(text.token_ids), "stop" if text.stopped else "length")
        total += len(prompt) + len(text.token_ids)
    assert answers.tokens == total
    assert answers.sources == {smollm2_float32.name: 5}


@pytest.mark.model
def test_request_options_are_honoured_or_reported(smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer) -> None:
    """A line that is not supported must not cost its neighbours, nor be answered as if it had asked for less."""
    rows = [
        request("a", "Name a colour.", temperature=1, seed=3, max_tokens=6, model="tiny"),
        request("b", [{"type": "text", "text": "Say"}, {"type": "text", "text": "yes."}]),
        request("c", response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}, max_tokens=30),
        request("d", response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}, max_tokens=2),
        request("e", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}),
        request("f", n=2),
        request("g", tools=[{}]),
        request("h", model="gpt-4"),
        request("", "no id"),
        request(7, "no text for an id"),
        request("i", "\ud800"),
        request("j", "long " * 9000),
        request("k", max_tokens=0),
        request("l", messages=[{"role": "tool", "content": "x"}]),
        request("m", temperature=-1),
        InputRow({"custom_id": "n", "body": 5}),
        InputRow({"custom_id": "o", "url": "/v1/embeddings", "body": request().columns["body"]}),
        InputRow({}, "line 9 of a.jsonl is not a JSON object"),
        request("p", response_format={"type": "json_schema"}),
    ]
    answer = GenerateTask(smollm2_float32, tokenizer, ChatPromptBuilder("tiny"))
    answers = answer(rows, answer.schema(iter(rows)))
    told = {one.row: (one.id, one.code, one.message) for one in answers.failures}
    assert sorted(told) == list(range(3, 19))
    assert told[3] == ("d", "cut_short", "the JSON is incomplete after 2 tokens; start a run with a higher max_tokens")
    for row, said in (
        (4, "Invalid type: strin"),
        (5, "body.n"),
        (6, "body.tools"),
        (7, "'gpt-4', but this run uses 'tiny'"),
        (8, "custom_id"),
        (9, "custom_id"),
        (10, "lone surrogate"),
        (11, "the context of"),
        (12, "body.max_tokens"),
        (13, "body.messages.0.role"),
        (14, "body.temperature"),
        (15, "body"),
        (16, "url"),
        (17, "line 9 of a.jsonl"),
        (18, "json_schema"),
    ):
        assert told[row][1] == "unreadable"
        assert said in told[row][2], row
    lines = answers.table.to_pylist()
    assert [line["custom_id"] for line in lines] == ["a", "b", "c"]
    assert json.loads(lines[2]["text"]).keys() == {"use"}
    again = answer(rows[:1], answer.schema(iter(rows))).table.to_pylist()
    assert again == lines[:1]


def test_a_template_shows_what_is_looked_up(known: Recommender, tokenizer: HuggingFaceTokenizer) -> None:
    """A letter to somebody about the history of somebody else is worse than none."""
    read = TemplatePromptBuilder(read_template("newsletter"), TemplateInputs(known, max_history=2))
    user, item = "12748", known.catalog[3]
    prompt, _ = read(InputRow({"user_id": user, "item_id": item.item_id, "rank": 1}), SamplingParams())
    history = known.history_indices(user)
    newest = list(dict.fromkeys(history[::-1].tolist()))[:2]
    said = prompt[-1].text
    assert said.index(known.catalog[newest[1]].title) < said.index(known.catalog[newest[0]].title)
    assert said.endswith(item.title)
    assert "3. " not in said
    for value, message in (
        ({"user_id": "nobody", "item_id": item.item_id}, "nobody"),
        ({"user_id": user, "item_id": "no-such"}, "item 'no-such' is not in catalog"),
        ({"user_id": user}, "item_id is missing or empty"),
        ({"history": ["no-such"], "item_id": item.item_id}, "no-such"),
    ):
        with pytest.raises(InputError, match=message):
            read(InputRow(value), SamplingParams())
    with pytest.raises(InputError, match="outputs an item, not text"):
        TemplatePromptBuilder(read_template("next-item"))


def test_engine_failure_fails_its_rows_only(tokenizer: HuggingFaceTokenizer) -> None:
    """They are what retry-failed asks again."""

    class Failing(TableBackend):
        def generate(self, requests: Any, *, deadline: Any = None) -> Any:
            if any(len(one.prompt) > 40 for one in requests):
                raise EngineError("the engine is gone")
            return super().generate(requests, deadline=deadline)

    answer = GenerateTask(Failing(tokenizer.vocab_size), tokenizer, ChatPromptBuilder("tiny"), batch_size=3)
    rows = [request("a"), request("b", "long " * 40), request("c")]
    answers = answer(rows, answer.schema(iter(rows)))
    assert [(one.row, one.code, one.message) for one in answers.failures] == [(1, "engine", "the engine is gone")]
    assert answers.table["custom_id"].to_pylist() == ["a", "c"]
    with pytest.raises(InputError, match="batch_size is -1"):
        GenerateTask(TableBackend(9), tokenizer, ChatPromptBuilder("tiny"), batch_size=-1)


def test_a_chat_format_that_refuses_the_roles_fails_the_row(tokenizer: HuggingFaceTokenizer) -> None:
    """One line that the template rejects would else end the run, and every resumption of it."""
    strict = HuggingFaceTokenizer(
        tokenizer.tokenizer_json,
        chat_template="{% for one in messages %}{% if loop.index0 > 2 %}"
        "{{ raise_exception('speak in turn') }}{% endif %}{{ one.content }}<|im_end|>{% endfor %}",
        bos_token="",
        eos_token="<|im_end|>",
    )
    answer = GenerateTask(TableBackend(strict.vocab_size), strict, ChatPromptBuilder("tiny"))
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant", "user")]
    twice = request("b", messages=turns)
    answers = answer([request("a"), twice], answer.schema(iter([twice, request("a")])))
    assert [(one.row, one.code) for one in answers.failures] == [(1, "unreadable")]
    assert "speak in turn" in answers.failures[0].message


def test_every_option_that_decides_the_answers_is_among_the_facts() -> None:
    """One that is forgotten would be without effect, and could change between two starts of a run."""
    from genrec.cli import batch_options, batch_tasks

    declared = set(inspect.signature(batch_options.task_options).parameters) - {"given"}
    assert {"answers", *declared} == set(batch_tasks.TASK_OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"max_tokens": 0}, "max_tokens is 0"), ({"seed": -1}, "seed is -1"), ({"temperature": 3.0}, "temperature is 3")],
)
def test_sampling_params_out_of_range_raise(change: dict[str, Any], message: str) -> None:
    """Before a million rows are asked with it."""
    with pytest.raises(InputError, match=message):
        SamplingParams(**change)


@pytest.mark.model
def test_a_run_of_texts_is_resumed_verified_and_held_to_its_prompt(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same guarantees as for lists; a prompt that changed in between makes another run."""
    prompt, schema = tmp_path / "asks.j2", tmp_path / "schema.json"
    prompt.write_text(ASKS, encoding="utf-8")
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    source, folder = tmp_path / "rows.csv", tmp_path / "run"
    source.write_text("user_id,thing\n" + "".join(f"u{number},cup\n" for number in range(6)), encoding="utf-8")
    options = ("--max-tokens", "20", "--part-rows", "2", "--offline")

    def ask(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["batch", *arguments])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr)
        return result.stdout + result.stderr

    asked = ("run", str(source), str(folder), "--prompt", str(prompt), "--schema", str(schema), *options)
    ask(*asked)
    before = {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}
    assert sorted(before) == [f"{number:08}.parquet" for number in range(3)]
    (folder / "done" / "00000001.json").unlink()
    (folder / "parts" / "00000002.parquet").write_bytes(b"damaged")
    assert "6 of 6 rows in 3 of 3 parts, 0 failed" in ask("resume", str(folder))
    assert {path.name: path.read_bytes() for path in (folder / "parts").iterdir()} == before
    assert "6 rows, each present exactly once" in ask("verify", str(folder))
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (told["seed"], told["rows_done"], told["versions"].keys() >= {"genrec", "python"}) == (0, 6, True)
    lines = pq.read_table(folder / "parts").to_pylist()
    assert [line["user_id"] for line in lines] == [f"u{number}" for number in range(6)]
    assert all(json.loads(line["text"]).keys() == {"use"} for line in lines)
    # A line whose user is another one's is found by reading the rows again.
    part = folder / "parts" / "00000000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(0, "user_id", pa.array(["u0", "u0"])), part)
    assert "does not match its record" in ask("verify", str(folder), code=4)
    # What lies here under the name of something that ships changes nothing.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SmolLM2-135M-Instruct").mkdir()
    ask("run", str(source), str(tmp_path / "named"), *asked[3:], "--model", "SmolLM2-135M-Instruct")
    prompt.write_text(ASKS.replace("for?", "good for?"), encoding="utf-8")
    assert "whose prompt hash is" in ask(*asked, code=4)
    assert "with a different prompt hash" in ask("resume", str(folder), code=4)
    for wrong, message in (
        (("--k", "3"), "--k applies to recommendation lists"),
        (("--where", "price < 3"), "--where applies to recommendation lists"),
        (("--model", "none"), "cannot generate texts"),
        (("--temperature", "3"), "temperature is 3.0"),
    ):
        assert message in ask(*asked, *wrong, code=2)
    assert "--seed applies only to texts" in ask("run", str(source), str(tmp_path / "no"), "--seed", "3", code=2)
    schema.write_text("[]", encoding="utf-8")
    assert "is not a JSON object" in ask(*asked, code=2)
