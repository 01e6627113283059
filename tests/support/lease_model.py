"""A model of the leases of a few tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST = 2
Order = tuple[int, int]


@dataclass(eq=False)
class Run:
    """An execution as its own process sees it, whether or not it still has its lease."""

    nonce: str
    task: Task
    worker: str
    order: Order
    early: bool = False
    """It has sent its retry, and not said so yet."""


@dataclass(eq=False)
class Task:
    """One task, its messages, and who executes it."""

    id: str
    on_lost: str
    index: int
    """Of the item in its batch, -1 where it is none."""
    messages: list[Order] = field(default_factory=lambda: [(0, 0)])
    """In the broker."""
    sent: set[Order] = field(default_factory=lambda: {(0, 0)})
    """All that there ever were."""
    lease: Run | None = None
    known: Order | None = None
    """The order that is remembered beside the lease: that of a successor on record, or of what has gone before."""
    flag: str = ""
    recoveries: int = 0
    final: bool = False
    buried: bool = False
    """It is known as ended, also when its record has expired."""

    @property
    def newest(self) -> Order:
        return max(self.known or (0, 0), self.lease.order if self.lease else (0, 0))

    @property
    def is_somewhere(self) -> bool:
        """Whether it has ended, or will go on without anybody's guess."""
        waits = self.flag in ("resend", "fail", "parked")
        return self.final or self.lease is not None or waits or any(order >= self.newest for order in self.messages)

    @property
    def state(self) -> str:
        """Return the record that the store should have: none before anything has happened to it, and after its end."""
        if self.known is None or self.final:
            return ""
        return "{}|{}|{}|{}".format(*self.known, self.recoveries, self.flag)


class Model:
    """All tasks, and all executions."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
        self.runs: list[Run] = []
        self.lost = 0
        self.recovered = 0

    def verdict(self, task: Task, order: Order) -> str:
        if task.final or task.flag == "fail":
            return "final"
        if task.flag == "parked":
            return "parked"
        if order < task.newest:
            return "old"
        return "adopted" if task.lease and order == task.lease.order else "run"

    def begin(self, run: Run) -> None:
        task = run.task
        self.runs.append(run)
        task.lease = run
        if task.known is not None:
            self.recovered += task.flag == "resend"
            task.known, task.flag = run.order, "run"

    def send(self, task: Task, order: Order) -> None:
        task.messages.append(order)
        task.sent.add(order)

    def sent_again(self, task: Task) -> None:
        assert task.known is not None
        self.recovered += 1
        task.flag = "run"
        self.send(task, task.known)

    def note_successor(self, task: Task, order: Order, cause: str) -> None:
        task.known, task.flag = order, "came" if (cause, task.flag) == ("back", "came") else cause

    def lose(self, task: Task, order: Order, *, counts: bool) -> str:
        """Lose a task that no worker executes any more: it goes on with its successor, if that is on record."""
        if task.lease is not None and task.flag in ("wait", "delegated"):
            assert task.known is not None
            order = task.known
        task.lease, task.known, task.flag = None, order, "resend"
        if counts:
            self.lost += 1
            task.recoveries += 1
            if task.on_lost == "park" or (task.on_lost == "requeue" and task.recoveries > MOST):
                task.flag = "parked"
            elif task.on_lost == "fail":
                task.flag = "fail"
        return task.flag

    def let_go(self, task: Task, order: Order, flag: str) -> None:
        task.lease, task.known, task.flag = None, order, flag

    def end(self, task: Task, *, buried: bool) -> None:
        task.lease, task.known, task.flag, task.recoveries = None, None, "", 0
        task.final, task.buried = True, buried
