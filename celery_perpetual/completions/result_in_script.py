"""Celery's result, stored in the step that announces the end.

Celery asks its Redis backend whether a success is there already, and then stores and publishes the result: two calls,
for which every waiter would wait too. Where the backend is the store's own server and database, the script that stores
the end does the same without a further call: Celery builds the value, and the script stores it as Celery does.

In every doubtful case Celery stores it as usual. Such cases are another backend or a subclass, a serializer that
scripts cannot read, a chord, a large result, a store that does not answer, and a key that its user may not write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from inspect import isfunction, unwrap
from math import isfinite
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
#: Where a backend keeps whether it is one of these, and the text around what differs.
_IN_SCRIPT, _FORM = "_perpetual_result_in_script", "_perpetual_form_of_results"

#: Of the value of a success of a task that is in no group and no chain.
_KEYS = {"status", "result", "traceback", "children", "date_done", "task_id"}

_quoted = json.encoder.encode_basestring_ascii
#: JSON of the results that have one form.
_PLAIN: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null", bool: lambda value: "true" if value else "false", int: int.__repr__,
    float: float.__repr__, str: _quoted,
}  # fmt: skip


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
        value, key = _value(backend, task_id, result, request), backend.get_key_for_task(task_id)
    except Exception:  # Celery is going to raise it too, where its own code expects it
        return None
    if len(value) > LONGEST_VALUE or not isinstance(value, str):
        return None
    return ResultToStore(key.decode() if isinstance(key, bytes) else key, value, backend.expires or 0)


def _value(backend: Any, task_id: str, result: Any, request: Any) -> Any:
    """The text that Celery's backend builds of a success.

    Building it takes a good part of the time for which waiters wait. Where a task has a plain result and no group,
    parent or children, only three values differ from task to task. So the backend builds one such text, and the others
    are made of it.
    """
    write = _PLAIN.get(type(result))
    if write is None or request.group or request.parent_id or request.children or not _is_json(result):
        return _built(backend, task_id, result, request)[0]
    form = backend.__dict__.get(_FORM)
    if form is None:
        form = backend.__dict__[_FORM] = _form(backend, request)
    if not form:
        return _built(backend, task_id, result, request)[0]
    before, then, last, end = form
    return f"{before}{write(result)}{then}{backend.app.now().isoformat()}{last}{_quoted(task_id)}{end}"


def _built(backend: Any, task_id: str, result: Any, request: Any) -> tuple[Any, Any]:
    """The text as the backend builds it, and what it is built of."""
    encoded = backend.encode_result(result, states.SUCCESS)
    meta = backend._get_result_meta(result=encoded, state=states.SUCCESS, traceback=None, request=request)  # noqa: SLF001
    meta["task_id"] = task_id
    return backend.encode(meta), meta


def _form(backend: Any, request: Any) -> tuple[str, ...]:
    """The text around result, time and id; empty where others differ too, as with ``result_extended``."""
    result, task_id = "the result of a task", "the id of a task"
    text, meta = _built(backend, task_id, result, request)
    done = meta.get("date_done")
    if meta.keys() != _KEYS or not isinstance(text, str) or not isinstance(done, str):
        return ()
    now = backend.app.now().isoformat()
    if done[:10] != now[:10] or done[26:] != now[26:]:  # midnight, or another form of time
        return ()
    parts = tuple(re.split("|".join(map(re.escape, (_quoted(result), done, _quoted(task_id)))), text))
    rebuilt = len(parts) == 4 and f"{parts[0]}{_quoted(result)}{parts[1]}{done}{parts[2]}{_quoted(task_id)}{parts[3]}"
    return parts if rebuilt == text else ()


def _is_json(result: Any) -> bool:
    return type(result) is not float or isfinite(result)


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
