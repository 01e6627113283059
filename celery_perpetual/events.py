"""The table of events: every thing that the package reports has a name here.

Code reports events of the log with :func:`celery_perpetual.telemetry.emit`. Lua scripts write most events of the stream
``{prefix}:events``, in the step that makes them true; each entry there has the field ``event`` (the name) and the field
``data`` (a JSON object with at least ``at``, RFC 3339 UTC, and what the event is about).
"""

from __future__ import annotations

import logging

from celery_perpetual.event_kind import EventKind, error, info, stream, warning

# The stream.
COMPLETION = stream("completion")
POLL = stream("poll")
LEADER = stream("leader")
LEASE_LOST = stream("lease.lost")
LEASE_RECOVERED = stream("lease.recovered")
PAUSE = stream("pause")
RESUME = stream("resume")
KEY_PARKED = stream("alert.key_parked")
ROUTINE_CREATED = stream("routine.created")
ROUTINE_UPDATED = stream("routine.updated")
ROUTINE_STARTED = stream("routine.started")
ROUTINE_RUN = stream("routine.run")
ROUTINE_FAILED = stream("routine.failed")
ROUTINE_CANCELLED = stream("routine.cancelled")
ROUTINE_DELETED = stream("routine.deleted")
ROUTINE_CLEARED = stream("routine.cleared")
POLL_KILLED_LEADER = stream("alert.poll_killed_leader")

# The stream and the log.
STORE_LOST = EventKind(
    "store.lost",
    logging.CRITICAL,
    "the store has lost its data, or has gone back to an older state (epoch was %(was)s, is %(epoch)s); paused "
    "for it: %(paused)s",
    in_stream=True,
)
CLOCK_STEPPED = warning(
    "alert.clock_stepped",
    "the store's clock was ahead or has stepped back; pulled back the stored times of %(units)s units",
    in_stream=True,
)
ROUTINES_PULLED_BACK = warning(
    "routines.pulled_back", "the store's clock was ahead; pulled back the stored times of %(routines)s routines"
)

#: Alerts have an entry of the stream for each kind, and one name for all of them in the log.
ALERTS = [
    stream(f"alert.{kind}") for kind in (
        "unit_silent", "unit_failing", "poll_budget", "no_leader", "worker_late", "worker_lost", "store_memory",
        "eviction_policy", "seam_unknown", "items_replaced",
    )
]  # fmt: skip
ALERT_BEGUN = warning("alert.begun", "%(evidence)s; what helps: %(help)s", "alert")
ALERT_ENDED = info("alert.ended", "alert %(alert)s is over")

# Every process.
STORE_UNREACHABLE = warning("store.unreachable", "%(part)s cannot reach the store: %(error)s")
STORE_AWAITED = warning("store.awaited", "waiting for the store, at most %(seconds)s s: %(error)s")
PART_FAILED = error("part.failed", "unexpected error in %(part)s")
SINK_FAILED = error("sink.failed", "the event sink %(sink)s raised an error; its further errors are not logged")

# Configuration.
CONTRACT_WARNING = warning("contract.warning", "%(warning)s")
CONTRACT_REFUSED = EventKind(
    "contract.refused", logging.ERROR, "refused a task that was registered after the start: %(error)s"
)
BEAT_REFUSED = EventKind("beat.refused", logging.CRITICAL, "beat does not start: %(error)s")
APP_OTHER = warning("app.other", "%(warning)s")
SCHEDULER_OTHER = warning("scheduler.other", "%(warning)s")
SCHEDULER_WITHOUT_POLLS = warning("scheduler.without_polls", "this beat does not poll %(tasks)s; %(advice)s")
SEAM_UNKNOWN = warning("seam.unknown", "seam %(seam)s is not as known, so %(without)s: %(evidence)s")
VERSIONS_UNSEEN = info("seam.versions_unseen", "this package was not tried with these versions: %(packages)s")
WIRING_MISSING = warning("wiring.missing", "this app is not wired: %(means)s; add %(advice)s")
WIRING_WITHOUT_STORE = info(
    "wiring.without_store", "the ends of tasks that run in this process are not announced: %(error)s"
)

QUEUE_UNKNOWN = warning(
    "queue.unknown", "no pause of a queue stops the polls of %(task)s, as a router of the app failed: %(error)s"
)

# Leadership and beat.
LEADER_ELECTED = info("leader.elected", "this beat leads, term %(term)s")
LEADER_STANDBY = info("leader.standby", "another beat leads, this beat stands by")
LEADER_LOST = warning("leader.lost", "this beat has lost the lead: %(reason)s")
LEADER_RESIGNED = info("leader.resigned", "this beat gave up the lead: %(reason)s")
LEADER_STEPPED_DOWN = warning("leader.stepped_down", "this beat gave up the lead for others to take: %(reason)s")
LEADER_RESIGN_FAILED = warning(
    "leader.resign_failed", "this beat could not give up the lead, which expires by itself: %(error)s"
)
LEADER_HANDOVER_ASKED = info(
    "leader.handover_asked", "this beat knows more units than the leader and asked it to hand over"
)
CYCLE_STEP_FAILED = error("cycle.step_failed", "step %(step)s of the cycle failed")
BASE_TICK_FAILED = error("base.tick_failed", "a tick of the base scheduler failed")
BASE_SYNC_FAILED = error("base.sync_failed", "the base scheduler could not store the runs of its entries")
BASE_LOCK_HELD = warning(
    "base.lock_held",
    "RedBeat's lock %(lock)s is held: if a RedBeat beat that is not ours still runs, it sends entries too; stop it",
)
BASE_ROW_REFUSED = warning(
    "base.row_refused", "row or entry %(row)s of the schedule cannot be used and is left out: %(error)s"
)
BASE_RUNS_AHEAD = warning(
    "base.runs_ahead", "last runs lie ahead of this beat's clock and count as made now: %(entries)s"
)
BASE_SCHEDULE_KEPT = warning(
    "base.schedule_kept", "cannot read the schedule from the database, it stays as it was: %(error)s"
)
TASK_ROW_REFUSED = warning(
    "task_row.refused",
    "row %(row)s cannot say when the task is polled, which keeps the schedule of its code: %(reason)s",
)
TASK_ROWS_AWAY = warning(
    "task_rows.away", "cannot read or write the rows of the perpetual tasks, which are polled as before: %(error)s"
)
BASE_CLOSE_FAILED = error("base.close_failed", "the base scheduler could not be closed")

# Tenants.
TENANTS_FAILED = EventKind(
    "alert.tenants_failed",
    logging.ERROR,
    "the tenants of %(task)s could not be found; the last list, of %(kept)s tenants, is kept",
    has_traceback=True,
    in_stream=True,
)
TENANTS_SLOW = warning(
    "tenants.slow",
    "the tenants function of %(task)s has not returned for %(seconds)s s; the last list, of %(kept)s tenants, is kept",
)
TENANTS_REFUSED = warning(
    "tenants.refused", "left out %(count)s values that the tenants function of %(task)s has returned: %(first)s"
)
TENANTS_CHANGED = info(
    "tenants.changed", "task %(task)s has %(count)s tenants now: %(arrived)s have come, %(departed)s have gone"
)

# Polls.
POLL_ENQUEUED = info("poll.enqueued", "poll of %(unit)s enqueued %(count)s items", "poll_id", "slot")
POLL_TIMED_OUT = EventKind(
    "poll.timed_out", logging.ERROR, "poll of %(unit)s took longer than %(limit)s s", ("poll_id", "slot")
)
POLL_FAILED = error("poll.failed", "poll of %(unit)s failed (%(error_class)s)", "poll_id", "slot")
POLL_SUPERSEDED = warning(
    "poll.superseded", "the batch of %(unit)s was refused: its claim was taken over or has expired", "poll_id"
)
POLL_STALE = info(
    "poll.stale",
    "poll %(poll_id)s of %(unit)s is not evaluated: its claim has expired or the poll has ended",
)
POLL_NOT_STORED = error(
    "poll.not_stored",
    "could not store the outcome of the poll of %(unit)s; its claim expires, and the unit is polled again",
    "poll_id",
)
PREFLIGHT_PASSED = info("preflight.passed", "%(check)s has passed")
PREFLIGHT_FAILED = warning("preflight.failed", "%(check)s failed (%(error_class)s), trying again: %(error)s", "unit")
PREFLIGHT_PARKED = error("preflight.parked", "%(check)s has failed; its units are not polled", "unit")
POLL_PAUSED = warning("poll.paused", "%(unit)s has paused itself: %(reason)s", "poll_id")
POLL_GAVE_UP = EventKind("poll.gave_up", logging.ERROR, "%(unit)s is paused: %(reason)s", ("poll_id",))
CLASSIFIER_FAILED = error("failure.classifier_failed", "%(classifier)s could not classify an error, and is passed over")
HINT_CLAMPED = warning("failure.hint_clamped", "%(what)s: asked to wait %(asked)s s, waiting %(longest)s s")
DJANGO_CONNECTIONS_KEPT = warning(
    "poll.django_connections_kept", "Django could not close its old database connections after a poll: %(error)s"
)

# Publishing.
PUBLISH_DELAYED = warning("publish.delayed", "poll %(poll_id)s is not published yet, the relay tries again: %(error)s")
ITEM_UNPUBLISHED = error(
    "publish.item_parked", "task %(task_id)s (%(task)s) of poll %(poll_id)s cannot be published and is parked"
)
PUBLISH_FAILED = error("publish.failed", "could not publish poll %(poll_id)s, the relay tries again")
SUCCESSOR_NOT_NOTED = warning(
    "publish.destination_not_noted", "could not note the retry or replacement of task %(task_id)s: %(error)s"
)
SUCCESSOR_LEFT = warning("publish.left", "what follows task %(task_id)s is sent when the broker is back: %(error)s")
SUCCESSOR_NOT_COPIED = warning("publish.successor_not_copied", "could not copy what follows %(task_id)s: %(error)s")
SENDING_SLOW = warning(
    "publish.slow", "the broker has not taken what is to be sent (%(part)s); sending goes on in the background"
)
ROUTINE_START_HANGS = warning("routine.start_hangs", "starting %(routines)s takes %(seconds)s s: your code may hang")
SENDING_HANGS = warning("publish.hangs", "sending one of %(part)s takes %(seconds)s s: your code may hang")
SENDING_FAILED_LATE = warning("publish.failed_late", "sending (%(part)s) failed, it is tried again: %(error)s")
FOLLOW_UP_DELAYED = error("follow_up.delayed", "could not do what follows an end (%(entry)s), a cycle tries again")

# Routines.
ROUTINES_DUE = EventKind(
    "routines.due", logging.DEBUG, "%(started)s of %(due)s routines that were due were started", ("seconds",)
)
ROUTINE_UNREADABLE = error("routine.unreadable", "this process cannot read routine %(routine_id)s and does not run it")
ROUTINE_ARGUMENTS_UNREADABLE = warning(
    "routine.arguments_unreadable", "routine %(routine_id)s is shown without arguments, they cannot be read: %(error)s"
)

# The broker.
ACKNOWLEDGE_FAILED = warning("message.acknowledge_failed", "could not acknowledge message %(tag)s: %(error)s")
PUT_BACK_FAILED = warning("message.put_back_failed", "could not put message %(tag)s back, a leader does it: %(error)s")

# Executions.
LEASE_WAITING = warning("lease.waiting", "task %(task_id)s waits for the store")
LEASE_SKIPPED = warning("lease.skipped", "task %(task_id)s runs without a lease: %(error)s")
LEASE_FAILED = error("lease.failed", "could not ask for the lease of task %(task_id)s, it runs without one")
RELEASE_FAILED = warning("lease.release_failed", "could not release the lease of task %(task_id)s yet: %(error)s")
DELIVERY_DROPPED = info("delivery.dropped", "dropped a delivery of task %(task_id)s: %(verdict)s")
EXECUTION_OVERTAKEN = warning(
    "execution.overtaken", "an execution of task %(task_id)s has lost its lease, its result is dropped"
)
DOUBT_NOT_SENT = warning("execution.doubt_not_sent", "could not ask the workers to check their leases: %(error)s")
EXECUTION_CANCELLED = warning("execution.cancelled", "Celery has cancelled task %(task_id)s: %(verdict)s")
EXECUTION_MISSING = warning(
    "execution.missing", "task %(task_id)s has a lease of this worker but does not run here: %(verdict)s"
)
LEASES_REGAINED = warning("leases.regained", "entered %(regained)s of %(running)s leases that the store has forgotten")
PROCESS_LOST = warning("process.lost", "the process that ran task %(task_id)s is gone: %(verdict)s")
POISON_SUSPECTED = warning("poison.suspected", "worker %(worker)s died after it got task %(task_id)s: %(verdict)s")
POISON_MARK_FAILED = warning("poison.mark_failed", "could not note which worker received task %(task_id)s: %(error)s")
POISON_UNMARK_FAILED = warning(
    "poison.unmark_failed", "could not record that task %(task_id)s was received whole: %(error)s"
)
WORKER_LEAVES_LEASES = warning(
    "worker.leaves_leases", "could not release the leases of this worker, the sweep takes them: %(error)s"
)

# Ends.
END_DELAYED = warning("end.delayed", "the end of task %(task_id)s is not stored yet, trying again: %(error)s")
FOLLOW_UPS_FAILED = error(
    "after_success.failed", "after_success of task %(task_id)s (%(task)s) failed; the task has succeeded all the same"
)
END_REFUSED = error("end.refused", "the end of task %(task_id)s could not be stored, trying again later")
END_NOT_EARLY = warning(
    "end.not_early", "could not announce the success of task %(task_id)s before its hooks, trying after them: %(error)s"
)
RESULT_NOT_STORED = error("result.not_stored", "the result of task %(task_id)s is not stored in the result backend")
RESULT_DELAYED = warning("result.delayed", "the result of task %(task_id)s is not stored yet, trying again: %(error)s")
RESULT_REFUSED = error("result.refused", "Celery's result backend cannot store the result of task %(task_id)s")
RESULT_FOLLOW_UP_FAILED = error(
    "result.follow_up_failed", "the result of task %(task_id)s is stored, but Celery's next step has failed"
)
STATE_NOT_STORED = warning("result.state_not_stored", "state %(state)s of task %(task_id)s is not stored: %(error)s")
RESULT_NOT_READ = error("result.not_read", "could not read the state of task %(task_id)s from the result backend")

# Recovery.
WORKER_LOST = warning("worker.lost", "worker %(worker)s is gone")
DELIVERY_LOST = warning("delivery.lost", "the worker that had received task %(task_id)s is gone: %(verdict)s")
DELIVERIES_RESTORED = warning(
    "delivery.restored",
    "tasks of workers that are gone are back in their queues, %(count)s that had not begun: %(tasks)s",
)
ITEM_FOREIGN = warning("item.foreign", "put back %(task_id)s (%(task)s), an item of another app: share no queues")
LEASE_PARKED = EventKind(
    "lease.parked",
    logging.ERROR,
    "parked %(count)s tasks that a worker executed when it died: %(tasks)s",
    in_stream=True,
)
MESSAGE_LOST = warning("message.lost", "the message of task %(task_id)s is in no queue any more: %(verdict)s")
TASKS_RESENT = warning("task.resent", "sent again %(count)s tasks: %(tasks)s")
RESEND_DELAYED = warning("resend.delayed", "lost tasks are resent later: %(error)s")
RESEND_FAILED = error("resend.failed", "could not resend lost tasks, the next cycle tries again")
RESEND_TASK_FAILED = error("resend.task_failed", "could not resend task %(task_id)s, the next cycle tries again")

OPERATOR = stream("operator")

# Starvation.
STARVATION_NOTICE = warning(
    "starvation.notice", "task %(task_id)s waits in queue %(queue)s for %(seconds)s s (%(cause)s)", in_stream=True
)
STARVATION_WAKE = warning(
    "starvation.wake", "asked %(workers)s workers to open their consumers of queue %(queue)s anew", in_stream=True
)
STARVATION_SPAWN = warning(
    "starvation.spawn", "asked for more workers of queue %(queue)s (%(cause)s) by %(how)s", in_stream=True
)
STARVATION_STARVED = warning(
    "starvation.starved", "task %(task_id)s has waited in queue %(queue)s for %(seconds)s s", in_stream=True
)
STARVATION_PARKED = EventKind(
    "starvation.parked",
    logging.ERROR,
    "task %(task_id)s is parked: no worker has consumed its queue %(queue)s for %(seconds)s s",
    in_stream=True,
)
STARVATION_STEP_FAILED = warning(
    "starvation.step_failed",
    "nothing came of step %(step)s for queue %(queue)s, it is tried again in a minute: %(reason)s",
)
CONSUMER_REOPENED = info("consumer.reopened", "opened the consumer of queue %(queue)s anew")

# Waiters.
BACKEND_SILENT = warning("wait.backend_silent", "could not read results from the result backend: %(error)s")
SUBSCRIPTION_BROKEN = info("wait.subscription_broken", "the connection of the subscription is broken: %(error)s")
SUBSCRIPTION_LOST = warning("wait.subscription_lost", "lost the subscription, connecting again: %(error)s")

#: Every event by its name.
TABLE = {kind.name: kind for kind in [*globals().values(), *ALERTS] if isinstance(kind, EventKind)}
