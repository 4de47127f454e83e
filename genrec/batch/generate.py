"""Rows of a batch run as prompts, and what a language model writes behind them as lines of a part.

A prompt is made of a row by a template, or is the row's own: a line of OpenAI's batch format.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from genrec.backends.base import Backend, Text, TextRequest
from genrec.batch.input import Row
from genrec.batch.openai import read_line
from genrec.batch.row import code_of, first_readable, id_kind, id_of, name_of, person_of
from genrec.batch.run import ENGINE, Answers, Failure
from genrec.decoding.grammar import GrammarConstraint, JsonGrammar
from genrec.errors import ArtifactError, EngineError, InputError, TemplateError, UnknownItemError, check_count
from genrec.prompting.renderer import newest_distinct, view_of
from genrec.prompting.template import Prompt, Template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.recommender import OnUnknown, Recommender
from genrec.types import History

_HOTTEST = 2  # beyond it there is only noise
_SCHEMAS = 64  # that are kept ready


@dataclass(frozen=True)
class Style:
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
        if not 0 <= self.temperature <= _HOTTEST:
            raise InputError(f"temperature is {self.temperature!r:.80}; give a number from 0 to {_HOTTEST}")


class Reading(Protocol):
    """How a row is read."""

    def __call__(self, row: Row, style: Style) -> tuple[Prompt, Style]:
        """The prompt, and how its text is to be written.

        Raises:
            InputError: the row cannot be read, or asks for what cannot be done.
        """
        ...


class TextAnswerer:
    """Answers rows with texts.

    Args:
        backend: the language model.
        tokenizer: its tokenizer.
        read: makes prompts of rows, such as `TemplateReading` or `MessageReading`.
        style: how texts are written.
        batch_size: prompts that are answered together.

    Attributes:
        keys: columns that a text's line takes over from its row, where the first row has them.

    Raises:
        InputError: the schema cannot be kept.
        ModelMissingError: a schema is given, and llguidance is not installed.
    """

    keys = ("custom_id", "user_id", "item_id")

    def __init__(
        self,
        backend: Backend,
        tokenizer: HuggingFaceTokenizer,
        read: Reading,
        *,
        style: Style | None = None,
        batch_size: int = 32,
    ) -> None:
        check_count("batch_size", batch_size)
        self._backend, self._tokenizer, self._read = backend, tokenizer, read
        self._style, self._batch_size = style or Style(), batch_size
        self._grammar: JsonGrammar | None = None
        self._constraints: dict[str, GrammarConstraint] = {}
        self._constrain(self._style.schema)

    def schema(self, rows: Iterator[Row]) -> pa.Schema:
        """Ids as the first row that can be read has them, then what was written.

        Raises:
            InputError: no row can be read; it says why the first one cannot.
        """
        row, _ = first_readable(rows, self._asked)
        keys = {name: id_kind(row, name) for name in self.keys if name in row.value}
        columns = {"text": pa.string(), "finish_reason": pa.string(), "tokens": pa.int64(), "row": pa.int64()}
        return pa.schema({**keys, **columns})

    def __call__(self, rows: Sequence[Row], schema: pa.Schema) -> Answers:
        """The texts of all rows that can be answered."""
        failures: dict[int, Failure] = {}
        requests: dict[int, TextRequest] = {}
        keys: dict[int, dict[str, object]] = {}

        def fail(place: int, code: str, message: object) -> None:
            failures[place] = Failure(place, name_of(rows[place], self.keys), code, str(message))

        kinds = {name: schema.field(name).type for name in self.keys if name in schema.names}
        for place, row in enumerate(rows):
            try:
                keys[place] = {name: id_of(row, name, kind) for name, kind in kinds.items()}
                requests[place] = self._asked(row)
            except InputError as error:
                fail(place, code_of(error), error)
        lines: list[dict[str, object]] = []
        tokens = 0
        for some in _chunks(list(requests), self._batch_size):
            for place, text in zip(some, self._write([requests[place] for place in some]), strict=True):
                if isinstance(text, EngineError):
                    fail(place, ENGINE, text)
                    continue
                tokens += len(requests[place].prompt) + len(text.token_ids)
                written = self._tokenizer.decode(text.token_ids.tolist())
                if requests[place].constraint is not None and not (text.ended and _is_json(written)):
                    said = f"its JSON was not whole after {len(text.token_ids)} tokens; allow more, in another run"
                    fail(place, "cut_short", said)
                    continue
                reason = "stop" if text.ended else "length"
                told = {"text": written, "finish_reason": reason, "tokens": len(text.token_ids), "row": place}
                lines.append({**keys[place], **told})
        table = pa.Table.from_pylist(lines, schema=schema)
        sources = Counter({self._backend.name: len(lines)} if lines else {})
        return Answers(table, [failures[place] for place in sorted(failures)], sources, tokens)

    def _write(self, requests: Sequence[TextRequest]) -> list[Text | EngineError]:
        """A text for each request; one that the engine fails on is found by halving, and fails alone."""
        try:
            return [*self._backend.write(requests)]
        except EngineError as error:
            if len(requests) == 1:
                return [error]
            half = len(requests) // 2
            return [*self._write(requests[:half]), *self._write(requests[half:])]

    def _asked(self, row: Row) -> TextRequest:
        if row.fault:
            raise InputError(row.fault)
        prompt, style = self._read(row, self._style)
        try:
            token_ids = self._tokenizer.encode_prompt(prompt)
        except ArtifactError as error:  # roles that the model's chat format does not take
            raise InputError(str(error)) from error
        room = self._backend.max_tokens - len(token_ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(token_ids):,} tokens, and the context of {self._backend.name} only "
                f"{self._backend.max_tokens:,}; shorten it"
            )
        return TextRequest(
            token_ids,
            self._tokenizer.control_ids,
            min(style.max_tokens, room),
            float(style.temperature),
            style.seed,
            self._constrain(style.schema),
        )

    def _constrain(self, schema: Mapping[str, Any] | None) -> GrammarConstraint | None:
        """The constraint of a schema; those that were met lately are kept."""
        if schema is None:
            return None
        self._grammar = self._grammar or JsonGrammar(self._tokenizer)
        key = repr(schema)
        constraint = self._constraints.pop(key, None) or self._grammar.constrain(schema)
        self._constraints[key] = constraint
        while len(self._constraints) > _SCHEMAS:
            del self._constraints[next(iter(self._constraints))]
        return constraint


class Lookup:
    """Inputs of a template that are looked up by what a row says.

    Args:
        recommender: knows the items and the users.
        max_history: the newest distinct items of a history that are shown.
        on_unknown: as for `Recommender.recommend`; a user whom nobody knows is a problem for `skip` too.

    Attributes:
        inputs: what they are called.
    """

    inputs = ("history", "item")

    def __init__(self, recommender: Recommender, *, max_history: int = 12, on_unknown: OnUnknown = "raise") -> None:
        self._recommender, self._max_history, self._on_unknown = recommender, max_history, on_unknown

    def history(self, row: Row) -> list[dict[str, object]]:
        """The items of a row's `history`, or of its known user's, oldest first; with `title` and attributes."""
        person = person_of(row)
        if self._on_unknown == "skip" and not isinstance(person, History):
            self._recommender.history_of(person)  # nobody is written to whom nobody knows
        items = self._recommender.history_of(person, on_unknown=self._on_unknown)
        shown = newest_distinct(items, self._max_history)[::-1]
        return [view_of(self._recommender.catalog, int(item)) for item in shown]

    def item(self, row: Row) -> dict[str, object]:
        """The item of a row's `item_id`."""
        item_id, catalog = id_of(row, "item_id"), self._recommender.catalog
        if item_id is None:
            raise InputError("there is no item_id, and the template shows the item; name one")
        place = int(catalog.item_ids.positions([item_id])[0])
        if place < 0:
            raise UnknownItemError(
                f"item {item_id!r} is not in catalog {catalog.name!r} ({len(catalog):,} items); leave the row out"
            )
        return view_of(catalog, place)


class TemplateReading:
    """Prompts from a template whose inputs are columns of the rows.

    Args:
        template: with output "text".
        lookup: what makes the inputs `history` and `item`; without it they are columns like others.

    Raises:
        InputError: the template asks for an item.
    """

    def __init__(self, template: Template, lookup: Lookup | None = None) -> None:
        if template.output != "text":
            raise InputError(
                f"template {template.name!r} asks for an item, not for text; lists take it as --template, and prompts "
                'one whose header says output = "text"'
            )
        self._template = template
        self._made: dict[str, Callable[[Row], object]] = (
            {} if lookup is None else {name: getattr(lookup, name) for name in lookup.inputs}
        )

    def __call__(self, row: Row, style: Style) -> tuple[Prompt, Style]:
        """The template filled in from a row."""
        values = {}
        for name in self._template.inputs:
            if name in self._made:
                values[name] = self._made[name](row)
            elif name in row.value:
                if row.value[name] in (None, ""):
                    raise InputError(
                        f"the column {name!r}, which template {self._template.name!r} shows, is empty; fill it in, or "
                        "leave the row out"
                    )
                values[name] = row.value[name]
            else:
                raise InputError(
                    f"there is no column {name!r}, which template {self._template.name!r} shows; the columns are "
                    f"{', '.join(row.value) or 'none'}: rename or add it"
                )
        try:
            prompt = self._template.render(**values)
        except TemplateError as error:
            raise InputError(str(error)) from error
        if not prompt:
            raise InputError(f"template {self._template.name!r} says nothing of this row; fill its columns")
        return prompt, style


class MessageReading:
    """Prompts that are rows of OpenAI's batch format: `custom_id`, and a `body` with `messages`.

    Args:
        model: what a body may call the model, where it names one.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, row: Row, style: Style) -> tuple[Prompt, Style]:
        """What a row asks; all of its text is untrusted."""
        asked = read_line(row.value).body
        if asked.model not in (None, self._model):
            raise InputError(
                f"body.model is {asked.model!r:.80}, and this run's is {self._model!r}; leave it out, or name this one"
            )
        return asked.prompt, Style(
            asked.most or style.max_tokens,
            style.temperature if asked.temperature is None else asked.temperature,
            style.seed if asked.seed is None else asked.seed,
            style.schema if asked.response_format is None else asked.answer_schema,
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
