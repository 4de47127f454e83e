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

from genrec.backends.base import Backend, TextConstraint, TextRequest, TokenTree
from genrec.chat.conversation import Conversation, Wishes
from genrec.chat.languages.inflection import small
from genrec.chat.parsers.lexical import CLAUSES, CritiqueReader, lacking
from genrec.errors import EngineError, InputError
from genrec.prompting.template import Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import FloatArray, IntArray, Recommendation

Kind = Literal["looks for", "likes", "dislikes", "rules out", "nothing"]
Way = Literal["scored", "written"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TOKENS = 40  # a reading may have
_CHARACTERS = 200  # of a clause that are read
_WORD = re.compile(r"[^\W\d_]{3,40}")
_NEUTRAL = ("something", "well", "it is what it is")  # what says nothing, for the prior


class Schemas(Protocol):
    """Makes constraints of schemas, as `genrec.decoding.grammar.JsonGrammar` does."""

    def constrain(self, schema: Mapping[str, Any]) -> TextConstraint:
        """The constraint of a JSON Schema."""
        ...


@dataclass(frozen=True)
class Reading:
    """What one clause says: a kind of wish, and the number of a shown item from 1, or a word of the clause."""

    kind: Kind
    about: int | str | None = None


@dataclass(frozen=True)
class ModelReader:
    """Reads wishes; see `genrec.chat.advisor.Read`.

    Attributes:
        backend: reads what the rules do not.
        tokenizer: the model's.
        schemas: of the same tokenizer.
        rules: what is asked first.
        way: "scored" or "written".
        template: takes `said`, one clause, and `items`, what was shown last, each with `title`.
    """

    backend: Backend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    schemas: Schemas = field(repr=False)
    rules: CritiqueReader = field(repr=False)
    way: Way = "written"
    template: Template = field(default_factory=lambda: read_template("read-wishes"), repr=False)

    def __call__(self, said: str, conversation: Conversation) -> Wishes:
        """The wishes after something was said; where the model fails, those that the rules read.

        The model is asked about `CLAUSES` clauses at most; the others are what somebody looks for.
        """
        wishes, rest = self.rules.read(said, conversation)
        looked_for: list[str] = []
        for place, clause in enumerate(rest):
            try:
                many = place >= CLAUSES
                reading = Reading("looks for") if many else self.read_clause(clause, conversation.shown)
            except (EngineError, InputError):
                reading = Reading("looks for")
            wishes = self._apply(reading, wishes, conversation.shown)
            looked_for += [clause] if reading.kind == "looks for" else []
        return wishes.look_for(", ".join(looked_for)) if looked_for else wishes

    def read_clause(self, clause: str, shown: Sequence[Recommendation]) -> Reading:
        """What a clause says, by the model alone.

        Raises:
            EngineError: the model failed.
            InputError: the clause cannot be put into a schema.
        """
        clause = one_line(clause)[:_CHARACTERS]
        choices = _choices(clause, len(shown))
        if self.way == "written":
            return self._write(clause, shown, choices)
        kinds = [kind for kind in KINDS if kind in choices]
        tree = self.backend.open([self._prompt(clause, shown)])
        scores = self._scores(tree, [f'{{"wish":"{kind}"' for kind in kinds])
        kind = kinds[int((scores - self._prior(kinds, shown)).argmax())]
        about = choices[kind]
        if not about:
            return Reading(kind)
        begun = f'{{"wish":"{kind}","about":'
        texts = [begun + json.dumps(one, ensure_ascii=False) for one in about]
        return Reading(kind, about[int(self._scores(tree, texts).argmax())])

    def _write(
        self, clause: str, shown: Sequence[Recommendation], choices: Mapping[Kind, Sequence[int | str]]
    ) -> Reading:
        request = TextRequest(
            self._prompt(clause, shown),
            tuple(self.tokenizer.control_ids),
            _TOKENS,
            constraint=self.schemas.constrain(schema_of(choices)),
        )
        (text,) = self.backend.write([request])
        try:
            found = json.loads(self.tokenizer.decode(text.token_ids.tolist()))
        except ValueError as error:
            raise EngineError(f"a reading was cut short after {len(text.token_ids)} tokens") from error
        return Reading(found["wish"], found.get("about"))

    def _prompt(self, clause: str, shown: Sequence[Recommendation]) -> IntArray:
        items = [{"title": one_line(item.title)[:_CHARACTERS]} for item in shown]
        return self.tokenizer.encode_prompt(self.template.render(said=clause, items=items))

    def _prior(self, kinds: Sequence[Kind], shown: Sequence[Recommendation]) -> FloatArray:
        """Log-probabilities of kinds behind clauses that say nothing; the same whatever is shown, so measured once."""
        known = self._priors
        key = tuple(kinds)
        if key not in known:
            texts = [f'{{"wish":"{kind}"' for kind in kinds]
            trees = (self.backend.open([self._prompt(one, ())]) for one in _NEUTRAL)
            known[key] = np.mean([self._scores(tree, texts) for tree in trees], axis=0)
        return known[key]

    @cached_property
    def _priors(self) -> dict[tuple[Kind, ...], FloatArray]:
        return {}

    def _scores(self, tree: TokenTree, texts: Sequence[str]) -> FloatArray:
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

    def _apply(self, reading: Reading, wishes: Wishes, shown: Sequence[Recommendation]) -> Wishes:
        if reading.kind == "rules out" and isinstance(reading.about, str):
            return wishes.limit(lacking(reading.about))
        if reading.kind in ("likes", "dislikes") and isinstance(reading.about, int):
            change: Callable[[Wishes, Any], Wishes] = Wishes.like if reading.kind == "likes" else Wishes.dislike
            return change(wishes, shown[reading.about - 1].item_id)
        return wishes


def _choices(clause: str, count: int) -> dict[Kind, list[int | str]]:
    """The kinds that a clause may be of, and what each may be about; one that is about nothing has nothing there."""
    words: list[int | str] = list(dict.fromkeys(_WORD.findall(small(clause))))
    items: list[int | str] = list(range(1, count + 1))
    found: dict[Kind, list[int | str]] = {"looks for": [], "nothing": []}
    if items:
        found |= {"likes": items, "dislikes": items}
    if words:
        found["rules out"] = words
    return found


def schema_of(choices: Mapping[Kind, Sequence[int | str]]) -> dict[str, Any]:
    """The JSON Schema of a reading: nothing can be written that is not enumerated."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"wish": {"const": kind}, **({"about": {"enum": list(about)}} if about else {})},
                "required": ["wish", "about"] if about else ["wish"],
                "additionalProperties": False,
            }
            for kind, about in choices.items()
        ]
    }
