"""Preflights as a user's typed code has them; ``mypy --strict`` must find nothing in it. Never run."""

from __future__ import annotations

from celery import Celery
from typing_extensions import assert_type

from celery_perpetual import Perpetual

perpetual = Perpetual(Celery("shop", broker="redis://"))


@perpetual.preflight
def database() -> bool:
    return True


@perpetual.preflight(name="mail")
async def mail_server() -> None: ...


assert_type(database(), bool)
