"""The operations on routines as coroutines: each call runs on a thread of the loop's, so the loop never blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from celery_perpetual.routines.routine import Routine, RoutineRun
from celery_perpetual.routines.routines import Found, Routines, Started

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_perpetual.routines.typed import Created, Patch


class AsyncRoutines:
    """``perpetual.aio.routines``: as :class:`Routines`."""

    def __init__(self, routines: Routines) -> None:
        self._routines = routines

    async def create(
        self,
        task: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **fields: Unpack[Created],
    ) -> Routine:
        return await asyncio.to_thread(self._routines.create, task, args, kwargs, **fields)

    async def create_many(self, routines: Iterable[Mapping[str, Any]]) -> list[Routine]:
        return await asyncio.to_thread(self._routines.create_many, routines)

    async def get(self, routine_id: str) -> Routine:
        return await asyncio.to_thread(self._routines.get, routine_id)

    async def list(
        self,
        *,
        state: str | None = None,
        task: Any = None,
        id: str | None = None,  # noqa: A002  # the name of the field
        due_before: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> Found:
        return await asyncio.to_thread(
            self._routines.list,
            state=state, task=task, id=id, due_before=due_before, metadata=metadata, limit=limit,
        )  # fmt: skip

    async def list_due(
        self, at: datetime | None = None, limit: int | None = None, include_claimed: bool = False
    ) -> Found:
        return await asyncio.to_thread(self._routines.list_due, at, limit, include_claimed)

    due = list_due

    async def next_due_at(self) -> datetime | None:
        return await asyncio.to_thread(self._routines.next_due_at)

    async def run_due(self, at: datetime | None = None, limit: int | None = None, run_inline: bool = False) -> Started:
        return await asyncio.to_thread(self._routines.run_due, at, limit, run_inline)

    async def run_now(self, routine_id: str) -> RoutineRun:
        return await asyncio.to_thread(self._routines.run_now, routine_id)

    async def update(self, routine_id: str, if_version: int | None = None, **patch: Unpack[Patch]) -> Routine:
        return await asyncio.to_thread(self._routines.update, routine_id, if_version, **patch)

    async def pause(self, routine_id: str, *, reason: str = "", until: datetime | None = None) -> Routine:
        return await asyncio.to_thread(self._routines.pause, routine_id, reason=reason, until=until)

    async def resume(self, routine_id: str, *, from_: Literal["now", "kept"] = "now") -> Routine:
        return await asyncio.to_thread(self._routines.resume, routine_id, from_=from_)

    async def cancel(self, routine_id: str, *, revoke: bool = False, terminate: bool = False) -> Routine:
        return await asyncio.to_thread(self._routines.cancel, routine_id, revoke=revoke, terminate=terminate)

    async def delete(self, routine_id: str) -> None:
        await asyncio.to_thread(self._routines.delete, routine_id)

    async def clear(self) -> None:
        await asyncio.to_thread(self._routines.clear)
