"""`manage.py seed_deliveries`: rows to deliver. It enqueues nothing; finding the rows is beat's work."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webhooks.seeding import seed_deliveries


class Command(BaseCommand):
    help = "Insert pending deliveries of made-up events; the same seed gives the same events."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=100, help="how many (default 100)")
        parser.add_argument("--seed", type=int, default=1, help="which events (default 1)")
        parser.add_argument(
            "--base-url",
            default=os.environ.get("RECEIVER_URL", "http://127.0.0.1:8099"),
            help="where the receiver listens (default: RECEIVER_URL, else http://127.0.0.1:8099)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["count"] < 1:
            raise CommandError("--count must be at least 1")
        made = seed_deliveries(options["count"], options["seed"], options["base_url"])
        self.stdout.write(f"{made} deliveries are due")
