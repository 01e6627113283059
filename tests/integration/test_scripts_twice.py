"""Every Lua script, sent twice with the very same arguments, and with keys of a wrong type.

A client repeats a call whose reply got lost. So after the second call the whole keyspace must be what it was after
the first, and the answer must be what the caller of the lost one needs. And Redis rolls nothing back: a script that
fails in the middle has written half of what it means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

import celery_perpetual
from celery_perpetual.ledger import base, encode, item_id, new_poll_id, sweep_staged
from celery_perpetual.store import Store, address, script
from celery_perpetual.tasks.work import Work
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LUA = Path(celery_perpetual.__path__[0]) / "store" / "lua"

UNIT, OTHER_UNIT = "perpetual:deliver", "perpetual:zürich%3A東京"
POLL, NEXT_POLL = new_poll_id(1_700_000_000_000), new_poll_id(1_700_000_001_000)
QUEUE = "the-broker's-queue"
MINUTE = 60_000
DAY = 24 * 60 * MINUTE
OUTCOME = json.dumps({"status": "enqueued"})

Slots = dict[str, Any]


class World:
    """A store, and what leads to the states in which scripts are called. Everybody's first owner is ``a``."""

    def __init__(self, url: str) -> None:
        self.store = Store(address(url), "P")
        self.keys = self.store.keys
        self.redis: Any = self.store.redis
        self.leader = ""

    def run(self, name: str, slots: Slots) -> Any:
        return script(name)(self.store, **slots)

    # Arguments of each script.

    def lead(self, owner: str = "a") -> Slots:
        k = self.keys
        return {
            "leader": k.leader, "info": k.leader_info, "term": k.term, "epoch": k.epoch, "handover": k.handover,
            "events": k.events, "owner": owner, "ttl": MINUTE, "about": f'{{"owner": "{owner}"}}',
            "epoch_new": f"epoch of {owner}", "maxlen": 1000,
        }  # fmt: skip

    def renew(self, mine: str | None = None) -> Slots:
        k = self.keys
        return {
            "leader": k.leader, "info": k.leader_info, "handover": k.handover, "mine": mine or self.leader,
            "ttl": MINUTE, "about": '{"units": 7}',
        }  # fmt: skip

    def resign(self, mine: str | None = None) -> Slots:
        k = self.keys
        return {
            "leader": k.leader, "info": k.leader_info, "events": k.events, "mine": mine or self.leader,
            "reason": "beat stopped", "maxlen": 1000,
        }  # fmt: skip

    def register(self, every: int = MINUTE, mine: str | None = None) -> Slots:
        k = self.keys
        rows = [UNIT, f"every {every} ms", every, 1000, OTHER_UNIT, "at noon", "", DAY]
        return {
            "leader": k.leader, "units": k.units, "due": k.due, "mine": mine or self.leader,
            "unit_prefix": k.unit_prefix, "tail": rows,
        }  # fmt: skip

    def forget(self, mine: str | None = None) -> Slots:
        return {"leader": self.keys.leader, "due": self.keys.due, "mine": mine or self.leader, "tail": [UNIT, "none"]}

    def due(self) -> Slots:
        return {"due": self.keys.due, "limit": 100, "unit_prefix": self.keys.unit_prefix, "mine": self.leader}

    def claim(
        self, poll: str = POLL, *, mine: str | None = None, slot: int = 1000, valid: int = MINUTE, units: int = 1
    ) -> Slots:
        k = self.keys
        rows: list[Any] = [UNIT, "deliver", slot, DAY, poll, valid, 0, 200, DAY]
        rows += [OTHER_UNIT, "other", slot, DAY, poll[:-1] + "0", valid, 0, 200, DAY] * (units - 1)
        return {
            "leader": k.leader, "due": k.due, "paused": k.paused, "events": k.events,
            "mine": self.leader if mine is None else mine, "unit_prefix": k.unit_prefix,
            "polls_prefix": k.polls_prefix, "maxlen": 1000, "tail": rows,
        }  # fmt: skip

    def stage(self, chunk: int = 0, poll: str = POLL, items: int = 3) -> Slots:
        k = self.keys
        works = [work(f"{chunk}-{n}") for n in range(items)]
        return {
            "key": k.unit(UNIT), "chunk": k.chunk(poll, chunk), "item_keys": k.item_keys(UNIT), "staged": k.staged,
            "poll": poll, "unit": UNIT, "ttl": DAY, "records": items,
            "tail": [*(encode(each, "deliver") for each in works), *pairs(works, poll, chunk * items)],
        }  # fmt: skip

    def commit(
        self, poll: str = POLL, *, items: int = 3, chunks: int = 0, pushed: bool = True, most: int = 100,
        delay: str = "", cursor: str = '{"after": 7}',
    ) -> Slots:  # fmt: skip
        k = self.keys
        works = [] if chunks else [work(n) for n in range(items)]
        messages = [f"message {n}" for n in range(items)] if pushed else []
        commands = ["LPUSH", 10, len(messages), *messages] if pushed else []
        return {
            "key": k.unit(UNIT), "due": k.due, "polls": k.polls(UNIT), "events": k.events, "batch": k.poll(poll),
            "item_keys": k.item_keys(UNIT), "staged": k.staged, "outbox": k.outbox,
            "cursors": k.cursors, "on_done": 0, "more_keys": [QUEUE] if pushed else [],
            "poll": poll, "unit": UNIT, "outcome": OUTCOME, "history": 200, "ttl": DAY, "maxlen": 1000, "slot": 1000,
            "following": DAY, "delay": delay, "trigger": "drain" if delay else "", "cursor": cursor,
            "task": "deliver", "items": items, "most": most, "window": MINUTE, "chunk_key": k.chunk_prefix(poll),
            "chunks": chunks, "pairs_here": len(works), "pushed": len(messages),
            "tail": [*(encode(each, "deliver") for each in works), *pairs(works, poll, 0), *commands],
        }  # fmt: skip

    def end(
        self, poll: str = POLL, *, sign: str = "empty", delay: str = "", failures: str = "reset", pause: str = ""
    ) -> Slots:
        k = self.keys
        return {
            "key": k.unit(UNIT), "due": k.due, "polls": k.polls(UNIT), "events": k.events, "paused": k.paused,
            "cursors": k.cursors, "poll": poll, "unit": UNIT, "outcome": OUTCOME, "sign": sign, "history": 200, "ttl": DAY, "maxlen": 1000,
            "slot": 1000, "following": DAY, "delay": delay, "trigger": "backoff" if delay else "",
            "failures": failures, "cursor": "7", "pause": pause,
        }  # fmt: skip

    def publish(self, first: int, last: int, poll: str = POLL) -> Slots:
        k = self.keys
        messages = [f"message {n}" for n in range(first, last)]
        return {
            "batch": k.poll(poll), "outbox": k.outbox, "more_keys": [QUEUE], "poll": poll, "first": first, "last": last,
            "tail": ["LPUSH", 3, len(messages), *messages],
        }  # fmt: skip

    def finish(self, index: int, status: str = "success", poll: str = POLL) -> Slots:
        k, task_id = self.keys, item_id(poll, index)
        return {
            "batch": k.poll(poll), "chunk": k.chunk(poll, 0), "done": k.done(poll, 0),
            "completion": k.completion(task_id), "queue": k.queue(task_id), "channel": k.channel(task_id),
            "everybody": k.everybody, "events": k.events, "counters": k.counters, "batches": k.batches,
            "batch_channel": k.channel(poll), "id": task_id, "position": index, "status": status,
            "head": json.dumps({"task_id": task_id, "status": status, "final": True})[:-1], "batch_ttl": DAY,
            "record_ttl": DAY, "queue_ttl": DAY, "maxlen": 1000, "prefix": k.prefix, "poll": poll,
        }  # fmt: skip

    def once(self, entry: str = POLL) -> Slots:
        return {
            "waiting": self.keys.batches, "more_keys": [QUEUE], "entry": entry, "tail": ["LPUSH", 2, 1, "message"]
        }  # fmt: skip

    def travel(self, poll: str = POLL) -> Slots:
        return {"key": self.keys.unit(UNIT), "poll": poll, "valid": MINUTE}

    def carry(self, poll: str = POLL) -> Slots:
        return {"key": self.keys.unit(UNIT), "due": self.keys.due, "poll": poll, "unit": UNIT, "valid": 5 * MINUTE}

    def nudge(self) -> Slots:
        return {"key": self.keys.unit(UNIT), "due": self.keys.due, "unit": UNIT, "trigger": "nudge"}

    def set_cursor(self, cursor: str = "8") -> Slots:
        k = self.keys
        return {"key": k.unit(UNIT), "cursors": k.cursors, "unit": UNIT, "cursor": cursor}

    def unstage(self, *keys: str, poll: str = POLL, last: bool = False) -> Slots:
        k = self.keys
        return {
            "key": k.unit(UNIT), "batch": k.poll(poll), "item_keys": k.item_keys(UNIT), "staged": k.staged,
            "more_keys": [k.chunk(poll, 0), k.chunk(poll, 1)] if last else [],
            "poll": poll, "unit": UNIT, "base": base(poll), "last": int(last), "tail": keys,
        }  # fmt: skip

    def pause(self, reason: str = "holidays", scope: str = UNIT, until_ms: int | None = None) -> Slots:
        told = json.dumps({"by": "me", "reason": reason, "until_ms": until_ms})
        return {"paused": self.keys.paused, "events": self.keys.events, "scope": scope, "pause": told, "maxlen": 1000}

    def resume(self, scope: str = UNIT) -> Slots:
        k = self.keys
        return {
            "paused": k.paused, "due": k.due, "events": k.events, "receipt": k.receipt("call"), "scope": scope,
            "about": "{}", "maxlen": 1000, "receipt_ttl": MINUTE, "unit_prefix": k.unit_prefix, "tail": [UNIT, OTHER_UNIT],
        }  # fmt: skip

    def trim_pauses(self) -> Slots:
        return {"paused": self.keys.paused}

    def drop_unit(self, unit: str = UNIT) -> Slots:
        k = self.keys
        return {
            "key": k.unit(unit), "units": k.units, "due": k.due, "polls": k.polls(unit), "unit": unit, "age": DAY,
        }  # fmt: skip

    # States.

    def led(self, owner: str = "a") -> None:
        term = self.run("lead", self.lead(owner))[0].decode()
        self.leader = f"{owner}:{term}"

    def registered(self) -> None:
        self.led()
        self.run("register", self.register())

    def claimed(self, poll: str = POLL, **options: Any) -> None:
        if not self.leader:
            self.registered()
        assert self.run("claim", self.claim(poll, **options))[1] == b"claimed"

    def claimed_by_earlier_term(self) -> None:
        self.claimed()
        self.run("resign", self.resign())
        self.led("b")

    def staged(self, chunks: int = 2) -> None:
        self.claimed()
        for chunk in range(chunks):
            assert self.run("stage", self.stage(chunk)) == 1

    def abandoned(self, chunks: int = 2) -> None:
        self.staged(chunks)
        self.run("end", self.end())

    def committed(self, **options: Any) -> None:
        self.claimed()
        assert self.run("commit", self.commit(**options)) == b"committed"

    def finished(self, *indexes: int) -> None:
        self.committed()
        for index in indexes:
            assert self.run("finish", self.finish(index))[0] == 1

    def ended_empty(self) -> None:
        """A poll that found nothing, and the next one is open: its outcome will be folded."""
        self.claimed()
        self.run("end", self.end())
        self.claimed(NEXT_POLL, slot=2000)

    def handed_over(self) -> None:
        self.led()
        self.redis.set(self.keys.handover, "b", px=DAY)
        self.run("resign", self.resign())

    def paused(self) -> None:
        self.registered()
        self.run("pause", self.pause())

    def pause_is_over(self) -> None:
        self.registered()
        self.run("pause", self.pause(until_ms=1))

    def orphaned(self, cursor: str) -> None:
        """A unit that was polled once, and was last known long ago."""
        self.claimed()
        self.run("end", {**self.end(), "cursor": cursor})
        self.redis.zadd(self.keys.units, {UNIT: 1})


def work(key: object) -> Work:
    return Work("deliver", b"[[], {}]", "json", {}, str(key), None)


def pairs(works: list[Work], poll: str, start: int) -> list[Any]:
    return [text for n, each in enumerate(works, start) for text in (each.key, item_id(poll, n))]


def after(client: Any, case: Case) -> dict[str, Any]:
    """The keyspace without what may differ between two calls of this case."""
    found = dump(client, case.moving)
    if case.moving_claim:
        found["P:u:" + UNIT][1].pop(b"claim_until")
    return found


def dump(client: Any, moving: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every key with its type, its content, and whether it expires; scores of ``moving`` zsets are left out."""
    found = {}
    for key in sorted(client.keys("*")):
        kind = client.type(key).decode()
        content: Any = {
            "string": lambda key=key: client.get(key),
            "list": lambda key=key: client.lrange(key, 0, -1),
            "hash": lambda key=key: client.hgetall(key),
            "set": lambda key=key: client.smembers(key),
            "zset": lambda key=key: dict(client.zrange(key, 0, -1, withscores=True)),
            "stream": lambda key=key: client.xrange(key),
        }[kind]()
        if key.decode() in moving:
            content = set(content)
        found[key.decode()] = (kind, content, client.pttl(key) >= 0)
    return found


@dataclass(frozen=True)
class Case:
    """One call: in which state, with which arguments, and what the first and the second are answered."""

    script: str
    state: str
    prepare: Callable[[World], object]
    slots: Callable[[World], Slots]
    first: Callable[[Any], bool]
    second: Callable[[Any, Any], bool] = lambda first, second: first == second
    moving: tuple[str, ...] = ()
    moving_claim: bool = False
    """The claim's end counts from each call."""
    writes: bool = True
    """False: a call that is refused, or only reads."""
    touches: Callable[[World], Mapping[str, str]] = field(default=lambda _: {})
    """Keys that the script builds itself, beside those that it is given, with their types."""


def answers(expected: Any) -> Callable[[Any], bool]:
    return lambda answer: answer == expected


def then(expected: Any) -> Callable[[Any, Any], bool]:
    return lambda _, second: second == expected


def same_claims(first: list[Any], second: list[Any]) -> bool:
    """The same answers; only the time may be another, and a trigger matters to nobody who was refused."""
    rows = [(answer[at : at + 7] for at in range(1, len(answer), 7)) for answer in (first, second)]
    return all(
        one[:6] == other[:6] and (one[0] != b"claimed" or one == other) for one, other in zip(*rows, strict=True)
    )


def verdicts(*expected: bytes) -> Callable[[Any], bool]:
    return lambda answer: tuple(answer[1::7]) == expected


def unit_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash"}


def claim_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash", w.keys.polls(UNIT): "list"}


def finish_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash", w.keys.item_keys(UNIT): "hash", w.keys.recent(UNIT): "zset"}


CASES = [
    # ---- leadership
    Case("lead", "nobody leads", lambda w: None, World.lead, lambda a: int(a[0]) > 0 and a[2] == b'{"owner": "a"}',
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4]),
    Case("lead", "somebody else leads", World.led, lambda w: w.lead("b"), lambda a: a[0] == b"0" and 0 < a[1] <= MINUTE,
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4], writes=False),
    Case("lead", "handed over to me", World.handed_over, lambda w: w.lead("b"), lambda a: int(a[0]) > 0,
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4]),
    Case("lead", "handed over to somebody else", World.handed_over, lambda w: w.lead("c"),
         lambda a: a[0] == b"0" and 0 < a[1] <= DAY, lambda a, b: a[0] == b[0], writes=False),
    Case("renew", "mine", World.led, World.renew, lambda a: a[:2] == [1, b""], lambda a, b: a[:2] == b[:2]),
    Case("renew", "mine, and somebody asks", lambda w: (w.led(), w.redis.set(w.keys.handover, "b", px=DAY)), World.renew,
         lambda a: a[:2] == [1, b"b"], lambda a, b: a[:2] == b[:2]),
    Case("renew", "somebody else's", World.led, lambda w: w.renew("a:1"), lambda a: a[:2] == [0, b""],
         lambda a, b: a[:2] == b[:2], writes=False),
    Case("resign", "mine", World.led, World.resign, answers(1)),
    Case("resign", "somebody else's", World.led, lambda w: w.resign("a:1"), answers(1), writes=False),
    # ---- the clock
    Case("register", "new units", World.led, World.register, answers(1), moving=("P:units",), touches=unit_keys),
    Case("register", "another schedule", lambda w: w.claimed(), lambda w: w.register(every=7000), answers(1),
         moving=("P:units",), touches=unit_keys),
    Case("register", "known units", World.registered, World.register, answers(1), moving=("P:units",)),
    Case("register", "not leading", World.led, lambda w: w.register(mine="a:1"), answers(0), writes=False),
    Case("forget", "leading", World.registered, World.forget, answers(1)),
    Case("forget", "not leading", World.registered, lambda w: w.forget("a:1"), answers(0), writes=False),
    Case("drop_unit", "without a cursor", lambda w: w.orphaned(""), World.drop_unit, answers(1), then(0)),
    Case("drop_unit", "with a cursor", lambda w: w.orphaned("7"), World.drop_unit, answers(2)),
    Case("drop_unit", "known of late", World.registered, World.drop_unit, answers(0), writes=False),
    Case("due", "one is due", World.registered, World.due, lambda a: a[2:6] == [UNIT.encode(), b"1000", b"", b""],
         lambda a, b: a[1:] == b[1:], writes=False, touches=unit_keys),
    Case("due", "nothing is due", lambda w: (w.led(), w.redis.zadd(w.keys.due, {UNIT: 9e12})), World.due,
         lambda a: a[1:] == [b"9000000000000"], lambda a, b: a[1:] == b[1:], writes=False),
    # ---- claims
    Case("claim", "by the leader", World.registered, World.claim, verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "several units", World.registered, lambda w: w.claim(units=2), verdicts(b"claimed", b"claimed"),
         same_claims, touches=claim_keys),
    Case("claim", "by hand", World.registered, lambda w: w.claim(mine=""), verdicts(b"claimed"), same_claims,
         touches=claim_keys),
    Case("claim", "taken over from an earlier term", World.claimed_by_earlier_term,
         lambda w: w.claim(NEXT_POLL, slot=2000), verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "taken over after its time", lambda w: w.claimed(valid=0), lambda w: w.claim(NEXT_POLL, slot=2000),
         verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "taken over by hand", lambda w: w.claimed(valid=0), lambda w: w.claim(NEXT_POLL, mine=""),
         verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "left open by hand", lambda w: w.claimed(mine="", valid=0), lambda w: w.claim(NEXT_POLL, slot=2000),
         verdicts(b"backoff"), same_claims, touches=claim_keys),
    Case("claim", "busy", lambda w: w.claimed(), lambda w: w.claim(NEXT_POLL, slot=2000), verdicts(b"busy"), same_claims,
         touches=claim_keys),
    Case("claim", "busy for a poll by hand", lambda w: w.claimed(), lambda w: w.claim(NEXT_POLL, mine=""),
         verdicts(b"busy"), same_claims, writes=False),
    Case("claim", "paused", World.paused, World.claim, verdicts(b"paused"), same_claims, touches=claim_keys),
    Case("claim", "everything paused", lambda w: (w.registered(), w.run("pause", w.pause(scope="*"))), World.claim,
         verdicts(b"paused"), same_claims, touches=claim_keys),
    Case("claim", "a slot that was polled", lambda w: (w.claimed(), w.run("end", w.end())), lambda w: w.claim(NEXT_POLL),
         verdicts(b"early"), same_claims, writes=False),
    Case("claim", "not leading", World.registered, lambda w: w.claim(mine="a:1"), answers([0]), writes=False),
    # ---- ends without items
    Case("end", "nothing found", lambda w: w.claimed(), World.end, answers(b"ended"), then(b"already")),
    Case("end", "nothing found once more", World.ended_empty, lambda w: w.end(NEXT_POLL), answers(b"ended"),
         then(b"already")),
    Case("end", "failed", lambda w: w.claimed(), lambda w: w.end(sign="", delay="30000", failures="add"),
         answers(b"ended"), then(b"already")),
    Case("end", "asks for a pause", lambda w: w.claimed(), lambda w: w.end(sign="", pause='{"by": "next_batch"}'),
         answers(b"ended"), then(b"already")),
    Case("end", "claim lost", lambda w: w.claimed(NEXT_POLL), World.end, answers(b"refused"), writes=False),
    # ---- batches
    Case("stage", "first chunk", lambda w: w.claimed(), World.stage, answers(1), moving=("P:staged",)),
    Case("stage", "second chunk", lambda w: w.staged(1), lambda w: w.stage(1), answers(1), moving=("P:staged",)),
    Case("stage", "claim lost", lambda w: w.claimed(NEXT_POLL), World.stage, answers(0), writes=False),
    Case("commit", "small, with its messages", lambda w: w.claimed(), World.commit, answers(b"committed"),
         then(b"already"), touches=lambda w: {w.keys.chunk(POLL, 0): "list"}),
    Case("commit", "small, to be published", lambda w: w.claimed(), lambda w: w.commit(pushed=False, delay="0"),
         answers(b"committed"), then(b"already"), touches=lambda w: {w.keys.chunk(POLL, 0): "list"}),
    Case("commit", "by hand", lambda w: w.claimed(mine=""), lambda w: {**w.commit(cursor=""), "following": ""},
         answers(b"committed"), then(b"already"), touches=lambda w: {w.keys.chunk(POLL, 0): "list"}),
    Case("commit", "staged", lambda w: w.staged(2), lambda w: w.commit(items=6, chunks=2, pushed=False),
         answers(b"committed"), then(b"already"), touches=lambda w: {w.keys.chunk(POLL, 1): "list"}),
    Case("commit", "claim lost", lambda w: w.claimed(NEXT_POLL), World.commit, answers(b"refused"), writes=False),
    Case("commit", "no room", lambda w: w.claimed(), lambda w: w.commit(most=2), answers(b"full"), writes=False),
    Case("commit", "staged records are gone", lambda w: w.staged(1),
         lambda w: w.commit(items=6, chunks=2, pushed=False), answers(b"missing"), writes=False),
    Case("publish", "a part", lambda w: w.committed(pushed=False), lambda w: w.publish(0, 2), answers(1), then(2)),
    Case("publish", "all", lambda w: w.committed(pushed=False), lambda w: w.publish(0, 3), answers(1), then(2)),
    Case("publish", "a part too far", lambda w: w.committed(pushed=False), lambda w: w.publish(1, 3), answers(0),
         writes=False),
    Case("publish", "unknown batch", lambda w: w.redis.zadd(w.keys.outbox, {POLL: 1}), lambda w: w.publish(0, 3),
         answers(0)),
    Case("finish", "one of several", World.committed, lambda w: w.finish(1), answers([1, 0]), touches=finish_keys),
    Case("finish", "the last one", lambda w: w.finished(0, 2), lambda w: w.finish(1, "failure"), answers([1, 0]),
         touches=finish_keys),
    Case("finish", "not announced", World.committed, lambda w: {**w.finish(1), "head": ""}, answers([1, 0]),
         touches=finish_keys),
    Case("finish", "unknown batch", lambda w: w.claimed(), lambda w: {**w.finish(1), "head": ""}, answers([0, 0]),
         writes=False),
    Case("once", "waiting", lambda w: w.redis.zadd(w.keys.batches, {POLL: 1}), World.once, answers(1), then(0)),
    Case("once", "sent by somebody", World.led, World.once, answers(0), writes=False),
    Case("unstage", "some keys", lambda w: w.abandoned(2), lambda w: w.unstage("0-0", "0-1"), answers(1)),
    Case("unstage", "all that is left", lambda w: w.abandoned(2), lambda w: w.unstage(last=True), answers(1)),
    Case("unstage", "a key that another poll has taken",
         lambda w: (w.abandoned(1), w.redis.hset(w.keys.item_keys(UNIT), "0-0", item_id(NEXT_POLL, 0))),
         lambda w: w.unstage("0-0"), answers(1), writes=False),
    Case("unstage", "still open", lambda w: w.staged(1), lambda w: w.unstage("0-0"), answers(0), writes=False),
    # ---- polls in workers
    Case("travel", "on its way", lambda w: w.claimed(), World.travel, answers(1), moving_claim=True),
    Case("travel", "claim lost", lambda w: w.claimed(NEXT_POLL), World.travel, answers(0), writes=False),
    Case("carry", "arrived", lambda w: (w.claimed(), w.run("travel", w.travel())), World.carry,
         lambda a: a[1:3] == [b"1000", b"schedule"], lambda a, b: a[1:] == b[1:], moving=("P:due",), moving_claim=True),
    Case("carry", "claim lost", lambda w: w.claimed(NEXT_POLL), World.carry, answers([]), writes=False),
    # ---- by hand
    Case("nudge", "not due yet", lambda w: (w.registered(), w.redis.zadd(w.keys.due, {UNIT: 9e12})), World.nudge,
         answers(1), moving=("P:due",)),
    Case("nudge", "not in the clock", World.led, World.nudge, answers(0), writes=False),
    Case("set_cursor", "set", World.registered, World.set_cursor, answers(1)),
    Case("set_cursor", "forget", lambda w: w.run("set_cursor", w.set_cursor()), lambda w: w.set_cursor(""), answers(1)),
    Case("set_cursor", "a poll is open", lambda w: w.claimed(), World.set_cursor, answers(0), writes=False),
    # ---- pauses
    Case("pause", "not paused yet", World.registered, World.pause, answers(1)),
    Case("pause", "paused for another reason", World.paused, lambda w: w.pause("strike"), answers(1)),
    Case("resume", "paused", World.paused, World.resume, answers(1), touches=unit_keys),
    Case("resume", "not paused", World.registered, World.resume, answers(0), writes=False),
    Case("resume", "the pause is over", World.pause_is_over, World.resume, answers(0), writes=False),
    Case("trim_pauses", "one is over", World.pause_is_over, World.trim_pauses, answers(None)),
    Case("trim_pauses", "one holds", World.paused, World.trim_pauses, answers(None), writes=False),
]  # fmt: skip


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    world = World(redis_url)
    yield world
    world.store.close()


def ready(world: World, case: Case) -> Slots:
    """An empty store, brought into the state of the case; returns the call's arguments."""
    world.redis.flushdb()
    world.leader = ""
    case.prepare(world)
    return case.slots(world)


def next_millisecond(world: World) -> None:
    """Whatever a script writes of its own time differs from now on."""
    before = world.store.now()
    wait_until(lambda: world.store.now() > before, "the store's clock goes on", interval=0.0005)


def test_every_script_has_a_case() -> None:
    """A script that somebody adds needs a case above: one that writes, unless it only reads."""
    files = {file.stem: file.read_text() for file in LUA.glob("*.lua")}
    included = {
        line.split()[2] for text in files.values() for line in text.splitlines() if line.startswith("-- include ")
    }
    called = files.keys() - included

    assert {case.script for case in CASES} == called
    # Whoever adds a script that only reads adds it here.
    assert {case.script for case in CASES if case.writes} == called - {"due"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.script}: {case.state}")
def test_a_repeated_call_changes_nothing(world: World, case: Case) -> None:
    """After the second of two equal calls every key is as after the first, and the answer is the right one."""
    slots = ready(world, case)
    before = dump(world.redis)

    first = world.run(case.script, slots)
    once = after(world.redis, case)
    next_millisecond(world)
    second = world.run(case.script, slots)
    twice = after(world.redis, case)

    assert case.first(first), f"first answer {first!r}"
    assert case.second(first, second), f"first answer {first!r}, second answer {second!r}"
    assert twice == once
    assert (dump(world.redis) != before) or not case.writes or case.moving


@pytest.mark.parametrize("case", [c for c in CASES if not c.writes], ids=lambda case: f"{case.script}: {case.state}")
def test_a_refused_call_changes_nothing(world: World, case: Case) -> None:
    """What is refused, and what only reads, leaves every key as it was."""
    slots = ready(world, case)
    before = dump(world.redis)

    world.run(case.script, slots)

    assert dump(world.redis) == before


@pytest.mark.parametrize("by_hand", [False, True], ids=["by the leader", "by hand"])
@pytest.mark.parametrize("delay", ["", "30000"], ids=["on the grid", "backing off"])
def test_a_claim_that_arrives_once_more_after_its_end_changes_nothing(world: World, by_hand: bool, delay: str) -> None:
    """The first sending of a repeated claim may be overtaken: when it arrives, its poll has ended by then."""
    world.registered()
    slots = world.claim(mine="" if by_hand else None)
    world.run("claim", slots)
    world.run("end", {**world.end(delay=delay, failures="add"), "following": "" if by_hand else DAY})
    ended = dump(world.redis)

    world.run("claim", slots)

    assert dump(world.redis) == ended


def test_an_interrupted_sweep_is_finished_by_the_next(world: World) -> None:
    """A sweeper that dies between two calls, or repeats its first one, leaves nothing behind for good."""
    world.abandoned(3)
    world.redis.zadd(world.keys.staged, {f"{POLL} {UNIT}": 1})
    assert world.run("unstage", world.unstage("0-0")) == 1

    sweep_staged(world.store)

    left = [key for key in dump(world.redis) if key.startswith(("P:i:", "P:keys:", "P:staged"))]
    assert left == []


def spoil(client: Any, key: str) -> None:
    """Put something of a type where no script expects it."""
    wrong = "list" if client.type(key) == b"string" else "string"
    client.delete(key)
    if wrong == "list":
        client.rpush(key, "of a wrong type")
    else:
        client.set(key, "of a wrong type")


def given_keys(case: Case, slots: Slots) -> list[str]:
    return [slots[name] for name in script(case.script).keys] + list(slots.get("more_keys", ()))


@pytest.mark.parametrize("name", sorted({case.script for case in CASES}))
def test_a_key_of_a_wrong_type_fails_the_call_before_its_first_write(world: World, name: str) -> None:
    """A script that meets a key of a wrong type fails and has written nothing at all, whichever key it is."""
    half_written = []
    for case in [case for case in CASES if case.script == name and case.writes]:
        slots = ready(world, case)
        for key in [*given_keys(case, slots), *case.touches(world)]:
            slots = ready(world, case)
            # A bitmap is a string, and so is what stands for the leader.
            spoil(world.redis, key)
            before = dump(world.redis)
            try:
                world.run(name, slots)
            except redis.ResponseError:
                now = dump(world.redis)
                changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
                if changed:
                    half_written.append(f"{case.state}: {key} of a wrong type, but written: {', '.join(changed)}")

    assert half_written == []
