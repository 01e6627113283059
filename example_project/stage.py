"""Everything the demo needs around it: a server, a database, a receiver, beat and workers."""

import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from processes import Fleet, Process, wait_until

HERE = Path(__file__).resolve().parent
TASK = "webhooks.tasks.deliver"
WORKERS = ("worker-1", "worker-2")
#: One leads, the other one stands by.
BEATS = ("beat-1", "beat-2")
CONCURRENCY = 2
# By default a worker counts as dead after a minute without a word, a digest is made once a day, and receipts are asked
# for once a minute.
HASTE = {
    "OUTBOX_LEASE_TTL": "5",
    "OUTBOX_CYCLE_INTERVAL": "1",
    "OUTBOX_DIGEST_EVERY": "3",
    "OUTBOX_RECEIPTS_EVERY": "1",
}


@dataclass
class Stage:
    """The servers, processes and files of the demo."""

    folder: Path
    broker_url: str
    namespace: str | None
    fleet: Fleet
    receiver_url: str = ""
    beat_started_at: float = 0.0  # time.time(), comparable with the receiver's record
    pids: dict[str, int] = field(default_factory=dict)
    failed: bool = False  # then the folder stays, to be looked into

    @property
    def record(self) -> Path:
        return self.folder / "receiver.sqlite3"

    def environment(self) -> dict[str, str]:
        """Settings that a command needs to speak to this demo."""
        found = {"OUTBOX_DB": str(self.folder / "outbox.sqlite3"), "REDIS_URL": self.broker_url, **HASTE}
        if self.namespace:
            found["OUTBOX_NAMESPACE"] = self.namespace
        if url := os.environ.get("DATABASE_URL"):
            found["DATABASE_URL"] = url
        return found

    def celery(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "outbox_site", *arguments]

    def start(self, name: str, command: list[str]) -> Process:
        process = self.fleet.start(name, command)
        self.pids[name] = process.pid
        print(f"  {name}: process {process.pid}", flush=True)
        return process

    def start_receiver(self) -> None:
        url_file = self.folder / "receiver.url"
        script = [sys.executable, "receiver.py", "--port", "0", "--record", str(self.record)]
        process = self.start("receiver", [*script, "--url-file", str(url_file)])
        wait_until(lambda: url_file.exists() or not process.running, 20, "the receiver's address")
        if not process.running:
            raise RuntimeError(f"the receiver did not start:\n{process.tail()}")
        self.receiver_url = url_file.read_text()

    def start_celery(self) -> None:
        for name in WORKERS:
            self.start_worker(name)
        self.beat_started_at = time.time()
        for name in BEATS:
            self.start(name, self.celery("beat", "-l", "INFO", "--pidfile="))

    def start_worker(self, name: str) -> None:
        size = ("--concurrency", str(CONCURRENCY))
        self.start(name, self.celery("worker", "-l", "INFO", "-n", f"{name}@%h", *size))

    def stop_celery(self, grace: float) -> None:
        """A warm end: a worker finishes the tasks that it has begun, if `grace` seconds are enough for that."""
        self.fleet.stop(*(name for name in self.fleet.all if name != "receiver"), grace=grace)

    def tidy(self) -> None:
        if not self.failed:
            shutil.rmtree(self.folder, ignore_errors=True)


def open_stage(stack: ExitStack) -> Stage:
    """Server, folder, environment and an empty database; `stack` takes it all down again."""
    broker_url, namespace = open_broker(stack)
    folder = Path(tempfile.mkdtemp(prefix="outbox-demo-"))
    stage = Stage(folder, broker_url, namespace, Fleet(HERE, folder))
    # A killed process leaves its temporary files behind: here they go with the rest.
    os.environ.update(stage.environment(), DJANGO_SETTINGS_MODULE="outbox_site.settings", TMPDIR=str(folder))
    if not namespace:
        os.environ.pop("OUTBOX_NAMESPACE", None)
    bypass_proxies()
    stack.callback(stage.tidy)
    open_database(stack)
    stack.callback(stage.fleet.close)  # first, because its processes use the rest
    return stage


def open_broker(stack: ExitStack) -> tuple[str, str | None]:
    """The URL, and the name that keeps the demo apart from other data on your server."""
    if url := os.environ.get("REDIS_URL"):
        namespace = f"outbox-demo-{secrets.token_hex(4)}"
        stack.callback(forget, url, namespace)
        print(f"Using your server {hide_password(url)}; queue and keys are named {namespace}.")
        return url, namespace

    from celery_perpetual.embedded import EmbeddedServer

    return stack.enter_context(EmbeddedServer()).url, None


def open_database(stack: ExitStack) -> None:
    """Empty tables: in a SQLite file, or in a schema of its own where `DATABASE_URL` names a PostgreSQL."""
    url, schema = os.environ.get("DATABASE_URL"), f"outbox_demo_{secrets.token_hex(4)}"
    if url:
        extra = urlencode({"options": f"-c search_path={schema}"}, quote_via=quote)
        os.environ["DATABASE_URL"] = f"{url}{'&' if '?' in url else '?'}{extra}"

    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    stack.callback(connection.close)
    if url:
        print(f"Using your database {hide_password(url)}; the tables are in the schema {schema} until the end.")
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {schema}")
        stack.callback(drop, schema)
    call_command("migrate", verbosity=0)


def drop(schema: str) -> None:
    from django.db import connection

    connection.close()  # in every state of the demo
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {schema} CASCADE")


def forget(url: str, namespace: str) -> None:
    """Leave no key behind on your server; the name is random and so in no other key."""
    from redis import Redis
    from redis.exceptions import RedisError

    with suppress(RedisError, ValueError), Redis.from_url(url) as server:
        for key in server.scan_iter(match=f"*{namespace}*", count=1000):
            server.delete(key)


def bypass_proxies() -> None:
    """The receiver is on this machine, where a company's proxy would not find it."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join([*hosts, "127.0.0.1", "localhost"])


def hide_password(url: str) -> str:
    parts = urlsplit(url)
    if not parts.password:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))


def changed_settings() -> dict[str, Any]:
    """Everything that is not as Celery and celery-perpetual have it by default; the broker's URL aside."""
    from django.conf import settings

    from webhooks.tasks import deliver

    prefix = "CELERY_"
    found = {
        name.removeprefix(prefix).lower(): getattr(settings, name)
        for name in sorted(dir(settings))
        if name.startswith(prefix) and name != "CELERY_BROKER_URL"
    }
    found["outbox_digest_every"] = settings.OUTBOX_DIGEST_EVERY
    found["outbox_receipts_every"] = settings.OUTBOX_RECEIPTS_EVERY
    found["worker --concurrency"] = CONCURRENCY
    found["deliver.max_retries"] = deliver.max_retries
    return found
