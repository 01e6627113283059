"""Leadership against a model of it: several owners, hand-overs, expiries, a store that forgot the last term."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_perpetual.store.scripts import script
from tests.support import wait_until
from tests.support.machines import EXAMPLES, run_machine
from tests.support.scripts import store_at

OWNER = st.sampled_from(["a", "ab", "host/1/x"])
WHOSE = st.sampled_from(["the latest", "the latest", "an earlier one", "one that is made up"])
TTL = 3_600_000


class LeadershipMachine(RuleBasedStateMachine):
    """Owners that only use the scripts, as beats do."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.store = store_at(self.url)
        self.redis: Any = self.store.redis
        self.redis.flushdb()
        self.keys = self.store.keys
        self.leader: tuple[str, int] | None = None
        self.asker = ""
        self.last_term = 0
        self.epoch = b""
        self.marks: dict[str, int] = {}
        self.held: list[str] = []
        self.changes = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    @property
    def value(self) -> str:
        """Read the value of the leader key."""
        return f"{self.leader[0]}:{self.leader[1]}" if self.leader else ""

    def known_to(self, owner: str) -> dict[str, str | int]:
        """Return the marks that an owner remembers of the store."""
        mark = self.marks.get(owner, 0)
        return {"mark": mark, "epoch_known": self.epoch.decode() if mark else ""}

    @rule(owner=OWNER)
    def lead(self, owner: str) -> None:
        """An owner asks for the lead, twice with the same arguments."""
        for _ in range(2):
            before = self.store.now()
            term, left, about, epoch, now, mark = script("lead")(
                self.store,
                owner=owner,
                ttl=TTL,
                about=json.dumps({"owner": owner}),
                **self.known_to(owner),
                epoch_new=f"of {owner}",
            )
            assert int(mark) > self.marks.get(owner, 0)
            self.marks[owner] = int(mark)
            assert epoch == (self.epoch or f"of {owner}".encode())
            self.epoch = epoch
            if self.leader is None and self.asker in ("", owner):
                assert int(term) > self.last_term
                assert int(term) >= before
                self.leader, self.asker, self.last_term = (owner, int(term)), "", int(term)
                self.held.append(self.value)
                self.changes += 1
            assert int(term) == (self.leader[1] if self.leader and self.leader[0] == owner else 0)
            assert 0 < left <= TTL
            assert (json.loads(about)["owner"] if about else None) == (self.leader[0] if self.leader else None)
            assert before <= now

    @precondition(lambda self: self.held)
    @rule(whose=WHOSE)
    def renew(self, whose: str) -> None:
        """An owner renews a term that it holds, held, or never had; the call is sent twice."""
        mine = self.some_value(whose)
        ours = mine == self.value
        self.redis.pexpire(self.keys.leader, TTL // 2)
        for _ in range(2):
            owner = mine.rpartition(":")[0]
            kept, asker, _now, mark = script("renew")(
                self.store,
                mine=mine,
                ttl=TTL,
                about=json.dumps({"owner": owner}),
                owner=owner,
                **self.known_to(owner),
                epoch_new="never",
            )
            self.marks[owner] = int(mark)
            assert (kept, asker.decode()) == ((1, self.asker) if ours else (0, ""))
        if self.leader:
            assert (self.redis.pttl(self.keys.leader) > TTL // 2) is ours

    @precondition(lambda self: self.held)
    @rule(whose=WHOSE)
    def resign(self, whose: str) -> None:
        """An owner gives up a term that it holds, held, or never had; the call is sent twice."""
        mine = self.some_value(whose)
        ours = mine == self.value
        for _ in range(2):
            answer = script("resign")(self.store, mine=mine, reason="beat stopped")
            assert answer == 1
        if ours:
            self.leader = None
            self.changes += 1

    @rule(owner=OWNER)
    def ask(self, owner: str) -> None:
        """A standby that knows more units asks for the lead; the first one counts."""
        if self.redis.set(self.keys.handover, owner, px=TTL, nx=True):
            self.asker = owner
        assert self.redis.get(self.keys.handover) == self.asker.encode()

    @rule()
    def lead_expires(self) -> None:
        """The leader died long ago."""
        self.redis.delete(self.keys.leader, self.keys.leader_info)
        self.leader = None

    @rule()
    def wish_expires(self) -> None:
        """The standby that asked has gone."""
        self.redis.delete(self.keys.handover)
        self.asker = ""

    @rule()
    def clock_steps_back(self) -> None:
        """The last term was given by a clock that was a little ahead."""
        self.last_term = max(self.last_term, self.store.now()) + 20
        self.redis.set(self.keys.term, self.last_term)
        self.redis.delete(self.keys.leader, self.keys.leader_info)
        self.leader = None

    @rule(left=st.sampled_from([None, 1]))
    def fail_over(self, left: int | None) -> None:
        """A replica takes over that has not seen the last term."""
        wait_until(lambda: self.store.now() > self.last_term, "the clock is past the last term", interval=0.0005)
        self.redis.delete(self.keys.term, self.keys.leader, self.keys.leader_info)
        if left is not None:
            self.redis.set(self.keys.term, left)
        self.leader = None

    @invariant()
    def there_is_one_leader_at_most(self) -> None:
        """The key holds exactly the modelled owner and term, and says so to others."""
        stored = self.redis.get(self.keys.leader)
        assert (stored.decode() if stored else "") == self.value
        about = self.redis.get(self.keys.leader_info)
        assert (json.loads(about)["owner"] if about else None) == (self.leader[0] if self.leader else None)

    @invariant()
    def what_expires_has_a_ttl(self) -> None:
        """Nothing of a leader or of a standby that asked stays for ever."""
        assert all(self.redis.pttl(key) > 0 for key in self.redis.keys("P:leader*"))

    @invariant()
    def every_change_is_told_once(self) -> None:
        """One event per election and per resignation, none for what was refused or repeated."""
        assert self.redis.xlen(self.keys.events) == self.changes

    def some_value(self, whose: str) -> str:
        """``owner:term`` of the latest leader, living or not, of an earlier one, or one that never was."""
        if whose == "one that is made up":
            return f"ab:{self.last_term + 1}"
        return self.held[-1] if whose == "the latest" else self.held[0]


# Finding the shortest of all failing rows takes a while.
@pytest.mark.timeout(400)
@EXAMPLES
def test_leadership_is_as_its_model(redis_url: str, examples: int) -> None:
    """At most one leader, terms that only grow, renewal on the exact value, the asker first."""
    run_machine(LeadershipMachine, redis_url, examples)
