"""Settings of the listwise ranker."""

from dataclasses import dataclass, fields

from genrec.errors import InputError, check_count


@dataclass(frozen=True)
class ListwiseSettings:
    """How a model that writes text ranks a list.

    Attributes:
        candidates: number of items that the retriever proposes.
        window: number of items in one prompt.
        window_step: how far the window moves; so many items of each window enter the next at least.
        min_history: least number of history items for which the model is used; requests with words are always ranked.
        max_history: greatest number of history items in the prompt; the newest are shown.
        history_step: number of items that leave the prompt together, see `genrec.prompting.renderer.window_start`.

    Raises:
        InputError: a value is no whole number above 0, or the window moves further than it is long.
    """

    candidates: int = 50
    window: int = 50
    window_step: int = 25
    min_history: int = 1
    max_history: int = 12
    history_step: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(field.name, getattr(self, field.name))
        check_count("window", self.window, 2)
        if self.window_step >= self.window:
            raise InputError(
                f"window_step is {self.window_step}, and window is {self.window}; give a smaller window_step, so that "
                "windows overlap"
            )
