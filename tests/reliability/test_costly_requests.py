"""Requests that are made to cost: dates far away, recurrences that hardly ever or always come, texts that set patterns back."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests import conftest
from tests.reliability.rig import Rig, children
from tests.test_recurrence import HEAVY, REQUEST_CPU_S, UNREASONABLE

LOGIN = ("postrider", "reliability")
MESSAGE = {"body": "Hello", "recipients": [{"uuid": "42", "service": "telegram"}]}
TICKS_S = os.sysconf("SC_CLK_TCK")
LONG = 60_000
"""Characters: what a pattern with two ways through them needs minutes for."""

TO_SET_BACK = [
    "a" * LONG,
    "1" * LONG,
    " " * LONG,
    "\\" * LONG,
    "(" * LONG,
    "é" * LONG,
    "\u202e" * LONG,
    "a" * LONG + "!",
    "a." * (LONG // 2),
    "1-" * (LONG // 2),
    "@" + "a_" * (LONG // 2),
    "+" + "1 " * (LONG // 2) + "x",
    "a@" * (LONG // 2),
    "a@" + "b." * (LONG // 2),
    "http://" + "a." * (LONG // 2),
    "2030-01-01T" + "0" * LONG,
]
FAR = [
    "9999-12-31 23:59:59",
    "0001-01-01 00:00:00",
    "2030-10-05T13:48:00+99:99",
    "99999999999999-01-01",
]
ALWAYS = [
    {"cron": "* * * * *", "until": "9999-12-31"},
    {"cron": "* * * * * *"},
    {"rrule": "FREQ=SECONDLY;COUNT=3155760000"},
    {"rrule": "FREQ=MINUTELY;UNTIL=99991231T235959Z"},
]


def costly() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is asked for, and how: a path, and what else `requests` takes."""
    messages = "/api/v1/messages"
    for repeat in [*HEAVY, *(refused for refused, *_ in UNREASONABLE), *ALWAYS]:
        yield messages, {"json": MESSAGE | {"repeat": repeat}}
    for far in FAR:
        for name in ("send_at", "expires_at"):
            yield messages, {"json": MESSAGE | {name: far}}
        yield messages, {"json": MESSAGE | {"send_at": far, "timezone": "America/Santiago"}}
    for text in TO_SET_BACK:
        for service in ("telegram", "viber", "whatsapp", "sandbox"):
            yield messages, {"json": MESSAGE | {"recipients": [{"uuid": text, "service": service}]}}
        for name in ("send_at", "timezone", "reference", "callback_url", "send_in_s", "priority"):
            yield messages, {"json": MESSAGE | {name: text}}
        yield messages, {"json": MESSAGE | {"tags": [text]}}
        yield messages, {"json": MESSAGE | {"window": {"from": text, "to": text}}}
        yield messages, {"json": MESSAGE | {"repeat": {"cron": text}}}
        yield messages, {"json": MESSAGE | {"repeat": {"rrule": text}}}
        yield "/send_message", {"json": MESSAGE | {"send_at": text}}
        yield "/api/v1/suppressions", {"json": {"service": "telegram", "uuid": text}}
        asked = text.encode()[:3_000].decode(errors="ignore")
        for name in ("cursor", "since", "recipient", "tag"):
            yield "/api/v1/deliveries", {"params": {name: asked[:500]}}
        if asked.isascii() and asked.strip():
            yield messages, {"json": MESSAGE, "headers": {"Idempotency-Key": asked}}


def cpu_s(pids: list[int]) -> float:
    """What these processes have had of the processor."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_S


def test_no_request_costs_more_than_a_fifth_of_a_second(rig: Rig) -> None:
    """CPU of the API's processes, for each request alone; none is an error of ours."""
    rig.start(api=True)
    arbiter = rig.fleet.named("api")[0].pid
    pids = [arbiter, *children(arbiter)]
    took: list[tuple[float, str]] = []
    with requests.Session() as session:
        session.auth = LOGIN

        def ask(path: str, said: dict[str, Any]) -> int:
            how = "GET" if "params" in said else "POST"
            url = rig.fleet.settings.url + path
            return session.request(how, url, timeout=30, **said).status_code

        for _ in range(20):  # what is imported, or compiled, at the first
            assert ask("/api/v1/messages", {"json": MESSAGE}) in {200, 201, 202}
        for path, said in costly():
            before = cpu_s(pids)
            status = ask(path, said)
            took.append((cpu_s(pids) - before, f"{status} {path} {said!s:.200}"))
            assert status < 500, took[-1]
    took.sort(reverse=True)
    worst_s, which = took[0]
    print(f"\n{len(took)} requests; the worst took {worst_s * 1000:.0f} ms of CPU: {which}")
    assert worst_s <= REQUEST_CPU_S * conftest.patience, which
