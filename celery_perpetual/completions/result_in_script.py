"""Celery's result, stored in the step that announces the end.

Celery asks its Redis backend whether a success is there already, and then stores and publishes the result: two calls,
for which every waiter would wait too. Where the backend is the store's own server and database, the script that stores
the end does the same without a further call: Celery builds the value, and the script stores it as Celery does. In every
doubtful case (another backend, a subclass, a serializer that scripts cannot read, a chord,
a large result, a store that does not answer, a key that the store's user may not write), Celery stores it as usual.
"""

from __future__ import annotations

from inspect import isfunction, unwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import celery
from celery import states
from celery.backends.redis import RedisBackend

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: A larger one would hold the server up for all others.
LONGEST_VALUE = 64 * 1024

#: The methods by which Celery stores a result. Where other code has replaced one of them, Celery must call it.
STEPS = (
    "store_result",
    "_store_result",
    "_set_with_state",
    "set",
    "_set",
    "encode",
    "encode_result",
    "_get_result_meta",
)
_CELERY = str(Path(celery.__file__).parent)
#: Where a backend keeps whether it is one of these.
_IN_SCRIPT = "_perpetual_result_in_script"


class ResultToStore(NamedTuple):
    """The value that the script stores for Celery."""

    result: str
    """The key."""
    value: str
    expires: int
    """Seconds, 0 = for ever."""


def result_to_store(store: Store, backend: Any, task_id: str, result: Any, request: Any) -> ResultToStore | None:
    """The value that Celery's backend would store for a success, or None where Celery has to store it."""
    fits: bool | None = backend.__dict__.get(_IN_SCRIPT)
    if fits is None:
        fits = backend.__dict__[_IN_SCRIPT] = _is_at(store, backend)
    if not fits or request.ignore_result or request.chord:
        return None
    try:
        encoded = backend.encode_result(result, states.SUCCESS)
        meta = backend._get_result_meta(result=encoded, state=states.SUCCESS, traceback=None, request=request)  # noqa: SLF001
        meta["task_id"] = task_id
        value, key = backend.encode(meta), backend.get_key_for_task(task_id)
    except Exception:  # Celery is going to raise it too, where its own code expects it
        return None
    if len(value) > LONGEST_VALUE or not isinstance(value, str):
        return None
    return ResultToStore(key.decode() if isinstance(key, bytes) else key, value, backend.expires or 0)


def leave_to_celery(backend: Any) -> None:
    """The script may not write to the backend's keys."""
    backend.__dict__[_IN_SCRIPT] = False


def _is_at(store: Store, backend: Any) -> bool:
    kind: Any = type(backend)
    if kind is not RedisBackend or backend.serializer != "json" or store.address.kind != "tcp":
        return False
    where = backend.connparams  # its URL alone does not say: settings fill in what it leaves out
    host = "127.0.0.1" if where.get("host") == "localhost" else where.get("host")
    same = (host, where.get("port")) == store.address.place and (where.get("db") or 0) == store.address.db
    return same and all(_is_celerys(backend, name) for name in STEPS)


def _is_celerys(backend: Any, name: str) -> bool:
    step = getattr(type(backend), name, None)
    if step is None:  # a step of another release
        return True
    if name in backend.__dict__ or not isfunction(step):
        return False
    code: Any = getattr(unwrap(step, stop=_is_ours), "__code__", None)
    return code is not None and code.co_filename.startswith(_CELERY)


def _is_ours(step: Any) -> bool:
    """Whether unwrapping ends here: only what this package has put around a step is looked through."""
    return not getattr(step, "perpetual", False)
