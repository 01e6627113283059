"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class DescribedArgument(click.Argument):
    """An argument with a text in the help of its verb; not every supported version of click has such texts."""

    help_group = "Arguments"
    """Celery's commands print it under this head."""

    def __init__(self, param_decls: Sequence[str], *, text: str, **attributes: Any) -> None:
        super().__init__(param_decls, **attributes)
        self.text = text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002  # click's signature
        """Its name and text."""
        return self.human_readable_name, self.text


def argument(name: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """An argument of a verb.

    Args:
        name: of the parameter; its upper case is shown unless there is a ``metavar``.
        text: for the help.
        **attributes: of :class:`click.Argument`.
    """
    return click.argument(name, cls=DescribedArgument, text=text, **attributes)


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
a_task = argument("task", "Name of a perpetual task, such as proj.deliver.")
a_tenant = click.option("--tenant", help="Tenant of the task.")
a_yes = click.option("--yes", is_flag=True, help="Do not ask.")
#: Scripts give ``--yes`` to every verb that acts; one that asks nothing takes it too.
no_question = click.option("--yes", is_flag=True, expose_value=False, help="Taken, and not needed: it does not ask.")
