"""Celery's own sender, but its signals after the publish are sent only once it has taken place.

``AMQP.send_task_message`` sends ``before_task_publish``, hands the message to its producer and sends
``after_task_publish`` at once. Our producers only collect: the broker has a message when a script has run, or when its
confirm has come. So the sender's own code runs with a stand-in for ``celery.signals``, which keeps what comes after
the publish until it is true.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals
from celery.app.amqp import AMQP

from celery_perpetual.tasks.task import ROUTINE_HEADER

if TYPE_CHECKING:
    from celery import Celery

#: Makes the sender, as a closure over one app.
_MAKER: Any = getattr(AMQP, "_create_task_sender", None)

#: The name of that sender; anything else in its place was put there by other code.
_SENDER = "AMQP._create_task_sender.<locals>.send_task_message"


class SignalCall(NamedTuple):
    """One call of a signal."""

    signal: Any
    arguments: dict[str, Any]


class AfterPublish:
    """The calls of signals that are due after the publish."""

    def __init__(self) -> None:
        self._calls: list[SignalCall] = []

    def add(self, signal: Any, arguments: dict[str, Any]) -> None:
        """Keep a call of a signal that has receivers."""
        if signal.receivers:
            self._calls.append(SignalCall(signal, arguments))

    def extend(self, other: AfterPublish) -> None:
        """Take over the calls of another one."""
        self._calls += other.take()

    def send(self) -> None:
        """Send everything that was kept, in order. Receivers cannot raise: Celery logs what they raise."""
        calls, self._calls = self._calls, []
        for signal, arguments in calls:
            signal.send(**arguments)

    def leave_out(self, task_ids: Collection[str]) -> None:
        """Forget the calls for messages that were not published."""
        self._calls = [call for call in self._calls if _task_id(call) not in task_ids]

    def take(self) -> list[SignalCall]:
        """Take out the calls that were kept, without sending them."""
        calls, self._calls = self._calls, []
        return calls


def _task_id(call: SignalCall) -> Any:
    """Of the message that the call is about: one signal gives its headers, the other one the id."""
    return (call.arguments.get("headers") or {}).get("id") or call.arguments.get("task_id")


class _KeptSignal:
    """A signal whose calls are kept."""

    def __init__(self, signal: Any, sender: QuietSender) -> None:
        self._signal = signal
        self._sender = sender

    @property
    def receivers(self) -> Any:
        return self._signal.receivers

    def send(self, **arguments: Any) -> None:
        self._sender.after_publish.add(self._signal, arguments)


class _SilentSignal:
    """A signal that is not sent."""

    receivers = ()

    def send(self, **arguments: Any) -> None:
        """Send nothing."""


class _Signals:
    """``celery.signals`` for the sender; before the publish everything is as usual."""

    def __init__(self, sender: QuietSender, *, is_silent: bool) -> None:
        self.before_task_publish = _SilentSignal() if is_silent else signals.before_task_publish
        self.after_task_publish = _KeptSignal(signals.after_task_publish, sender)
        self.task_sent = _KeptSignal(signals.task_sent, sender)


class QuietSender:
    """``app.amqp.send_task_message``, but the signals after the publish go to ``after_publish``.

    A sender that is not Celery's is called as it is, and sends its signals when it likes.

    Args:
        is_silent: nothing is published, so ``before_task_publish`` is not sent either.
    """

    def __init__(self, app: Celery, *, is_silent: bool = False) -> None:
        self.after_publish = AfterPublish()
        amqp: Any = app.amqp
        self._send: Callable[..., Any] = amqp.send_task_message
        if is_celerys_own(amqp):
            own = {**_MAKER.__globals__, "signals": _Signals(self, is_silent=is_silent)}
            quiet = FunctionType(_MAKER.__code__, own, _MAKER.__name__)
            self._send = quiet(amqp)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._send(*arguments, **options)


def is_celerys_own(amqp: Any) -> bool:
    """Whether messages are built and sent by Celery's code as it came."""
    return (
        type(amqp) is AMQP
        and getattr(amqp.send_task_message, "__qualname__", "") == _SENDER
        and type(_MAKER) is FunctionType
        and "signals" in _MAKER.__globals__
    )


def call_for(
    specimen: SignalCall, task_id: str, body: Any, reprs: tuple[str, str], run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The arguments of a signal for another message of the same kind; ``run`` is its header where it has one."""
    headers = copy.deepcopy(specimen.arguments["headers"])
    headers.update(id=task_id, root_id=task_id, argsrepr=reprs[0], kwargsrepr=reprs[1])
    if run is not None:
        headers[ROUTINE_HEADER] = dict(run)
    return {**specimen.arguments, "headers": headers, "body": body}
