"""The wrappers of a worker's receiving code, in their order.

A message that comes to a task's strategy meets :mod:`.drop` first, which marks it before anything decodes its payload,
then :mod:`.malformed`, and then Celery. The consumer makes its strategies anew at every reconnect and when its pool is
restarted with other modules; each time the tasks get our request class first, and the wrappers are put around what it
made.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from celery_perpetual.completions.waiting_ends import NONE_WAITING
from celery_perpetual.leases.interest import BUILT_IN
from celery_perpetual.worker.deliveries import connection_lost, waiting
from celery_perpetual.worker.drop import dropping
from celery_perpetual.worker.foreign import leaving_foreign_items
from celery_perpetual.worker.malformed import announcing_undecodable, refusing
from celery_perpetual.worker.request import leased_request

#: From the innermost, which Celery's own strategy follows, to the outermost.
WRAPPERS = (refusing, dropping)


class ReceivingStep(bootsteps.Step):
    """Prepares the consumer before it receives anything."""

    name = "perpetual-receiving"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        update = consumer.update_strategies

        def update_strategies() -> None:
            for name, task in consumer.app.tasks.items():
                if not name.startswith(BUILT_IN):
                    task.Request = leased_request(task.Request)
            update()
            for name in consumer.app.tasks:
                for wrapper in WRAPPERS:
                    consumer.strategies[name] = wrapper(consumer, consumer.strategies[name])

        close = consumer.on_close

        def on_close() -> None:
            close()
            ends = consumer.app.perpetual.grants.ends
            connection_lost(consumer.pool, NONE_WAITING if ends is None else waiting(ends, consumer.pool))

        # At a stop Celery's own is called: what has not begun is put back at the very end, and is here until then.
        consumer.on_close = on_close
        consumer.update_strategies = update_strategies
        consumer.on_unknown_task = leaving_foreign_items(consumer)
        consumer.on_decode_error = announcing_undecodable(consumer)
