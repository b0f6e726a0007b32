"""A whole run with planted secrets: whatever it prints, answers or leaves in Redis holds none that it must not."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from postrider.selftest.fleet import free_port
from tests.conftest import BIN, PASSWORD, Api, Start, wait_until
from tests.fake import Call, FakeMessenger, says

BODY = "planted-body of a message"
PHONE = "491701234567"
SECRETS = (
    *(PASSWORD, "planted-telegram-secret", "planted-viber-secret", "planted-whatsapp-secret"),
    *("planted-shop-secret", "planted-alert-secret", "planted-dsn-secret"),
)
"""Nobody is ever told these."""
PRIVATE = (*SECRETS, BODY, "planted-body", PHONE)
"""Those, and what only the lists of the API may show, to who may see it."""


class Run:
    """One run: what was printed, what was answered."""

    def __init__(self, api: Api, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.api = api
        self.processes = processes
        self.answers: list[requests.Response] = []

    def ask(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        answer = self.api.request(method, path, **kwargs)
        self.answers.append(answer)
        return answer

    def stop(self) -> None:
        """Ends all that runs: who stops has last words."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(45)


@pytest.fixture(params=["text", "json"])
def run(
    request: pytest.FixtureRequest,
    start: Start,
    env: dict[str, str],
    client: redis.Redis,
    messenger: FakeMessenger,
    tmp_path: Path,
) -> Iterator[Run]:
    """Sends that succeed, fail, are refused and retried; requests that are wrong in each way we know."""

    def script(call: Call) -> Any:
        if call.service == "whatsapp":  # Meta quotes a malformed token back
            quoted = call.headers.get("Authorization", "")
            return says(400, error={"code": 100, "message": f"bad {quoted}"})
        if call.json.get("chat_id") == 7:
            return says(500, ok=False, error_code=500, description=f"at {call.path}")
        if call.json.get("chat_id") == 8:
            return says(401, ok=False, error_code=401, description="Unauthorized")
        return None

    messenger.script = script
    (tmp_path / "accounts.toml").write_text('[telegram.shop]\ntoken = "9:planted-shop-secret"\n')
    bind = f"127.0.0.1:{free_port()}"
    env |= {
        "BIND": bind,
        "API_PROCESSES": "1",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": request.param,
        "ALERT_URLS": "json://u:planted-alert-secret@127.0.0.1:1/",
        "SENTRY_DSN": "http://planted-dsn-secret@127.0.0.1:1/1",
        "RETRY_COUNT": "1",
        "WHATSAPP_RECIPIENT_RATE": "0",
    }
    processes = [start("postrider", "api"), start("postrider", "worker")]
    with Api(f"http://{bind}") as api:
        wait_until(lambda: _answers(api), 20, "the API")
        found = Run(api, processes)
        recipients = [{"uuid": n, "service": "telegram"} for n in ("6", "7", "8")]
        recipients += [
            {"uuid": PHONE, "service": "whatsapp"},
            {"uuid": "planted=", "service": "viber"},
        ]
        assert found.ask("POST", "/send_message", json={"body": BODY, "recipients": recipients}).ok
        wait_until(lambda: client.zcard("pr:in:failed") >= 1, 20, "one that fails")
        wait_until(lambda: client.exists("pr:account:telegram"), 20, "a refusal")
        _ask_wrongly(found)
        for path in (
            *("/metrics", "/get_scheduled", "/get_finished", "/api/v1/accounts"),
            *("/openapi.json", "/docs", "/healthz", "/readyz", "/sandbox", "/sandbox.json"),
        ):
            found.ask("GET", path)
        yield found


def _answers(api: Api) -> bool:
    try:
        return api.get("/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def _ask_wrongly(run: Run) -> None:
    wrong = {"body": BODY, "recipients": [{"uuid": PHONE, "service": "pigeon"}]}
    run.ask("POST", "/send_message", json=wrong)
    run.ask("POST", "/send_message", json=wrong | {"surprise": BODY})
    run.ask("POST", "/send_message", data=f'{{"body": "{BODY}"')
    run.ask("POST", "/send_message", data=BODY, headers={"Content-Type": "text/plain"})
    run.ask("GET", f"/nowhere/{PHONE}")
    run.ask("PUT", "/send_message", data=BODY)
    run.ask("GET", "/get_finished?cursor=planted")
    run.ask("POST", "/hooks/viber/default", data=BODY, headers={"X-Viber-Content-Signature": "00"})
    run.ask("GET", "/get_finished", auth=("postrider", f"{PASSWORD}x"))


def found_in(text: str, words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word in text]


def everything(client: redis.Redis, pattern: str) -> str:
    """Every key that fits, with all that it holds."""
    told = []
    for key in client.scan_iter(pattern, count=1000):
        match client.type(key):
            case b"hash":
                value: Any = client.hgetall(key)
            case b"zset":
                value = client.zrange(key, 0, -1)
            case b"list":
                value = client.lrange(key, 0, -1)
            case b"set":
                value = client.smembers(key)
            case b"stream":
                value = client.xrange(key)
            case _:
                value = client.get(key)
        told.append(f"{key!r} {value!r}")
    return "\n".join(told)


def test_no_output_holds_what_it_must_not(
    run: Run, client: redis.Redis, tmp_path: Path, redis_url: str
) -> None:
    run.stop()
    log = (tmp_path / "processes.log").read_text()
    assert "postrider.worker" in log
    assert found_in(log, PRIVATE) == []

    # Answers: the lists show bodies and recipients, errors and numbers show neither.
    lists = {"/send_message", "/get_scheduled", "/get_finished"}
    for answer in run.answers:
        path = "/" + answer.url.split("/", 3)[3].partition("?")[0]
        told = answer.text + str(dict(answer.headers))
        assert found_in(told, SECRETS) == [], path
        if not answer.ok and "/nowhere/" not in path:
            assert found_in(told, PRIVATE) == [], path
        if answer.ok and path not in lists:
            assert found_in(told, PRIVATE) == [], path
    assert {401, 404, 405, 415, 400} <= {answer.status_code for answer in run.answers}

    # Redis: what RQ's tools show, and that no secret of ours is anywhere.
    assert found_in(everything(client, "rq:*"), PRIVATE) == []
    assert found_in(everything(client, "*"), SECRETS) == []
    info = subprocess.run(
        [BIN / "rq", "info", "--url", redis_url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ},
    )
    assert "default" in info.stdout
    assert found_in(info.stdout + info.stderr, PRIVATE) == []
