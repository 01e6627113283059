"""Identity: the proof of the test suite, counted: every option set to the byte as Celery writes it."""

from __future__ import annotations

import subprocess
import sys

from measuring import HERE, Row

TEST = "tests/integration/test_stamped_messages.py::test_stamped_messages_are_celerys_own_to_the_byte"


def measure() -> list[Row]:
    """One row: option sets that are identical, of those that were tried."""
    sys.path.insert(0, str(HERE.parent))
    from tests.support.wire import CASES

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST],
        cwd=HERE.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    same = len(CASES) if done.returncode == 0 else 0
    return [Row("identity", f"option sets to the byte, of {len(CASES)}", same, "sets", len(CASES))]
