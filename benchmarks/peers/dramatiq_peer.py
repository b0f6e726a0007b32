"""Dramatiq: the actor, and what fills its queue."""

import os
import time

import dramatiq
import filling
from dramatiq.brokers.redis import RedisBroker
from post import TEXT
from post import deliver as post

broker = RedisBroker(url=f"unix://{os.environ['BENCH_SOCKET']}")
dramatiq.set_broker(broker)


@dramatiq.actor
def deliver(chat_id: int, text: str) -> None:
    post(chat_id, text)


def fill(numbers: range, due_at: float, form: str) -> None:
    del form
    for n in numbers:
        delay_ms = int(max(0.0, due_at - time.time()) * 1000) if due_at else None
        broker.enqueue(deliver.message(n, TEXT), delay=delay_ms)


if __name__ == "__main__":
    filling.main(fill)
