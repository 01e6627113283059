"""Perpetual tasks as rows of django-celery-beat: what an admin sees, and what an admin's change does.

Each perpetual task has one row. A row that is disabled pauses the task, one whose schedule was changed sets when it is
polled, and all of them show the last poll and how many there were. The base scheduler never sends these rows.

A row remembers, in its message headers, what it was written from. So a change of the code's ``poll_every`` goes on to
the row, unless an admin has changed the row's schedule: then that one counts. A row that was deleted is made anew when
a beat takes the lead the next time.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from typing import Any

from django.conf import settings
from django.db import Error, close_old_connections, connections
from django.db.models import F

from celery_perpetual import events
from celery_perpetual.beat.bases.row_schedules import KINDS, cadence_of, schedule_of, text_of
from celery_perpetual.beat.engine import Beside
from celery_perpetual.errors import ContractError, StoreUnavailable
from celery_perpetual.pauses import Paused, Pauses, Scope
from celery_perpetual.tasks.cadence import Cadence
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.names import PREFIX, unit_name
from celery_perpetual.telemetry import emit

#: How often the rows are read, in seconds; and after so many readings last run and count are written.
EVERY = 1.0
READINGS_PER_WRITE = 5
#: The reason of a pause that a row has made. Only such a pause is ended by enabling the row.
BY, REASON = "django-celery-beat", "disabled in the admin"
HEADER = "celery_perpetual"
DESCRIPTION = (
    "A perpetual task: celery-perpetual polls it when this schedule says so. Disable the row to pause the task. "
    "The schedule of the code is: {cadence}. Other fields than these two have no effect."
)
LONGEST_NAME = 200


def row_name(task: str) -> str:
    """The name of a perpetual task's row."""
    return unit_name(task)[:LONGEST_NAME]


def is_task_row(name: str) -> bool:
    """Whether a row shows a perpetual task, of this code or of an older one."""
    return name.startswith(f"{PREFIX}:")


@dataclass(frozen=True, slots=True)
class Written:
    """The values that a row was written from, kept in its headers."""

    code: str = ""
    """The code's cadence."""
    row: str = ""
    """The schedule that the row got for it."""

    @classmethod
    def of(cls, row: Any) -> Written:
        try:
            return cls(**json.loads(row.headers)[HEADER])
        except (ValueError, TypeError, KeyError):
            return cls()

    def to_json(self) -> str:
        return json.dumps({HEADER: {"code": self.code, "row": self.row}})


class TaskRows(threading.Thread):
    """Keeps rows and perpetual tasks in step, on a database connection of its own.

    A standby reads the rows as well: when it takes the lead it knows when to poll. Only the leader writes and pauses.
    """

    def __init__(self, model: Any, beside: Beside, pauses: Pauses) -> None:
        super().__init__(name="perpetual-rows", daemon=True)
        self._rows = model.objects
        self._model = model
        self._beside = beside
        self._pauses = pauses
        self._halt = threading.Event()
        self._leader: str | None = None
        self._shown: set[str] = set()
        """Tasks whose rows exist, or were deleted while this beat leads."""
        self._refused: dict[str, str] = {}
        """Rows that cannot work, and why: reported once."""
        self._is_away = False

    def halt(self) -> None:
        """Read no more."""
        self._halt.set()

    def run(self) -> None:
        for reading in count(1):
            leader = self._beside.leader()
            if leader != self._leader:
                self._leader, self._shown = leader, set()
            self._guarded(writes=leader is not None and reading % READINGS_PER_WRITE == 0)
            if self._halt.wait(EVERY):
                break
        connections.close_all()

    def _guarded(self, *, writes: bool) -> None:
        try:
            close_old_connections()
            self._turn(leads=self._leader is not None)
            if writes:
                self._write_counts()
        except Error as error:
            if not self._is_away:
                emit(events.TASK_ROWS_AWAY, error=error)
            self._is_away = True
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="the rows of perpetual tasks", error=error)
        except Exception as error:
            emit(events.PART_FAILED, part="the rows of perpetual tasks", error=error)
        else:
            self._is_away = False

    def _turn(self, *, leads: bool) -> None:
        contracts = self._beside.roster.code
        rows = {row.name: row for row in self._read()}
        if leads:
            for contract in contracts.values():
                self._show(rows, contract)
        changed = {name: self._changed(rows.get(row_name(name)), each) for name, each in contracts.items()}
        self._beside.roster.use_cadences({name: cadence for name, cadence in changed.items() if cadence is not None})
        if leads:
            self._pause({name for name in contracts if (row := rows.get(row_name(name))) and not row.enabled})

    def _show(self, rows: dict[str, Any], contract: TaskContract) -> None:
        """See to it that a task has its row, which says what the code says unless an admin has changed it."""
        name = row_name(contract.name)
        if name in rows:
            self._follow_the_code(rows[name], contract)
        elif contract.name not in self._shown:
            rows[name] = self._create(contract)
        self._shown.add(contract.name)

    def _read(self) -> list[Any]:
        return list(self._rows.filter(name__startswith=f"{PREFIX}:").select_related(*KINDS))

    def _create(self, contract: TaskContract) -> Any:
        row = self._model(name=row_name(contract.name), task=contract.name[:LONGEST_NAME])
        self._write(row, contract)
        # Not saved: that would refuse a row without a schedule, which is what a calendar of the user's own has.
        self._rows.bulk_create([row], ignore_conflicts=True)
        return row

    def _follow_the_code(self, row: Any, contract: TaskContract) -> None:
        """Write the code's new schedule to a row whose schedule is unchanged."""
        written = Written.of(row)
        if text_of(row) == written.row and contract.cadence.spec != written.code:
            self._write(row, contract)
            fields = {name: getattr(row, name) for name in (*KINDS, "headers", "description")}
            self._rows.filter(name=row.name).update(**fields)

    def _write(self, row: Any, contract: TaskContract) -> None:
        for kind, schedule in schedule_of(contract.cadence).items():
            setattr(row, kind, schedule)
        row.headers = Written(code=contract.cadence.spec, row=text_of(row)).to_json()
        row.description = DESCRIPTION.format(cadence=contract.cadence)

    def _changed(self, row: Any, contract: TaskContract) -> Cadence | None:
        """The cadence of a row that an admin has changed, if it can work."""
        if row is None or text_of(row) == Written.of(row).row:
            self._refused.pop(row_name(contract.name), None)
            return None
        try:
            cadence = cadence_of(row, contract)
        except ContractError as error:
            if self._refused.get(row.name) != str(error):
                self._refused[row.name] = str(error)
                emit(events.TASK_ROW_REFUSED, row=row.name, reason=str(error))
            return None
        self._refused.pop(row.name, None)
        return cadence

    def _pause(self, disabled: set[str]) -> None:
        """Pause the tasks of disabled rows, and resume those that are not disabled any more."""
        paused, now = self._pauses.now(), datetime.now(timezone.utc)
        units = list(self._beside.roster.units.values())
        for task in self._beside.roster.code:
            scope = Scope("unit", unit_name(task))
            pause = paused.get(scope)
            if task in disabled:
                if pause is None:
                    self._pauses.pause(Paused(scope=scope, by=BY, reason=REASON, at=now))
            elif pause is not None and pause.by == BY:
                freed = [unit.name for unit in units if unit.contract.name == task]
                self._pauses.resume(scope, now, freed, by=BY, reason="its row is enabled")

    def _write_counts(self) -> None:
        counts = self._beside.counts.take()
        for task, (polls, last) in counts.items():
            at = datetime.fromtimestamp(last, tz=timezone.utc)
            if not settings.USE_TZ:
                at = at.replace(tzinfo=None)
            self._rows.filter(name=row_name(task)).update(last_run_at=at, total_run_count=F("total_run_count") + polls)
