"""Names of tasks with the characters that stored texts use between their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.leased_tasks import SETTINGS, all_well, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
NAME = {name!r}

@app.task(name=NAME, base=PerpetualTask, poll_every=3600, bind=True,
          next_batch=lambda: [Item((n,), key=f"{{n}}|{{n}}") for n in range(2)])
def odd(self, n):
    ledger.record(self.request.id, f"begin {{perpetual.lease_token()}}")
    while not os.path.exists("released"):
        time.sleep(0.05)
    if not self.request.retries:
        self.retry(countdown=0)
    ledger.record(self.request.id, f"end {{perpetual.lease_token()}}")
"""


@pytest.mark.parametrize("name", ["shop|deliver", "shop:deliver %7C", 'a "quoted" name', "naïve|näme"])
def test_a_task_with_an_odd_name_is_polled_recovered_and_ended(project: Callable[..., Project], name: str) -> None:
    """It is polled, listed while it runs, sent again after its worker was killed, retried, and ends under its name."""
    proj = project(SOURCE.format(name=name), **SETTINGS)
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    with Console(proj) as console:
        assert {lease["task"] for lease in console("perpetual.leases()")} == {name}
        victim.kill9()
        proj.write("released", "")
        proj.worker().ready()

        all_well(proj, 2)
        (poll,) = console("perpetual.polls(NAME)")
        assert (poll["task"], poll["count"]) == (name, 2)
        completion = console(f"perpetual.completion({next(iter(tokens(proj, 'end')))!r})")
        assert (completion["task"], completion["status"], completion["recoveries"]) == (name, "success", 1)
        assert console("perpetual.why(NAME)")["unit"]["in_flight"] == 0
