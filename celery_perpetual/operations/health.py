"""The part of ``Perpetual`` that says whether all is well."""

from __future__ import annotations

from celery_perpetual.health.findings import Finding
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.check import check, doctor
from celery_perpetual.operations.status import Status, status
from celery_perpetual.tasks.discovery import load, unknown_names


class HealthOperations(Namespace):
    """Checks; they change nothing but for one key of the store, which expires after a second."""

    def check(self) -> list[Finding]:
        """Check settings, tasks, scheduler, store, leader, workers and work; empty if there is no finding.

        It raises no :class:`~celery_perpetual.errors.PerpetualError`: what goes wrong is a finding.
        """
        return check(self)

    def check_tasks(self) -> list[str]:
        """Check settings and perpetual tasks as beat and workers do at their start, without a store; for a test.

        Imports the modules of the app. Connects nowhere.

        Returns:
            The names of the perpetual tasks, sorted.

        Raises:
            ContractError: a task has a wrong value; each wrong task is named.
            SettingsError: a setting is wrong.
        """
        settings, discovery = self.settings, load(self.app)
        unknown_names(discovery, settings.disabled)
        return list(discovery.tasks)

    def doctor(self) -> list[Finding]:
        """Check what :meth:`check` does, and what takes longer.

        That is how old the server is, how fast it answers, how many connections it has left, and which keys of the
        namespace have no owner; for that it walks through at most 50 000 keys. It raises nothing either.
        """
        return doctor(self)

    def status(self) -> Status:
        """Whether all is well: store, beat, units, work and workers, each with what is wrong, since when, what helps.

        It reads some numbers of each unit, and more only of those that are not well, so 10 000 units take less than
        a second. A store that does not answer is the state ``down``.

        Raises:
            SettingsError, ContractError: a setting or a task is wrong, so that beat and workers refuse to start.
        """
        return status(self)
