"""The base class for perpetual tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery, Task

F = TypeVar("F", bound=Callable[..., Any])

#: The constant header by which workers recognise the messages of perpetual tasks and items.
HEADER = "perpetual"
HEADER_VALUE = 1
#: In the messages of routines' runs: of which routine, for which slot, which attempt.
ROUTINE_HEADER = "perpetual-routine"
#: In the message of an item that an operator has enqueued again: the id of the task that it repeats.
REPLAY_HEADER = "perpetual-replay-of"

#: Where ``@task.batch`` leaves the function, on the task's own function: a ``@shared_task`` made before its app
#: has several task objects but only one function.
BATCH_ATTRIBUTE = "__perpetual_next_batch__"

#: Called with the app when a perpetual task becomes one of its tasks.
when_bound: list[Callable[[Celery], None]] = []


class PerpetualTask(Task):  # type: ignore[type-arg]
    """A task that finds its own work: give it ``poll_every`` and ``next_batch``.

    It is late-acked unless it says otherwise, and its messages carry the header ``perpetual``, however sent.
    """

    abstract = True
    acks_late = True

    poll_every: Any = None
    """Seconds, a ``timedelta``, or any Celery schedule."""
    next_batch: Any = None
    """A function of no argument or one :class:`Poll` that reads what is to be done and returns items."""
    tenants: Any = None
    """A list of tenants, or a function that returns one: the task is polled once per tenant."""
    preflight: Any = None
    """A function of no argument or the tenant; it raises if a unit may not be polled yet."""
    max_in_flight: int | None = None
    """Most items that are enqueued and not yet finished; default 10 000."""
    poll_timeout: Any = None
    """Seconds after which a poll is abandoned; default the interval, at least 5 and at most 60."""
    lease: bool = True
    """False: it runs without a lease: it may run twice at once, and is not resent when its worker dies."""
    on_lost: str = "requeue"
    """How it goes on when its worker dies: ``requeue``, ``fail`` or ``park``."""
    after_success: Any = None
    """A function of the result of a task that has succeeded; what it returns are further items of the task's unit."""
    perpetual_options: Any = None
    """A :class:`PerpetualOptions`."""

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """As Celery's; Celery calls it for each task of the app."""
        for call in when_bound:
            call(app)
        super().on_bound(app)

    def batch(self, function: F) -> F:
        """Decorate the function that finds this task's work.

        For modules that are imported after the app is configured; elsewhere pass ``next_batch=``.
        """
        own = unwrapped(type(self))
        if own is None:
            raise TypeError(
                f"task {self.name} has a class, and .batch is for decorated tasks; define next_batch as a method of "
                "the class"
            )
        setattr(own, BATCH_ATTRIBUTE, function)
        return function

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """As Celery's, with the header."""
        options["headers"] = {**(options.get("headers") or {}), HEADER: HEADER_VALUE}
        return super().apply_async(args, kwargs, **options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As the method of Celery's task for Django: ``delay`` once Django's transaction is committed."""
        _of_django().delay_on_commit(self, *args, **kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As the method of Celery's task for Django: ``apply_async`` once Django's transaction is committed."""
        _of_django().apply_async_on_commit(self, *args, **kwargs)


def _of_django() -> Any:
    """Celery's task class for Django, which needs Django."""
    from celery.contrib.django.task import DjangoTask

    return DjangoTask


def unwrapped(cls: type) -> Any:
    """The user's function behind a decorated task class, or None for a class-based task."""
    wrapped = cls.__dict__.get("__wrapped__")
    return getattr(wrapped, "__func__", wrapped)
