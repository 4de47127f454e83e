"""A generation constraint for text in which every item link is an allowed item.

Wraps form "text" of `genrec.decoding.constraints.CatalogGrammar`.
Letters: V vocabulary size.
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
    """Every text in brackets is the title of an allowed item, in the tokens of the index.

    Attributes:
        grammar: the catalog's.
        allowed: rows that may be linked; at least one.
        unique: no item is linked twice.
        max_links: the maximum number of item links; None for no limit.
        catalog_name: the catalog's name in an engine with genrec's plugin; see `genrec.vllm_plugin.registry`.
        item_ids: the ids of the allowed items, for the plugin as well.
    """

    grammar: CatalogGrammar
    allowed: Subset
    unique: bool = False
    max_links: int | None = None
    catalog_name: str | None = None
    item_ids: Sequence[ItemId] = ()

    @property
    def engine_args(self) -> Mapping[str, Any]:
        """The request keys for genrec's plugin.

        Raises:
            EngineError: `catalog_name` or `item_ids` is missing, or a limit is set that the plugin does not support.
        """
        if self.unique or self.max_links is not None:
            raise EngineError(
                "the vLLM plugin supports neither unique nor max_links; remove them, or generate with a local backend"
            )
        if self.catalog_name is None or not self.item_ids:
            raise EngineError(
                "item links in vLLM need catalog_name and item_ids; pass the name of a catalog that the engine serves "
                "and the ids of the allowed items"
            )
        return {"genrec_catalog": self.catalog_name, "genrec_form": "text", "genrec_allow": list(self.item_ids)}

    def start(self) -> "ItemLinkState":
        """The state before the first token.

        Raises:
            InputError: no row is allowed, or the closing bracket is ambiguous; see `CatalogGrammar.start`.
        """
        return ItemLinkState(self, self.grammar.start("text", allowed=self.allowed))


class ItemLinkState:
    """The state of one generation; `advance` changes it.

    Attributes:
        state: the state of the automaton; `state.written_rows` are the rows linked so far.
    """

    def __init__(self, constraint: ItemLinkConstraint, state: ConstraintState) -> None:
        self.state = state
        self._constraint = constraint
        delimiters = constraint.grammar.delimiters
        self._free_text, self._opens_link = delimiters.free_text, delimiters.opens_link

    @property
    def may_open_link(self) -> bool:
        """Whether another item link may begin."""
        max_links, written = self._constraint.max_links, self.state.written_rows
        if max_links is not None and len(written) >= max_links:
            return False
        return not self._constraint.unique or len(set(written)) < len(self._constraint.allowed)

    def forced_tokens(self) -> Sequence[int]:
        """The tokens that must follow: the rest of a title, up to where titles part."""
        forced: list[int] = []
        state = self.state
        while state.phase == "name" and len(state.next_tokens) == 1:
            forced.append(int(state.next_tokens[0]))
            state = self._exclude_written(advance([state], forced[-1:])[0])
        return forced

    def allowed_mask(self) -> BoolArray:
        """The tokens that may follow: bool [V]."""
        if self.state.in_free_text:
            return self._free_text if self.may_open_link else self._free_text & ~self._opens_link
        mask = np.zeros(len(self._free_text), dtype=np.bool_)
        mask[self.state.next_tokens] = True
        return mask

    def advance(self, token_id: int) -> None:
        """Move to the state after one more token.

        Raises:
            InputError: the token is not allowed.
        """
        opens = self.state.in_free_text and 0 <= token_id < len(self._opens_link) and bool(self._opens_link[token_id])
        after = self._exclude_written(advance([self.state], [token_id])[0])
        if after.is_dead or (opens and not self.may_open_link):
            raise InputError(f"token {token_id} is not allowed here; choose one of allowed_mask")
        self.state = after

    def _exclude_written(self, state: ConstraintState) -> ConstraintState:
        """The state without the rows linked so far, if items must be unique."""
        if not (self._constraint.unique and state.written_rows and state.phase == "free"):
            return state
        remaining = self._constraint.allowed.without(list(state.written_rows))
        if len(remaining) == len(state.allowed) or not len(remaining):
            return state
        return replace(self._constraint.grammar.start("text", allowed=remaining), written_rows=state.written_rows)
