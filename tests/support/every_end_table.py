"""How each task of `every_end` ends, by pool and kind of acknowledgement."""

from __future__ import annotations

from typing import Any, NamedTuple

import celery

#: Celery fails a rejected task since 5.7, and one whose child left by SystemExit.
NEW = celery.VERSION >= (5, 7)


class End(NamedTuple):
    """How one row of the table ends."""

    status: str | None
    """Of the completion; None where nothing may be announced."""
    stored: str | None
    """Celery's own state when the completion is heard; None where there is none."""
    error: str | None = None
    """Type of the completion's error."""
    runs: int | None = None


SUCCESS, IGNORED = End("success", "SUCCESS"), End("ignored", None)
FAILURE = End("failure", "FAILURE", "ValueError")
REJECTED = End("rejected", "FAILURE", "Reject")
REFUSED = End("rejected", "FAILURE", "InvalidTaskError")
UNREADABLE = End("lost", "FAILURE", "DecodeError")

#: Rows of every pool. Held messages are altered by the test before a worker sees them.
EVERYWHERE = {
    "succeeds": SUCCESS._replace(runs=1),
    "raises": FAILURE,
    "lacks_an_argument": End("failure", "FAILURE", "TypeError"),
    "retries": SUCCESS._replace(runs=3),
    "gives_up": FAILURE,
    "gives_up_by_itself": FAILURE,
    "cannot_retry": REJECTED,
    "ignores": IGNORED,
    "ignores_with_a_state": End("ignored", "PROGRESS"),
    "rejects": REJECTED,
    "replaced": SUCCESS._replace(runs=1),
    "replaced_by_failing": FAILURE,
    "replaced_by_chain": SUCCESS._replace(runs=1),
    "replaced_by_failing_chain": FAILURE,
    "replaced_by_group": SUCCESS,
    "stores_nothing": End("success", None),
    "fails_and_stores_nothing": End("failure", None, "ValueError"),
    "reports": SUCCESS,
    "not_serialisable": End("failure", "FAILURE", "EncodeError"),
    "not_picklable": End("failure", "FAILURE", "Odd"),
    "not_storable": End("failure", "FAILURE", "RuntimeError"),
    "fails_in_its_hook": End("failure", "FAILURE", "RuntimeError"),
    "start_ignores": IGNORED,
    "start_rejects": REJECTED,
    "start_raises": FAILURE,
    "is_silent": End(None, "SUCCESS"),
    "is_silent_and_fails": End(None, "FAILURE"),
    "unregistered": End("failure", "FAILURE", "NotRegistered"),
}

HELD = {
    "comes_twice": SUCCESS._replace(runs=1),
    "revoked": End("revoked", "REVOKED"),
    "expired": End("expired", "REVOKED"),
    "expires_before_its_eta": End("expired", "REVOKED"),
    "undecodable": UNREADABLE,
    "of_unknown_compression": End("lost", "FAILURE"),
    "of_foreign_content": End("rejected", "FAILURE", "ContentDisallowed"),
    "nameless": End("rejected", "FAILURE", "TaskLost"),
    "with_a_wrong_eta": REFUSED,
    "in_two_parts": REFUSED,
    "with_a_wrong_embed": REFUSED,
    "with_an_eta_beyond_time": REFUSED,
    "without_a_mapping": End("lost", "FAILURE", "TaskLost"),
}

ANY_MESSAGE = {"comes_twice": "succeeds", "revoked": "never", "expired": "never"}
#: Where each task has a process of its own.
LOST_CHILD = End("lost", "FAILURE", "TaskLost")
LEFT_CHILD = End("failure", "FAILURE", "WorkerLostError")

PREFORK = {
    "takes_too_long": End("failure", "FAILURE", "SoftTimeLimitExceeded"),
    "notices_its_limit": SUCCESS,
    "hangs": End("failure", "FAILURE", "TimeLimitExceeded"),
    "hangs_doubly": End("failure", "FAILURE"),
    "killed": LOST_CHILD,
    "exits": LOST_CHILD,
    "leaves": LEFT_CHILD if NEW else End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("failure", "FAILURE", "CancelledError") if NEW else End("lost", "FAILURE", "TaskLost"),
    "is_terminated": End("revoked", "REVOKED", runs=1),
    "is_killed_by_order": End("revoked", "REVOKED", runs=1),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}

THREADS = {
    "passes_its_limit": SUCCESS,
    "leaves": End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("lost", "FAILURE", "TaskLost"),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}

GEVENT = {
    "hangs": End("failure", "FAILURE", "TimeLimitExceeded"),
    "leaves": End("lost", "FAILURE", "TaskLost"),
    "is_cancelled_inside": End("lost", "FAILURE", "TaskLost"),
    "is_terminated": End("revoked", "REVOKED", runs=1),
    "is_revoked_too_late": SUCCESS._replace(runs=1),
}

SOLO = {"passes_its_limit": SUCCESS}
OF_POOL = {"prefork": PREFORK, "threads": THREADS, "gevent": GEVENT, "solo": SOLO}

OTHERS = {
    "by class": SUCCESS,
    "by header": SUCCESS,
    "by header, expired": End("expired", "REVOKED"),
    "plain": End(None, "SUCCESS"),
    "plain, expired": End(None, "REVOKED"),
    "plain failing": End(None, "FAILURE"),
}

#: Chains and chords, by the number of each task in it.
CANVAS = {
    "chain": [SUCCESS, FAILURE, FAILURE, FAILURE],
    "rejected chain": [REJECTED, *[End("failure", "FAILURE", "Reject")] * 2],
    "plain chain": [End(None, "FAILURE")] * 2,
    "mixed chain": [End(None, "FAILURE"), FAILURE],
    "chord": [SUCCESS] * 3,
    "failed chord": [SUCCESS, FAILURE, End("failure", "FAILURE", "ChordError")],
    "chord before others": [FAILURE, SUCCESS, *[End("failure", "FAILURE", "ChordError")] * 2],
    "chord behind another": [FAILURE] * 4,
    "chord before a group": [SUCCESS, FAILURE, End("failure", "FAILURE"), End("failure", "FAILURE")],
}


def canvas(pool: str) -> dict[str, list[End]]:
    """The chains and chords of a pool."""
    found = dict(CANVAS)
    ends = OF_POOL[pool]
    for name, kind in {"left": "leaves", "killed": "killed", "hanging": "hangs"}.items():
        if kind in ends:
            found[f"{name} chain"] = [ends[kind], End("failure", "FAILURE")]
    if "leaves" in ends:
        found["left chord"] = [SUCCESS, ends["leaves"], End("failure", "FAILURE")]
    return found


def others(pool: str) -> dict[str, End]:
    """Return the ends of the tasks that are sent beside the batch."""
    numbered = {f"{name} {at}": end for name, ends in canvas(pool).items() for at, end in enumerate(ends, 1)}
    return {**OTHERS, **numbered}


def table(pool: str, *, late: bool) -> dict[str, End]:
    """The rows that a worker of this kind can have."""
    rows = {**EVERYWHERE, **HELD, **OF_POOL[pool]}
    rows["sends_back"] = SUCCESS._replace(runs=3) if late else End("rejected", "FAILURE", "Reject", 1)
    if pool == "solo":
        del rows["fails_in_its_hook"]  # takes the whole worker along
    if pool == "prefork" and late:
        rows["hangs_once"] = SUCCESS._replace(runs=2)
    if pool == "prefork" and NEW:
        rows["retried_when_lost"] = SUCCESS._replace(runs=2)
    if pool == "prefork":
        rows |= {"killed_once": SUCCESS._replace(runs=2), "killed_after_success": SUCCESS}
    return rows


def items(rows: dict[str, End]) -> dict[str, dict[str, Any]]:
    """The options of the batch's items."""
    held = {name: {"queue": "held", "task": f"proj.{ANY_MESSAGE.get(name, 'never')}"} for name in HELD}
    return {name: held.get(name, {}) for name in rows}
