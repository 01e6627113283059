"""Tools that the tests share: processes of their own, projects on disk, private servers, waiting without luck."""

from tests.support.processes import CeleryProcess, Processes
from tests.support.projects import Project, Row
from tests.support.waiting import wait_until

__all__ = ["CeleryProcess", "Processes", "Project", "Row", "wait_until"]
