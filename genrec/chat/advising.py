"""Put an advisor together over a recommender."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from genrec.chat.advisor import Advisor
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.parsers.model import ModelParser
from genrec.chat.replies import ModelReplyGenerator
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar
from genrec.decoding.delimiters import DelimiterTokens
from genrec.decoding.grammar import GrammarCompiler
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import InputError, ModelMissingError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.generative import GenerativeRanker
from genrec.recommender import Recommender
from genrec.types import Recommendation

_PARSERS, _REPLIES = ("rules", "model"), ("bound", "free")


def advisor_builder(
    recommender: Recommender, *, parser: str = "rules", reply_mode: str = "bound", ranking_timeout: float = 1.5
) -> Callable[[Recommender, int], Advisor]:
    """What makes advisors over a recommender, or over what becomes of it, for lists of k.

    Its language model puts turns into words, where it has one.

    Args:
        recommender: has the model in its ladder.
        parser: what reads wishes: "rules", or the "model" where the rules know no way. The bundled model reads no
            better than the rules alone (`python -m eval.wishes`), larger ones may.
        reply_mode: "bound" to clauses that are looked up, or "free" but for the items that they mention: for models that
            can be trusted to say what is so, and run in this process; see `genrec.chat.replies`.
        ranking_timeout: seconds that ranking may take in a turn, see `Advisor`; as it is, first words come within two seconds.

    Raises:
        InputError: the reader or the replies are none of these, the patience is no time, or the tokenizer cannot hold
            mentions apart.
        ModelMissingError: the model is to read, and there is none.
    """
    for name, value, known in (("reader", parser, _PARSERS), ("replies", reply_mode, _REPLIES)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; choose one of {', '.join(known)}")
    if not ranking_timeout > 0:
        raise InputError(f"patience is {ranking_timeout!r}; give seconds above 0")
    ranker = next((step for step in recommender.stages if isinstance(step, GenerativeRanker)), None)
    if ranker is None or not isinstance(ranker.tokenizer, HuggingFaceTokenizer) or find_spec("llguidance") is None:
        if parser == "model":
            raise ModelMissingError("there is no language model to read wishes; name one, or let the rules read")
        return lambda own, k: Advisor(own, k=k, ranking_timeout=ranking_timeout)
    backend, tokenizer, grammars = ranker.generation_backend, ranker.tokenizer, GrammarCompiler(ranker.tokenizer)
    marks = DelimiterTokens.from_tokenizer(tokenizer) if reply_mode == "free" else None

    def advise(own: Recommender, k: int) -> Advisor:
        rules = LexicalParser(own.catalog)
        read = rules if parser == "rules" else ModelParser(backend, tokenizer, grammars, rules)
        mentions = None if marks is None else _item_link_constraints(own, marks)
        write = ModelReplyGenerator(backend, tokenizer, grammars, own.catalog, link_constraint=mentions)
        return Advisor(own, k=k, parser=read, reply_generator=write, ranking_timeout=ranking_timeout)

    return advise


def _item_link_constraints(
    recommender: Recommender, delimiters: DelimiterTokens
) -> Callable[[Sequence[Recommendation]], ItemLinkConstraint]:
    """What holds the mentions of a text to items that were recommended."""
    (index, *_) = (step.index for step in recommender.stages if isinstance(step, GenerativeRanker))
    grammar = CatalogGrammar(index.trie, delimiters)

    def hold(items: Sequence[Recommendation]) -> ItemLinkConstraint:
        places = index.catalog.indices_of([item.item_id for item in items])
        return ItemLinkConstraint(
            grammar, index.to_row_subset(Subset.from_indices(len(index.catalog), places)), unique=True
        )

    return hold
