"""One execution of a task, and everything that is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore

from celery_perpetual.leases.interest import INTERESTS, Interest
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.store.commands.batches import tenant_of_batch
from celery_perpetual.tasks.items import UNSET

if TYPE_CHECKING:
    from celery_perpetual.completions.backlog import UnstoredResult
    from celery_perpetual.completions.end import ExpectedEnd
    from celery_perpetual.store.connection import Store

#: Where a request carries what its receiving worker knows of the delivery; see :meth:`Execution.delivery`.
DELIVERY = "perpetual_delivery"

#: With which step a script acknowledges the message, where one does that.
AT_START, AT_END = "start", "end"


class LeaseLost(Ignore):
    """The execution has no right to go on: Celery ignores its outcome, and it completes nothing."""


class HeldBack(LeaseLost):
    """The store does not answer, and the task waits for it in the worker's main process: its body has not begun."""


@dataclass(slots=True, kw_only=True, eq=False)
class Execution:
    """One execution, in the process that runs it or in the one that speaks for it.

    The worker's main process makes it of a message, the process that runs the task of what the request brought.
    """

    task_id: str

    nonce: str = ""
    """Name of the delivery, made where it was received; "" where the task needs no lease, ``*`` for an operator."""
    tag: str = ""
    """Delivery tag of the message."""
    copy: str = ""
    """The message as JSON, where the ledger could not build it."""
    where: dict[str, str | int] = field(default_factory=dict)
    """Where its record is, as arguments of scripts; empty until a script has been asked."""
    is_patient: bool = False
    """Whether it asks for its lease longer than others, as the store answers its worker and not the execution."""
    acknowledged_by: str = ""
    """The script that acknowledges the message: :data:`AT_START` or :data:`AT_END`; "" where Celery does."""

    leased: bool = False
    """Whether it runs under a lease; not where it needs none, or the store did not answer."""
    token: int | None = None
    """Fencing number of the lease; only grows."""
    recoveries: int = 0
    granted_at: float = 0.0
    """Just before the lease was asked for: seconds of the steady clock; 0 where none was."""
    began: float = 0.0
    """When its time limits began: seconds of the machine's monotonic clock, by which pools count them."""
    limits: tuple[float, ...] = ()
    """The time limits that the pool keeps, in seconds, the first to come before the other."""

    task: Any = None
    """The task, from its ``task_prerun`` on."""
    interest: Interest = Interest.NONE
    """In its task; of a delivery from the start, else from ``task_prerun`` on."""
    since: float = 0.0
    """When it began: seconds of the machine's monotonic clock."""
    around: BaseException | None = None
    """The error that was being handled when it began; any other else at its end is on its way out of Celery's code."""
    end: ExpectedEnd | None = None
    """Its end, written as far as it is known."""
    is_entered: bool = False
    """Whether the body has been called: another call is one as a function."""
    has_returned: bool = False
    """Whether the body has returned, so that its result is the end of the task."""
    is_over: bool = False
    """Whether its end has been handed to the store or is kept for it, or comes from elsewhere."""
    successor: str = ""
    """Why another message goes on under its id, so that this one ends nothing: ``wait`` (a retry), ``delegated``, or
    ``back`` (the task has sent itself again)."""
    has_copy: bool = False
    """Whether that message is on record."""
    keeps_successor: bool = False
    """Whether it is, and has the id of this item, so that it can be sent again when the broker has lost it."""
    is_unsent: bool = False
    """Whether that message is on record, and the broker could not be reached: others send it."""
    hands_on: str = ""
    """The same while the first message of its successor has yet to be published."""
    sent_again: str = ""
    """How a message goes on that the body has sent under its own id, if it says that it is not the end: as a retry
    (``wait``), or as this very execution once more (``back``)."""
    sent_copy: str = ""
    """That message as JSON, which is sent once more where it comes before the end; "" for none."""
    unstored: UnstoredResult | None = None
    """Its result, where Celery's backend could not store it."""
    meta: dict[str, Any] | None = None
    """The values that the task has given to ``annotate``."""
    tenant: Any = UNSET
    """The tenant whose poll has enqueued it, None without one; unset until somebody asks."""
    is_by_signal: bool = False
    """Whether ``task_prerun`` has made it: no worker's tracer stands around it."""
    outer: Execution | None = None
    """The execution in whose body this one runs, or which is spoken for besides."""

    @classmethod
    def delivered(cls, task_id: str, delivery: tuple[str, str, str, str, int, bool]) -> Execution:
        """The execution of a delivery that a request brought."""
        nonce, tag, copy, acknowledged_by, interest, is_patient = delivery
        return cls(
            task_id=task_id,
            nonce=nonce,
            tag=tag,
            copy=copy,
            acknowledged_by=acknowledged_by,
            interest=INTERESTS[interest],
            is_patient=is_patient,
        )

    @property
    def delivery(self) -> tuple[str, str, str, str, int, bool]:
        """The fields that the request brings to the process that runs the task."""
        return self.nonce, self.tag, self.copy, self.acknowledged_by, self.interest.value, self.is_patient

    @property
    def unacked_tag(self) -> str:
        """Tag of the message that the end acknowledges; "" where Celery does that, or the start has done it."""
        is_open = self.acknowledged_by == AT_END or (self.acknowledged_by == AT_START and self.token is None)
        return self.tag if is_open else ""


_current: ContextVar[Execution | None] = ContextVar("celery_perpetual.execution", default=None)


def current() -> Execution | None:
    """The execution that this thread or greenlet runs or speaks for."""
    return _current.get()


def execution_of(task_id: Any) -> Execution | None:
    """The same, if it is one of this task id."""
    execution = _current.get()
    return execution if execution is not None and execution.task_id == task_id else None


def leased_execution() -> Execution | None:
    """The innermost execution that needs a lease: a task that its caller runs by itself runs under its caller's."""
    execution = _current.get()
    while execution is not None and not execution.nonce:
        execution = execution.outer
    return execution


def tenant_of_execution(store: Store, execution: Execution) -> Any:
    """The tenant by whose poll its task was enqueued, which is asked for once; None without one.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if execution.tenant is UNSET:
        where = item_address(execution.task_id)
        execution.tenant = None if where is None else tenant_of_batch(store, where.poll_id)
    return execution.tenant


def enter(execution: Execution) -> None:
    """From now on, until :func:`leave`, this thread or greenlet runs it."""
    execution.outer = _current.get()
    _current.set(execution)


def leave(execution: Execution) -> None:
    """Go on with the execution that was run before."""
    _current.set(execution.outer)


@contextmanager
def acting_for(execution: Execution | None) -> Iterator[None]:
    """An end of the task that is announced inside is an end of this execution."""
    if execution is None:
        yield
        return
    enter(execution)
    try:
        yield
    finally:
        leave(execution)
