"""The outbox at work, from nothing to a report: `python demo.py`, or `--keep` to leave it running."""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Any

from redis import Redis

from accident import REPLACEMENT, VICTIM, Accident
from processes import LEAVE
from progress import Display, Snapshot, open_display
from stage import HERE, TASK, Stage, changed_settings, hide_password, open_stage

#: When every row is done, seconds without any change after which no more is waited for: until nothing is in flight
#: (a dead worker's last tasks are sent again meanwhile), and until endpoints have confirmed what they got.
SETTLE, CONFIRM = 15.0, 5.0


@dataclass(frozen=True)
class Options:
    items: int
    timeout: int
    keep: bool
    json_file: str | None


class DemoFailed(Exception):
    """The demo could not come to its end; the text says why."""


def read_options() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Environment: REDIS_URL and DATABASE_URL (your servers instead of embedded ones), DEMO_ITEMS (2000), "
        "DEMO_TIMEOUT (180 s), DEMO_JSON (a file for the result), DEMO_SUPPRESS=1 (the demo's "
        "self-test: the receiver loses one delivery, so the demo has to fail).",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, to play with")
    keep = parser.parse_args().keep
    return Options(
        items=int(os.environ.get("DEMO_ITEMS", "2000")),
        timeout=int(os.environ.get("DEMO_TIMEOUT", "180")),
        keep=keep,
        json_file=os.environ.get("DEMO_JSON"),
    )


def explain(options: Options) -> None:
    print(
        f"A webhook outbox: {options.items} rows in a database, each a message to a customer.\n"
        "Two `celery beat`s (one leads, one stands by) and two `celery worker`s are about to start, and a local\n"
        "receiver that is at times slow and refuses some first attempts. No code enqueues anything: beat finds the\n"
        "rows and makes tasks of them, the workers send them. In the end the receiver's own record decides.\n\n"
        "Each of the nine customers has a routine as well, made when its endpoint was added: a digest of what was\n"
        "delivered, once a day. A day is three seconds here.\n\n"
        "And each endpoint is asked for its receipts, as a tenant of a task of its own. Five answer. One is down, one\n"
        "asks for a pause, one has given us no token, and the token of one is wrong: each is treated by itself.\n"
    )
    print(
        "The receiver sets the pace: it is made as slow as a real one. The number per second is its speed, and not\n"
        "that of beat, workers and store.\n"
    )
    if not options.keep:
        print(
            f"With a third of the rows delivered, {VICTIM} is killed at work, all its processes at once and without\n"
            f"warning, and {REPLACEMENT} takes its place. What the dead one was executing or had received has to be\n"
            "sent again by itself. A delivery that it had made and not reported may then arrive twice.\n"
        )


def tell_settings(stage: Stage, changed: dict[str, Any]) -> None:
    print(f"Server: {hide_password(stage.broker_url)}. Everything else is in {stage.folder}")
    if not changed:
        print("Default settings.")
        return
    print("Changed from the defaults:")
    for name, value in changed.items():
        print(f"  {name} = {value}")


def look(items: int) -> Snapshot:
    """Rows by state, and what the store has in flight."""
    from django.db.models import Count, Q

    from celery_perpetual import PerpetualError
    from outbox_site.celery import perpetual
    from webhooks.models import Delivery

    state = Delivery.State
    count = Delivery.objects.aggregate(
        delivered=Count("pk", filter=Q(state=state.DELIVERED)),
        failed=Count("pk", filter=Q(state=state.FAILED)),
        confirmed=Count("pk", filter=Q(state=state.DELIVERED, confirmed_at__isnull=False)),
    )
    try:
        in_flight = sum(unit.in_flight for unit in perpetual.units() if unit.task == TASK)
    except PerpetualError:
        in_flight = None
    return Snapshot(items, count["delivered"], count["failed"], in_flight, count["confirmed"])


def watch(stage: Stage, items: int, deadline: float, display: Display, accident: Accident) -> Snapshot:
    """Until no row is pending, nothing is in flight and all is confirmed; on the way the accident happens."""
    last, since = None, time.monotonic()
    while True:
        now = time.monotonic()
        snapshot = look(items)
        display.show(snapshot)
        if snapshot != last:
            last, since = snapshot, now
        longest = SETTLE if snapshot.in_flight else CONFIRM
        if snapshot.is_over or (snapshot.pending == 0 and now > since + longest):
            return snapshot
        for process in stage.fleet.ended():
            raise DemoFailed(f"{process.name} ended by itself with status {process.popen.returncode}")
        if now > deadline:
            raise DemoFailed("the time limit came first (DEMO_TIMEOUT)")
        accident.consider(snapshot)
        time.sleep(0.25)


def run(stage: Stage, options: Options, deadline: float) -> int:
    """The whole job; the exit status."""
    from digest_report import read_digests
    from endpoint_report import read_treatments
    from report import Outcome, compare, show

    problem, last = "", None
    with Redis.from_url(stage.broker_url) as server:
        accident = Accident(stage, server)
        try:
            stage.start_celery()
            with open_display() as display:
                last = watch(stage, options.items, deadline, display, accident)
        except DemoFailed as failure:
            problem = str(failure)
            look_further(stage)
        # A worker that is asked to end under full load may take half a minute; a failed run does not wait for that.
        stage.stop_celery(grace=5 if problem else 20)
        recovery = accident.recovery()
    comparison = compare(stage.record, options.items, recovery.deliveries)
    in_flight, treatments = last.in_flight if last else None, read_treatments(stage.record)
    outcome = Outcome(comparison, problem, in_flight, accident.kill, recovery, read_digests(), treatments)
    stage.failed = not outcome.ok
    show(outcome, stage, options.json_file)
    if outcome.ok:
        print(
            "Next: `make example` leaves it running, with commands to try. docs/start.md begins a project of your own."
        )
    return 0 if outcome.ok else 1


def look_further(stage: Stage) -> None:
    """Ask the product itself while it still runs."""
    for arguments in (["units"], ["why", TASK]):
        command = stage.celery("perpetual", *arguments)
        print(f"\n$ celery -A outbox_site perpetual {' '.join(arguments)}", flush=True)
        try:
            subprocess.run(command, cwd=HERE, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            print("(no answer within 10 s)")


def keep(stage: Stage, options: Options) -> int:
    """New rows now and then, until Ctrl-C."""
    from webhooks.seeding import seed_deliveries

    stage.start_celery()
    tell_commands(stage)
    items, round_number, reported = options.items, 1, set()
    try:
        with open_display() as display:
            while True:
                for _ in range(8):
                    display.show(look(items))
                    time.sleep(0.5)
                for process in stage.fleet.ended():
                    if process.name not in reported:
                        reported.add(process.name)
                        print(f"{process.name} has ended; its log is {process.log}", flush=True)
                round_number += 1
                items += seed_deliveries(5, round_number, stage.receiver_url)
    except KeyboardInterrupt:
        print("\nEnding it all.")
        return 0


def tell_commands(stage: Stage) -> None:
    exports = " ".join(f"{name}={value}" for name, value in stage.environment().items())
    celery = f"{sys.executable} -m celery -A outbox_site perpetual"
    print(
        f"\nIt runs, and gets five new rows every four seconds, until Ctrl-C. In another terminal:\n\n"
        f"  cd {HERE}\n"
        f"  export {exports}\n"
        f"  {celery} units\n"
        f"  {celery} why {TASK}\n"
        f"  {celery} polls {TASK}\n"
        f"  {celery} why webhooks.receipts.confirm --tenant 'Iris Inks'\n"
        f"  {celery} routines list\n"
        f"  {celery} routines run-now digest-1\n"
        f'  {celery} pause --task {TASK} --reason "lunch"\n'
        f"  {celery} resume --task {TASK}\n"
        f"  {sys.executable} manage.py seed_deliveries --count 500 --seed 7 --base-url {stage.receiver_url}\n"
        f"  {sys.executable} manage.py createsuperuser\n"
        f"  OUTBOX_DEBUG=1 {sys.executable} manage.py runserver    # /admin/: disable the task's row\n"
        f"  tail -f {stage.folder}/worker-1.log\n"
        f"  kill -9 -- -{stage.pids[VICTIM]}    # {VICTIM} with its children; the other worker gets its tasks\n",
        flush=True,
    )


def leave(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGALRM:
        raise SystemExit("The hard time limit came (DEMO_TIMEOUT); ending everything.")
    raise SystemExit(128 + number)


def heed_no_signals() -> None:
    """Taking everything down is short and must not be cut shorter."""
    for number in LEAVE:
        signal.signal(number, signal.SIG_IGN)


def perform(stage: Stage, options: Options, deadline: float) -> int:
    from django.core.management import call_command

    tell_settings(stage, changed_settings())
    stage.start_receiver()
    call_command("seed_deliveries", count=options.items, seed=1, base_url=stage.receiver_url)
    return keep(stage, options) if options.keep else run(stage, options, deadline)


def main() -> int:
    options = read_options()
    sys.stdout.reconfigure(line_buffering=True)  # in order with what other programs print
    for number in set(LEAVE) - {signal.SIGINT}:
        signal.signal(number, leave)
    if not options.keep:
        signal.alarm(options.timeout)
    # Waiting ends before the hard limit comes, so that there is time for the report.
    deadline = time.monotonic() + options.timeout - min(30.0, options.timeout / 2)
    explain(options)
    with ExitStack() as stack:
        stage = open_stage(stack)
        stack.callback(heed_no_signals)
        try:
            return perform(stage, options, deadline)
        except Exception:
            stage.failed = True
            raise


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
