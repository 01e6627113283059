"""One task for every way in which Celery lets a task end."""

from __future__ import annotations

TASKS = """
import asyncio
import json
import signal
import sys
import threading

from celery import Task, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

LATE = bool(app.conf.task_acks_late)

def runs(task):
    ledger.record(task.request.id, "ran")
    return sum(row[:2] == (task.request.id, "ran") for row in ledger.rows())

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda poll: [
    Item((), key=name, **{"task": f"proj.{name}", **options}) for name, options in BATCH.items()
])
def find():
    pass

@app.task(bind=True)
def succeeds(self):
    perpetual.annotate(run=runs(self))
    return {"sum": 3}

@app.task(bind=True)
def raises(self):
    raise ValueError("as it was told")

@app.task(bind=True, typing=False)
def lacks_an_argument(self, needed):
    pass

@app.task(bind=True, soft_time_limit=1)
def takes_too_long(self):
    time.sleep(600)

@app.task(bind=True, soft_time_limit=1)
def notices_its_limit(self):
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        return "in time"

@app.task(bind=True, time_limit=1)
def hangs(self):
    time.sleep(600)

@app.task(bind=True, time_limit=1, soft_time_limit=1)
def hangs_doubly(self):
    time.sleep(600)

@app.task(bind=True, time_limit=1, acks_on_failure_or_timeout=False)
def hangs_once(self):
    if runs(self) == 1:
        time.sleep(600)

@app.task(bind=True, time_limit=1)
def passes_its_limit(self):
    # Longer than the limit.
    time.sleep(1.2)

@app.task(bind=True)
def retries(self):
    if runs(self) < 3:
        raise self.retry(countdown=0.1)

@app.task(bind=True, max_retries=1)
def gives_up(self):
    raise self.retry(countdown=0.1, exc=ValueError("again"))

@app.task(bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def gives_up_by_itself(self):
    raise ValueError("again")

@app.task(bind=True)
def cannot_retry(self):
    raise self.retry(countdown=0, serializer="runes")

@app.task(bind=True)
def ignores(self):
    raise Ignore

@app.task(bind=True)
def ignores_with_a_state(self):
    self.update_state(state="PROGRESS")
    raise Ignore("enough")

@app.task(bind=True)
def rejects(self):
    raise Reject("not mine", requeue=False)

@app.task(bind=True)
def sends_back(self):
    if runs(self) < 3:
        raise Reject("not now", requeue=True)

@app.task(bind=True)
def replaced(self):
    raise self.replace(succeeds.si())

@app.task(bind=True)
def replaced_by_failing(self):
    raise self.replace(raises.si())

@app.task(bind=True)
def replaced_by_chain(self):
    raise self.replace(chain(plain.si(), succeeds.si()))

@app.task(bind=True)
def replaced_by_failing_chain(self):
    raise self.replace(chain(plain_failing.si(), succeeds.si()))

@app.task(bind=True)
def replaced_by_group(self):
    raise self.replace(group(plain.si(), plain.si()))

@app.task(bind=True, ignore_result=True)
def stores_nothing(self):
    return 1

@app.task(bind=True, ignore_result=True)
def fails_and_stores_nothing(self):
    raise ValueError("as it was told")

@app.task(bind=True)
def reports(self):
    self.update_state(state="PROGRESS", meta={"done": 1})

@app.task(bind=True)
def not_serialisable(self):
    return object()

@app.task(bind=True)
def not_picklable(self):
    class Odd(Exception):
        lock = threading.Lock()
    raise Odd(threading.Lock())

class Refusing(RedisBackend):
    def mark_as_done(self, *args, **kwargs):
        raise RuntimeError("not today")

@app.task(bind=True, backend=Refusing(app=app, url=app.conf.result_backend))
def not_storable(self):
    return 1

class HookRaises(Task):
    def on_failure(self, *args, **kwargs):
        raise RuntimeError("the hook itself")

@app.task(bind=True, base=HookRaises)
def fails_in_its_hook(self):
    raise ValueError("as it was told")

@app.task(bind=True, on_lost="fail")
def killed(self):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, on_lost="fail")
def exits(self):
    os._exit(3)

@app.task(bind=True)
def killed_once(self):
    if runs(self) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0)
def retried_when_lost(self):
    if runs(self) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

class DiesAfterwards(Task):
    def on_success(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, base=DiesAfterwards)
def killed_after_success(self):
    return 1

@app.task(bind=True)
def leaves(self):
    sys.exit(3)

@app.task(bind=True)
def is_cancelled_inside(self):
    raise asyncio.CancelledError

@app.task(bind=True)
def is_terminated(self):
    runs(self)
    time.sleep(600)

@app.task(bind=True)
def is_killed_by_order(self):
    runs(self)
    time.sleep(600)

@app.task(bind=True)
def is_revoked_too_late(self):
    runs(self)
    while not os.path.exists("revoked"):
        time.sleep(0.05)

class BeforeStart(Task):
    def before_start(self, task_id, args, kwargs):
        raise {"ignores": Ignore("no"), "rejects": Reject("no", requeue=False), "raises": ValueError("no")}[
            self.name.rpartition("_")[2]
        ]

def never_started():
    ledger.record("never", "ran in spite of before_start")

for name in ("ignores", "rejects", "raises"):
    app.task(name=f"proj.start_{name}", base=BeforeStart)(never_started)

@app.task(bind=True, perpetual_options=PerpetualOptions(completions=False))
def is_silent(self):
    return 1

@app.task(bind=True, perpetual_options=PerpetualOptions(completions=False))
def is_silent_and_fails(self):
    raise ValueError("as it was told")

@app.task
def never():
    ledger.record("never", "ran")

"""
