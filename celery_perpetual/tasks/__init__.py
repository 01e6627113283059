"""What a perpetual task is."""

from __future__ import annotations

from celery_perpetual.tasks.cadence import Cadence, Occurrence, to_datetime, to_ms
from celery_perpetual.tasks.contract import Perpetuity
from celery_perpetual.tasks.discovery import Discovery, discover, load
from celery_perpetual.tasks.execution import Execution, LeaseLost, current, speaking
from celery_perpetual.tasks.items import UNSET, Batch, Defer, Item, Pause, Skip
from celery_perpetual.tasks.names import parse_unit_name, unit_name
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.tasks.task import HEADER, HEADER_VALUE, PerpetualTask

__all__ = [
    "HEADER", "HEADER_VALUE", "UNSET", "Batch", "Cadence", "Defer", "Discovery", "Execution", "Item", "LeaseLost",
    "Occurrence", "Pause", "PerpetualOptions", "PerpetualTask", "Perpetuity", "Skip", "current", "discover", "load",
    "parse_unit_name", "speaking", "to_datetime", "to_ms", "unit_name",
]  # fmt: skip
