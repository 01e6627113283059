"""Names of units: ``perpetual:{task}`` or ``perpetual:{task}:{tenant}``."""

from __future__ import annotations

PREFIX = "perpetual"


def unit_name(task: str, tenant: str | None = None) -> str:
    """The name of the unit; ``:`` and ``%`` inside the parts are percent-encoded."""
    parts = [PREFIX, task] if tenant is None else [PREFIX, task, tenant]
    return ":".join([parts[0], *(part.replace("%", "%25").replace(":", "%3A") for part in parts[1:])])


def task_of(name: str) -> str | None:
    """The task of a unit; None for the name of anything else, which a strange hand has put among those of units."""
    try:
        return parse_unit_name(name)[0]
    except ValueError:
        return None


def parse_unit_name(name: str) -> tuple[str, str | None]:
    """Task and tenant of a unit's name; the inverse of :func:`unit_name`.

    Raises:
        ValueError: it is not the name of a unit.
    """
    head, *parts = name.split(":")
    if head != PREFIX or len(parts) not in (1, 2):
        raise ValueError(f"{name!r} is not the name of a unit")
    task, *tenant = (part.replace("%3A", ":").replace("%25", "%") for part in parts)
    return task, tenant[0] if tenant else None
