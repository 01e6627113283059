"""How tasks end, and who is told."""

from __future__ import annotations

from celery_perpetual.completions.finish import Finisher, connect

__all__ = ["Finisher", "connect"]
