"""Wishes read by a language model, where the rules know no way: it chooses among readings, and can make up none.

    what was said --CritiqueReader.read--> wishes and clauses left over --template--> prompt --> one reading a clause

A reading is JSON whose every value is enumerated: what kind of wish, and about which shown item, or which of the
person's own words. Two ways to choose: "written" lets the model write the JSON under its schema; "scored" compares the
kinds by how much likelier each is behind this clause than behind any (see `genrec.decoding.prior`), which was tried for
small models and judges items that nobody spoke of (`python -m eval.wishes`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np

from genrec.backends.base import Backend, GenerationConstraint, GenerationRequest, TokenTree
from genrec.chat.conversation import Conversation, Preferences
from genrec.chat.languages.inflection import lowercase
from genrec.chat.parsers.lexical import MAX_CLAUSES, LexicalParser, exclude_word
from genrec.errors import EngineError, InputError
from genrec.prompting.template import Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import FloatArray, IntArray, Recommendation

PreferenceKind = Literal["looks for", "likes", "dislikes", "rules out", "nothing"]
ParseMethod = Literal["scored", "written"]
PREFERENCE_KINDS: tuple[PreferenceKind, ...] = get_args(PreferenceKind)

_MAX_TOKENS = 40  # a reading may have
_MAX_CLAUSE_LENGTH = 200  # of a clause that are read
_WORD = re.compile(r"[^\W\d_]{3,40}")
_NEUTRAL_CLAUSES = ("something", "well", "it is what it is")  # what says nothing, for the prior


class SchemaCompiler(Protocol):
    """Makes constraints of schemas, as `genrec.decoding.grammar.GrammarCompiler` does."""

    def compile_json_schema(self, schema: Mapping[str, Any]) -> GenerationConstraint:
        """The constraint of a JSON Schema."""
        ...


@dataclass(frozen=True)
class ParsedClause:
    """What one clause says: a kind of wish, and the number of a shown item from 1, or a word of the clause."""

    kind: PreferenceKind
    target: int | str | None = None


@dataclass(frozen=True)
class ModelParser:
    """Reads wishes; see `genrec.chat.advisor.Read`.

    Attributes:
        backend: reads what the rules do not.
        tokenizer: the model's.
        schema_compiler: of the same tokenizer.
        lexical_parser: what is asked first.
        method: "scored" or "written".
        template: takes `said`, one clause, and `items`, what was shown last, each with `title`.
    """

    backend: Backend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    schema_compiler: SchemaCompiler = field(repr=False)
    lexical_parser: LexicalParser = field(repr=False)
    method: ParseMethod = "written"
    template: Template = field(default_factory=lambda: read_template("read-wishes"), repr=False)

    def __call__(self, message: str, conversation: Conversation) -> Preferences:
        """The wishes after something was said; where the model fails, those that the rules read.

        The model is asked about `MAX_CLAUSES` clauses at most; the others are what somebody looks for.
        """
        wishes, rest = self.lexical_parser.parse(message, conversation)
        looked_for: list[str] = []
        for place, clause in enumerate(rest):
            try:
                many = place >= MAX_CLAUSES
                reading = ParsedClause("looks for") if many else self.parse_clause(clause, conversation.shown)
            except (EngineError, InputError):
                reading = ParsedClause("looks for")
            wishes = self._apply(reading, wishes, conversation.shown)
            looked_for += [clause] if reading.kind == "looks for" else []
        return wishes.with_words(", ".join(looked_for)) if looked_for else wishes

    def parse_clause(self, clause: str, shown: Sequence[Recommendation]) -> ParsedClause:
        """What a clause says, by the model alone.

        Raises:
            EngineError: the model failed.
            InputError: the clause cannot be put into a schema.
        """
        clause = one_line(clause)[:_MAX_CLAUSE_LENGTH]
        choices = _targets_by_kind(clause, len(shown))
        if self.method == "written":
            return self._generate(clause, shown, choices)
        kinds = [kind for kind in PREFERENCE_KINDS if kind in choices]
        tree = self.backend.open([self._prompt(clause, shown)])
        scores = self._log_probs(tree, [f'{{"wish":"{kind}"' for kind in kinds])
        kind = kinds[int((scores - self._kind_priors(kinds, shown)).argmax())]
        about = choices[kind]
        if not about:
            return ParsedClause(kind)
        begun = f'{{"wish":"{kind}","about":'
        texts = [begun + json.dumps(one, ensure_ascii=False) for one in about]
        return ParsedClause(kind, about[int(self._log_probs(tree, texts).argmax())])

    def _generate(
        self, clause: str, shown: Sequence[Recommendation], targets: Mapping[PreferenceKind, Sequence[int | str]]
    ) -> ParsedClause:
        request = GenerationRequest(
            self._prompt(clause, shown),
            tuple(self.tokenizer.control_token_ids),
            _MAX_TOKENS,
            constraint=self.schema_compiler.compile_json_schema(clause_schema(targets)),
        )
        (text,) = self.backend.generate([request])
        try:
            found = json.loads(self.tokenizer.decode(text.token_ids.tolist()))
        except ValueError as error:
            raise EngineError(f"a reading was cut short after {len(text.token_ids)} tokens") from error
        return ParsedClause(found["wish"], found.get("about"))

    def _prompt(self, clause: str, shown: Sequence[Recommendation]) -> IntArray:
        items = [{"title": one_line(item.title)[:_MAX_CLAUSE_LENGTH]} for item in shown]
        return self.tokenizer.encode_prompt(self.template.render(said=clause, items=items))

    def _kind_priors(self, kinds: Sequence[PreferenceKind], shown: Sequence[Recommendation]) -> FloatArray:
        """Log-probabilities of kinds behind clauses that say nothing; the same whatever is shown, so measured once."""
        known = self._prior_cache
        key = tuple(kinds)
        if key not in known:
            texts = [f'{{"wish":"{kind}"' for kind in kinds]
            trees = (self.backend.open([self._prompt(one, ())]) for one in _NEUTRAL_CLAUSES)
            known[key] = np.mean([self._log_probs(tree, texts) for tree in trees], axis=0)
        return known[key]

    @cached_property
    def _prior_cache(self) -> dict[tuple[PreferenceKind, ...], FloatArray]:
        return {}

    def _log_probs(self, tree: TokenTree, texts: Sequence[str]) -> FloatArray:
        """Log-probabilities of T texts behind the prompt of a tree, which is left as it was: float64 [T]."""
        paths = [self.tokenizer.encode_text(text) for text in texts]
        parents: list[int] = []
        asked: list[int] = []  # the node behind which each token is asked about
        for path in paths:
            asked.append(0)
            for _ in path[1:]:
                parents.append(asked[-1])
                asked.append(len(parents))
        tree.grow(np.array(parents, dtype=np.int64), np.concatenate([path[:-1] for path in paths]))
        tokens = np.concatenate(paths)
        steps = tree.log_probs(np.array(asked), tokens, np.arange(len(tokens) + 1))
        tree.rewind(1)
        return np.array([part.sum() for part in np.split(steps, np.cumsum([len(path) for path in paths])[:-1])])

    def _apply(self, parsed: ParsedClause, preferences: Preferences, shown: Sequence[Recommendation]) -> Preferences:
        if parsed.kind == "rules out" and isinstance(parsed.target, str):
            return preferences.with_filter(exclude_word(parsed.target))
        if parsed.kind in ("likes", "dislikes") and isinstance(parsed.target, int):
            change: Callable[[Preferences, Any], Preferences] = (
                Preferences.with_liked if parsed.kind == "likes" else Preferences.with_disliked
            )
            return change(preferences, shown[parsed.target - 1].item_id)
        return preferences


def _targets_by_kind(clause: str, item_count: int) -> dict[PreferenceKind, list[int | str]]:
    """The kinds that a clause may be of, and what each may be about; one that is about nothing has nothing there."""
    words: list[int | str] = list(dict.fromkeys(_WORD.findall(lowercase(clause))))
    items: list[int | str] = list(range(1, item_count + 1))
    found: dict[PreferenceKind, list[int | str]] = {"looks for": [], "nothing": []}
    if items:
        found |= {"likes": items, "dislikes": items}
    if words:
        found["rules out"] = words
    return found


def clause_schema(targets: Mapping[PreferenceKind, Sequence[int | str]]) -> dict[str, Any]:
    """The JSON Schema of a reading: nothing can be written that is not enumerated."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"wish": {"const": kind}, **({"about": {"enum": list(about)}} if about else {})},
                "required": ["wish", "about"] if about else ["wish"],
                "additionalProperties": False,
            }
            for kind, about in targets.items()
        ]
    }
