"""A Celery worker's tasks, which publish through a Pyramid application's request."""

import os

from celery import Celery
from pyramid.paster import bootstrap

celery = Celery("tasks", broker=os.environ["BROKER"])
celery.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
# In the process that the workers are forked from, which has a connection of its own to Redis.
env = bootstrap(os.environ["INI"])
env["request"].channels.publish_now("a", [os.getpid(), "parent"])


@celery.task
def save(text, fail=False):
    """Publish ``text`` and where the channel stood, in a transaction, which may fail."""
    request = env["request"]
    with request.tm:
        position = request.channels.position("a")
        request.channels.publish("a", [os.getpid(), text, position])
        if fail:
            raise LookupError(text)
