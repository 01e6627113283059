"""The help that the ladder asks for: workers that open their consumers anew, and more workers.

Both may take long, and one is the user's code, so neither runs on the thread of the cycle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.depth import depth_of
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.starvation.consumers import SATURATED
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.wake import GROW, WAKE

if TYPE_CHECKING:
    from celery import Celery

#: Seconds that a hook of the user's may take.
LONGEST_HOOK = 30.0

#: Seconds in which workers answer that they grow.
LONGEST_REPLY = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One queue that needs help."""

    step: str
    """``wake`` or ``spawn``."""
    queue: str
    hosts: tuple[str, ...]
    """Workers that are to consume it."""
    oldest_seconds: float
    cause: str


class Assistance:
    """Carries requests out, one after the other, on a thread that ends with them."""

    def __init__(
        self, app: Celery, hook: Callable[..., Any] | None, most: int, came_to_nothing: Callable[[Request, str], object]
    ) -> None:
        """Ask nothing yet.

        Args:
            app: its control sends commands to workers.
            hook: the user's function that starts workers.
            most: processes that may be added to the pool of one worker.
            came_to_nothing: called in the thread with a request and why nothing came of it.
        """
        self._app = app
        self._hook = hook
        self._most = most
        self._came_to_nothing = came_to_nothing
        self._courier = Courier("starvation")
        self._requests: list[Request] = []
        self._failed: list[tuple[Request, str]] = []
        """Those that nothing came of, with the reason, until that is in the store."""
        self._hanging: threading.Thread | None = None

    def how(self, cause: str) -> str:
        """The way to more workers: ``hook``, ``pool_grow``, or "" for none."""
        if self._hook is not None:
            return "hook"
        return "pool_grow" if self._most and cause == SATURATED else ""

    def ask(self, requests: list[Request]) -> None:
        """Carry requests out soon; called in each pass, also with none."""
        self._requests += requests
        if self._requests or self._failed:
            self._courier.run(self._work, seconds=0)

    def _work(self) -> int:
        while self._requests:
            request = self._requests.pop(0)
            try:
                trouble = self._wake(request) if request.step == "wake" else self._spawn(request)
            except Exception as error:  # of a broker
                trouble = described(error)
            if trouble:
                self._failed.append((request, trouble))
        self._report_failed()
        return 0

    def _report_failed(self) -> None:
        """Say what nothing came of; while the store is away that waits for the next pass."""
        while self._failed:
            try:
                self._came_to_nothing(*self._failed[0])
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part="a step of the starvation ladder", error=error)
                return
            del self._failed[0]

    def _wake(self, request: Request) -> str:
        if request.hosts:
            self._app.control.broadcast(WAKE, {"queue": request.queue}, destination=list(request.hosts))
        return ""

    def _spawn(self, request: Request) -> str:
        if self._hook is None:
            return self._grow(request)
        if self._hanging is not None and self._hanging.is_alive():
            return "the hook has not returned from its last call"
        facts = {
            "queue": request.queue, "waiting": self._depth(request), "oldest_seconds": request.oldest_seconds,
            "cause": request.cause,
        }  # fmt: skip
        call = _Call(self._hook, facts)
        call.start()
        call.join(LONGEST_HOOK)
        if call.is_alive():
            self._hanging = call
            return f"the hook has not returned within {LONGEST_HOOK:g} s"
        return call.trouble

    def _depth(self, request: Request) -> int:
        """Messages in the queue; 1 where the broker does not say, as one item was found."""
        try:
            return max(depth_of(self._app, request.queue), 1)
        except Exception:  # of a transport, of any kind: the hook is needed all the same
            return 1

    def _grow(self, request: Request) -> str:
        replies: Any = self._app.control.broadcast(
            GROW, {"most": self._most}, destination=list(request.hosts), reply=True, timeout=LONGEST_REPLY,
            limit=len(request.hosts),
        )  # fmt: skip
        said: Mapping[str, Any] = {host: answer for reply in replies or () for host, answer in reply.items()}
        if any("ok" in answer for answer in said.values()):
            return ""
        return "; ".join(f"{host}: {answer.get('error')}" for host, answer in said.items()) or "no worker has answered"


class _Call(threading.Thread):
    """One call of the hook."""

    def __init__(self, hook: Callable[..., Any], facts: Mapping[str, Any]) -> None:
        super().__init__(name="perpetual-spawn", daemon=True)
        self._hook = hook
        self._facts = facts
        self.trouble = ""

    def run(self) -> None:
        try:
            self._hook(**self._facts)
        except BaseException as error:  # user code may raise anything
            self.trouble = f"the hook raised {described(error)}"
