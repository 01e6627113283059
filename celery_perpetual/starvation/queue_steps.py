"""The steps that are taken once per queue and episode: ``notice``, ``wake`` and ``spawn``.

A step is noted, then it is done, then that it is done is noted; another pass that reads the first note only, a while
later, does the step again. So each step is done at least once, whatever process dies, and reported once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.queue_sizes import UNKNOWN
from celery_perpetual.starvation.assistance import Assistance, Request
from celery_perpetual.starvation.consumers import SATURATED
from celery_perpetual.starvation.episode import Episode
from celery_perpetual.store.commands.starvation import starving_queue
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings
    from celery_perpetual.starvation.climb import Climb
    from celery_perpetual.starvation.waits import Wait
    from celery_perpetual.store.connection import Store
    from celery_perpetual.thresholds import Thresholds

#: A step that nothing came of, or that is not known to be done, is tried again after this time.
AGAIN_MS = 60_000

STEPS = ("notice", "wake", "spawn")
#: Those for which something is to be done.
REQUESTS = ("wake", "spawn")
UNDONE = "the process that was at it has ended before it was done"


class QueueSteps:
    """Takes them. For one thread; what they ask for is done on another one."""

    def __init__(self, app: Celery, store: Store, settings: Settings) -> None:
        self._store = store
        self.assistance = Assistance(
            app, settings.starvation_spawn, settings.max_pool_grow, self._is_wanted, self._came_of
        )

    def take(
        self, oldest: Wait, text: str, climb: Climb, thresholds: Thresholds, report: Callable[[], object]
    ) -> Episode | None:
        """Take the steps of a queue that are due, on account of its oldest item.

        Args:
            oldest: the item.
            text: how far the ladder has come with its queue, as it is stored; "" for not at all.
            climb: the pass; it gets the steps that are taken.
            thresholds: of the item's task.
            report: reports the item, where its queue is saturated.

        Returns:
            How far the ladder has come, None where another pass works on that queue.
        """
        queue, cause, now = oldest.queue, climb.consumers.cause(oldest.queue), climb.now
        episode = Episode.read(text) if text else None
        is_new = episode is None or episode.cause != cause
        if episode is None or is_new:
            episode = Episode(cause, now, now, name=f"{queue} {format_time(to_datetime(now))}")
        must_note = episode.watch(now, climb.watched_since) or is_new
        requests: list[Request] = []
        try:
            for step in STEPS:
                if not self._is_due(step, oldest, episode, now, thresholds):
                    continue
                is_undone, must_note = step in episode.steps, False
                episode.steps[step] = now
                episode.again.pop(step, None)
                request = Request(
                    step=step, queue=queue, hosts=tuple(climb.consumers.hosts(queue)), cause=cause, noted=now,
                    oldest_seconds=round((now - oldest.since) / 1000, 1), episode=episode.name,
                )  # fmt: skip
                before, text = text, episode.to_json()
                if not self.note(queue, before, text, "" if is_undone else step, self._about(request, oldest)):
                    return None
                if is_undone:
                    emit(events.STARVATION_STEP_FAILED, step=step, queue=queue, reason=UNDONE)
                else:
                    self._say(request, oldest, climb)
                if step in REQUESTS:
                    requests.append(request)
        finally:
            self.assistance.ask(requests)
        if cause == SATURATED and episode.is_due("event", oldest.since, now, thresholds):
            episode.steps["event"], must_note = now, True
            report()
        if must_note and not self.note(queue, text, episode.to_json()):
            return None
        return episode

    def _is_due(self, step: str, oldest: Wait, episode: Episode, now: int, thresholds: Thresholds) -> bool:
        if step == "spawn" and not self.assistance.how(episode.cause):
            return False
        if step in REQUESTS and oldest.queue.startswith(UNKNOWN):
            return False  # there is no queue that a worker could be asked to consume
        is_undone = step in REQUESTS and episode.is_undone(step, now - AGAIN_MS)
        if is_undone and not self.assistance.has(step, oldest.queue):
            return True
        return episode.is_due(step, oldest.since, now, thresholds)

    def _about(self, request: Request, oldest: Wait) -> dict[str, Any]:
        """The fields of the event."""
        more: dict[str, dict[str, Any]] = {
            "wake": {"workers": list(request.hosts)}, "spawn": {"how": self.assistance.how(request.cause)}
        }  # fmt: skip
        return {
            "at": format_time(to_datetime(request.noted)), "queue": request.queue, "cause": request.cause,
            "task_id": oldest.task_id, "task": oldest.task, "oldest_seconds": request.oldest_seconds,
        } | more.get(request.step, {})  # fmt: skip

    def _say(self, request: Request, oldest: Wait, climb: Climb) -> None:
        queue, cause = request.queue, request.cause
        if request.step == "notice":
            emit(
                events.STARVATION_NOTICE, queue=queue, cause=cause, task_id=oldest.task_id,
                seconds=request.oldest_seconds,
            )  # fmt: skip
            climb.noticed.append(queue)
        elif request.step == "wake":
            emit(events.STARVATION_WAKE, queue=queue, workers=len(request.hosts))
            climb.woken.append(queue)
        else:
            emit(events.STARVATION_SPAWN, queue=queue, cause=cause, how=self.assistance.how(cause))
            climb.spawned.append(queue)

    def note(self, queue: str, seen: str, noted: str, step: str = "", about: dict[str, Any] | None = None) -> bool:
        """Store how far the ladder has come with a queue, and report a step; False where another pass was first."""
        return bool(
            script("note_starving")(
                self._store, queue=queue, seen=seen, noted=noted, step=step, about=json.dumps(about or {})
            )
        )

    def _is_wanted(self, request: Request) -> bool:
        """Whether a request is to be carried out here. In the thread of the request."""
        text = starving_queue(self._store, request.queue)
        return bool(text) and Episode.read(text).steps.get(request.step) == request.noted

    def _came_of(self, request: Request, trouble: str) -> None:
        """Note that a step is done, or is taken once more later as it had no effect. In the thread of the request."""
        if trouble:
            emit(events.STARVATION_STEP_FAILED, step=request.step, queue=request.queue, reason=trouble)
        for _ in range(3):
            text = starving_queue(self._store, request.queue)
            episode = Episode.read(text) if text else None
            if episode is None or episode.steps.get(request.step) != request.noted:
                return
            if trouble:
                episode.again[request.step] = episode.steps.pop(request.step) + AGAIN_MS
            else:
                episode.done[request.step] = self._store.now()
            if self.note(request.queue, text, episode.to_json()):
                return
