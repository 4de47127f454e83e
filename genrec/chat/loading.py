"""Builds advisors over a recommender, with its language model where it has one."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from genrec.chat.advisor import Advisor
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.parsers.model import ModelParser
from genrec.chat.replies import ModelReplyGenerator
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.decoding.grammar import GrammarCompiler, GrammarTokenizer
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import InputError, ModelMissingError, check_number, format_value
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.language_model import LanguageModelRanker
from genrec.recommender import Recommender
from genrec.types import Recommendation

_PARSERS, _REPLY_MODES = ("rules", "model"), ("bound", "free")


def check_advisor_options(*, parser: str = "rules", reply_mode: str = "bound", ranking_timeout: float = 1.5) -> None:
    """Check the options of `advisor_builder`, before a model is loaded.

    Raises:
        InputError: an option has an unknown value.
    """
    for name, value, known in (("parser", parser, _PARSERS), ("reply_mode", reply_mode, _REPLY_MODES)):
        if value not in known:
            raise InputError(f"{name} is {format_value(value)}; choose one of {', '.join(known)}")
    check_number("ranking_timeout", ranking_timeout, "give seconds above 0", 0, above=True)


def advisor_builder(
    recommender: Recommender, *, parser: str = "rules", reply_mode: str = "bound", ranking_timeout: float = 1.5
) -> Callable[[Recommender, int], Advisor]:
    """Prepare the language model of a recommender for conversations.

    Args:
        recommender: has the model among its stages; without one, replies are plain lists.
        parser: "rules" parses preferences by lexical rules, "model" also asks the language model about clauses that the
            rules do not recognise. The bundled model parses no better than the rules (`python -m eval.preferences`);
            larger ones may.
        reply_mode: "bound" constrains replies to clauses looked up in the catalog; "free" constrains only the items
            that a reply names, for models that are trusted with the rest and run in this process or behind an API.
        ranking_timeout: seconds that ranking may take in a turn, see `Advisor`. With the default, a reply begins within
            two seconds.

    Returns:
        A function that builds the advisor of a recommender, which may be an updated version of this one, for lists of
        k items.

    Raises:
        InputError: an option has an unknown value, or the tokenizer cannot delimit item links in free replies.
        ModelMissingError: the parser needs a language model, and the recommender has none.
    """
    check_advisor_options(parser=parser, reply_mode=reply_mode, ranking_timeout=ranking_timeout)
    ranker = next((stage for stage in recommender.stages if isinstance(stage, LanguageModelRanker)), None)
    tokenizer = None if ranker is None else ranker.tokenizer
    if ranker is None or not isinstance(tokenizer, GrammarTokenizer) or find_spec("llguidance") is None:
        if parser == "model":
            raise ModelMissingError(
                "the parser 'model' needs a language model and llguidance; load a model, or use the parser 'rules'"
            )
        return lambda current, k: Advisor(current, k=k, ranking_timeout=ranking_timeout)
    backend, compiler = ranker.generation_backend, GrammarCompiler(tokenizer)
    free = reply_mode == "free"
    # A model that does not rank by titles has no index of them, and names items by their numbers.
    delimiters = DelimiterTokens.from_tokenizer(tokenizer) if free and isinstance(ranker, GenerativeRanker) else None
    if delimiters is not None:
        delimiters.check("text")

    def build(current: Recommender, k: int) -> Advisor:
        rules = LexicalParser(current.catalog)
        link_constraint = None if delimiters is None else _item_link_constraints(current, delimiters)
        return Advisor(
            current,
            k=k,
            parser=rules if parser == "rules" else ModelParser(backend, tokenizer, compiler, rules),
            reply_generator=ModelReplyGenerator(
                backend,
                tokenizer,
                compiler,
                current.catalog,
                link_constraint=link_constraint,
                names_by_number=free and delimiters is None,
            ),
            ranking_timeout=ranking_timeout,
        )

    return build


def _item_link_constraints(
    recommender: Recommender, delimiters: DelimiterTokens
) -> Callable[[Sequence[Recommendation]], ItemLinkConstraint]:
    """Make the constraint of a text to links of recommended items, each at most once."""
    (index, *_) = (stage.index for stage in recommender.stages if isinstance(stage, GenerativeRanker))
    grammar = CatalogGrammar(index.trie, delimiters)

    def constrain(items: Sequence[Recommendation]) -> ItemLinkConstraint:
        item_indices = index.catalog.indices_of([item.item_id for item in items])
        allowed = Subset.from_indices(len(index.catalog), item_indices)
        return ItemLinkConstraint(grammar, index.to_row_subset(allowed), unique=True)

    return constrain
