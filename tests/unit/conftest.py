"""The app of tests of single parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app of its own, on which nothing has been defined."""
    app = Celery("shop", set_as_current=False)
    yield app
    app.close()
