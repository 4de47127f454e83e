"""Feedback on items in English: whether a clause likes or dislikes the items it refers to, and whether it means all."""

import re

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
_EXCLUDE_SERIES = re.compile(r"\b(?:not|no more of|nothing from) (?:that|this|the same) (?:series|kind|brand|author)\b")
# A question about availability asks for an item that the user does not own yet.
_AVAILABILITY_QUESTION = re.compile(r"\b(?:(?:do|did|would|have) you (?:have|got|sell)|(?:why|if) not)\b")


def is_positive(clause: str) -> bool:
    """Whether a clause in lower case says that something is liked or owned."""
    return _POSITIVE.search(clause) is not None


def is_negative(clause: str) -> bool:
    """Whether a clause in lower case says that something is disliked."""
    return _NEGATIVE.search(clause) is not None


def is_judgement(clause: str) -> bool:
    """Whether a clause in lower case says that something is liked or disliked."""
    return is_positive(clause) or is_negative(clause)


def has_exception(clause: str) -> bool:
    """Whether a clause in lower case excepts items: "all but the third"."""
    return _EXCEPTION.search(clause) is not None


def strip_exception(clause: str) -> str:
    """A clause in lower case without the words that introduce an exception, which would read as a negation."""
    return _EXCEPTION.sub("", clause)


def refers_to_all_items(clause: str) -> bool:
    """Whether a clause in lower case is about the whole list: "I like them all"."""
    return _ALL_ITEMS.search(clause) is not None


def rejects_all_items(clause: str) -> bool:
    """Whether a clause in lower case rejects the whole list and says nothing else: "none of these"."""
    return _REJECT_ALL.fullmatch(clause) is not None


def rejects_series(clause: str) -> bool:
    """Whether a clause in lower case rejects items like those of the list: "not that series"."""
    return _EXCLUDE_SERIES.search(clause) is not None


def strip_availability_question(clause: str) -> str:
    """A clause in lower case without the words of a question such as "do you have"."""
    return _AVAILABILITY_QUESTION.sub("", clause)
