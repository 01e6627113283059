"""Results that Celery's backend could not store, of tasks that have ended without a body: the store keeps them.

Such a task was lost, has expired, its chain has stopped, or an operator has ended it. The process that ends it may end
soon itself, and no other process runs the task again, so a cycle stores its result: see :mod:`.owed_results`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils.serialization import ensure_serializable
from kombu.utils.json import dumps, loads

from celery_perpetual import events
from celery_perpetual.completions.end import FIRST, EndReply
from celery_perpetual.errors import PerpetualError, described
from celery_perpetual.store.commands.owed import keep_owed
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store

#: Results that are kept at once; of further ones it is reported that they are not stored.
MOST_OWED = 10_000

#: A result is given up after a day, ms.
OWED_MS = 86_400_000

#: It is tried again after so many ms: until then the end of its task is stored.
FIRST_MS = 2_000

#: Characters of one result. A longer one is kept without its traceback, then without the facts on its task.
MOST_TEXT = 500_000

#: The result that is being stored, and owed if that fails.
owed_if_it_fails: ContextVar[OwedResult | None] = ContextVar("owed_if_it_fails", default=None)

#: Facts on a task that a backend is given: for its chord, its chain, its error callbacks, and an extended result.
_FACTS = (
    "id", "task", "chain", "chord", "errbacks", "group", "group_index", "root_id", "parent_id", "ignore_result",
    "delivery_info", "correlation_id", "reply_to", "hostname", "retries", "stamped_headers", "stamps", "args", "kwargs",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedResult:
    """A failure or revocation that is to be stored for Celery."""

    task: str | None
    """Name of the task, which may have a backend of its own."""
    state: str
    exception: Any
    """The exception, or as Celery's backends write one as JSON."""
    traceback: str | None = None
    request: Any = None
    """Celery's facts on the task, None where only its own result is to be stored."""
    stores: bool = True
    """Whether the result itself is to be stored, not only counted in its chord."""
    own_backend: bool = False
    """Whether the task has a result backend of its own, which only a process that knows the task can reach."""

    def to_text(self) -> str:
        """JSON; as much of it as JSON can carry and may be kept."""
        for fields in self._ever_less():
            try:
                text = dumps(fields)
            except (TypeError, ValueError):  # arguments that only another serializer carries
                continue
            if len(text) <= MOST_TEXT:
                return text
        return dumps({**self._bare(), "exception": _written(PerpetualError("the reason is too long to be kept"))})

    @property
    def keeps_rest(self) -> bool:
        """Whether what is kept of it has the rest of its chain, so that this has its results from it."""
        return bool(loads(self.to_text())["request"])

    @classmethod
    def from_text(cls, text: str) -> OwedResult:
        """Read what :meth:`to_text` has written."""
        fields = loads(text)
        facts = fields.pop("request")
        return cls(request=None if facts is None else Context(facts), **fields)

    def _bare(self) -> dict[str, Any]:
        return {
            "task": self.task, "state": self.state, "exception": _written(self.exception), "traceback": None,
            "request": None, "stores": self.stores, "own_backend": self.own_backend,
        }  # fmt: skip

    def _ever_less(self) -> Iterator[dict[str, Any]]:
        facts: dict[str, Any] | None = None
        if self.request is not None:
            found = {name: getattr(self.request, name, None) for name in _FACTS}
            facts = {name: value for name, value in found.items() if value is not None}
        yield {**self._bare(), "traceback": self.traceback, "request": facts}
        if facts is not None:
            yield {**self._bare(), "request": {name: facts[name] for name in facts if name not in ("args", "kwargs")}}
        yield self._bare()


def _written(exception: Any) -> dict[str, Any]:
    kind = type(exception)
    message = ensure_serializable(list(getattr(exception, "args", (exception,))), dumps)
    return {"exc_type": kind.__qualname__, "exc_message": message, "exc_module": kind.__module__}


@dataclass(slots=True, kw_only=True)
class _Keeping:
    """The call that keeps a result in the store; made later where the store is away."""

    store: Store
    task_id: str
    text: str
    error: Exception

    def announce(self, status: str, head: str, stored: Any = None, over: Any = None) -> EndReply:  # noqa: ARG002  # as ends are announced
        kept = keep_owed(
            over or self.store, self.task_id, self.text, described(self.error), first_ms=FIRST_MS, most=MOST_OWED,
            ttl_ms=OWED_MS,
        )  # fmt: skip
        if kept:
            emit(events.RESULT_DELAYED, task_id=self.task_id, error=self.error)
        else:
            emit(events.RESULT_NOT_STORED, task_id=self.task_id, error=self.error)
        return EndReply(FIRST, 0, 0)


def backend_of(app: Celery, task: Any) -> Any:
    """The result backend of a task, which may have one of its own."""
    return getattr(task, "backend", None) or app.backend


_paid: ContextVar[str | None] = ContextVar("celery_perpetual.paid", default=None)
"""Task whose owed result a pass stores just now."""


@contextmanager
def paying(task_id: str) -> Iterator[None]:
    """While a pass stores the owed result of a task: what cannot be stored of it stays owed, with its error raised."""
    token = _paid.set(task_id)
    try:
        yield
    finally:
        _paid.reset(token)


def owe(app: Celery, task_id: str, owed: OwedResult, error: Exception) -> None:
    """Have the store keep a result. Where the store is away, the process keeps it until it is back.

    Args:
        app: of the task; one that is not wired has no store, and there the error is only reported, as it is of a task
            without a result backend.
        task_id: of the task.
        owed: the result.
        error: why the backend could not store it.

    Raises:
        Exception: ``error`` itself, and no other, where a pass stores this very result: it is owed already.
    """
    if _paid.get() == task_id:
        raise error
    perpetual: Any = getattr(app, "perpetual", None)
    try:
        backend = backend_of(app, app.tasks.get(owed.task or ""))
        if perpetual is not None and perpetual.has_store and not isinstance(backend, DisabledBackend):
            owed = replace(owed, own_backend=backend is not app.backend)
            announcer = perpetual.announcer
            keeping = _Keeping(store=announcer.store, task_id=task_id, text=owed.to_text(), error=error)
            (announcer.keep if announcer.down else announcer.call_or_keep)(keeping)
            return
    except Exception as another:  # of any kind: the end of the task comes next
        error = another
    emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)
