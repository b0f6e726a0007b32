"""RQ and rq-scheduler: the names they give things, and our workers in their books. The only importer of both."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from rq import Queue, Worker
from rq.worker_registration import clean_worker_registry

from postrider.model import QUEUES

ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.ResponseError)
"""What any call here raises when Redis is away, full or loading."""
DELIVER = "jobs.deliver"
"""What every job calls: a public format, it stands in Redis. The Lua scripts write it, a test reads it back."""


def prepare(client: redis.Redis) -> None:
    """Puts our queues where RQ's tools look for them, before anything is queued. Fails where any write would."""
    client.sadd(
        Queue.redis_queues_keys, *(Queue(name, connection=client).key for name in QUEUES.values())
    )


def any_worker(client: redis.Redis) -> bool:
    """Whether a worker is alive that takes our jobs: ours, or RQ's own."""
    queues = [Queue(name, connection=client) for name in QUEUES.values()]
    for queue in queues:
        clean_worker_registry(queue)  # a killed one stands there until somebody looks
    return any(Worker.count(queue=queue) for queue in queues)


def workers(client: redis.Redis) -> int:
    """How many workers are alive, RQ's own included."""
    for name in QUEUES.values():
        clean_worker_registry(Queue(name, connection=client))
    return Worker.count(connection=client)


def lengths(client: redis.Redis) -> dict[str, int]:
    """How many jobs stand in each of our queues, by its name."""
    return {name: Queue(name, connection=client).count for name in QUEUES.values()}


def at_work(client: redis.Redis) -> dict[int, list[str]]:
    """Process id of each worker -> the jobs it has under way.

    One that was killed stands there until its time is over, and so do its jobs, until somebody takes them over.
    """
    pids = {worker.name: worker.pid for worker in Worker.all(connection=client)}
    found: dict[int, list[str]] = {pid: [] for pid in pids.values() if pid is not None}
    for name in QUEUES.values():
        registry = Queue(name, connection=client).started_job_registry
        for job_id, holder in registry.get_job_and_execution_ids(cleanup=False):
            if (pid := pids.get(holder)) is not None:
                found[pid].append(job_id)
    return found


HEARTBEAT_S = 10


class Registration:
    """One of our workers in RQ's books: born, alive, dead. `rq info` lists it as any other."""

    def __init__(self, client: redis.Redis) -> None:
        self._worker = Worker(list(QUEUES.values()), connection=client, worker_ttl=HEARTBEAT_S * 3)

    @property
    def name(self) -> str:
        """RQ's name for it; random."""
        return self._worker.name

    def heartbeat(self) -> None:
        """Says it is alive; to be called every `HEARTBEAT_S`. A Redis that lost its books gets them anew."""
        if self._worker.connection.exists(self._worker.key):
            self._worker.heartbeat()
        else:
            self._worker.register_birth()  # type: ignore[no-untyped-call]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Registers birth, and death at the end."""
        self._worker.register_birth()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            with suppress(*ERRORS):  # then it lapses, as a killed one does
                self._worker.register_death()  # type: ignore[no-untyped-call]
