"""The list of seams, in the order in which they are installed: a port to another Celery has to check each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.leases.task_protocol import use_protocol_2
from celery_perpetual.seams.seam import Seam, Target, unseen_packages
from celery_perpetual.seams.used import USED
from celery_perpetual.worker.backend_outages import outlast_outages
from celery_perpetual.worker.broker_loss import SurviveBrokerLoss
from celery_perpetual.worker.early_success import watch_results
from celery_perpetual.worker.entering_step import EnteringStep
from celery_perpetual.worker.guard import watch_tracers
from celery_perpetual.worker.heartbeat_step import HeartbeatStep
from celery_perpetual.worker.holding import HoldingStep
from celery_perpetual.worker.own_strategy import watch_marks
from celery_perpetual.worker.pool_endings import wait_without_locks
from celery_perpetual.worker.propagation import watch_propagation
from celery_perpetual.worker.receiving import ReceivingStep

if TYPE_CHECKING:
    from celery import Celery


def _step(blueprint: str, step: Any) -> Any:
    def install(app: Celery) -> None:
        app.steps[blueprint].add(step)

    return install


#: Wrapped in every process that has a wired app.
IN_EVERY_PROCESS = (
    Seam(
        name="failures by propagation",
        targets=(
            Target("celery.backends.base:Backend.mark_as_failure", "self task_id exc", "chain chord"),
            Target("celery.backends.base:Backend.chord_error_from_stack", "self callback exc"),
        ),
        why="Celery fails the rest of a chain and the body of a chord in these methods, without a signal",
        without="what is behind a failed task in a chain or chord gets no end",
        install=lambda _: watch_propagation(),
    ),
    Seam(
        name="stored successes",
        targets=(
            Target("celery.backends.base:Backend.mark_as_done", "self task_id result request store_result state",
                   "store_result chord"),
            Target("celery.app.trace:task_has_custom", "task attr"),
        ),
        why="an end is announced as soon as its result is stored, where none of the user's code follows",
        without="the end of a success is announced a little later, by task_postrun",
        install=lambda _: watch_results(),
    ),
    Seam(
        name="results during outages",
        targets=(
            Target("celery.backends.base:Backend.store_result", "self task_id result state traceback request"),
            Target("celery.backends.base:Backend.mark_as_failure",
                   "self task_id exc traceback request store_result call_errbacks state", "store_result chord"),
            Target("celery.backends.base:Backend.mark_as_revoked", "self task_id reason request store_result state"),
            Target("celery.backends.base:Backend.exception_safe_to_retry", "self exc"),
            Target("celery.backends.redis:RedisBackend.ensure", "self fun args", "retry_policy max_retries"),
        ),
        why="a result that cannot be stored now is stored when the backend is back; the outcome stays that of the body",
        without="a task whose body returns while the result backend is away fails, and its result is never stored",
        install=lambda _: outlast_outages(),
    ),
    Seam(
        name="tasks with a strategy of their own",
        targets=(
            Target("celery.app.task:Task.Strategy"),
            Target("celery.backends.base:Backend.mark_as_done", "self task_id result request store_result state"),
            Target("celery.backends.base:Backend.mark_as_failure", "self task_id exc"),
        ),
        why="a task that Celery's tracer does not run says to the result backend how it ended",
        without="such a task ends as a success when its message is acknowledged, also where its body says otherwise",
        install=lambda _: watch_marks(),
    ),
    Seam(
        name="tracers",
        targets=(
            Target("celery.app.trace:build_tracer", "name task loader hostname store_errors Info eager",
                   "task_has_custom __call__ run"),
            Target("celery.worker.consumer.consumer:build_tracer", "name task loader hostname"),
            Target("celery.app.trace:trace_task", "task uuid args kwargs request", "__trace__ build_tracer"),
            Target("celery.app.trace:fast_trace_task", "task uuid request body", "__trace__"),
            Target("celery.concurrency.prefork:process_initializer", "app hostname", "build_tracer"),
            Target("celery.app.task:Task.__call__", "self"),
            Target("celery.app.task:Task.request_stack"),
            Target("celery.app.task:Context._protected"),
            Target("celery.app.task:Task.retry", "self args kwargs exc throw"),
            Target("celery.app.task:Task.replace", "self sig"),
        ),
        why="the lease is asked for before anything of the task happens, again when its body returns, and before it "
        "retries or replaces itself",
        without="tasks run without leases, or what they bring after losing them counts",
        install=lambda _: watch_tracers(),
    ),
    Seam(
        name="task protocol",
        targets=(
            Target("celery.app.amqp:AMQP.__init__", "self app", "task_protocols as_task_v1"),
            Target("celery.app.amqp:AMQP.as_task_v1", "self task_id name"),
            Target("celery.app.amqp:AMQP.as_task_v2", "self task_id name"),
            Target("celery.app.amqp:AMQP.create_task_message"),
        ),
        why="messages of task protocol 1 carry their id where it is not read, and not how often a task was replaced",
        without="with task_protocol = 1 an item that replaces itself stays open",
        install=use_protocol_2,
    ),
    Seam(
        name="endings of pool processes",
        targets=(
            Target("billiard.pool:Worker._ensure_messages_consumed", "self completed", "on_ready_counter value"),
            Target("billiard.sharedctypes:SynchronizedBase.get_obj", "self"),
        ),
        why="a pool process that is killed while it ends must not take a lock with it that the main process needs",
        without="a worker's main process may hang after a hard time limit, or stop half a minute late",
        install=lambda _: wait_without_locks(),
    ),
)  # fmt: skip

#: Wrapped where a worker starts.
IN_WORKERS = (
    Seam(
        name="heartbeat",
        targets=(
            Target("celery.worker.state:active_requests"),
            Target("celery.worker.state:should_stop"),
            Target("celery.worker.state:should_terminate"),
            Target("celery.worker.state:task_ready", "request successful"),
            Target("billiard.pool:Pool.maintain_pool", "self"),
            Target("billiard.pool:Pool.__init__", "self", "_pool"),
        ),
        why="a thread reports what the worker has, before the pool starts and until the process ends",
        without="tasks of a living worker may be taken for lost, and run twice",
        install=_step("worker", HeartbeatStep),
    ),
    Seam(
        name="lost broker",
        targets=(
            Target("kombu.connection:Connection.collect", "self socket_timeout"),
            Target("kombu.transport.redis:Channel._in_poll"),
            Target("kombu.transport.virtual.base:Transport.channels"),
        ),
        why="Celery 5.7 closes a broken connection twice, which kombu does not survive with unacknowledged messages",
        without="a worker may end when its Redis broker goes away",
        install=_step("consumer", SurviveBrokerLoss),
    ),
    Seam(
        name="entered messages",
        targets=(
            Target("kombu.transport.redis:Channel._create_client", "self asynchronous", "connection_pool pool"),
            Target("kombu.transport.redis:Channel.conn_or_acquire", "self client", "_create_client"),
            Target("kombu.transport.redis:Channel.pool"),
            Target("kombu.transport.redis:QoS.append", "self message delivery_tag",
                   "delivery_info unacked_index_key unacked_key dumps _raw zadd hset time"),
            Target("kombu.transport.virtual.base:QoS.append", "self message delivery_tag", "_quick_append"),
            Target("kombu.transport.virtual.base:Channel.basic_consume", "self queue no_ack callback", "qos append"),
        ),
        why="kombu makes a client and a pipeline for every message that a worker receives, a quarter of its work",
        without="a worker's main process spends more time on each task",
        install=_step("consumer", EnteringStep),
        is_optional=True,
    ),
    Seam(
        name="requests",
        targets=(
            Target("celery.app.task:Task.Request"),
            Target("celery.worker.request:Request.__init__", "self message on_ack",
                   "_request_dict _app _task _message _connection_errors"),
            Target("celery.worker.request:Request._context"),
            Target("celery.worker.request:Request.on_accepted", "self pid time_accepted", "time_start task_accepted"),
            Target("celery.worker.request:Request._announce_revoked", "self reason terminated", "acknowledge"),
            Target("celery.worker.request:Request.cancel", "self pool"),
            Target("celery.worker.request:Request.execute_using_pool", "self pool", "_request_dict on_failure"),
            Target("celery.worker.request:create_request_cls", "base task"),
        ),
        why="the main process names each delivery, and speaks for children that died; installed with the next one",
        without="tasks run without leases: a second delivery of a task runs beside the first one",
    ),
    Seam(
        name="holding",
        targets=(
            Target("celery.worker.consumer.consumer:Consumer.__init__", "self on_task_request", "on_task_request"),
            Target("celery.worker.state:task_reserved", "request"),
            Target("celery.worker.state:task_ready", "request successful"),
            Target("celery.worker.request:Request._apply_result"),
        ),
        why="a task that waits for the store waits outside of the pool, where no time limit counts",
        without="a time limit may end a task that waits for the store",
        install=_step("consumer", HoldingStep),
    ),
    Seam(
        name="receiving",
        targets=(
            Target("celery.worker.consumer.consumer:Consumer.update_strategies", "self", "strategies build_tracer"),
            Target("celery.worker.consumer.consumer:Consumer.on_close", "self", "reserved_requests"),
            Target("celery.worker.consumer.consumer:Consumer.start", "self", "on_close"),
            Target("celery.worker.consumer.consumer:Consumer.on_decode_error", "self message exc"),
            Target("celery.worker.consumer.consumer:Consumer.on_unknown_task", "self body message exc"),
            Target("celery.worker.consumer.consumer:Consumer.call_soon", "self p"),
            Target("celery.worker.consumer.consumer:Consumer.create_task_handler", "self", "strategies"),
        ),
        why="messages that are malformed, or kill their worker, are refused, counted and parked",
        without="such a message may be delivered for ever, and its task never ends",
        install=_step("consumer", ReceivingStep),
    ),
)  # fmt: skip

SEAMS = (*IN_EVERY_PROCESS, *IN_WORKERS, *USED)


def install_seams(app: Celery) -> None:
    """Install those that are installed, in their order. Repeating it is harmless."""
    for seam in SEAMS:
        if seam.install is not None and not (seam.is_optional and seam.differences()):
            seam.install(app)


def unknown_seams() -> list[tuple[Seam, str]]:
    """The seams that are not as known, each with what was seen there and on which versions."""
    return [
        (seam, f"{'; '.join(differences)}; {seam.versions()}") for seam in SEAMS if (differences := seam.differences())
    ]


def unseen_versions() -> str:
    """Which packages are there in a version that was never seen, and how many seams look as known; "" if none is."""
    packages = ", ".join(unseen_packages())
    known = len(SEAMS) - len(unknown_seams())
    return packages and f"{packages}; {known} of {len(SEAMS)} seams look as known"
