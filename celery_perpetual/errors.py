"""Every exception that celery-perpetual raises.

One base class, :class:`PerpetualError`; there is one child for each thing that a reader may have to do.
Messages say which task or setting, what is wrong, what was seen, and what to do.
"""

from __future__ import annotations


class PerpetualError(Exception):
    """Base class of all errors of celery-perpetual."""


class SettingsError(PerpetualError, ValueError):
    """A ``perpetual_*`` setting is unknown or has an impossible value."""


class ContractError(PerpetualError):
    """A perpetual task, or a call, does not keep to the documented contract."""


class InvalidItem(PerpetualError, ValueError):
    """``next_batch`` returned something that cannot become a Celery task.

    Nothing of that batch is enqueued.
    """


class BatchTooLarge(PerpetualError, ValueError):
    """A ``Batch`` with a cursor holds more items than the task's ``limit``.

    Such a batch is never cut, because its cursor stands behind its last item.
    """


class StoreUnavailable(PerpetualError):
    """The Redis server that holds the state could not be reached in time, or could not do its work."""


class StoreRefused(StoreUnavailable):
    """The Redis server answered with an error that no outage explains: trying again may not help."""


def is_outage(error: BaseException) -> bool:
    """Whether the store could not be reached: the same call may succeed later, whatever it was about."""
    return isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused)


class UnknownTask(PerpetualError, LookupError):
    """No registered perpetual task has this name."""


class UnknownUnit(PerpetualError, LookupError):
    """The task is known, but it has no unit for this tenant."""


class NotSuccessful(PerpetualError):
    """A task did not end well, or not in time; ``completion`` says how."""

    def __init__(self, message: str, completion: object = None) -> None:
        super().__init__(message)
        self.completion = completion


class TaskLost(NotSuccessful):
    """A task ended without an end of its own: its process is gone, or its message could not be read."""


class NotFound(PerpetualError, LookupError):
    """There is no record of this id."""


class InvalidRoutine(PerpetualError, ValueError):
    """A field of a routine has an impossible value, or does not go with another; nothing was stored.

    ``field`` and ``value`` say which; the message says what is allowed as well.
    """

    def __init__(self, message: str, field: str = "", value: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class AlreadyExists(PerpetualError):
    """There is a routine of this id already, in whatever state, and it was not created with this idempotency key."""


class IdempotencyConflict(PerpetualError):
    """The idempotency key belongs to a routine that was created with other fields."""


class RoutineBusy(PerpetualError):
    """The routine runs, or waits to be tried again, and cannot be changed meanwhile."""


class RoutineTerminal(PerpetualError):
    """The routine has ended for good: completed, exhausted or cancelled."""


class StaleVersion(PerpetualError):
    """The routine has been changed since the version that the caller has read."""


#: Longer texts of users and of exceptions are cut; in some errors each value is.
LONGEST_TEXT, SHORT = 2000, 80


def encodable(text: str) -> str:
    """The text without halves of characters, which a script cannot read; Python puts undecodable bytes into them."""
    return text.encode(errors="replace").decode()


def readable(text: object, most: int = LONGEST_TEXT) -> str:
    """Return a text of the user's as it can be stored and shown: never too long, never unreadable, never an error."""
    try:
        shown = str(text)
    except Exception:  # an exception may not even be able to say what it is
        shown = f"<{type(text).__name__} without a text>"
    shown = encodable(shown)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def shown_value(seen: object, most: int = LONGEST_TEXT) -> str:
    """Return a value as errors show it; one that cannot show itself is no error of its own."""
    try:
        return readable(repr(seen), most)
    except Exception:  # such as a number of thousands of digits
        return f"a {type(seen).__name__} that cannot be shown"


def short(seen: object) -> str:
    """Return a value as an error shows it that names several."""
    return shown_value(seen, SHORT)


def described(error: BaseException) -> str:
    """Return the type and the text of an exception in one line of a log or a record."""
    return f"{type(error).__name__}: {readable(error)}"
