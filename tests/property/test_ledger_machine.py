"""The ledger against a model of it: claims, commits, ends, publishing, whatever comes in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_perpetual import PerpetualOptions, PerpetualTask
from celery_perpetual.ledger import CHUNK, Closing, Ledger, base, item_id, new_poll_id, place, sweep_staged
from celery_perpetual.store import Store, address, script
from celery_perpetual.tasks import discover
from celery_perpetual.tasks.work import Work
from tests.support.machines import run_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.tasks import Perpetuity

UNIT, QUEUE = "perpetual:deliver", "queue"
ROOM = 1010
HOUR = 3_600_000
KEYS = st.lists(st.sampled_from(["a", "b", "c", "d", "", "7", "東京:%", "x y\nz"]), unique=True, max_size=6)
# More than one chunk, also where the one key that may be taken is left out.
LARGE = st.sampled_from([CHUNK + 2, 2 * CHUNK])


def perpetuity(window: float) -> Perpetuity:
    app = Celery("shop", set_as_current=False)
    options = PerpetualOptions(dedup_window=window)

    @app.task(name="deliver", base=PerpetualTask, poll_every=30, next_batch=list, max_in_flight=ROOM,
              perpetual_options=options, shared=False)  # fmt: skip
    def deliver() -> None: ...

    return discover(app).tasks["deliver"]


# ---- the model


@dataclass
class Batch:
    """A committed batch."""

    keys: list[str | None]
    published: int
    unfinished: set[int]

    @property
    def n(self) -> int:
        return len(self.keys)


@dataclass
class Claim:
    """The open claim of the unit."""

    poll: str
    by: str
    over: bool
    following: int | None
    slot: int


@dataclass
class Model:
    """What should be true of one unit."""

    claim: Claim | None = None
    slot: int | None = None
    cursor: str = ""
    attempt: int = 0
    ended: int = 0
    batches: dict[str, Batch] = field(default_factory=dict)
    staged: dict[str, list[str | None]] = field(default_factory=dict)
    recent: set[str] = field(default_factory=set)
    announced: set[str] = field(default_factory=set)
    queue: list[str] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return sum(len(batch.unfinished) for batch in self.batches.values())

    @property
    def held(self) -> dict[str, str]:
        """Item keys in flight, and the tasks that hold them."""
        return {
            key: item_id(poll, index)
            for poll, batch in self.batches.items()
            for index in batch.unfinished
            if (key := batch.keys[index]) is not None
        }

    def verdict(self, by: str, slot: int) -> str:
        open_, by_hand = self.claim, not by
        if open_ and not open_.over and (by_hand or open_.by in (by, "")):
            return "busy"
        if open_ and not open_.by and not by_hand:
            return "backoff"
        if self.slot is not None and (slot < self.slot or (slot == self.slot and not open_)):
            return "early"
        return "claimed"

    def close(self) -> None:
        self.claim = None
        self.ended += 1


# ---- the machine


class LedgerMachine(RuleBasedStateMachine):
    """One unit, its leaders, and everybody else who calls."""

    url = ""

    finishes = 0

    @initialize(window=st.sampled_from([0.0, 3600.0]))
    def begin(self, window: float) -> None:
        self.store = Store(address(self.url), "P")
        self.redis: Any = self.store.redis
        self.redis.flushdb()
        self.names = self.store.keys
        self.perpetuity = perpetuity(window)
        self.ledger = Ledger(self.store, events_maxlen=10_000)
        self.model = Model()
        self.polls: list[str] = []
        self.terms: list[str] = []
        self.made = 0
        self.elect()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    @rule()
    def elect(self) -> None:
        """The leader is gone, and another one takes the lead."""
        names, owner = self.names, f"owner{len(self.terms)}"
        self.redis.delete(names.leader, names.leader_info)
        term, *_ = script("lead")(
            self.store, leader=names.leader, info=names.leader_info, term=names.term, epoch=names.epoch,
            handover=names.handover, events="other-events", owner=owner, ttl=HOUR, about="{}", epoch_new="e", maxlen=10,
        )  # fmt: skip
        self.terms.append(f"{owner}:{term.decode()}")
        row = [UNIT, "every 30 s", 30_000, 0]
        script("register")(
            self.store, leader=names.leader, units=names.units, due=names.due, mine=self.terms[-1],
            unit_prefix=names.unit_prefix, tail=row,
        )  # fmt: skip

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
        row = [UNIT, "deliver", slot, following if mine else "", poll, valid, 0, 200, HOUR]
        before, due = self.dump(), self.redis.zscore(self.names.due, UNIT)
        replies = [
            script("claim")(
                self.store, leader=self.names.leader, due=self.names.due, paused=self.names.paused,
                events=self.names.events, mine=mine, unit_prefix=self.names.unit_prefix,
                polls_prefix=self.names.polls_prefix, maxlen=10_000, tail=row,
            )
            for _ in range(2)
        ]  # fmt: skip
        if mine and mine != self.terms[-1]:
            assert replies == [[0], [0]]
            assert self.dump() == before
            return
        expected = model.verdict(mine, slot)
        for _, verdict, _anchor, cursor, in_flight, attempt, _last, _trigger in replies:
            assert verdict.decode() == expected
            if expected != "backoff":  # it counts the failure itself
                assert (cursor.decode(), int(in_flight), int(attempt)) == (model.cursor, model.in_flight, model.attempt)
        if expected == "claimed":
            model.ended += model.claim is not None
            model.claim = Claim(poll, mine, not valid, following if mine else None, slot)
            model.slot = slot if mine else model.slot
            self.polls.append(poll)
        if expected == "backoff":
            # Whoever had it is gone, and that counts as a failure; the repeated call is answered alike.
            model.close()
            model.attempt += 1
            assert self.redis.zscore(self.names.due, UNIT) > now
            return
        if mine:
            until = self.redis.hget(self.names.unit(UNIT), "claim_until")
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
            commands = ["LPUSH", 10, len(found), *(item_id(poll, n) for n in range(len(found)))] if pushed else []
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
            accepted = self.ledger.stage(self.perpetuity, poll, self.works(found))
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

    def check_commit(self, poll: str, keys: list[str | None], cursor: str, commands: list[Any]) -> None:
        model, open_ = self.model, self.model.claim
        following = str(open_.following) if open_ and open_.following else ""
        closing = Closing(poll_id=poll, outcome="{}", slot=1, following=following, cursor=cursor)
        if poll in model.batches:
            expected = "already"
        elif open_ is None or open_.poll != poll:
            expected = "refused"
        elif model.in_flight + len(keys) > ROOM:
            expected = "full"
        else:
            expected = "committed"
        before = self.dump()
        for attempt in range(2):
            queues = [QUEUE] if commands else []
            answer = self.ledger.commit(self.perpetuity, closing, self.works(keys), commands, queues)
            assert answer == ("already" if attempt and expected == "committed" else expected)
        if expected != "committed":
            assert self.dump() == before
            return
        model.close()
        model.attempt = 0
        model.cursor = cursor or model.cursor
        model.staged.pop(poll, None)
        model.batches[poll] = Batch(keys, len(keys) if commands else 0, set(range(len(keys))))
        model.queue += [item_id(poll, n) for n in range(len(keys))] if commands else []

    @precondition(lambda self: self.polls)
    @rule(which=st.integers(0, 3), failed=st.booleans())
    def end(self, which: int, failed: bool) -> None:
        """A poll ends without items; the call is sent twice."""
        poll, model, names = self.some_poll(which), self.model, self.names
        open_ = model.claim is not None and model.claim.poll == poll
        before = self.dump()
        answers = [
            script("end")(
                self.store, key=names.unit(UNIT), due=names.due, polls=names.polls(UNIT), events=names.events,
                paused=names.paused, cursors=names.cursors, poll=poll, unit=UNIT, outcome="{}", sign="", history=200, ttl=HOUR, maxlen=10_000,
                slot=1, following="", delay="", trigger="", failures="add" if failed else "reset", cursor="", pause="",
            )
            for _ in range(2)
        ]  # fmt: skip
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

    def finish_item(self, poll: str, index: int, status: str, times: int = 2, *, silent: bool = False) -> None:
        found, task_id = self.model.batches[poll], item_id(poll, index)
        self.finishes += 1
        # A silent end leaves nothing by which the second of two could be known: any silent one may be a repeated call.
        again = 1 if silent and task_id not in self.model.announced else 2
        for _ in range(times):
            assert self.settle(task_id, status, announced=not silent) == (1 if index in found.unfinished else again)
        if index in found.unfinished and not silent:
            self.model.announced.add(task_id)
        found.unfinished.discard(index)
        key = found.keys[index]
        if key is not None:
            self.model.recent.add(key)

    @rule(index=st.integers(0, 5))
    def finish_unknown(self, index: int) -> None:
        """A task that nobody committed ends."""
        task_id = item_id(new_poll_id(1), index)
        where = place(task_id)
        assert where is not None
        self.finishes += 1
        assert self.settle(task_id, "success", announced=False) == 0

    def settle(self, task_id: str, status: str, *, announced: bool = True) -> int:
        """Send the script that settles an end; its head makes repeated calls known as such."""
        names, where = self.names, place(task_id)
        assert where is not None
        poll, head = where.poll_id, f'{{"final": true, "nonce": {self.finishes}' if announced else ""
        first, _ = script("finish")(
            self.store, batch=names.poll(poll), chunk=names.chunk(poll, where.chunk),
            done=names.done(poll, where.chunk), completion=names.completion(task_id), queue=names.queue(task_id),
            channel=names.channel(task_id), everybody=names.everybody, events="ends", counters=names.counters,
            batches=names.batches, batch_channel=names.channel(poll), id=task_id, position=where.position,
            status=status, head=head, batch_ttl=HOUR, record_ttl=HOUR, queue_ttl=HOUR, maxlen=10_000,
            prefix=names.prefix, poll=poll,
        )  # fmt: skip
        return int(first)

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
                self.store, batch=self.names.poll(poll), outbox=self.names.outbox, more_keys=[QUEUE], poll=poll,
                first=first, last=last, tail=["LPUSH", 3, len(ids), *ids],
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
        sweep_staged(self.store)
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
        now, following, *rows = script("due")(
            self.store, due=self.names.due, limit=10, unit_prefix=self.names.unit_prefix, mine=self.terms[-1]
        )
        assert [row.decode() for row in rows[:1]] == ([UNIT] if due <= now else [])
        assert following == (b"" if due <= now else b"%d" % due)

    @invariant()
    def the_unit_is_as_modelled(self) -> None:
        """Counter, cursor, claim and outcomes."""
        model, names = self.model, self.names
        facts = self.redis.hmget(names.unit(UNIT), "inflight", "cursor", "claim", "attempt")
        in_flight, cursor, claim, attempt = [fact.decode() if fact else "" for fact in facts]
        assert int(in_flight or 0) == model.in_flight
        assert (cursor, int(attempt or 0)) == (model.cursor, model.attempt)
        assert claim == (model.claim.poll if model.claim else "")
        # A unit whose polls are open when leaders die is told of with an event of its own.
        told = [entry[b"event"] for _, entry in self.redis.xrange(names.events)]
        assert told.count(b"poll") == self.redis.llen(names.polls(UNIT)) == model.ended
        assert set(told) <= {b"poll", b"alert.poll_killed_leader"}

    @invariant()
    def keys_are_as_modelled(self) -> None:
        """Exactly the keys of unfinished items are taken, and within the window those that have just ended."""
        model = self.model
        assert self.ledger.in_flight_keys(UNIT) == model.held.keys()
        some = ["a", "b", "c", "d", "", "7", "東京:%", "x y\nz", "1-0"]
        taken = self.ledger.taken(UNIT, some, new_poll_id(1), since=0)
        assert taken == (model.held.keys() | model.recent) & set(some)

    @invariant()
    def batches_are_as_modelled(self) -> None:
        """What is published is in the queue once, in order, and never more than there is."""
        model, names = self.model, self.names
        for poll, batch in model.batches.items():
            stored = [int(each) for each in self.redis.hmget(names.poll(poll), "n", "pub", "left")]
            assert stored == [batch.n, batch.published, len(batch.unfinished)]
            assert batch.published <= batch.n
            assert (self.redis.pttl(names.poll(poll)) > 0) is (not batch.unfinished)
        kept: dict[str, dict[int, int]] = {}
        for key in self.redis.scan_iter(f"{names.chunk_prefix('*')}*", count=1000):
            _, _, poll, chunk = key.decode().split(":")
            kept.setdefault(poll, {})[int(chunk)] = self.redis.llen(key)
            assert (self.redis.pttl(key) > 0) is (poll in model.staged)
        assert kept == {
            poll: {at: min(CHUNK, n - at * CHUNK) for at in chunks} for poll, n, chunks in self.kept_records() if chunks
        }
        assert {entry.decode() for entry in self.redis.zrange(names.staged, 0, -1)} == {
            f"{poll} {UNIT}" for poll in model.staged
        }
        waiting = {poll.decode() for poll in self.redis.zrange(names.outbox, 0, -1)}
        assert waiting == {poll for poll, batch in model.batches.items() if batch.published < batch.n}
        assert [each.decode() for each in reversed(self.redis.lrange(QUEUE, 0, -1))] == model.queue
        assert len(set(model.queue)) == len(model.queue)

    # ---- helpers

    def some_poll(self, which: int) -> str:
        """The latest poll mostly, else an earlier one."""
        return self.polls[-1] if which or len(self.polls) == 1 else self.polls[-2]

    def fresh(self, keys: list[str]) -> list[str]:
        """What of these keys a poll would find free."""
        taken = self.ledger.taken(UNIT, keys, new_poll_id(1), since=0)
        assert taken == (self.model.held.keys() | self.model.recent) & set(keys)
        return [key for key in keys if key not in taken]

    def kept_records(self) -> Iterator[tuple[str, int, set[int]]]:
        """Whose records should be there: poll, number of items, chunks with an item that has not ended."""
        for poll, batch in self.model.batches.items():
            yield poll, batch.n, {index // CHUNK for index in batch.unfinished}
        for poll, keys in self.model.staged.items():
            yield poll, len(keys), {index // CHUNK for index in range(len(keys))}

    @staticmethod
    def works(keys: list[str | None]) -> list[Work]:
        return [Work("deliver", b"[[], {}]", "json", {}, key, None) for key in keys]

    def dump(self) -> dict[bytes, bytes]:
        pipe = self.redis.pipeline(transaction=False)
        keys = sorted(self.redis.keys("*"))
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))


# Finding the shortest of all failing rows takes a while.
@pytest.mark.timeout(400)
def test_the_ledger_is_as_its_model(redis_url: str) -> None:
    """Whatever is called in which order, and twice, store and model agree after every step."""
    run_machine(LedgerMachine, redis_url)


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

    _, _, *rows = script("due")(
        machine.store, due=machine.names.due, limit=10, unit_prefix=machine.names.unit_prefix, mine=""
    )
    machine.teardown()
    assert [row.decode() for row in rows[:1]] == [UNIT]


def test_ids_of_the_model_are_ids_of_the_package() -> None:
    """What all ids of one poll start with is what the model's queue is compared by."""
    poll = new_poll_id(1)

    assert base(item_id(poll, 0)) == base(poll)
