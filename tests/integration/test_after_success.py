"""A task that has succeeded names what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.events import FOLLOW_UPS_FAILED
from tests.support import wait_until
from tests.support.stream_events import events, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

CRAWLER = """
import sys

PAGES = {"a": "bc", "b": "ac", "c": "d", "d": "", "raise": "", "exit": ""}

class Crawl(PerpetualTask):
    name = "proj.crawl"
    poll_every = 3600
    tenants = ["north"]

    def next_batch(self, poll):
        ledger.record(poll.trigger, "next_batch")
        return [Item((page,), key=page) for page in ("a", "raise", "exit")]

    def run(self, page):
        ledger.record(page, perpetual.tenant())
        return page

    def after_success(self, page):
        if page == "raise":
            raise ValueError("no links")
        if page == "exit":
            sys.exit(1)
        return [Item((link,), key=link) for link in PAGES[page] if not self.seen(link)]

    def seen(self, page):
        return page in {row[0] for row in ledger.rows("ledger.sqlite")}

app.register_task(Crawl())
"""


def test_a_crawler_follows_its_links(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Each page is fetched, next_batch is called once, and an error in after_success leaves its task a success."""
    proj = project(CRAWLER)
    worker = proj.worker(concurrency=1).ready()
    proj.beat().ready()

    # Two pages link to c, which may so be fetched twice.
    fetched = {"a", "b", "c", "d", "raise", "exit"}
    wait_until(lambda: {row.id for row in proj.rows("north")} == fetched, "all pages are fetched")
    ends = wait_until(
        lambda: len(found := events(store_redis, "completion")) >= len(proj.rows("north")) and found, "all have ended"
    )

    assert {end["status"] for end in ends} == {"success"}
    assert {end["tenant"] for end in ends} == {"north"}
    assert [row.id for row in proj.rows("next_batch")] == ["schedule"]
    assert {outcome.data["trigger"] for outcome in poll_events(store_redis, "proj.crawl")} == {
        "schedule",
        "after_success",
    }
    worker.wait_for_event(FOLLOW_UPS_FAILED, count=2)
    assert sorted(str(each["error"]) for each in worker.events(FOLLOW_UPS_FAILED)) == [
        "SystemExit: 1",
        "ValueError: no links",
    ]
    waiting = "perpetual:follow_ups:perpetual:proj.crawl:north"
    wait_until(lambda: not store_redis.exists(waiting), "those that are in flight already are dropped")
