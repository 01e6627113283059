"""Does the beat or the worker of this machine live? For probes: two short reads, and no task is imported."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from celery_perpetual.errors import ContractError
from celery_perpetual.store.commands.leadership import newest_mark
from celery_perpetual.store.commands.workers import newest_deadline

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace

BEAT, WORKER, ANY = "beat", "worker", "any"
KINDS = (BEAT, WORKER, ANY)


def is_alive(namespace: Namespace, kind: str, name: str | None = None) -> bool:
    """Whether a beat or a worker of this machine was in contact with the store lately.

    A beat counts, leading or not, that has asked for the lead or renewed it within ``perpetual_leader_ttl``; a worker
    that has reported within ``perpetual_lease_ttl``.

    Args:
        kind: ``beat``, ``worker``, or ``any`` of both.
        name: of the worker (``celery@host``); without it each one of this machine counts.

    Raises:
        ContractError: there is no such kind.
        StoreUnavailable: the store did not answer, which says nothing of the process.
    """
    if kind not in KINDS:
        raise ContractError(f"liveness: the kind must be one of {', '.join(KINDS)}, got {kind!r}")
    store, host = namespace.store, socket.gethostname()
    now = store.now()
    if kind != WORKER:
        mark = newest_mark(store, host)
        if mark is not None and now - mark < 1000 * namespace.settings.leader_ttl:
            return True
    if kind == BEAT:
        return False
    deadline = newest_deadline(store, host, name)
    return deadline is not None and deadline > now
