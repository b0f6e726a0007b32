"""What the HTTP API takes: one POST with many recipients, and many POSTs with one, two API processes as in production."""

import asyncio
import base64
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

import requests
import uvloop
from contestants import BIN, TEXT
from stage import Failed, Stage, wait_until

from postrider.selftest.fleet import free_port

AUTH = ("postrider", "benchmark")
ANSWER_WITHIN_S = 120
DAY_S = 86_400


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def message(recipients: range, due_at: float | None = None) -> bytes:
    """The body of a POST; due in a day when nothing is said."""
    return json.dumps(
        {
            "body": TEXT,
            "send_at": datetime.fromtimestamp(due_at or time.time() + DAY_S, UTC).isoformat(),
            "recipients": [{"uuid": str(n), "service": "telegram"} for n in recipients],
        }
    ).encode()


class Client(requests.Session):
    """Of the API, logged in."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.auth = AUTH
        self.trust_env = False

    def call(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
        headers = {"Content-Type": "application/json"} if body else {}
        answer = self.request(
            method, self.url + path, data=body, headers=headers, timeout=ANSWER_WITHIN_S
        )
        if answer.status_code != 200:
            raise Failed(f"{method} {path}: {answer.status_code} {answer.text[:100]}")
        return answer


@contextmanager
def served(stage: Stage) -> Iterator[Client]:
    """The API, with its two processes, up and warm."""
    bind = f"127.0.0.1:{free_port()}"
    stage.start([BIN / "postrider", "api"], BIND=bind, API_PROCESSES="2")
    with Client(f"http://{bind}") as client:

        def is_up() -> bool:
            with suppress(requests.ConnectionError):
                return client.get(f"{client.url}/healthz", timeout=5).status_code == 200
            return False

        wait_until(is_up, 30, f"the API{stage.words()}")
        stage.wait_quiet()  # the first one is up; the other may still be loading
        for _ in range(20):  # a new connection each, so that both processes get some
            with Client(client.url) as another:
                another.call("GET", "/get_scheduled?limit=1")
        yield client


def bulk(recipients: int, runs: int) -> float:
    """Recipients that one POST takes in a second, validated and answered; the median."""
    rates = []
    with Stage() as stage, served(stage) as client:
        for _ in range(runs):
            body = message(range(recipients))
            began = time.perf_counter()
            answer = client.call("POST", "/send_message", body)
            rates.append(recipients / (time.perf_counter() - began))
            if (total := answer.json().get("total")) != recipients:
                raise Failed(f"{total} of {recipients} were taken")
    return statistics.median(rates)


# -- many with one


def medians(found: Sequence[dict[str, float]]) -> dict[str, object]:
    """Each figure's median over several runs, and the runs."""
    return {
        **{key: statistics.median(one[key] for one in found) for key in found[0]},
        "runs": found,
    }


def steady(rate: float, seconds: float, connections: int = 8) -> dict[str, float]:
    """POSTs with one recipient, offered at `rate` a second whatever the answers do."""
    with Stage() as stage, served(stage) as client:
        cpu_s = stage.tree.cpu_s()
        times = uvloop.run(_offer(client.url, rate, int(rate * seconds), connections))
        cpu_s = stage.tree.cpu_s() - cpu_s
        stored = client.call("GET", "/get_scheduled?limit=1").json()["total"]
    if stored != len(times):
        raise Failed(f"{stored} of {len(times)} were stored")
    first, last = min(at for at, _, _ in times), max(done for _, _, done in times)
    from_plan = [(done - at) * 1000 for at, _, done in times]
    return {
        "offered_per_s": rate,
        "per_s": len(times) / (last - first),
        "p50_ms": percentile(from_plan, 0.5),
        "p99_ms": percentile(from_plan, 0.99),
        "p50_from_sent_ms": percentile([(done - sent) * 1000 for _, sent, done in times], 0.5),
        "cpu_ms": cpu_s / len(times) * 1000,
    }


async def _offer(
    url: str, rate: float, count: int, connections: int
) -> list[tuple[float, float, float]]:
    """(planned, sent, answered) of each. One that waits for the answer before it is late, and counts as late."""
    host, _, port = urlsplit(url).netloc.partition(":")
    login = base64.b64encode(":".join(AUTH).encode()).decode()
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.5
    times = []

    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for n in range(first, count, connections):
            body = message(range(n, n + 1))
            head = (
                f"POST /send_message HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Basic {login}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            at = begin + n / rate
            await asyncio.sleep(at - loop.time())
            sent = loop.time()
            writer.write(head.encode() + body)
            head_back = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head_back.startswith(b"http/1.1 200"):
                raise Failed(head_back.partition(b"\r\n")[0].decode())
            await reader.readexactly(int(head_back.partition(b"content-length:")[2].split()[0]))
            times.append((at, sent, loop.time()))
            if b"connection: close" in head_back:
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    async with asyncio.timeout(count / rate * 5 + 30), asyncio.TaskGroup() as tasks:
        for first in range(connections):
            tasks.create_task(client(first))
    return times


def measure(say: Callable[[str], None], runs: int, most: int, seconds: float) -> dict[str, object]:
    """All of it."""
    found: dict[str, object] = {"recipients_per_s": {}}
    for recipients in (10_000, most):
        rate = bulk(recipients, runs)
        found["recipients_per_s"][str(recipients)] = rate
        say(f"api: one POST of {recipients:,}: {rate:,.0f} recipients/s")
    found["steady"] = medians([steady(800, seconds) for _ in range(runs)])
    say(
        "api: {per_s:.0f} POSTs/s, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms".format(
            **found["steady"]
        )
    )
    return found
