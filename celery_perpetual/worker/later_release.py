"""Releases that the store did not take: kept like ends, until it does.

An execution that has retried or replaced itself has no end, and its worker would find that it holds a lease which it
does not use: the task would count as lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual.completions.end import FIRST, EndReply

if TYPE_CHECKING:
    from celery_perpetual.leases.execution import Execution
    from celery_perpetual.leases.grants import Grants


@dataclass(slots=True, kw_only=True)
class Release:
    """The release of one execution."""

    task_id: str
    nonce: str
    cause: str
    tag: str
    """Of the message that is acknowledged with it, "" if Celery does that."""
    grants: Grants
    copy: str = ""
    """JSON of the message that the execution has sent under its own id by itself, "" for none."""
    keeps: bool = False
    """Whether the message of its successor stays on record until that begins."""

    def announce(self, status: str, head: str, stored: Any = None, over: Any = None) -> EndReply:  # noqa: ARG002  # as ends are announced
        """Make the call."""
        self.grants.release(self.task_id, self.nonce, self.cause, tag=self.tag, copy=self.copy, keeps=self.keeps)
        return EndReply(FIRST, 0, 0)


def release_or_keep(app: Any, execution: Execution, cause: str, tag: str) -> None:
    """Release an execution, now or when the store is back; one without a lease too, as the store may grant it late."""
    perpetual = app.perpetual
    release = Release(
        task_id=execution.task_id, nonce=execution.nonce, cause=cause, tag=tag, grants=perpetual.grants,
        copy=execution.sent_copy, keeps=execution.keeps_successor,
    )  # fmt: skip
    if execution.leased or not perpetual.announcer.down:
        # In full patience: an end of the retry before the release would be late.
        perpetual.announcer.call_or_keep(release)
    else:
        perpetual.announcer.keep(release)
