"""Whether this worker stops."""

from __future__ import annotations

from typing import Any

from celery.worker import state


def is_stopping() -> bool:
    """Whether the worker was asked to stop."""
    # None until the worker is asked to stop; then an exit code, which may be 0.
    asked: tuple[Any, ...] = (state.should_stop, state.should_terminate)
    return any(each is not None and each is not False for each in asked)
