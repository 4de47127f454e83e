"""Parses preferences by a language model, for clauses that the lexical rules do not recognise.

    message --LexicalParser.parse--> preferences, other clauses --template--> prompt --> one JSON object per clause

The model writes JSON under a schema that enumerates every value: the kind of preference, and the number of a shown item
or a word of the clause that it is about. So it cannot state anything that the user did not write.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from genrec.backends.base import GenerationConstraint, GenerationRequest, TextBackend
from genrec.chat.conversation import Conversation
from genrec.chat.languages.exclusion_phrases import exclude_word
from genrec.chat.languages.inflection import lowercase
from genrec.chat.parsers.clauses import MAX_CLAUSES
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.preferences import Preferences
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.prompting.template import Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.failures import FailureLog, is_failure
from genrec.types import IntArray, Recommendation

PreferenceKind = Literal["looks for", "likes", "dislikes", "rules out", "nothing"]
PREFERENCE_KINDS: tuple[PreferenceKind, ...] = get_args(PreferenceKind)

_MAX_TOKENS = 40  # per clause
_MAX_TEXT_LENGTH = 200  # characters of a clause or title that the model sees
_WORD = re.compile(r"[^\W\d_]{3,40}")


class SchemaCompiler(Protocol):
    """Compiles schemas into constraints, as `genrec.decoding.grammar.GrammarCompiler` does."""

    def compile_json_schema(self, schema: Mapping[str, Any]) -> GenerationConstraint:
        """The constraint to texts that a JSON Schema allows."""
        ...


@dataclass(frozen=True)
class ParsedClause:
    """The preference that one clause states.

    Attributes:
        kind: what kind of preference it is.
        target: the number of a shown item from 1 for "likes" and "dislikes", a word of the clause for "rules out", else
            None.
    """

    kind: PreferenceKind
    target: int | str | None = None


@dataclass(frozen=True)
class ModelParser:
    """Parses preferences by lexical rules first, then by a language model; see `genrec.chat.advisor.PreferenceParser`.

    Attributes:
        backend: runs the language model.
        tokenizer: the model's tokenizer.
        schema_compiler: compiles schemas for this tokenizer.
        lexical_parser: the rules that are applied first.
        template: renders the prompt from `said`, a clause, and `items`, the items shown last, each with `title`.
        failure_log: logs the failures of the model.
    """

    backend: TextBackend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    schema_compiler: SchemaCompiler = field(repr=False)
    lexical_parser: LexicalParser = field(repr=False)
    template: Template = field(default_factory=lambda: read_template("read-wishes"), repr=False)
    failure_log: FailureLog = field(default_factory=FailureLog, repr=False)

    def __call__(self, message: str, conversation: Conversation, deadline: Deadline | None = None) -> Preferences:
        """The preferences after a message.

        The model parses at most `MAX_CLAUSES` clauses. The others, and those on which it fails or for which no time is
        left, become a search phrase.
        """
        preferences, clauses = self.lexical_parser.parse(message, conversation)
        phrases: list[str] = []
        for position, clause in enumerate(clauses):
            parsed = ParsedClause("looks for")
            if position < MAX_CLAUSES:
                try:
                    parsed = self.parse_clause(clause, conversation.shown, deadline)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    self.failure_log.log("parser", error)
            preferences = _apply(parsed, preferences, conversation.shown)
            phrases += [clause] if parsed.kind == "looks for" else []
        return preferences.with_words(", ".join(phrases)) if phrases else preferences

    def parse_clause(
        self, clause: str, shown: Sequence[Recommendation], deadline: Deadline | None = None
    ) -> ParsedClause:
        """Parse one clause by the model alone.

        Args:
            clause: untrusted text; cut after 200 characters.
            shown: the items shown last, best first.
            deadline: when the model must be done; by default never.

        Raises:
            EngineError: the model failed.
            DeadlineExceededError: the deadline has passed.
            InputError: the clause contains the text of a control token.
        """
        clause = one_line(clause)[:_MAX_TEXT_LENGTH]
        items = [{"title": one_line(item.title)[:_MAX_TEXT_LENGTH]} for item in shown]
        prompt: IntArray = self.tokenizer.encode_prompt(self.template.render(said=clause, items=items))
        request = GenerationRequest(
            prompt,
            tuple(self.tokenizer.control_token_ids),
            _MAX_TOKENS,
            constraint=self.schema_compiler.compile_json_schema(clause_schema(_targets_by_kind(clause, len(shown)))),
        )
        (text,) = self.backend.generate([request], deadline=deadline)
        try:
            parsed = json.loads(self.tokenizer.decode(text.token_ids.tolist()))
        except ValueError as error:
            raise EngineError(
                f"the model stopped after {len(text.token_ids)} tokens, before its JSON was complete"
            ) from error
        return ParsedClause(parsed["wish"], parsed.get("about"))


def clause_schema(targets: Mapping[PreferenceKind, Sequence[int | str]]) -> dict[str, Any]:
    """The JSON Schema of a parsed clause, which enumerates every value.

    Args:
        targets: the values that each kind of preference may be about; none for a kind without a target.
    """
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"wish": {"const": kind}, **({"about": {"enum": list(values)}} if values else {})},
                "required": ["wish", "about"] if values else ["wish"],
                "additionalProperties": False,
            }
            for kind, values in targets.items()
        ]
    }


def _targets_by_kind(clause: str, item_count: int) -> dict[PreferenceKind, list[int | str]]:
    """The kinds of preference that a clause may state, each with its possible targets."""
    words: list[int | str] = list(dict.fromkeys(_WORD.findall(lowercase(clause))))
    items: list[int | str] = list(range(1, item_count + 1))
    targets: dict[PreferenceKind, list[int | str]] = {"looks for": [], "nothing": []}
    if items:
        targets |= {"likes": items, "dislikes": items}
    if words:
        targets["rules out"] = words
    return targets


def _apply(parsed: ParsedClause, preferences: Preferences, shown: Sequence[Recommendation]) -> Preferences:
    if parsed.kind == "rules out" and isinstance(parsed.target, str):
        return preferences.with_filter(exclude_word(parsed.target))
    if parsed.kind in ("likes", "dislikes") and isinstance(parsed.target, int):
        change: Callable[[Preferences, Any], Preferences] = (
            Preferences.with_liked if parsed.kind == "likes" else Preferences.with_disliked
        )
        return change(preferences, shown[parsed.target - 1].item_id)
    return preferences
