"""One call of each script that finds lost or starved tasks, and gets them going again, in each state."""

from __future__ import annotations

from tests.support.case import Case, answers, then
from tests.support.lease_cases import W, held_keys, parked_keys
from tests.support.lease_world import FREE, ITEM

LOST_CASES = [
    # ---- sent again
    Case("resent", "with its message", W.released, W.resent, answers(1), then(0)),
    Case("resent", "with a message among the unacked", lambda w: (w.released(), w.received("n1")),
         lambda w: w.resent(tag="tag of n1"), answers(1), then(0)),
    Case("resent", "over another broker", W.released, lambda w: w.resent(pushes=False), answers(1), then(0)),
    Case("resent", "without a state", lambda w: w.redis.zadd(w.keys.resend, {ITEM: 7}), W.resent, answers(1),
         then(0)),
    Case("resent", "begun meanwhile", lambda w: (w.released(), w.begun("n2")), lambda w: w.resent(since="7"),
         answers(0), writes=False),
    Case("resent", "lost once more since", W.released, lambda w: w.resent(since="7"), answers(0), writes=False),
    # ---- by hand
    Case("recover", "parked", lambda w: w.released(on_lost="park"), W.recover, answers(1)),
    Case("recover", "not parked", W.begun, W.recover, answers(0), writes=False),
    Case("recover", "on the list already", W.released, W.recover, answers(1), writes=False),
    # ---- reconcile
    Case("declare_lost", "its message is nowhere", W.committed, W.declare_lost, answers(b"resend"), then(b"gone"),
         touches=held_keys("nobody")),
    Case("declare_lost", "not counted", W.committed, lambda w: w.declare_lost(on_lost="park", counts=False),
         answers(b"resend"), then(b"gone"), touches=held_keys("nobody")),
    Case("declare_lost", "once more", W.lost_and_sent, lambda w: w.declare_lost(recoveries=1), answers(b"resend"),
         then(b"gone"), touches=held_keys("nobody")),
    Case("declare_lost", "too often", W.lost_and_sent, lambda w: w.declare_lost(recoveries=1, most=1), answers(b"parked"),
         then(b"gone"), touches=parked_keys("nobody")),
    Case("declare_lost", "to fail", W.committed, lambda w: w.declare_lost(on_lost="fail"), answers(b"fail"), then(b"gone"),
         touches=held_keys("nobody")),
    Case("declare_lost", "a retry is nowhere", lambda w: w.released("wait"), W.declare_lost, answers(b"resend"),
         then(b"gone"), touches=held_keys("nobody")),
    Case("declare_lost", "executed", W.begun, W.declare_lost, answers(b"gone"), writes=False),
    Case("declare_lost", "ended", W.over, W.declare_lost, answers(b"gone"), writes=False),
    Case("declare_lost", "an id of the user's that has ended", lambda w: w.over(free=True), lambda w: w.declare_lost(FREE),
         answers(b"gone"), writes=False),
    Case("declare_lost", "an id of the user's that ended two days ago", lambda w: w.over_long_ago(),
         lambda w: w.declare_lost(FREE), answers(b"resend"), then(b"gone"), touches=held_keys("nobody")),
    Case("declare_lost", "counted meanwhile", W.lost_and_sent, W.declare_lost, answers(b"gone"), writes=False),
    Case("declare_lost", "replaced", lambda w: w.released("delegated"), W.declare_lost, answers(b"gone"), writes=False),
    Case("park_item", "it cannot be published", W.committed, W.park_item, answers(1), then(0),
         touches=lambda w: {key: kind for key, kind in parked_keys("")(w).items() if ":held:" not in key}),
    Case("park_item", "starved", W.lost_and_sent, lambda w: w.park_item(starved="{}", seen=w.written()), answers(1),
         lambda first, second: True,
         touches=lambda w: {key: kind for key, kind in parked_keys("")(w).items() if ":held:" not in key}),
    Case("park_item", "sent once more", W.lost_and_sent, lambda w: w.park_item(starved="{}", seen="7"), answers(0),
         writes=False),
    Case("park_item", "executed", W.begun, W.park_item, answers(0), writes=False),
    Case("park_item", "ended", W.over, W.park_item, answers(0), writes=False),
    # ---- starvation
    Case("note_starved", "an item that waits", W.committed, W.note_starved, answers(1), then(0)),
    Case("note_starved", "a lost one that waits again", W.lost_and_sent, lambda w: w.note_starved(seen=w.written()),
         answers(1), then(0)),
    Case("note_starved", "sent once more", W.lost_and_sent, W.note_starved, answers(0), writes=False),
    Case("note_starved", "executed", W.begun, W.note_starved, answers(0), writes=False),
    Case("note_starving", "the first step", lambda w: None, W.note_starving, answers(1)),
    Case("note_starving", "a later step", W.starving, lambda w: w.note_starving("{}", "{1}", "spawn"), answers(1)),
    Case("note_starving", "no step", W.starving, lambda w: w.note_starving("{}", "{1}", ""), answers(1)),
    Case("note_starving", "nothing waits any more", W.starving, lambda w: w.note_starving("{}", "", ""), answers(1)),
    Case("note_starving", "another pass was first", W.starving, lambda w: w.note_starving("", "{1}", "wake"), answers(0),
         writes=False),
]  # fmt: skip
