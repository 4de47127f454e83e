"""A conversation about what to recommend: a value, and one step that makes the next of it from what somebody says.

Each step reads wishes from the words, keeps those of before, and asks the recommender under them: what is liked stands
in the history, what is ruled out is a filter inside the search, what is looked for stands in the prompt. Wishes are
shown, and whoever they are can take each back.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from genrec.catalog import Catalog
from genrec.errors import InputError
from genrec.recommender import Recommender
from genrec.types import History, ItemId, Recommendation, RecommendationList, UserId

_REMEMBERED = 3  # of what was looked for, the newest
_LONGEST = 1000  # characters of what somebody says that are read


@dataclass(frozen=True)
class Limit:
    """What may be recommended: a filter of `Catalog.where`, and what it is about; about each thing there is one."""

    about: str
    where: str


@dataclass(frozen=True)
class Wishes:
    """What somebody wants, as read from all that they said.

    Attributes:
        liked, disliked: item ids, oldest first; an item is in one of them at most.
        words: what they look for, in their words, oldest first.
        limits: what may be recommended.
    """

    liked: tuple[ItemId, ...] = ()
    disliked: tuple[ItemId, ...] = ()
    words: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()

    def like(self, item_id: ItemId) -> "Wishes":
        """With an item liked."""
        return replace(self, liked=_with(self.liked, item_id), disliked=_without(self.disliked, item_id))

    def dislike(self, item_id: ItemId) -> "Wishes":
        """With an item disliked; it is not recommended any more."""
        return replace(self, liked=_without(self.liked, item_id), disliked=_with(self.disliked, item_id))

    def look_for(self, words: str) -> "Wishes":
        """With something looked for; of the oldest no more is known after a few."""
        return replace(self, words=(*self.words, words)[-_REMEMBERED:])

    def limit(self, limit: Limit) -> "Wishes":
        """With a limit; one that is about the same gives way."""
        return replace(self, limits=(*(own for own in self.limits if own.about != limit.about), limit))

    @property
    def chips(self) -> tuple[tuple[str, ItemId], ...]:
        """Every wish as what it is and what it says; `without` takes one back."""
        kinds: tuple[tuple[str, Iterable[ItemId]], ...] = (
            ("likes", self.liked),
            ("dislikes", self.disliked),
            ("looks for", self.words),
            ("only", (own.where for own in self.limits)),
        )
        return tuple((kind, value) for kind, values in kinds for value in values)

    def without(self, chip: tuple[str, ItemId]) -> "Wishes":
        """With one wish taken back.

        Raises:
            InputError: there is no such wish.
        """
        if chip not in self.chips:
            raise InputError(f"there is no wish {chip!r:.80}; there are {self.chips!r:.200}")
        kind, value = chip
        if kind == "only":
            return replace(self, limits=tuple(own for own in self.limits if own.where != value))
        if kind == "looks for":
            return replace(self, words=tuple(own for own in self.words if own != value))
        return replace(self, liked=_without(self.liked, value), disliked=_without(self.disliked, value))


@dataclass(frozen=True)
class Turn:
    """One step.

    Attributes:
        said: by the person.
        wishes: after it.
        answer: what was recommended under them.
        reply: the same in words, for the person.
    """

    said: str
    wishes: Wishes
    answer: RecommendationList
    reply: str


@dataclass(frozen=True)
class Conversation:
    """What was said so far.

    Attributes:
        user_id: the caller's id; None for somebody unknown.
        history: item ids of before the conversation, oldest first.
        turns: oldest first.
    """

    user_id: UserId | None = None
    history: tuple[ItemId, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def wishes(self) -> Wishes:
        """As they are now."""
        return self.turns[-1].wishes if self.turns else Wishes()

    @property
    def shown(self) -> tuple[Recommendation, ...]:
        """What was recommended last, best first."""
        return self.turns[-1].answer.items if self.turns else ()

    def undo(self) -> "Conversation":
        """As it was before the last turn; the first one stays undone."""
        return replace(self, turns=self.turns[:-1])


Read = Callable[[str, Conversation], Wishes]
"""Reads the wishes that there are once somebody said something."""


class Advisor:
    """Goes on with conversations.

    Args:
        recommender: ranks.
        k: how many items are recommended in a turn.
        read: what reads wishes from words; by default `CritiqueReader`.
    """

    def __init__(self, recommender: Recommender, *, k: int = 5, read: Read | None = None) -> None:
        self._recommender, self._k = recommender, k
        self._read = read or CritiqueReader(recommender.catalog)

    def answer(self, conversation: Conversation, said: str) -> Conversation:
        """The conversation after somebody said something, and was answered.

        What was recommended before stands behind what was not, and only where too little else is allowed.

        Raises:
            InputError: nothing was said.
        """
        said = said.strip()[:_LONGEST]
        if not said:
            raise InputError("nothing was said; say what you look for")
        return self._go_on(conversation, said, self._read(said, conversation))

    def change(self, conversation: Conversation, wishes: Wishes) -> Conversation:
        """The conversation after wishes were corrected by hand."""
        return self._go_on(conversation, "", wishes)

    def why(self, conversation: Conversation, item_id: ItemId) -> Recommendation:
        """An item that was recommended, with what in the history drove it.

        Raises:
            InputError: it may not be recommended under the wishes as they are.
        """
        found: RecommendationList = self._recommender.recommend(
            self._person(conversation, conversation.wishes), 1, only=[item_id], explain=True
        )
        if not found.items:
            raise InputError(f"item {item_id!r} is in the history, and not recommended; ask about another one")
        return found.items[0]

    def name_of(self, kind: str, value: ItemId) -> str:
        """What a wish is called when it is shown, see `Wishes.chips`: an item by its title."""
        catalog = self._recommender.catalog
        return catalog[catalog.index_of(value)].title if kind in ("likes", "dislikes") else str(value)

    def _person(self, conversation: Conversation, wishes: Wishes) -> History:
        return History((*conversation.history, *wishes.liked), "; ".join(wishes.words), conversation.user_id)

    def _go_on(self, conversation: Conversation, said: str, wishes: Wishes) -> Conversation:
        person = self._person(conversation, wishes)
        where = " and ".join(f"({own.where})" for own in wishes.limits) or None
        before = [item.item_id for turn in conversation.turns for item in turn.answer.items]
        answer = self._ask(person, self._k, [*wishes.disliked, *before], where)
        if before and (missing := self._k - len(answer.items)):
            found = [item.item_id for item in answer.items]
            again = self._ask(person, missing, [*wishes.disliked, *found], where)
            items = (replace(item, rank=rank) for rank, item in enumerate((*answer.items, *again.items), start=1))
            answer = replace(again, items=tuple(items), proven=False)
        turn = Turn(said, wishes, answer, compose(answer))
        return replace(conversation, turns=(*conversation.turns, turn))

    def _ask(self, person: History, k: int, exclude: Sequence[ItemId], where: str | None) -> RecommendationList:
        found: RecommendationList = self._recommender.recommend(person, k, exclude=exclude, where=where)
        return found


def compose(answer: RecommendationList) -> str:
    """A plain reply: the titles, each with its rank."""
    if not answer.items:
        return "Nothing is left that fits all of this; take one of your wishes back."
    return "How about: " + ", ".join(f"{item.rank}. {item.title}" for item in answer.items)


_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}
_PLACE = re.compile(r"\b(?:number|no\.?|#)\s*(\d+)\b|\b(\d+)(?:st|nd|rd|th)\b|\b(" + "|".join(_ORDINALS) + r")\b")
_AGAINST = re.compile(r"\b(?:not|no|don't|dont|do not|never|hate|hates|dislike|dislikes|less like|nothing like)\b")
_FOR = re.compile(r"\b(?:like|likes|love|loves|liked|loved|enjoy|enjoyed|more like|similar to)\b")
_AMOUNT = r"(?:[^\w\s]\s*)?(\d+(?:[.,]\d+)?)"
_UNDER = re.compile(rf"\b(?:under|below|less than|at most|up to|max(?:imum)?|cheaper than)\s+{_AMOUNT}")
_OVER = re.compile(rf"\b(?:over|above|more than|at least)\s+{_AMOUNT}")
_CHEAPER = re.compile(r"\b(?:cheaper|less expensive|too expensive)\b")
_DEARER = re.compile(r"\b(?:more expensive|dearer|too cheap)\b")
_WITHOUT = re.compile(r"\b(?:without|no|nothing with|anything but|not)\s+(?:a |an |any |the |more )?([\w'-]{3,40})")
_SERIES = re.compile(r"\b(?:not|no more of|nothing from)\s+(?:that|this|the same)\s+(?:series|kind|brand|author)\b")
_SPLIT = re.compile(r"(?:[;!?\n]|[.,](?!\d))+|\bbut\b|\band\b")
_FILLER = re.compile(r"(?:please|thanks|thank you|ok|okay|yes|hi|hello|hm+|well)?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class CritiqueReader:
    """Reads wishes by the words that they are usually said with, in English; knows no language model.

    What it knows: items that are named by their title or by their place in the last list ("more like the second", "not
    number 3"), prices ("cheaper", "under 5"), words that no title may hold ("no candles"), and "not that series", which
    is what the titles of the list begin with alike. All else is what somebody looks for.

    Attributes:
        catalog: names the items.
        price: the column of prices; without it prices are words like others.
    """

    catalog: Catalog
    price: str = "price"

    @cached_property
    def _titles(self) -> dict[str, ItemId]:
        """Items by the words of their titles; of those that are called alike the first one."""
        found: dict[str, ItemId] = {}
        for item_id, title in zip(self.catalog.item_ids, self.catalog.titles, strict=True):
            found.setdefault(_plain(title), item_id)
        return found

    @cached_property
    def _has_price(self) -> bool:
        try:
            self.catalog.column(self.price)
        except InputError:
            return False
        return True

    def __call__(self, said: str, conversation: Conversation) -> Wishes:
        """The wishes after something was said."""
        wishes, rest = conversation.wishes, []
        for clause in map(str.strip, _SPLIT.split(said)):
            if _FILLER.fullmatch(clause):
                continue
            read = self._read_clause(clause, wishes, conversation.shown)
            rest += [clause] if read == wishes else []
            wishes = read
        return wishes.look_for(", ".join(rest)) if rest else wishes

    def _read_clause(self, clause: str, wishes: Wishes, shown: Sequence[Recommendation]) -> Wishes:
        lower = clause.casefold()
        if shown and _SERIES.search(lower):
            begins = _common_words([item.title for item in shown])
            return wishes.limit(_lacking(begins)) if begins else wishes.dislike(shown[0].item_id)
        limit = self._limit_of(lower, shown)
        if limit is not None:
            return wishes.limit(limit)
        named = self._named(lower, shown)
        if named:
            change = Wishes.dislike if _AGAINST.search(lower) else Wishes.like
            for item_id in named:
                wishes = change(wishes, item_id)
            return wishes
        if (found := _WITHOUT.search(lower)) and not _FOR.search(lower):
            return wishes.limit(_lacking(found[1]))
        return wishes

    def _limit_of(self, said: str, shown: Sequence[Recommendation]) -> Limit | None:
        """A limit of the price that a clause names."""
        if not self._has_price:
            return None
        for pattern, sign in ((_UNDER, "<="), (_OVER, ">=")):
            if found := pattern.search(said):
                amount = float(found[1].replace(",", "."))
                return Limit("price", f"{self.price} {sign} {amount}")
        prices = [price for item in shown if (price := self._price_of(item.item_id)) is not None]
        if prices and _CHEAPER.search(said):
            return Limit("price", f"{self.price} < {_middle(prices)}")
        if prices and _DEARER.search(said):
            return Limit("price", f"{self.price} > {_middle(prices)}")
        return None

    def _named(self, said: str, shown: Sequence[Recommendation]) -> list[ItemId]:
        """The items that a clause names: by their place among those shown, or by their whole title."""
        found: list[ItemId] = []
        for match in _PLACE.finditer(said):
            number = next((int(digits) - 1 for digits in match.groups()[:2] if digits), None)
            place = _ORDINALS[match[3]] if number is None else number
            if shown and -1 <= place < len(shown):
                found.append(shown[place].item_id)
        words = _plain(said).split()
        for size in range(len(words), 0, -1):
            for start in range(len(words) - size + 1):
                title = " ".join(words[start : start + size])
                if title in self._titles and (size > 1 or len(title) > 3):
                    return [*found, self._titles[title]]
        return found

    def _price_of(self, item_id: ItemId) -> float | None:
        price = self.catalog[self.catalog.index_of(item_id)].attributes.get(self.price)
        return float(price) if isinstance(price, int | float) else None


def _lacking(words: str) -> Limit:
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


def _plain(text: str) -> str:
    """A text's words alone, for looking up."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _with(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return (*_without(values, value), value)


def _without(values: tuple[ItemId, ...], value: ItemId) -> tuple[ItemId, ...]:
    return tuple(own for own in values if own != value)
