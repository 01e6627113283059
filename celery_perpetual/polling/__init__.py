"""The poll: from a due unit to a committed batch."""

from __future__ import annotations

from celery_perpetual.polling.claims import Claim, Claims, NotLeading, Refusal
from celery_perpetual.polling.history import outcomes
from celery_perpetual.polling.outcome import PollOutcome
from celery_perpetual.polling.pauses import EVERYTHING, Paused, Pauses
from celery_perpetual.polling.poll import Poll
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import PollThreads

__all__ = [
    "EVERYTHING", "Claim", "Claims", "NotLeading", "Paused", "Pauses", "Poll", "PollOutcome", "PollThreads", "Refusal",
    "Runner", "outcomes",
]  # fmt: skip
