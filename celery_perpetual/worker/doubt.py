"""A remote control command of workers: a lease was taken away, so the next executions that end ask the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.worker.control import control_command

from celery_perpetual import events
from celery_perpetual.leases.interest import wired
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

COMMAND = "perpetual_doubt"


def cast_doubt(app: Celery) -> None:
    """Let what runs ask for its lease when it ends; a worker that does not receive this asks within a heartbeat.

    The worker in which this is called, by a task, knows it at once.
    """
    perpetual = wired(app)
    if perpetual is not None and perpetual.grants.instance is not None:
        perpetual.grants.instance.doubt()
    try:
        app.control.broadcast(COMMAND)
    except Exception as error:
        emit(events.DOUBT_NOT_SENT, error=error)


@control_command(name=COMMAND)
def doubt(state: Any, **_: Any) -> dict[str, str]:
    """Let every execution that runs here ask for its lease before it ends."""
    perpetual = wired(state.app)
    if perpetual is not None and perpetual.grants.instance is not None:
        perpetual.grants.instance.doubt()
    return {"ok": "leases are in doubt"}
