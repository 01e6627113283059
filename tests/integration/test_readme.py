"""The README's program is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import wait_until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_program_of_the_readme_runs(project):
    """The first code block, with beat and a worker as the README starts them, greets every name."""
    code = re.search(r"```python\n# proj.py\n(.*?)```", README, re.DOTALL)[1]
    shop = project("")
    shop.write("readme.py", code.replace("redis://localhost:6379/0", shop.url))
    celery = ["-m", "celery", "-A", "readme"]
    shop.process("beat", [*celery, "beat"])
    worker = shop.process("worker", [*celery, "worker", "-c", "1", "-l", "WARNING"], whole_group=True)

    greeted = [f"hello {name}" for name in ("ada", "grace", "edsger")]
    wait_until(lambda: all(line in worker.log() for line in greeted), "every name is greeted")


def test_readme_is_short():
    """A README is read to the end or not at all."""
    assert len(README.splitlines()) < 150
