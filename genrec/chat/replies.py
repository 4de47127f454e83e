"""Replies written by a language model, which name exactly the recommended items.

The sentence frames are in `genrec.chat.reply_grammar`; replies without a model are in `genrec.chat.plain_replies`.

    TurnContext --build_item_facts--> clauses --template--> prompt --Backend.generate--> tokens --ReplyStream--> pieces

A constrained reply follows a grammar: the model chooses the sentence frames and, for each item, one of the clauses that
are true of it. So nothing false is said, which small models need. In a free reply only the item links are constrained,
for models that can be trusted with the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from genrec.backends.base import GenerationConstraint, GenerationRequest, TextBackend
from genrec.chat.conversation import TurnContext
from genrec.chat.item_facts import build_item_facts
from genrec.chat.reply_grammar import MAX_DESCRIBED_ITEMS, opening_style, reply_grammar
from genrec.chat.reply_stream import (
    ConstrainedReplyStream,
    FreeReplyStream,
    NumberedReplyStream,
    RepetitionError,
    ReplyStream,
)
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import EngineError, InputError
from genrec.prompting.template import Prompt, Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Recommendation

_MAX_TOKENS = 120  # per reply
_MAX_INPUT_LENGTH = 300  # characters of the message, and of each preference, that the model sees


class ReplyGrammarCompiler(Protocol):
    """Compiles grammars into constraints, as `genrec.decoding.grammar.GrammarCompiler` does."""

    def compile_lark(self, grammar: str) -> GenerationConstraint:
        """The constraint to texts of a grammar in llguidance's dialect of Lark."""
        ...


@dataclass(frozen=True)
class ModelReplyGenerator:
    """Writes replies with a language model; see `genrec.chat.plain_replies.ReplyGenerator`.

    Attributes:
        backend: runs the language model.
        tokenizer: the model's tokenizer.
        grammar_compiler: compiles grammars for this tokenizer.
        catalog: holds the recommended items.
        template: renders the prompt from `said`, `wishes` and `items`, each with `title` and `facts`.
        price_column: the attribute that holds the price.
        link_constraint: makes the constraint of a free reply from the items that it may name; None for constrained
            replies.
        names_by_number: whether a free reply names items by their numbers, for models without a token constraint.
    """

    backend: TextBackend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    grammar_compiler: ReplyGrammarCompiler = field(repr=False)
    catalog: Catalog = field(repr=False)
    template: Template = field(default_factory=lambda: read_template("reply"), repr=False)
    price_column: str = "price"
    link_constraint: Callable[[Sequence[Recommendation]], ItemLinkConstraint] | None = field(default=None, repr=False)
    names_by_number: bool = False

    def __call__(self, context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        """Write a reply piece by piece; see `genrec.chat.plain_replies.ReplyGenerator`.

        Raises:
            EngineError: the model failed, possibly after some pieces.
        """
        items, words = context.recommendations.items, context.preferences.words
        facts = build_item_facts(items, self.catalog, words, price_column=self.price_column)
        constraint: GenerationConstraint | None
        stream: ReplyStream
        if self.names_by_number:
            constraint, stream = None, NumberedReplyStream(items, on_text, self.tokenizer)
        elif self.link_constraint is None:
            has_prices = self.price_column in self.catalog.attribute_names
            grammar = reply_grammar(facts, opening_style(context), has_prices=has_prices)
            try:
                constraint = self.grammar_compiler.compile_lark(grammar)
            except InputError:  # an attribute contains the text of a control token
                return False
            stream = ConstrainedReplyStream(items, on_text, self.tokenizer, words[-1] if words else "")
        else:
            constraint = link_constraint = self.link_constraint(items)
            stream = FreeReplyStream(items, on_text, self.tokenizer, link_constraint, self.catalog)
        prompt = self.tokenizer.encode_prompt(self.render(context, facts))
        request = GenerationRequest(prompt, tuple(self.tokenizer.control_token_ids), _MAX_TOKENS, constraint=constraint)
        try:
            self.backend.generate([request], deadline=deadline, on_tokens=lambda _, token_ids: stream.feed(token_ids))
        except (RepetitionError, EngineError):  # a backend may wrap the former in the latter
            if not stream.is_repeating:
                raise
        return stream.finish()

    def render(self, context: TurnContext, item_facts: Sequence[Sequence[str]]) -> Prompt:
        """Render the prompt of a reply; titles, preferences and the message are untrusted text."""
        described = zip(context.recommendations.items[:MAX_DESCRIBED_ITEMS], item_facts, strict=False)
        items = [
            {"title": one_line(item.title), "facts": [clause.removeprefix(", ").strip() for clause in facts]}
            for item, facts in described
        ]
        preferences = [*context.preferences.words, *(condition.where for condition in context.preferences.filters)]
        message, *wishes = (one_line(text)[:_MAX_INPUT_LENGTH] for text in (context.message, *preferences))
        template = read_template("reply-numbered") if self.names_by_number else self.template
        return template.render(said=message, wishes=wishes, items=items)
