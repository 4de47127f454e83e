"""Rows of a batch run as prompts, and what a language model writes behind them as lines of a part.

A prompt is made of a row by a template, or is the row's own: a line of OpenAI's batch format.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from genrec.backends.base import Backend, Completion, GenerationRequest
from genrec.batch.input import InputRow
from genrec.batch.openai import parse_batch_line
from genrec.batch.row import failure_code, first_valid_row, id_type_of, parse_id, parse_user, row_key
from genrec.batch.run import ENGINE_ERROR, BatchResult, RowFailure
from genrec.decoding.grammar import GrammarCompiler, GrammarConstraint
from genrec.errors import ArtifactError, EngineError, InputError, TemplateError, UnknownItemError, check_count
from genrec.prompting.renderer import item_variables, newest_distinct
from genrec.prompting.template import Prompt, Template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.recommender import OnUnknown, Recommender
from genrec.types import History

_MAX_TEMPERATURE = 2  # beyond it there is only noise
_MAX_CACHED_CONSTRAINTS = 64  # that are kept ready


@dataclass(frozen=True)
class SamplingParams:
    """How a text is written, where its row does not say otherwise.

    Attributes:
        max_tokens: tokens it may have; fewer where the prompt leaves no more room.
        temperature: 0 takes the likeliest token each time, more of it draws.
        seed: of what is drawn; alike prompts draw alike.
        schema: the JSON Schema that it is held to; None for free text.

    Raises:
        InputError: a value is out of its range (named).
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens)
        check_count("seed", self.seed, 0)
        if not 0 <= self.temperature <= _MAX_TEMPERATURE:
            raise InputError(f"temperature is {self.temperature!r:.80}; give a number from 0 to {_MAX_TEMPERATURE}")


class PromptBuilder(Protocol):
    """How a row is read."""

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """The prompt, and how its text is to be written.

        Raises:
            InputError: the row cannot be read, or asks for what cannot be done.
        """
        ...


class GenerateTask:
    """Answers rows with texts.

    Args:
        backend: the language model.
        tokenizer: its tokenizer.
        build_prompt: makes prompts of rows, such as `TemplatePromptBuilder` or `ChatPromptBuilder`.
        sampling_params: how texts are written.
        batch_size: prompts that are answered together.

    Attributes:
        key_columns: columns that a text's line takes over from its row, where the first row has them.

    Raises:
        InputError: the schema cannot be kept.
        ModelMissingError: a schema is given, and llguidance is not installed.
    """

    key_columns = ("custom_id", "user_id", "item_id")

    def __init__(
        self,
        backend: Backend,
        tokenizer: HuggingFaceTokenizer,
        build_prompt: PromptBuilder,
        *,
        sampling_params: SamplingParams | None = None,
        batch_size: int = 32,
    ) -> None:
        check_count("batch_size", batch_size)
        self._backend, self._tokenizer, self._build_prompt = backend, tokenizer, build_prompt
        self._sampling_params, self._batch_size = sampling_params or SamplingParams(), batch_size
        self._grammar: GrammarCompiler | None = None
        self._constraints: dict[str, GrammarConstraint] = {}
        self._constraint_for(self._sampling_params.schema)

    def schema(self, rows: Iterator[InputRow]) -> pa.Schema:
        """Ids as the first row that can be read has them, then what was written.

        Raises:
            InputError: no row can be read; it says why the first one cannot.
        """
        row, _ = first_valid_row(rows, self._build_request)
        keys = {name: id_type_of(row, name) for name in self.key_columns if name in row.columns}
        columns = {"text": pa.string(), "finish_reason": pa.string(), "tokens": pa.int64(), "row": pa.int64()}
        return pa.schema({**keys, **columns})

    def __call__(self, rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        """The texts of all rows that can be answered."""
        failures: dict[int, RowFailure] = {}
        requests: dict[int, GenerationRequest] = {}
        keys: dict[int, dict[str, object]] = {}

        def fail(place: int, code: str, message: object) -> None:
            failures[place] = RowFailure(place, row_key(rows[place], self.key_columns), code, str(message))

        kinds = {name: schema.field(name).type for name in self.key_columns if name in schema.names}
        for place, row in enumerate(rows):
            try:
                keys[place] = {name: parse_id(row, name, kind) for name, kind in kinds.items()}
                requests[place] = self._build_request(row)
            except InputError as error:
                fail(place, failure_code(error), error)
        lines: list[dict[str, object]] = []
        tokens = 0
        for some in _chunks(list(requests), self._batch_size):
            for place, text in zip(some, self._generate([requests[place] for place in some]), strict=True):
                if isinstance(text, EngineError):
                    fail(place, ENGINE_ERROR, text)
                    continue
                tokens += len(requests[place].prompt) + len(text.token_ids)
                written = self._tokenizer.decode(text.token_ids.tolist())
                if requests[place].constraint is not None and not (text.stopped and _is_json(written)):
                    said = f"its JSON was not whole after {len(text.token_ids)} tokens; allow more, in another run"
                    fail(place, "cut_short", said)
                    continue
                reason = "stop" if text.stopped else "length"
                told = {"text": written, "finish_reason": reason, "tokens": len(text.token_ids), "row": place}
                lines.append({**keys[place], **told})
        table = pa.Table.from_pylist(lines, schema=schema)
        sources = Counter({self._backend.name: len(lines)} if lines else {})
        return BatchResult(table, [failures[place] for place in sorted(failures)], sources, tokens)

    def _generate(self, requests: Sequence[GenerationRequest]) -> list[Completion | EngineError]:
        """A text for each request; one that the engine fails on is found by halving, and fails alone."""
        try:
            return [*self._backend.generate(requests)]
        except EngineError as error:
            if len(requests) == 1:
                return [error]
            half = len(requests) // 2
            return [*self._generate(requests[:half]), *self._generate(requests[half:])]

    def _build_request(self, row: InputRow) -> GenerationRequest:
        if row.error:
            raise InputError(row.error)
        prompt, style = self._build_prompt(row, self._sampling_params)
        try:
            token_ids = self._tokenizer.encode_prompt(prompt)
        except ArtifactError as error:  # roles that the model's chat format does not take
            raise InputError(str(error)) from error
        room = self._backend.context_length - len(token_ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(token_ids):,} tokens, and the context of {self._backend.name} only "
                f"{self._backend.context_length:,}; shorten it"
            )
        return GenerationRequest(
            token_ids,
            self._tokenizer.control_token_ids,
            min(style.max_tokens, room),
            float(style.temperature),
            style.seed,
            self._constraint_for(style.schema),
        )

    def _constraint_for(self, schema: Mapping[str, Any] | None) -> GrammarConstraint | None:
        """The constraint of a schema; those that were met lately are kept."""
        if schema is None:
            return None
        self._grammar = self._grammar or GrammarCompiler(self._tokenizer)
        key = repr(schema)
        constraint = self._constraints.pop(key, None) or self._grammar.compile_json_schema(schema)
        self._constraints[key] = constraint
        while len(self._constraints) > _MAX_CACHED_CONSTRAINTS:
            del self._constraints[next(iter(self._constraints))]
        return constraint


class TemplateInputs:
    """Inputs of a template that are looked up by what a row says.

    Args:
        recommender: knows the items and the users.
        max_history: the newest distinct items of a history that are shown.
        on_unknown: as for `Recommender.recommend`; a user whom nobody knows is a problem for `skip` too.

    Attributes:
        names: what they are called.
    """

    names = ("history", "item")

    def __init__(self, recommender: Recommender, *, max_history: int = 12, on_unknown: OnUnknown = "raise") -> None:
        self._recommender, self._max_history, self._on_unknown = recommender, max_history, on_unknown

    def history(self, row: InputRow) -> list[dict[str, object]]:
        """The items of a row's `history`, or of its known user's, oldest first; with `title` and attributes."""
        person = parse_user(row)
        if self._on_unknown == "skip" and not isinstance(person, History):
            self._recommender.history_indices(person)  # nobody is written to whom nobody knows
        items = self._recommender.history_indices(person, on_unknown=self._on_unknown)
        shown = newest_distinct(items, self._max_history)[::-1]
        return [item_variables(self._recommender.catalog, int(item)) for item in shown]

    def item(self, row: InputRow) -> dict[str, object]:
        """The item of a row's `item_id`."""
        item_id, catalog = parse_id(row, "item_id"), self._recommender.catalog
        if item_id is None:
            raise InputError("there is no item_id, and the template shows the item; name one")
        place = int(catalog.item_ids.positions([item_id])[0])
        if place < 0:
            raise UnknownItemError(
                f"item {item_id!r} is not in catalog {catalog.name!r} ({len(catalog):,} items); leave the row out"
            )
        return item_variables(catalog, place)


class TemplatePromptBuilder:
    """Prompts from a template whose inputs are columns of the rows.

    Args:
        template: with output "text".
        inputs: what makes the inputs `history` and `item`; without it they are columns like others.

    Raises:
        InputError: the template asks for an item.
    """

    def __init__(self, template: Template, inputs: TemplateInputs | None = None) -> None:
        if template.output != "text":
            raise InputError(
                f"template {template.name!r} asks for an item, not for text; lists take it as --template, and prompts "
                'one whose header says output = "text"'
            )
        self._template = template
        self._derived_inputs: dict[str, Callable[[InputRow], object]] = (
            {} if inputs is None else {name: getattr(inputs, name) for name in inputs.names}
        )

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """The template filled in from a row."""
        values = {}
        for name in self._template.inputs:
            if name in self._derived_inputs:
                values[name] = self._derived_inputs[name](row)
            elif name in row.columns:
                if row.columns[name] in (None, ""):
                    raise InputError(
                        f"the column {name!r}, which template {self._template.name!r} shows, is empty; fill it in, or "
                        "leave the row out"
                    )
                values[name] = row.columns[name]
            else:
                raise InputError(
                    f"there is no column {name!r}, which template {self._template.name!r} shows; the columns are "
                    f"{', '.join(row.columns) or 'none'}: rename or add it"
                )
        try:
            prompt = self._template.render(**values)
        except TemplateError as error:
            raise InputError(str(error)) from error
        if not prompt:
            raise InputError(f"template {self._template.name!r} says nothing of this row; fill its columns")
        return prompt, sampling_params


class ChatPromptBuilder:
    """Prompts that are rows of OpenAI's batch format: `custom_id`, and a `body` with `messages`.

    Args:
        model: what a body may call the model, where it names one.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """What a row asks; all of its text is untrusted."""
        asked = parse_batch_line(row.columns).body
        if asked.model not in (None, self._model):
            raise InputError(
                f"body.model is {asked.model!r:.80}, and this run's is {self._model!r}; leave it out, or name this one"
            )
        return asked.prompt, SamplingParams(
            asked.token_limit or sampling_params.max_tokens,
            sampling_params.temperature if asked.temperature is None else asked.temperature,
            sampling_params.seed if asked.seed is None else asked.seed,
            sampling_params.schema if asked.response_format is None else asked.answer_schema,
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _chunks(row_indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(row_indices), size):
        yield row_indices[start : start + size]
