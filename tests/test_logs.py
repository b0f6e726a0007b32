"""What processes log: a line or an object each, with ids, and never a secret."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from postrider.masking import HIDDEN, Mask
from postrider.settings import Settings
from tests.conftest import PASSWORD, Api, Start, wait_until
from tests.fake import FakeMessenger, says

DELIVERY = "351EIkkf1SpmhoPKEJTRQ-7"
Say = Callable[..., list[str]]


@pytest.fixture
def say(tmp_path: Path) -> Say:
    """Runs lines of Python in a process that logs as ours do; gives the lines on its stderr. Keywords are settings."""

    def run(code: str, **env: str) -> list[str]:
        head = (
            "import logging\nfrom postrider import logs\nfrom postrider.settings import Settings\n"
            "logs.configure(Settings.from_env())\nlog = logging.getLogger('postrider.test')\n"
        )
        process = subprocess.run(
            [sys.executable, "-c", head + code],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return process.stderr.splitlines()

    return run


def test_a_line_of_text_is_what_it_was(say: Say) -> None:
    (line,) = say("log.warning('delivery %s: late', 'x')")
    assert line.endswith(" WARNING postrider.test: delivery x: late")


def test_an_object_a_line_carries_ids(say: Say) -> None:
    (line,) = say(
        f"logs.request_id.set('r-1')\nlog.warning('delivery %s: late', '{DELIVERY}')",
        LOG_FORMAT="json",
    )
    told = json.loads(line)
    assert told.pop("at").endswith("Z")
    assert told == {
        "event": f"delivery {DELIVERY}: late",
        "level": "warning",
        "logger": "postrider.test",
        "delivery": DELIVERY,
        "message": DELIVERY.partition("-")[0],
        "request": "r-1",
    }


def test_a_traceback_is_one_object_too(say: Say) -> None:
    (line,) = say("try: 1/0\nexcept ZeroDivisionError: log.exception('broke')", LOG_FORMAT="json")
    assert "ZeroDivisionError" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    ("level", "seen"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_where_it_begins(say: Say, level: str, seen: int) -> None:
    code = "for n in 'debug', 'info', 'warning', 'error': getattr(log, n)(n)"
    assert len(say(code, LOG_LEVEL=level)) == seen


def test_other_peoples_debugging_is_not_told(say: Say) -> None:
    code = "logging.getLogger('redis').debug('GET planted')\nlog.debug('ours')"
    assert len(say(code, LOG_LEVEL="debug")) == 1


@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_hidden_wherever_they_are(say: Say, style: str) -> None:
    code = (
        "log.error('token %s', '1:planted-\"token')\n"
        "log.error('login %r', {'to': ['planted-password']})\n"
        "try: raise ValueError('at https://host/bot1:planted-%22token/send')\n"
        "except ValueError: log.exception('broke')\n"
        "logging.getLogger('elsewhere').error('planted-redis and +491701234567')\n"
    )
    lines = say(
        code,
        LOG_FORMAT=style,
        TELEGRAM_BOT_TOKEN='1:planted-"token',
        API_PASSWORD="planted-password",
        REDIS_URL="redis://:planted-redis@host",
    )
    told = "\n".join(lines)
    assert HIDDEN in told
    assert "planted" not in told
    assert "491701234" not in told


@pytest.fixture
def mask(tmp_path: Path) -> Mask:
    (tmp_path / "accounts.toml").write_text(
        '[telegram.shop]\ntoken = "9:planted-shop"\n[viber.shop]\ntoken_file = "viber"\n'
    )
    (tmp_path / "viber").write_text("planted-viber\n")
    env = {
        "API_PASSWORD": "planted-ü pass",
        "ALERT_URLS": "slack://planted-a/planted-b/planted-c json://user:planted-d@host",
        "SENTRY_DSN": "https://planted-dsn@host/1",
        "ACCOUNTS_FILE": str(tmp_path / "accounts.toml"),
    }
    return Mask.of(Settings.from_env(env, None))


@pytest.mark.parametrize(
    "secret",
    [
        "planted-ü pass",
        quote("planted-ü pass"),
        json.dumps("planted-ü pass"),
        base64.b64encode("postrider:planted-ü pass".encode()).decode(),
        *("9:planted-shop", "planted-viber", "planted-dsn"),
        *("slack://planted-a/planted-b/planted-c", "planted-b", "planted-c", "planted-d"),
    ],
)
def test_every_form_of_a_secret_is_known(mask: Mask, secret: str) -> None:
    assert mask(f"<{secret}>").strip('<>"') == HIDDEN


@pytest.mark.parametrize("number", ["+491701234567", "491701234567", "123456789"])
def test_a_phone_number_shows_its_ends_only(mask: Mask, number: str) -> None:
    assert mask(f"to {number}, twice") == f"to {number[:3]}{HIDDEN}{number[-2:]}, twice"


@pytest.mark.parametrize("text", [f"delivery {DELIVERY}", "1900000000.123", "late by 1234567 ms"])
def test_what_is_no_phone_number_stays(mask: Mask, text: str) -> None:
    assert mask(text) == text


def test_masking_goes_through_all_there_is(mask: Mask) -> None:
    given: Any = {"a": [("planted-viber", 1, None, True)], "planted-viber": {"b": b"planted-viber"}}
    assert "planted" not in str(mask.deep(given))


# -- requests


def test_an_answer_carries_the_id_of_its_request(api: Api) -> None:
    asked = api.get("/healthz", headers={"X-Request-Id": "shop-17"})
    assert asked.headers["X-Request-Id"] == "shop-17"
    assert api.get("/nowhere", headers={"X-Request-Id": "shop-18"}).headers["X-Request-Id"] == (
        "shop-18"
    )
    own = {api.get("/healthz").headers["X-Request-Id"] for _ in range(20)}
    assert len(own) == 20


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "é"])
def test_an_id_that_could_harm_a_log_is_replaced(api: Api, given: str) -> None:
    header = given.encode("latin-1")
    told = api.get("/healthz", headers={"X-Request-Id": header}).headers["X-Request-Id"]
    assert told != given
    assert told.isalnum()


def test_real_processes_log_objects_only(
    start: Start, client: redis.Redis, messenger: FakeMessenger, tmp_path: Path, api: Api
) -> None:
    messenger.script = lambda _: says(500, ok=False, error_code=500)
    worker = start("postrider", "worker", LOG_FORMAT="json")
    api_process = start("postrider", "api", LOG_FORMAT="json", BIND="127.0.0.1:1")  # it may not
    wait_until(lambda: client.scard("rq:workers"), 15, "a worker")
    recipients = [{"uuid": "42", "service": "telegram"}]
    assert api.post("/send_message", json={"body": "planted body", "recipients": recipients}).ok
    wait_until(lambda: len(messenger.calls) > 1, 15, "an attempt")
    for process in (worker, api_process):
        process.terminate()
        process.wait(40)
    log = (tmp_path / "processes.log").read_text()
    told = [json.loads(line) for line in log.splitlines()]
    assert {"postrider.worker"} <= {line["logger"] for line in told}
    assert not [word for word in ("planted", PASSWORD) if word in log]
