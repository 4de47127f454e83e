"""What somebody says of recommendations, read by the words that it is usually said with, in English.

Knows no language model. Source of the idea: Burke, Hammond and Young, "The FindMe Approach to Assisted Browsing", IEEE
Expert 1997: an item stands for what it is like, and critiques say in which way the next one should differ.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from genrec.catalog import Catalog
from genrec.conversation import Conversation, Limit, Wishes
from genrec.errors import InputError
from genrec.title_lookup import TitleLookup, plain
from genrec.types import ItemId, Recommendation

_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}
_PLACE = re.compile(r"\b(?:number|no\.?|#)\s*(\d+)\b|\b(\d+)(?:st|nd|rd|th)\b|\b(" + "|".join(_ORDINALS) + r")\b")
_BARE = re.compile(
    r"\b(?:like|compare|and|or|with|versus|vs|why)\s+(\d{1,2})\b(?!\s*%|\s+(?!and\b|or\b|but\b|with\b)\w)"
)
_AGAINST = re.compile(
    r"\b(?:not|no|don't|dont|do not|never|hates?|hated|dislikes?|less like|nothing like|drop|bin|skip|avoid|leave out|"
    r"can't stand|cannot stand|too|ugly|hideous|awful|boring|flimsy|cheap-looking)\b"
)
_FOR = re.compile(
    r"\b(?:likes?|loves?|liked|loved|enjoys?|enjoyed|adores?|similar to|have|own|bought|saw|seen|watched|read|played|"
    r"lovely|great|nice|perfect|beautiful|favou?rite|definitely|go for|take)\b"
)
_ARTICLE = r"(?:(?:a|an|any|anything|everything|the|more|of|have|with|that is)\s+)*"
_AMOUNT = r"(?:[^\w\s]\s*)?(\d+(?:[.,]\d+)?)"
_UNDER = re.compile(
    rf"\b(?:under|below|less than|at most|up to|max(?:imum)?|cheaper than|no(?:t)? more than|not over)\s+{_AMOUNT}"
)
_OVER = re.compile(rf"\b(?:over|above|more than|at least)\s+{_AMOUNT}")
_CHEAPER = re.compile(r"\b(?:cheaper|less expensive|too expensive)\b")
_DEARER = re.compile(r"\b(?:more expensive|dearer|too cheap)\b")
_WITHOUT = re.compile(
    r"\b(?:without|no|nothing(?: with)?|anything but|not|avoid|skip|leave out|exclude|enough of|hates?|can't stand|"
    rf"cannot stand|don't want|dont want|already (?:have|own)(?: too many| enough)?)\s+{_ARTICLE}([\w'-]{{3,40}})"
)
_HEDGE = re.compile(
    r"(?:sure|idea|problem|thanks|really|yet|worries|matter|too|very|much|many|bad|only|ones?|else|so|like)"
)
_SERIES = re.compile(r"\b(?:not|no more of|nothing from)\s+(?:that|this|the same)\s+(?:series|kind|brand|author)\b")
_ASKED = re.compile(r"\b(?:do|did|would|have) you (?:have|got|sell)\b")  # for what nobody owns yet
_SPLIT = re.compile(r"(?:[;!?\n]|[.,](?!\d))+|(?<!anything )\bbut\b|\band\b")
_FILLER = re.compile(
    r"\W*(?:(?:please|thanks|thank you|a lot|so much|ok|okay|yes|yeah|no|nope|hi|hello|hey|there|h+m+|well|great|cool|"
    r"nice|good|morning|evening|day|(?:ha)+|then|i am|i'm|not sure|what else do you have|that's all|for today|for now|"
    r"you are|you're|very helpful)\W+)*"
)
_UNDO = re.compile(r"\W*(?:undo|go back|back|take (?:that|it) back|never ?mind)(?:\s+please)?\W*")
_WHY = re.compile(r"^\W*(?:but |and |so )?why\b|\bwhat makes you\b")
_COMPARE = re.compile(r"\b(?:compare|comparison|difference between|versus|vs)\b")


@dataclass(frozen=True)
class Question:
    """What somebody asks instead of wishing.

    Attributes:
        about: "why" items were recommended, how items "compare", or "undo" for the last turn taken back.
        items: the items that it is about, of those that were shown last.
    """

    about: Literal["why", "compare", "undo"]
    items: tuple[Recommendation, ...] = ()


@dataclass(frozen=True)
class CritiqueReader:
    """Reads wishes by rules.

    What it knows: items that are named by their place in the last list ("more like the second", "not number 3") or,
    where it is said what of them, by their title ("I loved ..."), prices ("cheaper", "under 5"), words that no title
    may hold ("no candles"), and "not that series", which is what the titles of the list begin with alike. All else is
    what somebody looks for.

    Attributes:
        catalog: names the items.
        price: the column of prices; without it prices are words like others.
    """

    catalog: Catalog
    price: str = "price"

    @cached_property
    def _titles(self) -> TitleLookup:
        return TitleLookup(self.catalog)

    @cached_property
    def _has_price(self) -> bool:
        try:
            self.catalog.column(self.price)
        except InputError:
            return False
        return True

    def __call__(self, said: str, conversation: Conversation) -> Wishes:
        """The wishes after something was said."""
        wishes, rest = self.read(said, conversation)
        return wishes.look_for(", ".join(rest)) if rest else wishes

    def read(self, said: str, conversation: Conversation) -> tuple[Wishes, list[str]]:
        """The wishes that the rules read, and the clauses of which they know nothing, in their order."""
        wishes, rest, shown = conversation.wishes, [], conversation.shown
        clauses = [
            clause for clause in map(str.strip, _SPLIT.split(said)) if not _FILLER.fullmatch(f"{clause.casefold()} ")
        ]
        meant = [item for clause in clauses for item in _placed(clause.casefold(), shown)]
        for clause in clauses:
            read = self._read_clause(clause, wishes, shown, meant)
            rest += [clause] if read == wishes else []
            wishes = read
        return wishes, rest

    def question(self, said: str, shown: Sequence[Recommendation]) -> Question | None:
        """What is asked; None for wishes."""
        lower = said.casefold()
        if _UNDO.fullmatch(lower):
            return Question("undo")
        if not shown:
            return None
        if _COMPARE.search(lower):
            items = _placed(lower, shown) or _pointed(lower, shown) or list(shown)
            return Question("compare", tuple(items[:3])) if len(items) > 1 else None
        if _WHY.search(lower):
            return Question("why", tuple(_placed(lower, shown) or _pointed(lower, shown) or shown[:1]))
        return None

    def _read_clause(
        self, clause: str, wishes: Wishes, shown: Sequence[Recommendation], meant: Sequence[Recommendation]
    ) -> Wishes:
        lower = _ASKED.sub("", clause.casefold())
        if shown and _SERIES.search(lower):
            begins = _common_words([item.title for item in shown])
            return wishes.limit(lacking(begins)) if begins else wishes.dislike(shown[0].item_id)
        limit = self._limit_of(lower, meant or shown)
        if limit is not None:
            return wishes.limit(limit)
        named = self._named(lower, shown)
        if named:
            change = Wishes.dislike if _AGAINST.search(lower) else Wishes.like
            for item_id in named:
                wishes = change(wishes, item_id)
            return wishes
        if (found := _WITHOUT.search(lower)) and not _HEDGE.fullmatch(found[1]):
            return wishes.limit(lacking(found[1]))
        return wishes

    def _limit_of(self, said: str, beside: Sequence[Recommendation]) -> Limit | None:
        """A limit of the price that a clause names, or says beside the middle price of some items."""
        if not self._has_price:
            return None
        for pattern, sign in ((_UNDER, "<="), (_OVER, ">=")):
            if found := pattern.search(said):
                amount = float(found[1].replace(",", "."))
                return Limit("price", f"{self.price} {sign} {amount}")
        prices = [price for item in beside if (price := self._price_of(item.item_id)) is not None]
        if prices and _CHEAPER.search(said):
            return Limit("price", f"{self.price} < {_middle(prices)}")
        if prices and _DEARER.search(said):
            return Limit("price", f"{self.price} > {_middle(prices)}")
        return None

    def _named(self, said: str, shown: Sequence[Recommendation]) -> list[ItemId]:
        """The items that a clause names: by their place among those shown or, where it says what of them, by title."""
        found = [item.item_id for item in _placed(said, shown)]
        if found or not (_FOR.search(said) or _AGAINST.search(said)):
            return found
        if pointed := _pointed(said, shown):
            return [item.item_id for item in pointed]
        return [self.catalog.item_ids[item] for item in self._titles.find(said)]

    def _price_of(self, item_id: ItemId) -> float | None:
        price = self.catalog[self.catalog.index_of(item_id)].attributes.get(self.price)
        return float(price) if isinstance(price, int | float) else None


def _placed(said: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items of a list that a text in small letters names by their places, each once."""
    places: list[int] = []
    for match in _PLACE.finditer(said):
        number = next((int(digits) - 1 for digits in match.groups()[:2] if digits), None)
        places.append(_ORDINALS[match[3]] if number is None else number)
    places += [int(match[1]) - 1 for match in _BARE.finditer(said)]
    found = [place % len(shown) for place in places if shown and -1 <= place < len(shown)]
    return [shown[place] for place in dict.fromkeys(found)]


def _pointed(said: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items of a list that a text in small letters points at: "the mug", "that vanilla one".

    By what only one of the titles ends with, or, before "one", by a word that only one of them holds.
    """
    titles = [plain(item.title).split() for item in shown]
    found = []
    for item, words in zip(shown, titles, strict=True):
        own = [re.escape(word) for word in words if sum(word in others for others in titles) == 1]
        named = [rf"(?:{'|'.join(own)}) ones?"] if own else []
        if words and re.escape(words[-1]) in own:
            named.append(rf"(?:(?:{'|'.join(map(re.escape, words))}) )*{re.escape(words[-1])}")
        if named and re.search(rf"\b(?:the|that|this) (?:{'|'.join(named)})\b", plain(said)):
            found.append(item)
    return found


def lacking(words: str) -> Limit:
    """Nothing whose title holds some words; of a plural, nothing of its singular either."""
    stem = words[:-1] if len(words) > 4 and words.endswith("s") and not words.endswith("ss") else words
    return Limit(stem, f"{stem!r} not in title")


def _common_words(titles: Sequence[str]) -> str:
    """The longest beginning, in whole words, that the first title shares with another one; "" for none."""
    first = titles[0].casefold().split()
    for size in range(len(first), 0, -1):
        if any(title.casefold().split()[:size] == first[:size] for title in titles[1:]):
            return " ".join(first[:size])
    return ""


def _middle(prices: Sequence[float]) -> float:
    return sorted(prices)[len(prices) // 2]
