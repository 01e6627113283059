"""From committed records to messages in the broker."""

from __future__ import annotations

from celery_perpetual.publishing.books import acknowledge, books_of, forget, put_back, shares_books, shares_redis
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.copies import Copy, from_json, from_message, publish_copy, request_of
from celery_perpetual.publishing.load import Command, Load
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.once import publish_once
from celery_perpetual.publishing.publisher import Publisher, publish_or_leave

__all__ = [
    "Capture", "Command", "Copy", "Load", "Publisher", "acknowledge", "books_of", "forget", "from_json", "from_message",
    "publish_copy", "publish_once", "publish_or_leave", "put_back", "request_of", "send", "shares_books",
    "shares_redis",
]  # fmt: skip
