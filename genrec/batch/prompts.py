"""Prompts of a batch run: built from a row by a template, or taken from a line of OpenAI's batch format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from genrec.batch.openai import parse_batch_line
from genrec.batch.row import InputRow, parse_id, parse_user
from genrec.errors import InputError, TemplateError, UnknownItemError, check_count, check_number, format_value
from genrec.prompting.renderer import item_variables, newest_distinct
from genrec.prompting.template import Prompt, Template
from genrec.recommender import OnUnknown, Recommender
from genrec.types import History

_MAX_TEMPERATURE = 2  # sampling above it is close to uniform


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of a text, unless its row sets them.

    Attributes:
        max_tokens: maximum number of tokens; fewer if the prompt leaves less room in the context.
        temperature: 0 is greedy decoding; up to 2 samples.
        seed: of the sampling; the same prompt and seed give the same text.
        schema: a JSON Schema that constrains the text; None for free text.

    Raises:
        InputError: a value is out of range (named).
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens)
        check_count("seed", self.seed, 0)
        remedy = f"give a number from 0 to {_MAX_TEMPERATURE}"
        if check_number("temperature", self.temperature, remedy, 0) > _MAX_TEMPERATURE:
            raise InputError(f"temperature is {format_value(self.temperature)}; {remedy}")


class PromptBuilder(Protocol):
    """Builds the prompt of a row."""

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """The prompt, and the sampling parameters of its text.

        Raises:
            InputError: the row cannot be read, or is not supported.
        """
        ...


class TemplateInputs:
    """Template inputs that are looked up in the catalog and the interactions.

    Args:
        recommender: has the catalog and the interactions.
        max_history: maximum number of items shown, the newest distinct ones of the history.
        on_unknown: as for `Recommender.recommend`, except that an unknown user fails with `skip` too.

    Attributes:
        names: names of the inputs.
    """

    names = ("history", "item")

    def __init__(self, recommender: Recommender, *, max_history: int = 12, on_unknown: OnUnknown = "raise") -> None:
        self._recommender, self._max_history, self._on_unknown = recommender, max_history, on_unknown

    def history(self, row: InputRow) -> list[dict[str, object]]:
        """The items of a row's `history`, or of its user, oldest first; each with `title` and attributes."""
        user = parse_user(row)
        if self._on_unknown == "skip" and not isinstance(user, History):
            self._recommender.history_indices(user)  # raises for an unknown user: no text is written for one
        items = self._recommender.history_indices(user, on_unknown=self._on_unknown)
        shown = newest_distinct(items, self._max_history)[::-1]
        return [item_variables(self._recommender.catalog, int(item)) for item in shown]

    def item(self, row: InputRow) -> dict[str, object]:
        """The item of a row's `item_id`, with `title` and attributes."""
        item_id, catalog = parse_id(row, "item_id"), self._recommender.catalog
        if item_id is None:
            raise InputError("item_id is missing or empty, and the template shows the item; fill it in")
        item_index = int(catalog.item_ids.positions([item_id])[0])
        if item_index < 0:
            raise UnknownItemError(
                f"item {item_id!r} is not in catalog {catalog.name!r} ({len(catalog):,} items); remove the row, or add "
                "the item"
            )
        return item_variables(catalog, item_index)


class TemplatePromptBuilder:
    """Builds prompts from a template whose inputs are columns of the rows.

    Args:
        template: a template whose output is "text".
        inputs: looks up the inputs `history` and `item`; without it, they are read from columns.

    Raises:
        InputError: the template's output is an item.
    """

    def __init__(self, template: Template, inputs: TemplateInputs | None = None) -> None:
        if template.output != "text":
            raise InputError(
                f"template {template.name!r} outputs an item, not text; pass it as --template, or pass a prompt whose "
                'header says output = "text"'
            )
        self._template = template
        self._derived_inputs: dict[str, Callable[[InputRow], object]] = (
            {} if inputs is None else {name: getattr(inputs, name) for name in inputs.names}
        )

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """Render the template with the values of a row."""
        values = {}
        for name in self._template.inputs:
            if name in self._derived_inputs:
                values[name] = self._derived_inputs[name](row)
            elif name in row.columns:
                if row.columns[name] in (None, ""):
                    raise InputError(
                        f"column {name!r}, an input of template {self._template.name!r}, is empty; fill it in, or "
                        "remove the row"
                    )
                values[name] = row.columns[name]
            else:
                raise InputError(
                    f"there is no column {name!r}, an input of template {self._template.name!r}; the columns are "
                    f"{', '.join(row.columns) or 'none'}: rename one of them, or add it"
                )
        try:
            prompt = self._template.render(**values)
        except TemplateError as error:
            raise InputError(str(error)) from error
        if not prompt:
            raise InputError(
                f"template {self._template.name!r} renders an empty prompt for this row; fill in its columns"
            )
        return prompt, sampling_params


class ChatPromptBuilder:
    """Reads prompts from rows in OpenAI's batch format: `custom_id`, and a `body` with `messages`.

    Args:
        model: the model name that a body may give.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, row: InputRow, sampling_params: SamplingParams) -> tuple[Prompt, SamplingParams]:
        """The messages of a row, as untrusted text, and its sampling parameters."""
        request = parse_batch_line(row.columns).body
        if request.model not in (None, self._model):
            given = format_value(request.model)
            raise InputError(
                f"body.model is {given}, but this run uses {self._model!r}; omit it, or set it to this name"
            )
        return request.prompt, SamplingParams(
            request.token_limit or sampling_params.max_tokens,
            sampling_params.temperature if request.temperature is None else request.temperature,
            sampling_params.seed if request.seed is None else request.seed,
            sampling_params.schema if request.response_format is None else request.answer_schema,
        )
