"""The ledger against a model of it: claims, commits, ends, publishing, whatever comes in which order."""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from celery_perpetual.ledger.ids import base, item_id, new_poll_id, parse_item_id
from celery_perpetual.ledger.staged import staged_list, sweep_staged
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.scripts import script
from tests.support.ledger_model import HOUR, QUEUE, UNIT, Claim
from tests.support.ledger_store import LedgerStore
from tests.support.machines import EXAMPLES, run_machine

KEYS = st.lists(st.sampled_from(["a", "b", "c", "d", "", "7", "東京:%", "x y\nz"]), unique=True, max_size=6)
# More than one chunk, also where the one key that may be taken is left out.
LARGE = st.sampled_from([CHUNK + 2, 2 * CHUNK])

#: The units are read just now: no poll is later, and no clock was ahead, which is known from a second on. Ms.
SOON = 900


class LedgerMachine(LedgerStore):
    """All callers, in any order."""

    @rule(
        by=st.sampled_from(["leader", "leader", "hand", "earlier term"]),
        step=st.sampled_from([0, 1, 5, -1]),
        valid=st.sampled_from([HOUR, HOUR, 0]),
        late=st.booleans(),
    )
    def claim_it(self, by: str, step: int, valid: int, late: bool) -> None:
        """Somebody claims the unit; the call is sent twice."""
        model, now = self.model, self.store.now()
        mine = {"leader": self.terms[-1], "earlier term": self.terms[0], "hand": ""}[by]
        slot = now if not mine else max(1, (model.slot or 1000) + step)
        following = now - 50 if late else now + HOUR
        poll = new_poll_id(now)
        row = f"{poll} {slot} {following if mine else '-'} - {valid} 0 200 {UNIT}"
        before, due = self.dump(), self.redis.zscore(self.names.due, UNIT)
        replies = [
            script("claim")(self.store, mine=mine, mark=0, ttl=HOUR, seen=now + SOON, back_off="30000", wanted=[row])
            for _ in range(2)
        ]
        if mine and mine != self.terms[-1]:
            assert replies == [[0], [0]]
            assert self.dump() == before
            return
        expected = model.verdict(mine, slot, self.terms[-1])
        for _, facts in replies:
            verdict, _travels, in_flight, attempt, _last, _trigger, cursor = facts.decode().split(" ", 6)
            assert verdict == expected
            cursor = cursor.partition("\n")[0]  # the counts of its failures are behind it
            if expected != "backoff":  # it counts the failure itself
                assert (cursor, int(in_flight), int(attempt)) == (model.cursor, model.in_flight, model.attempt)
        if expected == "claimed":
            model.ended += model.claim is not None
            model.claim = Claim(poll, mine, not valid, following if mine else None, slot)
            model.slot = slot if mine else model.slot
            self.polls.append(poll)
        if expected == "backoff":
            # The owner is gone, and that counts as a failure; the repeated call is answered alike.
            model.close()
            model.attempt += 1
            assert self.redis.zscore(self.names.due, UNIT) > now
            return
        if mine:
            claimed = self.redis.hget(self.names.unit(UNIT), "claimed")
            until = claimed and claimed.split()[2]
            due = {"busy": until, "claimed": min(following, float(until or 0))}.get(expected, following)
        assert self.redis.zscore(self.names.due, UNIT) == (due if due is None else float(due))

    @rule(keys=KEYS, pushed=st.booleans(), publishes=st.sampled_from([0, 1, 2]))
    def poll(self, keys: list[str], pushed: bool, publishes: int) -> None:
        """A whole poll of the leader, as far as its publisher gets."""
        self.claim_it("leader", 1, HOUR, late=False)
        if self.model.claim and self.model.claim.by == self.terms[-1]:
            self.commit_small(keys, 1, pushed, "")
            latest = sorted(self.model.batches).index(self.polls[-1]) if self.polls[-1] in self.model.batches else None
            if latest is not None and publishes:
                self.publish(latest, publishes - 1, 2)

    @precondition(lambda self: self.model.claim)
    @rule()
    def take_over(self) -> None:
        """A new leader claims while the old one's poll is still open."""
        self.elect()
        self.claim_it("leader", 1, HOUR, late=False)

    @precondition(lambda self: self.polls)
    @rule(keys=KEYS, which=st.integers(0, 3), pushed=st.booleans(), cursor=st.sampled_from(["", '"next"', "7"]))
    def commit_small(self, keys: list[str], which: int, pushed: bool, cursor: str) -> None:
        """A poll, mostly the latest, commits a few items, one without a key; the call is sent twice."""
        poll = self.some_poll(which)
        if poll not in self.model.staged:
            found: list[str | None] = [*self.fresh(keys), None]
            commands = ["LPUSH", 1, len(found), *(item_id(poll, n) for n in range(len(found)))] if pushed else []
            self.check_commit(poll, found, cursor, commands)

    @precondition(lambda self: self.polls and self.made < 3)
    @rule(items=LARGE, which=st.integers(0, 3), commits=st.booleans())
    def stage_large(self, items: int, which: int, commits: bool) -> None:
        """A poll stages more than one chunk, and commits it at once, later, or does not live so long."""
        poll, model = self.some_poll(which), self.model
        if poll in model.staged or poll in model.batches:
            return
        self.made += 1
        found: list[str | None] = [*self.fresh([*(f"{self.made}-{n}" for n in range(items - 1)), "a"])]
        for _ in range(2):
            accepted = self.ledger.stage(self.unit, poll, self.works(found))
            assert accepted is (model.claim is not None and model.claim.poll == poll)
        if accepted:
            model.staged[poll] = found
            if commits:
                self.commit_staged(0)

    @precondition(lambda self: self.made < 3)
    @rule(items=LARGE, commits=st.booleans())
    def poll_large(self, items: int, commits: bool) -> None:
        """A whole poll of the leader that brings more than one chunk, as far as it gets."""
        self.claim_it("leader", 1, HOUR, late=False)
        if self.polls:
            self.stage_large(items, 1, commits)

    @precondition(lambda self: self.model.staged)
    @rule(which=st.integers(0, 9))
    def commit_staged(self, which: int) -> None:
        """A poll that has staged commits, if it still may; the call is sent twice."""
        poll = sorted(self.model.staged)[-1 - which % len(self.model.staged)]
        self.check_commit(poll, self.model.staged[poll], "", [])

    @precondition(lambda self: self.polls)
    @rule(which=st.integers(0, 3), failed=st.booleans())
    def end(self, which: int, failed: bool) -> None:
        """A poll ends without items; the call is sent twice."""
        poll, model = self.some_poll(which), self.model
        open_ = model.claim is not None and model.claim.poll == poll
        before = self.dump()
        note = {
            "poll": poll, "unit": UNIT, "history": "200", "slot": "1", "failures": "add" if failed else "reset",
        }  # fmt: skip
        answers = [script("close_polls")(self.store, ttl=HOUR, ends=["{}", json.dumps(note)])[0] for _ in range(2)]
        if not open_:
            assert answers[0] == answers[1]
            assert answers[0] in (b"already", b"refused")
            assert self.dump() == before
            return
        assert answers == [b"ended", b"already"]
        model.close()
        model.attempt = model.attempt + 1 if failed else 0

    @precondition(lambda self: self.model.batches)
    @rule(
        batch=st.integers(0, 99),
        index=st.integers(0, 3000),
        status=st.sampled_from(["success", "failure"]),
        silent=st.booleans(),
    )
    def finish(self, batch: int, index: int, status: str, silent: bool) -> None:
        """Any item of any batch ends, published or not, announced or not, again or not; the call is sent twice."""
        poll = sorted(self.model.batches)[batch % len(self.model.batches)]
        found = self.model.batches[poll]
        self.finish_item(poll, index % found.n, status, silent=silent)

    @precondition(lambda self: self.model.batches)
    @rule(batch=st.integers(0, 99), unfinished=st.integers(0, 2))
    def finish_all(self, batch: int, unfinished: int) -> None:
        """Nearly all items of a batch end."""
        poll = sorted(self.model.batches)[batch % len(self.model.batches)]
        for index in sorted(self.model.batches[poll].unfinished)[unfinished:][:CHUNK]:
            self.finish_item(poll, index, "success", times=1)

    @rule(index=st.integers(0, 5))
    def finish_unknown(self, index: int) -> None:
        """A task that nobody committed ends."""
        task_id = item_id(new_poll_id(1), index)
        where = parse_item_id(task_id)
        assert where is not None
        self.finishes += 1
        assert self.end_item(task_id, "success", announced=False) == b"unknown"

    @precondition(lambda self: self.model.batches)
    @rule(batch=st.integers(0, 99), skip=st.sampled_from([0, 0, 0, 1, CHUNK]), size=st.sampled_from([1, 3, CHUNK]))
    def publish(self, batch: int, skip: int, size: int) -> None:
        """Somebody publishes the next part of a batch, or one that is not its turn; the call is sent twice."""
        poll = sorted(self.model.batches)[batch % len(self.model.batches)]
        found = self.model.batches[poll]
        first = min(found.published + skip, found.n)
        last = min(first + size, found.n)
        ids = [item_id(poll, n) for n in range(first, last)]
        expected = 2 if found.published >= last else 1 if first == found.published else 0
        for attempt in range(2):
            answer = script("publish")(
                self.store, batch=self.names.poll(poll), targets=[QUEUE], poll=poll, first=first, last=last,
                chunk=0, destinations="",
                commands=["LPUSH", 1, len(ids), *ids],
            )  # fmt: skip
            assert answer == (2 if attempt and expected == 1 else expected)
        if expected == 1:
            found.published = last
            self.model.queue += ids

    @rule()
    def sweep(self) -> None:
        """The leader's cycle removes what was staged by polls that ended without a commit."""
        model, names = self.model, self.names
        for entry in self.redis.zrange(names.staged, 0, -1):
            self.redis.zadd(names.staged, {entry: 1})
        sweep_staged(self.store, staged_list(self.store))
        gone = [poll for poll in model.staged if model.claim is None or model.claim.poll != poll]
        for poll in gone:
            del model.staged[poll]
            assert not list(self.redis.scan_iter(f"{names.chunk_prefix(poll)}*", count=1000))
        stored = {key.decode() for key in self.redis.hkeys(names.item_keys(UNIT))}
        assert stored == model.held.keys() | {key for keys in model.staged.values() for key in keys if key is not None}

    @rule()
    def look_at_the_clock(self) -> None:
        """The unit is due exactly if its due time has come."""
        due = self.redis.zscore(self.names.due, UNIT)
        now, following, lines = script("due")(self.store, limit=10, mine=self.terms[-1])
        assert lines.decode().split(" ")[4:] == ([UNIT] if due <= now else [])
        assert following == (b"" if due <= now else b"%d" % due)


# Finding the shortest of all failing rows takes a while.
@pytest.mark.timeout(400)
@EXAMPLES
def test_the_ledger_is_as_its_model(redis_url: str, examples: int) -> None:
    """Store and model agree after every step, in whatever order the calls come, and when they come twice."""
    run_machine(LedgerMachine, redis_url, examples)


@pytest.mark.parametrize("batch", [False, True], ids=["found nothing", "found something"])
def test_a_poll_by_hand_does_not_move_the_cadence(redis_url: str, batch: bool) -> None:
    """A unit that comes due while it is polled by hand is polled as soon as that poll has ended."""
    machine = type("Machine", (LedgerMachine,), {"url": redis_url})()
    machine.begin(0.0)
    machine.claim_it("hand", 0, HOUR, late=False)
    machine.claim_it("leader", 0, HOUR, late=False)  # busy

    if batch:
        machine.commit_small(["a"], 1, pushed=True, cursor="")
    else:
        machine.end(1, failed=False)

    _, _, lines = script("due")(machine.store, limit=10, mine="")
    machine.teardown()
    assert lines.decode().split(" ")[4:] == [UNIT]


def test_ids_of_the_model_are_ids_of_the_package() -> None:
    """The model's queue is compared by the beginning that all ids of one poll share."""
    poll = new_poll_id(1)

    assert base(item_id(poll, 0)) == base(poll)
