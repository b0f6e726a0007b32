"""Clients that send too much, or too slowly, while others want to be served."""

import select
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests

from postrider import patience
from postrider.selftest.balance import share
from postrider.selftest.load import Recipients
from tests.conftest import post_head, wait_until
from tests.reliability.rig import Rig, children, memory_mb

MESSAGE = {"body": "Hello", "recipients": [{"uuid": "42", "service": "telegram"}]}
LOGIN = ("postrider", "reliability")
ON_THE_WAY = 8 << 20
"""What may lie between a client and the API that has already said no: both ends' buffers, and what gunicorn reads at once."""
SNDBUF = 256 << 10
"""The client's own, so that it cannot fill megabytes of the kernel's memory and call them sent."""


@pytest.fixture
def fleet_env(fleet_env: dict[str, str]) -> dict[str, str]:
    return {**fleet_env, "API_PROCESSES": "2"}


def head(*lines: str) -> bytes:
    """The beginning of a POST, whose body is still to come."""
    given = ("Content-Type: application/json", *lines)
    return post_head("/send_message", *given, password=LOGIN[1])


@contextmanager
def connected(rig: Rig) -> Iterator[socket.socket]:
    with socket.socket() as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)  # counts only before it connects
        it.settimeout(10)
        it.connect((rig.fleet.settings.host, rig.fleet.settings.port))
        yield it


def api_memory_mb(rig: Rig) -> float:
    """The most that any process of the API has had in memory."""
    arbiter = rig.fleet.named("api")[0].pid
    return max(memory_mb(pid, "VmHWM") for pid in (arbiter, *children(arbiter)))


def took_ms(rig: Rig, count: int) -> list[float]:
    """How long so many POSTs take, one after the other, over one connection."""
    found = []
    with requests.Session() as session:
        for _ in range(count):
            began = time.perf_counter()
            answer = session.post(
                f"{rig.fleet.settings.url}/send_message", json=MESSAGE, auth=LOGIN, timeout=30
            )
            assert answer.status_code == 200
            found.append((time.perf_counter() - began) * 1000)
    return found


@pytest.mark.parametrize("how", ["said", "without an end"])
def test_a_gigabyte_is_refused_before_it_is_read(rig: Rig, how: str) -> None:
    rig.start(api=True)
    took_ms(rig, 50)
    before = api_memory_mb(rig)
    lines = ["Content-Length: 1073741824"] if how == "said" else ["Transfer-Encoding: chunked"]
    part = b"x" * 65_536 if how == "said" else b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    sent, answer = 0, b""
    with connected(rig) as client:
        client.sendall(head(*lines))
        client.settimeout(10)
        try:
            while sent < 1 << 30 and not answer:
                client.sendall(part)
                sent += len(part)
                if select.select([client], [], [], 0)[0]:
                    answer = client.recv(65_536)
        except OSError:  # it hung up on us
            pass
        while not answer:
            answer = client.recv(65_536)
    grown = api_memory_mb(rig) - before
    print(f"\n{how}: {sent >> 20} MB sent, {grown:.1f} MB more in memory: {answer[:40]!r}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent <= rig.fleet.settings.max_body_bytes + ON_THE_WAY
    assert grown <= 20


@pytest.mark.minutes
def test_slow_clients_leave_threads_for_others_and_are_hung_up_on(rig: Rig) -> None:
    """100 clients that send a byte now and then, half of them in the head, to 2 API processes.

    The p99 of others at most doubles, or grows by 5 ms, less than which a pause of the machine may be. The slow ones have 30 s.
    """
    rig.start(api=True)
    took_ms(rig, 200)
    alone = [took_ms(rig, 200) for _ in range(3)]
    beginning = head("Content-Length: 1000")
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(rig)) for _ in range(100)]
        began = time.monotonic()
        for n, client in enumerate(slow):
            client.sendall(beginning[:40] if n % 2 else beginning)
        beside = []
        for _ in range(3):
            for client in slow:
                client.sendall(b"x")
            beside.append(took_ms(rig, 200))
        quick, slowed = (
            statistics.median(share(t, 0.99) for t in times) for times in (alone, beside)
        )
        print(f"\np99 {quick:.1f} ms alone, {slowed:.1f} ms beside 100 slow clients")
        assert slowed <= max(2 * quick, quick + 5)
        left = list(slow)
        while left and time.monotonic() < began + patience.REQUEST_S + 10:
            for client in list(left):
                client.settimeout(0.001)
                try:
                    client.sendall(b"x")
                    client.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    pass
                left.remove(client)
            time.sleep(0.5)
        took_s = time.monotonic() - began
        print(f"all hung up on after {took_s:.1f} s")
        assert not left


@pytest.mark.minutes
def test_a_hundred_thousand_recipients_are_taken_whole_and_one_more_is_refused(rig: Rig) -> None:
    rig.start(api=True)
    took_ms(rig, 50)
    before = api_memory_mb(rig)
    limit = rig.fleet.settings.max_recipients
    recipients = [
        {"uuid": to.uuid, "service": to.service} for to in Recipients("telegram").take(limit)
    ]
    url = f"{rig.fleet.settings.url}/send_message"
    message = {**MESSAGE, "send_at": f"{datetime.now(UTC) + timedelta(days=1):%FT%TZ}"}
    over = requests.post(
        url,
        json={**message, "recipients": [*recipients, {"uuid": "1", "service": "telegram"}]},
        auth=LOGIN,
        timeout=60,
    )
    assert over.status_code == 400
    assert f"at most {limit} (MAX_RECIPIENTS)" in over.text
    assert rig.redis.zcard("pr:in:scheduled") == 50
    began = time.perf_counter()
    taken = requests.post(url, json={**message, "recipients": recipients}, auth=LOGIN, timeout=60)
    took_s = time.perf_counter() - began
    assert taken.status_code == 200
    wait_until(lambda: rig.redis.zcard("pr:in:scheduled") == 50 + limit, 10, "all of them armed")
    grown = api_memory_mb(rig) - before
    print(f"\n{limit} recipients in {took_s:.2f} s, {grown:.0f} MB more in memory")
    assert grown <= 300


def made_key(rig: Rig, name: str, **limits: int) -> dict[str, str]:
    """The header of a new key."""
    made = requests.post(
        f"{rig.fleet.settings.url}/api/v1/keys",
        json={"name": name, "role": "sender", "limits": limits},
        auth=LOGIN,
        timeout=10,
    )
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


@pytest.mark.minutes
def test_one_that_floods_delays_nobody_else(rig: Rig) -> None:
    """A key that may have 5,000 waiting posts 1,000 at a time, as fast as it gets an answer, all due at once.

    Another key posts one message every 50 ms for 10 s meanwhile: late by at most 5 s, 99 of 100, from when it was posted.
    """
    rig.start(workers=2, api=True)
    url = f"{rig.fleet.settings.url}/send_message"
    flooder, other = made_key(rig, "flood", rate=20, waiting=5_000), made_key(rig, "other")
    flooders = Recipients("telegram")
    flooders.take(1_000_000)
    answers: Counter[int] = Counter()
    over = threading.Event()

    def flood() -> None:
        with requests.Session() as session:
            while not over.is_set():
                tos = [{"uuid": to.uuid, "service": to.service} for to in flooders.take(1_000)]
                asked = {"body": "flood", "recipients": tos}
                answer = session.post(url, json=asked, headers=flooder, timeout=30)
                answers[answer.status_code] += 1

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    due: dict[str, float] = {}
    began = time.time()
    with requests.Session() as session:
        while time.time() < began + 10:
            (to,) = rig.recipients.take(1)
            asked = {"body": "Hello", "recipients": [{"uuid": to.uuid, "service": to.service}]}
            due[to.uuid] = time.time()
            posted = session.post(url, json=asked, headers=other, timeout=30)
            assert posted.status_code == 200, posted.text
            time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: due.keys() <= {call.to for call in rig.messenger.calls}, 30, "all of hers")
    late = sorted(call.at - due[call.to] for call in rig.messenger.calls if call.to in due)
    print(f"\nthe flood was answered {dict(answers)}")
    print(f"of {len(late)} the other's p99 is late by {share(late, 0.99):.2f} s")
    assert answers[200]
    assert answers[429]
    assert share(late, 0.99) <= 5
