"""Reads what a registered task says about being perpetual, and refuses what cannot work."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import ContractError
from celery_perpetual.hints import ATTRIBUTES, OPTIONS, nearest
from celery_perpetual.settings import seconds, whole
from celery_perpetual.tasks.cadence import Cadence
from celery_perpetual.tasks.modules import given_by_module
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.tasks.parameters import Parameters
from celery_perpetual.tasks.preflights import Preflight, read_preflight
from celery_perpetual.tasks.task import BATCH_ATTRIBUTE, PerpetualTask, unwrapped
from celery_perpetual.tasks.tenants import must_be_one_line, read_list

if TYPE_CHECKING:
    from celery import Task

MOST_IN_FLIGHT = 10_000
#: An attribute that is less like one of the contract than this is the user's own and no misspelling.
ALIKE = 0.85

ON_LOST = ("requeue", "fail", "park")
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class TaskContract:
    """Everything that makes one registered task perpetual, checked."""

    task: Any
    """The task object of the app."""
    cadence: Cadence
    next_batch: Callable[..., Any]
    """Called without the task where it is a plain function given to a decorator."""
    takes_poll: bool
    """Whether it takes a :class:`Poll` or nothing."""
    max_in_flight: int
    poll_timeout: float
    """Seconds."""
    options: PerpetualOptions
    tenants: Mapping[str, Any] | None = None
    """Name -> value of the tenants that it lists."""
    after_success: Callable[[Any], Any] | None = None
    """Called with a task's result; what it returns are further items of the unit."""
    find_tenants: Callable[[], Any] | None = None
    """The function that it has instead; it runs code of the user's."""
    preflight: Preflight | None = None
    """The preflights that must pass before a unit of the task is polled."""
    queue: str = ""
    """Queue to which the app's routes send the task, where a process has asked for it; "" is not known."""

    @property
    def has_tenants(self) -> bool:
        """Whether it fans out; the list may be empty."""
        return self.tenants is not None or self.find_tenants is not None

    @property
    def name(self) -> str:
        return str(self.task.name)


def missing_half(task: Task[Any, Any]) -> str | None:
    """``poll_every`` or ``next_batch`` where a task has only the other one; None where it has both or neither."""
    if (task.name or "").startswith("celery."):
        return None
    every, batch = _attribute(task, "poll_every"), _attribute(task, "next_batch")
    if (every is None) == (batch is None) or _opted_out(task):
        return None
    return "poll_every" if every is None else "next_batch"


def is_perpetual(task: Task[Any, Any]) -> bool:
    """Whether a task has both ``poll_every`` and ``next_batch``."""
    return _attribute(task, "poll_every") is not None and _attribute(task, "next_batch") is not None


def read(task: Task[Any, Any]) -> TaskContract:
    """Read the contract of a task that has both attributes.

    Raises:
        ContractError: a value is wrong; the message names task and file.
    """
    try:
        return _read(task)
    except ContractError as error:
        raise ContractError(f"task {task.name} ({_file(task)}): {error}") from None


def _read(task: Task[Any, Any]) -> TaskContract:
    _must_be_spelt_right(task)
    must_be_one_line("a perpetual task", str(task.name))
    options = getattr(task, "perpetual_options", None)
    if options is None:
        options = PerpetualOptions()
    if not isinstance(options, PerpetualOptions):
        raise ContractError(f"perpetual_options must be a PerpetualOptions(...), got {options!r}")
    lease, on_lost = getattr(task, "lease", True), getattr(task, "on_lost", "requeue")
    if not isinstance(lease, bool):
        raise ContractError(f"lease must be True or False, got {lease!r}")
    if on_lost not in ON_LOST:
        raise ContractError(f"on_lost must be one of {', '.join(ON_LOST)}, got {on_lost!r}")
    cadence = Cadence(_attribute(task, "poll_every"), jitter=options.jitter, salt=str(task.name), app=task.app)
    given = getattr(task, "max_in_flight", None)
    most = MOST_IN_FLIGHT if given is None else whole("max_in_flight", given, error=ContractError)
    _must_fit(options, cadence, most)
    next_batch = _function(task, "next_batch", _attribute(task, "next_batch"))
    tenants, find_tenants = _tenants(task)
    return TaskContract(
        task=task,
        cadence=cadence,
        next_batch=next_batch,
        takes_poll=_takes_poll(next_batch),
        max_in_flight=most,
        poll_timeout=_timeout(getattr(task, "poll_timeout", None), cadence),
        options=options,
        tenants=tenants,
        find_tenants=find_tenants,
        after_success=_after_success(task),
        preflight=_preflight(task),
    )


def _must_be_spelt_right(task: Task[Any, Any]) -> None:
    """Refuse misspelt attributes, and options in the place of attributes: both would have no effect."""
    bases = PerpetualTask.__mro__
    # Without asking the class for its attributes: that would bind it to the current app.
    celerys = {name for base in bases for name in vars(base)}
    for cls in type(task).__mro__:
        for name in () if cls in bases else vars(cls):
            if name.startswith("_") or name in ATTRIBUTES or name in celerys:
                continue
            if name in OPTIONS:
                raise ContractError(
                    f"{name} is a perpetual option, not an attribute of a task; "
                    f"write perpetual_options=PerpetualOptions({name}=...)"
                )
            if (near := nearest(name, ATTRIBUTES, ALIKE)) is not None:
                raise ContractError(f"attribute {name} has no effect, did you mean {near}?")


def _must_fit(options: PerpetualOptions, cadence: Cadence, most_in_flight: int) -> None:
    """Refuse paces that contradict the interval or the room."""
    if options.low_water > most_in_flight:
        raise ContractError(
            f"perpetual option low_water ({options.low_water}) must be at most max_in_flight ({most_in_flight})"
        )
    longest, every = options.max_interval, cadence.seconds
    if longest is not None and every is None:
        raise ContractError(f"perpetual option max_interval needs a poll_every of seconds, got {cadence}")
    if longest is not None and every is not None and longest < every:
        raise ContractError(f"perpetual option max_interval ({longest:g} s) must be at least poll_every ({every:g} s)")


def _timeout(seen: Any, cadence: Cadence) -> float:
    if seen is None:
        return max(SHORTEST_TIMEOUT, min(cadence.seconds or LONGEST_TIMEOUT, LONGEST_TIMEOUT))
    return seconds("poll_timeout", seen, least=0.05, error=ContractError)


def _attribute(task: Task[Any, Any], name: str) -> Any:
    if name == "next_batch" and (own := unwrapped(type(task))) is not None:
        given = getattr(own, BATCH_ATTRIBUTE, None)
        if given is not None and "next_batch" not in type(task).__dict__:
            return given
    return given_to(task, name)


def given_to(task: Task[Any, Any], name: str) -> Any:
    """An attribute of a task, None without one. A ``partial`` is no method, also where a newer Python would bind it."""
    if name not in vars(task):
        raw = next((cls.__dict__[name] for cls in type(task).__mro__ if name in cls.__dict__), None)
        if isinstance(raw, partial):
            return raw
    return getattr(task, name, None)


def _opted_out(task: Task[Any, Any]) -> bool:
    """A subclass that sets one of the two to None says on purpose that it is not perpetual."""
    return _says_none(task, "poll_every") or _says_none(task, "next_batch")


def _says_none(task: Task[Any, Any], name: str) -> bool:
    """Whether a class of the user's has None for an attribute on purpose."""
    classes = (cls for cls in type(task).__mro__ if cls is not PerpetualTask)
    return any(name in cls.__dict__ and cls.__dict__[name] is None for cls in classes)


def _function(task: Task[Any, Any], name: str, found: Any) -> Callable[..., Any]:
    """A function that a task gives, bound to the task only if it is a method written in a class."""
    owner = next((cls for cls in type(task).__mro__ if name in cls.__dict__), None)
    if owner is not None and owner.__dict__.get("_decorated"):
        raw = owner.__dict__[name]
        if inspect.isfunction(raw):
            found = raw
    if not callable(found):
        raise ContractError(f"{name} must be a function, method or generator function, got {found!r}")
    return found  # type: ignore[no-any-return]


def _after_success(task: Task[Any, Any]) -> Callable[[Any], Any] | None:
    given = given_to(task, "after_success")
    if given is None:
        return None
    function = _function(task, "after_success", given)
    if Parameters.of(function).need_more(1):
        raise ContractError(f"after_success must take one argument, the task's result, got {function!r}")
    return function


def _given(task: Task[Any, Any], name: str) -> Any:
    """A value or a function that a task gives, or else its module; None without one."""
    given = given_to(task, name)
    if given is None:
        return None if _says_none(task, name) else given_by_module(task, name)
    return _function(task, name, given) if callable(given) else given


def _preflight(task: Task[Any, Any]) -> Preflight | None:
    given = _given(task, "preflight")
    return None if given is None else read_preflight(given, may_take_tenant=True)


def _tenants(task: Task[Any, Any]) -> tuple[Mapping[str, Any] | None, Callable[[], Any] | None]:
    """The tenants that a task lists, or the function that finds them; neither without a fan-out."""
    given = _given(task, "tenants")
    if given is None:
        return None, None
    if callable(given):
        if Parameters.of(given).needed:
            raise ContractError(f"tenants must be a list, or a function that takes no argument, got {given!r}")
        return None, given
    if isinstance(given, Iterator):
        raise ContractError(
            f"tenants must be a list or a function, not an iterator, which is empty after one reading: {given!r}"
        )
    found = read_list(given)
    if found.refused:
        raise ContractError("; ".join(found.refused[:3]))
    return found.values, None


def _takes_poll(function: Callable[..., Any]) -> bool:
    parameters = Parameters.of(function)
    if parameters.need_more(1):
        raise ContractError(
            f"next_batch must take no argument or one Poll, but {getattr(function, '__qualname__', function)} "
            f"needs {', '.join(parameters.needed)}; a function given to the decorator does not get the task"
        )
    return parameters.takes_one


def _file(task: Task[Any, Any]) -> str:
    own = unwrapped(type(task)) or type(task)
    try:
        return f"{inspect.getsourcefile(own)}:{inspect.getsourcelines(own)[1]}"
    except (TypeError, OSError):
        return getattr(sys.modules.get(type(task).__module__), "__file__", None) or type(task).__module__
