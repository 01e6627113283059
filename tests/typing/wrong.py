"""Uses of the public names that are wrong; ``mypy --strict`` must find each of them. Never run."""

from __future__ import annotations

from api import OPTIONS, deliver, perpetual

from celery_perpetual import Batch, Defer, Item, PerpetualOptions


def wrong() -> None:
    Item(key=False, kwargs=[1])  # type: ignore[arg-type]
    Batch([], {"after": 7})  # type: ignore[call-arg]
    Defer("soon")  # type: ignore[arg-type]
    PerpetualOptions(limit="many")  # type: ignore[arg-type]
    PerpetualOptions(jitter="a bit")  # type: ignore[arg-type]
    perpetual.wait("id")  # type: ignore[call-arg]
    perpetual.routines.list(state=7)  # type: ignore[arg-type]
    perpetual.routines.create(deliver, evry=5)  # type: ignore[call-arg]
    perpetual.routines.create(deliver, every="5s")  # type: ignore[arg-type]
    perpetual.routines.update("one", id="two")  # type: ignore[call-arg]
    perpetual.preflight(7)  # type: ignore[call-overload]
    perpetual.routines.run_due(limit="all")  # type: ignore[arg-type]
    perpetual.wait_all(7, timeout=5)  # type: ignore[arg-type]
    perpetual.resume(deliver, from_="then")  # type: ignore[arg-type]
    perpetual.pause(deliver, until="tomorrow")  # type: ignore[arg-type]
    perpetual.polls(deliver, limit="all")  # type: ignore[arg-type]
    outcome: int = perpetual.poll(deliver)  # type: ignore[assignment]
    OPTIONS.limit = outcome  # type: ignore[misc]
