"""A scripted shopper: what they say, what they mean by it, and whether it was read so."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from genrec import Catalog
from genrec.chat.conversation import Conversation
from genrec.chat.preferences import Preferences
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
_KIND_WEIGHTS = dict(zip(KINDS, (6, 3, 1, 3, 1, 5, 2, 3, 3, 1, 1, 1), strict=True))
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_WORD = re.compile(r"[A-Za-z]{3,}")
_STOP_WORDS = ("and", "but", "for", "the", "with")  # that nobody asks for
_EXCLUSION_FILTER = re.compile(r"(['\"])((?:(?!\1).)*)\1 not in words\(title\)")

Price = float | None
PriceBound = tuple[str, float]
ItemFacts = dict[str, tuple[str, Price]]
"""Title and price of every item by its id as a text."""


def item_facts_of(catalog: Catalog) -> ItemFacts:
    """Read item by item, so that a check needs nothing of how genrec filters."""
    prices = ((item, item.attributes.get("price")) for item in catalog)
    return {
        str(item.item_id): (item.title, float(price) if isinstance(price, int | float) else None)
        for item, price in prices
    }


def satisfies_price_bound(price: Price, sign: str, bound: float) -> bool:
    """Whether a price is on the right side of a bound; one that is not known is on none."""
    if price is None:
        return False
    return {"<": price < bound, "<=": price <= bound, ">": price > bound, ">=": price >= bound}[sign]


def lacks_text(title: str, words: str) -> bool:
    """Whether a title does not hold a text as whole words, capitals or not."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", title, re.IGNORECASE) is None


def lacks_thing(title: str, word: str) -> bool:
    """Whether a title names a thing neither as one nor as many, as far as an "s" says which."""
    one = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
    return all(lacks_text(title, form) for form in {word, one, one + "s"})


def excluded_words(where: str) -> frozenset[str]:
    """The words that a limit allows no title to hold, in small letters; none for a limit of another kind."""
    return frozenset(found[1].casefold() for found in _EXCLUSION_FILTER.findall(where))


@dataclass(frozen=True)
class Intent:
    """What a shopper wants, as they themselves know it.

    Attributes:
        disliked: item ids, as text.
        min_price, max_price: bounds of the price, each with its sign; of two on one side the later one holds.
        excluded_words: what no title may hold.
        excluded_series: what no title may begin with.
    """

    disliked: frozenset[str] = frozenset()
    min_price: PriceBound | None = None
    max_price: PriceBound | None = None
    excluded_words: frozenset[str] = frozenset()
    excluded_series: frozenset[str] = frozenset()

    def allows(self, name: str, title: str, price: Price) -> bool:
        """Whether an item may be shown to them."""
        return (
            name not in self.disliked
            and all(
                satisfies_price_bound(price, *bound) for bound in (self.min_price, self.max_price) if bound is not None
            )
            and all(lacks_thing(title, word) for word in self.excluded_words)
            and not any(title.casefold().startswith(words) for words in self.excluded_series)
        )


IntentUpdate = Callable[[Intent], Intent]
UnderstandingCheck = Callable[[Preferences, Preferences], bool]


def _keep_intent(intent: Intent) -> Intent:
    return intent


def _unchanged(before: Preferences, after: Preferences) -> bool:
    return before == after


@dataclass(frozen=True)
class Utterance:
    """One utterance.

    Attributes:
        text: what is said.
        kind: of `PREFERENCE_KINDS`; "" for what means nothing.
        update_intent: what the shopper wants behind it.
        is_understood: whether wishes before and after it are as it was meant.
        removed_preference: the wish that is taken back by hand instead.
    """

    text: str
    kind: str = ""
    update_intent: IntentUpdate = _keep_intent
    is_understood: UnderstandingCheck = _unchanged
    removed_preference: tuple[str, ItemId] | None = None


@dataclass
class Shopper:
    """Somebody who looks for one item, and says nothing that would rule it out."""

    catalog: Catalog
    target: ItemId
    rng: np.random.Generator
    title: str = field(init=False)
    price: Price = field(init=False)

    def __post_init__(self) -> None:
        item = self.catalog[self.catalog.index_of(self.target)]
        price = item.attributes.get("price")
        self.title, self.price = item.title, float(price) if isinstance(price, int | float) else None

    def next_utterance(self, conversation: Conversation, intent: Intent) -> Utterance:
        """First what they look for, then one of the critiques that the list and what they look for allow."""
        if not conversation.shown:
            return self._words()
        possible = [said for kind in KINDS if (said := self._utterance_of(kind, conversation, intent)) is not None]
        often = np.array([_KIND_WEIGHTS[said.kind] for said in possible], dtype=np.float64)
        return possible[int(self.rng.choice(len(possible), p=often / often.sum()))]

    def _utterance_of(self, kind: str, conversation: Conversation, intent: Intent) -> Utterance | None:
        shown = conversation.shown
        if kind == "words":
            return self._words()
        if kind in ("under a price", "over a price"):
            return self._price_limit(kind, intent)
        if kind in ("cheaper", "dearer"):
            return self._price_comparison(kind, shown)
        if kind == "without a word":
            return self._exclude_word(shown)
        if kind == "not that series":
            return self._exclude_series(shown)
        if kind in ("dislike", "like"):
            return self._feedback(kind, shown)
        if kind == "undo":
            return self._undo(conversation)
        if kind == "wish removed":
            return self._remove_preference(conversation.preferences)
        number = int(self.rng.integers(len(shown)))
        return Utterance(f"why the {_ORDINALS[number]}?", kind)

    def _pick(self, texts: Sequence[str]) -> str:
        return texts[int(self.rng.integers(len(texts)))]

    def _words(self) -> Utterance:
        words = [word for word in _WORD.findall(self.title) if word.casefold() not in _STOP_WORDS] or [self.title]
        size = min(len(words), int(self.rng.integers(1, 3)))
        places = sorted(self.rng.choice(len(words), size, replace=False))
        text = " ".join(words[place] for place in places).lower()
        said = self._pick(["{}", "i am looking for something with {}", "do you have {}?", "{} please"]).format(text)

        def read(before: Preferences, after: Preferences) -> bool:
            grown = after.words != before.words and text in after.words[-1].casefold()
            return grown and replace(after, words=before.words) == before

        return Utterance(said, "words", is_understood=read)

    def _price_limit(self, kind: str, intent: Intent) -> Utterance | None:
        if self.price is None or (intent.min_price, intent.max_price) != (None, None):
            return None
        under = kind == "under a price"
        bound = float(np.ceil(self.price + 1)) if under else float(np.floor(self.price))
        if bound <= 0:
            return None
        said = self._pick(["under {:g}", "at most {:g} please"] if under else ["over {:g}", "at least {:g}"])
        return self._price_utterance(said.format(bound), kind, "<=" if under else ">=", bound, bound)

    def _price_comparison(self, kind: str, shown: Sequence[Recommendation]) -> Utterance | None:
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
        return self._price_utterance(said, kind, "<" if cheaper else ">", low, high)

    def _price_of(self, item: Recommendation) -> Price:
        price = self.catalog[self.catalog.index_of(item.item_id)].attributes.get("price")
        return float(price) if isinstance(price, int | float) else None

    @staticmethod
    def _price_utterance(text: str, kind: str, sign: str, low: float, high: float) -> Utterance:
        """A limit of the price that lies between two bounds; what is meant is the looser of them."""
        under = sign.startswith("<")

        def read(before: Preferences, after: Preferences) -> bool:
            found = [own for own in after.filters if own.where.startswith(f"price {sign[0]}")]
            others = [{own for own in wishes.filters if own not in found} for wishes in (before, after)]
            _, found_sign, amount = found[0].where.split() if len(found) == 1 else ("", "", "nan")
            right = found_sign == sign and low <= float(amount) <= high
            kept = {own for own in others[0] if not own.where.startswith(f"price {sign[0]}")} == others[1]
            return right and kept and replace(after, filters=()) == replace(before, filters=())

        def bounded(meant: Intent) -> Intent:
            return replace(meant, max_price=(sign, high)) if under else replace(meant, min_price=(sign, low))

        return Utterance(text, kind, bounded, read)

    def _exclude_word(self, shown: Sequence[Recommendation]) -> Utterance | None:
        own = self.title.casefold()
        words = {word.casefold() for item in shown for word in _WORD.findall(item.title) if len(word) > 3}
        # A plural is read as its singular, which must not be what they look for either.
        words = {word for word in words if word not in own and word.rstrip("s") not in own}
        if not words:
            return None
        word = self._pick(sorted(words))
        said = self._pick(["no {}", "without {}", "nothing with {}", "not {} please"]).format(word)

        def read(before: Preferences, after: Preferences) -> bool:
            new = [one for one in after.filters if one not in before.filters] or [
                one for one in after.filters if word in excluded_words(one.where)
            ]
            same = replace(after, filters=()) == replace(before, filters=())
            return same and len(new) == 1 and self._filter_matches_intent(new[0].where, word)

        return Utterance(
            said, "without a word", lambda meant: replace(meant, excluded_words=meant.excluded_words | {word}), read
        )

    def _filter_matches_intent(self, where: str, word: str) -> bool:
        """Whether a limit allows no title that names a thing, and every title that holds no word like it."""
        kept = self.catalog.where(where)
        stem = word[: max(3, len(word) - 3)]
        return all(
            lacks_thing(title, word)
            if allowed
            else any(other.startswith(stem) for other in re.findall(r"\w+", title.casefold()))
            for title, allowed in zip(self.catalog.titles, kept, strict=True)
        )

    def _exclude_series(self, shown: Sequence[Recommendation]) -> Utterance | None:
        first, own = shown[0].title.casefold().split(), self.title.casefold()
        size = max((_common_prefix_words(first, item.title.casefold().split()) for item in shown[1:]), default=0)
        begins = " ".join(first[:size])
        if not size or begins in own:
            return None
        said = self._pick(["not that series", "no more of that kind", "not the same series please"])

        def read(before: Preferences, after: Preferences) -> bool:
            new = [one for one in after.filters if one not in before.filters]
            found = excluded_words(new[0].where) if len(new) == 1 else frozenset()
            return len(found) == 1 and all(map(begins.startswith, found))

        return Utterance(
            said,
            "not that series",
            lambda meant: replace(meant, excluded_series=meant.excluded_series | {begins}),
            read,
        )

    def _feedback(self, kind: str, shown: Sequence[Recommendation]) -> Utterance | None:
        mine = set(_WORD.findall(self.title.casefold()))
        shared = [len(mine & set(_WORD.findall(item.title.casefold()))) for item in shown]
        places = [
            place
            for place, item in enumerate(shown)
            if item.item_id != self.target and (shared[place] == max(shared) > 0) == (kind == "like")
        ]
        if not places:
            return None
        place = places[int(self.rng.integers(len(places)))]
        item_id, number, ordinal = shown[place].item_id, place + 1, _ORDINALS[place]
        if kind == "like":
            text = self._pick([f"more like the {ordinal}", f"i like number {number}", f"more like {number}"])
        else:
            text = self._pick([f"not number {number}", f"i don't like the {ordinal}", f"no, i hate the {ordinal}"])

        def read(before: Preferences, after: Preferences) -> bool:
            return after == (before.with_liked(item_id) if kind == "like" else before.with_disliked(item_id))

        def after(meant: Intent) -> Intent:
            name = frozenset([str(item_id)])
            return replace(meant, disliked=meant.disliked - name if kind == "like" else meant.disliked | name)

        return Utterance(text, kind, after, read)

    def _undo(self, conversation: Conversation) -> Utterance | None:
        if len(conversation.turns) < 2:
            return None
        # A question is nothing to take back: the wish before it is.
        wished = [turn for turn in conversation.turns if not turn.keeps_list]
        earlier = wished[-2].preferences if len(wished) > 1 else Preferences()
        return Utterance(
            self._pick(["undo", "go back", "take that back"]), "undo", is_understood=lambda _, after: after == earlier
        )

    def _remove_preference(self, preferences: Preferences) -> Utterance | None:
        """By hand, as a chip is; not what they like, which says nothing of what may be shown."""
        chips = [chip for chip in preferences.labels if chip[0] in ("dislikes", "looks for", "only")]
        if not chips:
            return None
        kind, value = chips[int(self.rng.integers(len(chips)))]

        def after(meant: Intent) -> Intent:
            if kind == "dislikes":
                return replace(meant, disliked=meant.disliked - {str(value)})
            if kind == "only" and str(value).startswith("price "):
                return (
                    replace(meant, max_price=None)
                    if str(value).startswith("price <")
                    else replace(meant, min_price=None)
                )
            if kind == "only" and (gone := excluded_words(str(value))):
                return replace(
                    meant,
                    excluded_words=frozenset(word for word in meant.excluded_words if word not in gone),
                    excluded_series=frozenset(words for words in meant.excluded_series if words not in gone),
                )
            return meant

        expects: UnderstandingCheck = lambda before, now: now == before.without((kind, value))  # noqa: E731
        return Utterance("", "wish removed", after, expects, (kind, value))


def _common_prefix_words(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two titles begin with alike."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return size
