"""One seam, and how it is recognised.

Celery has no hooks for much of what this package does, so it wraps functions and uses private names. Whether these are
still what we know is asked of the code itself: whether a name is there, what its parameters are called, and whether it
uses what we rely on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

#: The oldest and the newest version of each package with which the tests have run; major and minor number.
SEEN = {"celery": ("5.6", "5.7"), "kombu": ("5.6", "5.7"), "billiard": ("4.2", "4.3"), "amqp": ("5.3", "5.4"),
        "redis": ("5.2", "8.1")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A name that we wrap or use, and what we know of it."""

    path: str
    """``module:name.of.attribute``."""
    parameters: str = ""
    """Names with which its parameters begin, separated by spaces; "" = not asked."""
    uses: str = ""
    """Names that its code mentions, functions inside of it included."""

    def difference(self) -> str:
        """The part that is not as known, or "". Never raises."""
        module_name, _, name = self.path.partition(":")
        try:
            found: Any = import_module(module_name)
            for part in name.split("."):
                found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        except (ImportError, AttributeError):
            return f"{self.path} is not there"
        function = inspect.unwrap(getattr(found, "__func__", getattr(found, "fget", found)))
        code = getattr(function, "__code__", None)
        if (self.parameters or self.uses) and not isinstance(code, CodeType):
            return f"{self.path} is no function, but {function!r}"
        if code is None or self._is_wrapped_by_others(function, code):
            return ""
        known, seen = self.parameters.split(), code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if list(seen[: len(known)]) != known:
            return f"{self.path} takes ({', '.join(seen)}), known is ({', '.join(known)}, …)"
        missing = set(self.uses.split()) - set(_names(code))
        return f"{self.path} does not use {', '.join(sorted(missing))}" if missing else ""

    def _is_wrapped_by_others(self, function: Any, code: CodeType) -> bool:
        """Whether another package (Sentry) has put a function around it that hands on what it gets."""
        package, owner = str(function.__module__).partition(".")[0], self.path.partition(":")[0].partition(".")[0]
        takes_all = code.co_flags & inspect.CO_VARARGS and code.co_flags & inspect.CO_VARKEYWORDS
        return bool(takes_all) and package not in (owner, __name__.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """One place where we wrap or use something that is not meant for it."""

    name: str
    targets: tuple[Target, ...]
    why: str
    """Its purpose."""
    without: str
    """The feature that does not work where it is not as known."""
    install: Callable[[Celery], object] | None = None
    """Wraps it when an app is wired, harmless when repeated; None where it is only used."""
    is_optional: bool = False
    """Whether it is left alone where it is not as known, as all works without it."""

    def differences(self) -> list[str]:
        """The parts that are not as known; empty if all are."""
        return [found for target in self.targets if (found := target.difference())]

    def versions(self) -> str:
        """The installed versions of what it touches, with those that were seen."""
        packages = dict.fromkeys(target.path.partition(":")[0].partition(".")[0] for target in self.targets)
        return ", ".join(f"{name} {installed(name)} (seen: {' to '.join(SEEN[name])})" for name in packages)


def installed(package: str) -> str:
    """The installed version, "" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def unseen_packages() -> list[str]:
    """Packages of which another version is installed than the tests have seen, with that version."""
    found = []
    for name, (oldest, newest) in SEEN.items():
        number = installed(name)
        if number and not _number(oldest) <= _number(number) <= _number(newest):
            found.append(f"{name} {number}")
    return found


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split(".")[:2])


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_varnames
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from (each for each in constant if isinstance(each, str))
