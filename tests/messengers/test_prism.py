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

from messengers.base import Reply, Sent
from messengers.phones import Checked, Link, Passkey, Trouble
from postrider.selftest.fleet import free_port
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
        port = free_port()
        command = f"npx --yes @stoplight/prism-cli@5 mock -h 127.0.0.1 -p {port} --errors {spec}"
        with (tmp_path / "prism.log").open("w") as log:
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


TALKS = {
    openapi.WAHA: {
        "look": ((), Link),
        "start": ((), Link),
        "stop": ((), type(None)),
        "logout": ((), type(None)),
        "delete": ((), type(None)),
        "passkey": ((), Passkey),
        "confirm_passkey": ((), type(None)),
        "check": (("1213213213",), Checked),
    },
    openapi.GOWA: {
        "look": ((), Link),
        "restart": ((), Link),
        "stop": ((), type(None)),
        "logout": ((), type(None)),
        "delete": ((), type(None)),
        "passkey": ((), Trouble),  # it picks the first status there is: none
        "confirm_passkey": ((), type(None)),
        "pair": (("628123456789",), str),
        "check": (("628123456789",), Checked),
    },
}
"""What each talk gives when Prism answers by the description's own examples."""


@pytest.mark.parametrize(
    ("name", "tests"), [(openapi.WAHA, test_waha), (openapi.GOWA, test_gowa)], ids=["waha", "gowa"]
)
def test_prism_finds_no_fault_with_any_request_and_we_none_with_its_answers(
    prism, name, tests, capsys
):
    url, carrier, wrong, odd = prism(name), Blocking(lambda _: None), [], 0
    asked = [request for request in tests.requests() if "/statics/" not in request.url]
    for request in asked:
        reply = carrier.send(replace(request, url=request.url.replace(tests.BASE, url)))
        assert isinstance(reply, Reply)
        if not 200 <= reply.status <= 299:
            # It also tells when the example that it answers with breaks the description.
            told = reply.object().get("validation") or [{"location": ["request"]}]
            odd += 1
            if any(one["location"][0] == "request" for one in told):
                wrong.append((request.method, request.url, reply.status, reply.body[:500]))
    driver = replace(tests.DRIVER, base_url=url)
    for talk, (args, wanted) in TALKS[name].items():
        found = _held(getattr(driver, talk)(tests.S, *args), carrier)
        assert isinstance(found, wanted), (talk, found)
    sent = carrier.send(driver.text(tests.S, "4915112345678", "Hello", "key-0"))
    assert isinstance(driver.read_sent(sent), Sent)
    figures = (
        f"{len(asked)} requests of {name}, {len(wrong)} refused, {odd - len(wrong)} odd examples"
    )
    with capsys.disabled():
        print(f"\nPrism: {figures}; {len(TALKS[name])} talks")  # noqa: T201
    assert wrong == []


def _held(talk, carrier):
    """What a talk gives when it is really held."""
    try:
        request = next(talk)
        while True:
            request = talk.send(carrier.send(request))
    except StopIteration as stop:
        return stop.value
