"""Changes of other servers on the same store, applied in threads of their own, so that no request waits for them."""

import logging
import threading
from collections.abc import Callable

from genrec.serve.state import ServingState

_POLL_INTERVAL = 1.0  # seconds between two checks
_RETRY_INTERVAL = 60.0  # seconds until learning is tried again, which takes minutes
_LOGGER = logging.getLogger(__name__)


class RevisionPoller:
    """Polls the store of a `ServingState` once a second, and learns again what it has left out, until it is closed.

    Args:
        state: the state to which changes are applied.
    """

    def __init__(self, state: ServingState) -> None:
        self._closed = threading.Event()
        for name, call, retry in (
            ("revisions", state.poll, _POLL_INTERVAL),
            ("fitting", state.fit, _RETRY_INTERVAL),
        ):
            threading.Thread(target=self._run, args=(call, retry), name=name, daemon=True).start()

    def close(self) -> None:
        """Stop both; a call in progress is not awaited."""
        self._closed.set()

    def _run(self, call: Callable[[], None], retry: float) -> None:
        interval = _POLL_INTERVAL
        while not self._closed.wait(interval):
            interval = _POLL_INTERVAL
            try:
                call()
            except Exception:  # the thread must outlive any error
                interval = retry
                _LOGGER.exception("changes of other servers, or of users, cannot be applied; retrying in %g s", retry)
