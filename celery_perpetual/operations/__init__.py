"""What an operator asks and does."""

from __future__ import annotations

from celery_perpetual.operations.check import Finding, check
from celery_perpetual.operations.lookup import find
from celery_perpetual.operations.polls import poll_by_hand
from celery_perpetual.operations.units import Unit, Units, leader
from celery_perpetual.operations.why import Explanation, explain

__all__ = [
    "Explanation", "Finding", "Unit", "Units", "check", "explain", "find", "leader", "poll_by_hand",
]  # fmt: skip
