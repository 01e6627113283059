"""SIGTERM while beat still waits for its store."""

from __future__ import annotations


def test_sigterm_while_waiting_for_the_store_ends_beat_at_once(project):
    """Celery's handler builds a second scheduler then; it must not wait for the store all over again."""
    shop = project(
        """
        @app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [])
        def work(): ...
        """,
        broker="redis://127.0.0.1:1/0",
        store="redis://127.0.0.1:1/0",
    )
    beat = shop.beat()
    beat.wait_for_log("beat: Starting...")

    code, seconds = beat.terminate()

    assert code == 0
    assert seconds < 5
