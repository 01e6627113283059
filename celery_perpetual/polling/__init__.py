"""The poll: from a due unit to a committed batch."""

from __future__ import annotations

from celery_perpetual.polling.claims import Claim, Claims, Due, NotLeading, Refusal
from celery_perpetual.polling.ends import Ends
from celery_perpetual.polling.history import outcomes
from celery_perpetual.polling.outcome import PollOutcome
from celery_perpetual.polling.pauses import EVERYTHING, Paused, Pauses
from celery_perpetual.polling.poll import Poll
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import PollThreads
from celery_perpetual.polling.travel import TASK as POLL_TASK
from celery_perpetual.polling.travel import in_pool_child

__all__ = [
    "EVERYTHING", "POLL_TASK", "Claim", "Claims", "Due", "Ends", "NotLeading", "Paused", "Pauses", "Poll",
    "PollOutcome", "PollThreads", "Refusal", "Runner", "in_pool_child", "outcomes",
]  # fmt: skip
