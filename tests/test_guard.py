"""No call goes where a client has no business: each address is checked, and none but a checked one is connected to."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from messengers.base import NoReply, Reply
from postrider.guard import LONGEST_URL, Guard, Refused
from postrider.outward import Outward
from postrider.selftest.fleet import free_port
from postrider.transport import MAX_REPLY
from tests import inward
from tests.certificates import make_certificate, tls_of
from tests.conftest import ROOT
from tests.receiver import Receiver, Says

LOOPBACK = Guard.read("127.0.0.0/8")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def own_network() -> bool:
    """Whether a network of its own can be made here."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    tried = subprocess.run(["unshare", "-rn", "ip", "link"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not own_network(), reason="NO unshare -rn HERE: NOT TESTED WITH LISTENERS")
def test_with_a_listener_behind_every_address_none_sees_a_connection() -> None:
    run = subprocess.run(
        ["unshare", "-rn", sys.executable, "tests/inward.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = json.loads(run.stdout)
    assert found["tried"] == 98
    assert found["connected"] == []
    assert found["reached"] == list(inward.PUBLIC)
    assert (found["rebound"], found["asked"]) == (["::ffff:93.184.215.14"], 1)


@pytest.mark.parametrize("host", inward.LITERALS)
def test_what_is_not_public_is_refused_without_asking_a_name_server(host: str) -> None:
    with pytest.raises(Refused):
        Guard().target(f"https://{host}/")


@pytest.mark.parametrize("url", inward.WHOLE)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        Guard().target(url.replace("{port}", "8080"))


@pytest.mark.parametrize(
    ("url", "as_written"),
    [
        ("HTTPS://Example.COM", "https://example.com/"),
        ("https://example.com.:443/a?b=c#d", "https://example.com/a?b=c"),
        ("http://example.com:8080?x=1", "http://example.com:8080/?x=1"),
        ("http://93.184.215.14/", "http://93.184.215.14/"),
        ("https://[2606:4700:0::1111]:8443/x", "https://[2606:4700::1111]:8443/x"),
        ("https://a_b.xn--bcher-kva.example/%20", "https://a_b.xn--bcher-kva.example/%20"),
    ],
)
def test_a_public_url_is_written_in_one_way(url: str, as_written: str) -> None:
    assert Guard().target(url).url == as_written


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "http://", "http:///x", "http://a b/", "http://a\nb/", "http://a\0/"),
        *("http://example.com:0/", "http://example.com:65536/", "http://exa..mple/", "http://-a/"),
        *("http://" + "a" * 64 + ".example/", "http://bücher.example/", "http://[::g]/"),
        "https://example.com/" + "a" * LONGEST_URL,
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        Guard().target(url)


@pytest.mark.parametrize(
    ("setting", "host", "address", "taken"),
    [
        ("10.0.0.0/8", "10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "192.168.1.1", "192.168.1.1", False),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "crm.example", "10.1.2.3", True),
        ("10.0.0.0/8", "crm.example", "::ffff:10.1.2.3", True),
        ("crm.local, localhost", "crm.local", "192.168.1.1", True),
        ("crm.local, localhost", "LOCALHOST", "::1", True),
        ("crm.local", "other.local", "192.168.1.1", False),
        ("on", "printer.local", "169.254.0.1", True),
        ("on", "0.0.0.0", "0.0.0.0", False),
        ("on", "many.example", "224.0.0.1", False),
        ("off", "crm.example", "10.1.2.3", False),
    ],
)
def test_the_setting_opens_what_it_names_and_no_more(
    setting: str, host: str, address: str, taken: bool
) -> None:
    guard = Guard.read(setting)
    try:
        guard.check(guard.target(f"http://{host}/"), [ip_address(address)])
    except Refused:
        assert not taken
    else:
        assert taken


@pytest.mark.parametrize("text", ["10.0.0.1/8", "yes please", "http://x", "10.0.0.0/40"])
def test_a_setting_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither on, off"):
        Guard.read(text)


# --- carrying


def test_what_is_posted_arrives_as_it_is(receiver: Receiver) -> None:
    reply = Outward(LOOPBACK).send("POST", f"{receiver.url}/x?y=1", {"X-A": "b"}, "ü".encode())
    assert isinstance(reply, Reply)
    assert reply.status == 204
    (got,) = receiver.calls
    assert (got.path, got.body, got.headers["x-a"]) == ("/x?y=1", "ü".encode(), "b")


def test_the_name_stays_in_the_host_header(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    outward = Outward(LOOPBACK, resolve=lambda *_: ["127.0.0.1"])
    assert isinstance(outward.send("POST", f"http://crm.example:{port}/"), Reply)
    assert receiver.calls[0].headers["host"] == f"crm.example:{port}"


def test_a_redirect_inward_is_not_followed(receiver: Receiver) -> None:
    with Receiver() as inner:
        receiver.script = lambda _: Says(302, {"Location": f"{inner.url}/secret"})
        reply = Outward(LOOPBACK).send("POST", receiver.url)
        assert isinstance(reply, Reply)
        assert reply.status == 302
        assert inner.calls == []


def test_no_proxy_of_the_environment_is_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert isinstance(Outward(LOOPBACK).send("POST", receiver.url), Reply)


def test_an_answer_is_cut_after_64_kib(receiver: Receiver) -> None:
    receiver.script = lambda _: Says(200, body=b"x" * 10 * MAX_REPLY)
    reply = Outward(LOOPBACK).send("POST", receiver.url)
    assert isinstance(reply, Reply)
    assert len(reply.body) == MAX_REPLY


def test_a_receiver_that_is_slow_ends_with_the_limit(receiver: Receiver) -> None:
    receiver.script = lambda _: Says(after_s=5)
    started = time.monotonic()
    answer = Outward(LOOPBACK, whole_s=0.3).send("POST", receiver.url)
    assert answer == NoReply(left=True, reason="no answer in time")
    assert time.monotonic() - started < 2


def test_one_that_drips_ends_with_the_limit_too() -> None:
    class Drips(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drips)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    answer = Outward(LOOPBACK, whole_s=0.5).send("POST", f"http://127.0.0.1:{server.server_port}")
    assert answer == NoReply(left=True, reason="no answer in time")
    server.shutdown()
    server.server_close()


def test_nobody_there_is_no_answer() -> None:
    answer = Outward(LOOPBACK).send("POST", f"http://127.0.0.1:{free_port()}/")
    assert answer == NoReply(left=False, reason="could not connect")


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postrider.outward.RESOLVE_S", 0.1)
    release = threading.Event()
    outward = Outward(Guard(), resolve=lambda *_: [str(release.wait(20))])
    answer = outward.send("POST", "https://slow.example/")
    release.set()
    assert answer == NoReply(left=False, reason="its name could not be resolved")


def test_a_name_that_does_not_exist_is_no_answer() -> None:
    def unknown(*_: object) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    answer = Outward(Guard(), resolve=unknown).send("POST", "https://nowhere.example/")
    assert answer == NoReply(left=False, reason="its name could not be resolved")


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a server that is crm.example, and who vouches for it."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls"), "crm.example")
    with Receiver() as found:
        plain = found.server.socket
        found.server.socket = tls_of(certificate).wrap_socket(plain, server_side=True)
        yield found.server.server_port, certificate


@pytest.mark.parametrize(
    ("host", "vouched", "status"),
    [("crm.example", True, 204), ("other.example", True, None), ("crm.example", False, None)],
)
def test_a_certificate_is_checked_against_the_name(
    https: tuple[int, Path], host: str, vouched: bool, status: int | None
) -> None:
    port, ca_file = https
    outward = Outward(
        LOOPBACK, ca_file=str(ca_file) if vouched else None, resolve=lambda *_: ["127.0.0.1"]
    )
    answer = outward.send("POST", f"https://{host}:{port}/")
    if status:
        assert isinstance(answer, Reply)
        assert answer.status == status
    else:
        assert answer == NoReply(left=False, reason="its TLS certificate was not accepted")


def test_no_answer_shows_a_secret_of_its_url() -> None:
    url = f"http://127.0.0.1:{free_port()}/planted-secret"
    for guard in (LOOPBACK, Guard()):
        answer = Outward(guard).send("POST", url)
        assert "planted" not in repr(answer)
