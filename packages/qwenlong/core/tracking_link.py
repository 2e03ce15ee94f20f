"""The way to an MLflow store that may be down for a while."""

from __future__ import annotations

import time
from pathlib import Path

from qwenlong.core.config import Config
from qwenlong.core.errors import QwenlongError
from qwenlong.core.logs import get, redact_text
from qwenlong.core.tracking_spool import folders, upload
from qwenlong.core.tracking_store import Down, Store, is_outage, is_remote, store_uri

_LOG = get(__name__)
#: Seconds until a server that was down is asked again: at first, and at most.
PAUSE, LONGEST_PAUSE = 30.0, 600.0


class Link:
    """The way to a store that may be down: asked again after a pause, which grows while it stays down."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.results = Path(config.run.results)
        self.uri = store_uri(config)
        self._store: Store | None = None
        self._next, self._pause = 0.0, PAUSE
        self._known = False

    def store(self, *, now: bool = False) -> Store | None:
        """Return the store, none while it is down. `now`: ask again before the pause is over.

        Raises QwenlongError when the address cannot be right, or when `tracking.on_outage` is "fail".
        """
        if self._store is None and (now or time.monotonic() >= self._next):
            try:
                self._store = Store(self.config)
                self._pause, self._known = PAUSE, True
            except QwenlongError as error:
                # An address that was right is not wrong now, whatever answers there while a server restarts.
                if not (isinstance(error, Down) or self._known):
                    raise
                self.lost(error)
        return self._store

    def lost(self, error: BaseException) -> None:
        """Take note that the store does not answer. Raises what it must not survive."""
        said = redact_text(str(error))[:300]
        if self.config.tracking.on_outage == "fail" or not is_remote(self.uri):
            raise QwenlongError(
                f"MLflow at {redact_text(self.uri)} does not answer ({said}); start it, mend tracking.uri, or set "
                "tracking.on_outage to spool"
            ) from error
        # On stderr even without logging set up; once a pause, not once a metric.
        _LOG.warning(
            "MLflow at %s does not answer (%s); what is logged is kept in %s and uploaded later",
            redact_text(self.uri),
            said,
            self.results / "state" / "tracking",
        )
        self._store = None
        self._next = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def catch_up(self) -> Store | None:
        """Return the store with what earlier processes could not log uploaded and dead runs marked; none while down."""
        store = self.store()
        if store is None:
            return None
        try:
            if folders(self.results):
                done = upload(self.results, store)
                if done.runs:
                    _LOG.info("MLflow answers again: %d runs, %d entries uploaded", len(done.runs), done.entries)
            for run_id in store.bury_dead():
                _LOG.warning("MLflow run %s belonged to a process that is dead: marked FAILED", run_id)
        except Exception as error:
            if not (is_remote(self.uri) and is_outage(error)):
                raise
            self.lost(error)
        return self._store
