"""One call of each Lua script in each state: its arguments, its answers, and what it touches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from celery_perpetual.ledger.ids import item_id
from tests.support.case import Case, answers, then
from tests.support.script_slots import DAY, FAR, MINUTE, NEXT_POLL, OTHER_POLL, OTHER_UNIT, POLL, UNIT
from tests.support.scripts import World


def same_claims(first: list[Any], second: list[Any]) -> bool:
    """The same answers; only the time may be another, and to whom was refused only the verdict and the cursor matter."""
    return all(
        one == other
        or (not one.startswith(b"claimed ") and _verdict(one) == _verdict(other) and _cursor(one) == _cursor(other))
        for one, other in zip(first[1:], second[1:], strict=True)
    )


def _verdict(facts: bytes) -> bytes:
    return facts.split(b" ")[0]


def _cursor(facts: bytes) -> bytes:
    return facts.split(b" ", 6)[6]


def verdicts(*expected: bytes) -> Callable[[Any], bool]:
    return lambda answer: tuple(map(_verdict, answer[1:])) == expected


def unit_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash"}


def units_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash", w.keys.unit(OTHER_UNIT): "hash"}


def source_keys(w: World) -> Mapping[str, str]:
    return {**units_keys(w), "P:source:api": "hash"}


def claim_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash", w.keys.polls(UNIT): "list"}


def claims_keys(w: World) -> Mapping[str, str]:
    return {**claim_keys(w), w.keys.unit(OTHER_UNIT): "hash", w.keys.polls(OTHER_UNIT): "list"}


#: Answers to an end that counts, to a late one, and to a silent one of a task that is not known.
FIRST, LATE, UNKNOWN = [b"first", 0, 0], [b"late", 0, 0], [b"unknown", 0, 0]

#: Each call of these leaves a newer mark.
MARKED = ("P:marks",)

#: Arguments of a beat that remembers a mark which the store does not have.
MARK_IS_GONE = {"mark": FAR, "epoch_known": "epoch of a", "epoch_new": "another"}


def failed_keys(w: World) -> Mapping[str, str]:
    return {**item_keys(w), w.keys.failed(UNIT): "zset", w.keys.failures(UNIT): "hash"}


def item_keys(w: World) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash", w.keys.item_keys(UNIT): "hash", w.keys.recent(UNIT): "hash"}


CASES = [
    # ---- leadership
    Case("lead", "nobody leads", lambda w: None, World.lead, lambda a: int(a[0]) > 0 and a[2] == b'{"owner": "a"}',
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4], moving=MARKED),
    Case("lead", "somebody else leads", World.led, lambda w: w.lead("b"), lambda a: a[0] == b"0" and 0 < a[1] <= MINUTE,
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4], moving=MARKED),
    Case("lead", "handed over to me", World.handed_over, lambda w: w.lead("b"), lambda a: int(a[0]) > 0,
         lambda a, b: a[0] == b[0] and a[2:4] == b[2:4], moving=MARKED),
    Case("lead", "handed over to somebody else", World.handed_over, lambda w: w.lead("c"),
         lambda a: a[0] == b"0" and 0 < a[1] <= DAY, lambda a, b: a[0] == b[0], moving=MARKED),
    Case("lead", "the store has gone back", World.led, lambda w: {**w.lead("b"), **MARK_IS_GONE},
         lambda a: int(a[0]) > 0 and a[3] == b"another", lambda a, b: a[0] == b[0] and a[2:4] == b[2:4], moving=MARKED),
    Case("renew", "mine", World.led, World.renew, lambda a: a[:2] == [1, b""], lambda a, b: a[:2] == b[:2], moving=MARKED),
    Case("renew", "mine, and somebody asks", lambda w: (w.led(), w.redis.set(w.keys.handover, "b", px=DAY)), World.renew,
         lambda a: a[:2] == [1, b"b"], lambda a, b: a[:2] == b[:2], moving=MARKED),
    Case("renew", "the store has gone back", World.led, lambda w: {**w.renew(), **MARK_IS_GONE},
         lambda a: a[:2] == [0, b""], lambda a, b: a[:2] == b[:2]),
    Case("renew", "somebody else's", World.led, lambda w: w.renew("a:1"), lambda a: a[:2] == [0, b""],
         lambda a, b: a[:2] == b[:2], writes=False),
    Case("resign", "mine", World.led, World.resign, answers(1)),
    Case("resign", "somebody else's", World.led, lambda w: w.resign("a:1"), answers(1), writes=False),
    Case("run_entries", "leading", World.led, World.run_entries, answers(1)),
    Case("run_entries", "somebody else leads", World.led, lambda w: w.run_entries("a:1"), answers(0), writes=False),
    # ---- the clock
    Case("register", "new units", World.led, World.register, answers(0), moving=("P:units",), touches=unit_keys),
    Case("register", "another schedule", lambda w: w.claimed(), lambda w: w.register(every=7000), answers(0),
         moving=("P:units",), touches=unit_keys),
    Case("register", "known units", World.registered, World.register, answers(0), moving=("P:units",)),
    Case("register", "not leading", World.led, lambda w: w.register(mine="a:1"), answers(-1), writes=False),
    Case("keep_tenants", "leading", World.led, World.keep_tenants, answers(1)),
    Case("keep_tenants", "not leading", World.led, lambda w: w.keep_tenants("a:1"), answers(0), writes=False),
    Case("unschedule", "leading", World.registered, World.unschedule, answers(1)),
    Case("unschedule", "not leading", World.registered, lambda w: w.unschedule("a:1"), answers(0), writes=False),
    Case("drop_unit", "without a cursor", lambda w: w.orphaned(""), World.drop_unit, answers(1), then(0)),
    Case("drop_unit", "with a cursor", lambda w: w.orphaned("7"), World.drop_unit, answers(2)),
    Case("drop_unit", "of a tenant that is gone", lambda w: w.orphaned("7"), lambda w: w.drop_unit(tenant="acme", departed=True),
         answers(1), then(0)),
    Case("drop_unit", "known of late", World.registered, World.drop_unit, answers(0), writes=False),
    Case("due", "one is due", World.registered, World.due, lambda a: a[2].startswith(f"1000 - - 0 {UNIT}\n".encode()),
         lambda a, b: a[1:] == b[1:], writes=False, touches=unit_keys),
    Case("unit_facts", "of units that are not known", lambda w: None, World.unit_facts,
         lambda a: json.loads(a) == [[False] * 6 + [0, 0, False, False]] * 2, writes=False),
    Case("unit_facts", "of one that is due", World.registered, World.unit_facts,
         lambda a: json.loads(a)[0][4:9] == ["every 60000 ms", "1000", 0, 0, False], writes=False),
    Case("rates", "of a unit that was never polled", lambda w: None, World.rates, answers([b"0 0 900000 -"]), writes=False),
    Case("rates", "of one that was", lambda w: (w.claimed(), w.run("close_polls", w.close_polls())), World.rates,
         answers([b"0 0 900000 -"]), writes=False),
    Case("due", "nothing is due", lambda w: (w.led(), w.redis.zadd(w.keys.due, {UNIT: 9e12})), World.due,
         lambda a: a[1:] == [b"9000000000000", b""], lambda a, b: a[1:] == b[1:], writes=False),
    # ---- alerts
    Case("change_alerts", "one begins", lambda w: None, lambda w: w.change_alerts("begin"), answers(1)),
    Case("change_alerts", "it is on", lambda w: w.run("change_alerts", w.change_alerts("begin")),
         lambda w: w.change_alerts("begin"), answers(1), writes=False),
    Case("change_alerts", "as many as may be are on", lambda w: w.run("change_alerts", w.change_alerts("begin")),
         lambda w: w.change_alerts("begin", most=1, kind="unit_silent"), answers(1), writes=False),
    Case("change_alerts", "one ends", lambda w: w.run("change_alerts", w.change_alerts("begin")),
         lambda w: w.change_alerts("end"), answers(0)),
    Case("change_alerts", "one that is not on ends", lambda w: None, lambda w: w.change_alerts("end"), answers(0),
         writes=False),
    # ---- claims
    Case("claim", "by the leader", World.registered, World.claim, verdicts(b"claimed"), same_claims, touches=unit_keys),
    Case("claim", "several units", World.registered, lambda w: w.claim(units=2), verdicts(b"claimed", b"claimed"),
         same_claims, touches=units_keys),
    Case("claim", "by hand", World.registered, lambda w: w.claim(mine=""), verdicts(b"claimed"), same_claims,
         touches=unit_keys),
    Case("claim", "taken over from an earlier term", World.claimed_by_earlier_term,
         lambda w: w.claim(NEXT_POLL, slot=2000), verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "taken over after its time", lambda w: w.claimed(valid=0), lambda w: w.claim(NEXT_POLL, slot=2000),
         verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "taken over by hand", lambda w: w.claimed(valid=0), lambda w: w.claim(NEXT_POLL, mine=""),
         verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "taken over by hand from an earlier term", World.claimed_by_earlier_term,
         lambda w: w.claim(NEXT_POLL, mine=""), verdicts(b"claimed"), same_claims, touches=claim_keys),
    Case("claim", "left open by hand", lambda w: w.claimed(mine="", valid=0), lambda w: w.claim(NEXT_POLL, slot=2000),
         verdicts(b"backoff"), same_claims, touches=claim_keys),
    Case("claim", "busy", lambda w: w.claimed(), lambda w: w.claim(NEXT_POLL, slot=2000), verdicts(b"busy"), same_claims,
         touches=claim_keys),
    Case("claim", "busy for a poll by hand", lambda w: w.claimed(), lambda w: w.claim(NEXT_POLL, mine=""),
         verdicts(b"busy"), same_claims, writes=False),
    Case("claim", "paused", World.paused, World.claim, verdicts(b"paused"), same_claims, touches=unit_keys),
    Case("claim", "everything paused", lambda w: (w.registered(), w.run("pause", w.pause(scope="*"))), World.claim,
         verdicts(b"paused"), same_claims, touches=unit_keys),
    Case("claim", "a slot that was polled", lambda w: (w.claimed(), w.run("close_polls", w.close_polls(following=str(DAY)))),
         lambda w: w.claim(NEXT_POLL), verdicts(b"early"), same_claims, writes=False),
    Case("claim", "polled since it was seen to be due", lambda w: (w.claimed(), w.run("close_polls", w.close_polls())),
         lambda w: w.claim(NEXT_POLL, slot=2000, seen=1), verdicts(b"early"), same_claims, writes=False),
    Case("claim", "not leading", World.registered, lambda w: w.claim(mine="a:1"), answers([0]), writes=False),
    # ---- ends without items
    Case("close_polls", "nothing found", lambda w: w.claimed(), World.close_polls, answers([b"ended"]), then([b"already"]),
         touches=claim_keys),
    Case("close_polls", "nothing found once more", World.ended_empty, lambda w: w.close_polls(NEXT_POLL), answers([b"ended"]),
         then([b"already"]), touches=claim_keys),
    Case("close_polls", "nudged meanwhile", lambda w: (w.claimed(), w.run("nudge", w.nudge())), World.close_polls,
         answers([b"soon"]), then([b"already"]), touches=claim_keys),
    Case("close_polls", "its next slot came meanwhile", lambda w: w.claimed(), lambda w: w.close_polls(following="2000"),
         answers([b"soon"]), then([b"already"]), touches=claim_keys),
    Case("close_polls", "failed", lambda w: w.claimed(), lambda w: w.close_polls(sign="", delay="30000", failures="add"),
         answers([b"ended"]), then([b"already"]), touches=claim_keys),
    Case("close_polls", "asks for a pause", lambda w: w.claimed(), lambda w: w.close_polls(sign="", pause='{"by": "next_batch"}'),
         answers([b"ended"]), then([b"already"]), touches=claim_keys),
    Case("close_polls", "claim lost", lambda w: w.claimed(NEXT_POLL), World.close_polls, answers([b"refused"]), writes=False),
    Case("close_polls", "several units", lambda w: w.claimed(units=2), lambda w: w.close_polls(POLL, (OTHER_POLL, OTHER_UNIT)),
         answers([b"ended", b"ended"]), then([b"already", b"already"]), touches=claims_keys),
    Case("close_polls", "one of several has lost its claim", lambda w: w.claimed(units=2),
         lambda w: w.close_polls(POLL, (NEXT_POLL, OTHER_UNIT)), answers([b"ended", b"refused"]), then([b"already", b"refused"]),
         touches=claims_keys),
    Case("close_polls", "one poll twice", lambda w: w.claimed(), lambda w: w.close_polls(POLL, (POLL, UNIT)),
         answers([b"ended", b"already"]), then([b"already", b"already"]), touches=claim_keys),
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
    Case("end_item", "one of several", World.committed, lambda w: w.end_item(1), answers(FIRST), touches=item_keys),
    Case("end_item", "the last one", lambda w: w.finished(0, 2), lambda w: w.end_item(1, "failure"), answers(FIRST),
         touches=lambda w: {w.keys.open: "zset", **item_keys(w)}),
    Case("end_item", "not announced", World.committed, lambda w: {**w.end_item(1), "head": ""}, answers(FIRST),
         touches=item_keys),
    Case("end_item", "unknown batch", lambda w: w.claimed(), lambda w: {**w.end_item(1), "head": ""}, answers(UNKNOWN),
         writes=False),
    Case("end_item", "failed, and its key is held back", lambda w: w.committed(retries="0|60000|2.0|3600000|1"),
         lambda w: w.end_item(1, "failure"), answers(FIRST), touches=failed_keys, moving=("P:failed:" + UNIT,)),
    Case("end_item", "failed for the last time", World.failed_and_came_again,
         lambda w: w.end_item(1, "failure", NEXT_POLL), answers(FIRST), touches=failed_keys),
    Case("end_item", "succeeded after a failure", World.failed_and_came_again, lambda w: w.end_item(1, poll=NEXT_POLL),
         answers(FIRST), touches=failed_keys),
    Case("end_item", "held by an operator", World.committed,
         lambda w: w.end_item(1, "revoked", nonce="*", hold="until_allowed"), answers(FIRST), touches=failed_keys),
    Case("end_item", "left to the next poll by an operator", lambda w: w.committed(retries="0|60000|2.0|3600000|1"),
         lambda w: w.end_item(1, "revoked", nonce="*", hold="none"), answers(FIRST), touches=item_keys),
    Case("allow", "held back", World.has_failed, World.allow, answers(1), then(0)),
    Case("allow", "its back-off is over", lambda w: w.has_failed("0|0|2.0|3600000|0"), World.allow, answers(0),
         writes=False),
    Case("allow", "never failed", World.committed, World.allow, answers(0), writes=False),
    Case("push_once", "waiting", lambda w: w.redis.zadd(w.keys.batches, {POLL: 1}), World.push_once, answers(1), then(0)),
    Case("push_once", "sent by somebody", World.led, World.push_once, answers(0), writes=False),
    Case("unstage", "some keys", lambda w: w.abandoned(2), lambda w: w.unstage("0-0", "0-1"), answers(1)),
    Case("unstage", "all that is left", lambda w: w.abandoned(2), lambda w: w.unstage(last=True), answers(1)),
    Case("unstage", "a key that another poll has taken",
         lambda w: (w.abandoned(1), w.redis.hset(w.keys.item_keys(UNIT), "0-0", item_id(NEXT_POLL, 0))),
         lambda w: w.unstage("0-0"), answers(1), writes=False),
    Case("unstage", "still open", lambda w: w.staged(1), lambda w: w.unstage("0-0"), answers(0), writes=False),
    Case("taken", "in flight", World.committed, lambda w: w.taken("0", "1", "9"),
         answers([0, item_id(POLL, 0).encode(), 0, 0, 1, item_id(POLL, 1).encode(), 0, 0]), writes=False),
    Case("taken", "ended of late, and in flight", lambda w: w.finished(1), lambda w: w.taken("9", "1", "2"),
         answers([1, b"", 1, 0, 2, item_id(POLL, 2).encode(), 0, 0]), writes=False),
    Case("taken", "ended before that", lambda w: w.finished(1), lambda w: w.taken("1", since=9_999_999_999_999),
         answers([]), writes=False),
    Case("taken", "held back", World.has_failed, lambda w: w.taken("1", since=9_999_999_999_999),
         answers([0, b"", 0, 2]), writes=False),
    Case("taken", "held back, and the option is off", World.has_failed,
         lambda w: w.taken("1", since=9_999_999_999_999, backs_off=False), answers([0, b"", 0, 1]), writes=False),
    Case("taken", "parked", lambda w: w.has_failed("1|60000|2.0|3600000|0"),
         lambda w: w.taken("1", since=9_999_999_999_999, backs_off=False), answers([0, b"", 0, 2]), writes=False),
    # ---- polls in workers
    Case("poll_sent", "on its way", lambda w: w.claimed(), World.poll_sent, answers(1), moving_claim=True),
    Case("poll_sent", "behind other polls", lambda w: (w.claimed(), w.waiting("poll 1", "poll 2", "item")), World.poll_sent,
         answers(1), moving_claim=True),
    Case("poll_sent", "claim lost", lambda w: w.claimed(NEXT_POLL), World.poll_sent, answers(0), writes=False),
    Case("poll_sent", "a claim that cannot be read", World.claimed_without_facts, World.poll_sent, answers(0), writes=False),
    Case("poll_received", "arrived", lambda w: (w.claimed(), w.run("poll_sent", w.poll_sent())), World.poll_received,
         lambda a: a[1:3] == [b"1000", b"schedule"], lambda a, b: a[1:] == b[1:], moving=("P:due",), moving_claim=True),
    Case("poll_received", "claim lost", lambda w: w.claimed(NEXT_POLL), World.poll_received, answers([]), writes=False),
    Case("poll_received", "a claim that cannot be read", World.claimed_without_facts, World.poll_received, answers([]),
         writes=False),
    # ---- follow-ups
    Case("add_follow_ups", "not due yet", lambda w: (w.registered(), w.redis.zadd(w.keys.due, {UNIT: 9e12})),
         World.add_follow_ups, answers(1), moving=("P:due", "P:units")),
    Case("add_follow_ups", "a poll is open", lambda w: w.claimed(), World.add_follow_ups, answers(1), moving=("P:units",)),
    Case("drop_follow_ups", "mine", World.followed, World.drop_follow_ups, answers(1)),
    Case("drop_follow_ups", "claim lost", World.followed, lambda w: w.drop_follow_ups(NEXT_POLL), answers(0), writes=False),
    Case("commit", "of follow-ups", World.followed, World.commit, answers(b"committed"), then(b"already")),
    # ---- by hand
    Case("nudge", "not due yet", lambda w: (w.registered(), w.redis.zadd(w.keys.due, {UNIT: 9e12})), World.nudge,
         answers(1), moving=("P:due",)),
    Case("nudge", "not in the clock", World.led, World.nudge, answers(0), writes=False),
    Case("take_permits", "nobody has had one", World.registered, World.take_permits, answers([0, -1]), touches=source_keys),
    Case("take_permits", "another has had one", lambda w: (w.registered(), w.run("take_permits", w.take_permits(call="b"))),
         World.take_permits, answers([-1, -1]), touches=source_keys, moving=("P:due",)),
    Case("take_permits", "without a pace", World.registered, lambda w: w.take_permits(pace=0), answers([0, 0]), writes=False),
    Case("take_permits", "not leading", World.registered, lambda w: w.take_permits(mine="b:1"), answers([0, 0]), writes=False),
    Case("close_polls", "with a wait of the source", lambda w: w.claimed(),
         lambda w: w.close_polls(failures="add", delay="5000", source="api", hint="5000"), answers([b"ended"]),
         then([b"already"]), touches=lambda w: {**claim_keys(w), "P:source:api": "hash"}, moving=("P:due", "P:source:api")),
    Case("close_polls", "found nothing again", lambda w: w.claimed(),
         lambda w: w.close_polls(every="60000", longest="600000"), answers([b"ended"]), then([b"already"]),
         touches=claim_keys),
    Case("set_cursor", "set", World.registered, World.set_cursor, answers(1)),
    Case("set_cursor", "forget", lambda w: w.run("set_cursor", w.set_cursor()), lambda w: w.set_cursor(""), answers(1)),
    Case("set_cursor", "a poll is open", lambda w: w.claimed(), World.set_cursor, answers(0), writes=False),
    Case("set_cursor", "a poll of an earlier term is open", World.claimed_by_earlier_term, World.set_cursor, answers(1)),
    Case("set_cursor", "a poll whose time is over", lambda w: w.claimed(mine="", valid=0), World.set_cursor, answers(1)),
    # ---- pauses
    Case("pause", "not paused yet", World.registered, World.pause, answers(b"")),
    Case("pause", "paused for another reason", World.paused, lambda w: w.pause("strike"),
         lambda answer: b"holidays" in answer),
    Case("resume", "paused", World.paused, World.resume, answers(1), touches=unit_keys),
    Case("resume", "not paused", World.registered, World.resume, answers(0), writes=False),
    Case("resume", "the pause is over", World.pause_is_over, World.resume, answers(0), writes=False),
    Case("trim_pauses", "one is over", World.pause_is_over, World.trim_pauses, answers(None)),
    Case("trim_pauses", "one holds", World.paused, World.trim_pauses, answers(None), writes=False),
]  # fmt: skip
