"""Errors as projects raise them, and what becomes of one."""

from __future__ import annotations

from typing import Any

from celery_perpetual import ErrorRule
from celery_perpetual.failures.policies import Failure, Policies


class Carrying(Exception):
    """An error with the attributes that its maker gives."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("carrying")
        vars(self).update(attributes)


def wrapped(inner: BaseException, how: str) -> BaseException:
    """Raise another error because of `inner`, and return it."""
    try:
        try:
            raise inner
        except BaseException as error:
            if how == "cause":
                raise ValueError("outer") from error
            if how == "none":
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904  # the context is what is tried
    except ValueError as error:
        return error


def after(error: BaseException, counts: dict[str, int] | None = None, *rules: ErrorRule, **more: Any) -> Failure:
    return Policies(**more).after(error, counts or {}, rules)
