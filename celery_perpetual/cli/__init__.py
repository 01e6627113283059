"""``celery -A proj perpetual …``.

Reading verbs take ``--json``: one array of objects where they list, one object where they show, and nothing else on
standard output. Exit codes: 0 done, 1 the verb's own "no" (documented per verb), 2 usage, a wrong setting or task, or
a store that does not answer, 3 an unknown id.
"""

from __future__ import annotations

from celery_perpetual.cli import examples, many_routines  # noqa: F401  # adds its verbs to routines
from celery_perpetual.cli.completions import completions, stream, wait, wait_batch
from celery_perpetual.cli.cursors import cursor, preview
from celery_perpetual.cli.draining import drain
from celery_perpetual.cli.group import perpetual
from celery_perpetual.cli.health import check, doctor, status
from celery_perpetual.cli.inspect import polls, units, why
from celery_perpetual.cli.items import allow, items
from celery_perpetual.cli.leases import VERBS
from celery_perpetual.cli.operate import nudge, pause, poll, resume
from celery_perpetual.cli.purging import purge
from celery_perpetual.cli.routines import routines
from celery_perpetual.cli.top import top
from celery_perpetual.cli.upkeep import cycle, rebuild, stats

__all__ = ["perpetual"]

for _verb in (
    allow, check, completions, cursor, cycle, doctor, drain, items, nudge, pause, poll, polls, preview, purge, rebuild,
    resume, routines, stats, status, stream, top, units, wait, why, *VERBS,
):  # fmt: skip
    perpetual.add_command(_verb)
perpetual.add_command(wait_batch, "wait-batch")
examples.add_to(perpetual)
