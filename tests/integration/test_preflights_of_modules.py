"""Preflights of a module, and one that ends beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual import Perpetual

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project
    from tests.support.watched_app import WatchedApp


def test_a_module_gives_its_tasks_a_preflight(watched_app: Callable[..., WatchedApp]) -> None:
    """As it gives them tenants."""
    import sys

    app = watched_app()
    perpetual: Perpetual = app.perpetual
    module = sys.modules[__name__]
    perpetual.include(module)
    app.task([], name="of_module")
    type(app.app.tasks["of_module"]).__module__ = __name__
    assert perpetual.units()[0].name == "perpetual:of_module"
    module.preflight = list  # type: ignore[attr-defined]
    try:
        from celery_perpetual.tasks.discovery import discover

        found = discover(app.app).tasks["of_module"].preflight
        assert found is not None
        assert found.function is list
    finally:
        del module.preflight  # type: ignore[attr-defined]


def test_a_fatal_preflight_ends_beat(project: Callable[..., Project]) -> None:
    """With an error code, one line that says why, and no poll."""
    proj = project(
        """
        @perpetual.preflight
        def credentials():
            raise KeyError("no token")

        @app.task(base=PerpetualTask, poll_every=1, next_batch=lambda poll: ledger.record("polled"))
        def work(): ...
        """,
        perpetual_preflight_fatal=True,
    )
    beat = proj.beat()
    assert beat.wait(timeout=30) not in (0, None)
    assert "preflight:credentials has failed: KeyError: 'no token'; correct it, and start beat again" in beat.log()
    assert proj.rows() == []
