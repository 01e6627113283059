"""How Celery shows arguments in a message's headers, for the usual kinds of arguments several times as fast.

Celery's ``saferepr`` walks every value as a stream of tokens. Where all values are plain and the text is not longer
than the limit, nothing is cut or nested, and the text is put together here instead, in the same form: strings in
single quotes with only these escaped, which is not what ``repr`` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celery import Celery


class ArgumentReprs:
    """Shows arguments as one app's messages do."""

    def __init__(self, app: Celery) -> None:
        amqp: Any = app.amqp
        self._longest_args: int | None = amqp.argsrepr_maxsize
        self._longest_kwargs: int | None = amqp.kwargsrepr_maxsize
        self._levels: Any = app.conf.get("task_repr_maxlevels", 3)
        self._quick = not self._levels or self._levels > 0

    def show(self, args: Any, kwargs: Any) -> tuple[str, str]:
        """The texts of the headers ``argsrepr`` and ``kwargsrepr``."""
        return self.show_scalars(args, kwargs) or self._show(args, kwargs)

    def show_and_judge(self, args: Any, kwargs: Any) -> tuple[tuple[str, str], bool]:
        """The same, and whether the arguments show themselves alike when JSON has brought them back."""
        return self.show(args, kwargs), type(args) is tuple and all(map(_is_plain, args)) and _is_plain(kwargs)

    def show_scalars(self, args: Any, kwargs: Any) -> tuple[str, str] | None:
        """The same texts where all arguments are scalars that JSON has, and short; else None."""
        try:
            shown = _values(args), _pairs(kwargs)
        except _NotPlain:
            return None
        short = len(shown[0]) <= (self._longest_args or 0) and len(shown[1]) <= (self._longest_kwargs or 0)
        return shown if short and self._quick else None

    def _show(self, args: Any, kwargs: Any) -> tuple[str, str]:
        return (
            saferepr(args, self._longest_args, maxlevels=self._levels),
            saferepr(kwargs, self._longest_kwargs, maxlevels=self._levels),
        )


class _NotPlain(Exception):
    """Something that has to be shown by ``saferepr``."""


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


_KINDS: dict[type, Callable[[Any], str]] = {str: _quoted, int: str, float: str, bool: str, type(None): str}


def _values(values: Any) -> str:
    if type(values) is not tuple:
        raise _NotPlain
    try:
        parts = [_KINDS[type(value)](value) for value in values]
    except KeyError:
        raise _NotPlain from None
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _pairs(pairs: Any) -> str:
    if type(pairs) is not dict:
        raise _NotPlain
    parts = []
    for name, value in pairs.items():
        show = _KINDS.get(type(value))
        if show is None or type(name) is not str:
            raise _NotPlain
        parts.append(f"{_quoted(name)}: {show(value)}")
    return f"{{{', '.join(parts)}}}"


def _is_plain(value: Any) -> bool:
    """Whether JSON brings back what went in: a tuple within would come back as a list, a dict in Kombu's form for
    other types as something else.
    """
    kind = type(value)
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        named = all(type(name) is str for name in value) and "__type__" not in value
        return named and all(map(_is_plain, value.values()))
    return kind in _KINDS
