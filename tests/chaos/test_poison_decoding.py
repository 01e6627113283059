"""A message whose decoding kills its worker is marked before it is decoded, counted, and parked in the end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import CeleryProcess, Project

KILLING = """
import json
import sys

from kombu.serialization import register

def decode(text):
    if "worker" in sys.argv:
        ledger.record("any", "decoding")
        os._exit(1)
    return json.loads(text)

register("killing", json.dumps, decode, content_type="application/x-killing", content_encoding="utf-8")
app.conf.accept_content = ["json", "killing"]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((), key="p")], serializer="killing",
          perpetual_options=PerpetualOptions(max_recoveries=1))
def deliver():
    pass
"""


def parked_or_dead(proj: Project, worker: CeleryProcess) -> bool:
    return bool(proj.redis.hlen("perpetual:parked")) or not worker.alive


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.matrix)], indirect=True)
def test_a_message_whose_decoding_kills_its_worker(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """The broker has it delivered again and again, until it has been counted often enough."""
    proj = project(KILLING, **{**SETTINGS, "perpetual_lease_ttl": 1.5}, **broker)
    proj.run_python("import proj; proj.perpetual.poll('proj.deliver')")

    for _ in range(6):
        victim = proj.worker(concurrency=1)
        wait_until(partial(parked_or_dead, proj, victim), "it is parked, or kills again", 40)
        if proj.redis.hlen("perpetual:parked"):
            break

    assert len(proj.redis.hkeys("perpetual:parked")) == 1
    assert len(proj.rows("decoding")) == 3
