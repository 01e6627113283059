"""Routines against a small model of them: two runners, ends that are followed at once or later, any order of changes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_perpetual import Perpetual, Retries, RoutineBusy, RoutineTerminal
from celery_perpetual.completions.batches import follow_up
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.store.commands.routines import DueRoutines, due_routines
from celery_perpetual.times import to_datetime, to_ms
from tests.support.machines import EXAMPLES, run_machine
from tests.support.routine_model import BACKOFF, BUSY, TERMINAL, WHICH, Modelled, end_run


class RoutineMachine(RuleBasedStateMachine):
    """Two processes of one namespace, and the workers' ends through the script."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.processes = []
        for _ in range(2):
            app = Celery("machine", broker=self.url, set_as_current=False)

            def work() -> None:
                self._work()

            app.task(name="machine.work", shared=False)(work)
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
        self.by_hand: list[str] = []
        self.made = self.dies = 0
        for once, catch_up, most in ((True, False, 2), (False, True, 3), (False, False, 2)):
            self.create(once, catch_up, most, -1)

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            for each in self.processes:
                each.runner.publisher.release()
                each.store.close()
                each.app.close()

    def _work(self) -> None:
        if self.dies:
            self.dies = 0
            raise SystemExit

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
    @rule(which=WHICH, change=st.sampled_from(["pause", "pause for a while", "resume", "move", "touch"]))
    def change(self, which: int, change: str) -> None:
        found = self.some(which)
        moved = found.start + 350
        patch: dict[str, Any] = {
            "pause": {"paused": True}, "pause for a while": {"paused": True}, "resume": {"paused": False}, "touch": {"metadata": {"at": self.at}},
            "move": {"at": self.time(moved)} if found.once else {"every": 1, "start_at": self.time(moved)},
        }[change]  # fmt: skip
        if found.state in BUSY | TERMINAL:
            with pytest.raises(RoutineBusy if found.state in BUSY else RoutineTerminal):
                self.routines.update(found.id, **patch)
            return
        if change == "pause":
            self.routines.pause(found.id, reason="for the test")
        elif change == "pause for a while":
            self.routines.pause(found.id, until=self.time(0))  # in 2040
        elif change == "resume":
            self.routines.resume(found.id, from_="kept")  # nothing is due by the store's clock
        else:
            self.routines.update(found.id, **patch)
        if change == "move":
            found.start = found.next = moved
        elif change != "touch":
            found.state = "active" if change == "resume" else "paused"

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
        before = self.routines.get(found.id)
        cancelled = self.routines.cancel(found.id)
        if found.state in TERMINAL:
            assert cancelled == before
            return
        if found.run and not found.inline:
            self.old.append(found.run)
        found.inline = False
        found.state, found.next, found.run, found.slot, found.attempts = "cancelled", None, "", None, 0

    @precondition(lambda self: len(self.model) > 5)
    @rule()
    def clear(self) -> None:
        self.routines.clear()
        self.old += [each.run for each in self.model.values() if each.run and not each.inline]
        self.model.clear()

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def run_now(self, which: int) -> None:
        """A run by hand, where it is allowed, leaves the routine as it is."""
        found = self.some(which)
        if found.state in BUSY or found.state == "cancelled":
            with pytest.raises(RoutineBusy if found.state in BUSY else RoutineTerminal):
                self.routines.run_now(found.id)
            return
        self.by_hand.append(self.routines.run_now(found.id).task_id)

    @precondition(lambda self: self.by_hand)
    @rule(well=st.booleans())
    def end_by_hand(self, well: bool) -> None:
        entry = end_run(self.store, self.by_hand.pop(), "success" if well else "failure")
        assert entry is not None
        follow_up(self.processes[0].app, self.store, entry)

    # ---- time and runners

    @rule(which=WHICH, well=st.booleans(), steps=st.integers(0, 5))
    def run_and_end(self, which: int, well: bool, steps: int) -> None:
        """Do the usual: due routines run, and then a run ends."""
        self.run_due(steps, 0, None)
        if any(each.run for each in self.model.values()):
            self.end(which, well, 0, lost=False)

    @rule(steps=st.integers(0, 5), which=st.integers(0, 1), limit=st.sampled_from([None, None, 1]))
    def run_due(self, steps: int, which: int, limit: int | None) -> None:
        """Time goes on, and one of the two runs what is due."""
        self.at += steps * 290
        self.follow_left()
        due = sorted((m for m in self.model.values() if m.due(self.at)), key=lambda m: (m.next, m.id))
        self.began(list(self.runs[which].run(self.base + self.at, limit)), [each.id for each in due[:limit]], self.at)

    @rule(steps=st.integers(0, 5), limit=st.sampled_from([None, 1]), dies=st.booleans())
    def run_inline(self, steps: int, limit: int | None, dies: bool) -> None:
        """A caller executes what is due itself, or dies in the first run."""
        self.at += steps * 290
        self.follow_left()
        due = sorted((m for m in self.model.values() if m.due(self.at)), key=lambda m: (m.next, m.id))[:limit]
        self.dies = int(dies and bool(due))
        if self.dies:
            with pytest.raises(SystemExit):
                list(self.runs[0].run_inline(self.base + self.at, limit))
            due[0].starts(self.routines.get(due[0].id).current_run_id or "", self.at)
            due[0].inline = True
            return
        results = list(self.runs[0].run_inline(self.base + self.at, limit))
        self.began(results, [each.id for each in due], self.at)
        for each in due:
            each.ends(well=True)

    @precondition(lambda self: any(each.inline for each in self.model.values()))
    @rule(which=st.integers(0, 1))
    def miss_caller(self, which: int) -> None:
        """A run of a dead caller is found by another one."""
        gone = [each for each in self.model.values() if each.inline]
        self.store.redis.zadd(self.store.keys.routines_inline, {each.id: 1 for each in gone})
        self.follow_left()
        assert list(self.runs[which].run(self.base - 10**9, None)) == []
        for each in gone:
            each.ends(well=False)

    @rule()
    def read_only(self) -> None:
        """A runner reads what is due, and is slow."""
        self.at += 290
        due = due_routines(self.store, self.base + self.at, 100)
        assert due is not None
        self.stale.append((self.at, due))

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
            self.end(0, well, 0, lost=False)
        self.at += steps * 290

    @rule(which=WHICH, well=st.booleans(), dies=st.integers(0, 3), lost=st.booleans())
    def end(self, which: int, well: bool, dies: int, lost: bool) -> None:
        """A run ends, or is lost; the process that stored the end may die before it does what follows."""
        ended = [run for entry in self.left for run in [entry.split(" ")[1]]]
        running = [each for each in self.model.values() if each.run and not each.inline and each.run not in ended]
        if not running:
            return
        found = running[which % len(running)]
        entry = end_run(self.store, found.run, "success" if well else "lost" if lost else "failure")
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
        entry = end_run(self.store, self.old.pop(), "failure")
        if entry is not None and not dies:
            follow_up(self.processes[0].app, self.store, entry)
        elif entry is not None:
            self.left.append(entry)

    def follow_left(self) -> None:
        """Do in the model the entries that the next run does first."""
        for entry in self.left:
            _, run, status, _ = entry.split(" ", 3)
            for found in [each for each in self.model.values() if each.run == run]:
                found.ends(well=status == "success")
        self.left.clear()

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


@EXAMPLES
def test_routines_do_as_the_model_says(redis_url: str, examples: int) -> None:
    """Store and model agree in whatever order the calls come, and whichever caller dies in between."""
    run_machine(RoutineMachine, redis_url, examples)
