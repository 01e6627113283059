"""A store beside its model: what both are asked, and that they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from celery_perpetual.ledger.ids import item_id, new_poll_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.ledger import Closing, Ledger
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.scripts import script
from tests.support.ledger_model import HOUR, QUEUE, ROOM, UNIT, Batch, Model, unit
from tests.support.script_slots import end_slots
from tests.support.scripts import store_at

if TYPE_CHECKING:
    from collections.abc import Iterator


class LedgerStore(RuleBasedStateMachine):
    """One unit and its leaders, in the store and in the model; rules are those who call."""

    url = ""

    finishes = 0

    @initialize(window=st.sampled_from([0.0, 3600.0]))
    def begin(self, window: float) -> None:
        self.store = store_at(self.url)
        self.redis: Any = self.store.redis
        self.redis.flushdb()
        self.names = self.store.keys
        self.unit = unit(window)
        self.ledger = Ledger(self.store)
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
            self.store, events="other-events", owner=owner, ttl=HOUR, about="{}", mark=0, epoch_known="", epoch_new="e"
        )
        self.terms.append(f"{owner}:{term.decode()}")
        row = [UNIT, "every 30 s", 30_000, 0]
        script("register")(self.store, mine=self.terms[-1], rows=row)

    def check_commit(self, poll: str, keys: list[str | None], cursor: str, commands: list[Any]) -> None:
        model, open_ = self.model, self.model.claim
        following = str(open_.following) if open_ and open_.following else ""
        closing = Closing(poll_id=poll, outcome="{}", slot=1, following=following, cursor=cursor, history_ttl=24 * HOUR)
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
            answer = self.ledger.commit(self.unit, closing, self.works(keys), commands, queues)
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

    def finish_item(self, poll: str, index: int, status: str, times: int = 2, *, silent: bool = False) -> None:
        found, task_id = self.model.batches[poll], item_id(poll, index)
        self.finishes += 1
        # A silent end leaves nothing by which the second of two could be known: any silent one may be a repeated call.
        again = b"first" if silent and task_id not in self.model.announced else b"late"
        for _ in range(times):
            verdict = self.end_item(task_id, status, announced=not silent)
            assert verdict == (b"first" if index in found.unfinished else again)
        if index in found.unfinished and not silent:
            self.model.announced.add(task_id)
        found.unfinished.discard(index)
        key = found.keys[index]
        if key is not None:
            self.model.recent.add(key)

    def end_item(self, task_id: str, status: str, *, announced: bool = True) -> bytes:
        """Send the end of an item; its head makes repeated calls known as such. Returns the verdict."""
        head = f'{{"final": true, "nonce": {self.finishes}' if announced else ""
        slots = end_slots(self.names, task_id, status, head)
        verdict: bytes = script("end_item")(self.store, **slots, events="ends")[0]
        return verdict

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
        taken = self.ledger.taken(UNIT, some, new_poll_id(1), since=0).in_flight
        assert taken == (model.held.keys() | model.recent) & set(some)

    @invariant()
    def batches_are_as_modelled(self) -> None:
        """Each published message is in the queue once, in order, and never more than there are."""
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
        unfinished = {poll for poll, batch in model.batches.items() if batch.unfinished}
        assert {poll.decode() for poll in self.redis.zrange(names.open, 0, -1)} == unfinished
        assert [each.decode() for each in reversed(self.redis.lrange(QUEUE, 0, -1))] == model.queue
        assert len(set(model.queue)) == len(model.queue)

    def some_poll(self, which: int) -> str:
        """The latest poll mostly, else an earlier one."""
        return self.polls[-1] if which or len(self.polls) == 1 else self.polls[-2]

    def fresh(self, keys: list[str]) -> list[str]:
        """Return those of these keys that a poll would find free."""
        taken = self.ledger.taken(UNIT, keys, new_poll_id(1), since=0).in_flight
        assert taken == (self.model.held.keys() | self.model.recent) & set(keys)
        return [key for key in keys if key not in taken]

    def kept_records(self) -> Iterator[tuple[str, int, set[int]]]:
        """Whose records should be there: poll, number of items, chunks with an item that has not ended."""
        for poll, batch in self.model.batches.items():
            yield poll, batch.n, {index // CHUNK for index in batch.unfinished}
        for poll, keys in self.model.staged.items():
            yield poll, len(keys), {index // CHUNK for index in range(len(keys))}

    @staticmethod
    def works(keys: list[str | None]) -> list[CheckedItem]:
        return [CheckedItem("deliver", b"[[], {}]", "json", {}, key, None) for key in keys]

    def dump(self) -> dict[bytes, bytes]:
        pipe = self.redis.pipeline(transaction=False)
        keys = sorted(self.redis.keys("*"))
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))
