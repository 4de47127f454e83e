"""Put an advisor together over a recommender."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from genrec.chat.advisor import Advisor
from genrec.chat.parsers.lexical import CritiqueReader
from genrec.chat.parsers.model import ModelReader
from genrec.chat.replies import ReplyWriter
from genrec.data.subset import Subset
from genrec.decoding.constraints import Grammar, Marks
from genrec.decoding.grammar import JsonGrammar
from genrec.decoding.item_link_constraint import MentionConstraint
from genrec.errors import InputError, ModelMissingError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.generative import GenerativeRanker
from genrec.recommender import Recommender
from genrec.types import Recommendation

_READERS, _REPLIES = ("rules", "model"), ("bound", "free")


def advising(
    recommender: Recommender, *, reader: str = "rules", replies: str = "bound", patience: float = 1.5
) -> Callable[[Recommender, int], Advisor]:
    """What makes advisors over a recommender, or over what becomes of it, for lists of k.

    Its language model puts turns into words, where it has one.

    Args:
        recommender: has the model in its ladder.
        reader: what reads wishes: "rules", or the "model" where the rules know no way. The bundled model reads no
            better than the rules alone (`python -m eval.wishes`), larger ones may.
        replies: "bound" to clauses that are looked up, or "free" but for the items that they mention: for models that
            can be trusted to say what is so, and run in this process; see `genrec.chat.replies`.
        patience: seconds that ranking may take in a turn, see `Advisor`; as it is, first words come within two seconds.

    Raises:
        InputError: the reader or the replies are none of these, the patience is no time, or the tokenizer cannot hold
            mentions apart.
        ModelMissingError: the model is to read, and there is none.
    """
    for name, value, known in (("reader", reader, _READERS), ("replies", replies, _REPLIES)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; choose one of {', '.join(known)}")
    if not patience > 0:
        raise InputError(f"patience is {patience!r}; give seconds above 0")
    ranker = next((step for step in recommender.ladder if isinstance(step, GenerativeRanker)), None)
    if ranker is None or not isinstance(ranker.tokenizer, HuggingFaceTokenizer) or find_spec("llguidance") is None:
        if reader == "model":
            raise ModelMissingError("there is no language model to read wishes; name one, or let the rules read")
        return lambda own, k: Advisor(own, k=k, patience=patience)
    backend, tokenizer, grammars = ranker.writer, ranker.tokenizer, JsonGrammar(ranker.tokenizer)
    marks = Marks.of(tokenizer) if replies == "free" else None

    def advise(own: Recommender, k: int) -> Advisor:
        rules = CritiqueReader(own.catalog)
        read = rules if reader == "rules" else ModelReader(backend, tokenizer, grammars, rules)
        mentions = None if marks is None else _mentioning(own, marks)
        write = ReplyWriter(backend, tokenizer, grammars, own.catalog, mentions=mentions)
        return Advisor(own, k=k, read=read, write=write, patience=patience)

    return advise


def _mentioning(recommender: Recommender, marks: Marks) -> Callable[[Sequence[Recommendation]], MentionConstraint]:
    """What holds the mentions of a text to items that were recommended."""
    (index, *_) = (step.index for step in recommender.ladder if isinstance(step, GenerativeRanker))
    grammar = Grammar(index.trie, marks)

    def hold(items: Sequence[Recommendation]) -> MentionConstraint:
        places = index.catalog.indices_of([item.item_id for item in items])
        return MentionConstraint(grammar, index.rows(Subset.of(len(index.catalog), places)), once=True)

    return hold
