"""The end of one task, as the process that saw it hands it to the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from celery_perpetual.completions.completion import VERSION, error_of, inline
from celery_perpetual.ledger.ids import item_place

if TYPE_CHECKING:
    from celery_perpetual.completions.result_in_script import ResultToStore
    from celery_perpetual.store.connection import Store
    from celery_perpetual.store.keys import Keys
    from celery_perpetual.store.prepared import Prepared

_json = json.JSONEncoder().encode
_quoted = json.encoder.encode_basestring_ascii

#: The record without what only the store knows, and without its closing brace. Written as json.dumps does, which takes
#: several times as long for a dict; every task waits for this.
_HEAD = (
    f'{{"v": {VERSION}, "task_id": %s, "task": %s, "status": "%s", "final": true, "runtime": %s, '
    '"worker": %s, "attempt": %d, "error": %s, "meta": %s, "result": %s'
)


#: The fate of the key of an item that does not end by success: it is held back as its task's options say, or until
#: an operator allows it, or not at all.
BACK_OFF, UNTIL_ALLOWED, NOT_HELD = "back_off", "until_allowed", "none"

#: The verdict on the end that counts, and those that say why nothing was done: the store may not write Celery's result,
#: or cannot read the one that is there.
FIRST, FORBIDDEN, UNREADABLE = b"first", b"forbidden", b"unreadable"
#: The verdict on an end that does not count, as another one was before it, or another execution has the lease.
LATE = b"late"


@dataclass(slots=True, kw_only=True)
class TaskEnd:
    """One end of one task; never changed once made."""

    task_id: str
    task: str | None
    status: str
    announce: bool = True
    result: Any = None
    exception: Any = None
    runtime: float | None = None
    worker: str | None = None
    attempt: int = 1
    meta: Any = None
    nonce: str = ""
    """Of the delivery that ended; "" where there was no lease, ``*`` for an operator."""
    leased: bool = False
    """Whether it ran under a lease: without that lease its end is late."""
    tag: str = ""
    """Delivery tag of a message that stays unacked until this end is stored."""
    where: Mapping[str, str | int] = field(default_factory=dict)
    """Where its record is, as arguments of scripts, if the caller knows it."""
    hold: str = ""
    """How an operator leaves the item key: :data:`UNTIL_ALLOWED` or :data:`NOT_HELD`; "" for an end that came by
    itself."""


class EndReply(NamedTuple):
    """The answer of ``end_item.lua`` and ``end_task.lua``."""

    verdict: bytes
    """:data:`FIRST`, :data:`FORBIDDEN`, :data:`UNREADABLE`, or another word where the end did not count."""
    follows: bytes | int
    """The step that follows and is due now, as :mod:`.batches` reads it; 0 if there is none."""
    result_stored: int
    """1 if Celery's result is stored."""

    @property
    def has_done_nothing(self) -> bool:
        """Whether the result stood in the way: it may not be stored, or what is there cannot be read."""
        return self.verdict in (FORBIDDEN, UNREADABLE)


class EndScript(NamedTuple):
    """A script that announces an end."""

    alone: Prepared
    """It leaves Celery's result to Celery."""
    storing: Prepared
    """It may store Celery's result as well."""


class EndScripts(NamedTuple):
    """The scripts that announce an end."""

    item: EndScript
    """Of an item, in the usual way: a key that fails is held back as its task's options say."""
    item_by_operator: EndScript
    """Of an item, by an operator, who says what becomes of its key."""
    task: EndScript


class Closing(Protocol):
    """The last call of an execution to the store: its end, or its release."""

    task_id: str

    def announce(
        self, status: str, head: str, stored: ResultToStore | None = None, over: Store | None = None
    ) -> EndReply:
        """Make the call; may be called again.

        Raises:
            StoreUnavailable: the store did not answer.
        """


class ExpectedEnd:
    """An end that is to come, written as far as it is known, so that little is left to do when it comes."""

    __slots__ = ("_call", "_known", "_script", "_written", "leased", "task_id")

    def __init__(
        self, scripts: EndScripts, keys: Keys, task_id: str, task: str | None, *, announce: bool = True,
        worker: str | None = None, attempt: int = 1, nonce: str = "", leased: bool = False, tag: str = "",
        where: Mapping[str, str | int] | None = None, hold: str = "", stores: bool = False,
    ) -> None:  # fmt: skip
        """Write what is known; makes no call.

        Args:
            scripts: of which one will be called.
            keys: of the store.
            task_id, task, announce, worker, attempt, nonce, leased, tag, where, hold: as of :class:`TaskEnd`.
            stores: whether Celery's result may have to be stored with it. If it has to although this says no, the call
                is written anew then.
        """
        where = where or item_place(keys, task_id)
        self.task_id = task_id
        self.leased = leased
        known: dict[str, str | int] = {"id": task_id, "nonce": nonce, "started": int(leased), "tag": tag}
        if where["position"] == -1:
            self._script = scripts.task
        elif hold:
            self._script, known = scripts.item_by_operator, {**known, **where, "hold": hold}
        else:
            self._script, known = scripts.item, {**known, **where}
        self._known = known
        self._call = (self._script.storing if stores else self._script.alone).begun(known)
        self._written = (_text(task_id), _text(task), _text(worker), attempt) if announce else None

    def head(
        self, status: str, *, runtime: float | None = None, result: Any = None, exception: Any = None, meta: Any = None
    ) -> str:
        """The head of the record, "" where the end is not announced."""
        if self._written is None:
            return ""
        task_id, task, worker, attempt = self._written
        return _HEAD % (
            task_id,
            task,
            status,
            "null" if runtime is None else f"{runtime:.6f}",
            worker,
            attempt,
            "null" if exception is None else _json(error_of(exception)),
            _json(meta) if meta else "{}",
            inline(result),
        )

    def announce(
        self, status: str, head: str, stored: ResultToStore | None = None, over: Store | None = None
    ) -> EndReply:
        """Store the end; may be called again.

        Args:
            status: how it ended.
            head: of the record.
            stored: what is to be stored for Celery in the same step.
            over: the store, over connections of a caller that has less time.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        call = self._call
        if call.prepared is self._script.alone:
            if stored is None:
                return EndReply(*call(over, status=status, head=head))
            call = self._script.storing.begun(self._known)
        result, value, expires = stored or ("", "", 0)
        return EndReply(*call(over, status=status, head=head, result=result, value=value, expires=str(expires)))


def _text(value: Any) -> str:
    """JSON of what is nearly always text."""
    return "null" if value is None else _quoted(str(value))
