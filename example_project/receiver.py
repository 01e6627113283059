"""The other side of the outbox: a local server that plays the customers' endpoints.

It writes down every delivery that it accepts in a SQLite file of its own, which is what the demo counts
from. Like real endpoints it is sometimes slow and sometimes refuses; whom it refuses, and how often,
follows from the delivery's id alone, and each delivery is accepted in the end.

Asked with a customer's token, `GET …/receipts?after=N` lists what that endpoint has accepted since receipt N. One
customer asks for a pause first.
"""

import argparse
import hashlib
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SCHEMA = """
CREATE TABLE IF NOT EXISTS accepted (delivery_id INTEGER, endpoint TEXT, at REAL, body_sha256 TEXT);
CREATE TABLE IF NOT EXISTS refused (delivery_id INTEGER, endpoint TEXT, at REAL, status INTEGER);
CREATE TABLE IF NOT EXISTS asked (endpoint TEXT, at REAL, status INTEGER);
"""
#: Seconds that an endpoint takes to answer, usually and at times.
USUAL_SECONDS, SLOW_SECONDS = 0.05, 0.25
#: This endpoint answers so many requests for receipts with 429, and wants to be left alone for so many seconds.
PRESSED, TIMES, PAUSE = "granite-gym", 3, 2
PAGE = 100


def luck(delivery_id: int, purpose: str) -> int:
    """0 to 999, always the same for one delivery and purpose."""
    digest = hashlib.sha256(f"{purpose}:{delivery_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000


def refusals(delivery_id: int) -> list[int]:
    """The statuses that its first attempts get."""
    number = luck(delivery_id, "refuse")
    if number < 40:
        return [500]
    if number < 70:
        return [429]
    if number < 80:
        return [500, 429]
    return []


def slow(delivery_id: int) -> bool:
    return luck(delivery_id, "slow") < 30


class Record:
    """Deliveries that arrived, written before they are answered: an accepted delivery is always on record."""

    def __init__(self, path: Path, suppress: bool) -> None:
        self._lock = threading.Lock()
        self._attempts: Counter[int] = Counter()
        self._asked: Counter[str] = Counter()
        self._suppress = suppress
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=20)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def take(self, delivery_id: int, endpoint: str, body: bytes) -> int:
        """Record one attempt and return the status to answer with."""
        with self._lock:
            planned = refusals(delivery_id)
            attempt = self._attempts[delivery_id]
            self._attempts[delivery_id] += 1
            if attempt < len(planned):
                status = planned[attempt]
                row = (delivery_id, endpoint, time.time(), status)
                self._db.execute("INSERT INTO refused VALUES (?, ?, ?, ?)", row)
                return status
            if self._suppress:
                # The demo's self-test: one delivery that is answered well and yet did not arrive.
                self._suppress = False
                return 200
            row = (delivery_id, endpoint, time.time(), hashlib.sha256(body).hexdigest())
            self._db.execute("INSERT INTO accepted VALUES (?, ?, ?, ?)", row)
            return 200

    def receipts(self, endpoint: str, token: str, after: int) -> tuple[int, list[dict[str, int]]]:
        """Status and receipts, and the question on record."""
        with self._lock:
            status = 200 if token == f"Bearer token-of-{endpoint}" else 401
            self._asked[endpoint] += 1
            if endpoint == PRESSED and self._asked[endpoint] <= TIMES:
                status = 429
            self._db.execute("INSERT INTO asked VALUES (?, ?, ?)", (endpoint, time.time(), status))
            if status != 200:
                return status, []
            rows = self._db.execute(
                "SELECT rowid, delivery_id FROM accepted WHERE endpoint = ? AND rowid > ? ORDER BY rowid LIMIT ?",
                (f"/hooks/{endpoint}", after, PAGE),
            )
            return status, [{"number": number, "delivery": delivery_id} for number, delivery_id in rows]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True
    server: "Server"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            # The sender died while it sent; there is no one to answer, and half a delivery is none.
            self.close_connection = True
            return
        key = self.headers.get("Idempotency-Key", "")
        if not key.isdigit():
            self.answer(400)
            return
        time.sleep(SLOW_SECONDS if slow(int(key)) else USUAL_SECONDS)
        self.answer(self.server.record.take(int(key), self.path, body))

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        endpoint = url.path.removeprefix("/hooks/").removesuffix("/receipts")
        after = int(parse_qs(url.query).get("after", ["0"])[0])
        status, found = self.server.record.receipts(endpoint, self.headers.get("Authorization", ""), after)
        self.answer(status, json.dumps(found).encode(), pause=PAUSE)

    def answer(self, status: int, body: bytes = b"", pause: int = 1) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", str(pause))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet: the record is the log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, record: Record) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.record = record


def announce(path: Path, url: str) -> None:
    """Write the file at once: a reader finds either no file or the whole address."""
    draft = path.with_suffix(".new")
    draft.write_text(url)
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8099, help="0 takes a free one (default 8099)")
    parser.add_argument("--record", type=Path, default=Path("receiver.sqlite3"), help="SQLite file")
    parser.add_argument("--url-file", type=Path, help="write the address there when it listens")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    record = Record(options.record, suppress=os.environ.get("DEMO_SUPPRESS") == "1")
    server = Server(options.port, record)
    url = f"http://127.0.0.1:{server.server_port}"
    if options.url_file:
        announce(options.url_file, url)
    print(f"listening on {url}", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
