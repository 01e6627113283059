"""States of tasks that go on nowhere.

A task that was retried, replaced or given back has a state until its next execution. If the message of that is gone (a
queue was purged by other means, a broker has lost it), the state would stay for ever. The ledger finds items whose
message is gone and has them resent. Of any other task nothing more is known, so its state is forgotten when it is as
old as a tombstone may be.
"""

from __future__ import annotations

from celery_perpetual.ledger.ids import item_address
from celery_perpetual.store.commands.leases import WAITING, StateText, states_page
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script

#: Flags of tasks that stand on no list: the next execution changes the state, or nothing does.
UNLISTED = (*WAITING, "delegated")


class OldStates:
    """Forgets them, a page in each pass. For one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursor = 0

    def forget(self) -> int:
        """Read one page; returns how many states were forgotten.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        self._cursor, page = states_page(self._store, self._cursor)
        if not page:
            return 0
        before = self._store.now() - self._store.limits.tombstone_ttl
        return sum(self._forget(task_id, text, before) for task_id, text in page)

    def _forget(self, task_id: str, text: bytes, before: int) -> int:
        state = StateText.among_others(text)
        if state.since > before or state.flag not in UNLISTED or item_address(task_id) is not None:
            return 0
        return int(script("forget_state")(self._store, id=task_id, text=text))
