"""Texts of one batch that fail one by one, so that a failure does not cost the others."""

from typing import Protocol, runtime_checkable

from genrec.backends.base import Completion, GenerationRequests, TextBackend
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError


@runtime_checkable
class IndependentTextBackend(Protocol):
    """A text backend whose requests fail one by one."""

    def generate_each(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None
    ) -> list[Completion | EngineError]:
        """A text after each prompt, or why it failed."""
        ...


def generate_each(
    backend: TextBackend, requests: GenerationRequests, *, deadline: Deadline | None = None
) -> list[Completion | EngineError]:
    """Generate a text after each prompt, with the error of each request that failed in place of its completion.

    If a batch fails on a backend that computes it as one, it is halved until the failing requests are isolated; after
    the deadline, no half is tried again.

    Args:
        backend: the model.
        requests: one for each text.
        deadline: for all texts together.
    """
    if isinstance(backend, IndependentTextBackend):
        return backend.generate_each(requests, deadline=deadline)
    try:
        return [*backend.generate(requests, deadline=deadline)]
    except DeadlineExceededError as error:
        return [error] * len(requests)
    except EngineError as error:
        if len(requests) == 1:
            return [error]
        half = len(requests) // 2
        return [
            *generate_each(backend, requests[:half], deadline=deadline),
            *generate_each(backend, requests[half:], deadline=deadline),
        ]
