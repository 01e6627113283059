"""Users of the store that may not do everything: from the beginning, or from some moment on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

#: As the docs name them.
DOCUMENTED = ("~*", "&*", "+@all", "-@admin", "-@dangerous", "+info")


@pytest.fixture(params=["packaged", "system's"])
def server(
    request: pytest.FixtureRequest, private_redis: Callable[..., EmbeddedServer], system_redis: EmbeddedServer
) -> EmbeddedServer:
    """Versions of the server have other words for what a user may not do."""
    return private_redis() if request.param == "packaged" else system_redis


def limit(server: EmbeddedServer, *rules: str) -> str:
    """Set what the user "celery" may do; return the URL with its name."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "celery", "on", ">secret", "+@all", "~*", "&*", *rules)
    return server.url.replace("redis://", "redis://celery:secret@")


def perpetual_of(server: EmbeddedServer, url: str) -> tuple[Perpetual, Any]:
    """The broker knows another user."""
    app = Celery("shop", broker=f"{server.url.rpartition('/')[0]}/1", set_as_current=False)
    app.conf.perpetual_store_url = url

    @app.task(
        base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,), key=1)], name="shop.deliver", shared=False
    )
    def deliver(number: int) -> None: ...

    return Perpetual(app), deliver


@pytest.mark.parametrize("rules", [["-@write"], ["resetkeys", "~another*"], ["-evalsha"]], ids=" ".join)
def test_a_right_that_is_missing_for_a_while(server: EmbeddedServer, rules: list[str]) -> None:
    """It passes as an outage does, in whatever words the server says it; the end is stored after it."""
    perpetual, deliver = perpetual_of(server, limit(server))
    (task_id,) = perpetual.poll(deliver).task_ids

    limit(server, *rules)
    with pytest.raises(StoreUnavailable, match="is not ready") as refused:
        perpetual.cancel(task_id)
    assert not isinstance(refused.value, StoreRefused)

    limit(server)
    perpetual.cancel(task_id)
    assert perpetual.completion(task_id).status == "revoked"
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        events = client.xrange("perpetual:events")
        assert [event["event"] for _, event in events].count("completion") == 1
    perpetual.store.close()


@pytest.mark.parametrize(("rules", "missing"), [(["resetchannels"], "channel"), (["-set"], "'set' command")])
def test_a_right_that_is_missing_is_named(
    private_redis: Callable[..., EmbeddedServer], rules: list[str], missing: str
) -> None:
    """With the rule that gives it."""
    server = private_redis()
    perpetual, _ = perpetual_of(server, limit(server, *rules))

    (finding, *_) = next(area for area in perpetual.status().areas if area.name == "store").findings
    perpetual.store.close()

    assert finding.kind == "store_refuses"
    assert missing in finding.evidence
    assert "ACL SETUSER" in finding.help


def test_a_user_that_may_not_ask_for_facts(server: EmbeddedServer) -> None:
    """All but those facts is known all the same."""
    perpetual, _ = perpetual_of(server, limit(server, "-info", "-config"))

    assert [found for area in perpetual.status().areas for found in area.findings if found.area == "store"] == []
    assert [unit.task for unit in perpetual.units()] == ["shop.deliver"]
    perpetual.store.close()


def test_a_server_that_does_not_know_the_question(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hosts have renamed INFO; the server is there all the same."""
    perpetual, _ = perpetual_of(server, limit(server))
    client = perpetual.store.redis
    monkeypatch.setattr(client, "info", lambda: client.execute_command("RENAMED-INFO"))

    assert [found for area in perpetual.status().areas for found in area.findings if found.area == "store"] == []
    perpetual.store.close()


def test_the_documented_rights_are_enough(project: Callable[..., Project], server: EmbeddedServer) -> None:
    """For beat, worker and check, with broker, store and results on one server."""
    url = limit(server, "resetkeys", "resetchannels", "-@all", *DOCUMENTED)
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [Item((1,), key=1)])
        def deliver(number):
            ledger.record(number, "ran")
        """,
        **{**SETTINGS, "result_backend": url}, broker=url, store=url,
    )  # fmt: skip
    proj.beat().ready()
    proj.worker().ready()

    wait_until(lambda: len(proj.rows("ran")) > 2, "its items run one after the other")
    assert "error" not in proj.celery("perpetual", "check").stdout.lower()
