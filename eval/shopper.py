"""A scripted shopper: what they say, what they mean by it, and whether it was read so."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from genrec import Catalog
from genrec.chat.conversation import Conversation, Wishes
from genrec.types import ItemId, Recommendation

KINDS = (
    "words",
    "under a price",
    "over a price",
    "cheaper",
    "dearer",
    "without a word",
    "not that series",
    "dislike",
    "like",
    "undo",
    "wish removed",
    "question",
)
_OFTEN = dict(zip(KINDS, (6, 3, 1, 3, 1, 5, 2, 3, 3, 1, 1, 1), strict=True))
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_WORD = re.compile(r"[A-Za-z]{3,}")
_JOINS = ("and", "but", "for", "the", "with")  # that nobody asks for
_LACKING = re.compile(r"(['\"])((?:(?!\1).)*)\1 not in words\(title\)")

Price = float | None
Bound = tuple[str, float]
Shelf = dict[str, tuple[str, Price]]
"""Title and price of every item by its id as a text."""


def shelf_of(catalog: Catalog) -> Shelf:
    """Read item by item, so that a check needs nothing of how genrec filters."""
    prices = ((item, item.attributes.get("price")) for item in catalog)
    return {
        str(item.item_id): (item.title, float(price) if isinstance(price, int | float) else None)
        for item, price in prices
    }


def may_cost(price: Price, sign: str, bound: float) -> bool:
    """Whether a price is on the right side of a bound; one that is not known is on none."""
    if price is None:
        return False
    return {"<": price < bound, "<=": price <= bound, ">": price > bound, ">=": price >= bound}[sign]


def lacks(title: str, words: str) -> bool:
    """Whether a title does not hold a text as whole words, capitals or not."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", title, re.IGNORECASE) is None


def lacks_thing(title: str, word: str) -> bool:
    """Whether a title names a thing neither as one nor as many, as far as an "s" says which."""
    one = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
    return all(lacks(title, form) for form in {word, one, one + "s"})


def ruled_out(where: str) -> frozenset[str]:
    """The words that a limit allows no title to hold, in small letters; none for a limit of another kind."""
    return frozenset(found[1].casefold() for found in _LACKING.findall(where))


@dataclass(frozen=True)
class Meant:
    """What a shopper wants, as they themselves know it.

    Attributes:
        disliked: item ids, as text.
        low, high: bounds of the price, each with its sign; of two on one side the later one holds.
        lacking: what no title may hold.
        series: what no title may begin with.
    """

    disliked: frozenset[str] = frozenset()
    low: Bound | None = None
    high: Bound | None = None
    lacking: frozenset[str] = frozenset()
    series: frozenset[str] = frozenset()

    def allows(self, name: str, title: str, price: Price) -> bool:
        """Whether an item may be shown to them."""
        return (
            name not in self.disliked
            and all(may_cost(price, *bound) for bound in (self.low, self.high) if bound is not None)
            and all(lacks_thing(title, word) for word in self.lacking)
            and not any(title.casefold().startswith(words) for words in self.series)
        )


Change = Callable[[Meant], Meant]
Expects = Callable[[Wishes, Wishes], bool]


def _nothing(meant: Meant) -> Meant:
    return meant


def _unchanged(before: Wishes, after: Wishes) -> bool:
    return before == after


@dataclass(frozen=True)
class Said:
    """One utterance.

    Attributes:
        text: what is said.
        kind: of `KINDS`; "" for what means nothing.
        after: what the shopper wants behind it.
        expects: whether wishes before and after it are as it was meant.
        drop: the wish that is taken back by hand instead.
    """

    text: str
    kind: str = ""
    after: Change = _nothing
    expects: Expects = _unchanged
    drop: tuple[str, ItemId] | None = None


@dataclass
class Shopper:
    """Somebody who looks for one item, and says nothing that would rule it out."""

    catalog: Catalog
    target: ItemId
    random: np.random.Generator
    title: str = field(init=False)
    price: Price = field(init=False)

    def __post_init__(self) -> None:
        item = self.catalog[self.catalog.index_of(self.target)]
        price = item.attributes.get("price")
        self.title, self.price = item.title, float(price) if isinstance(price, int | float) else None

    def speak(self, conversation: Conversation, meant: Meant) -> Said:
        """First what they look for, then one of the critiques that the list and what they look for allow."""
        if not conversation.shown:
            return self._words()
        possible = [said for kind in KINDS if (said := self._say(kind, conversation, meant)) is not None]
        often = np.array([_OFTEN[said.kind] for said in possible], dtype=np.float64)
        return possible[int(self.random.choice(len(possible), p=often / often.sum()))]

    def _say(self, kind: str, conversation: Conversation, meant: Meant) -> Said | None:
        shown = conversation.shown
        if kind == "words":
            return self._words()
        if kind in ("under a price", "over a price"):
            return self._bounded(kind, meant)
        if kind in ("cheaper", "dearer"):
            return self._compared(kind, shown)
        if kind == "without a word":
            return self._without(shown)
        if kind == "not that series":
            return self._series(shown)
        if kind in ("dislike", "like"):
            return self._liked(kind, shown)
        if kind == "undo":
            return self._undo(conversation)
        if kind == "wish removed":
            return self._removed(conversation.wishes)
        number = int(self.random.integers(len(shown)))
        return Said(f"why the {_ORDINALS[number]}?", kind)

    def _pick(self, texts: Sequence[str]) -> str:
        return texts[int(self.random.integers(len(texts)))]

    def _words(self) -> Said:
        words = [word for word in _WORD.findall(self.title) if word.casefold() not in _JOINS] or [self.title]
        size = min(len(words), int(self.random.integers(1, 3)))
        places = sorted(self.random.choice(len(words), size, replace=False))
        text = " ".join(words[place] for place in places).lower()
        said = self._pick(["{}", "i am looking for something with {}", "do you have {}?", "{} please"]).format(text)

        def read(before: Wishes, after: Wishes) -> bool:
            grown = after.words != before.words and text in after.words[-1].casefold()
            return grown and replace(after, words=before.words) == before

        return Said(said, "words", expects=read)

    def _bounded(self, kind: str, meant: Meant) -> Said | None:
        if self.price is None or (meant.low, meant.high) != (None, None):
            return None
        under = kind == "under a price"
        bound = float(np.ceil(self.price + 1)) if under else float(np.floor(self.price))
        if bound <= 0:
            return None
        said = self._pick(["under {:g}", "at most {:g} please"] if under else ["over {:g}", "at least {:g}"])
        return self._priced(said.format(bound), kind, "<=" if under else ">=", bound, bound)

    def _compared(self, kind: str, shown: Sequence[Recommendation]) -> Said | None:
        """Cheaper, or dearer, than the middle of what is shown; by what is shown alone, than all but one of it."""
        prices = sorted(price for item in shown if (price := self._price_of(item)) is not None)
        if self.price is None or not prices:
            return None
        middle, cheaper = prices[len(prices) // 2], kind == "cheaper"
        if not (self.price < middle if cheaper else self.price > middle):
            return None
        said = self._pick(
            ["cheaper", "something cheaper please", "that is too expensive"]
            if cheaper
            else ["more expensive", "dearer"]
        )
        low, high = (prices[0], middle) if cheaper else (middle, prices[-1])
        return self._priced(said, kind, "<" if cheaper else ">", low, high)

    def _price_of(self, item: Recommendation) -> Price:
        price = self.catalog[self.catalog.index_of(item.item_id)].attributes.get("price")
        return float(price) if isinstance(price, int | float) else None

    @staticmethod
    def _priced(text: str, kind: str, sign: str, low: float, high: float) -> Said:
        """A limit of the price that lies between two bounds; what is meant is the looser of them."""
        under = sign.startswith("<")

        def read(before: Wishes, after: Wishes) -> bool:
            found = [own for own in after.limits if own.where.startswith(f"price {sign[0]}")]
            others = [{own for own in wishes.limits if own not in found} for wishes in (before, after)]
            _, found_sign, amount = found[0].where.split() if len(found) == 1 else ("", "", "nan")
            right = found_sign == sign and low <= float(amount) <= high
            kept = {own for own in others[0] if not own.where.startswith(f"price {sign[0]}")} == others[1]
            return right and kept and replace(after, limits=()) == replace(before, limits=())

        def bounded(meant: Meant) -> Meant:
            return replace(meant, high=(sign, high)) if under else replace(meant, low=(sign, low))

        return Said(text, kind, bounded, read)

    def _without(self, shown: Sequence[Recommendation]) -> Said | None:
        own = self.title.casefold()
        words = {word.casefold() for item in shown for word in _WORD.findall(item.title) if len(word) > 3}
        # A plural is read as its singular, which must not be what they look for either.
        words = {word for word in words if word not in own and word.rstrip("s") not in own}
        if not words:
            return None
        word = self._pick(sorted(words))
        said = self._pick(["no {}", "without {}", "nothing with {}", "not {} please"]).format(word)

        def read(before: Wishes, after: Wishes) -> bool:
            new = [one for one in after.limits if one not in before.limits] or [
                one for one in after.limits if word in ruled_out(one.where)
            ]
            same = replace(after, limits=()) == replace(before, limits=())
            return same and len(new) == 1 and self._means(new[0].where, word)

        return Said(said, "without a word", lambda meant: replace(meant, lacking=meant.lacking | {word}), read)

    def _means(self, where: str, word: str) -> bool:
        """Whether a limit allows no title that names a thing, and every title that holds no word like it."""
        kept = self.catalog.where(where)
        stem = word[: max(3, len(word) - 3)]
        return all(
            lacks_thing(title, word)
            if allowed
            else any(other.startswith(stem) for other in re.findall(r"\w+", title.casefold()))
            for title, allowed in zip(self.catalog.titles, kept, strict=True)
        )

    def _series(self, shown: Sequence[Recommendation]) -> Said | None:
        first, own = shown[0].title.casefold().split(), self.title.casefold()
        size = max((_alike(first, item.title.casefold().split()) for item in shown[1:]), default=0)
        begins = " ".join(first[:size])
        if not size or begins in own:
            return None
        said = self._pick(["not that series", "no more of that kind", "not the same series please"])

        def read(before: Wishes, after: Wishes) -> bool:
            new = [one for one in after.limits if one not in before.limits]
            found = ruled_out(new[0].where) if len(new) == 1 else frozenset()
            return len(found) == 1 and all(map(begins.startswith, found))

        return Said(said, "not that series", lambda meant: replace(meant, series=meant.series | {begins}), read)

    def _liked(self, kind: str, shown: Sequence[Recommendation]) -> Said | None:
        mine = set(_WORD.findall(self.title.casefold()))
        shared = [len(mine & set(_WORD.findall(item.title.casefold()))) for item in shown]
        places = [
            place
            for place, item in enumerate(shown)
            if item.item_id != self.target and (shared[place] == max(shared) > 0) == (kind == "like")
        ]
        if not places:
            return None
        place = places[int(self.random.integers(len(places)))]
        item_id, number, ordinal = shown[place].item_id, place + 1, _ORDINALS[place]
        if kind == "like":
            text = self._pick([f"more like the {ordinal}", f"i like number {number}", f"more like {number}"])
        else:
            text = self._pick([f"not number {number}", f"i don't like the {ordinal}", f"no, i hate the {ordinal}"])

        def read(before: Wishes, after: Wishes) -> bool:
            return after == (before.like(item_id) if kind == "like" else before.dislike(item_id))

        def after(meant: Meant) -> Meant:
            name = frozenset([str(item_id)])
            return replace(meant, disliked=meant.disliked - name if kind == "like" else meant.disliked | name)

        return Said(text, kind, after, read)

    def _undo(self, conversation: Conversation) -> Said | None:
        if len(conversation.turns) < 2:
            return None
        # A question is nothing to take back: the wish before it is.
        wished = [turn for turn in conversation.turns if not turn.question]
        earlier = wished[-2].wishes if len(wished) > 1 else Wishes()
        return Said(
            self._pick(["undo", "go back", "take that back"]), "undo", expects=lambda _, after: after == earlier
        )

    def _removed(self, wishes: Wishes) -> Said | None:
        """By hand, as a chip is; not what they like, which says nothing of what may be shown."""
        chips = [chip for chip in wishes.chips if chip[0] in ("dislikes", "looks for", "only")]
        if not chips:
            return None
        kind, value = chips[int(self.random.integers(len(chips)))]

        def after(meant: Meant) -> Meant:
            if kind == "dislikes":
                return replace(meant, disliked=meant.disliked - {str(value)})
            if kind == "only" and str(value).startswith("price "):
                return replace(meant, high=None) if str(value).startswith("price <") else replace(meant, low=None)
            if kind == "only" and (gone := ruled_out(str(value))):
                return replace(
                    meant,
                    lacking=frozenset(word for word in meant.lacking if word not in gone),
                    series=frozenset(words for words in meant.series if words not in gone),
                )
            return meant

        expects: Expects = lambda before, now: now == before.without((kind, value))  # noqa: E731
        return Said("", "wish removed", after, expects, (kind, value))


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two titles begin with alike."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return size
