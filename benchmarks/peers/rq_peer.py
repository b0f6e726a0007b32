"""RQ and rq-scheduler: fills their queues the fastest way that each offers."""

import os
from datetime import UTC, datetime

import filling
from post import TEXT, deliver
from redis import Redis
from rq import Queue
from rq_scheduler import Scheduler

CHUNK = 1000


def fill(numbers: range, due_at: float, form: str) -> None:
    client = Redis(unix_socket_path=os.environ["BENCH_SOCKET"])
    queue = Queue(connection=client)
    if form == "rq-scheduler":
        scheduler = Scheduler(connection=client)
        for n in numbers:
            scheduler.enqueue_at(datetime.fromtimestamp(due_at, UTC), deliver, n, TEXT)
    elif due_at:
        for n in numbers:
            queue.enqueue_at(datetime.fromtimestamp(due_at, UTC), deliver, n, TEXT)
    else:
        for start in range(0, len(numbers), CHUNK):
            part = numbers[start : start + CHUNK]
            queue.enqueue_many([Queue.prepare_data(deliver, (n, TEXT)) for n in part])


if __name__ == "__main__":
    filling.main(fill)
