"""Makes Celery use this package: the beat scheduler, and the checks at a worker's start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from billiard import get_start_method
from celery import bootsteps, signals
from celery.beat import Service
from celery.concurrency.prefork import TaskPool as PreforkPool

from celery_perpetual import events
from celery_perpetual.beat.other_apps import warn_of_other_app
from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.beat.scheduler_setting import other_scheduler, start_instead_of
from celery_perpetual.errors import PerpetualError
from celery_perpetual.health.alerts import watch_leader
from celery_perpetual.namespace import namespace_of
from celery_perpetual.polling.in_worker import TASK as POLL_TASK
from celery_perpetual.seams.table import install_seams, unknown_seams, unseen_versions
from celery_perpetual.tasks.contract import is_perpetual
from celery_perpetual.tasks.discovery import discover, must_climb, unknown_names
from celery_perpetual.tasks.task import when_bound
from celery_perpetual.telemetry import emit, some
from celery_perpetual.worker.signals import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_perpetual.seams.seam import Seam


DEFAULT_SCHEDULER = "celery.beat:PersistentScheduler"
OUR_SCHEDULER = "celery_perpetual.beat.scheduler:PerpetualScheduler"


def wire(app: Celery) -> Callable[[], list[tuple[Seam, str]]]:
    """Wire an app, configured or not; returns what names the seams that are not as known. Wiring twice is harmless."""
    connect()
    install_seams(app)
    register: Any = app.task(name=POLL_TASK, bind=True, shared=False, ignore_result=True, acks_late=False)
    register(_poll)
    app.steps["worker"].add(WorkerCheck)
    signals.beat_init.connect(_on_beat_init, weak=False, dispatch_uid="celery_perpetual.scheduler")
    app.on_after_configure.connect(_after_configure, weak=False, dispatch_uid="celery_perpetual.scheduler")
    if app.configured:  # type: ignore[attr-defined]  # missing in the stubs
        _use_scheduler(app)
    return unknown_seams


def _poll(task: Any, *, task_name: str, poll_id: str, following: str, tenant: Any = None) -> str:
    """Evaluate a poll that travelled to this worker."""
    return str(task.app.perpetual.poll_here(task_name, poll_id, following, tenant))


def wire_running_beat(app: Celery) -> None:
    """Wire an app from a module that beat imports: by then the command has read ``beat_scheduler`` already.

    The command's service class hangs on a class of this app alone, and is asked for its scheduler later.
    """
    app.Beat.Service = PerpetualService


class PerpetualService(Service):
    """Celery's beat service, with our scheduler where the app still has Celery's default."""

    def get_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's."""
        service: Any = self
        if service.scheduler_cls == DEFAULT_SCHEDULER:
            service.scheduler_cls = OUR_SCHEDULER
        return super().get_scheduler(*args, **kwargs)


class WorkerCheck(bootsteps.Step):
    """Refuses to start a worker whose perpetual tasks or settings are wrong, and says what beat will not do."""

    name = "perpetual-check"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        app = worker.app
        try:
            discovery, namespace = discover(app), namespace_of(app)
            namespace.store  # noqa: B018  # made from the settings, which are checked by that
            misnamed = unknown_names(discovery, namespace.settings.disabled)
            must_climb(discovery, namespace.settings.starvation)
        except PerpetualError as error:
            raise click.ClickException(str(error)) from error
        namespace.grants.on_report = lambda store: watch_leader(namespace, store)
        if _spawns(worker):
            raise click.ClickException(
                "worker_pool_start_method: got 'spawn'; processes that are not forked run tasks without leases and "
                "announce no ends. Set worker_pool_start_method = 'fork', or use another pool (-P threads)"
            )
        if unseen := unseen_versions():
            emit(events.VERSIONS_UNSEEN, packages=unseen)
        for seam, evidence in unknown_seams():
            emit(events.SEAM_UNKNOWN, seam=seam.name, without=seam.without, evidence=evidence)
        for warning in (*discovery.warnings, *misnamed):
            emit(events.CONTRACT_WARNING, warning=warning)
        warn_of_other_app(app, namespace_of(app).grants.store)
        if discovery.tasks and (other := other_scheduler(app, PerpetualScheduler)):
            emit(events.SCHEDULER_OTHER, warning=str(other))


def _spawns(worker: Any) -> bool:
    """Whether the worker's pool processes are started anew: there Celery's app is another one, which is not wired."""
    is_prefork = isinstance(worker.pool_cls, type) and issubclass(worker.pool_cls, PreforkPool)
    method = getattr(worker, "pool_start_method", None) or get_start_method()  # the setting came with Celery 5.7
    return is_prefork and method != "fork"


def warn_if_not_wired(_app: Celery) -> None:
    """Let beat and workers that start in this process say what they do not do for an app that is not wired."""
    signals.beat_init.connect(_on_beat_init, weak=False, dispatch_uid="celery_perpetual.scheduler")
    signals.celeryd_after_setup.connect(_on_worker_setup, weak=False, dispatch_uid="celery_perpetual.unwired")


when_bound.append(warn_if_not_wired)


def _on_beat_init(sender: Any = None, **_: Any) -> None:
    """Beat runs another scheduler: it may have been given one on its command line, or the app is not wired."""
    if isinstance(sender.scheduler, PerpetualScheduler):
        return
    tasks, advice = _perpetual_tasks(sender.app), start_instead_of(type(sender.scheduler))
    if not tasks:
        return
    if _is_wired(sender.app):
        emit(events.SCHEDULER_WITHOUT_POLLS, tasks=tasks, advice=advice)
        return
    is_celerys = type(sender.scheduler).__module__ == Service.__module__
    wires = "Perpetual(app)" if is_celerys else f"Perpetual(app), and {advice}"
    emit(events.WIRING_MISSING, means=f"this beat does not poll {tasks}", advice=wires)


def _on_worker_setup(instance: Any = None, **_: Any) -> None:
    """A worker of an app that is not wired runs its perpetual tasks as Celery runs any."""
    if _is_wired(instance.app) or not (tasks := _perpetual_tasks(instance.app)):
        return
    means = f"this worker runs {tasks} without leases, and announces no ends"
    emit(events.WIRING_MISSING, means=means, advice="Perpetual(app)")


def _is_wired(app: Celery) -> bool:
    return getattr(app, "perpetual", None) is not None


def _perpetual_tasks(app: Celery) -> str:
    return some([name for name, task in sorted(app.tasks.items()) if is_perpetual(task)])


def _after_configure(sender: Celery, **_: Any) -> None:
    _use_scheduler(sender)


def _use_scheduler(app: Celery) -> None:
    if app.conf.beat_scheduler == DEFAULT_SCHEDULER:
        app.conf.beat_scheduler = OUR_SCHEDULER
