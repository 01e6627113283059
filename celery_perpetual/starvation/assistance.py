"""The help that the ladder asks for: workers that open their consumers anew, and more workers.

Both may take long, and one is the user's code, so neither runs on the thread of the cycle. A request is on record
before it is carried out, and once more when it is done: where a process dies in between, a later pass asks again. To
wake twice, or to grow twice up to one bound, has the effect of once; a hook gets the name of the episode, so that it
knows a second call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.depth import depth_of
from celery_perpetual.call_apart import CallApart
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
    episode: str
    """Its name."""
    noted: int
    """When the step was noted: ms of the store's time. Another time in the store: another process is at it."""


class Assistance:
    """Carries requests out, one after the other, on a thread that ends with them."""

    def __init__(
        self, app: Celery, hook: Callable[..., Any] | None, most: int, is_wanted: Callable[[Request], bool],
        came_of: Callable[[Request, str], object],
    ) -> None:  # fmt: skip
        """Ask nothing yet.

        Args:
            app: its control sends commands to workers.
            hook: the user's function that starts workers.
            most: processes that may be added to the pool of one worker.
            is_wanted: asked in the thread, right before a request is carried out.
            came_of: called in the thread with a request and why nothing came of it, "" when it is done.
        """
        self._app = app
        self._hook = hook
        self._most = most
        self._is_wanted = is_wanted
        self._came_of = came_of
        self._courier = Courier("starvation")
        self._requests: list[Request] = []
        self._ended: list[tuple[Request, str]] = []
        """Those that are over, and why nothing came of them, until that is in the store."""
        self._at_hand: set[tuple[str, str]] = set()
        """Step and queue of all of these, and of the one that is carried out."""
        self._hanging: CallApart[Any] | None = None

    def how(self, cause: str) -> str:
        """The way to more workers: ``hook``, ``pool_grow``, or "" for none."""
        if self._hook is not None:
            return "hook"
        return "pool_grow" if self._most and cause == SATURATED else ""

    def has(self, step: str, queue: str) -> bool:
        """Whether such a request is under way here."""
        return (step, queue) in self._at_hand

    def ask(self, requests: list[Request]) -> None:
        """Carry requests out soon; called in each pass, also with none."""
        self._at_hand.update((each.step, each.queue) for each in requests)
        self._requests += requests
        if self._requests or self._ended:
            self._courier.run(self._work, seconds=0)

    def finish(self, seconds: float) -> None:
        """Wait until all is carried out and on record, at most for so long: the process may end then."""
        if self._at_hand:
            self._courier.run(self._work, seconds)

    def _work(self) -> int:
        try:
            self._report()
            while self._requests:
                request = self._requests[0]
                if self._is_wanted(request):
                    self._ended.append((request, self._carry_out(request)))
                else:
                    self._at_hand.discard((request.step, request.queue))
                del self._requests[0]
                self._report()
        except StoreUnavailable as error:  # the rest waits for the next pass
            emit(events.STORE_UNREACHABLE, part="a step of the starvation ladder", error=error)
        return 0

    def _carry_out(self, request: Request) -> str:
        try:
            return self._wake(request) if request.step == "wake" else self._spawn(request)
        except Exception as error:  # of a broker
            return described(error)

    def _report(self) -> None:
        while self._ended:
            request, trouble = self._ended[0]
            self._came_of(request, trouble)
            self._at_hand.discard((request.step, request.queue))
            del self._ended[0]

    def _wake(self, request: Request) -> str:
        if request.hosts:
            self._app.control.broadcast(WAKE, {"queue": request.queue}, destination=list(request.hosts))
        return ""

    def _spawn(self, request: Request) -> str:
        if self._hook is None:
            return self._grow(request)
        if self._hanging is not None and not self._hanging.is_over():
            return "the hook has not returned from its last call"
        facts = {
            "queue": request.queue, "waiting": self._depth(request), "oldest_seconds": request.oldest_seconds,
            "cause": request.cause,
        } | ({"episode": request.episode} if _accepts(self._hook, "episode") else {})  # fmt: skip
        call = CallApart(partial(self._hook, **facts), "perpetual-spawn")
        if not call.is_over(LONGEST_HOOK):
            self._hanging = call
            return f"the hook has not returned within {LONGEST_HOOK:g} s"
        return "" if call.error is None else f"the hook raised {described(call.error)}"

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


def _accepts(hook: Callable[..., Any], keyword: str) -> bool:
    """Whether a function has a parameter of this name, or one for any keyword."""
    try:
        parameters = inspect.signature(hook).parameters
    except (TypeError, ValueError):  # it does not say
        return False
    return keyword in parameters or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
