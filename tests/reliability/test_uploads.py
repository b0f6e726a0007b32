"""Uploads to real processes: large, many at once, slow, and cut off by a kill."""

import hashlib
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from postrider import patience
from tests.conftest import post_head, wait_until
from tests.reliability.rig import Rig, children
from tests.reliability.test_abuse import LOGIN, api_memory_mb, took_ms

PATH = "/api/v1/files"
BEGINS = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n'
ENDS = b"\r\n--b--\r\n"
MB = 1 << 20


@pytest.fixture
def fleet_env(fleet_env: dict[str, str]) -> dict[str, str]:
    return {**fleet_env, "API_PROCESSES": "2"}


@contextmanager
def uploading(rig: Rig, size: int) -> Iterator[socket.socket]:
    """A connection on which a file of so many bytes is now to come."""
    lines = (
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(BEGINS) + size + len(ENDS)}",
        "Connection: close",
    )
    address = (rig.fleet.settings.host, rig.fleet.settings.port)
    with socket.create_connection(address, 60) as connection:
        connection.sendall(post_head(PATH, *lines, password=LOGIN[1]) + BEGINS)
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """All of the answer."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def kept(rig: Rig) -> list[str]:
    folder = rig.fleet.settings.data_dir / "files"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.minutes
def test_a_large_file_never_stands_in_memory(rig: Rig, long: bool) -> None:
    """2 GiB in the long form, 100 MiB in the short one: the API grows by 20 MB at most, and gives it back whole."""
    size = (2048 if long else 100) * MB
    if shutil.disk_usage(rig.fleet.settings.data_dir).free < size + 500 * MB:
        pytest.skip("NO ROOM ON THE DISK FOR THE UPLOAD")
    rig.start(api=True)
    took_ms(rig, 20)
    before = api_memory_mb(rig)
    digest, block = hashlib.sha256(), os.urandom(MB)
    began = time.monotonic()
    with uploading(rig, size) as connection:
        for n in range(size // MB):
            part = n.to_bytes(8) + block[8:]
            digest.update(part)
            connection.sendall(part)
        connection.sendall(ENDS)
        connection.settimeout(300)
        answer = answer_of(connection)
    took_s = time.monotonic() - began
    assert answer.startswith(b"HTTP/1.1 201 "), answer[:500]
    assert digest.hexdigest().encode() in answer
    url = f"{rig.fleet.settings.url}{PATH}/{kept(rig)[0]}/content"
    back = hashlib.sha256()
    with requests.get(url, auth=LOGIN, stream=True, timeout=60) as download:
        for part in download.iter_content(MB):
            back.update(part)
    grown = api_memory_mb(rig) - before
    print(f"\n{size // MB} MiB in {took_s:.1f} s, {grown:.1f} MB more in memory")
    assert back.hexdigest() == digest.hexdigest()
    assert grown <= 20


@pytest.mark.minutes
def test_a_hundred_at_once_are_all_kept(rig: Rig, long: bool) -> None:
    rig.start(api=True)
    size = (10 if long else 1) * MB
    told: list[tuple[int, bool]] = []

    def upload(n: int) -> None:
        content = os.urandom(size)
        url = f"{rig.fleet.settings.url}{PATH}"
        answer = requests.post(url, files={"f": (f"{n}", content)}, auth=LOGIN, timeout=120)
        (file,) = answer.json().get("files", [{}])
        same = file.get("sha256") == hashlib.sha256(content).hexdigest()
        told.append((answer.status_code, same))

    threads = [threading.Thread(target=upload, args=(n,)) for n in range(100)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"\n100 times {size // MB} MiB in {time.monotonic() - began:.1f} s")
    assert Counter(told) == {(201, True): 100}
    assert len(kept(rig)) == 100


@pytest.mark.minutes
def test_uploads_that_are_cut_off_leave_nothing(rig: Rig) -> None:
    """Ten are hung up on by their clients, ten lose the process that reads them."""
    rig.start(api=True)
    took_ms(rig, 20)
    for _ in range(10):
        with uploading(rig, 10 * MB) as connection:
            connection.sendall(b"x" * 3 * MB)
    with uploading(rig, 1) as connection:
        connection.sendall(b"y" + ENDS)
        assert answer_of(connection).startswith(b"HTTP/1.1 201 ")
    wait_until(lambda: len(kept(rig)) == 1, what="the cut ones to be gone")
    arbiter = rig.fleet.named("api")[0].pid
    opened = [uploading(rig, 10 * MB) for _ in range(10)]
    connections = [each.__enter__() for each in opened]
    for connection in connections:
        connection.sendall(b"x" * 3 * MB)
    for pid in children(arbiter):
        os.kill(pid, signal.SIGKILL)
    for each in opened:
        each.__exit__(None, None, None)
    wait_until(lambda: len(children(arbiter)) == 2, 15, "new processes")
    wait_until(lambda: len(kept(rig)) == 1, 15, "what the killed ones left to be gone")
    (id_,) = kept(rig)
    assert [key for key in rig.redis.scan_iter("pr:file:*")] == [f"pr:file:{id_}".encode()]  # noqa: C416
    assert rig.redis.zcard("pr:files") == 1
    assert not rig.redis.exists("pr:files:arriving")


@pytest.mark.minutes
def test_an_upload_may_be_slow_as_long_as_it_comes_on(rig: Rig) -> None:
    """64 KiB every 10 s go on beyond the limit of a request; a byte now and then does not."""
    rig.start(api=True)
    parts = 7
    ended_s: list[float] = []
    with uploading(rig, parts * 65_536) as slow, uploading(rig, 10_000) as loris:
        began = time.monotonic()

        def dribble() -> None:
            try:
                while time.monotonic() < began + 80:
                    loris.sendall(b"x")
                    loris.settimeout(0.5)
                    try:
                        if loris.recv(4096) is not None:
                            break
                    except TimeoutError:
                        continue
            except OSError:
                pass
            ended_s.append(time.monotonic() - began)

        thread = threading.Thread(target=dribble)
        thread.start()
        for _ in range(parts):
            slow.sendall(b"x" * 65_536)
            time.sleep(10)
        slow.sendall(ENDS)
        answer = answer_of(slow)
        took_s = time.monotonic() - began
        thread.join()
    print(
        f"\nslow but steady: {took_s:.0f} s, {answer[:20]!r}; hung up on after {ended_s[0]:.0f} s"
    )
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert took_s > 2 * patience.REQUEST_S
    assert ended_s[0] < patience.REQUEST_S + 10
