"""How beat refuses to start: one line that says what is wrong, and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from celery.beat import Service

from celery_perpetual import events
from celery_perpetual.errors import PerpetualError, described
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


@contextmanager
def in_one_line(app: Celery) -> Iterator[None]:
    """Report an error of ours at the start of beat in one line, and end beat with exit code 1.

    Celery would log its traceback, and Python print it once more. A program that makes the scheduler itself gets the
    exception.
    """
    try:
        yield
    except PerpetualError as error:
        if not called_from(Service.get_scheduler):
            raise
        emit(events.BEAT_REFUSED, error=error)
        if not app.log.already_setup:  # beat's banner comes before its log
            click.echo(f"Error: beat does not start: {described(error)}", err=True)
        raise SystemExit(1) from None


def called_from(function: object) -> bool:
    """Whether this runs inside of a call of that function; Celery says so in no other way."""
    code = function.__code__  # type: ignore[attr-defined]
    frame = sys._getframe()  # noqa: SLF001  # no public way
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is code:
            return True
    return False
