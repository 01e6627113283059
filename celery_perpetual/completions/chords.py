"""Counts tasks in chords where a process may have died while it did so.

Celery's Redis backend lets the process that counts the last task of a chord claim the body for some seconds, and
publish it. If that process dies in between, others that count the same chord publish nothing until the claim has run
out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.redis import RedisBackend

from celery_perpetual import events
from celery_perpetual.completions.celery_results import bounded
from celery_perpetual.completions.owing import backend_of
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Seconds that a process waits at most for the end of a claim. Celery's own last twice ``result_chord_join_timeout``.
LONGEST_WAIT = 60.0

#: Seconds after which a claim is read again: its owner may live, and publish the body.
PAUSE = 0.5

#: Celery's note in the place of a claim: the body is published.
_DONE = b"done"


def count_in_chord(app: Celery, task: Any, request: Any) -> bool:
    """Count a task whose success is stored in the chord that it belongs to, if it belongs to one.

    Its process may have died between the two. A Redis backend knows which tasks it has counted; others count twice what
    is counted twice, so there nothing is done. Celery 5.6 does not know it either where the results of a chord have no
    order (``result_chord_ordered`` of ``result_backend_transport_options``).

    Args:
        app: of the task.
        task: that has succeeded.
        request: the task's, as Celery's own code gets it.

    Returns:
        False where all tasks are counted and a process has claimed the body, which may be the one that died.
    """
    backend = backend_of(app, task)
    if not request.chord or not isinstance(backend, RedisBackend):
        return True
    if not (hasattr(type(backend), "_chord_part_return_script") or getattr(backend, "_chord_zset", False)):
        return True
    try:
        bounded_backend = bounded(backend, 0)
        result = bounded_backend.get_result(request.id)
        bounded_backend.on_chord_part_return(request, states.SUCCESS, result)
        return not _claimed_for(bounded_backend, request)
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=request.id, error=error)
        return True


def publish_claimed_body(backend: Any, request: Any, result: Any, within: float | None) -> None:
    """Publish the body of a chord that a dead process has claimed, once the claim has run out. It waits for that.

    Args:
        backend: that has stored and counted the success.
        request: of the task, which runs once more after a loss.
        result: of the task.
        within: seconds that it may wait, None = as long as is usual.

    Raises:
        Exception: what the backend raises where it cannot be reached.
    """
    if not request.chord or not isinstance(backend, RedisBackend) or not _claimed_for(backend, request):
        return
    over = time.monotonic() + min(LONGEST_WAIT, LONGEST_WAIT if within is None else within)
    while (left := _claimed_for(backend, request)) and time.monotonic() < over:
        time.sleep(min(left, PAUSE))
    backend.on_chord_part_return(request, states.SUCCESS, result)


def _claimed_for(backend: Any, request: Any) -> float:
    """Seconds for which the body of a chord is claimed; 0 where it is not, or is published."""
    if not request.group:
        return 0.0
    key = backend.get_key_for_group(request.group, ".c")
    with backend.client.pipeline() as pipe:
        claim, left = pipe.get(key).pttl(key).execute()
    return 0.0 if claim in (None, _DONE, _DONE.decode()) else max(left, 1) / 1000
