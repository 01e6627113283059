"""The starvation ladder: what follows when items wait and no worker starts them.

``notice``, ``wake`` and ``spawn`` are taken once per queue and episode, on account of its oldest item; ``event`` and
``park`` once per item, where the queue has no consumer. Where its consumers have enough to do, only the oldest item is
reported, and nothing is parked.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.queue_sizes import queues_with_known_bindings
from celery_perpetual.ledger.ids import item_index, item_slots
from celery_perpetual.starvation.climb import Climb
from celery_perpetual.starvation.consumers import NO_CONSUMER, Consumers
from celery_perpetual.starvation.episode import UNWATCHED_MS, Episode
from celery_perpetual.starvation.own import thresholds_of
from celery_perpetual.starvation.queue_steps import QueueSteps
from celery_perpetual.starvation.series import Series
from celery_perpetual.starvation.waits import Wait, Waits
from celery_perpetual.store.commands.starvation import note_watching, starving_queues, watching
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, ms, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.thresholds import Thresholds

#: Items that one pass reports and parks, about, and of how many it is remembered that they are reported.
MOST_ITEMS, MOST_REMEMBERED = 200, 10_000

#: A pass that is to see all reads no further part after so many seconds.
LONGEST_ROUND = 10.0


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
        self._steps = QueueSteps(self._app, self._store, settings)
        self._episodes: dict[str, Episode] = {}
        """Of the queues of which this round has found the oldest item."""
        self._left_out: set[str] = set()
        """Queues that another pass works on, or of which the cause is not known yet."""
        self._longest_gap = max(UNWATCHED_MS, 2 * ms(settings.cycle_interval))
        self._reported: dict[str, int] = {}
        """Task id -> since when it was runnable, of items that are reported."""

    def once(self, *, whole: bool = False) -> Climb:
        """One pass.

        Args:
            whole: it reads all open batches, or what it can within ten seconds. One that does not goes on where the
                last one of this process has ended.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        climb, patience, begun = Climb(), self._patience(), time.monotonic()
        if patience is not None:
            try:
                self._watch(climb)
                while not self._go_on(climb, patience) and whole and time.monotonic() - begun < LONGEST_ROUND:
                    pass
            except BaseException:  # of the store: what was not read must not count as not there
                self._waits.begin_anew()
                self._episodes, self._left_out = {}, set()
                raise
        return climb

    def finish(self, seconds: float) -> None:
        """Wait until what was asked for is done, at most for so long: the process may end then."""
        self._steps.assistance.finish(seconds)

    def _watch(self, climb: Climb) -> None:
        """Note that a pass watches, for the next one of whatever process."""
        now = self._store.now()
        before = Series.read(watching(self._store))
        series = Series(now, now) if before is None else before.then(now, self._longest_gap)
        note_watching(self._store, series.to_json())
        climb.watched_since = series.since

    def _go_on(self, climb: Climb, patience: int) -> bool:
        """Read one part, and return whether the round ends with it."""
        now = climb.now = self._store.now()
        stored, part = starving_queues(self._store), self._waits.next_part(now, patience)
        if part.batches:
            climb.consumers = Consumers(self._workers.all(), queues_with_known_bindings(self._app))

        wants = partial(self._wants, climb, patience)
        for wait in self._waits.of(part, now, wants):
            thresholds = self._of(wait.polled_by)
            if thresholds.first is None or now - wait.since < ms(thresholds.first):
                continue
            if wait.is_retry:  # its ETA is not known
                continue
            if wait.queue not in self._episodes:
                self._climb(wait, stored.get(wait.queue, ""), climb)
            episode = self._episodes.get(wait.queue)
            if episode is not None and episode.cause == NO_CONSUMER:
                self._step_item(wait, episode, climb)
        self._steps.assistance.ask([])
        climb.starving |= {queue: episode.cause for queue, episode in self._episodes.items()}
        if part.is_last:
            for queue in stored.keys() - self._episodes.keys() - self._left_out:
                self._steps.note(queue, stored[queue], "")
            self._episodes, self._left_out = {}, set()
        return part.is_last

    def _wants(self, climb: Climb, patience: int, queue: str, age: int) -> bool:
        """Whether items of a queue that have been runnable for so long (ms) are of interest still."""
        if not queue or age < patience:
            return False
        episode = self._episodes.get(queue)
        if episode is None:
            if not climb.consumers.cause(queue):
                self._left_out.add(queue)
            return queue not in self._left_out
        return episode.cause == NO_CONSUMER and climb.items < MOST_ITEMS

    def _patience(self) -> int | None:
        """Milliseconds after which the first step of any task comes; None where the ladder is off for all."""
        own = {self._of(name).first for name in self._app.tasks} | {self._thresholds.first}
        return min((ms(first) for first in own if first is not None), default=None)

    def _of(self, task: str) -> Thresholds:
        """The thresholds that hold for the items of a perpetual task."""
        return thresholds_of(self._app, task, self._thresholds)

    def _climb(self, oldest: Wait, text: str, climb: Climb) -> None:
        thresholds = self._of(oldest.polled_by)
        report = partial(self._report, oldest, climb.consumers.cause(oldest.queue), climb)
        episode = self._steps.take(oldest, text, climb, thresholds, report)
        if episode is None:
            self._left_out.add(oldest.queue)
        else:
            self._episodes[oldest.queue] = episode

    def _step_item(self, wait: Wait, episode: Episode, climb: Climb) -> None:
        """Report an item whose queue has no consumer, and park it; the run of a routine waits on."""
        thresholds = self._of(wait.polled_by)
        is_reported = self._reported.get(wait.task_id) == wait.since
        if not is_reported and episode.is_time("event", wait.since, climb.now, thresholds):
            self._report(wait, episode.cause, climb)
        is_for_parking = wait.polled_by and not climb.consumers.may_have(wait.queue)
        if is_for_parking and episode.is_time("park", wait.since, climb.now, thresholds):
            self._park(wait, episode.cause, climb)

    def _report(self, wait: Wait, cause: str, climb: Climb) -> None:
        if len(self._reported) >= MOST_REMEMBERED:
            self._reported.clear()
        self._reported[wait.task_id] = wait.since
        slots = item_slots(self._store.keys, wait.task_id)
        batch, about = self._store.keys.poll(str(slots.pop("poll"))), _about(wait, cause, climb.now)
        if script("note_starved")(
            self._store, **slots, batch=batch, id=wait.task_id, index=item_index(wait.task_id), seen=wait.seen,
            since=wait.since, about=json.dumps(about),
        ):  # fmt: skip
            emit(events.STARVATION_STARVED, task_id=wait.task_id, queue=wait.queue, seconds=about["seconds"])
            climb.starved.append(wait.task_id)

    def _park(self, wait: Wait, cause: str, climb: Climb) -> None:
        slots = item_slots(self._store.keys, wait.task_id)
        del slots["poll"]
        about = _about(wait, cause, climb.now)
        reason = f"no worker has consumed its queue {wait.queue} for {about['seconds']:g} s"
        if script("park_item")(
            self._store, **slots, id=wait.task_id, task=wait.task, seen=wait.seen, reason=reason,
            starved=json.dumps(about | {"reason": reason}),
        ):  # fmt: skip
            emit(events.STARVATION_PARKED, task_id=wait.task_id, queue=wait.queue, seconds=about["seconds"])
            climb.parked.append(wait.task_id)


def _about(wait: Wait, cause: str, now: int) -> dict[str, Any]:
    """The fields of the event of an item."""
    return {
        "at": format_time(to_datetime(now)), "task_id": wait.task_id, "task": wait.task, "queue": wait.queue,
        "cause": cause, "seconds": round((now - wait.since) / 1000, 1),
    }  # fmt: skip
