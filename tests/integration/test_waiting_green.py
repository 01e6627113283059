"""The waits in a process whose threads are greenlets, of gevent or of eventlet."""

from __future__ import annotations

import json

import pytest

from tests.support import wait_until
from tests.support.greenlets import need

PATCHES = {
    "gevent": "from gevent import monkey, spawn, sleep\nmonkey.patch_all()\n",
    "eventlet": (
        "import warnings\nwarnings.simplefilter('ignore')\n"
        "import eventlet\nfrom eventlet import spawn, sleep\neventlet.monkey_patch()\n"
    ),
}
SOURCE = """
import json, sys, time
from proj import perpetual

ids, more, poll_id = json.loads(sys.argv[1])
pauses, done = [], []


def tick():
    while not done:
        since = time.monotonic()
        sleep(0.01)
        pauses.append(time.monotonic() - since)


def keep(waiting, function, *arguments):
    waiting.append(function(*arguments))


ticking, found = spawn(tick), []
waits = [spawn(keep, found, perpetual.wait, ids[n % 2], 60) for n in range(50)]
waits.append(spawn(keep, found, perpetual.wait, "nobody", 0.2))
several = []
waits.append(spawn(keep, several, perpetual.wait_all, more, 60))
waits.append(spawn(keep, several, lambda: [each.task_id for each in perpetual.as_completed(more, 60)]))
waits.append(spawn(keep, several, perpetual.wait_any, more, 60))
waits.append(spawn(keep, several, perpetual.wait_batch, poll_id, 60))
print("waiting", flush=True)
for each in waits:
    getattr(each, "wait", None)() if not hasattr(each, "join") else each.join()
done.append(True)
assert len(several) == 4, several
assert perpetual.completion(ids[0]).ok
print(json.dumps({"ok": sum(each.ok for each in found), "late": sum(each.timed_out for each in found),
                  "longest": max(pauses)}), flush=True)
"""


@pytest.mark.parametrize("library", PATCHES)
def test_greenlets_wait_side_by_side(shop, library):
    """Any number of them wait for ends, for several and for a batch, and the others go on meanwhile."""
    need(library)
    gates = [shop.gate() for _ in range(4)]
    ids = [shop.send(gate=gate) for gate in gates[:2]]
    poll = shop.poll(*({"gate": gate} for gate in gates[2:]))
    arguments = json.dumps([ids, list(poll.task_ids), poll.poll_id])
    process = shop.project.process(library, ["-c", PATCHES[library] + SOURCE, arguments])
    process.wait_for_log("waiting")
    wait_until(lambda: shop.subscribers(*ids, *poll.task_ids, poll.poll_id), "they wait", timeout=60)
    for gate in gates:
        shop.open(gate)

    assert process.wait(60) == 0, process.log()
    found = json.loads(process.log().splitlines()[-1])
    assert (found["ok"], found["late"]) == (50, 1)
    assert found["longest"] < 1.0
