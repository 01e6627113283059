"""A store, and what leads to the states in which the scripts of leases are called."""

from __future__ import annotations

from typing import Any

from celery_perpetual.ledger.ids import item_id, item_slots
from celery_perpetual.store.commands.leases import asked_lease
from tests.support.script_slots import POLL, QUEUE, UNACKED, Slots, end_slots
from tests.support.scripts import World

ITEM, FREE = item_id(POLL, 1), "chosen-by-a-caller"
ONE, OTHER = "one@host#1", "other@host#2"
GAP = 1000


class LeaseWorld(World):
    """Each first delivery is ``n1``, to the worker ``ONE``, of the second item of a batch."""

    reports = 0

    # Values that differ from call to call of each script.

    def regain(self, nonce: str = "n1", **options: Any) -> Slots:
        slots = self.start(nonce, **options)
        del slots["ended"], slots["queue"]
        return slots

    def start(
        self, nonce: str = "n1", task_id: str = ITEM, *, worker: str = ONE, order: tuple[int, int] = (0, 0),
        on_lost: str = "requeue", most: int = 3, copy: str = "", ended: int = 1, acknowledges: int = 0,
        task: str = "deliver",
    ) -> Slots:  # fmt: skip
        k, where = self.keys, item_slots(self.keys, task_id)
        return {
            "held": k.held(worker), "completion": k.completion(task_id), "queue": k.queue(task_id), "batch": k.poll(str(where.pop("poll"))), **where,
            **asked_lease(
                worker, nonce, *order, most_recoveries=most, on_lost=on_lost, tag=f"tag of {nonce}", task=task
            ),
            "id": task_id, "copy": copy, "ended": ended, **UNACKED, "acknowledges": acknowledges,
        }  # fmt: skip

    def release(
        self, cause: str = "lost", nonce: str = "n1", task_id: str = ITEM, tag: str = "", copy: str = "",
        *, keeps: bool = False,
    ) -> Slots:  # fmt: skip
        return {
            "id": task_id, "nonce": nonce, "cause": cause, "reason": "its process is gone", "tag": tag, "copy": copy,
            "keeps": int(keeps), **UNACKED,
        }  # fmt: skip

    def note_successor(
        self, cause: str = "wait", nonce: str = "n1", task_id: str = ITEM, copy: str = "{}", destination: str = "",
    ) -> Slots:  # fmt: skip
        return {
            "batch": self.keys.poll(POLL), "id": task_id, "nonce": nonce, "cause": cause, "copy": copy, "index": 1,
            "destination": destination,
        }  # fmt: skip

    def forget_state(self, text: str = "", task_id: str = ITEM) -> Slots:
        return {"id": task_id, "text": text or self.redis.hget(self.keys.states, task_id)}

    def heartbeat(
        self, worker: str = ONE, gone: tuple[str, ...] = (), *, known: int = 0, whole: bool = False, **new: str
    ) -> Slots:
        k = self.keys
        self.reports += 1
        return {
            "report": self.reports, "known": known,
            "held": k.held(worker), "worker_info": k.worker(worker), "received": k.tags(worker), "worker": worker,
            "gap": GAP, "info": "{}", "gone": -1 if whole else len(gone),
            "tags": [*gone, *(text for pair in new.items() for text in pair)],
        }  # fmt: skip

    def prove_life(self, worker: str = ONE) -> Slots:
        return {"gap": GAP, "worker": worker}

    def sweep(self, stopping: str = "", most: int = 100, passed_over: int = 0) -> Slots:
        return {"gap": GAP, "most_now": most, "stopping": stopping, "passed_over": passed_over}

    def forget_worker(self, worker: str = ONE, *, stopped: bool = False) -> Slots:
        k = self.keys
        return {
            "held": k.held(worker), "worker_info": k.worker(worker), "tags": k.tags(worker), "worker": worker,
            "stopped": int(stopped),
        }  # fmt: skip

    def resent(self, task_id: str = ITEM, since: str = "", *, pushes: bool = True, tag: str = "") -> Slots:
        return {
            "targets": [QUEUE] if pushes else [], "id": task_id,
            "since": since or repr(self.redis.zscore(self.keys.resend, task_id)),
            "commands": ["RPUSH", 1, 1, task_id] if pushes else [], "flag": "run", "tag": tag, **UNACKED,
        }  # fmt: skip

    def recover(self, task_id: str = ITEM) -> Slots:
        return {"completion": self.keys.completion(task_id), "queue": self.keys.queue(task_id), "id": task_id}

    def park_item(self, task_id: str = ITEM, *, starved: str = "", seen: str = "") -> Slots:
        where = item_slots(self.keys, task_id)
        del where["poll"]
        return {
            **where, "id": task_id, "task": "deliver", "reason": "it cannot be published: KeyError: 'nowhere'",
            "starved": starved, "seen": seen,
        }  # fmt: skip

    def note_starved(self, task_id: str = ITEM, *, seen: str = "") -> Slots:
        where = item_slots(self.keys, task_id)
        batch = self.keys.poll(str(where.pop("poll")))
        return {**where, "batch": batch, "id": task_id, "index": 1, "seen": seen, "since": "7", "about": "{}"}

    def note_starving(self, seen: str = "", noted: str = "{}", step: str = "notice") -> Slots:
        return {"queue": QUEUE, "seen": seen, "noted": noted, "step": step, "about": "{}"}

    def starving(self) -> None:
        self.redis.hset(self.keys.starving, QUEUE, "{}")

    def written(self) -> str:
        """When the state of the item was written, as callers read it."""
        return str(int(self.redis.hget(self.keys.states, ITEM).split(b"|")[0]))

    def declare_lost(
        self, task_id: str = ITEM, *, on_lost: str = "requeue", most: int = 3, recoveries: int = 0, counts: bool = True,
    ) -> Slots:  # fmt: skip
        where = item_slots(self.keys, task_id)
        del where["poll"]
        return {
            **where, "id": task_id, "task": "deliver", "most": most, "on_lost": on_lost, "recoveries": recoveries,
            "counts": int(counts), "tag": "", "copy": "",
        }  # fmt: skip

    def ended(
        self, nonce: str = "n1", *, status: str = "success", started: bool = True, free: bool = False,
        tag: str = "",
    ) -> Slots:  # fmt: skip
        """The end of an execution."""
        slots = self.end_item(1, status, nonce=nonce, started=started, tag=tag)
        if not free:
            return slots
        task = end_slots(self.keys, FREE, status, slots["head"])
        return {**task, "nonce": nonce, "started": int(started), "tag": tag}

    # States.

    def received(self, *nonces: str) -> None:
        """The broker has these deliveries in its hands."""
        for nonce in nonces:
            self.redis.hset(UNACKED["unacked"], f"tag of {nonce}", "message")
            self.redis.zadd(UNACKED["unacked_index"], {f"tag of {nonce}": 7})

    def unacked(self) -> list[str]:
        """Deliveries that nobody has acknowledged, by their nonces."""
        tags = self.redis.hkeys(UNACKED["unacked"])
        assert sorted(tags) == sorted(self.redis.zrange(UNACKED["unacked_index"], 0, -1))
        return sorted(tag.decode().removeprefix("tag of ") for tag in tags)

    def begun(self, nonce: str = "n1", task_id: str = ITEM, **options: Any) -> None:
        if not self.leader:
            self.committed()
        assert self.run("start", self.start(nonce, task_id, **options))[0] == b"run"

    def released(self, cause: str = "lost", **options: Any) -> None:
        self.begun(**options)
        self.run("release", self.release(cause, task_id=options.get("task_id", ITEM)))

    def hands_on(self, cause: str = "wait", copy: str = "{}", **options: Any) -> None:
        """An execution whose successor is on record, and perhaps published."""
        self.begun(**options)
        assert self.run("note_successor", self.note_successor(cause, copy=copy)) == 1

    def handed_on(self, cause: str = "delegated") -> None:
        """An execution that has sent its successor under its own id."""
        self.hands_on(cause, copy="its message")
        assert self.run("release", self.release(cause, keeps=True)) == b"released"

    def came_early(self) -> None:
        """A task has sent itself, and another worker has received that before the body says whether it is its end."""
        self.hands_on("back", copy="")
        assert self.run("start", self.start("n2", worker=OTHER))[0] == b"adopted"

    def lost_and_sent(self) -> None:
        self.released()
        assert self.run("resent", self.resent()) == 1

    def recovered(self) -> None:
        """The second execution of a task whose first one was lost."""
        self.lost_and_sent()
        self.begun("n2", worker=OTHER)

    def superseded(self) -> None:
        """A retry runs on another worker, and the first execution does not know."""
        self.begun()
        self.begun("n2", worker=OTHER, order=(0, 1))

    def over(self, *, free: bool = False) -> None:
        """The task has ended, and its record has expired."""
        self.begun(task_id=FREE if free else ITEM)
        assert self.run("end_task" if free else "end_item", self.ended(free=free))[0] == b"first"
        self.redis.delete(self.keys.completion(FREE if free else ITEM))

    def over_long_ago(self) -> None:
        """An id of the user's own has ended, and not today or yesterday: it may be in use once more."""
        self.over(free=True)
        (tombs,) = self.redis.keys(f"{self.keys.tombs_prefix}[0-9]*")
        name = tombs.decode().removeprefix(self.keys.tombs_prefix)
        self.redis.rename(tombs, f"{self.keys.tombs_prefix}{int(name) - 2}")

    def ended_on_record(self) -> None:
        """A task with an id of the user's own has ended, and its record is there."""
        self.begun(task_id=FREE)
        assert self.run("end_task", self.ended(free=True))[0] == b"first"

    def reported(self, worker: str = ONE) -> None:
        self.run("heartbeat", self.heartbeat(worker, a="tag a", b="tag b"))

    def died(self, count: int = 1, **options: Any) -> None:
        """A worker that has begun so much is not heard of any more; another one lives."""
        self.committed()
        for index in range(1, 1 + count):
            self.begun(f"n{index}", item_id(POLL, index), **options)
        self.redis.zadd(self.keys.workers, {ONE: 1})
        self.reported(OTHER)

    def silent(self) -> None:
        """A worker's deadline has passed while nobody at all was in contact."""
        self.died()
        self.redis.set(self.keys.seen, 1)
