"""What a Sentry is told, as it arrives there: our errors, and nothing that anybody has written."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until


class Sentry:
    """A server that takes envelopes."""

    def __init__(self) -> None:
        self.envelopes: list[bytes] = []
        taken = self.envelopes

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                taken.append(gzip.decompress(body) if zipped else body)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://planted-dsn@127.0.0.1:{self.server.server_port}/7"

    def events(self) -> list[dict[str, Any]]:
        """The errors in them."""
        lines = [json.loads(line) for body in self.envelopes for line in body.splitlines() if line]
        return [line for line in lines if "exception" in line or "logentry" in line]


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    found = Sentry()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join(10)
    found.server.server_close()


CODE = """
import logging, os
from postrider import sentry
from postrider.settings import Settings
settings = Settings.from_env()
sentry.start(settings)
body = "planted body"
token = settings.messenger_env()["TELEGRAM_BOT_TOKEN"]
logging.getLogger("postrider.x").info("planted info")
try:
    raise ValueError(f"could not reach /bot{token}/sendMessage for +491701234567")
except ValueError:
    logging.getLogger("postrider.x").exception("delivery %s: the attempt broke at %s", "d-1", token)
"""


def run(code: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"TELEGRAM_BOT_TOKEN": "1:planted-token", "API_PASSWORD": "planted-password", **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_error_arrives_and_no_secret_with_it(sentry: Sentry, tmp_path: Path) -> None:
    done = run(CODE, tmp_path, SENTRY_DSN=sentry.dsn)
    assert done.returncode == 0, done.stderr
    wait_until(sentry.events, 10, "a report")
    (event,) = sentry.events()
    assert event["logentry"]["formatted"].startswith("delivery d-1: the attempt broke at ***")
    (error,) = event["exception"]["values"]
    assert error["type"] == "ValueError"
    assert error["value"] == "could not reach /bot***/sendMessage for +49***67"
    assert error["stacktrace"]["frames"][-1]["function"] == "<module>"
    told = b"".join(sentry.envelopes).decode()
    assert not [word for word in ("planted-", "planted body", "491701234567") if word in told]
    assert "planted info" not in told


def test_what_a_process_dies_of_arrives(sentry: Sentry, tmp_path: Path) -> None:
    code = CODE.partition("body =")[0] + "raise RuntimeError('planted-password is wrong')"
    assert run(code, tmp_path, SENTRY_DSN=sentry.dsn).returncode == 1
    wait_until(sentry.events, 10, "a report")
    (event,) = sentry.events()
    assert event["exception"]["values"][0]["value"] == "*** is wrong"


def test_who_names_none_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom postrider import alerts, logs, sentry\nfrom postrider.settings import Settings\n"
        "sentry.start(Settings.from_env())\nlogs.configure(Settings.from_env())\n"
        "print({'sentry_sdk', 'apprise', 'structlog'} & set(sys.modules))"
    )
    assert run(code, tmp_path).stdout == "set()\n"
