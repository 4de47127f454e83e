"""What somebody says of recommendations, read by the words that it is usually said with, in English.

Knows no language model. Source of the idea: Burke, Hammond and Young, "The FindMe Approach to Assisted Browsing", IEEE
Expert 1997: an item stands for what it is like, and critiques say in which way the next one should differ.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from genrec.chat.conversation import Conversation, PreferenceFilter, Preferences
from genrec.chat.languages.inflection import inflections, lowercase
from genrec.chat.languages.price_phrases import (
    ComparisonOperator,
    find_price_ranges,
    is_negated,
    parse_price_bounds,
    strip_price_phrases,
)
from genrec.chat.parsers.item_references import find_ordinal_references, find_title_references, is_item_reference
from genrec.chat.parsers.title_lookup import TitleLookup
from genrec.data.catalog import Catalog
from genrec.data.column_types import describe_type
from genrec.errors import InputError
from genrec.types import ItemId, Recommendation

MAX_CLAUSES = 8  # of a message that are read; the others are what somebody looks for
_MAX_SERIES_FILTER_LENGTH = 200  # characters of what titles begin with alike, as a filter writes it

_NEGATIVE = re.compile(
    r"\b(?:not(?! (?:too )?bad)|no(?!\.?\s*\d)|none|\w+n't(?! (?:too )?bad)|dont|never|hates?|hated|"
    r"dislikes?|less like|nothing like|"
    r"drop|bin|skip|avoid|leave out|cannot stand|except|apart from|other than|all but|too(?=\s+(?!please|thanks)\w)|"
    r"ugly|hideous|awful|horrible|terrible|boring|flimsy|cheap-looking)\b"
)
_POSITIVE = re.compile(
    r"\b(?:likes?|loves?|liked|loved|enjoys?|enjoyed|adores?|similar to|have|own|bought|saw|seen|watched|read|played|"
    r"lovely|great|nice|perfect|beautiful|favou?rite|definitely|go for|take|yes to)\b"
)
_EXCEPTION = re.compile(r"\b(?:except|apart from|other than|all but)\b")
_REJECT_ALL = re.compile(
    r"(?:i )?(?:(?:no|none|not any|nothing|(?:don't|dont|do not) (?:like|want) any) of (?:these|those|them)|"
    r"(?:don't|dont|do not) (?:like|want) (?:these|those|them)|not (?:these|those))(?: at all| please| really)*"
)
_ALL_ITEMS = re.compile(r"\b(?:(?:them|these|those) all|all of (?:them|these|those)|all but)\b")
_ARTICLES = (
    r"(?:(?:a|an|any|anything|everything|the|more|of|have|with|in|that is|that's|made|from|colou?rs?|shades?(?: of)?|"
    r"see|to|want|another|other|such|things?|stuff) )*"
)
_CHEAPER = re.compile(
    r"\b(?:cheaper|less (?:expensive|pricey|costly)|(?:a bit |way |far )?too (?:expensive|pricey|costly|dear|much)"
    r"|(?:not|nothing)(?: too| so| that| very)? (?:expensive|pricey|costly))(?![-\w])"
)
_MORE_EXPENSIVE = re.compile(r"\b(?:more expensive|dearer|pricier|too cheap)(?![-\w]| look)")
_EXCLUSION = re.compile(
    r"\b(?:without|(?<!have )(?<!has )(?<!got )no|nothing(?: with)?|(?:anything|everything|all|any colou?r) but|"
    r"except(?: for)?|not(?: (?:a|so|very|really|that|too|much|big|huge))*(?: (?:fan of|"
    r"keen on|fond of|into|fans of))?|isn't|aren't|avoid|skip|leave out|exclude|enough of|hates?|dislikes?|"
    r"(?:can't|cannot|can not) stand|(?:don't|dont|do not|doesn't|didn't) (?:want|like|need|love|fancy|show me)|"
    rf"stop (?:showing|recommending|suggesting|offering)(?: me)?|already (?:have|own)(?: too many| enough)?) {_ARTICLES}"
    r"(?P<word>[\w'-]{3,40})"
)
# "No mugs or candles" is neither, and so is what a list of them ends with.
_EXCLUSION_LIST = re.compile(r"(?:(?:,| or| nor| and)+(?: any| no)? [\w'-]{3,40})*")
_EXCLUSION_LIST_WORD = re.compile(r"(?:,| or| nor| and)(?: any| no)? (?!or\b|nor\b|and\b)([\w'-]{3,40})")
_EXCLUSION_LIST_TAIL = re.compile(
    r"(?:any |or |nor )?[\w'-]{3,40}(?:(?: or| nor)(?: any)? [\w'-]{3,40}| at all| please)*"
)
_NOT_EXCLUDABLE = re.compile(
    r"sure|not|nothing|longer|shorter|bigger|smaller|larger|earlier|later|idea|something|someone|"
    r"somebody|anyone|anybody|everything|anything|problem|thanks|thank|really|yet|worries|worry|matter|too|very|much|many|bad|only|just|ones?|else|so|like|"
    r"more|less|most|least|particular|particularly|fans?|keen|fond|into|know|mind|them|these|those|that|"
    r"this|it's|for|from|"
    r"about|because|what|when|where|who|how|why|which|his|her|him|she|they|you|your|our|their|and|but|with|than|over|"
    r"under|above|below|between|quite|now|today|here|there|anymore|all|one|expensive|pricey|costly|cheap|"
    r"cheaper|dearer|"
    r"both|limits?|want|going|looking|interested|either|enough|doubt|way|rush|hurry|need|first|second|third|last"
)
_RELATIVE_PRICE = re.compile(
    rf"(?:{_CHEAPER.pattern}|{_MORE_EXPENSIVE.pattern})(?: than (?:the |that |this )?(?:[\w'-]+ ?){{1,4}})?"
)
_ANY_PRICE = re.compile(
    r"\b(?:no (?:price )?limits?(?: on (?:the )?price)?$|(?:remove|drop|forget|without) (?:the |my |any )?"
    r"price limits?|(?:any|whatever) price|price (?:doesn't|does not) matter|money is no object)"
)
# What says nothing of a thing that is looked for.
_STOP_WORDS = re.compile(
    r"\W*(?:a|an|the|i|i'd|i'm|i've|we|we'd|he|she|they|it|it's|its|me|my|us|you|your|please|want|wants|would|like|likes|"
    r"love|loves|rather|prefer|have|has|got|do|does|don't|is|are|be|that|that's|this|these|those|which|who|what|any|some|"
    r"something|anything|nothing|everything|items?|things?|stuff|ones?|in|on|of|for|to|at|with|but|and|or|so|just|only|"
    r"also|really|show|see|find|give|need|looking|looks?|thanks?|ok|yes|no|not|pounds?|prices?|priced|costs?|costing|"
    r"money|budget|spend|pay|can|could|should|will|too|very|bit|more|less|than|there|here|all|then|now|maybe|kind|sort|"
    r"already|own|stop|if|possible|colou?rs?|anyone|else|another|other|others|go|going|away|from|by|about|them|him|her|"
    r"either|even|still|hate|hates|absolutely|definitely|way|far|instead|though|today)?\W*"
)
# "No sugar tea set" is a tea set; "no sugar please" is no sugar.
_COMPOUND_NOUN = re.compile(
    r"no [\w'-]+(?! (?:please|thanks|thank|in|on|at|of|with|or|nor|and|for|over|under|more|less|that|"
    r"which|this|these|those|it|i|you|he|"
    r"she|we|they|my|any|all|now|today|though|either|if|as|than|stuff|things?|ones?|is|are|look)\b)(?: [\w'-]+){2,}"
)
_EXCLUDE_SERIES = re.compile(r"\b(?:not|no more of|nothing from) (?:that|this|the same) (?:series|kind|brand|author)\b")
_AVAILABILITY_QUESTION = re.compile(
    r"\b(?:(?:do|did|would|have) you (?:have|got|sell)|(?:why|if) not)\b"
)  # for what nobody owns yet
_CLAUSE_SEPARATOR = re.compile(
    r"(?:[;!?\n]|,(?!\d)|\.(?!\d)(?!(?<=\bno\.)\s?\d))+|"
    r"(?<!anything )(?<!everything )(?<!all )(?<!colour )(?<!color )\bbut\b|\band\b",
    re.IGNORECASE,
)
_COPULA = re.compile(r"\b(?:is|isn't|looks?)\b")
_FILLER = re.compile(
    r"\W*(?:(?:please|thanks|thank you|a lot|so much|ok|okay|yes|yeah|no|nope|hi|hello|hey|there|h+m+|well|great|cool|"
    r"nice|good|morning|evening|day|(?:ha)+|then|i am|i'm|not sure|what else do you have|that's all|for today|for now|"
    r"you are|you're|very helpful|definitely|absolutely|more like (?:that|this|it))\W+)*"
)
_UNDO = re.compile(r"\W*(?:undo|go back|back|take (?:that|it) back|never ?mind)(?:\s+please)?\W*")
_START_OVER = re.compile(
    r"\W*(?:start (?:over|again)|begin again|new conversation|forget (?:it all|everything))(?: please)?\W*"
)
_WHY = re.compile(r"^\W*(?:but |and |so )?why\b(?! not\b)|\bwhat makes you\b")
_COMPARE = re.compile(r"\b(?:compare|comparison|difference between|versus|vs)\b")
_DESCRIBE = re.compile(
    r"\b(?:tell me (?:more )?about|how much (?:is|does|are)|what (?:is|does|about)|describe|details of)\b"
)
_WHICH_QUESTION = re.compile(r"^\W*which (?:one |item |product |of (?:these|them|those) )?(?:is|are)\b")
_COMPARE_ALL = re.compile(
    r"\W*(?:please |can you |could you |what is the |what's the )*(?:compare|comparison|difference between)"
    r"(?: (?:all|of|the|them|these|those|items?|both|first|two|three|please|for me))*\W*"
)


@dataclass(frozen=True)
class UserIntent:
    """What somebody asks instead of wishing.

    Attributes:
        kind: "why" items were recommended, how items "compare" (one alone: what it is), "undo" for the last turn taken
            back, or "start over" for all of them.
        items: the items that it is about, of those that were shown last.
    """

    kind: Literal["why", "compare", "undo", "start over"]
    items: tuple[Recommendation, ...] = ()


def detect_intent(message: str, shown: Sequence[Recommendation]) -> UserIntent | None:
    """What is asked about a list; None for wishes."""
    lower = lowercase(message)
    if _UNDO.fullmatch(lower):
        return UserIntent("undo")
    if _START_OVER.fullmatch(lower):
        return UserIntent("start over")
    if not shown:
        return None
    if _DESCRIBE.search(lower) and (
        items := find_ordinal_references(lower, shown) or find_title_references(lower, shown)
    ):
        return UserIntent("compare", tuple(items[:3]))
    if _WHICH_QUESTION.search(lower):
        return UserIntent("compare", tuple(shown))
    if _COMPARE.search(lower):
        items = find_ordinal_references(lower, shown) or find_title_references(lower, shown)
        if len(items) < 2 and _COMPARE_ALL.fullmatch(lower):
            items = list(shown)
        return UserIntent("compare", tuple(items[:3])) if len(items) > 1 else None
    if _WHY.search(lower):
        return UserIntent(
            "why", tuple(find_ordinal_references(lower, shown) or find_title_references(lower, shown) or shown[:1])
        )
    return None


@dataclass(frozen=True)
class _ClauseContext:
    """One clause, and what it may be about.

    Attributes:
        text: the clause in small letters.
        shown: the list that was shown last.
        mentioned: the items of it that the whole message names.
        excepted: the items that the message excepts from what it says of all.
    """

    text: str
    shown: Sequence[Recommendation]
    mentioned: Sequence[Recommendation]
    excepted: Sequence[Recommendation]


@dataclass(frozen=True)
class LexicalParser:
    """Reads wishes by rules.

    What it knows: items that are named by their place in the last list ("more like the second", "not number 3") or,
    where it is said what of them, by their title ("I loved ..."), prices ("cheaper", "under 5"), words that no title
    may hold ("no candles"), and "not that series", which is what the titles of the list begin with alike. All else is
    what somebody looks for, and so is what stands behind the first `MAX_CLAUSES` clauses.

    Attributes:
        catalog: names the items.
        price_column: the column of prices; without it, or where it holds no numbers, prices are words like others.
    """

    catalog: Catalog
    price_column: str = "price"

    @cached_property
    def _title_lookup(self) -> TitleLookup:
        return TitleLookup(self.catalog)

    @cached_property
    def _has_price_column(self) -> bool:
        try:
            return describe_type(self.catalog.column(self.price_column).type) == "numbers"
        except InputError:
            return False

    def __call__(self, message: str, conversation: Conversation) -> Preferences:
        """The wishes after something was said."""
        wishes, rest = self.parse(message, conversation)
        return wishes.with_words(", ".join(rest)) if rest else wishes

    def parse(self, message: str, conversation: Conversation) -> tuple[Preferences, list[str]]:
        """The wishes that the rules read, and the clauses of which they know nothing, in their order."""
        wishes, rest, shown = conversation.preferences, [], conversation.shown
        clauses, unread = _split_clauses(message, shown)
        lowers = [lowercase(clause) for clause in clauses]
        named = [
            []
            if find_price_ranges(lower)
            else find_ordinal_references(lower, shown) or find_title_references(lower, shown)
            for lower in lowers
        ]
        meant = [item for items in named for item in items]
        spared = [
            item for lower, items in zip(lowers, named, strict=True) if _EXCEPTION.search(lower) for item in items
        ]
        for clause, lower in zip(clauses, lowers, strict=True):
            wishes, left = self._parse_whole_clause(
                _ClauseContext(_AVAILABILITY_QUESTION.sub("", lower), shown, meant, spared), wishes
            )
            rest += [clause] if left is None else [left] if left else []
        return wishes, [*rest, *unread]

    def _parse_whole_clause(self, clause: _ClauseContext, preferences: Preferences) -> tuple[Preferences, str | None]:
        """The wishes after a clause, and what is left of it for looking; None for all of it."""
        left: str | None = None
        while (
            read := self._parse_clause(clause if left is None else replace(clause, text=left), preferences)
        ) is not None:
            preferences, left = read
            if all(map(_STOP_WORDS.fullmatch, left.split())):
                return preferences, ""
        return preferences, left

    def detect_intent(self, message: str, shown: Sequence[Recommendation]) -> UserIntent | None:
        """What is asked; None for wishes."""
        return detect_intent(message, shown)

    def _parse_clause(self, clause: _ClauseContext, preferences: Preferences) -> tuple[Preferences, str] | None:
        """The wishes after a clause, and the part of it that they were not read from; None where nothing is known."""
        lower, shown = clause.text, clause.shown
        if shown and _EXCLUDE_SERIES.search(lower):
            begins = _common_title_prefix([item.title for item in shown])
            return preferences.with_filter(_exclude_phrase(begins)) if begins else preferences.with_disliked(
                shown[0].item_id
            ), ""
        if shown and _REJECT_ALL.fullmatch(lower):
            return _with_feedback(preferences, Preferences.with_disliked, [item.item_id for item in shown]), ""
        if self._has_price_column and _ANY_PRICE.search(lower):
            return _without_price_filters(preferences), ""
        if self._has_price_column and (bounds := parse_price_bounds(lower) or self._relative_price_bounds(clause)):
            for sign, amount in bounds:
                preferences = self._with_price_bound(preferences, sign, amount)
            left = _RELATIVE_PRICE.sub(" ", strip_price_phrases(lower)).strip()
            # "The fourth is too expensive" says nothing else of the fourth.
            return preferences, left if _POSITIVE.search(left) or not (
                find_ordinal_references(left, shown) or find_title_references(left, shown)
            ) else ""
        if (
            shown
            and _ALL_ITEMS.search(lower)
            and (_POSITIVE.search(lower) or _NEGATIVE.search(_EXCEPTION.sub("", lower)))
        ):
            return _with_list_feedback(preferences, clause), ""
        if find_price_ranges(lower):  # "nothing between 2 and 5" names no items
            return None
        if named := self._named_item_ids(lower, shown):
            return _with_feedback(
                preferences, Preferences.with_disliked if _NEGATIVE.search(lower) else Preferences.with_liked, named
            ), ""
        if _COMPOUND_NOUN.fullmatch(lower):
            return None
        for found in _EXCLUSION.finditer(lower):
            if _NOT_EXCLUDABLE.fullmatch(found["word"]):
                continue
            listed = _EXCLUSION_LIST.match(lower, found.end())
            end = found.end() if listed is None else listed.end()
            for word in (found["word"], *_EXCLUSION_LIST_WORD.findall(lower[found.end() : end])):
                preferences = preferences.with_filter(exclude_word(word))
            return preferences, f"{lower[: found.start()].strip()} {lower[end:].strip()}".strip()
        return None

    def _relative_price_bounds(self, clause: _ClauseContext) -> list[tuple[ComparisonOperator, float]]:
        """The bound that a clause puts beside the middle price of the items that it names, or that are shown."""
        for pattern, under in ((_CHEAPER, True), (_MORE_EXPENSIVE, False)):
            if (found := pattern.search(clause.text)) is None:
                continue
            named = find_ordinal_references(clause.text, clause.shown) or find_title_references(
                clause.text, clause.shown
            )
            too = "too " in found[0] or found[0].startswith("not")
            turned = False if too else is_negated(clause.text[: found.start()])
            prices = [
                price
                for item in (named or clause.mentioned or clause.shown)
                if (price := self._price_of(item.item_id)) is not None
            ]
            if not prices or turned is None:
                return []
            sign: ComparisonOperator = (">=" if under else "<=") if turned else ("<" if under else ">")
            return [(sign, sorted(prices)[len(prices) // 2])]
        return []

    def _with_price_bound(self, preferences: Preferences, operator: ComparisonOperator, amount: float) -> Preferences:
        """With a bound of the price, in place of the one on its side, and of one on the other that contradicts it."""
        under = operator.startswith("<")
        own, other = ("price to", "price from") if under else ("price from", "price to")
        for limit in preferences.filters:
            if limit.key != other:
                continue
            _, their_sign, theirs = limit.where.rsplit(maxsplit=2)
            low, high = (float(theirs), amount) if under else (amount, float(theirs))
            if low > high or (low == high and len(operator + their_sign) < 4):
                preferences = preferences.without(("only", limit.where))
        return preferences.with_filter(PreferenceFilter(own, f"{self.price_column} {operator} {amount}"))

    def _named_item_ids(self, text: str, shown: Sequence[Recommendation]) -> list[ItemId]:
        """The items that a clause names: by their place among those shown or, where it says what of them, by title."""
        found = find_ordinal_references(text, shown)
        if not found and (_only_references(text, shown) or _POSITIVE.search(text) or _NEGATIVE.search(text)):
            found = find_title_references(text, shown)
            if not found and (_POSITIVE.search(text) or _NEGATIVE.search(text)):
                return [self.catalog.item_ids[item] for item in self._title_lookup.find_items(text)]
        return [item.item_id for item in found]

    def _price_of(self, item_id: ItemId) -> float | None:
        price = self.catalog[self.catalog.index_of(item_id)].attributes.get(self.price_column)
        return float(price) if isinstance(price, int | float) else None


def exclude_word(word: str) -> PreferenceFilter:
    """Nothing whose title holds a word, written as of one thing or of many."""
    written = inflections(word.strip("'-") or word)
    return PreferenceFilter(f"word {written[0]}", " and ".join(f"{one!r} not in words(title)" for one in written))


def _without_price_filters(preferences: Preferences) -> Preferences:
    """Without any bound of the price."""
    for limit in preferences.filters:
        if limit.key in ("price from", "price to"):
            preferences = preferences.without(("only", limit.where))
    return preferences


def _exclude_phrase(phrase: str) -> PreferenceFilter:
    """Nothing whose title holds some words one behind the other."""
    return PreferenceFilter(f"words {phrase}", f"{phrase!r} not in words(title)")


def _only_references(text: str, shown: Sequence[Recommendation]) -> bool:
    """Whether a clause only points at items, one or more."""
    return all(is_item_reference(part, shown) for part in re.split(r" ?(?:,|\band\b) ?", text))


def _with_feedback(
    preferences: Preferences, change: Callable[[Preferences, ItemId], Preferences], item_ids: Iterable[ItemId]
) -> Preferences:
    for item_id in item_ids:
        preferences = change(preferences, item_id)
    return preferences


def _with_list_feedback(preferences: Preferences, clause: _ClauseContext) -> Preferences:
    """With a whole list liked or disliked, and what is excepted judged the other way."""
    spared = {item.item_id for item in clause.excepted}
    change, other = Preferences.with_liked, Preferences.with_disliked
    if _NEGATIVE.search(_EXCEPTION.sub("", clause.text)):
        change, other = other, change
    preferences = _with_feedback(
        preferences, change, [item.item_id for item in clause.shown if item.item_id not in spared]
    )
    return _with_feedback(preferences, other, [item.item_id for item in clause.excepted])


def _split_clauses(message: str, shown: Sequence[Recommendation]) -> tuple[list[str], list[str]]:
    """A message in clauses that are read, and others, without what says nothing.

    What only points at an item ("the mug and the lamp are nice") stays with what is said of it.
    """
    parts = [
        (join, clause) for join, clause in _split_message(message) if not _FILLER.fullmatch(f"{lowercase(clause)} ")
    ]
    clauses: list[str] = []
    bare = False  # whether the last clause only points
    for place, (join, clause) in enumerate(parts):
        lower = lowercase(clause)
        points = is_item_reference(lower, shown)
        both = bool(clauses) and join.strip().lower() in ("and", ",")
        if (
            both
            and bare
            and (find_ordinal_references(lower, shown) or find_title_references(lower, shown))
            and not (join == "," and _COPULA.search(lower))
        ):
            clauses[-1] += f"{join} {clause}" if join == "," else f" {join} {clause}"
            bare = points
        elif (
            both
            and points
            and join != ","
            and (
                find_ordinal_references(lowercase(clauses[-1]), shown)
                or find_title_references(lowercase(clauses[-1]), shown)
            )
        ):
            clauses[-1] += f" {join} {clause}"
        elif both and _continues_exclusion_list(lowercase(clauses[-1]), join, lower):
            clauses[-1] += f"{join} {clause}" if join == "," else f" {join} {clause}"
        elif len(clauses) == MAX_CLAUSES:
            return clauses, [other for _, other in parts[place:]]
        else:
            clauses.append(clause)
            bare = points
    return clauses, []


def _continues_exclusion_list(previous: str, join: str, text: str) -> bool:
    """Whether a clause is the rest of a list of what is ruled out: "no mugs, candles or clocks"."""
    found = next(
        (found for found in _EXCLUSION.finditer(previous) if not _NOT_EXCLUDABLE.fullmatch(found["word"])), None
    )
    if (
        found is None
        or _EXCLUSION_LIST.fullmatch(previous, found.end()) is None
        or _EXCLUSION_LIST_TAIL.fullmatch(text) is None
    ):
        return False
    listed = re.search(r"\b(?:or|nor)\b", text)
    return bool(listed) or (join != "," and text.endswith("s") and " " not in text)


def _split_message(message: str) -> Iterator[tuple[str, str]]:
    """The pieces of a message, each with what stands before it; a range such as "between 2 and 5" is one."""
    ranges = find_price_ranges(message.lower()) if len(message.lower()) == len(message) else []
    join, start = "", 0
    for match in _CLAUSE_SEPARATOR.finditer(message):
        if any(low < match.start() < high for low, high in ranges):
            continue
        if piece := message[start : match.start()].strip():
            yield join, piece
        join, start = match[0], match.end()
    if piece := message[start:].strip():
        yield join, piece


def _common_title_prefix(titles: Sequence[str]) -> str:
    """The longest beginning, in whole words, that the first title shares with another one; "" for none.

    In small letters, with the blanks of the title, and no longer than a filter of a conversation may be.
    """
    first = lowercase(titles[0]).split()
    size = max((_shared_prefix_length(first, lowercase(title).split()) for title in titles[1:]), default=0)
    ends = [match.end() for match in re.finditer(r"\S+", titles[0])]
    begins = next(
        (titles[0][:end] for end in reversed(ends[:size]) if len(repr(titles[0][:end])) <= _MAX_SERIES_FILTER_LENGTH),
        "",
    )
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in begins).strip()


def _shared_prefix_length(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two titles begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((size for size, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
