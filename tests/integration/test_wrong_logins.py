"""A store that has a password, and a URL that has none or another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from celery_perpetual import Perpetual
from celery_perpetual.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer


def test_a_wrong_login_says_what_to_write(private_redis: Callable[..., EmbeddedServer]) -> None:
    """A server that answers is not called "not ready", in `units` and in `status`; no text shows the password."""
    server = private_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "another")

    for login in ("", ":s3cret@", "default:s3cret@"):
        broker = f"redis://{login}127.0.0.1:{server.port}/0"
        perpetual = Perpetual(Celery("shop", broker=broker, set_as_current=False))
        with pytest.raises(
            StoreUnavailable, match=r"wants another login .*; write user and password into its URL"
        ) as no:
            perpetual.units()
        (finding, *_) = next(area for area in perpetual.status().areas if area.name == "store").findings
        perpetual.store.close()

        assert "wants another login" in finding.evidence
        assert "HELLO" not in finding.evidence
        assert "correct its URL (perpetual_store_url, else broker_url)" in finding.help
        assert "s3cret" not in f"{no.value} {finding}"
