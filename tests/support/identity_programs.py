"""The programs that the processes of the identity tests run at the end; each of the first two prints one JSON object."""

from __future__ import annotations

SEND = """
import sys
from proj import *

seen()
answers = {{}}
for name, case in {cases}.items():
    send(case)
    answers[name] = seen()
assert not [module for module in sys.modules if module.startswith("celery_perpetual")]
print(json.dumps([answers, bindings()]))
"""

POLL = """
from proj import *

seen()
answers = {{name: poll(case, {forms!r}) for name, case in {cases}.items()}}
print(json.dumps([answers, bindings()]))
"""

ALIKE = """
# A function that routes would look at each item; without one, messages of one kind have much in common.
app.conf.task_routes = [{"feeds.*": {"queue": "feeds", "priority": 3}, "topics.*": {"queue": "paid"}}]
MORE = [
    0, 10**20, 1.5, None, True, "", "zürich 東京 🐍", "it's \\"quoted\\" \\\\ back\\nnew", "%s {} \\u2028", "x" * 3000,
    [], {}, [1, [2, "ü"]], {"a": {"b": None}}, (1, (2,)), {1: 2}, VALUES, {"__type__": "uuid"}, -0.0, float("-inf"),
]

def plain(value):
    return repr(json.loads(json.dumps(value, default=str))) == repr(value)

# Values that kombu cannot write with a serializer, or no worker can read: a poll does not send them.
BEYOND = {"yaml": [VALUES], "msgpack": [10**20, VALUES, {1: 2}]}

def several(case):
    name, args, kwargs, options = case
    # A task's own apply_async is given what the ledger kept: a tuple has become a list.
    own_sender = name.startswith("custom.")
    beyond = BEYOND.get(options.get("serializer"), ())
    return [
        (name, (*args, more), {**kwargs, "more": more}, options)
        for more in MORE if more not in beyond and (plain(more) or not own_sender)
    ]

def send_several(case):
    for each in several(case):
        send(each)

def poll_several(case):
    BATCH[:] = [Item(args, kwargs, key=False, **options) for _, args, kwargs, options in several(case)]
    outcome = perpetual.poll(case[0])
    assert outcome.count == len(several(case)), outcome
    from celery_perpetual.completions.end import TaskEnd
    for task_id in outcome.task_ids:
        perpetual.announcer.announce(TaskEnd(task_id=task_id, task=None, status="success", announce=False))

def seen_after(act):
    seen()
    answers = {}
    for name, case in CASES.items():
        if case[0] in app.tasks and name not in ("pydantic model", "deep", "notations"):
            act(case)
            answers[name] = seen()
    return answers
"""
