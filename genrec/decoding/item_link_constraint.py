"""Text in which every item link is real: form "text" of `genrec.decoding.constraints.CatalogGrammar` as a text constraint.

Letters: V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar, ConstraintState, advance
from genrec.errors import EngineError, InputError
from genrec.types import BoolArray, ItemId


@dataclass(frozen=True, eq=False)
class ItemLinkConstraint:
    """What stands in brackets is an allowed item's title, written as the index writes it.

    Attributes:
        grammar: the catalog's.
        allowed: rows that may be mentioned; at least one.
        unique: no item is mentioned twice.
        max_links: how many mentions there may be; None for any number.
        catalog_name: what a shelf calls the catalog, for an engine with genrec's plugin; see `genrec.vllm_plugin.registry`.
        item_ids: the allowed items, for the same.
    """

    grammar: CatalogGrammar
    allowed: Subset
    unique: bool = False
    max_links: int | None = None
    catalog_name: str | None = None
    item_ids: Sequence[ItemId] = ()

    @property
    def engine_args(self) -> Mapping[str, Any]:
        """The keys of genrec's plugin.

        Raises:
            EngineError: no shelf was named, or the plugin knows no such limit.
        """
        if self.unique or self.max_links is not None:
            raise EngineError("an engine's plugin counts no mentions; leave out once and most, or write locally")
        if self.catalog_name is None or not self.item_ids:
            raise EngineError("mentions need a catalog that the engine serves; name it, and the items that it allows")
        return {"genrec_catalog": self.catalog_name, "genrec_form": "text", "genrec_allow": list(self.item_ids)}

    def start(self) -> "ItemLinkState":
        """The state before the first token.

        Raises:
            InputError: nothing is allowed, or the identifiers do not fit mentions; see `CatalogGrammar.start`.
        """
        return ItemLinkState(self, self.grammar.start("text", allowed=self.allowed))


class ItemLinkState:
    """Where one text stands; it moves.

    Attributes:
        state: the same as the automaton has it; `state.rows` are the rows mentioned so far.
    """

    def __init__(self, constraint: ItemLinkConstraint, state: ConstraintState) -> None:
        self.state = state
        self._constraint = constraint
        marks = constraint.grammar.delimiters
        self._free_text, self._opens_link = marks.free_text, marks.opens_link

    @property
    def may_open_link(self) -> bool:
        """Whether another mention may begin."""
        most, written = self._constraint.max_links, self.state.written_rows
        if most is not None and len(written) >= most:
            return False
        return not self._constraint.unique or len(set(written)) < len(self._constraint.allowed)

    def forced_tokens(self) -> Sequence[int]:
        """A title's tokens, up to where titles part."""
        found: list[int] = []
        state = self.state
        while state.phase == "name" and len(state.next_tokens) == 1:
            found.append(int(state.next_tokens[0]))
            state = self._exclude_written(advance([state], found[-1:])[0])
        return found

    def allowed_mask(self) -> BoolArray:
        """What may follow: bool [V]."""
        if self.state.in_free_text:
            return self._free_text if self.may_open_link else self._free_text & ~self._opens_link
        held = np.zeros(len(self._free_text), dtype=np.bool_)
        held[self.state.next_tokens] = True
        return held

    def advance(self, token_id: int) -> None:
        """Go on behind one more token.

        Raises:
            InputError: it may not follow here.
        """
        begins = self.state.in_free_text and 0 <= token_id < len(self._opens_link) and bool(self._opens_link[token_id])
        after = self._exclude_written(advance([self.state], [token_id])[0])
        if after.is_dead or (begins and not self.may_open_link):
            raise InputError(f"token {token_id} may not follow here; write only what is allowed")
        self.state = after

    def _exclude_written(self, state: ConstraintState) -> ConstraintState:
        """A state that allows no row again that was written, where none may come twice."""
        if not (self._constraint.unique and state.written_rows and state.phase == "free"):
            return state
        left = self._constraint.allowed.without(list(state.written_rows))
        if len(left) == len(state.allowed) or not len(left):
            return state
        return replace(self._constraint.grammar.start("text", allowed=left), written_rows=state.written_rows)
