"""The batch task that generates text: prompts from rows, and a language model's texts as output lines."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from genrec.backends.base import GenerationRequest, TextBackend, TokenUsage
from genrec.batch.prompts import PromptBuilder, SamplingParams
from genrec.batch.result import ENGINE_ERROR, BatchResult, RowFailure
from genrec.batch.row import InputRow, failure_code, first_valid_row, id_type_of, parse_id, row_key
from genrec.decoding.grammar import GrammarCompiler, GrammarConstraint, GrammarTokenizer
from genrec.decoding.independent_texts import generate_each
from genrec.errors import ArtifactError, EngineError, InputError, check_count

_MAX_CACHED_CONSTRAINTS = 64


class GenerateTask:
    """Answers rows with generated texts.

    Args:
        backend: the language model.
        tokenizer: its tokenizer.
        build_prompt: builds the prompt of a row, such as `TemplatePromptBuilder` or `ChatPromptBuilder`.
        sampling_params: defaults for rows that do not set them.
        batch_size: prompts that are passed to the backend together.

    Attributes:
        key_columns: columns that are copied from a row to its line, if the first row has them.

    Raises:
        InputError: the JSON Schema is not supported.
        ModelMissingError: a JSON Schema is given, and llguidance is not installed.
    """

    key_columns = ("custom_id", "user_id", "item_id")

    def __init__(
        self,
        backend: TextBackend,
        tokenizer: GrammarTokenizer,
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
        """The output schema: key columns with the types of the first readable row, then the text.

        Raises:
            InputError: no row can be read; the message gives the reason for the first one.
        """
        row, _ = first_valid_row(rows, self._build_request)
        keys = {name: id_type_of(row, name) for name in self.key_columns if name in row.columns}
        columns = {"text": pa.string(), "finish_reason": pa.string(), "tokens": pa.int64(), "row": pa.int64()}
        return pa.schema({**keys, **columns})

    def __call__(self, rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        """Generate a text for each row; rows that cannot be answered become failures."""
        failures: dict[int, RowFailure] = {}
        requests: dict[int, GenerationRequest] = {}
        keys: dict[int, dict[str, object]] = {}

        def fail(position: int, code: str, message: object) -> None:
            failures[position] = RowFailure(position, row_key(rows[position], self.key_columns), code, str(message))

        kinds = {name: schema.field(name).type for name in self.key_columns if name in schema.names}
        for position, row in enumerate(rows):
            try:
                keys[position] = {name: parse_id(row, name, kind) for name, kind in kinds.items()}
                requests[position] = self._build_request(row)
            except InputError as error:
                fail(position, failure_code(error), error)
        lines: list[dict[str, object]] = []
        tokens = 0
        for chunk in _chunks(list(requests), self._batch_size):
            texts = generate_each(self._backend, [requests[position] for position in chunk])
            for position, text in zip(chunk, texts, strict=True):
                if isinstance(text, EngineError):
                    fail(position, ENGINE_ERROR, text)
                    continue
                usage = text.usage or TokenUsage(len(requests[position].prompt), len(text.token_ids))
                tokens += usage.prompt_tokens + usage.generated_tokens
                written = self._tokenizer.decode(text.token_ids.tolist())
                if requests[position].constraint is not None and not (text.stopped and _is_json(written)):
                    message = (
                        f"the JSON is incomplete after {len(text.token_ids):,} tokens; start a run with a higher "
                        "max_tokens"
                    )
                    fail(position, "cut_short", message)
                    continue
                reason = "stop" if text.stopped else "length"
                line = {"text": written, "finish_reason": reason, "tokens": usage.generated_tokens, "row": position}
                lines.append({**keys[position], **line})
        table = pa.Table.from_pylist(lines, schema=schema)
        sources = Counter({self._backend.name: len(lines)} if lines else {})
        return BatchResult(table, [failures[position] for position in sorted(failures)], sources, tokens)

    def _build_request(self, row: InputRow) -> GenerationRequest:
        if row.error:
            raise InputError(row.error)
        prompt, params = self._build_prompt(row, self._sampling_params)
        try:
            token_ids = self._tokenizer.encode_prompt(prompt)
        except ArtifactError as error:  # roles that the chat format of the model does not support
            raise InputError(str(error)) from error
        room = self._backend.context_length - len(token_ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(token_ids):,} tokens, but the context of {self._backend.name} is limited to "
                f"{self._backend.context_length:,}; shorten it"
            )
        return GenerationRequest(
            token_ids,
            self._tokenizer.control_token_ids,
            min(params.max_tokens, room),
            float(params.temperature),
            params.seed,
            self._constraint_for(params.schema),
        )

    def _constraint_for(self, schema: Mapping[str, Any] | None) -> GrammarConstraint | None:
        """The compiled constraint of a JSON Schema; the most recently used ones are cached."""
        if schema is None:
            return None
        self._grammar = self._grammar or GrammarCompiler(self._tokenizer)
        key = repr(schema)
        constraint = self._constraints.pop(key, None) or self._grammar.compile_json_schema(schema)
        self._constraints[key] = constraint
        while len(self._constraints) > _MAX_CACHED_CONSTRAINTS:
            del self._constraints[next(iter(self._constraints))]
        return constraint


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _chunks(row_indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(row_indices), size):
        yield row_indices[start : start + size]
