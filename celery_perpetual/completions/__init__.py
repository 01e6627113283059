"""How tasks end, and who is told."""

from __future__ import annotations

from celery_perpetual.completions import results
from celery_perpetual.completions.aio import AsyncWaiting
from celery_perpetual.completions.annotations import annotate
from celery_perpetual.completions.announce import Announcer
from celery_perpetual.completions.batches import BatchResult, relay_batch_done
from celery_perpetual.completions.broker_loss import SurviveBrokerLoss
from celery_perpetual.completions.completion import Completion
from celery_perpetual.completions.follow import Event, stream, subscribe
from celery_perpetual.completions.hub import Hub
from celery_perpetual.completions.lookup import answers, pending
from celery_perpetual.completions.messages import ReceiveStep
from celery_perpetual.completions.ours import announces, standing
from celery_perpetual.completions.propagation import goes_back, watch_propagation
from celery_perpetual.completions.signals import connect, end
from celery_perpetual.completions.stored import RETURNED, tell_returned, watch_results
from celery_perpetual.completions.waiting import Waiting

__all__ = [
    "RETURNED", "Announcer", "AsyncWaiting", "BatchResult", "Completion", "Event", "Hub", "ReceiveStep",
    "SurviveBrokerLoss", "Waiting", "annotate", "announces", "answers", "connect", "end", "goes_back", "pending",
    "relay_batch_done", "results", "standing", "stream", "subscribe", "tell_returned", "watch_propagation",
    "watch_results",
]  # fmt: skip
