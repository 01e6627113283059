"""Tasks of every end that are the user's alone, and canvases of them and ours; the end of the module."""

from __future__ import annotations

OTHERS = """
# Code of the user alone.

@app.task
def plain(*args):
    pass

@app.task
def plain_failing(*args):
    raise ValueError("as it was told")

# Ours by their class, under ids of any form.

@app.task(base=PerpetualTask, acks_late=LATE)
def member(*args):
    return 1

@app.task(base=PerpetualTask, acks_late=LATE)
def failing(*args):
    raise ValueError("as it was told")

@app.task(base=PerpetualTask, acks_late=LATE)
def member_rejecting(*args):
    raise Reject("not mine", requeue=False)

@app.task(base=PerpetualTask, acks_late=LATE)
def member_leaving(*args):
    sys.exit(3)

@app.task(base=PerpetualTask, acks_late=LATE, on_lost="fail")
def member_killed(*args):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(base=PerpetualTask, acks_late=LATE, time_limit=1)
def member_hanging(*args):
    time.sleep(600)

#: By what a chain or chord begins with; each is sent where the pool can have such an end.
CANVAS = {
    "chain": lambda: chain(member.s("1"), failing.s("2"), member.s("3"), member.s("4")),
    "rejected chain": lambda: chain(member_rejecting.s("1"), member.s("2"), member.s("3")),
    "left chain": lambda: chain(member_leaving.s("1"), member.s("2")),
    "killed chain": lambda: chain(member_killed.s("1"), member.s("2")),
    "hanging chain": lambda: chain(member_hanging.s("1"), member.s("2")),
    "plain chain": lambda: chain(plain_failing.si("1"), plain.si("2")),
    "mixed chain": lambda: chain(plain_failing.si("1"), member.si("2")),
    "chord": lambda: chord([member.s("1"), member.s("2")], member.s("3")),
    "failed chord": lambda: chord([member.s("1"), failing.s("2")], member.s("3")),
    "left chord": lambda: chord([member.s("1"), member_leaving.s("2")], member.s("3")),
    "chord before others": lambda: chain(chord([failing.s("1"), member.s("2")], member.s("3")), member.s("4")),
    "chord behind another": lambda: chain(failing.si("1"), chord([member.si("2"), member.si("3")], member.si("4"))),
    "chord before a group": lambda: chord([member.s("1"), failing.s("2")], group(member.s("3"), member.s("4"))),
}

def tasks(signature):
    if signature.get("subtask_type") is None:
        return [signature]
    inside = signature["kwargs"]
    header = inside.get("header") or []
    parts = [*(inside.get("tasks") or []), *([header] if isinstance(header, dict) else header), inside.get("body")]
    return [each for part in parts if part for each in tasks(part)]

def send_others(names):
    sent = {}
    for name in names:
        whole = CANVAS[name]()
        whole.freeze()
        frozen = tasks(json.loads(json.dumps(whole)))
        sent |= {f"{name} {each['args'][-1]}": each["options"]["task_id"] for each in frozen}
        whole.apply_async()
    sent["by class"] = member.apply_async(task_id="any-form").id
    sent["by header"] = plain.apply_async(task_id="by-header", headers={"perpetual": 1}).id
    sent["by header, expired"] = plain.apply_async(headers={"perpetual": 1}, expires=-1).id
    sent["plain"] = plain.delay().id
    sent["plain, expired"] = plain.apply_async(expires=-1).id
    sent["plain failing"] = plain_failing.delay().id
    return sent
"""
