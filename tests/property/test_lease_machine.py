"""Leases against a model of them: workers that die, freeze and come back, and messages that come in any order."""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from celery_perpetual.store.commands.leases import LeaseText, StateText
from tests.support.lease_model import MOST, Task
from tests.support.lease_rules import HOUR, SELDOM, WHICH, WorkerRules, pick
from tests.support.machines import EXAMPLES, run_machine
from tests.support.script_slots import QUEUE


class LeaseMachine(WorkerRules):
    """Workers, their executions, the leader's sweep and an operator, all through the scripts; every call is sent twice."""

    # ---- the leader

    def sweep_once(self, most: int, stopping: str = "") -> str:
        """One call; returns the worker that holds nothing any more."""
        late = {
            name.decode(): deadline for name, deadline in self.redis.zrange(self.keys.workers, 0, -1, withscores=True)
        }
        dead = [name for name in sorted(late, key=lambda name: late[name]) if name in self.frozen + self.dead]
        self.contact()
        slots = {**self.world.sweep(stopping, most), "gap": HOUR}
        held_until, worker, taken, empty, *parked = self.world.run("sweep", slots)
        if self.held and not stopping:
            assert (held_until > self.world.store.now(), worker, taken, empty) == (True, b"", 0, 0)
            return ""
        expected = stopping or (dead[0] if dead else "")
        assert (held_until, worker.decode()) == (0, expected)
        before = [task for task in self.model.tasks if task.lease and task.lease.worker == expected]
        left = self.redis.hmget(self.keys.leases, [task.id for task in before]) if before else []
        gone = [task for task, lease in zip(before, left, strict=True) if lease is None]
        assert taken == len(gone) == min(most, len(before))
        assert empty == (expected != "" and len(gone) == len(before))
        verdicts = {}
        for task in gone:
            assert task.lease is not None
            verdicts[task.id] = self.model.lose(task, task.lease.order, counts=not stopping)
        assert {each.decode() for each in parked[::3]} == {each for each in verdicts if verdicts[each] == "parked"}
        return expected if empty else ""

    @rule()
    def sweep(self) -> None:
        """One pass; which leases a smaller one takes is left to chance, and rows must repeat."""
        worker = self.sweep_once(100)
        if worker:
            assert self.twice("forget_worker", self.world.forget_worker(worker)) == (1, 1)
            if worker in self.dead:
                self.dead.remove(worker)
            else:
                # It may come back all the same.
                self.buried_frozen(worker)

    def buried_frozen(self, worker: str) -> None:
        assert self.redis.zscore(self.keys.workers, worker) is None

    @rule()
    def send_again(self) -> None:
        """Work off the list, as the first that comes does."""
        for name, since in self.redis.zrange(self.keys.resend, 0, -1, withscores=True):
            task = next(each for each in self.model.tasks if each.id == name.decode())
            if task.flag == "fail":
                self.finish(task, "*", started=False, status="lost")
                continue
            assert task.flag == "resend"
            before = self.redis.llen(QUEUE)
            assert self.twice("resent", self.world.resent(task.id, repr(since))) == (1, 0)
            assert self.redis.llen(QUEUE) == before + 1
            self.model.sent_again(task)

    @precondition(lambda self: self.live and any(task.lease for task in self.model.tasks))
    @rule(task=WHICH, freezes=st.booleans(), worker=WHICH)
    def lose_and_run_again(self, task: int, freezes: bool, worker: int) -> None:
        """A whole recovery, from the end of a worker to the next execution elsewhere."""
        found = pick([each for each in self.model.tasks if each.lease], task)
        if found.lease.worker in self.live:
            self.fall_silent(self.live.index(found.lease.worker), freezes)
        if self.held or self.gap:
            self.sweep()
            self.hold_passes()
        while found.lease is not None:
            self.sweep()
        if found.flag == "resend":
            self.send_again()
        if not self.live:
            self.be_born()
        if found.messages:
            self.start(found, max(found.messages), pick(self.live, worker))
        if freezes and self.frozen:
            self.come_back(len(self.frozen) - 1)

    @precondition(lambda self: self.live and any(task.lease for task in self.model.tasks))
    @rule(task=WHICH, worker=WHICH)
    def supersede(self, task: int, worker: int) -> None:
        """A retry begins before the execution that sent it has said so."""
        found = pick([each for each in self.model.tasks if each.lease], task)
        nesting, retries = found.lease.order
        self.model.send(found, (nesting, retries + 1))
        self.start(found, (nesting, retries + 1), pick(self.live, worker))

    @precondition(lambda self: any(run.task.lease is not run for run in self.model.runs))
    @rule(which=WHICH, how=st.sampled_from(["end", "end after all", "lost", "wait"]))
    def speak_without_lease(self, which: int, how: str) -> None:
        """An execution that has lost its lease goes on as if it had it; or the task has long ended."""
        run = pick([run for run in self.model.runs if run.task.lease is not run], which)
        task = run.task
        if how.startswith("end"):
            if how == "end after all":
                self.finish(task, task.lease.nonce if task.lease else "*", started=task.lease is not None)
                self.records_expire(self.model.tasks.index(task))
            self.finish(task, run.nonce, started=True)
        else:
            assert self.twice("release", self.world.release(how, run.nonce, task.id)) == (b"gone", b"gone")
        self.model.runs.remove(run)

    @precondition(lambda self: any(not task.lease for task in self.model.tasks))
    @rule(task=st.integers(0, 2), counts=st.booleans())
    def lose_messages(self, task: int, counts: bool) -> None:
        """The broker forgets an item's messages, and the leader finds that out."""
        found = self.model.tasks[task]
        if found.flag == "delegated" or self.sends_early(found):
            return  # what an execution has sent before it lets go is found to be missing by a later search
        found.messages.clear()
        slots = self.world.declare_lost(
            found.id, on_lost=found.on_lost, most=MOST, recoveries=found.recoveries if found.known else 0, counts=counts
        )
        gone = found.final or found.lease is not None or found.flag in ("resend", "fail", "parked")
        answers = self.twice("declare_lost", slots)
        expected = "gone" if gone else self.model.lose(found, found.known or (0, 0), counts=counts)
        assert answers == (expected.encode(), b"gone")

    def sends_early(self, task: Task) -> bool:
        """Whether an execution has sent its retry, and has not said so yet."""
        return any(run.early for run in self.model.runs if run.task is task)

    # ---- time, and people

    @rule(seldom=SELDOM)
    def lose_contact(self, seldom: int) -> None:
        """The store is away for a while."""
        if seldom:
            return
        self.redis.set(self.keys.seen, 1)
        self.gap = True

    @precondition(lambda self: self.held)
    @rule()
    def hold_passes(self) -> None:
        self.redis.delete(self.keys.hold)
        self.held = False

    @precondition(lambda self: any(task.final for task in self.model.tasks))
    @rule(task=WHICH)
    def records_expire(self, task: int) -> None:
        found = pick(self.model.tasks, task)
        if found.final and found.buried:
            self.redis.delete(self.keys.completion(found.id))

    @precondition(lambda self: any(task.known for task in self.model.tasks))
    @rule(task=WHICH)
    def recover(self, task: int) -> None:
        found = pick(self.model.tasks, task)
        expected = int(found.flag in ("parked", "resend", "fail"))
        assert self.twice("recover", self.world.recover(found.id)) == (expected, expected)
        if found.flag == "parked":
            found.flag, found.recoveries = "resend", 0

    @rule(task=WHICH, seldom=SELDOM)
    def cancel(self, task: int, seldom: int) -> None:
        if seldom:
            return
        self.finish(pick(self.model.tasks, task), "*", started=False, status="revoked")

    @precondition(lambda self: any(task.messages for task in self.model.tasks))
    @rule(task=WHICH, which=WHICH, seldom=SELDOM)
    def revoke_message(self, task: int, which: int, seldom: int) -> None:
        """A message is revoked before anybody executes it."""
        if seldom:
            return
        found = pick([each for each in self.model.tasks if each.messages], task)
        if self.sends_early(found):
            return  # a later search finds what is revoked before its sender lets go
        found.messages.remove(pick(found.messages, which))
        self.finish(found, "", started=False, status="revoked")

    # ---- what is always true

    @invariant()
    def the_store_is_as_modelled(self) -> None:
        """One lease at most, held sets that agree, states, lists and counters."""
        tasks, keys = self.model.tasks, self.keys
        workers = sorted({*self.live, *self.frozen, *self.dead})
        pipe = self.redis.pipeline(transaction=False)
        for name in (keys.leases, keys.states, keys.copies, keys.parked, keys.counters):
            pipe.hgetall(name)
        pipe.zrange(keys.parked_at, 0, -1)
        pipe.zrange(keys.resend, 0, -1)
        for worker in workers:
            pipe.smembers(keys.held(worker))
        leases, states, copies, parked, counters, listed, again, *held = pipe.execute()
        assert {name.decode(): [*map(str, LeaseText.read(lease)[:4])] for name, lease in leases.items()} == {
            task.id: [task.lease.worker, task.lease.nonce, *map(str, task.lease.order)] for task in tasks if task.lease
        }
        assert {name.decode(): "{}|{}|{}|{}".format(*StateText.read(state)) for name, state in states.items()} == {
            task.id: task.state for task in tasks if task.state
        }
        assert {name.decode() for name in parked} == {task.id for task in tasks if task.flag == "parked"}
        assert set(listed) == set(parked)
        assert {name.decode() for name in again} == {task.id for task in tasks if task.flag in ("resend", "fail")}
        assert dict(zip(workers, held, strict=True)) == {
            worker: {task.id.encode() for task in tasks if task.lease and task.lease.worker == worker}
            for worker in workers
        }
        assert int(counters.get(b"leases_lost", 0)) == self.model.lost
        assert int(counters.get(b"recovered", 0)) == self.model.recovered
        free = tasks[-1]
        if free.lease or free.flag in ("resend", "parked"):
            assert free.id.encode() in copies
        assert set(copies) <= ({free.id.encode()} if not free.final else set())

    @invariant()
    def no_task_is_nowhere(self) -> None:
        assert [task for task in self.model.tasks if not task.is_somewhere] == []

    @invariant()
    def every_task_ends_once(self) -> None:
        """The stream has one final completion of whatever has ended, and none of anything else."""
        for at, entry in self.redis.xrange(self.keys.events, self.read):
            self.read = f"({at.decode()}"
            if entry[b"event"] == b"completion" and (told := json.loads(entry[b"data"]))["final"]:
                self.finals[told["task_id"]] += 1
        assert self.finals == {task.id: 1 for task in self.model.tasks if task.final}


# Finding the shortest of all failing rows takes a while.
@pytest.mark.timeout(400)
@EXAMPLES
def test_leases_are_as_their_model(redis_url: str, examples: int) -> None:
    """Nothing runs under two leases, ends twice, or gets lost, in whatever order the calls come."""
    run_machine(LeaseMachine, redis_url, 2 * examples)
