"""English words and phrases that say nothing about the item a user is looking for."""

import re

_QUERY_STOP_WORD = re.compile(
    r"all|and|another|any|are|because|but|can|could|ever|for|from|gift|give|good|got|had|has|have|her|him|his|how|into|"
    r"just|kind|likes?|look|looking|loved?|loves|made?|make|more|most|much|needs?|not|nice|one|our|out|please|set|she|"
    r"some|something|than|that|the|their|them|then|there|these|they|things?|this|those|too|very|wants?|was|were|what|"
    r"when|which|who|will|with|would|years?|you|your"
)
_CLAUSE_STOP_WORD = re.compile(
    r"\W*(?:(?:a|an|the|i|i'd|i'm|i've|we|we'd|he|she|they|it|it's|its|me|my|us|you|your|please|want|wants|would|like|likes|"
    r"love|loves|rather|prefer|have|has|got|do|does|don't|is|are|be|that|that's|this|these|those|which|who|what|any|some|"
    r"something|anything|nothing|everything|items?|things?|stuff|ones?|in|on|of|for|to|at|with|but|and|or|so|just|only|"
    r"also|really|show|see|find|give|need|looking|looks?|thanks?|ok|yes|no|not|pounds?|prices?|priced|costs?|costing|"
    r"money|budget|spend|pay|can|could|should|will|too|very|bit|more|less|than|there|here|all|then|now|maybe|kind|sort|"
    r"already|own|stop|if|possible|colou?rs?|anyone|else|another|other|others|go|going|away|from|by|about|them|him|her|"
    r"either|even|still|hate|hates|absolutely|definitely|way|far|instead|though|today)\W*)?"
)
_FILLER = re.compile(
    r"\W*(?:(?:please|thanks|thank you|a lot|so much|ok|okay|yes|yeah|no|nope|hi|hello|hey|there|h+m+|well|great|cool|"
    r"nice|good|morning|evening|day|(?:ha)+|then|i am|i'm|not sure|what else do you have|that's all|for today|for now|"
    r"you are|you're|very helpful|definitely|absolutely|more like (?:that|this|it))\W+)*"
)


def is_query_stop_word(word: str) -> bool:
    """Whether a word in lower case is too general to match a search phrase with a title."""
    return _QUERY_STOP_WORD.fullmatch(word) is not None


def has_content(clause: str) -> bool:
    """Whether a part of a clause, in lower case, has a word that may be searched for."""
    return not all(map(_CLAUSE_STOP_WORD.fullmatch, clause.split()))


def is_filler(clause: str) -> bool:
    """Whether a clause in lower case is only a courtesy, such as "ok thanks"."""
    return _FILLER.fullmatch(f"{clause} ") is not None
