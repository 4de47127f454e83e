"""The user of a command that serves one: the option --user, or --history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.data.interactions import Interactions
    from genrec.types import ItemId

User = Annotated[str | None, typer.Option("--user", metavar="USER", help="Id of a known user, whose history is used.")]


def check_user(user: str | None, history: Sequence[str] | None) -> None:
    """Check that no known user is given together with a history.

    Raises:
        InputError: both are given.
    """
    if user is not None and history:
        raise InputError(f"--user {user} and --history cannot be combined, because the user has a history; omit one")


def history_of(
    user: str | None, history: Sequence[str] | None, interactions: "Interactions | None"
) -> "tuple[ItemId, ...]":
    """The ids of the items in the history of a known user, or of the given one, oldest first.

    Raises:
        InputError: a user is given, and there are no interactions.
        UnknownUserError: the user has no interactions.
    """
    if user is None:
        return tuple(history or ())
    if interactions is None:
        raise InputError(f"--user {user} needs interactions, which contain the history; add --interactions FILE")
    return interactions.history_of(user).item_ids
