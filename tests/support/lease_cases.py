"""One call of each script of leases in each state and with each verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.support.case import Case, answers, then
from tests.support.lease_world import FREE, GAP, ITEM, ONE, OTHER, LeaseWorld
from tests.support.script_cases import FIRST, LATE, UNKNOWN, item_keys
from tests.support.script_slots import DAY, HOUR, MINUTE

W = LeaseWorld
#: Every refusal and every late end is counted, also a repeated one.
COUNTED = ("P:counters",)
BEATEN = ("P:workers", f"P:w:{ONE}", "P:seen")
SEEN = ("P:seen",)


def verdict(expected: bytes, recoveries: int = 0) -> Callable[[Any], bool]:
    return lambda a: a[0] == expected and a[2] == recoveries and (int(a[1]) > 0) is (expected == b"run")


def held_keys(*workers: str) -> Callable[[LeaseWorld], Mapping[str, str]]:
    return lambda w: {w.keys.held(worker): "set" for worker in workers}


def parked_keys(*workers: str) -> Callable[[LeaseWorld], Mapping[str, str]]:
    return lambda w: {
        **held_keys(*workers)(w), w.keys.completion(ITEM): "string", w.keys.queue(ITEM): "list", w.keys.parked_at: "zset",
    }  # fmt: skip


def end_keys(*workers: str) -> Callable[[LeaseWorld], Mapping[str, str]]:
    return lambda w: {**held_keys(*workers)(w), **item_keys(w)}


def free_end_keys(w: LeaseWorld) -> Mapping[str, str]:
    return {**held_keys(ONE)(w), **tombs(w)}


def tomb(w: LeaseWorld) -> Mapping[str, str]:
    return {f"{w.keys.tombs_prefix}{w.store.now() // DAY}": "set"}


def tombs(w: LeaseWorld) -> Mapping[str, str]:
    """The tombstone of an end, and that of the delivery that ended."""
    return {**tomb(w), f"{w.keys.tombs_prefix}of:{w.store.now() // HOUR}": "set"}


def is_held(answer: list[Any]) -> bool:
    return answer[0] > MINUTE + GAP and answer[1:] == [b"", 0, 0]


#: Where a retry is sent.
SLOW = '["", "slow", null]'

#: The result of a success, as Celery stores it.
RESULT = {"result": "celery-task-meta-1", "value": '{"status": "SUCCESS"}', "expires": 3600}

LEASE_CASES = [
    # ---- start
    Case("start", "an item", W.committed, W.start, verdict(b"run")),
    Case("start", "any task, with a copy", lambda w: None, lambda w: w.start(task_id=FREE, copy="{}"), verdict(b"run")),
    Case("start", "an item that this delivery executes", W.begun, W.start, verdict(b"run"), writes=False),
    Case("start", "an item that has ended", W.over, lambda w: w.start("n2"), verdict(b"final"), moving=COUNTED),
    Case("start", "any task that has ended", lambda w: w.over(free=True), lambda w: w.start("n2", FREE),
         verdict(b"final"), moving=COUNTED),
    Case("start", "any task that has ended, and runs again", lambda w: w.over(free=True),
         lambda w: w.start("n2", FREE, ended=0), verdict(b"run")),
    Case("start", "an id of the user's that has ended, with its record, and is used once more",
         lambda w: w.ended_on_record(), lambda w: w.start("n2", FREE, ended=0), verdict(b"run")),
    *(
        Case("start", f"a late copy of its own, as its delivery has ended{how}", prepare,
             lambda w: w.start(task_id=FREE, ended=0), verdict(b"final"), moving=COUNTED)
        for how, prepare in {
            "": lambda w: w.over(free=True),
            ", with its record": lambda w: w.ended_on_record(),
            " without a lease": lambda w: w.run("end_task", w.ended(free=True)),
            " without a lease or a record": lambda w: w.run("end_task", {**w.ended(free=True), "head": ""}),
            " by an operator": lambda w: (
                w.begun(task_id=FREE), w.run("end_task", w.ended("*", status="revoked", started=False, free=True))),
        }.items()
    ),
    Case("end_task", "of an id that is used once more", lambda w: (w.ended_on_record(), w.begun("n2", FREE, ended=0)),
         lambda w: w.ended("n2", free=True), answers(FIRST), touches=free_end_keys),
    Case("start", "parked", lambda w: w.released(on_lost="park"), lambda w: w.start("n2", copy="{}"),
         verdict(b"parked", 1), moving=COUNTED),
    Case("start", "older than a retry", W.superseded, lambda w: w.start("n3"), verdict(b"old"), moving=COUNTED),
    Case("start", "older than a retry that waits", lambda w: w.released("wait"), lambda w: w.start("n3"),
         verdict(b"old"), moving=COUNTED),
    Case("start", "older than a replacement", lambda w: w.released("delegated"), lambda w: w.start("n3", order=(0, 5)),
         verdict(b"old"), moving=COUNTED),
    Case("start", "adopted", W.begun, lambda w: w.start("n2", worker=OTHER), verdict(b"adopted"), moving=COUNTED),
    Case("start", "a retry that was waited for", lambda w: w.released("wait"), lambda w: w.start("n2", order=(0, 1)),
         verdict(b"run")),
    Case("start", "superseding with a newer order", W.begun, lambda w: w.start("n2", worker=OTHER, order=(0, 1)),
         verdict(b"run"), touches=held_keys(ONE)),
    Case("start", "superseding on the same worker", lambda w: w.begun(copy="{}"), lambda w: w.start("n2", order=(1, 0)),
         verdict(b"run"), touches=held_keys(ONE)),
    Case("start", "lost, and redelivered before it was sent", W.released, lambda w: w.start("n2", worker=OTHER),
         verdict(b"run", 1)),
    Case("start", "lost, and sent again", W.lost_and_sent, lambda w: w.start("n2", worker=OTHER), verdict(b"run", 1)),
    Case("start", "lost, and a retry overtakes", W.released, lambda w: w.start("n2", order=(0, 1)), verdict(b"run", 1)),
    Case("start", "acknowledged with it", lambda w: w.received("n1"), lambda w: w.start(task_id=FREE, copy="{}", acknowledges=1),
         verdict(b"run")),
    Case("start", "refused, and acknowledged with it", lambda w: (w.begun(), w.received("n2")),
         lambda w: w.start("n2", worker=OTHER, acknowledges=1), verdict(b"adopted"), moving=COUNTED),
    # ---- release
    *(
        Case("release", f"{cause}{found}", W.recovered if found else W.begun,
             lambda w, cause=cause, found=found: w.release(cause, "n2" if found else "n1"),
             answers(b"released" if cause in ("wait", "delegated", "back") else b"resend"), then(b"gone"),
             touches=held_keys(OTHER if found else ONE))
        for cause in ("lost", "stopped", "taken", "wait", "delegated", "back")
        for found in ("", ", after a recovery")
    ),
    Case("release", "lost too often", lambda w: w.begun(most=0), W.release, answers(b"parked"), then(b"gone"),
         touches=parked_keys(ONE)),
    Case("release", "lost, and to be parked", lambda w: w.begun(on_lost="park"), W.release, answers(b"parked"),
         then(b"gone"), touches=parked_keys(ONE)),
    Case("release", "lost, and to fail", lambda w: w.begun(on_lost="fail"), W.release, answers(b"fail"), then(b"gone"),
         touches=held_keys(ONE)),
    Case("release", "stopped, and never parked", lambda w: w.begun(on_lost="park"), lambda w: w.release("stopped"),
         answers(b"resend"), then(b"gone"), touches=held_keys(ONE)),
    Case("release", "whoever holds it", W.begun, lambda w: w.release("taken", "*"), answers(b"resend"), then(b"gone"),
         touches=held_keys(ONE)),
    Case("release", "another delivery's", W.superseded, W.release, answers(b"gone"), writes=False),
    Case("release", "nobody's", W.committed, W.release, answers(b"gone"), writes=False),
    # ---- successors
    Case("note_successor", "a retry", W.begun, W.note_successor, answers(1)),
    Case("note_successor", "a replacement of several messages", W.begun, lambda w: w.note_successor("delegated", copy=""),
         answers(1)),
    Case("note_successor", "a retry that goes elsewhere", W.begun, lambda w: w.note_successor(destination=SLOW), answers(1)),
    Case("note_successor", "of an item without a lease", W.committed, lambda w: w.note_successor("", destination=SLOW),
         answers(0)),
    Case("note_successor", "of an unknown batch", lambda w: w.claimed(), lambda w: w.note_successor("", destination=SLOW),
         answers(0), writes=False),
    Case("note_successor", "of another delivery", W.superseded, W.note_successor, answers(0), writes=False),
    Case("start", "older than a successor on record", W.hands_on, lambda w: w.start("n3"), verdict(b"old"), moving=COUNTED),
    Case("start", "the successor, before its predecessor is released", W.hands_on,
         lambda w: w.start("n2", worker=OTHER, order=(0, 1), copy="{}"), verdict(b"run"), touches=held_keys(ONE)),
    *(
        Case("release", f"{cause}, with a successor on record", lambda w, noted=noted: w.hands_on(noted),
             lambda w, cause=cause: w.release(cause),
             answers(b"released" if cause in ("wait", "delegated") else b"succeeded"), then(b"gone"), touches=held_keys(ONE))
        for cause, noted in (("lost", "wait"), ("stopped", "delegated"), ("taken", "wait"), ("wait", "wait"),
                             ("delegated", "delegated"))
    ),
    Case("release", "parked, with a successor on record", lambda w: w.hands_on(most=0), W.release, answers(b"parked"),
         then(b"gone"), touches=parked_keys(ONE)),
    Case("sweep", "a dead worker, with a successor on record",
         lambda w: (w.died(1), w.run("note_successor", w.note_successor("delegated", copy=""))), W.sweep,
         answers([0, ONE.encode(), 1, 1]), then([0, ONE.encode(), 0, 1]), moving=SEEN, touches=held_keys(ONE)),
    Case("end_item", "of a successor that never began, before its predecessor is released", W.hands_on,
         lambda w: w.ended("", status="revoked", started=False), answers(FIRST), touches=end_keys(ONE)),
    Case("end_item", "of another execution, beside one with a successor on record", W.hands_on, lambda w: w.ended("n3"),
         answers(LATE), moving=COUNTED),
    Case("end_item", "it could not publish its successor", W.hands_on, W.ended, answers(FIRST), touches=end_keys(ONE)),
    Case("forget_state", "as it was read", lambda w: w.released("wait"), lambda w: w.forget_state(), answers(1), then(0)),
    Case("forget_state", "executed", lambda w: (w.released("wait"), w.begun("n2", order=(0, 1))), lambda w: w.forget_state(),
         answers(0), writes=False),
    Case("forget_state", "changed", lambda w: w.released("wait"), lambda w: w.forget_state("another text"), answers(0),
         writes=False),
    # ---- beat
    Case("heartbeat", "the first", lambda w: None, lambda w: w.heartbeat(a="tag"), answers([0, [], 1]), moving=BEATEN),
    Case("heartbeat", "with all that it has received", W.reported, lambda w: w.heartbeat(whole=True, b="tag b", d="tag"),
         answers([0, [], 2]), moving=BEATEN),
    Case("heartbeat", "with news of both kinds", lambda w: (w.reported(), w.begun()), lambda w: w.heartbeat(ONE, ("a", "c"), d="tag"),
         answers([0, [ITEM.encode()], 2]), moving=BEATEN),
    Case("heartbeat", "without news, after a silence", lambda w: (w.reported(), w.redis.set(w.keys.seen, 1)), W.heartbeat,
         answers([0, [], 2]), moving=BEATEN),
    Case("heartbeat", "to a store that is older than the last report",
         lambda w: (w.reported(), setattr(w, "reports", 8)), lambda w: w.heartbeat(known=7),
         answers([1, [], 2]), moving=BEATEN),
    Case("regain", "forgotten", W.committed, W.regain, answers(1)),
    Case("regain", "forgotten, with a copy", lambda w: w.received("n1"),
         lambda w: w.regain(task_id=FREE, copy="{}", acknowledges=1), answers(1)),
    Case("regain", "not forgotten", W.begun, W.regain, answers(1), writes=False),
    Case("regain", "granted to another delivery since", lambda w: w.begun("n2", worker=OTHER), W.regain, answers(0),
         writes=False),
    Case("regain", "taken away", W.released, W.regain, answers(0), writes=False),
    Case("regain", "of a task that has ended", W.over, W.regain, answers(0), writes=False),
    Case("prove_life", "of a worker that is known", W.reported, W.prove_life, answers(None), moving=BEATEN),
    Case("prove_life", "of a worker that was forgotten", lambda w: None, W.prove_life, answers(None), moving=BEATEN),
    # ---- sweep
    Case("sweep", "a dead worker", lambda w: w.died(2), W.sweep, answers([0, ONE.encode(), 2, 1]),
         then([0, ONE.encode(), 0, 1]), moving=SEEN, touches=held_keys(ONE)),
    Case("sweep", "a dead worker, and parked", lambda w: w.died(2, most=0), W.sweep,
         lambda answer: answer[:4] == [0, ONE.encode(), 2, 1] and answer[5::3] == [b"deliver", b"deliver"] and answer[6::3] == [1, 1],
         then([0, ONE.encode(), 0, 1]), moving=SEEN, touches=parked_keys(ONE)),
    Case("sweep", "a dead worker, and a lease that is not its own any more",
         lambda w: (w.died(), w.redis.sadd(w.keys.held(ONE), "stray")), W.sweep, answers([0, ONE.encode(), 1, 1]),
         then([0, ONE.encode(), 0, 1]), moving=SEEN, touches=held_keys(ONE)),
    Case("sweep", "a worker that stops", lambda w: w.begun(on_lost="park"), lambda w: w.sweep(ONE),
         answers([0, ONE.encode(), 1, 1]), then([0, ONE.encode(), 0, 1]), moving=SEEN, touches=held_keys(ONE)),
    Case("sweep", "held, as nobody was in contact", W.silent, W.sweep, is_held, moving=SEEN, touches=held_keys(ONE)),
    Case("sweep", "still held", lambda w: (w.silent(), w.run("sweep", w.sweep())), W.sweep, is_held, moving=SEEN,
         touches=held_keys(ONE)),
    Case("sweep", "nobody is dead", W.begun, W.sweep, answers([0, b"", 0, 0]), moving=SEEN),
    Case("forget_worker", "a dead worker", lambda w: (w.reported(), w.redis.zadd(w.keys.workers, {ONE: 1})), W.forget_worker, answers(1)),
    Case("forget_worker", "one that stops", W.reported, lambda w: w.forget_worker(stopped=True), answers(1)),
    Case("forget_worker", "one that lives", W.reported, W.forget_worker, answers(0), writes=False),
    Case("forget_worker", "one that holds something", W.died, W.forget_worker, answers(0), writes=False),
    # ---- sent by hand under its own id
    Case("note_successor", "itself once more", W.begun, lambda w: w.note_successor("back"), answers(1)),
    Case("note_successor", "itself once more, behind a retry", W.hands_on, lambda w: w.note_successor("back"), answers(0),
         writes=False),
    Case("start", "what the execution has sent itself, before its end", lambda w: w.hands_on("back"),
         lambda w: w.start("n2", worker=OTHER), verdict(b"adopted"), moving=COUNTED),
    Case("release", "back, before what it has sent itself has come", lambda w: w.hands_on("back"),
         lambda w: w.release("back"), answers(b"released"), then(b"gone"), touches=held_keys(ONE)),
    Case("release", "back, when what it has sent itself has come", lambda w: w.came_early(),
         lambda w: w.release("back", copy="sent by hand"), answers(b"resend"), then(b"gone"), touches=held_keys(ONE)),
    Case("sweep", "dead workers, one of them passed over", lambda w: (w.died(1), w.redis.zadd(w.keys.workers, {"older#1": 0})),
         lambda w: w.sweep(passed_over=1), answers([0, ONE.encode(), 1, 1]), then([0, ONE.encode(), 0, 1]), moving=SEEN,
         touches=held_keys(ONE)),
    # ---- ends under leases
    Case("end_item", "with its lease", W.begun, W.ended, answers(FIRST), touches=end_keys(ONE)),
    Case("end_item", "acknowledged with it", lambda w: (w.begun(), w.received("n1")), lambda w: w.ended(tag="tag of n1"),
         answers(FIRST), touches=end_keys(ONE)),
    Case("end_item", "late, and acknowledged with it", lambda w: (w.superseded(), w.received("n1")),
         lambda w: w.ended(tag="tag of n1"), answers(LATE), moving=COUNTED),
    Case("end_item", "with its lease, after a recovery", W.recovered, lambda w: w.ended("n2"), answers(FIRST),
         touches=end_keys(OTHER)),
    Case("end_item", "with its lease, not announced", W.begun, lambda w: {**w.ended(), "head": ""}, answers(FIRST),
         touches=end_keys(ONE)),
    Case("end_task", "any task with its lease", lambda w: w.begun(task_id=FREE, copy="{}"), lambda w: w.ended(free=True),
         answers(FIRST), touches=free_end_keys),
    Case("end_task", "any task with its lease, not announced", lambda w: w.begun(task_id=FREE),
         lambda w: {**w.ended(free=True), "head": ""}, answers(UNKNOWN), touches=free_end_keys),
    Case("end_item", "with another's lease", W.superseded, W.ended, answers(LATE), moving=COUNTED),
    Case("end_item", "lost, and not sent yet", W.released, W.ended, answers(LATE), moving=COUNTED),
    Case("end_item", "parked", lambda w: w.released(on_lost="park"), W.ended, answers(LATE), moving=COUNTED),
    Case("end_item", "begun before the store came back older", W.committed, W.ended, answers(FIRST), touches=item_keys),
    Case("end_task", "begun before the store was lost", lambda w: None, lambda w: w.ended(free=True), answers(FIRST),
         touches=tombs),
    Case("end_task", "any task that has ended before", lambda w: w.over(free=True),
         lambda w: w.ended(status="failure", free=True), answers(LATE), moving=COUNTED),
    Case("end_item", "ended before", W.over, lambda w: w.ended(status="failure"), answers(LATE), moving=COUNTED),
    Case("end_item", "never begun", lambda w: w.released(), lambda w: w.ended("", status="revoked", started=False),
         answers(FIRST), touches=end_keys()),
    Case("end_item", "by an operator", W.begun, lambda w: w.ended("*", status="revoked", started=False), answers(FIRST),
         touches=end_keys(ONE)),
    Case("end_task", "by an operator, parked", lambda w: w.released(on_lost="park", task_id=FREE, copy="{}"),
         lambda w: w.ended("*", status="revoked", started=False, free=True), answers(FIRST), touches=tomb),
    Case("end_task", "any task without a lease", lambda w: None, lambda w: w.ended("", started=False, free=True),
         answers(FIRST), touches=tomb),
    Case("end_task", "any task without a lease, and its result", lambda w: None,
         lambda w: {**w.ended("", started=False, free=True), **RESULT}, answers([b"first", 0, 1]), then(FIRST), touches=tomb),
    Case("end_item", "with its lease, and its result", W.begun, lambda w: {**w.ended(), **RESULT}, answers([b"first", 0, 1]),
         then(FIRST), touches=end_keys(ONE)),
    Case("end_item", "with another's lease, and its result", W.superseded, lambda w: {**w.ended(), **RESULT},
         answers(LATE), moving=COUNTED),
]  # fmt: skip
