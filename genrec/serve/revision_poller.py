"""Revisions of other servers on the same store, applied in a thread of their own, so that no request waits for them."""

import logging
import threading

from genrec.serve.state import ServingState

_POLL_INTERVAL = 1.0  # seconds between two checks
_LOGGER = logging.getLogger(__name__)


class RevisionPoller:
    """Polls the store of a `ServingState` once a second, until it is closed.

    Args:
        state: the state to which revisions are applied.
    """

    def __init__(self, state: ServingState) -> None:
        self._state = state
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="revisions", daemon=True).start()

    def close(self) -> None:
        """Stop polling; a poll in progress is not awaited."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_POLL_INTERVAL):
            try:
                self._state.poll()
            except Exception:  # the thread must outlive any error
                _LOGGER.exception("revisions of other servers cannot be applied; retrying in %g s", _POLL_INTERVAL)
