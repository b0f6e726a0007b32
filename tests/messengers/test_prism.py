"""Prism, a mock server of anybody's OpenAPI file, as judge: it answers no request that departs from the file.

It takes some 15 s to start, so this is run with `--long`, where npx can get it.
"""

import json
import shutil
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from messengers.base import Reply
from postrider.transport import Blocking
from tests.messengers import openapi, test_gowa, test_waha

STARTS_WITHIN_S = 180.0


@pytest.fixture
def prism(tmp_path, long):
    """Starts one that serves a description, mended where it contradicts itself; gives its URL."""
    if not long:
        pytest.skip("takes half a minute; run with --long")
    if shutil.which("npx") is None:
        pytest.skip("NOT JUDGED: npx is missing, so Prism was not asked")
    started = []

    def start(name):
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps(openapi.load(name), default=str))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = f"npx --yes @stoplight/prism-cli@5 mock -h 127.0.0.1 -p {port} --errors {spec}"
        log = (tmp_path / "prism.log").open("w+")
        started.append(
            subprocess.Popen(command.split(), stdout=log, stderr=log, start_new_session=True)
        )
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and started[-1].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}"
            time.sleep(0.2)
        pytest.skip(
            f"NOT JUDGED: Prism did not start: {(tmp_path / 'prism.log').read_text()[-500:]}"
        )

    yield start
    for one in started:
        subprocess.run(["kill", "--", f"-{one.pid}"], check=False)
        one.wait()


@pytest.mark.parametrize(
    ("name", "tests"), [(openapi.WAHA, test_waha), (openapi.GOWA, test_gowa)], ids=["waha", "gowa"]
)
def test_prism_finds_no_fault_with_any_request(prism, name, tests, capsys):
    url, carrier, wrong = prism(name), Blocking(lambda _: None), []
    asked = [request for request in tests.requests() if "/statics/" not in request.url]
    for request in asked:
        reply = carrier.send(replace(request, url=request.url.replace(tests.BASE, url)))
        assert isinstance(reply, Reply)
        if not 200 <= reply.status <= 299:
            wrong.append((request.method, request.url, reply.status, reply.body[:500]))
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever runs it
            f"\nPrism: {len(asked)} requests of {name}, {len(wrong)} refused"
        )
    assert wrong == []
