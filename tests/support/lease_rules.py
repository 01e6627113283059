"""Workers, deliveries and executions of the lease machine: rules, each of which makes its calls twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from celery_perpetual.ledger.ids import item_id
from tests.support.lease_model import MOST, Model, Order, Run, Task
from tests.support.lease_world import FREE, LeaseWorld
from tests.support.script_slots import POLL, Slots

HOUR = 3_600_000
WHICH = st.integers(0, 99)
SELDOM = st.integers(0, 7)


class WorkerRules(RuleBasedStateMachine):
    """Workers and their executions, all through the scripts; every call is sent twice."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.world = LeaseWorld(self.url)
        self.redis: Any = self.world.redis
        self.keys = self.world.keys
        self.redis.flushdb()
        self.world.committed()
        kinds = ["requeue", "park", "fail"]
        items = [Task(item_id(POLL, index), on_lost, index) for index, on_lost in enumerate(kinds)]
        self.model = Model([*items, Task(FREE, "requeue", -1)])
        self.nonces = 0
        self.token = 0
        self.finals: Counter[str] = Counter()
        self.read = "-"
        self.live: list[str] = []
        self.frozen: list[str] = []
        self.dead: list[str] = []
        self.gap = False
        """No worker was in contact for a while."""
        self.held = False
        self.workers = 0
        self.expired = 0
        self.be_born()
        self.be_born()
        for n, task in enumerate(self.model.tasks):
            self.start(task, task.messages.pop(), self.live[n % 2])

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.store.close()

    def twice(self, name: str, slots: Slots) -> tuple[Any, Any]:
        return self.world.run(name, slots), self.world.run(name, slots)

    def nonce(self) -> str:
        self.nonces += 1
        return f"n{self.nonces}"

    def contact(self) -> None:
        self.held, self.gap = self.held or self.gap, False

    # ---- workers

    def beat(self, worker: str) -> None:
        first, second = self.twice("heartbeat", {**self.world.heartbeat(worker), "gap": HOUR})
        mine = {task.id.encode() for task in self.model.tasks if task.lease and task.lease.worker == worker}
        assert set(first[1]) == set(second[1]) == mine
        self.contact()

    @precondition(lambda self: len(self.live) < 4)
    @rule()
    def be_born(self) -> None:
        self.workers += 1
        self.live.append(f"w{self.workers}@host#{self.workers}")
        self.beat(self.live[-1])

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def report(self, which: int) -> None:
        self.beat(pick(self.live, which))

    def expire(self, worker: str) -> None:
        """Its deadline passes, in this order."""
        self.expired += 1
        self.redis.zadd(self.keys.workers, {worker: self.expired})

    @precondition(lambda self: self.live)
    @rule(which=WHICH, freezes=st.booleans())
    def fall_silent(self, which: int, freezes: bool) -> None:
        """A worker dies with all that it runs, or only seems to."""
        worker = pick(self.live, which)
        self.live.remove(worker)
        self.expire(worker)
        (self.frozen if freezes else self.dead).append(worker)
        if not freezes:
            self.model.runs = [run for run in self.model.runs if run.worker != worker]

    @precondition(lambda self: self.frozen)
    @rule(which=WHICH)
    def come_back(self, which: int) -> None:
        """It has missed whatever happened, and goes on."""
        worker = pick(self.frozen, which)
        self.frozen.remove(worker)
        self.live.append(worker)
        self.beat(worker)

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        """A worker ends in an orderly way, and gives back what it still holds."""
        worker = pick(self.live, which)
        self.live.remove(worker)
        self.model.runs = [run for run in self.model.runs if run.worker != worker]
        for _ in range(2):
            self.sweep_once(100, stopping=worker)
        assert self.twice("forget_worker", self.world.forget_worker(worker, stopped=True)) == (1, 1)

    # ---- deliveries

    @precondition(lambda self: self.live and any(task.messages for task in self.model.tasks))
    @rule(task=WHICH, which=WHICH, worker=WHICH, again=st.booleans())
    def deliver(self, task: int, which: int, worker: int, again: bool) -> None:
        """A message is delivered, and may be delivered again."""
        found = pick([each for each in self.model.tasks if each.messages], task)
        order = pick(found.messages, which)
        if not again:
            found.messages.remove(order)
        self.start(found, order, pick(self.live, worker))

    @precondition(lambda self: self.live)
    @rule(task=WHICH, which=WHICH, worker=WHICH)
    def deliver_late(self, task: int, which: int, worker: int) -> None:
        """A message that there ever was is delivered once more."""
        found = pick(self.model.tasks, task)
        self.start(found, pick(sorted(found.sent), which), pick(self.live, worker))

    def start(self, task: Task, order: Order, worker: str) -> None:
        run = Run(self.nonce(), task, worker, order)
        slots = self.world.start(
            run.nonce, task.id, worker=worker, order=order, on_lost=task.on_lost, most=MOST,
            copy="" if task.index >= 0 else "{}",
        )  # fmt: skip
        expected, recoveries = self.model.verdict(task, order), task.recoveries
        first, second = self.twice("start", slots)
        assert first == second
        assert (first[0].decode(), first[2]) == (expected, recoveries)
        if expected == "run":
            assert int(first[1]) > self.token
            self.token = int(first[1])
            self.model.begin(run)
        elif expected == "adopted" and task.flag == "back":
            task.flag = "came"

    # ---- executions

    def some_run(self, which: int) -> Run | None:
        return pick([run for run in self.model.runs if run.worker in self.live] or [None], which)

    def finish(self, task: Task, nonce: str, *, started: bool, status: str = "success") -> None:
        """An end, which counts exactly if no other delivery has the lease, and the task has not ended."""
        mine = task.lease is not None and task.lease.nonce == nonce
        free = nonce == "*" or (not started and (task.lease is None or task.flag in ("wait", "delegated")))
        counts = mine or (free and not task.final)
        slots = (
            self.world.end_item(task.index, status, nonce=nonce, started=started)
            if task.index >= 0
            else self.world.ended(nonce, status=status, started=started, free=True)
        )
        about = {"task_id": task.id, "status": status, "final": True, "call": self.nonce()}
        name = "end_item" if task.index >= 0 else "end_task"
        first, second = self.twice(name, {**slots, "head": json.dumps(about)[:-1]})
        assert first == second == [b"first" if counts else b"late", 0, 0]
        if counts:
            self.model.end(task, buried=task.index >= 0 or mine or nonce == "*")

    @precondition(lambda self: self.model.runs)
    @rule(which=WHICH)
    def end(self, which: int) -> None:
        run = self.some_run(which)
        if run is not None:
            self.finish(run.task, run.nonce, started=True)
            self.model.runs.remove(run)

    @precondition(lambda self: self.model.runs)
    @rule(which=WHICH, how=st.sampled_from(["wait", "wait", "delegated", "back", "early"]))
    def go_on_later(self, which: int, how: str) -> None:
        """An execution is retried, replaced or given back; its message is sent first, and nothing may come after that."""
        run = self.some_run(which)
        if run is None:
            return
        (nesting, retries), task = run.order, run.task
        following = {"delegated": (nesting + 1, 0), "back": run.order}.get(how, (nesting, retries + 1))
        if run.early:
            how, following = "wait", (nesting, retries + 1)
        else:
            self.model.send(task, following)
        if how == "early":
            run.early = True
            return
        mine = task.lease is run
        flag = {"back": "resend" if task.flag == "came" else "run"}.get(how, how)
        answers = self.twice("release", self.world.release(how, run.nonce, task.id))
        assert answers == ((b"resend" if flag == "resend" else b"released") if mine else b"gone", b"gone")
        if mine:
            self.model.let_go(task, following, flag)
        self.model.runs.remove(run)

    @precondition(lambda self: self.model.runs)
    @rule(which=WHICH, cause=st.sampled_from(["wait", "wait", "delegated", "back", "back"]))
    def note_successor(self, which: int, cause: str) -> None:
        """An execution is about to publish its retry, its replacement or itself, and may die before or after."""
        run = self.some_run(which)
        if run is None:
            return
        (nesting, retries), task, mine = run.order, run.task, run.task.lease is run
        mine = mine and not (cause == "back" and task.known is not None and task.known > run.order)
        copy = "" if task.index >= 0 else "{}"
        slots = self.world.note_successor(cause, run.nonce, task.id, copy=copy)
        assert self.twice("note_successor", slots) == (mine, mine)
        if mine:
            following = {"delegated": (nesting + 1, 0), "back": run.order}.get(cause, (nesting, retries + 1))
            self.model.note_successor(task, following, cause)

    @precondition(lambda self: self.model.runs)
    @rule(which=WHICH, cause=st.sampled_from(["lost", "lost", "stopped", "taken"]), anybody=st.booleans())
    def lose(self, which: int, cause: str, anybody: bool) -> None:
        """The process of an execution is gone, or an operator takes the lease away, and the body goes on."""
        run = self.some_run(which)
        if run is None:
            return
        task, anybody = run.task, anybody and cause == "taken"
        holder = task.lease if anybody or task.lease is run else None
        answers = self.twice("release", self.world.release(cause, "*" if anybody else run.nonce, task.id))
        has_successor = task.flag in ("wait", "delegated")
        expected = self.model.lose(task, holder.order, counts=cause == "lost") if holder else "gone"
        if expected == "resend" and has_successor:
            expected = "succeeded"
        assert answers == (expected.encode(), b"gone")
        if cause != "taken":
            self.model.runs.remove(run)


def pick(of: Any, which: int) -> Any:
    return of[which % len(of)]
