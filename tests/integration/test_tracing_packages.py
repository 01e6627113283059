"""OpenTelemetry and Sentry see the items of a poll as they see messages that a loop sends one by one."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import SEAM_UNKNOWN
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: Enough to be stamped, were there no receivers of signals.
ROWS = 30

TASKS = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(n,) for n in range(ROWS)], bind=True)
def deliver(self, n):
    if n == 0:
        raise ValueError("number 0")
    if n == 1 and not self.request.retries:
        raise self.retry(countdown=0)

def send():
    "The ids of a poll's items, and of what a loop sends."
    polled = perpetual.poll("proj.deliver")
    assert polled.status == "enqueued", polled
    return polled.task_ids, [deliver.apply_async((n,)).id for n in range(ROWS)]
"""

OPENTELEMETRY = f"""
import json
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

class Writing(SpanProcessor):
    def on_start(self, span, parent_context=None):
        self.write("began", span)

    def on_end(self, span):
        self.write("ended", span)

    def write(self, what, span):
        facts = dict(span.attributes), span.status.status_code.name, span.name, span.context.trace_id
        ledger.record(span.context.span_id, what + " " + json.dumps(facts))

provider = TracerProvider()
provider.add_span_processor(Writing())
CeleryInstrumentor().instrument(tracer_provider=provider)
ROWS = {ROWS}
"""

SENTRY = f"""
import json
import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

class Writing(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            event = item.get_event() or item.get_transaction_event()
            if event is not None:
                facts = {{
                    "type": event.get("type", "event"), "name": event.get("transaction"), "level": event.get("level"),
                    "trace": event["contexts"]["trace"]["trace_id"], "status": event["contexts"]["trace"].get("status"),
                    "task": event.get("tags", {{}}).get("celery_task_id"),
                }}
                ledger.record("sentry", json.dumps(facts))

sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1", transport=Writing, traces_sample_rate=1.0, integrations=[CeleryIntegration()],
    default_integrations=False, auto_enabling_integrations=False,
)
ROWS = {ROWS}
"""


def sent(proj: Project) -> tuple[list[str], list[str]]:
    polled, looped = json.loads(proj.run_python("from proj import *; print(json.dumps(send()))").splitlines()[-1])
    return polled, looped


def ended(proj: Project, ids: list[str]) -> bool:
    return all(proj.redis.exists(f"perpetual:completion:{each}") for each in ids)


def test_opentelemetry_has_a_trace_for_each_item(project: Callable[..., Project]) -> None:
    """Spans of the publish and of each run share a trace of their own, and each that began has ended."""
    proj = project(OPENTELEMETRY + TASKS, **SETTINGS)
    # Two threads that run their first tasks at once make OpenTelemetry forget a span.
    worker = proj.worker(concurrency=2).ready()
    polled, looped = sent(proj)
    wait_until(lambda: ended(proj, polled + looped), "all have ended", 60)

    def open_spans() -> set[str]:
        began, over = (
            {row.id for row in proj.rows() if row.what.startswith(f"{what} ")} for what in ("began", "ended")
        )
        return began - over

    wait_until(lambda: not open_spans(), "every span has ended")
    assert "no existing span" not in worker.log()
    traces: dict[str, set[int]] = defaultdict(set)
    spans: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in proj.rows():
        what, _, text = row.what.partition(" ")
        if what != "ended":
            continue
        attributes, status, name, trace_id = json.loads(text)
        task_id = attributes.get("messaging.message.id") or attributes.get("messaging.message_id")
        traces[task_id].add(trace_id)
        spans[task_id][name, status] += 1
    assert set(traces) == {*polled, *looped}
    assert len(set[int]().union(*traces.values())) == 2 * ROWS
    assert {len(each) for each in traces.values()} == {1}
    assert [spans[each] for each in polled] == [spans[each] for each in looped]
    assert spans[polled[2]] == {("apply_async/proj.deliver", "UNSET"): 1, ("run/proj.deliver", "UNSET"): 1}


@pytest.mark.parametrize("when", ["before", "behind"])
def test_sentry_sees_each_item(project: Callable[..., Project], when: str) -> None:
    """Transactions, errors and traces of polled items are those of a loop, whether it is there before us or behind us."""
    ours = "from celery_perpetual import *\nperpetual = Perpetual(app)\n"
    source = f"{SENTRY}{ours}{TASKS}" if when == "before" else f"{ours}{SENTRY}{TASKS}"
    proj = project(source, perpetual=False, **SETTINGS)
    worker = proj.worker(pool="threads", concurrency=2).ready()
    assert not worker.events(SEAM_UNKNOWN)
    polled, looped = sent(proj)
    wait_until(lambda: ended(proj, polled + looped), "all have ended", 60)

    def seen() -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in proj.rows():
            if row.id == "sentry":
                fact = json.loads(row.what)
                found[fact.pop("task")].append(fact)
        return found

    # A run each, another one for the retry, and an error.
    wait_until(lambda: sum(map(len, seen().values())) >= 2 * (ROWS + 2), "Sentry has heard of all")
    found = seen()
    assert set(found) == {*polled, *looped}
    traces = {task_id: {each.pop("trace") for each in facts} for task_id, facts in found.items()}
    assert [found[each] for each in polled] == [found[each] for each in looped]
    numbers = [len(set[str]().union(*(traces[each] for each in ids))) for ids in (polled, looped)]
    assert numbers[0] == numbers[1]
