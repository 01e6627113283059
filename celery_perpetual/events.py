"""The table of events: every thing that the package reports has a name here.

Code reports events of the log with :func:`celery_perpetual.telemetry.emit`. Lua scripts write most events of the stream
``{prefix}:events``, in the step that makes them true; each entry there has the field ``event`` (the name) and the field
``data`` (a JSON object with at least ``at``, RFC 3339 UTC, and what the event is about).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

_FIELD = re.compile(r"%\((\w+)\)")


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row of the table."""

    name: str
    level: int | None = None
    """Level of the log record; None for an event of the stream only."""
    phrase: str = ""
    """Text of the log record, with ``%(field)s`` for each field and ``%(error)s`` for an exception."""
    more: tuple[str, ...] = ()
    """Fields that the phrase does not show."""
    has_traceback: bool = False
    """Whether the log record shows the traceback of the exception."""
    in_stream: bool = False
    """Whether an entry of this name is in the stream ``{prefix}:events``."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the data in the log record, the exception left out."""
        return (*(name for name in _FIELD.findall(self.phrase) if name != "error"), *self.more)

    @property
    def has_error(self) -> bool:
        """Whether the event comes with an exception."""
        return self.has_traceback or "%(error)" in self.phrase


def _stream(name: str) -> EventKind:
    return EventKind(name, in_stream=True)


def _info(name: str, phrase: str, *more: str) -> EventKind:
    return EventKind(name, logging.INFO, phrase, more)


def _warning(name: str, phrase: str, *more: str) -> EventKind:
    return EventKind(name, logging.WARNING, phrase, more)


def _error(name: str, phrase: str, *more: str) -> EventKind:
    return EventKind(name, logging.ERROR, phrase, more, has_traceback=True)


# The stream.
COMPLETION = _stream("completion")
POLL = _stream("poll")
LEADER = _stream("leader")
LEASE_LOST = _stream("lease.lost")
LEASE_RECOVERED = _stream("lease.recovered")
LEASE_PARKED = _stream("lease.parked")
PAUSE = _stream("pause")
RESUME = _stream("resume")
KEY_PARKED = _stream("alert.key_parked")
ROUTINE_CREATED = _stream("routine.created")
ROUTINE_UPDATED = _stream("routine.updated")
ROUTINE_STARTED = _stream("routine.started")
ROUTINE_RUN = _stream("routine.run")
ROUTINE_FAILED = _stream("routine.failed")
ROUTINE_CANCELLED = _stream("routine.cancelled")
ROUTINE_DELETED = _stream("routine.deleted")
POLL_KILLED_LEADER = _stream("alert.poll_killed_leader")

# The stream and the log.
STORE_LOST = EventKind(
    "store.lost",
    logging.CRITICAL,
    "the store has lost its data, or has gone back to an older state (epoch was %(was)s, is %(epoch)s); paused units "
    "that had a cursor: %(paused)s",
    in_stream=True,
)

CLOCK_STEPPED = EventKind(
    "alert.clock_stepped",
    logging.WARNING,
    "the store's clock was ahead or has stepped back; pulled back the stored times of %(units)s units",
    in_stream=True,
)

# Every process.
STORE_UNREACHABLE = _warning("store.unreachable", "%(part)s cannot reach the store: %(error)s")
STORE_AWAITED = _warning("store.awaited", "waiting for the store, at most %(seconds)s s: %(error)s")
PART_FAILED = _error("part.failed", "unexpected error in %(part)s")
SINK_FAILED = _error("sink.failed", "the event sink %(sink)s raised an error; its further errors are not logged")

# Configuration.
CONTRACT_WARNING = _warning("contract.warning", "%(warning)s")
CONTRACT_REFUSED = EventKind(
    "contract.refused", logging.ERROR, "refused a task that was registered after the start: %(error)s"
)
BEAT_REFUSED = EventKind("beat.refused", logging.CRITICAL, "beat does not start: %(error)s")
APP_OTHER = _warning("app.other", "%(warning)s")
SCHEDULER_OTHER = _warning("scheduler.other", "%(warning)s")
SCHEDULER_WITHOUT_POLLS = _warning("scheduler.without_polls", "this beat does not poll %(tasks)s; %(advice)s")
SEAM_UNKNOWN = _warning("seam.unknown", "seam %(seam)s is not as known, so %(without)s: %(evidence)s")
VERSIONS_UNSEEN = _info("seam.versions_unseen", "this package was not tried with these versions: %(packages)s")
WIRING_MISSING = _warning("wiring.missing", "this app is not wired: %(means)s; add %(advice)s")
WIRING_WITHOUT_STORE = _info(
    "wiring.without_store", "the ends of tasks that run in this process are not announced: %(error)s"
)

QUEUE_UNKNOWN = _warning(
    "queue.unknown", "no pause of a queue stops the polls of %(task)s, as a router of the app failed: %(error)s"
)

# Leadership and beat.
LEADER_ELECTED = _info("leader.elected", "this beat leads, term %(term)s")
LEADER_STANDBY = _info("leader.standby", "another beat leads, this beat stands by")
LEADER_LOST = _warning("leader.lost", "this beat has lost the lead: %(reason)s")
LEADER_RESIGNED = _info("leader.resigned", "this beat gave up the lead: %(reason)s")
LEADER_STEPPED_DOWN = _warning("leader.stepped_down", "this beat gave up the lead for others to take: %(reason)s")
LEADER_RESIGN_FAILED = _warning(
    "leader.resign_failed", "this beat could not give up the lead, which expires by itself: %(error)s"
)
LEADER_HANDOVER_ASKED = _info(
    "leader.handover_asked", "this beat knows more units than the leader and asked it to hand over"
)
CYCLE_STEP_FAILED = _error("cycle.step_failed", "step %(step)s of the cycle failed")
BASE_TICK_FAILED = _error("base.tick_failed", "a tick of the base scheduler failed")
BASE_LOCK_HELD = _warning(
    "base.lock_held",
    "RedBeat's lock %(lock)s is held: if a RedBeat beat that is not ours still runs, it sends entries too; stop it",
)
BASE_ROW_REFUSED = _warning(
    "base.row_refused", "row %(row)s of the schedule is left out, no entry can be made: %(error)s"
)
BASE_SCHEDULE_KEPT = _warning(
    "base.schedule_kept", "cannot read the schedule from the database, it stays as it was: %(error)s"
)
TASK_ROW_REFUSED = _warning(
    "task_row.refused",
    "row %(row)s cannot say when the task is polled, which keeps the schedule of its code: %(reason)s",
)
TASK_ROWS_AWAY = _warning(
    "task_rows.away", "cannot read or write the rows of the perpetual tasks, which are polled as before: %(error)s"
)
BASE_CLOSE_FAILED = _error("base.close_failed", "the base scheduler could not be closed")

# Tenants.
TENANTS_FAILED = EventKind(
    "alert.tenants_failed",
    logging.ERROR,
    "the tenants of %(task)s could not be found; the last list, of %(kept)s tenants, is kept",
    has_traceback=True,
    in_stream=True,
)
TENANTS_SLOW = _warning(
    "tenants.slow",
    "the tenants function of %(task)s has not returned for %(seconds)s s; the last list, of %(kept)s tenants, is kept",
)
TENANTS_REFUSED = _warning(
    "tenants.refused", "left out %(count)s values that the tenants function of %(task)s has returned: %(first)s"
)
TENANTS_CHANGED = _info(
    "tenants.changed", "task %(task)s has %(count)s tenants now: %(arrived)s have come, %(departed)s have gone"
)

# Polls.
POLL_ENQUEUED = _info("poll.enqueued", "poll of %(unit)s enqueued %(count)s items", "poll_id", "slot")
POLL_TIMED_OUT = EventKind(
    "poll.timed_out", logging.ERROR, "poll of %(unit)s took longer than %(limit)s s", ("poll_id", "slot")
)
POLL_FAILED = _error("poll.failed", "poll of %(unit)s failed (%(error_class)s)", "poll_id", "slot")
POLL_SUPERSEDED = _warning(
    "poll.superseded", "the batch of %(unit)s was refused: its claim was taken over or has expired", "poll_id"
)
POLL_STALE = _info(
    "poll.stale",
    "poll %(poll_id)s of %(unit)s is not evaluated: its claim has expired or the poll has ended",
)
POLL_NOT_STORED = _error(
    "poll.not_stored",
    "could not store the outcome of the poll of %(unit)s; its claim expires, and the unit is polled again",
    "poll_id",
)
PREFLIGHT_PASSED = _info("preflight.passed", "%(check)s has passed")
PREFLIGHT_FAILED = _warning("preflight.failed", "%(check)s failed (%(error_class)s), trying again: %(error)s", "unit")
PREFLIGHT_PARKED = _error("preflight.parked", "%(check)s has failed; its units are not polled", "unit")
POLL_GAVE_UP = EventKind("poll.gave_up", logging.ERROR, "%(unit)s is paused: %(reason)s", ("poll_id",))
CLASSIFIER_FAILED = _error(
    "failure.classifier_failed", "%(classifier)s could not classify an error, and is passed over"
)
HINT_CLAMPED = _warning("failure.hint_clamped", "%(what)s: asked to wait %(asked)s s, waiting %(longest)s s")
DJANGO_CONNECTIONS_KEPT = _warning(
    "poll.django_connections_kept", "Django could not close its old database connections after a poll: %(error)s"
)

# Publishing.
PUBLISH_DELAYED = _warning("publish.delayed", "poll %(poll_id)s is not published yet, the relay tries again: %(error)s")
ITEM_UNPUBLISHED = _error(
    "publish.item_parked", "task %(task_id)s (%(task)s) of poll %(poll_id)s cannot be published and is parked"
)
PUBLISH_FAILED = _error("publish.failed", "could not publish poll %(poll_id)s, the relay tries again")
SUCCESSOR_NOT_NOTED = _warning(
    "publish.destination_not_noted", "could not note the retry or replacement of task %(task_id)s: %(error)s"
)
SUCCESSOR_NOT_COPIED = _warning(
    "publish.successor_not_copied", "could not keep a copy of the retry or replacement %(task_id)s: %(error)s"
)
SENDING_SLOW = _warning(
    "publish.slow", "the broker has not taken what is to be sent (%(part)s); sending goes on in the background"
)
SENDING_FAILED_LATE = _warning("publish.failed_late", "sending (%(part)s) failed, it is tried again: %(error)s")
FOLLOW_UP_DELAYED = _error(
    "follow_up.delayed", "could not do what follows an end (%(entry)s), the next cycle tries again"
)

# Routines.
ROUTINE_UNREADABLE = _error(
    "routine.unreadable", "this process cannot read the record of routine %(routine_id)s and does not run it"
)

# The broker.
ACKNOWLEDGE_FAILED = _warning("message.acknowledge_failed", "could not acknowledge message %(tag)s: %(error)s")
PUT_BACK_FAILED = _warning("message.put_back_failed", "could not put message %(tag)s back, a leader does it: %(error)s")

# Executions.
LEASE_WAITING = _warning("lease.waiting", "task %(task_id)s waits for the store")
LEASE_SKIPPED = _warning("lease.skipped", "task %(task_id)s runs without a lease: %(error)s")
LEASE_FAILED = _error("lease.failed", "could not ask for the lease of task %(task_id)s, it runs without one")
RELEASE_FAILED = _warning("lease.release_failed", "could not release the lease of task %(task_id)s yet: %(error)s")
DELIVERY_DROPPED = _info("delivery.dropped", "dropped a delivery of task %(task_id)s: %(verdict)s")
EXECUTION_OVERTAKEN = _warning(
    "execution.overtaken", "an execution of task %(task_id)s has lost its lease, its result is dropped"
)
DOUBT_NOT_SENT = _warning("execution.doubt_not_sent", "could not ask the workers to check their leases: %(error)s")
EXECUTION_CANCELLED = _warning("execution.cancelled", "Celery has cancelled task %(task_id)s: %(verdict)s")
EXECUTION_MISSING = _warning(
    "execution.missing", "task %(task_id)s has a lease of this worker but does not run here: %(verdict)s"
)
LEASES_REGAINED = _warning("leases.regained", "entered %(regained)s of %(running)s leases that the store has forgotten")
PROCESS_LOST = _warning("process.lost", "the process that ran task %(task_id)s is gone: %(verdict)s")
POISON_SUSPECTED = _warning("poison.suspected", "worker %(worker)s died after it got task %(task_id)s: %(verdict)s")
POISON_MARK_FAILED = _warning("poison.mark_failed", "could not note which worker received task %(task_id)s: %(error)s")
POISON_UNMARK_FAILED = _warning(
    "poison.unmark_failed", "could not record that task %(task_id)s was received whole: %(error)s"
)
WORKER_LEAVES_LEASES = _warning(
    "worker.leaves_leases", "could not release the leases of this worker, the sweep takes them: %(error)s"
)

# Ends.
END_DELAYED = _warning("end.delayed", "the end of task %(task_id)s is not stored yet, trying again: %(error)s")
FOLLOW_UPS_FAILED = _error(
    "after_success.failed", "after_success of task %(task_id)s (%(task)s) failed; the task has succeeded all the same"
)
END_REFUSED = _error("end.refused", "the end of task %(task_id)s could not be stored, trying again later")
END_NOT_EARLY = _warning(
    "end.not_early", "could not announce the success of task %(task_id)s before its hooks, trying after them: %(error)s"
)
RESULT_NOT_STORED = _error("result.not_stored", "could not store the failure of task %(task_id)s in the result backend")
RESULT_DELAYED = _warning("result.delayed", "the result of task %(task_id)s is not stored yet, trying again: %(error)s")
RESULT_REFUSED = _error("result.refused", "Celery's result backend cannot store the result of task %(task_id)s")
RESULT_FOLLOW_UP_FAILED = _error(
    "result.follow_up_failed", "the result of task %(task_id)s is stored, but Celery's next step has failed"
)
STATE_NOT_STORED = _warning("result.state_not_stored", "state %(state)s of task %(task_id)s is not stored: %(error)s")
RESULT_NOT_READ = _error("result.not_read", "could not read the state of task %(task_id)s from the result backend")

# Recovery.
WORKER_LOST = _warning("worker.lost", "worker %(worker)s is gone")
DELIVERY_LOST = _warning("delivery.lost", "the worker that had received task %(task_id)s is gone: %(verdict)s")
DELIVERIES_RESTORED = _warning(
    "delivery.restored",
    "tasks of workers that are gone are back in their queues, %(count)s that had not begun: %(tasks)s",
)
ITEM_FOREIGN = _warning("item.foreign", "put back %(task_id)s (%(task)s), an item of another app: share no queues")
MESSAGE_LOST = _warning("message.lost", "the message of task %(task_id)s is in no queue any more: %(verdict)s")
TASKS_RESENT = _warning("task.resent", "sent again %(count)s tasks: %(tasks)s")
RESEND_DELAYED = _warning("resend.delayed", "lost tasks are resent later: %(error)s")
RESEND_FAILED = _error("resend.failed", "could not resend lost tasks, the next cycle tries again")
RESEND_TASK_FAILED = _error("resend.task_failed", "could not resend task %(task_id)s, the next cycle tries again")

# Waiters.
BACKEND_SILENT = _warning("wait.backend_silent", "could not read results from the result backend: %(error)s")
SUBSCRIPTION_BROKEN = _info("wait.subscription_broken", "the connection of the subscription is broken: %(error)s")
SUBSCRIPTION_LOST = _warning("wait.subscription_lost", "lost the subscription, connecting again: %(error)s")

#: Every event by its name.
TABLE = {kind.name: kind for kind in list(globals().values()) if isinstance(kind, EventKind)}
