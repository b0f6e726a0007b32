"""The whole service as its real processes, on its embedded Redis: what survives a kill."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from postrider.selftest.fleet import free_port
from tests.conftest import Api, Start, ended, wait_until
from tests.fake import FakeMessenger

Processes = dict[str, subprocess.Popen[bytes]]


@pytest.fixture
def env(messenger: FakeMessenger, tmp_path: Path) -> dict[str, str]:
    return {
        "API_PASSWORD": "planted-api-secret",
        "BIND": f"127.0.0.1:{free_port()}",
        "DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        **messenger.env(),
    }


@pytest.fixture
def live(env: dict[str, str]) -> Api:
    return Api(f"http://{env['BIND']}")


@pytest.fixture
def start_all(start: Start, live: Api) -> Callable[[], Processes]:
    """Starts Redis, the API and a worker; gives them once all are ready."""

    def run() -> Processes:
        found = {name: start("postrider", name) for name in ("redis", "api", "worker")}
        wait_until(lambda: is_ready(live), 30, "ready")
        return found

    return run


def is_ready(live: Api) -> bool:
    try:
        return live.get("/readyz").status_code == 200
    except requests.ConnectionError:
        return False


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)


def post(live: Api, count: int, in_s: float, first: int = 0) -> None:
    at = datetime.now(UTC) + timedelta(seconds=in_s)
    recipients = [{"uuid": str(n), "service": "telegram"} for n in range(first, first + count)]
    message = {"body": "Hello", "send_at": at.isoformat(), "recipients": recipients}
    assert live.post("/send_message", json=message).status_code == 200


def test_everything_killed_and_started_again_loses_nothing(
    start_all: Callable[[], Processes], live: Api, messenger: FakeMessenger
) -> None:
    processes = start_all()
    for part in range(10):
        post(live, 100, in_s=4, first=part * 100)
    for process in processes.values():
        kill(process)
    assert messenger.calls == []
    start_all()
    wait_until(lambda: len(messenger.calls) >= 1000, 30)
    wait_until(lambda: live.get("/get_finished?limit=1").json()["total"] == 1000, 10)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(1000)}


@pytest.mark.parametrize("victim", ["redis", "api", "worker"])
def test_one_process_killed_and_started_again_goes_on(
    start_all: Callable[[], Processes],
    start: Start,
    live: Api,
    messenger: FakeMessenger,
    victim: str,
) -> None:
    processes = start_all()
    post(live, 20, in_s=2)
    kill(processes[victim])
    start("postrider", victim)
    wait_until(lambda: is_ready(live), 15)
    post(live, 1, in_s=0.5, first=20)
    wait_until(lambda: live.get("/get_finished?limit=1").json()["total"] == 21, 20)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(21)}


def test_no_secret_shows_in_any_log_list_or_rq_record(
    start_all: Callable[[], Processes], live: Api, messenger: FakeMessenger, tmp_path: Path
) -> None:
    start_all()
    post(live, 5, in_s=0.5)
    live.get("/get_scheduled", auth=("postrider", "planted-wrong-password"))
    wait_until(lambda: live.get("/get_finished?limit=1").json()["total"] == 5, 20)
    shown = live.get("/get_finished").text + live.get("/openapi.json").text
    shown += (tmp_path / "processes.log").read_text(errors="replace")
    assert "planted" not in shown
    file = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*.aof"))
    assert b"Hello" in file
    assert b"planted" not in file
