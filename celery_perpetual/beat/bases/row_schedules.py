"""Between cadences and the schedules that rows of django-celery-beat can hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.schedules import crontab, solar
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, SolarSchedule

from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.cadence import Cadence
from celery_perpetual.tasks.contract import TaskContract

KINDS = ("interval", "crontab", "solar", "clocked")
_CRONTAB_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week", "timezone")
_PERIODS = (
    (86_400_000, IntervalSchedule.DAYS),
    (3_600_000, IntervalSchedule.HOURS),
    (60_000, IntervalSchedule.MINUTES),
    (1_000, IntervalSchedule.SECONDS),
)


def schedule_of(cadence: Cadence) -> dict[str, Any]:
    """The fields of a row that say what a cadence says; each of them None where no row can say it."""
    nothing: dict[str, Any] = dict.fromkeys(KINDS)
    if cadence.every_ms is not None:
        return nothing | {"interval": _interval(cadence.every_ms)}
    calendar: Any = cadence.calendar
    if type(calendar) is crontab and (zone := _key_of(cadence.zone)):
        values = [str(getattr(calendar, f"_orig_{name}")) for name in _CRONTAB_FIELDS[:-1]]
        return nothing | {"crontab": _stored(CrontabSchedule, dict(zip(_CRONTAB_FIELDS, [*values, zone], strict=True)))}
    if type(calendar) is solar:
        where = {"event": calendar.event, "latitude": calendar.lat, "longitude": calendar.lon}
        return nothing | {"solar": _stored(SolarSchedule, where)}
    return nothing


def text_of(row: Any) -> str:
    """The fields of a row's schedule as text; two rows that say the same have the same text."""
    texts = []
    for kind in KINDS:
        if (schedule := getattr(row, kind)) is not None:
            fields = [field.attname for field in schedule._meta.fields if not field.primary_key]  # noqa: SLF001
            texts.append(f"{kind} {' '.join(str(getattr(schedule, name)) for name in fields)}")
    return ", ".join(texts)


def cadence_of(row: Any, contract: TaskContract) -> Cadence:
    """The cadence that a row asks for, with the jitter of the task.

    Raises:
        ContractError: it cannot be that of a perpetual task; the text says why.
    """
    kinds = [kind for kind in KINDS if getattr(row, kind) is not None]
    if len(kinds) != 1:
        raise ContractError(f"needs exactly one schedule, got {' and '.join(kinds) or 'none'}")
    if kinds == ["clocked"]:
        raise ContractError(
            "a clocked schedule comes once; a perpetual task needs an interval, a crontab or a solar event"
        )
    app = contract.task.app
    try:
        zone = None if row.crontab is None else row.crontab.timezone
        return Cadence(
            _poll_every(row, app), jitter=contract.options.jitter, salt=contract.name, app=app, what="its schedule",
            zone=zone,
        )  # fmt: skip
    except ContractError:
        raise
    except Exception as error:  # what Celery and its libraries raise for values that they cannot read
        raise ContractError(f"its {kinds[0]} cannot be read: {error}") from error


def _poll_every(row: Any, app: Any) -> Any:
    if row.interval is not None:
        return timedelta(**{row.interval.period: row.interval.every})
    if row.crontab is None:
        return row.solar.schedule
    return crontab(**{name: getattr(row.crontab, name) for name in _CRONTAB_FIELDS[:-1]}, app=app)


def _interval(every_ms: int) -> Any:
    for length, period in _PERIODS:
        if every_ms % length == 0:
            return _stored(IntervalSchedule, {"every": every_ms // length, "period": period})
    return _stored(IntervalSchedule, {"every": every_ms * 1000, "period": IntervalSchedule.MICROSECONDS})


def _stored(model: Any, values: dict[str, Any]) -> Any:
    """The stored schedule with these values; nothing keeps an admin from having made two."""
    return model.objects.filter(**values).first() or model.objects.create(**values)


def _key_of(zone: Any) -> str | None:
    """The name of a time zone as Django stores it."""
    if (key := getattr(zone, "key", None)) is not None:
        return str(key)
    return "UTC" if zone is not None and zone.utcoffset(None) == timedelta(0) else None
