"""Who is measured: how each is started, and how it is given work."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from install import NODE, PEERS, WITH_ARQ
from stage import HERE, Stage

from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store

TEXT = "x" * 200
BIN = Path(sys.executable).parent
MOST = 100_000

Command = list[str | Path]


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    key: str
    name: str
    kind: Literal["ours", "peer", "limit"]
    commands: Callable[[Stage, int], list[Command]]
    """What is started, with so many places for sends under way in each process."""
    fill: Callable[[Stage, int, int, float | None], float]
    """Gives it recipients `first` to `first + count`, at once or due then (s); seconds that its own call took."""
    needs: str | None = None
    """What must be installed for it."""
    places: tuple[int, ...] = (100,)
    """Settings to try; the best one counts. 1: it sends one at a time."""
    takes_per_s: float | None = None
    """It works by the clock: it is given its messages ahead, and takes at least so many a second."""
    schedules: bool = False
    """It can keep what is due later."""
    share: float = 1
    """Of the messages, for those too slow for all of them."""
    note: str = ""


# -- ours


def service(stage: Stage) -> Service:
    """Ours, over this stage's Redis."""
    settings = Settings.from_env(stage.env, None)
    client = connect(settings.redis_address, answer_within_s=30)
    return Service(Store(client), settings, open_accounts(settings))


def accept(stage: Stage, first: int, count: int, due_at: float | None = None) -> float:
    """Through the service, as the API does it."""
    ours = service(stage)
    send_at = None if due_at is None else datetime.fromtimestamp(due_at, UTC)
    took_s = 0.0
    for start in range(first, first + count, MOST):
        numbers = range(start, min(start + MOST, first + count))
        recipients = tuple(Recipient(str(n), "telegram") for n in numbers)
        began = datetime.now(UTC)
        ours.accept(NewMessage(TEXT, recipients, send_at))
        took_s += (datetime.now(UTC) - began).total_seconds()
    return took_s


# -- limits


def push(stage: Stage, first: int, count: int, due_at: float | None) -> float:
    """Bare ids."""
    del due_at
    began = datetime.now(UTC)
    for start in range(first, first + count, 1000):
        stage.redis.rpush("ids", *range(start, min(start + 1000, first + count)))
    return (datetime.now(UTC) - began).total_seconds()


def bare(python: Path, script: str) -> Callable[[Stage, int], list[Command]]:
    def commands(stage: Stage, places: int) -> list[Command]:
        flags = ["--url", stage.url, "--redis", str(stage.socket), "--connections", str(places)]
        return [[python, HERE / "limits" / script, *flags]] * 2

    return commands


# -- peers


def by_script(
    runtime: str | Path, script: str, *form: str
) -> Callable[[Stage, int, int, float | None], float]:
    """Filled by a script of its own: SCRIPT fill FIRST COUNT DUE, where DUE 0 means now."""

    def fill(stage: Stage, first: int, count: int, due_at: float | None) -> float:
        command = [runtime, script, "fill", str(first), str(count), str(due_at or 0), *form]
        return float(stage.run(command)["seconds"])

    return fill


def rq(kind: str) -> Callable[[Stage, int], list[Command]]:
    def commands(stage: Stage, places: int) -> list[Command]:
        del places
        # The settings import the jobs once, before each worker forks: nothing is imported for each message.
        redis = ["--url", f"unix://{stage.socket}", "--config", "rq_settings", "--quiet"]
        if kind == "fork":
            return [[PEERS / "rq", "worker-pool", "--num-workers", "2", *redis, "default"]]
        worker = [PEERS / "rq", "worker", "--worker-class", "rq.SimpleWorker", *redis, "default"]
        if kind == "simple":
            return [worker, worker]
        return [
            worker,
            worker,
            [PEERS / "rqscheduler", "-i", "1", "--url", f"unix://{stage.socket}"],
        ]

    return commands


def celery(pool: str) -> Callable[[Stage, int], list[Command]]:
    def commands(stage: Stage, places: int) -> list[Command]:
        del stage
        command = [PEERS / "celery", "-A", "celery_peer", "worker", "--loglevel", "ERROR"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-P", pool]
        if pool == "prefork":
            return [[*command, "-c", "2"]]
        return [[*command, "-c", str(places), "-n", name] for name in ("one@%h", "two@%h")]

    return commands


def dramatiq(stage: Stage, places: int) -> list[Command]:
    del stage
    flags = ["--processes", "2", "--threads", str(places), "--path", str(HERE / "peers")]
    return [[PEERS / "dramatiq", "dramatiq_peer", *flags]]


def arq(stage: Stage, places: int) -> list[Command]:
    del stage
    return [["env", f"BENCH_PLACES={places}", WITH_ARQ / "arq", "arq_peer.Worker"]] * 2


def bullmq(processes: int, client: str = "undici") -> Callable[[Stage, int], list[Command]]:
    def commands(stage: Stage, places: int) -> list[Command]:
        del stage
        return [["node", NODE / "bullmq.mjs", "work", str(places), client]] * processes

    return commands


PYTHON = PEERS / "python"
fill_rq = by_script(PYTHON, "rq_peer.py")
fill_celery = by_script(PYTHON, "celery_peer.py")
fill_bullmq = by_script("node", str(NODE / "bullmq.mjs"))

CONTESTANTS = (
    Contestant(
        "postrider",
        "**Postrider**, 2 workers",
        "ours",
        lambda _stage, places: (
            [["env", f"WORKER_CONCURRENCY={places}", BIN / "postrider", "worker"]] * 2
        ),
        accept,
        takes_per_s=10_000,
        schedules=True,
        note="scheduled, leases, attempts and RQ's books kept",
    ),
    Contestant(
        "rq-fork",
        "RQ, `rq worker-pool -n 2`",
        "peer",
        rq("fork"),
        fill_rq,
        "python",
        places=(1,),
        share=0.1,
        note="forks for each message",
    ),
    Contestant(
        "rq-simple",
        "RQ, 2 `SimpleWorker`",
        "peer",
        rq("simple"),
        fill_rq,
        "python",
        places=(1,),
        schedules=True,
        note="scheduled: RQ's own `enqueue_at`",
    ),
    Contestant(
        "rq-scheduler",
        "rq-scheduler `-i 1`, 2 `SimpleWorker`",
        "peer",
        rq("scheduler"),
        by_script(PYTHON, "rq_peer.py", "rq-scheduler"),
        "python",
        places=(1,),
        takes_per_s=800,
        schedules=True,
        note="scheduled",
    ),
    Contestant(
        "celery-prefork",
        "Celery, prefork, 2 processes",
        "peer",
        celery("prefork"),
        fill_celery,
        "python",
        places=(1,),
    ),
    Contestant(
        "celery-gevent",
        "Celery, gevent, 2 processes",
        "peer",
        celery("gevent"),
        fill_celery,
        "python",
        note="Redis pools raised",
    ),
    Contestant(
        "dramatiq",
        "Dramatiq, 2 processes",
        "peer",
        dramatiq,
        by_script(PYTHON, "dramatiq_peer.py"),
        "python",
        places=(8, 32),
        schedules=True,
    ),
    Contestant(
        "arq",
        "arq, 2 processes",
        "peer",
        arq,
        by_script(WITH_ARQ / "python", "arq_peer.py"),
        "arq",
        schedules=True,
    ),
    Contestant(
        "bullmq-1",
        "BullMQ, 1 process",
        "peer",
        bullmq(1),
        fill_bullmq,
        "node",
        places=(50, 100, 200),
    ),
    Contestant(
        "bullmq-2",
        "BullMQ, 2 processes",
        "peer",
        bullmq(2),
        fill_bullmq,
        "node",
        places=(50, 100, 200),
        schedules=True,
    ),
    Contestant(
        "bullmq-fetch",
        "BullMQ, 2 processes, `fetch`",
        "peer",
        bullmq(2, "fetch"),
        fill_bullmq,
        "node",
        places=(50, 100, 200),
        note="sends with Node's own `fetch`",
    ),
    Contestant(
        "bullmq-delayed",
        "BullMQ, 2 processes, delayed jobs",
        "peer",
        bullmq(2),
        fill_bullmq,
        "node",
        takes_per_s=3_000,
        note="scheduled",
    ),
    Contestant(
        "limit-aiohttp",
        "bare loop, aiohttp on uvloop, 2 processes",
        "limit",
        bare(Path(sys.executable), "aiohttp_loop.py"),
        push,
        note="no books at all",
    ),
    Contestant(
        "limit-pycurl",
        "bare loop, libcurl multi, 2 processes",
        "limit",
        bare(PYTHON, "pycurl_loop.py"),
        push,
        "python",
        note="no books at all",
    ),
)
