"""Scripted shoppers: their messages, the intent behind each message, and whether it was understood."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eval.intent import Intent, Price, excluded_words, lacks_thing
from genrec import Catalog
from genrec.chat import Conversation, Label, PreferenceFilter, Preferences, PriceBound
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
_STOP_WORDS = ("and", "but", "for", "the", "with")  # are not searched for

IntentUpdate = Callable[[Intent], Intent]
UnderstandingCheck = Callable[[Preferences, Preferences], bool]


def _keep_intent(intent: Intent) -> Intent:
    return intent


def _unchanged(before: Preferences, after: Preferences) -> bool:
    return before == after


@dataclass(frozen=True)
class Utterance:
    """A message, or the removal of a preference.

    Attributes:
        text: the message.
        kind: one of `KINDS`; "" for a message without meaning.
        update_intent: the shopper's intent after the message, from the one before.
        is_understood: whether the preferences before and after the message reflect its intent.
        removed_preference: the label that the shopper removes instead of writing a message.
    """

    text: str
    kind: str = ""
    update_intent: IntentUpdate = _keep_intent
    is_understood: UnderstandingCheck = _unchanged
    removed_preference: Label | None = None


@dataclass
class Shopper:
    """A shopper who is looking for one item and never states anything that excludes it.

    Attributes:
        catalog: holds the item.
        target: the item's id.
        rng: draws the messages.
        title, price: of the item.
    """

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
        """A search phrase first, then one of the critiques that the list and the target allow."""
        if not conversation.shown:
            return self._words()
        possible = [own for kind in KINDS if (own := self._utterance_of(kind, conversation, intent)) is not None]
        weights = np.array([_KIND_WEIGHTS[own.kind] for own in possible], dtype=np.float64)
        return possible[int(self.rng.choice(len(possible), p=weights / weights.sum()))]

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
        message = self._pick(["{}", "i am looking for something with {}", "do you have {}?", "{} please"]).format(text)

        def is_understood(before: Preferences, after: Preferences) -> bool:
            grown = after.words != before.words and text in after.words[-1].casefold()
            return grown and replace(after, words=before.words) == before

        return Utterance(message, "words", is_understood=is_understood)

    def _price_limit(self, kind: str, intent: Intent) -> Utterance | None:
        if self.price is None or (intent.min_price, intent.max_price) != (None, None):
            return None
        under = kind == "under a price"
        bound = float(np.ceil(self.price + 1)) if under else float(np.floor(self.price))
        if bound <= 0:
            return None
        message = self._pick(["under {:g}", "at most {:g} please"] if under else ["over {:g}", "at least {:g}"])
        return self._price_utterance(message.format(bound), kind, "<=" if under else ">=", bound, bound)

    def _price_comparison(self, kind: str, shown: Sequence[Recommendation]) -> Utterance | None:
        """Cheaper or more expensive than the median of the list, if the target is."""
        prices = sorted(price for item in shown if (price := self._price_of(item)) is not None)
        if self.price is None or not prices:
            return None
        median, cheaper = prices[len(prices) // 2], kind == "cheaper"
        if not (self.price < median if cheaper else self.price > median):
            return None
        message = self._pick(
            ["cheaper", "something cheaper please", "that is too expensive"]
            if cheaper
            else ["more expensive", "dearer"]
        )
        low, high = (prices[0], median) if cheaper else (median, prices[-1])
        return self._price_utterance(message, kind, "<" if cheaper else ">", low, high)

    def _price_of(self, item: Recommendation) -> Price:
        price = self.catalog[self.catalog.index_of(item.item_id)].attributes.get("price")
        return float(price) if isinstance(price, int | float) else None

    @staticmethod
    def _price_utterance(text: str, kind: str, sign: str, low: float, high: float) -> Utterance:
        """A bound on the price between two amounts; the intent is the looser of them."""
        under = sign.startswith("<")

        def is_understood(before: Preferences, after: Preferences) -> bool:
            (_, others_before), (bounds, others_after) = (
                _split_filters(own, is_upper=under) for own in (before, after)
            )
            right = len(bounds) == 1 and bounds[0].operator == sign and low <= bounds[0].amount <= high
            return right and others_before == others_after and replace(after, filters=()) == replace(before, filters=())

        def bounded(intent: Intent) -> Intent:
            return replace(intent, max_price=(sign, high)) if under else replace(intent, min_price=(sign, low))

        return Utterance(text, kind, bounded, is_understood)

    def _exclude_word(self, shown: Sequence[Recommendation]) -> Utterance | None:
        own = self.title.casefold()
        words = {word.casefold() for item in shown for word in _WORD.findall(item.title) if len(word) > 3}
        # A plural is parsed as its singular, which must not be in the target's title either.
        words = {word for word in words if word not in own and word.rstrip("s") not in own}
        if not words:
            return None
        word = self._pick(sorted(words))
        message = self._pick(["no {}", "without {}", "nothing with {}", "not {} please"]).format(word)

        def is_understood(before: Preferences, after: Preferences) -> bool:
            new = [one for one in after.filters if one not in before.filters] or [
                one for one in after.filters if word in excluded_words(one.where)
            ]
            same = replace(after, filters=()) == replace(before, filters=())
            return same and len(new) == 1 and self._filter_matches_intent(new[0].where, word)

        return Utterance(
            message,
            "without a word",
            lambda intent: replace(intent, excluded_words=intent.excluded_words | {word}),
            is_understood,
        )

    def _filter_matches_intent(self, where: str, word: str) -> bool:
        """Whether a filter excludes every title that contains a word, and no title without a similar word."""
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
        message = self._pick(["not that series", "no more of that kind", "not the same series please"])

        def is_understood(before: Preferences, after: Preferences) -> bool:
            new = [one for one in after.filters if one not in before.filters]
            found = excluded_words(new[0].where) if len(new) == 1 else frozenset()
            return len(found) == 1 and all(map(begins.startswith, found))

        return Utterance(
            message,
            "not that series",
            lambda intent: replace(intent, excluded_series=intent.excluded_series | {begins}),
            is_understood,
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

        def is_understood(before: Preferences, after: Preferences) -> bool:
            return after == (before.with_liked(item_id) if kind == "like" else before.with_disliked(item_id))

        def change_intent(intent: Intent) -> Intent:
            ids = frozenset([str(item_id)])
            return replace(intent, disliked=intent.disliked - ids if kind == "like" else intent.disliked | ids)

        return Utterance(text, kind, change_intent, is_understood)

    def _undo(self, conversation: Conversation) -> Utterance | None:
        if len(conversation.turns) < 2:
            return None
        # Undo skips questions and removes the preference before them.
        wished = [turn for turn in conversation.turns if not turn.keeps_list]
        earlier = wished[-2].preferences if len(wished) > 1 else Preferences()
        return Utterance(
            self._pick(["undo", "go back", "take that back"]), "undo", is_understood=lambda _, after: after == earlier
        )

    def _remove_preference(self, preferences: Preferences) -> Utterance | None:
        """Remove a label; not that of a liked item, which does not change what is allowed."""
        labels = [label for label in preferences.labels if label[0] in ("dislikes", "looks for", "only")]
        if not labels:
            return None
        label = labels[int(self.rng.integers(len(labels)))]
        return Utterance(
            "",
            "wish removed",
            lambda intent: _without_label(intent, preferences, label),
            lambda before, after: after == before.without(label),
            label,
        )


def _without_label(intent: Intent, preferences: Preferences, label: Label) -> Intent:
    """A shopper's intent after a label was removed."""
    kind, value = label
    if kind == "dislikes":
        return replace(intent, disliked=intent.disliked - {str(value)})
    if kind != "only":
        return intent
    bound = next((own.bound for own in preferences.filters if own.where == value), None)
    if bound is not None:
        return replace(intent, max_price=None) if bound.is_upper else replace(intent, min_price=None)
    removed = excluded_words(str(value))
    return replace(
        intent, excluded_words=intent.excluded_words - removed, excluded_series=intent.excluded_series - removed
    )


def _split_filters(preferences: Preferences, *, is_upper: bool) -> tuple[list[PriceBound], set[PreferenceFilter]]:
    """The price bounds on one side, and all other filters."""
    bounds = [own.bound for own in preferences.filters if own.bound and own.bound.is_upper == is_upper]
    return bounds, {own for own in preferences.filters if own.bound not in bounds or own.bound is None}


def _common_prefix_words(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words at the start of two titles are equal."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return size
