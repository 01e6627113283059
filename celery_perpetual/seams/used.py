"""The seams that are not installed at the start: private code that is used, or wrapped in the place that uses it."""

from __future__ import annotations

from celery_perpetual.seams.seam import Seam, Target

#: Not wrapped, or wrapped where they are used.
USED = (
    Seam(
        name="ends in pool processes",
        targets=(Target("billiard.process:Process.daemon"),),
        why="a child that was asked to stop has not lost its task",
        without="a task whose process is asked to stop may end as lost",
    ),
    Seam(
        name="locks of cached properties",
        targets=(Target("kombu.utils.objects:cached_property.__get__", "self instance owner"),),
        why="a pool process does not inherit a lock that another thread of its worker held when it was forked",
        without="a task that publishes may hang where its pool process began while the heartbeat sent something",
    ),
    Seam(
        name="unacknowledged messages",
        targets=(
            Target("kombu.transport.virtual.base:QoS.ack", "self delivery_tag"),
            Target("kombu.transport.redis:QoS.restore_by_tag", "self tag client leftmost"),
            Target("kombu.transport.redis:Channel.unacked_key"),
            Target("kombu.transport.redis:Channel.unacked_index_key"),
            Target("kombu.message:Message.ack", "self", "_state"),
        ),
        why="the scripts acknowledge what a worker received; kombu only has to forget it",
        without="messages are delivered again after visibility_timeout, and dropped then",
    ),
    Seam(
        name="captured messages",
        targets=(
            Target("kombu.transport.redis:Channel._put", "self queue message"),
            Target("kombu.transport.redis:Channel._put_fanout", "self exchange message routing_key"),
            Target("kombu.transport.redis:Channel._q_for_pri", "self queue pri"),
            Target("kombu.transport.redis:Channel._lookup", "self exchange routing_key"),
            Target("kombu.transport.redis:Channel._get_message_priority", "self message"),
            Target("kombu.transport.redis:Channel.conn_or_acquire", "self"),
            Target("kombu.transport.redis:Channel.priority_steps"),
            Target("kombu.transport.redis:Channel.global_keyprefix"),
            Target("kombu.transport.virtual.base:Channel._next_delivery_tag", "self"),
        ),
        why="messages are pushed in the script that commits them, where kombu would have pushed them",
        without="polls cannot publish their items to a Redis broker",
    ),
    Seam(
        name="Celery's sender",
        targets=(
            Target("celery.app.amqp:AMQP._create_task_sender", "self", "send_task_message signals"),
            Target("celery.app.amqp:AMQP.as_task_v2", "self task_id name"),
            Target("celery.app.task:Task._get_exec_options", "self"),
        ),
        why="after_task_publish is sent when the message is in the broker, and not when it has been built",
        without="after_task_publish comes too early, or messages are built one by one",
    ),
    Seam(
        name="destinations",
        targets=(
            Target("kombu.messaging:Producer._publish",
                   "self body priority content_type content_encoding headers properties routing_key mandatory "
                   "immediate exchange"),
            Target("kombu.messaging:Producer.maybe_declare", "self entity"),
        ),
        why="where a message goes is put on record, and messages are rehearsed without a broker",
        without="a lost message is not missed, or its router is asked again; unpublishable items are found late",
    ),
    Seam(
        name="confirms of RabbitMQ",
        targets=(
            Target("amqp.channel:Channel._basic_publish", "self msg exchange routing_key"),
            Target("amqp.channel:Channel.confirm_select", "self"),
            Target("amqp.connection:Connection.frame_writer"),
            Target("amqp.method_framing:frame_writer", "connection transport", "frame_max write"),
            Target("amqp.serialization:dumps", "format values"),
            Target("amqp.transport:_AbstractTransport.write", "self s"),
        ),
        why="a chunk of messages is published, and then its confirms are waited for together; frames are stamped",
        without="polls cannot publish their items to RabbitMQ",
    ),
    Seam(
        name="serializers",
        targets=(Target("kombu.serialization:registry._encoders"), Target("kombu.serialization:registry.type_to_name")),
        why="an item is serialized as its message will be, and found to be serializable before it is committed",
        without="items are refused",
    ),
    Seam(
        name="results in the script",
        targets=(
            Target("celery.backends.redis:RedisBackend.set", "self key value"),
            Target("celery.backends.redis:RedisBackend._set", "self key value", "publish setex"),
            Target("celery.backends.base:Backend._get_result_meta", "self result state traceback request"),
            Target("celery.backends.base:KeyValueStoreBackend._store_result", "self task_id result state",
                   "_get_result_meta _set_with_state"),
        ),
        why="Celery's result is stored in the step that announces the end",
        without="what Celery stores for a task may differ from its own form",
    ),
    Seam(
        name="counts of chords",
        targets=(
            Target("celery.backends.redis:RedisBackend.on_chord_part_return", "self request state result"),
            Target("celery.backends.redis:RedisBackend._chord_zset"),
        ),
        why="a success whose process died before it was counted is counted, where that changes nothing if it was",
        without="the body of a chord may never run",
    ),
    Seam(
        name="sockets of redis-py",
        targets=(
            Target("redis.connection:AbstractConnection.connect", "self"),
            Target("redis.connection:AbstractConnection.disconnect", "self", "_sock"),
            Target("redis.connection:AbstractConnection.read_response", "self"),
            Target("redis._parsers.socket:SocketBuffer.unread_bytes", "self"),
        ),
        why="prepared calls are written in one piece; a subscription is waited for together with others",
        without="ends are not announced, and no waiter wakes",
    ),
    Seam(
        name="apps of the process",
        targets=(Target("celery._state:_get_active_apps"),),
        why="autowire finds the apps that exist; a child flushes its ends before it goes",
        without="autowire does not work",
    ),
    Seam(
        name="beat",
        targets=(
            Target("celery.beat:Service.get_scheduler", "self lazy"),
            Target("celery.beat:Service.sync", "self", "scheduler close"),
            Target("celery.beat:Scheduler.apply_entry", "self entry producer"),
            Target("celery.beat:Scheduler.apply_async", "self entry producer advance"),
            Target("celery.beat:Scheduler.schedules_equal", "self old_schedules new_schedules"),
            Target("celery.beat:Scheduler.populate_heap", "self", "_heap"),
        ),
        why="our scheduler stands before any other one, and is stopped from Celery's signal handler",
        without="beat may not poll, not stop at SIGTERM, or run entries twice after a take-over",
    ),
    Seam(
        name="time zones of crontabs",
        targets=(Target("celery.schedules:BaseSchedule.app"), Target("celery.schedules:crontab.remaining_estimate")),
        why="a crontab of a task is asked for its matches in the time zone of the task's app",
        without="poll_every = crontab(...) may match in another time zone",
    ),
)  # fmt: skip
