"""Leadership: one beat at a time, by a lease with terms.

*Authority* is the key ``{prefix}:leader`` with the value ``owner:term`` and a TTL (``perpetual_leader_ttl``). Its time
is the store's. *A term* is one period of leadership; its number only grows, also after a fail-over that lost the last
one, because it is never below the store's clock. *Renewal* happens every third of the TTL, from a thread of its own,
and only on the exact value, so no beat prolongs or ends the term of another one.

*Trust.* Between two answers of the store the leader trusts its lead until *start of the last successful attempt + TTL
- 1 s*, on a clock that also runs while the machine is suspended. After that it stops claiming on its own, before
anyone else can lead. What may happen once more: a beat that is frozen between its own check and a write. That write is
refused, because every script that claims slots requires the exact leader value; and what follows a claim is fenced by
the claim. The entries of the base scheduler are Celery's own and have no such fence.

*Hand-over.* A clean exit deletes the key, so a standby, which asks twice a second, takes over at once. A killed leader
costs at most the TTL and one tick. A standby that knows more units than the leader (a rolling deploy) asks for the
lead, once in its life; the leader resigns at its next renewal, and for one TTL only that standby may take the lead.

*One thread.* All changes of the lead happen on the thread of this module, which reports each of them as one event: a
lead is got, lost, given up, left to others, or it could not be given up; a beat that starts without it stands by.

The leader also says which app it belongs to: another app on the same prefix refuses to start.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_perpetual import events
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.other_apps import explain
from celery_perpetual.errors import SettingsError, StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.store.commands.leadership import Mark, ask_for_lead, has_standby
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import ms, steady

#: A leader stops trusting itself this long before its key expires.
MARGIN = 1.0
#: How often a standby asks.
STANDBY_INTERVAL = 0.5
#: A leader that steps down leaves the lead to others for so many seconds, six of their tries.
STAND_BACK = 3.0
#: How often a leader looks whether it can work.
HEALTH_INTERVAL = 1.0
#: Why a lead is lost that the store does not have any more.
REFUSED = "it has expired, or another beat leads"


@dataclass(frozen=True, slots=True)
class Lead:
    """A term that this process holds."""

    value: str
    """``owner:term``, the exact value of the key."""
    trusted_until: float


class Leadership:
    """Takes, keeps and gives up the lead for one process, on connections and a thread of its own."""

    def __init__(self, store: Store, *, app_name: str, ttl: float, health: LeadHealth) -> None:
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self.lead: Lead | None = None
        self.skew: float = 0.0
        self._store = store.clone()
        self._app_name = app_name
        self._ttl = ttl
        self._units = (0, "")
        self._asked = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._tried = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._before_resigning: Callable[[str], None] = lambda _: None
        self._saw_epoch: Callable[[str], None] = lambda _: None
        self.mark = Mark()
        self._epoch = ""
        self._health = health
        self._stands_back_until = 0.0
        self._renew_at = 0.0
        self._refused: str | None = None
        """A value for which the store has said that another beat leads."""

    @property
    def leads(self) -> bool:
        """Whether this process may act as leader right now. Never asks the store."""
        lead = self.lead
        return lead is not None and self._may_trust(lead) and not self._stop.is_set()

    @property
    def value(self) -> str | None:
        """``owner:term`` while this process leads."""
        lead = self.lead
        return lead.value if lead is not None and self.leads else None

    def knows(self, count: int, digest: str) -> None:
        """Say which units this process knows."""
        self._units = (count, digest)

    def start(self, *, before_resigning: Callable[[str], None], saw_epoch: Callable[[str], None]) -> None:
        """Try once now, then keep trying on a thread.

        Args:
            before_resigning: called with ``owner:term`` while the lead is still held.
            saw_epoch: called with the store's identity before this process acts as leader.

        Raises:
            SettingsError: the living leader of this prefix belongs to another app.
            StoreUnavailable: the store did not answer.
        """
        self._before_resigning, self._saw_epoch = before_resigning, saw_epoch
        # The first attempt runs on the thread too: a signal that interrupts the caller must not lose the lead.
        self._thread = threading.Thread(target=self._run, name="perpetual-leader", daemon=True)
        self._thread.start()
        self._tried.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, wait: float) -> None:
        """Give up the lead. May be called twice, and from a signal handler: it only sets a flag and waits a while."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(wait)

    def lost(self, value: str) -> None:
        """The store has refused what this process did as ``owner:term``, because another beat leads.

        It may be called on any thread; the thread of this module draws the conclusion.
        """
        self._refused = value
        self._wake.set()

    def _run(self) -> None:
        try:
            pause = self._attempt(starting=True)
            if self.lead is None:
                emit(events.LEADER_STANDBY)
        except Exception as error:  # raised where the process starts
            self._failure = error
            return
        finally:
            self._tried.set()
        while not self._stop.is_set():
            if self._wake.wait(pause):
                self._wake.clear()
            if self._stop.is_set():
                break
            try:
                pause = self._turn()
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part="leadership", error=error)
                pause = STANDBY_INTERVAL
            except Exception as error:
                emit(events.PART_FAILED, part="leadership", error=error)
                pause = STANDBY_INTERVAL
            self._drop_if_untrusted()
        self._drop_if_untrusted()
        self._resign("beat stopped")

    def _may_trust(self, lead: Lead) -> bool:
        return steady() < lead.trusted_until and lead.value != self._refused

    def _drop_if_untrusted(self) -> None:
        """A lead that could not be renewed in time is lost, whether another beat has it by now or not."""
        lead = self.lead
        if lead is not None and not self._may_trust(lead):
            self._lose(REFUSED if lead.value == self._refused else "the store has not confirmed it in time")

    def _lose(self, reason: str) -> None:
        self.lead = None
        emit(events.LEADER_LOST, reason=reason)

    def _turn(self) -> float:
        """Keep the lead or try to take it; seconds until the next turn."""
        if self.lead is not None and self.lead.value == self._refused:
            self._lose(REFUSED)
        if self.lead is None:
            left = self._stands_back_until - steady()
            return self._until_renewal(self._attempt()) if left <= 0 else min(left, STANDBY_INTERVAL)
        reason = self._health.why_to_step_down(lambda: has_standby(self._store, self.owner))
        if reason is None:
            left = self._renew_at - steady()
            return self._until_renewal(self._renew() if left <= 0 else left)
        if self._resigned(f"others go first, because {reason}"):
            emit(events.LEADER_STEPPED_DOWN, reason=reason)
        self._stands_back_until = steady() + STAND_BACK
        return STANDBY_INTERVAL

    def _until_renewal(self, pause: float) -> float:
        self._renew_at = steady() + pause
        return min(pause, HEALTH_INTERVAL)

    def _attempt(self, *, starting: bool = False) -> float:
        """Try to take the lead; seconds until the next try."""
        started = steady()
        term, left, info, epoch, now, mark = script("lead")(self._store, ttl=self._ttl_ms, **self._myself())
        self.skew = time.time() - int(now) / 1000
        self._saw_epoch(epoch.decode())
        self._epoch = epoch.decode()
        self.mark.was_left(int(mark))
        if int(term) and int(left) > ms(MARGIN):  # else it is an earlier lead of this beat, which ends at once
            reach("leader.elected")
            self._refused = None
            self._health.lead_begins()
            self._hold(f"{self.owner}:{int(term)}", started, int(left) / 1000)
            emit(events.LEADER_ELECTED, term=int(term))
            return self._ttl / 3
        leader = json.loads(info) if info else {}
        if starting and leader.get("app", self._app_name) != self._app_name:
            owner = f"leader {leader.get('owner')}"
            raise SettingsError(explain(self._store, self._app_name, leader["app"], owner))
        self._maybe_ask(leader)
        return max(0.02, min(STANDBY_INTERVAL, (int(left) + 10) / 1000))

    def _renew(self) -> float:
        """Keep the lead; seconds until the next time."""
        started, lead = steady(), self.lead
        assert lead is not None
        kept, asker, now, mark = script("renew")(self._store, mine=lead.value, ttl=self._ttl_ms, **self._myself())
        self.skew = time.time() - int(now) / 1000
        if not kept:
            self._lose(REFUSED)
            return 0.0
        self.mark.was_left(int(mark))
        if asker and asker.decode() != self.owner:
            self._resign(f"handed over to {asker.decode()}")
            return STANDBY_INTERVAL
        self._hold(lead.value, started, self._ttl)
        return self._ttl / 3

    def _hold(self, value: str, started: float, left: float) -> None:
        self.lead = Lead(value, started + left - MARGIN)

    def _resign(self, reason: str) -> None:
        if self._resigned(reason):
            emit(events.LEADER_RESIGNED, reason=reason)

    def _resigned(self, reason: str) -> bool:
        """Give up the lead, if there is one; whether that is to be reported."""
        lead, self.lead = self.lead, None
        if lead is None:
            return False
        try:
            try:
                self._before_resigning(lead.value)
            except Exception as error:  # the next leader has more to do, and need not wait for it
                emit(events.PART_FAILED, part="what a beat does before it gives up its lead", error=error)
            script("resign")(self._store, mine=lead.value, reason=reason)
        except Exception as error:  # a beat that stops must stop
            emit(events.LEADER_RESIGN_FAILED, error=error)
            return False
        return True

    def _maybe_ask(self, leader: dict[str, Any]) -> None:
        """Ask a leader that knows fewer units for the lead, once."""
        count, digest = self._units
        if self._asked or not leader or leader.get("digest") == digest or count <= int(leader.get("units", 0)):
            return
        self._asked = True
        ask_for_lead(self._store, self.owner, ttl_ms=self._ttl_ms)
        emit(events.LEADER_HANDOVER_ASKED)

    def _myself(self) -> dict[str, Any]:
        known = {"mark": self.mark.value, "epoch_known": self._epoch, "epoch_new": secrets.token_hex(8)}
        return {"owner": self.owner, "about": self._about(), **known}

    def _about(self) -> str:
        count, digest = self._units
        about = {"app": self._app_name, "owner": self.owner, "units": count, "digest": digest}
        return json.dumps(about | {"trouble": self._health.trouble})

    @property
    def _ttl_ms(self) -> int:
        return ms(self._ttl)
