"""Every place where we wrap or use a private part of Celery, kombu, billiard, amqp or redis-py."""
