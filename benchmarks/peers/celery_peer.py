"""Celery: the application, and what fills its queue."""

import os

import filling
from celery import Celery
from post import TEXT
from post import deliver as post

SOCKET = os.environ["BENCH_SOCKET"]
app = Celery("celery_peer", broker=f"redis+socket://{SOCKET}")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=16,
    # The default of 10 is less than there are greenlets.
    broker_pool_limit=200,
    redis_max_connections=500,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="deliver")
def deliver(chat_id: int, text: str) -> None:
    post(chat_id, text)


def fill(numbers: range, due_at: float, form: str) -> None:
    del due_at, form
    with app.producer_pool.acquire(block=True) as producer:
        for n in numbers:
            deliver.apply_async((n, TEXT), producer=producer)


if __name__ == "__main__":
    filling.main(fill)
