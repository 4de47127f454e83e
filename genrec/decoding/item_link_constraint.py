"""Text in which every item link is real: form "text" of `genrec.decoding.constraints.Grammar` as a text constraint.

Letters: V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genrec.data.subset import Subset
from genrec.decoding.constraints import Grammar, State, advance
from genrec.errors import EngineError, InputError
from genrec.types import BoolArray, ItemId


@dataclass(frozen=True, eq=False)
class MentionConstraint:
    """What stands in brackets is an allowed item's title, written as the index writes it.

    Attributes:
        grammar: the catalog's.
        allowed: rows that may be mentioned; at least one.
        once: no item is mentioned twice.
        most: how many mentions there may be; None for any number.
        catalog: what a shelf calls the catalog, for an engine with genrec's plugin; see `genrec.vllm_plugin.registry`.
        item_ids: the allowed items, for the same.
    """

    grammar: Grammar
    allowed: Subset
    once: bool = False
    most: int | None = None
    catalog: str | None = None
    item_ids: Sequence[ItemId] = ()

    @property
    def for_engine(self) -> Mapping[str, Any]:
        """The keys of genrec's plugin.

        Raises:
            EngineError: no shelf was named, or the plugin knows no such limit.
        """
        if self.once or self.most is not None:
            raise EngineError("an engine's plugin counts no mentions; leave out once and most, or write locally")
        if self.catalog is None or not self.item_ids:
            raise EngineError("mentions need a catalog that the engine serves; name it, and the items that it allows")
        return {"genrec_catalog": self.catalog, "genrec_form": "text", "genrec_allow": list(self.item_ids)}

    def start(self) -> "MentionState":
        """The state before the first token.

        Raises:
            InputError: nothing is allowed, or the identifiers do not fit mentions; see `Grammar.start`.
        """
        return MentionState(self, self.grammar.start("text", allowed=self.allowed))


class MentionState:
    """Where one text stands; it moves.

    Attributes:
        state: the same as the automaton has it; `state.rows` are the rows mentioned so far.
    """

    def __init__(self, constraint: MentionConstraint, state: State) -> None:
        self.state = state
        self._constraint = constraint
        marks = constraint.grammar.marks
        self._free, self._opens = marks.free, marks.opens

    @property
    def may_mention(self) -> bool:
        """Whether another mention may begin."""
        most, written = self._constraint.most, self.state.rows
        if most is not None and len(written) >= most:
            return False
        return not self._constraint.once or len(set(written)) < len(self._constraint.allowed)

    def forced(self) -> Sequence[int]:
        """A title's tokens, up to where titles part."""
        found: list[int] = []
        state = self.state
        while state.phase == "name" and len(state.tokens) == 1:
            found.append(int(state.tokens[0]))
            state = self._left(advance([state], found[-1:])[0])
        return found

    def allowed(self) -> BoolArray:
        """What may follow: bool [V]."""
        if self.state.free:
            return self._free if self.may_mention else self._free & ~self._opens
        held = np.zeros(len(self._free), dtype=np.bool_)
        held[self.state.tokens] = True
        return held

    def advance(self, token: int) -> None:
        """Go on behind one more token.

        Raises:
            InputError: it may not follow here.
        """
        begins = self.state.free and 0 <= token < len(self._opens) and bool(self._opens[token])
        after = self._left(advance([self.state], [token])[0])
        if after.dead or (begins and not self.may_mention):
            raise InputError(f"token {token} may not follow here; write only what is allowed")
        self.state = after

    def _left(self, state: State) -> State:
        """A state that allows no row again that was written, where none may come twice."""
        if not (self._constraint.once and state.rows and state.phase == "free"):
            return state
        left = self._constraint.allowed.without(list(state.rows))
        if len(left) == len(state.allowed) or not len(left):
            return state
        return replace(self._constraint.grammar.start("text", allowed=left), rows=state.rows)
