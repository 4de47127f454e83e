"""Serving state: a recommender whose catalog and histories change while it serves requests.

The files have the data of the last load, and the event store has what happened since. Each request gets one
`RequestContext`: the current recommender, and the user's history limited to its catalog. A revision builds a new
recommender and then replaces the old one, on which running requests finish. So does forgetting a user: the new one is
computed from the users who remain. Several servers may share a store; `genrec.serve.revision_poller` applies what the
others have changed.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from genrec.data.catalog import Catalog
from genrec.data.ids import is_whole_float, key_of
from genrec.errors import GenrecError, InputError, UnknownUserError
from genrec.notices import Notice
from genrec.pipeline import Pipeline
from genrec.recommender import Recommender
from genrec.serve.request_context import RequestContext
from genrec.store.catalog_changes import CatalogChanges, ChangedCatalog
from genrec.store.checks import MAX_ID_LENGTH
from genrec.store.event_store import Store
from genrec.store.forgetting import purge_cache
from genrec.types import History, Item, ItemId, UserId

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Version:
    """The catalog after a revision, the number of forgotten users, and all that is derived from both."""

    changes: CatalogChanges
    set_aside: Mapping[str, InputError]
    forgotten_count: int
    pipeline: Pipeline
    recommender: Recommender

    @classmethod
    def from_changes(
        cls, changes: CatalogChanges, changed: ChangedCatalog, forgotten_count: int, pipeline: Pipeline
    ) -> "_Version":
        """The version of a changed catalog; what an earlier pipeline has computed for equal items is kept."""
        if changed.catalog is not pipeline.catalog:
            pipeline = pipeline.reindexed(changed.catalog)
        recommender = pipeline.recommender(lookup_users=False)
        return cls(changes, changed.set_aside, forgotten_count, pipeline, recommender)

    def with_pipeline(self, pipeline: Pipeline) -> "_Version":
        """This version with another pipeline over the same catalog."""
        return replace(self, pipeline=pipeline, recommender=pipeline.recommender(lookup_users=False))


class _OutdatedError(Exception):
    """A user was forgotten while something was computed from the interactions."""


class ServingState:
    """The current recommender, and the current histories of users. Thread-safe.

    Args:
        pipeline: the pipeline of the files, see `genrec.loading.open_pipeline`; revisions of the store are applied to
            it, and users whom the store has forgotten are removed from it and from its cache folder.
        store: events and revisions since the files were read; other servers may write to it, too. Items in it that do
            not fit the files are set aside and logged, see `CatalogChanges.apply`.

    Raises:
        StoreError: the store cannot be read.
        ArtifactError: a cached result of a forgotten user cannot be removed.
        InputError: its revisions leave no item.
    """

    def __init__(self, pipeline: Pipeline, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # one revision at a time; requests do not wait for it
        self._file_catalog, self._file_notices = pipeline.catalog, pipeline.loading_notices
        self._file_user_ids = None if pipeline.interactions is None else pipeline.interactions.user_ids
        self._poll_failure: str | None = None
        self._current = self._replayed(pipeline, {})
        self._purge_cache(pipeline)

    def own_user_id(self, user_id: UserId) -> UserId:
        """The id under which a user's events are stored: "7.0" is user 7 unless the file has a user "7.0"."""
        if not (isinstance(user_id, str) and is_whole_float(user_id)):
            return user_id
        user_ids = self._file_user_ids
        if user_ids is not None and (row := user_ids.position(user_id)) >= 0:
            return user_ids[row]
        return user_id.removesuffix(".0")

    @property
    def recommender(self) -> Recommender:
        """The current recommender. It does not look up user ids."""
        return self._current.recommender

    @property
    def catalog(self) -> Catalog:
        """The current catalog."""
        return self._current.pipeline.catalog

    def request_context(
        self, user_id: UserId | None = None, history: Sequence[ItemId] = (), words: str = ""
    ) -> RequestContext:
        """The recommender and the user for a request; reads the store only if there is a user id.

        The history is that of the file, unless the user was forgotten, followed by the events of the store (see
        `Store.events_of` for their limit) and the items of the request; see `RequestContext.from_events`.

        Args:
            user_id: None for an anonymous user.
            history: item ids of the request, oldest first; the recommender handles unknown ones.
            words: a description of what the user wants.

        Raises:
            StoreError: the store cannot be read.
        """
        current = self._current
        pipeline, recommender = current.pipeline, current.recommender
        if user_id is None:
            return RequestContext(recommender, History(tuple(history), words))
        user_id = self.own_user_id(user_id)
        file_history, is_known = self._file_history(pipeline, user_id)
        events = self._store.events_of(user_id)
        if not (is_known or events or history or words.strip()):
            return RequestContext(recommender, user_id)
        return RequestContext.from_events(recommender, file_history, events, History(tuple(history), words, user_id))

    def revise(self, put: Iterable[Item] | None = None, withdraw: Iterable[ItemId] = ()) -> None:
        """Add, replace and withdraw items, from the next request on. A failed revision changes nothing.

        The revision is stored before requests see it, so it survives a restart. Revisions of other servers are applied
        first.

        Args:
            put: new items, and items that replace those with their ids, including all attributes; may be a catalog.
            withdraw: ids of items to withdraw.

        Raises:
            UnknownItemError: an id to withdraw is not in the catalog, or was withdrawn already.
            InputError: an item is both put and withdrawn, the catalog would be empty, or an item does not fit the
                catalog because an attribute has another type or its id would change.
            StoreError: the store cannot be written.
            EngineError: a model failed.
        """
        withdrawn = list(withdraw)
        items = [_without_missing(item) for item in put or ()]
        with self._lock:
            self._sync()
            while items or withdrawn:
                current = self._current
                own_ids = list(dict.fromkeys(_own_id(current, item_id) for item_id in withdrawn))
                changes = current.changes.updated(items, own_ids)
                changed = changes.apply(self._file_catalog)
                _refuse_misfits(
                    changed.set_aside, allowed=current.set_aside.keys() - {key_of(i.item_id) for i in items}
                )
                revised = _Version.from_changes(changes, changed, current.forgotten_count, current.pipeline)
                if self._store.revise(items, own_ids, expected_revision=current.changes.revision) is not None:
                    self._current = revised
                    return
                self._sync()  # another server revised the catalog in the meantime

    def forget(self, user_id: UserId) -> dict[str, int]:
        """Forget a user: delete their rows in the store, and all that this server has computed from their history.

        Requests that begin after it returns use nothing of theirs. Other servers on the store follow with their next
        `poll`. Item vectors and learned weights are left out until the next `fit`.

        Returns:
            The number of deleted rows, see `Store.forget`.

        Raises:
            InputError: the id is invalid.
            StoreError: as for `Store.forget`.
            ArtifactError: a cached result of the user cannot be removed; everything else was done.
        """
        removed = Counter[str]()
        with self._lock:
            own = self.own_user_id(user_id)
            as_float = f"{own}.0"  # rows that another program has stored under this id are theirs, too
            is_theirs = len(as_float) <= MAX_ID_LENGTH and key_of(self.own_user_id(as_float)) == key_of(own)
            try:
                for spelling in (own, as_float) if is_theirs else (own,):
                    removed.update(self._store.forget(spelling))
            finally:
                self._sync()
        return dict(removed)

    def fit(self) -> None:
        """Learn again what `forget` has left out, and measure the prior of the LLM again if it was measured behind the
        history of a forgotten user. May take minutes, so no request calls it; revisions do not wait for it.

        Raises:
            EngineError: the model failed.
        """
        before = self._current.pipeline
        model = before.collaborative

        def stop_if_outdated(*_: object) -> None:
            if self._current.pipeline.interactions is not before.interactions:
                raise _OutdatedError

        try:
            if before.interactions is not None and model is not None and model.fit is not None and not model.is_fitted:
                fitted = model.fit(before.interactions)
                with self._lock:
                    stop_if_outdated()
                    current = self._current
                    self._current = current.with_pipeline(current.pipeline.with_collaborative(fitted))
            llm = self._current.pipeline.llm
            if llm is not None:
                llm.restore_priors(stop_if_outdated)
        except _OutdatedError:  # the next call begins again, without the user who was forgotten in the meantime
            with self._lock:
                self._purge_cache(before)

    def poll(self) -> None:
        """Apply what other servers have changed: the catalog, and users who were forgotten.

        May take as long as encoding new items, so no request calls it.

        If they cannot be applied, the current catalog stays, and the reason is logged when it changes.
        """
        try:
            with self._lock:
                self._sync()
            failure = None
        except GenrecError as error:
            failure = str(error)
            if failure != self._poll_failure:
                _LOGGER.warning("changes of other servers cannot be applied; retrying until they can: %s", failure)
        self._poll_failure = failure

    def _sync(self) -> None:
        """Apply what the store has and this server has not; the caller holds the lock."""
        current = self._current
        known = (current.changes.revision, current.forgotten_count)
        if (self._store.revision(), self._store.forgotten_count()) != known:
            self._current = self._replayed(current.pipeline, current.set_aside)
            self._purge_cache(current.pipeline)

    def _purge_cache(self, before: Pipeline) -> None:
        """Remove from the cache what was computed from users of `before` who are not in the current version."""
        version = self._current
        pipeline = version.pipeline
        if pipeline.cache is not None and pipeline.interactions is not before.interactions:
            keep = [] if pipeline.llm is None else list(pipeline.llm.prior_folders)
            purge_cache(pipeline.cache, self._store, version.forgotten_count, keep=keep)

    def _replayed(self, pipeline: Pipeline, known: Mapping[str, InputError]) -> _Version:
        """The file with the changes of the store, and without the users whom it has forgotten.

        Items that are set aside are logged, except the `known` ones.
        """
        forgotten_count = self._store.forgotten_count()  # before the users: one who is forgotten now is noticed later
        if pipeline.interactions is not None:
            pipeline = pipeline.without_users(self._store.forgotten_among(pipeline.interactions.user_ids))
        notices = (*self._file_notices, *self._adapter_notices(pipeline))
        if notices != pipeline.loading_notices:
            pipeline = replace(pipeline, loading_notices=notices)
        changes = self._store.changes()
        changed = changes.apply(self._file_catalog)
        for item_id, error in changed.set_aside.items():
            if item_id not in known:
                _LOGGER.warning(
                    "item %r of the store does not fit the catalog and is ignored: %s; put it again, or withdraw it",
                    item_id,
                    error.problem,
                )
        return _Version.from_changes(changes, changed, forgotten_count, pipeline)

    def _adapter_notices(self, pipeline: Pipeline) -> list[Notice]:
        """A notice if users were forgotten after the adapter was trained: it cannot forget what it has learned."""
        trained = None if pipeline.llm is None else pipeline.llm.provenance
        if trained is None:
            return []
        since = {} if trained.trained_at is None else {"since": trained.trained_at}
        count = self._store.forgotten_count(**since)
        return [Notice("adapter_forgotten_users", {"adapter": trained.base, "count": count})] if count else []

    def _file_history(self, pipeline: Pipeline, user_id: UserId) -> tuple[Sequence[ItemId], bool]:
        """A user's items in the interactions file, and whether the user is known from it and not forgotten."""
        if pipeline.interactions is None:
            return (), False
        try:
            history = pipeline.interactions.history_of(user_id).item_ids
        except UnknownUserError:
            return (), False
        return ((), False) if self._store.is_forgotten(user_id) else (history, True)


def _own_id(version: _Version, item_id: ItemId) -> ItemId:
    """The id of an item to withdraw as the catalog writes it, or that of an item that is set aside.

    Raises:
        UnknownItemError: there is no such item.
    """
    if key_of(item_id) in version.set_aside:
        return item_id
    catalog = version.pipeline.catalog
    return catalog.item_ids[catalog.index_of(item_id)]


def _refuse_misfits(set_aside: Mapping[str, InputError], *, allowed: Collection[str | None]) -> None:
    """Refuse a revision after which items are set aside, except the allowed ones, which were before."""
    for item_id, error in set_aside.items():
        if item_id not in allowed:
            raise InputError(f"item {item_id!r} would not fit the catalog: {error.problem}", remedy=error.remedy)


def _without_missing(item: Item) -> Item:
    """An item without attributes that are None."""
    return Item(item.item_id, item.title, {name: value for name, value in item.attributes.items() if value is not None})
