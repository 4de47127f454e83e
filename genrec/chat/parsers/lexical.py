"""What somebody says of recommendations, read by the words that it is usually said with, in English.

Knows no language model. Source of the idea: Burke, Hammond and Young, "The FindMe Approach to Assisted Browsing", IEEE
Expert 1997: an item stands for what it is like, and critiques say in which way the next one should differ.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from genrec.chat.conversation import Conversation, Limit, Wishes
from genrec.chat.languages.inflection import small, spellings
from genrec.chat.languages.price_phrases import Sign, bounds_in, denied, ranges_in, without_bounds
from genrec.chat.parsers.item_references import is_pointer, placed, pointed
from genrec.chat.parsers.title_lookup import TitleLookup
from genrec.data.catalog import Catalog
from genrec.data.table import describe
from genrec.errors import InputError
from genrec.types import ItemId, Recommendation

CLAUSES = 8  # of a message that are read; the others are what somebody looks for
_SERIES_SIZE = 200  # characters of what titles begin with alike, as a filter writes it

_AGAINST = re.compile(
    r"\b(?:not(?! (?:too )?bad)|no(?!\.?\s*\d)|none|\w+n't(?! (?:too )?bad)|dont|never|hates?|hated|"
    r"dislikes?|less like|nothing like|"
    r"drop|bin|skip|avoid|leave out|cannot stand|except|apart from|other than|all but|too(?=\s+(?!please|thanks)\w)|"
    r"ugly|hideous|awful|horrible|terrible|boring|flimsy|cheap-looking)\b"
)
_FOR = re.compile(
    r"\b(?:likes?|loves?|liked|loved|enjoys?|enjoyed|adores?|similar to|have|own|bought|saw|seen|watched|read|played|"
    r"lovely|great|nice|perfect|beautiful|favou?rite|definitely|go for|take|yes to)\b"
)
_EXCEPT = re.compile(r"\b(?:except|apart from|other than|all but)\b")
_NONE = re.compile(
    r"(?:i )?(?:(?:no|none|not any|nothing|(?:don't|dont|do not) (?:like|want) any) of (?:these|those|them)|"
    r"(?:don't|dont|do not) (?:like|want) (?:these|those|them)|not (?:these|those))(?: at all| please| really)*"
)
_ALL = re.compile(r"\b(?:(?:them|these|those) all|all of (?:them|these|those)|all but)\b")
_ARTICLE = (
    r"(?:(?:a|an|any|anything|everything|the|more|of|have|with|in|that is|that's|made|from|colou?rs?|shades?(?: of)?|"
    r"see|to|want|another|other|such|things?|stuff) )*"
)
_CHEAPER = re.compile(
    r"\b(?:cheaper|less (?:expensive|pricey|costly)|(?:a bit |way |far )?too (?:expensive|pricey|costly|dear|much)"
    r"|(?:not|nothing)(?: too| so| that| very)? (?:expensive|pricey|costly))(?![-\w])"
)
_DEARER = re.compile(r"\b(?:more expensive|dearer|pricier|too cheap)(?![-\w]| look)")
_WITHOUT = re.compile(
    r"\b(?:without|(?<!have )(?<!has )(?<!got )no|nothing(?: with)?|(?:anything|everything|all|any colou?r) but|"
    r"except(?: for)?|not(?: (?:a|so|very|really|that|too|much|big|huge))*(?: (?:fan of|"
    r"keen on|fond of|into|fans of))?|isn't|aren't|avoid|skip|leave out|exclude|enough of|hates?|dislikes?|"
    r"(?:can't|cannot|can not) stand|(?:don't|dont|do not|doesn't|didn't) (?:want|like|need|love|fancy|show me)|"
    rf"stop (?:showing|recommending|suggesting|offering)(?: me)?|already (?:have|own)(?: too many| enough)?) {_ARTICLE}"
    r"(?P<word>[\w'-]{3,40})"
)
# "No mugs or candles" is neither, and so is what a list of them ends with.
_LISTED = re.compile(r"(?:(?:,| or| nor| and)+(?: any| no)? [\w'-]{3,40})*")
_OR = re.compile(r"(?:,| or| nor| and)(?: any| no)? (?!or\b|nor\b|and\b)([\w'-]{3,40})")
_MORE = re.compile(r"(?:any |or |nor )?[\w'-]{3,40}(?:(?: or| nor)(?: any)? [\w'-]{3,40}| at all| please)*")
_HEDGE = re.compile(
    r"sure|not|nothing|longer|shorter|bigger|smaller|larger|earlier|later|idea|something|someone|"
    r"somebody|anyone|anybody|everything|anything|problem|thanks|thank|really|yet|worries|worry|matter|too|very|much|many|bad|only|just|ones?|else|so|like|"
    r"more|less|most|least|particular|particularly|fans?|keen|fond|into|know|mind|them|these|those|that|"
    r"this|it's|for|from|"
    r"about|because|what|when|where|who|how|why|which|his|her|him|she|they|you|your|our|their|and|but|with|than|over|"
    r"under|above|below|between|quite|now|today|here|there|anymore|all|one|expensive|pricey|costly|cheap|"
    r"cheaper|dearer|"
    r"both|limits?|want|going|looking|interested|either|enough|doubt|way|rush|hurry|need|first|second|third|last"
)
_BESIDE = re.compile(rf"(?:{_CHEAPER.pattern}|{_DEARER.pattern})(?: than (?:the |that |this )?(?:[\w'-]+ ?){{1,4}})?")
_ANY_PRICE = re.compile(
    r"\b(?:no (?:price )?limits?(?: on (?:the )?price)?$|(?:remove|drop|forget|without) (?:the |my |any )?"
    r"price limits?|(?:any|whatever) price|price (?:doesn't|does not) matter|money is no object)"
)
# What says nothing of a thing that is looked for.
_IDLE = re.compile(
    r"\W*(?:a|an|the|i|i'd|i'm|i've|we|we'd|he|she|they|it|it's|its|me|my|us|you|your|please|want|wants|would|like|likes|"
    r"love|loves|rather|prefer|have|has|got|do|does|don't|is|are|be|that|that's|this|these|those|which|who|what|any|some|"
    r"something|anything|nothing|everything|items?|things?|stuff|ones?|in|on|of|for|to|at|with|but|and|or|so|just|only|"
    r"also|really|show|see|find|give|need|looking|looks?|thanks?|ok|yes|no|not|pounds?|prices?|priced|costs?|costing|"
    r"money|budget|spend|pay|can|could|should|will|too|very|bit|more|less|than|there|here|all|then|now|maybe|kind|sort|"
    r"already|own|stop|if|possible|colou?rs?|anyone|else|another|other|others|go|going|away|from|by|about|them|him|her|"
    r"either|even|still|hate|hates|absolutely|definitely|way|far|instead|though|today)?\W*"
)
# "No sugar tea set" is a tea set; "no sugar please" is no sugar.
_NOUN = re.compile(
    r"no [\w'-]+(?! (?:please|thanks|thank|in|on|at|of|with|or|nor|and|for|over|under|more|less|that|"
    r"which|this|these|those|it|i|you|he|"
    r"she|we|they|my|any|all|now|today|though|either|if|as|than|stuff|things?|ones?|is|are|look)\b)(?: [\w'-]+){2,}"
)
_SERIES = re.compile(r"\b(?:not|no more of|nothing from) (?:that|this|the same) (?:series|kind|brand|author)\b")
_ASKED = re.compile(r"\b(?:(?:do|did|would|have) you (?:have|got|sell)|(?:why|if) not)\b")  # for what nobody owns yet
_SPLIT = re.compile(
    r"(?:[;!?\n]|,(?!\d)|\.(?!\d)(?!(?<=\bno\.)\s?\d))+|"
    r"(?<!anything )(?<!everything )(?<!all )(?<!colour )(?<!color )\bbut\b|\band\b",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|isn't|looks?)\b")
_FILLER = re.compile(
    r"\W*(?:(?:please|thanks|thank you|a lot|so much|ok|okay|yes|yeah|no|nope|hi|hello|hey|there|h+m+|well|great|cool|"
    r"nice|good|morning|evening|day|(?:ha)+|then|i am|i'm|not sure|what else do you have|that's all|for today|for now|"
    r"you are|you're|very helpful|definitely|absolutely|more like (?:that|this|it))\W+)*"
)
_UNDO = re.compile(r"\W*(?:undo|go back|back|take (?:that|it) back|never ?mind)(?:\s+please)?\W*")
_OVER = re.compile(
    r"\W*(?:start (?:over|again)|begin again|new conversation|forget (?:it all|everything))(?: please)?\W*"
)
_WHY = re.compile(r"^\W*(?:but |and |so )?why\b(?! not\b)|\bwhat makes you\b")
_COMPARE = re.compile(r"\b(?:compare|comparison|difference between|versus|vs)\b")
_TELL = re.compile(
    r"\b(?:tell me (?:more )?about|how much (?:is|does|are)|what (?:is|does|about)|describe|details of)\b"
)
_WHICH = re.compile(r"^\W*which (?:one |item |product |of (?:these|them|those) )?(?:is|are)\b")
_COMPARE_ALL = re.compile(
    r"\W*(?:please |can you |could you |what is the |what's the )*(?:compare|comparison|difference between)"
    r"(?: (?:all|of|the|them|these|those|items?|both|first|two|three|please|for me))*\W*"
)


@dataclass(frozen=True)
class Question:
    """What somebody asks instead of wishing.

    Attributes:
        about: "why" items were recommended, how items "compare" (one alone: what it is), "undo" for the last turn taken
            back, or "start over" for all of them.
        items: the items that it is about, of those that were shown last.
    """

    about: Literal["why", "compare", "undo", "start over"]
    items: tuple[Recommendation, ...] = ()


def question_of(said: str, shown: Sequence[Recommendation]) -> Question | None:
    """What is asked about a list; None for wishes."""
    lower = small(said)
    if _UNDO.fullmatch(lower):
        return Question("undo")
    if _OVER.fullmatch(lower):
        return Question("start over")
    if not shown:
        return None
    if _TELL.search(lower) and (items := placed(lower, shown) or pointed(lower, shown)):
        return Question("compare", tuple(items[:3]))
    if _WHICH.search(lower):
        return Question("compare", tuple(shown))
    if _COMPARE.search(lower):
        items = placed(lower, shown) or pointed(lower, shown)
        if len(items) < 2 and _COMPARE_ALL.fullmatch(lower):
            items = list(shown)
        return Question("compare", tuple(items[:3])) if len(items) > 1 else None
    if _WHY.search(lower):
        return Question("why", tuple(placed(lower, shown) or pointed(lower, shown) or shown[:1]))
    return None


@dataclass(frozen=True)
class _Said:
    """One clause, and what it may be about.

    Attributes:
        lower: the clause in small letters.
        shown: the list that was shown last.
        meant: the items of it that the whole message names.
        spared: the items that the message excepts from what it says of all.
    """

    lower: str
    shown: Sequence[Recommendation]
    meant: Sequence[Recommendation]
    spared: Sequence[Recommendation]


@dataclass(frozen=True)
class CritiqueReader:
    """Reads wishes by rules.

    What it knows: items that are named by their place in the last list ("more like the second", "not number 3") or,
    where it is said what of them, by their title ("I loved ..."), prices ("cheaper", "under 5"), words that no title
    may hold ("no candles"), and "not that series", which is what the titles of the list begin with alike. All else is
    what somebody looks for, and so is what stands behind the first `CLAUSES` clauses.

    Attributes:
        catalog: names the items.
        price: the column of prices; without it, or where it holds no numbers, prices are words like others.
    """

    catalog: Catalog
    price: str = "price"

    @cached_property
    def _titles(self) -> TitleLookup:
        return TitleLookup(self.catalog)

    @cached_property
    def _has_price(self) -> bool:
        try:
            return describe(self.catalog.column(self.price).type) == "numbers"
        except InputError:
            return False

    def __call__(self, said: str, conversation: Conversation) -> Wishes:
        """The wishes after something was said."""
        wishes, rest = self.read(said, conversation)
        return wishes.look_for(", ".join(rest)) if rest else wishes

    def read(self, said: str, conversation: Conversation) -> tuple[Wishes, list[str]]:
        """The wishes that the rules read, and the clauses of which they know nothing, in their order."""
        wishes, rest, shown = conversation.wishes, [], conversation.shown
        clauses, unread = _clauses(said, shown)
        lowers = [small(clause) for clause in clauses]
        named = [[] if ranges_in(lower) else placed(lower, shown) or pointed(lower, shown) for lower in lowers]
        meant = [item for items in named for item in items]
        spared = [item for lower, items in zip(lowers, named, strict=True) if _EXCEPT.search(lower) for item in items]
        for clause, lower in zip(clauses, lowers, strict=True):
            wishes, left = self._read_whole(_Said(_ASKED.sub("", lower), shown, meant, spared), wishes)
            rest += [clause] if left is None else [left] if left else []
        return wishes, [*rest, *unread]

    def _read_whole(self, said: _Said, wishes: Wishes) -> tuple[Wishes, str | None]:
        """The wishes after a clause, and what is left of it for looking; None for all of it."""
        left: str | None = None
        while (read := self._read_clause(said if left is None else replace(said, lower=left), wishes)) is not None:
            wishes, left = read
            if all(map(_IDLE.fullmatch, left.split())):
                return wishes, ""
        return wishes, left

    def question(self, said: str, shown: Sequence[Recommendation]) -> Question | None:
        """What is asked; None for wishes."""
        return question_of(said, shown)

    def _read_clause(self, said: _Said, wishes: Wishes) -> tuple[Wishes, str] | None:
        """The wishes after a clause, and the part of it that they were not read from; None where nothing is known."""
        lower, shown = said.lower, said.shown
        if shown and _SERIES.search(lower):
            begins = _common_words([item.title for item in shown])
            return wishes.limit(_lacking_words(begins)) if begins else wishes.dislike(shown[0].item_id), ""
        if shown and _NONE.fullmatch(lower):
            return _judged(wishes, Wishes.dislike, [item.item_id for item in shown]), ""
        if self._has_price and _ANY_PRICE.search(lower):
            return _free_of_price(wishes), ""
        if self._has_price and (bounds := bounds_in(lower) or self._beside(said)):
            for sign, amount in bounds:
                wishes = self._bounded(wishes, sign, amount)
            left = _BESIDE.sub(" ", without_bounds(lower)).strip()
            # "The fourth is too expensive" says nothing else of the fourth.
            return wishes, left if _FOR.search(left) or not (placed(left, shown) or pointed(left, shown)) else ""
        if shown and _ALL.search(lower) and (_FOR.search(lower) or _AGAINST.search(_EXCEPT.sub("", lower))):
            return _all_judged(wishes, said), ""
        if ranges_in(lower):  # "nothing between 2 and 5" names no items
            return None
        if named := self._named(lower, shown):
            return _judged(wishes, Wishes.dislike if _AGAINST.search(lower) else Wishes.like, named), ""
        if _NOUN.fullmatch(lower):
            return None
        for found in _WITHOUT.finditer(lower):
            if _HEDGE.fullmatch(found["word"]):
                continue
            listed = _LISTED.match(lower, found.end())
            end = found.end() if listed is None else listed.end()
            for word in (found["word"], *_OR.findall(lower[found.end() : end])):
                wishes = wishes.limit(lacking(word))
            return wishes, f"{lower[: found.start()].strip()} {lower[end:].strip()}".strip()
        return None

    def _beside(self, said: _Said) -> list[tuple[Sign, float]]:
        """The bound that a clause puts beside the middle price of the items that it names, or that are shown."""
        for pattern, under in ((_CHEAPER, True), (_DEARER, False)):
            if (found := pattern.search(said.lower)) is None:
                continue
            named = placed(said.lower, said.shown) or pointed(said.lower, said.shown)
            too = "too " in found[0] or found[0].startswith("not")
            turned = False if too else denied(said.lower[: found.start()])
            prices = [
                price
                for item in (named or said.meant or said.shown)
                if (price := self._price_of(item.item_id)) is not None
            ]
            if not prices or turned is None:
                return []
            sign: Sign = (">=" if under else "<=") if turned else ("<" if under else ">")
            return [(sign, sorted(prices)[len(prices) // 2])]
        return []

    def _bounded(self, wishes: Wishes, sign: Sign, amount: float) -> Wishes:
        """With a bound of the price, in place of the one on its side, and of one on the other that contradicts it."""
        under = sign.startswith("<")
        own, other = ("price to", "price from") if under else ("price from", "price to")
        for limit in wishes.limits:
            if limit.about != other:
                continue
            _, their_sign, theirs = limit.where.rsplit(maxsplit=2)
            low, high = (float(theirs), amount) if under else (amount, float(theirs))
            if low > high or (low == high and len(sign + their_sign) < 4):
                wishes = wishes.without(("only", limit.where))
        return wishes.limit(Limit(own, f"{self.price} {sign} {amount}"))

    def _named(self, said: str, shown: Sequence[Recommendation]) -> list[ItemId]:
        """The items that a clause names: by their place among those shown or, where it says what of them, by title."""
        found = placed(said, shown)
        if not found and (_points(said, shown) or _FOR.search(said) or _AGAINST.search(said)):
            found = pointed(said, shown)
            if not found and (_FOR.search(said) or _AGAINST.search(said)):
                return [self.catalog.item_ids[item] for item in self._titles.find(said)]
        return [item.item_id for item in found]

    def _price_of(self, item_id: ItemId) -> float | None:
        price = self.catalog[self.catalog.index_of(item_id)].attributes.get(self.price)
        return float(price) if isinstance(price, int | float) else None


def lacking(word: str) -> Limit:
    """Nothing whose title holds a word, written as of one thing or of many."""
    written = spellings(word.strip("'-") or word)
    return Limit(f"word {written[0]}", " and ".join(f"{one!r} not in words(title)" for one in written))


def _free_of_price(wishes: Wishes) -> Wishes:
    """Without any bound of the price."""
    for limit in wishes.limits:
        if limit.about in ("price from", "price to"):
            wishes = wishes.without(("only", limit.where))
    return wishes


def _lacking_words(words: str) -> Limit:
    """Nothing whose title holds some words one behind the other."""
    return Limit(f"words {words}", f"{words!r} not in words(title)")


def _points(said: str, shown: Sequence[Recommendation]) -> bool:
    """Whether a clause only points at items, one or more."""
    return all(is_pointer(part, shown) for part in re.split(r" ?(?:,|\band\b) ?", said))


def _judged(wishes: Wishes, change: Callable[[Wishes, ItemId], Wishes], item_ids: Iterable[ItemId]) -> Wishes:
    for item_id in item_ids:
        wishes = change(wishes, item_id)
    return wishes


def _all_judged(wishes: Wishes, said: _Said) -> Wishes:
    """With a whole list liked or disliked, and what is excepted judged the other way."""
    spared = {item.item_id for item in said.spared}
    change, other = Wishes.like, Wishes.dislike
    if _AGAINST.search(_EXCEPT.sub("", said.lower)):
        change, other = other, change
    wishes = _judged(wishes, change, [item.item_id for item in said.shown if item.item_id not in spared])
    return _judged(wishes, other, [item.item_id for item in said.spared])


def _clauses(said: str, shown: Sequence[Recommendation]) -> tuple[list[str], list[str]]:
    """A message in clauses that are read, and others, without what says nothing.

    What only points at an item ("the mug and the lamp are nice") stays with what is said of it.
    """
    parts = [(join, clause) for join, clause in _parts(said) if not _FILLER.fullmatch(f"{small(clause)} ")]
    clauses: list[str] = []
    bare = False  # whether the last clause only points
    for place, (join, clause) in enumerate(parts):
        lower = small(clause)
        points = is_pointer(lower, shown)
        both = bool(clauses) and join.strip().lower() in ("and", ",")
        if (
            both
            and bare
            and (placed(lower, shown) or pointed(lower, shown))
            and not (join == "," and _IS.search(lower))
        ):
            clauses[-1] += f"{join} {clause}" if join == "," else f" {join} {clause}"
            bare = points
        elif (
            both
            and points
            and join != ","
            and (placed(small(clauses[-1]), shown) or pointed(small(clauses[-1]), shown))
        ):
            clauses[-1] += f" {join} {clause}"
        elif both and _goes_on(small(clauses[-1]), join, lower):
            clauses[-1] += f"{join} {clause}" if join == "," else f" {join} {clause}"
        elif len(clauses) == CLAUSES:
            return clauses, [other for _, other in parts[place:]]
        else:
            clauses.append(clause)
            bare = points
    return clauses, []


def _goes_on(before: str, join: str, lower: str) -> bool:
    """Whether a clause is the rest of a list of what is ruled out: "no mugs, candles or clocks"."""
    found = next((found for found in _WITHOUT.finditer(before) if not _HEDGE.fullmatch(found["word"])), None)
    if found is None or _LISTED.fullmatch(before, found.end()) is None or _MORE.fullmatch(lower) is None:
        return False
    listed = re.search(r"\b(?:or|nor)\b", lower)
    return bool(listed) or (join != "," and lower.endswith("s") and " " not in lower)


def _parts(said: str) -> Iterator[tuple[str, str]]:
    """The pieces of a message, each with what stands before it; a range such as "between 2 and 5" is one."""
    ranges = ranges_in(said.lower()) if len(said.lower()) == len(said) else []
    join, start = "", 0
    for match in _SPLIT.finditer(said):
        if any(low < match.start() < high for low, high in ranges):
            continue
        if piece := said[start : match.start()].strip():
            yield join, piece
        join, start = match[0], match.end()
    if piece := said[start:].strip():
        yield join, piece


def _common_words(titles: Sequence[str]) -> str:
    """The longest beginning, in whole words, that the first title shares with another one; "" for none.

    In small letters, with the blanks of the title, and no longer than a filter of a conversation may be.
    """
    first = small(titles[0]).split()
    size = max((_shared(first, small(title).split()) for title in titles[1:]), default=0)
    ends = [match.end() for match in re.finditer(r"\S+", titles[0])]
    begins = next((titles[0][:end] for end in reversed(ends[:size]) if len(repr(titles[0][:end])) <= _SERIES_SIZE), "")
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in begins).strip()


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two titles begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((size for size, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
