"""Polls are sent to workers by a broker that is not the store: what one that takes no messages costs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError

from celery_perpetual import Perpetual, PerpetualOptions, PerpetualTask
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.unit import TaskUnit
from tests.support.contract import nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery


class Sending:
    """A poll that is about to be sent, and a producer that raises these errors, one for each try."""

    def __init__(self, app: Celery) -> None:
        self.perpetual = Perpetual(app)
        options = PerpetualOptions(poll_in="worker", poll_queue="polls")
        app.task(
            name="work", base=PerpetualTask, shared=False, poll_every=3600, next_batch=list, perpetual_options=options
        )(nothing)
        claim = Claims(self.perpetual.store).by_hand(TaskUnit(discover(app).tasks["work"]))
        assert isinstance(claim, Claim)
        claim.runs_in_worker = True
        self.claim, self.tries = claim, 0
        self.errors: list[Exception] = []
        amqp: Any = app.amqp
        test = self

        class Producer(amqp.Producer):  # type: ignore[misc]
            def _publish(self, *args: Any, **kwargs: Any) -> Any:
                test.tries += 1
                if test.errors:
                    raise test.errors.pop(0)
                return super()._publish(*args, **kwargs)

        amqp.Producer = Producer


@pytest.fixture
def sending(rabbitmq_url: str, redis_url: str, make_app: Callable[..., Celery]) -> Iterator[Sending]:
    found = Sending(make_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url, task_create_missing_queues=True))
    yield found
    found.perpetual.runner.publisher.release()


def test_a_broker_that_does_not_answer_is_asked_once(sending: Sending) -> None:
    """It may be under an alarm for hours, and each try takes the whole time limit."""
    sending.errors = [TimeoutError("timed out") for _ in range(4)]

    with pytest.raises(OperationalError, match="timed out"):
        sending.perpetual.runner._send_to_worker(sending.claim)

    assert sending.tries == 1


def test_a_refusal_is_the_answer(sending: Sending) -> None:
    """The queue is full, and no second try makes room."""
    sending.errors = [MessageNacked("full")]

    end = sending.perpetual.runner._send_to_worker(sending.claim)

    assert (sending.tries, end.outcome and end.outcome.status) == (1, "failed")


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(sending: Sending) -> None:
    sending.errors = [ConnectionResetError("closed by the server")]

    sending.perpetual.runner._send_to_worker(sending.claim)

    assert sending.tries == 2


def test_a_claim_that_is_over_is_not_sent(sending: Sending) -> None:
    """It has waited behind others that the broker did not take."""
    late = replace(sending.claim, started=time.monotonic() - 3600)

    assert sending.perpetual.runner._send_to_worker(late).outcome is None

    assert sending.tries == 0
