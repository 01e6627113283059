"""Hypothesis' rule-based machines against a private server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine


#: Few in make test, and many in make long.
EXAMPLES = pytest.mark.parametrize(
    "examples", [25, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(400)])]
)


def run_machine(machine: type[RuleBasedStateMachine], url: str, examples: int) -> None:
    """Run a machine, which finds the server's address in its ``url``; the same rows every time under CI."""
    run_state_machine_as_test(
        type("Machine", (machine,), {"url": url}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            report_multiple_bugs=False,
        ),
    )
