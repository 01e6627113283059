"""The values of one call of each script, by slot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_perpetual.completions.end import BACK_OFF
from celery_perpetual.ledger.ids import base, item_id, item_slots, new_poll_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import encode

if TYPE_CHECKING:
    from celery_perpetual.store.keys import Keys

UNIT, OTHER_UNIT = "perpetual:deliver", "perpetual:zürich%3A東京"
POLL, NEXT_POLL = new_poll_id(1_700_000_000_000), new_poll_id(1_700_000_001_000)
OTHER_POLL = POLL[:-1] + "0"
QUEUE = "the-broker's-queue"
#: Where the broker keeps what was received and not acknowledged.
UNACKED = {"unacked": "the-broker's-unacked", "unacked_index": "the-broker's-index"}
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
FAR = 10**15
OUTCOME = json.dumps({"status": "enqueued"})
Slots = dict[str, Any]


def end_slots(keys: Keys, task_id: str, status: str, head: str) -> Slots:
    """The end of an item, or of a task that is none; it had no lease, and Celery stores its result."""
    slots = {
        "id": task_id, "completion": keys.completion(task_id), "queue": keys.queue(task_id), "head": head,
        "channel": keys.channel(task_id), **UNACKED, "tag": "", "nonce": "", "started": 0, "result": "", "value": "",
        "expires": 0,
    }  # fmt: skip
    where = item_slots(keys, task_id)
    if poll := str(where["poll"]):
        slots |= {
            **where, "batch": keys.poll(poll), "batch_channel": keys.channel(poll), "status": status, "hold": BACK_OFF,
        }  # fmt: skip
    return slots


def work(key: object) -> CheckedItem:
    return CheckedItem("deliver", b"[[], {}]", "json", {}, str(key), None)


def pairs(works: list[CheckedItem], poll: str, start: int) -> list[Any]:
    return [text for n, each in enumerate(works, start) for text in (each.key, item_id(poll, n))]


class ScriptSlots:
    """Values that differ from call to call of each script."""

    keys: Keys
    leader = ""
    """The owner and the term of the beat that leads."""

    def lead(self, owner: str = "a") -> Slots:
        about = f'{{"owner": "{owner}"}}'
        known: Slots = {"mark": 0, "epoch_known": "", "epoch_new": f"epoch of {owner}"}
        return {"owner": owner, "ttl": MINUTE, "about": about, **known}

    def renew(self, mine: str | None = None) -> Slots:
        known: Slots = {"owner": "a", "mark": 0, "epoch_known": "", "epoch_new": "epoch of a"}
        return {"mine": mine or self.leader, "ttl": MINUTE, "about": '{"units": 7}', **known}

    def resign(self, mine: str | None = None) -> Slots:
        return {"mine": mine or self.leader, "reason": "beat stopped"}

    def run_entries(self, mine: str | None = None) -> Slots:
        return {"mine": mine or self.leader, "rows": ["nightly", "1000.5 3", "gone", ""]}

    def register(self, every: int = MINUTE, mine: str | None = None) -> Slots:
        rows = [UNIT, f"every {every} ms", every, 1000, OTHER_UNIT, "at noon", "", DAY]
        return {"mine": mine or self.leader, "rows": rows}

    def keep_tenants(self, mine: str | None = None) -> Slots:
        rows = ["acme", '"acme"', "7", "7", "gone", ""]
        return {"mine": mine or self.leader, "tenants": self.keys.tenants("deliver"), "rows": rows}

    def unschedule(self, mine: str | None = None) -> Slots:
        return {"mine": mine or self.leader, "units": [UNIT, "none"]}

    def due(self) -> Slots:
        return {"limit": 100, "mine": self.leader}

    def unit_facts(self) -> Slots:
        return {"share": "0.8", "brief": 0, "units": [UNIT, OTHER_UNIT]}

    def rates(self) -> Slots:
        return {"short": MINUTE, "long": 15 * MINUTE, "step": 20, "histories": [200], "polls": [self.keys.polls(UNIT)]}

    def claim(
        self, poll: str = POLL, *, mine: str | None = None, slot: int = 1000, valid: int = MINUTE, units: int = 1,
        seen: int | None = None,
    ) -> Slots:  # fmt: skip
        rows = [f"{poll} {slot} {DAY} - {valid} 0 200 {UNIT}"]
        rows += [f"{poll[:-1]}0 {slot} {DAY} - {valid} 0 200 {OTHER_UNIT}"] * (units - 1)
        return {
            "mine": self.leader if mine is None else mine, "mark": 0, "ttl": DAY, "seen": FAR if seen is None else seen,
            "back_off": "30000 60000 300000", "wanted": rows,
        }  # fmt: skip

    def stage(self, chunk: int = 0, poll: str = POLL, items: int = 3) -> Slots:
        k = self.keys
        works = [work(f"{chunk}-{n}") for n in range(items)]
        return {
            "unit_hash": k.unit(UNIT), "chunk": k.chunk(poll, chunk), "item_keys": k.item_keys(UNIT),
            "poll": poll, "unit": UNIT, "ttl": DAY, "records": items,
            "rest": [*(encode(each, "deliver") for each in works), *pairs(works, poll, chunk * items)],
        }  # fmt: skip

    def commit(
        self, poll: str = POLL, *, items: int = 3, chunks: int = 0, pushed: bool = True, most: int = 100,
        delay: str = "", cursor: str = '{"after": 7}', retries: str = "", has_failed: bool = False, low_water: str = "",
    ) -> Slots:  # fmt: skip
        k = self.keys
        works = [] if chunks else [work(n) for n in range(items)]
        messages = [f"message {n}" for n in range(items)] if pushed else []
        commands = ["LPUSH", 1, len(messages), *messages] if pushed else []
        return {
            "unit_hash": k.unit(UNIT), "polls": k.polls(UNIT), "batch": k.poll(poll), "item_keys": k.item_keys(UNIT),
            "follow_ups": k.follow_ups(UNIT), "followed": 2, "on_done": 0, "targets": [QUEUE] if pushed else [],
            "destinations": f'[["", "{QUEUE}", null, "0-{items - 1}"]]' if pushed else "",
            "poll": poll, "unit": UNIT, "outcome": OUTCOME, "history": 200, "ttl": DAY, "slot": 1000,
            "following": DAY, "delay": delay, "trigger": "drain" if delay else "", "cursor": cursor,
            "task": "deliver", "tenant": '"acme"', "items": items, "most": most, "window": MINUTE, "chunk_key": k.chunk_prefix(poll),
            "retries": retries, "has_failed": int(has_failed), "low_water": low_water,
            "chunks": chunks, "pairs_here": len(works), "pushed": len(messages),
            "rest": [*(encode(each, "deliver") for each in works), *pairs(works, poll, 0), *commands],
        }  # fmt: skip

    def close_polls(self, poll: str = POLL, *more: tuple[str, str], unit: str = UNIT, **note: str) -> Slots:
        """The end of a poll, and of ``more`` of other units."""
        common = {
            "sign": "empty",
            "history": "200",
            "slot": "1000",
            "following": str(FAR),
            "failures": "reset",
            "cursor": "7",
        }
        if note.get("delay"):
            common["trigger"] = "backoff"
        rows = [(OUTCOME, json.dumps({"poll": p, "unit": u, **common, **note})) for p, u in [(poll, unit), *more]]
        return {"ttl": DAY, "ends": [text for row in rows for text in row]}

    def publish(self, first: int, last: int, poll: str = POLL) -> Slots:
        messages = [f"message {n}" for n in range(first, last)]
        return {
            "batch": self.keys.poll(poll), "targets": [QUEUE], "poll": poll, "first": first, "last": last, "chunk": 0,
            "destinations": f'[["", "{QUEUE}", null, "{first}-{last - 1}"]]', "commands": ["LPUSH", 1, len(messages), *messages],
        }  # fmt: skip

    def end_item(
        self, index: int, status: str = "success", poll: str = POLL, *, nonce: str = "", started: bool = False,
        tag: str = "", hold: str = BACK_OFF,
    ) -> Slots:  # fmt: skip
        task_id = item_id(poll, index)
        head = json.dumps({"task_id": task_id, "status": status, "final": True})[:-1]
        return {
            **end_slots(self.keys, task_id, status, head), "nonce": nonce, "started": int(started), "tag": tag,
            "hold": hold,
        }  # fmt: skip

    def taken(self, *keys: str, since: int = 0, backs_off: bool = True) -> Slots:
        k = self.keys
        return {
            "item_keys": k.item_keys(UNIT), "recent": k.recent(UNIT), "before": k.recent_before(UNIT),
            "failed": k.failed(UNIT), "failures": k.failures(UNIT), "since": since, "backs_off": int(backs_off), "asked": keys,
        }  # fmt: skip

    def push_once(self, entry: str = POLL) -> Slots:
        return {
            "waiting": self.keys.batches, "targets": [QUEUE], "entry": entry, "commands": ["LPUSH", 1, 1, "message"]
        }  # fmt: skip

    def poll_sent(self, poll: str = POLL) -> Slots:
        return {
            "unit_hash": self.keys.unit(UNIT), "targets": [QUEUE], "poll": poll, "valid": MINUTE, "mark": "poll",
            "commands": ["LPUSH", 1, 1, "poll 3", "PEXPIRE", 1, 1, DAY],
        }  # fmt: skip

    def add_follow_ups(self) -> Slots:
        k = self.keys
        return {
            "unit_hash": k.unit(UNIT), "follow_ups": k.follow_ups(UNIT), "receipt": k.receipt("one"), "unit": UNIT,
            "trigger": "after_success", "receipt_ttl": MINUTE, "records": ["record 0", "record 1", "record 2"],
        }  # fmt: skip

    def drop_follow_ups(self, poll: str = POLL) -> Slots:
        k = self.keys
        return {"unit_hash": k.unit(UNIT), "follow_ups": k.follow_ups(UNIT), "poll": poll, "count": 2}

    def poll_received(self, poll: str = POLL) -> Slots:
        return {"unit_hash": self.keys.unit(UNIT), "poll": poll, "unit": UNIT, "valid": 5 * MINUTE}

    def nudge(self) -> Slots:
        return {"unit_hash": self.keys.unit(UNIT), "unit": UNIT, "trigger": "nudge"}

    def take_permits(self, *, pace: int = 1000, call: str = "a", mine: str | None = None) -> Slots:
        rows = [UNIT, "api", pace, OTHER_UNIT, "api", pace]
        return {"mine": self.leader if mine is None else mine, "call": call, "rows": rows}

    def set_cursor(self, cursor: str = "8") -> Slots:
        k = self.keys
        return {
            "unit_hash": k.unit(UNIT), "unit": UNIT, "cursor": cursor, "history": 200, "ttl": DAY
        }  # fmt: skip

    def unstage(self, *keys: str, poll: str = POLL, last: bool = False) -> Slots:
        k = self.keys
        return {
            "unit_hash": k.unit(UNIT), "batch": k.poll(poll), "item_keys": k.item_keys(UNIT),
            "records": [k.chunk(poll, 0), k.chunk(poll, 1)] if last else [],
            "poll": poll, "unit": UNIT, "base": base(poll), "last": int(last), "items": keys,
        }  # fmt: skip

    def pause(self, reason: str = "holidays", scope: str = UNIT, until_ms: int | None = None) -> Slots:
        return {
            "receipt": self.keys.receipt(f"{scope} {reason}"), "scope": scope,
            "pause": json.dumps({"by": "me", "reason": reason, "until_ms": until_ms}), "receipt_ttl": MINUTE,
        }  # fmt: skip

    def change_alerts(self, change: str, most: int = 10, kind: str = "no_leader") -> Slots:
        return {"most": most, "changes": [change, kind, kind, json.dumps({"change": change})]}

    def resume(self, scope: str = UNIT) -> Slots:
        return {
            "receipt": self.keys.receipt("call"), "scope": scope, "about": "{}", "receipt_ttl": MINUTE,
            "units": [UNIT, OTHER_UNIT],
        }  # fmt: skip

    def trim_pauses(self) -> Slots:
        return {}

    def drop_unit(self, unit: str = UNIT, tenant: str = "", *, departed: bool = False) -> Slots:
        k = self.keys
        return {
            "unit_hash": k.unit(unit), "polls": k.polls(unit), "failed": k.failed(unit), "failures": k.failures(unit),
            "follow_ups": k.follow_ups(unit),
            "tenants": k.tenants("deliver"), "unit": unit, "tenant": tenant, "age": DAY, "departed": int(departed),
        }  # fmt: skip

    def allow(self, key: str = "1") -> Slots:
        return {"failed": self.keys.failed(UNIT), "failures": self.keys.failures(UNIT), "item_key": key}
