"""Leases: nothing is lost with a worker, and nothing runs twice at once.

**Authority.** A lease is the right to execute one task id. It belongs to one *delivery* of the task's message, named by
a nonce that the receiving worker makes. The store alone grants it (``start.lua``), in the process that runs the task,
before any code of its user. A delivery that is refused ends as ignored, and completes nothing.

**Token.** Every grant has a number that only grows. ``lease_token()`` gives it to the body, which can fence its own
side effects with it: a receiver that refuses smaller numbers than it has seen refuses every execution that was
superseded.

**Clock.** Only the store's own time counts. A lease lives as long as its *worker*: one deadline per worker, renewed by
one call per heartbeat, whatever it holds. Time in which the store was away expires nothing: the first process to
find that none was in contact for a while keeps all leases for another lease time.

**Order.** A task may run again under its id: retried, or replaced by itself. Executions are ordered by (replacements,
retries); a delivery older than the newest one known is dropped, a newer one supersedes.

**Copies.** All that is needed to resend a task is kept until its end is stored: in the ledger, or beside the lease
where the ledger could not build the message. So a second delivery of a running task may be acknowledged (*adopted*),
and a message may be acknowledged before its task has ended. Where broker and store are one Redis, the script that
grants a lease acknowledges an early-acked message, and the script that announces the end a late-acked one: the copy
goes in the step that makes it superfluous, and never before.

**Ends.** A final end (``end_item.lua``, ``end_task.lua``) ends the lease. An execution whose lease is gone cannot end
its task: its end is counted as late. An execution that ends without an end of its task is *released* (a retry, a
replacement, a shutdown) or *lost*: then the task is put on the list of tasks to be resent, in the same step.

**Recovery.** A dead pool child is found by its worker at once, a dead worker by the leader's sweep when its deadline
has passed. Both put the task on that list; the process that takes it out sends the message, to the front of its queue
where the broker is Redis. A recovery is counted; after ``max_recoveries`` the task is *parked*: a provisional
completion wakes its waiters, and it waits for an operator (``recover``, ``fail``, ``cancel``).

What may happen twice: a message may be delivered and dropped twice, and code outside of the body (signal handlers,
the worker's own) may see both. What a body did before its worker died has happened. What never happens: two bodies of
one id run at once, unless the first one has lost its lease; two final ends of one id.
"""
