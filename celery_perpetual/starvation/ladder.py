"""The starvation ladder: what follows when items wait and no worker starts them.

``notice``, ``wake`` and ``spawn`` are taken once per queue and episode, on account of its oldest item; ``event`` and
``park`` once per item, where the queue has no consumer. Where its consumers have enough to do, only the oldest item is
reported, and nothing is parked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.ledger.ids import item_index, item_slots
from celery_perpetual.starvation.assistance import Assistance, Request
from celery_perpetual.starvation.consumers import NO_CONSUMER, SATURATED, Consumers
from celery_perpetual.starvation.episode import UNWATCHED_MS, Episode
from celery_perpetual.starvation.waits import Wait, Waits
from celery_perpetual.store.commands.starvation import starving_queue, starving_queues
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, ms, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.thresholds import Thresholds

#: Items that one pass reports and parks, about, and of how many it is remembered that they are reported.
MOST_ITEMS, MOST_REMEMBERED = 200, 10_000

#: A step that nothing came of is tried again after this time.
AGAIN_MS = 60_000

QUEUE_STEPS = ("notice", "wake", "spawn")


@dataclass(slots=True)
class Climbed:
    """The result of one pass."""

    starving: dict[str, str] = field(default_factory=dict)
    """Queues in which the oldest item waits for longer than the first step allows, and why."""
    noticed: list[str] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    spawned: list[str] = field(default_factory=list)
    """Queues for which each step was taken."""
    starved: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    """Ids of items."""

    @property
    def items(self) -> int:
        """How many items were reported and parked."""
        return len(self.starved) + len(self.parked)


class Ladder:
    """Goes one part further in each pass. For one thread."""

    def __init__(self, namespace: Namespace) -> None:
        """Read the settings; nothing is done yet."""
        settings = namespace.settings
        self._app = namespace.app
        self._store = namespace.store
        self._workers = namespace.grants.workers
        self._thresholds = settings.starvation
        self._waits = Waits(self._app, self._store)
        self._consumers = Consumers()
        self._assistance = Assistance(
            self._app, settings.starvation_spawn, settings.max_pool_grow, self._came_to_nothing
        )
        self._episodes: dict[str, Episode] = {}
        """Of the queues of which this round has found the oldest item."""
        self._left_out: set[str] = set()
        """Queues that another pass works on, or of which the cause is not known yet."""
        self._longest_gap = max(UNWATCHED_MS, 2 * ms(settings.cycle_interval))
        self._last_pass: int | None = None
        self._since = 0
        """When the series of passes without a longer gap began: ms of the store's time."""
        self._reported: dict[str, int] = {}
        """Task id -> since when it was runnable, of items that are reported."""

    def once(self) -> Climbed:
        """One pass.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        climbed, patience = Climbed(), self._patience()
        if patience is not None:
            try:
                self._go_on(climbed, patience)
            except BaseException:  # of the store: what was not read must not count as not there
                self._waits.begin_anew()
                self._episodes, self._left_out = {}, set()
                raise
        return climbed

    def _go_on(self, climbed: Climbed, patience: int) -> None:
        now = self._store.now()
        if self._last_pass is None or now - self._last_pass > self._longest_gap:
            self._since = now
        self._last_pass = now
        stored, part = starving_queues(self._store), self._waits.next_part(now, patience)
        if part.batches:
            self._consumers.read(self._workers.all())

        wants = partial(self._wants, climbed, patience)
        for wait in self._waits.of(part, now, wants):
            thresholds = self._of(wait.polled_by)
            if thresholds.first is None or now - wait.since < ms(thresholds.first):
                continue
            if wait.is_retry:  # its ETA is not known
                continue
            if wait.queue not in self._episodes:
                self._climb(wait, stored.get(wait.queue, ""), now, climbed)
            episode = self._episodes.get(wait.queue)
            if episode is not None and episode.cause == NO_CONSUMER:
                self._step_item(wait, episode, now, climbed)
        self._assistance.ask([])
        climbed.starving = {queue: episode.cause for queue, episode in self._episodes.items()}
        if part.is_last:
            for queue in stored.keys() - self._episodes.keys() - self._left_out:
                self._note(queue, stored[queue], "", "", {})
            self._episodes, self._left_out = {}, set()

    def _wants(self, climbed: Climbed, patience: int, queue: str, age: int) -> bool:
        """Whether items of a queue that have been runnable for so long (ms) are of interest still."""
        if not queue or age < patience:
            return False
        episode = self._episodes.get(queue)
        if episode is None:
            if not self._consumers.cause(queue):
                self._left_out.add(queue)
            return queue not in self._left_out
        return episode.cause == NO_CONSUMER and climbed.items < MOST_ITEMS

    def _patience(self) -> int | None:
        """Milliseconds after which the first step of any task comes; None where the ladder is off for all."""
        own = {self._of(name).first for name in self._app.tasks} | {self._thresholds.first}
        return min((ms(first) for first in own if first is not None), default=None)

    def _of(self, task: str) -> Thresholds:
        """The thresholds that hold for the items of a perpetual task."""
        options = getattr(self._app.tasks.get(task), "perpetual_options", None)
        given = options.starvation if isinstance(options, PerpetualOptions) else None
        return self._thresholds if given is None else self._thresholds.replaced(task, given, ValueError)

    def _climb(self, oldest: Wait, text: str, now: int, climbed: Climbed) -> None:
        """Take the steps of a queue that are due, on account of its oldest item."""
        queue, cause = oldest.queue, self._consumers.cause(oldest.queue)
        episode = Episode.read(text) if text else None
        is_new = episode is None or episode.cause != cause
        if episode is None or is_new:
            episode = Episode(cause, now, now)
        must_note = episode.watch(now, self._since) or is_new
        thresholds, requests = self._of(oldest.polled_by), list[Request]()
        seconds, hosts = round((now - oldest.since) / 1000, 1), self._consumers.hosts(queue)
        about = {
            "at": format_time(to_datetime(now)), "queue": queue, "cause": cause, "task_id": oldest.task_id,
            "task": oldest.task, "oldest_seconds": seconds,
        }  # fmt: skip
        for step in QUEUE_STEPS:
            how = self._assistance.how(cause)
            if not episode.is_due(step, oldest.since, now, thresholds) or (step == "spawn" and not how):
                continue
            episode.steps[step], must_note = now, False
            episode.again.pop(step, None)
            more: dict[str, dict[str, Any]] = {"wake": {"workers": hosts}, "spawn": {"how": how}}
            before, text = text, episode.to_json()
            if not self._note(queue, before, text, step, about | more.get(step, {})):
                self._left_out.add(queue)
                return
            if step == "notice":
                emit(events.STARVATION_NOTICE, queue=queue, cause=cause, task_id=oldest.task_id, seconds=seconds)
                climbed.noticed.append(queue)
                continue
            if step == "wake":
                emit(events.STARVATION_WAKE, queue=queue, workers=len(hosts))
                climbed.woken.append(queue)
            else:
                emit(events.STARVATION_SPAWN, queue=queue, cause=cause, how=how)
                climbed.spawned.append(queue)
            requests.append(Request(step=step, queue=queue, hosts=tuple(hosts), oldest_seconds=seconds, cause=cause))
        if cause == SATURATED and episode.is_due("event", oldest.since, now, thresholds):
            episode.steps["event"], must_note = now, True
            self._report(oldest, cause, now, climbed)
        if must_note and not self._note(queue, text, episode.to_json(), "", {}):
            self._left_out.add(queue)
            return
        self._episodes[queue] = episode
        self._assistance.ask(requests)

    def _note(self, queue: str, seen: str, noted: str, step: str, about: dict[str, Any]) -> bool:
        return bool(
            script("note_starving")(
                self._store, queue=queue, seen=seen, noted=noted, step=step, about=json.dumps(about)
            )
        )

    def _came_to_nothing(self, request: Request, trouble: str) -> None:
        """A step had no effect: it is taken once more later. In the thread of the request."""
        text = starving_queue(self._store, request.queue)
        emit(events.STARVATION_STEP_FAILED, step=request.step, queue=request.queue, reason=trouble)
        for _ in range(3):
            episode = Episode.read(text) if text else None
            if episode is None or episode.cause != request.cause or request.step not in episode.steps:
                return
            episode.again[request.step] = episode.steps.pop(request.step) + AGAIN_MS
            if self._note(request.queue, text, episode.to_json(), "", {}):
                return
            text = starving_queue(self._store, request.queue)

    def _step_item(self, wait: Wait, episode: Episode, now: int, climbed: Climbed) -> None:
        """Report an item whose queue has no consumer, and park it; the run of a routine waits on."""
        thresholds = self._of(wait.polled_by)
        is_reported = self._reported.get(wait.task_id) == wait.since
        if not is_reported and episode.is_time("event", wait.since, now, thresholds):
            self._report(wait, episode.cause, now, climbed)
        if wait.polled_by and episode.is_time("park", wait.since, now, thresholds):
            self._park(wait, episode.cause, now, climbed)

    def _report(self, wait: Wait, cause: str, now: int, climbed: Climbed) -> None:
        if len(self._reported) >= MOST_REMEMBERED:
            self._reported.clear()
        self._reported[wait.task_id] = wait.since
        slots = item_slots(self._store.keys, wait.task_id)
        batch, about = self._store.keys.poll(str(slots.pop("poll"))), _about(wait, cause, now)
        if script("note_starved")(
            self._store, **slots, batch=batch, id=wait.task_id, index=item_index(wait.task_id), seen=wait.seen,
            since=wait.since, about=json.dumps(about),
        ):  # fmt: skip
            emit(events.STARVATION_STARVED, task_id=wait.task_id, queue=wait.queue, seconds=about["seconds"])
            climbed.starved.append(wait.task_id)

    def _park(self, wait: Wait, cause: str, now: int, climbed: Climbed) -> None:
        slots = item_slots(self._store.keys, wait.task_id)
        del slots["poll"]
        about = _about(wait, cause, now)
        reason = f"no worker has consumed its queue {wait.queue} for {about['seconds']:g} s"
        if script("park_item")(
            self._store, **slots, id=wait.task_id, task=wait.task, seen=wait.seen, reason=reason,
            starved=json.dumps(about | {"reason": reason}),
        ):  # fmt: skip
            emit(events.STARVATION_PARKED, task_id=wait.task_id, queue=wait.queue, seconds=about["seconds"])
            climbed.parked.append(wait.task_id)


def _about(wait: Wait, cause: str, now: int) -> dict[str, Any]:
    """The fields of the event of an item."""
    return {
        "at": format_time(to_datetime(now)), "task_id": wait.task_id, "task": wait.task, "queue": wait.queue,
        "cause": cause, "seconds": round((now - wait.since) / 1000, 1),
    }  # fmt: skip
