"""What an operator asks and does."""

from __future__ import annotations

from celery_perpetual.operations.check import Finding, check
from celery_perpetual.operations.cursors import forget_cursor, write_cursor
from celery_perpetual.operations.leases import Lease, LeaseOperations, Worker
from celery_perpetual.operations.lookup import find
from celery_perpetual.operations.polls import poll_by_hand, poll_in_worker
from celery_perpetual.operations.preview import Preview, preview
from celery_perpetual.operations.units import Unit, Units, leader
from celery_perpetual.operations.why import Explanation, explain

__all__ = [
    "Explanation", "Finding", "Lease", "LeaseOperations", "Preview", "Unit", "Units", "Worker", "check", "explain",
    "find", "forget_cursor", "leader", "poll_by_hand", "poll_in_worker", "preview", "write_cursor",
]  # fmt: skip
