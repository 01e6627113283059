"""Captures that are kept for the next batch of the same thread, as each has a connection to the broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery_perpetual.publishing.capture import Capture

if TYPE_CHECKING:
    from celery import Celery


class KeptCaptures:
    """One capture for each thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._local = threading.local()

    @contextmanager
    def lent(self) -> Iterator[Capture]:
        """This thread's capture within a block, and a new one for a block within it; one that fails is not kept."""
        capture = getattr(self._local, "capture", None) or Capture(self._app)
        self._local.capture = None
        try:
            yield capture
        except BaseException:
            capture.close()
            raise
        self._local.capture = capture

    def release(self) -> None:
        """Close this thread's connection to the broker."""
        capture = getattr(self._local, "capture", None)
        if capture is not None:
            self._local.capture = None
            capture.close()
