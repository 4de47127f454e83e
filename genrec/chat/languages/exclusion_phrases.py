"""Exclusions in English: "no mugs or candles", "anything but red", "without glass"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from genrec.chat.languages.inflection import inflections
from genrec.chat.preferences import PreferenceFilter

# Every repetition of words is bounded or unambiguous, so that the time of a match grows linearly with the message.
_MAX_FILLERS = 8  # words between a negation and the word that it excludes
_ARTICLES = (
    r"(?:(?:a|an|any|anything|everything|the|more|of|have|with|in|that is|that's|made|from|colou?rs?|shades?(?: of)?|"
    rf"see|to|want|another|other|such|things?|stuff) ){{0,{_MAX_FILLERS}}}"
)
_EXCLUSION = re.compile(
    r"\b(?:without|(?<!have )(?<!has )(?<!got )no|nothing(?: with)?|(?:anything|everything|all|any colou?r) but|"
    rf"except(?: for)?|not(?: (?:a|so|very|really|that|too|much|big|huge)){{0,{_MAX_FILLERS}}}(?: (?:fan of|"
    r"keen on|fond of|into|fans of))?|isn't|aren't|avoid|skip|leave out|exclude|enough of|hates?|dislikes?|"
    r"(?:can't|cannot|can not) stand|(?:don't|dont|do not|doesn't|didn't) (?:want|like|need|love|fancy|show me)|"
    r"stop (?:showing|recommending|suggesting|offering)(?: me)?|already (?:have|own)(?: too many| enough)?) "
    rf"{_ARTICLES}"
    r"(?P<word>[\w'-]{3,40})"
)
# A list such as "no mugs or candles" excludes all of its words, and so does its last part in the next clause.
_EXCLUSION_LIST = re.compile(r"(?:(?:,| or| nor| and)+(?: any| no)? (?!or\b|nor\b|and\b)[\w'-]{3,40})*")
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
# "No sugar tea set" is a tea set; "no sugar please" is no sugar.
_COMPOUND_NOUN = re.compile(
    r"no [\w'-]+(?! (?:please|thanks|thank|in|on|at|of|with|or|nor|and|for|over|under|more|less|that|"
    r"which|this|these|those|it|i|you|he|"
    r"she|we|they|my|any|all|now|today|though|either|if|as|than|stuff|things?|ones?|is|are|look)\b)(?: [\w'-]+){2,}"
)
_LIST_CONJUNCTION = re.compile(r"\b(?:or|nor)\b")


@dataclass(frozen=True)
class Exclusion:
    """The words that a clause excludes, and the text of the clause without the exclusion."""

    words: Sequence[str]
    remaining_text: str


def find_exclusion(clause: str) -> Exclusion | None:
    """The first exclusion in a clause in lower case; None if it excludes nothing."""
    if _COMPOUND_NOUN.fullmatch(clause) or (found := _first_exclusion(clause)) is None:
        return None
    listed = _EXCLUSION_LIST.match(clause, found.end())
    end = found.end() if listed is None else listed.end()
    words = (found["word"], *_EXCLUSION_LIST_WORD.findall(clause[found.end() : end]))
    return Exclusion(words, f"{clause[: found.start()].strip()} {clause[end:].strip()}".strip())


def exclude_word(word: str) -> PreferenceFilter:
    """Exclude titles that contain a word in singular or plural."""
    return PreferenceFilter.from_word(*inflections(word.strip("'-") or word))


def continues_exclusion(previous: str, separator: str, clause: str) -> bool:
    """Whether a clause is the rest of a list that the previous one excludes: "no mugs, candles or clocks".

    Args:
        previous: the clause before, in lower case.
        separator: the text between the two clauses.
        clause: the clause, in lower case.
    """
    found = _first_exclusion(previous)
    if (
        found is None
        or _EXCLUSION_LIST.fullmatch(previous, found.end()) is None
        or _EXCLUSION_LIST_TAIL.fullmatch(clause) is None
    ):
        return False
    if _LIST_CONJUNCTION.search(clause):
        return True
    return separator != "," and clause.endswith("s") and " " not in clause


def _first_exclusion(clause: str) -> re.Match[str] | None:
    excluding = (found for found in _EXCLUSION.finditer(clause) if not _NOT_EXCLUDABLE.fullmatch(found["word"]))
    return next(excluding, None)
