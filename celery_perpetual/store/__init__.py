"""The store: the only room of this house that knows Redis commands, keys and scripts."""

from __future__ import annotations

from celery_perpetual.store.address import Address, address, is_redis, without_password
from celery_perpetual.store.connection import Store
from celery_perpetual.store.health import store_warnings
from celery_perpetual.store.keys import Keys
from celery_perpetual.store.prepared import Begun, Of, Prepared
from celery_perpetual.store.scripts import Script, script

__all__ = [
    "Address",
    "Begun",
    "Keys",
    "Of",
    "Prepared",
    "Script",
    "Store",
    "address",
    "is_redis",
    "script",
    "store_warnings",
    "without_password",
]
