"""Routines against a small model of them: two runners, ends that are followed at once or later, any order of changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_perpetual import Perpetual, Retries, RoutineBusy, RoutineTerminal
from celery_perpetual.completions.batches import follow_up
from celery_perpetual.ledger.ids import item_slots
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.store.commands.routines import DueRoutines, due_routines
from celery_perpetual.store.scripts import script
from celery_perpetual.times import to_datetime, to_ms
from tests.support.machines import run_machine

EVERY, BACKOFF = 1000, 300
BUSY, TERMINAL = {"running", "retry_waiting"}, {"completed", "exhausted", "cancelled"}
WHICH = st.integers(0, 99)


@dataclass
class Modelled:
    """What a routine must be by now; times are ms after the start of the test."""

    id: str
    once: bool
    catch_up: bool
    start: int
    next: int | None
    most: int
    state: str = "active"
    slot: int | None = None
    run: str = ""
    began: int = 0
    attempts: int = 0

    def due(self, at: int) -> bool:
        return self.state in ("active", "retry_waiting") and self.next is not None and self.next <= at

    def starts(self, run: str, at: int) -> None:
        if self.state == "active":
            self.slot = self.next
        self.state, self.next, self.run, self.began, self.attempts = "running", None, run, at, self.attempts + 1

    def ends(self, *, well: bool) -> None:
        self.run = ""
        if not well and self.attempts < self.most:
            self.state, self.next = "retry_waiting", self.began + BACKOFF
            return
        if self.once:
            self.state, self.next = ("completed" if well else "exhausted"), None
            self.attempts = 0 if well else self.attempts
            return
        assert self.slot is not None
        after = self.slot if self.catch_up else max(self.slot, self.began)
        self.state, self.attempts = "active", 0
        self.next = self.start + ((after - self.start) // EVERY + 1) * EVERY


class RoutineMachine(RuleBasedStateMachine):
    """Two processes of one namespace, and the workers' ends through the script."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.processes = []
        for _ in range(2):
            app = Celery("machine", broker=self.url, set_as_current=False)
            app.task(name="machine.work", shared=False)(_nothing)
            self.processes.append(Perpetual(app))
        self.store = self.processes[0].store
        self.store.redis.flushall()
        self.runs = [DueRuns(each.app, each.store, each.runner.publisher) for each in self.processes]
        self.routines = self.processes[0].routines
        # Times of the test are far ahead of the store's clock, which therefore never counts.
        self.base = to_ms(datetime(2040, 1, 1, tzinfo=timezone.utc))
        self.at = 0
        self.model: dict[str, Modelled] = {}
        self.stale: list[tuple[int, DueRoutines]] = []
        self.left: list[str] = []
        """Ends whose follow-up has not been done, as a process died that would have done it."""
        self.old: list[str] = []
        """Runs that are no routine's any more."""
        self.made = 0
        for once, catch_up, most in ((True, False, 2), (False, True, 3), (False, False, 2)):
            self.create(once, catch_up, most, -1)

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            for each in self.processes:
                each.runner.publisher.release()
                each.store.close()
                each.app.close()

    def time(self, at: int) -> datetime:
        return to_datetime(self.base + at)

    def some(self, which: int) -> Modelled:
        return list(self.model.values())[which % len(self.model)]

    # ---- callers

    @precondition(lambda self: len(self.model) < 6)
    @rule(once=st.booleans(), catch_up=st.booleans(), most=st.integers(1, 3), ahead=st.integers(-2, 2))
    def create(self, once: bool, catch_up: bool, most: int, ahead: int) -> None:
        start = self.at + ahead * 700
        when: dict[str, Any] = {"at": self.time(start)} if once else {"every": 1, "start_at": self.time(start)}
        if not once and catch_up:
            when["catch_up"] = True
        retries = Retries(max_attempts=most, backoff=BACKOFF / 1000)
        self.made += 1
        made = self.routines.create("machine.work", id=f"r{self.made}", retries=retries, **when)
        self.model[made.id] = Modelled(made.id, once, catch_up and not once, start, start, most)

    @precondition(lambda self: self.model)
    @rule(which=WHICH, change=st.sampled_from(["pause", "resume", "move", "touch"]))
    def change(self, which: int, change: str) -> None:
        found = self.some(which)
        moved = found.start + 350
        patch: dict[str, Any] = {
            "pause": {"paused": True}, "resume": {"paused": False}, "touch": {"metadata": {"at": self.at}},
            "move": {"at": self.time(moved)} if found.once else {"every": 1, "start_at": self.time(moved)},
        }[change]  # fmt: skip
        if found.state in BUSY | TERMINAL:
            with pytest.raises(RoutineBusy if found.state in BUSY else RoutineTerminal):
                self.routines.update(found.id, **patch)
            return
        self.routines.update(found.id, **patch)
        if change == "move":
            found.start = found.next = moved
        elif change != "touch":
            found.state = "paused" if change == "pause" else "active"

    @precondition(lambda self: self.model)
    @rule(which=WHICH, removes=st.booleans())
    def cancel(self, which: int, removes: bool) -> None:
        """Cancel a routine; one that has ended is removed instead."""
        found = self.some(which)
        if removes and found.state in TERMINAL:
            self.routines.delete(found.id)
            del self.model[found.id]
            return
        if found.state not in TERMINAL:
            with pytest.raises(RoutineBusy):
                self.routines.delete(found.id)
        self.routines.cancel(found.id)
        if found.run:
            self.old.append(found.run)
        found.state, found.next, found.run, found.slot, found.attempts = "cancelled", None, "", None, 0

    @precondition(lambda self: len(self.model) > 5)
    @rule()
    def clear(self) -> None:
        self.routines.clear()
        self.old += [each.run for each in self.model.values() if each.run]
        self.model.clear()

    # ---- time and runners

    @rule(which=WHICH, well=st.booleans(), steps=st.integers(0, 5))
    def run_and_end(self, which: int, well: bool, steps: int) -> None:
        """What is usual: what is due runs, and then a run ends."""
        self.run_due(steps, 0, None)
        if any(each.run for each in self.model.values()):
            self.end(which, well, 0)

    @rule(steps=st.integers(0, 5), which=st.integers(0, 1), limit=st.sampled_from([None, None, 1]))
    def run_due(self, steps: int, which: int, limit: int | None) -> None:
        """Time goes on, and one of the two runs what is due."""
        self.at += steps * 290
        self.follow_left()
        due = sorted((m for m in self.model.values() if m.due(self.at)), key=lambda m: (m.next, m.id))
        self.began(self.runs[which].run(self.base + self.at, limit), [each.id for each in due[:limit]], self.at)

    @rule()
    def read_only(self) -> None:
        """A runner reads what is due, and is slow."""
        self.at += 290
        self.stale.append((self.at, due_routines(self.store, self.base + self.at, 100, obeys_pauses=False)))

    @precondition(lambda self: self.stale)
    @rule()
    def start_late(self) -> None:
        """It starts what it has read; only what is still as it was read begins."""
        at, due = self.stale.pop(0)
        versions = {each.id: each.version for each in self.routines.list()}
        fresh = [each for each, text in due.records if versions.get(each) == int(text.split(b" ")[1])]
        self.began(self.runs[1].start(due, self.base + at), fresh, at)

    def began(self, results: Any, expected: list[str], at: int) -> None:
        assert [each.routine_id for each in results] == expected
        for each in results:
            found = self.model[each.routine_id]
            found.starts(each.task_id, at)
            assert found.slot is not None
            assert (each.slot, each.attempt) == (self.time(found.slot), found.attempts)

    # ---- ends

    @precondition(lambda self: any(each.run for each in self.model.values()))
    @rule(well=st.booleans(), steps=st.integers(0, 3))
    def all_end(self, well: bool, steps: int) -> None:
        """Every run ends, and time goes on."""
        for _ in [each for each in self.model.values() if each.run]:
            self.end(0, well, 0)
        self.at += steps * 290

    @rule(which=WHICH, well=st.booleans(), dies=st.integers(0, 3))
    def end(self, which: int, well: bool, dies: int) -> None:
        """A run ends; the process that stored the end may die before it does what follows."""
        running = [each for each in self.model.values() if each.run and not any(each.run in one for one in self.left)]
        if not running:
            return
        found = running[which % len(running)]
        entry = self.end_of(found.run, "success" if well else "failure")
        assert entry is not None
        if dies == 1:
            self.left.append(entry)
            return
        follow_up(self.processes[0].app, self.store, entry)
        found.ends(well=well)

    @precondition(lambda self: self.old)
    @rule(dies=st.booleans())
    def end_late(self, dies: bool) -> None:
        """The end of a run that is nobody's any more changes nothing."""
        entry = self.end_of(self.old.pop(), "failure")
        if entry is not None and not dies:
            follow_up(self.processes[0].app, self.store, entry)
        elif entry is not None:
            self.left.append(entry)

    def follow_left(self) -> None:
        """What the model knows of the entries that the next run does first."""
        for entry in self.left:
            _, run, status, _ = entry.split(" ", 3)
            for found in [each for each in self.model.values() if each.run == run]:
                found.ends(well=status == "success")
        self.left.clear()

    def end_of(self, run: str, status: str) -> str | None:
        keys = self.store.keys
        where = item_slots(keys, run)
        poll = str(where["poll"])
        reply = script("end_item")(
            self.store, **where, id=run, batch=keys.poll(poll), batch_channel=keys.channel(poll), status=status, head="",
            completion=keys.completion(run), queue=keys.queue(run), channel=keys.channel(run), nonce="", started=0, tag="",
            hold="back_off", result="", value="", expires=0, unacked="unacked", unacked_index="unacked_index",
        )  # fmt: skip
        return reply[1].decode() if isinstance(reply[1], bytes) else None

    # ---- what must hold

    @invariant()
    def as_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        seen = {each.id: each for each in self.routines.list()}
        assert seen.keys() == self.model.keys()
        for found in self.model.values():
            real = seen[found.id]
            assert real.state == found.state, found
            assert real.next_run_at == (None if found.next is None else self.time(found.next)), found
            slot = self.time(found.slot or 0) if found.state in BUSY else None
            assert real.current_slot_at == slot, found
            assert (real.current_run_id or "", real.attempt_count) == (found.run, found.attempts), found
        due = sorted((each for each in self.model.values() if each.due(self.at)), key=lambda each: (each.next, each.id))
        assert [each.id for each in self.routines.list_due(self.time(self.at))] == [each.id for each in due]
        running = {each.id for each in self.model.values() if each.state == "running"}
        assert {each.decode() for each in self.store.redis.zrange(self.store.keys.routines_running, 0, -1)} == running


def _nothing() -> None:
    """Never called."""


def test_routines_do_as_the_model_says(redis_url: str) -> None:
    """Whatever is called in whatever order, and whoever dies in between."""
    run_machine(RoutineMachine, redis_url)
