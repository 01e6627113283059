"""Did every endpoint get its digests? Their rows are compared with the grid of their routine."""

from collections import Counter
from dataclasses import dataclass

from django.conf import settings

from webhooks.models import Digest, Endpoint


@dataclass
class Digests:
    """The digests of all endpoints."""

    endpoints: int
    count: int
    missing: list[str]  # endpoints without one
    off: int  # whose slots are not on the grid of their endpoint

    def complaints(self) -> list[str]:
        found = [f"no digest for {', '.join(self.missing)}"] if self.missing else []
        return [*found, f"{self.off} digests are not on their grid"] if self.off else found


def read_digests() -> Digests:
    digests = list(Digest.objects.order_by("slot").values_list("endpoint__name", "slot"))
    counts = Counter(name for name, _ in digests)
    first = dict(reversed(digests))
    step = round(settings.OUTBOX_DIGEST_EVERY * 1000)
    late = [round((slot - first[name]).total_seconds() * 1000) % step for name, slot in digests]
    names = list(Endpoint.objects.order_by("pk").values_list("name", flat=True))
    return Digests(len(names), len(digests), [name for name in names if not counts[name]], sum(map(bool, late)))
