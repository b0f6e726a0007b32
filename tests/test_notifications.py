"""Notifications by Apprise: many of its services on loopback, what fails told apart, nothing secret told."""

import base64
import hashlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
import redis

from messengers.apprise import Notification
from messengers.base import File, Reply
from postrider import notifications
from postrider.accounts import open_accounts
from postrider.errors import InvalidRequest, Misconfigured
from postrider.model import Attachment, Message, NewMessage, Recipient, State
from postrider.notifications import Folder, Notifications, look
from postrider.records import attempts
from postrider.selftest.fleet import free_port
from postrider.sender import DeliveryFailed
from postrider.service import Service
from postrider.settings import Settings
from postrider.transport import Blocking
from tests.conftest import Api, Postrider, Start, wait_until
from tests.receiver import Got, Receiver, Says

TEXT = "Hällo <b>wörld</b> & all"
SERVICES = {
    "json": "json://ana:planted-word@{}/planted-path",
    "xml": "xml://{}/planted-path",
    "form": "form://{}/planted-path",
    "ntfy": "ntfy://{}/planted-topic",
    "gotify": "gotify://{}/planted-token",
    "mattermost": "mmost://{}/3ccdd113474722377935511fc85d3dd4",
    "rocket": "rocket://planted/token@{}/#general",
    "matrix": "matrix://AAAAAAAAAAAAAAAAAAAA@{}/?mode=matrix",
    "apprise": "apprise://{}/plantedkey",
    "synology": "synology://{}/planted-token",
    "hassio": "hassio://{}/planted-token",
    "signal": "signal://{}/15555555555/16666666666",
    "bark": "bark://{}/planted-key",
    "nctalk": "nctalk://ana:planted-word@{}/planted-room",
}
PLACES = 4
"""Calls to one target that may be under way at once."""
PLAIN = re.compile(r"planted-\w+|AAAAAAAAAAAA|3ccdd1134747|plantedkey")


@pytest.fixture
def places() -> Iterator[Receiver]:
    """Services of every kind that are none."""
    with Receiver() as found:
        found.script = lambda _: says(200)
        yield found


def says(status: int) -> Says:
    """An answer that each of them would understand."""
    return Says(status, {"Content-Type": "application/json"}, b"{}")


@pytest.fixture
def env(env: dict[str, str], places: Receiver) -> dict[str, str]:
    ops = SERVICES["json"].format(places.place)
    both = f"{SERVICES['ntfy'].format(places.place)} {SERVICES['gotify'].format(places.place)}"
    return env | {"APPRISE_TARGETS": f"ops={ops},oncall={both}", "APPRISE_RATE": "0"}


def carried(url: str, whole_s: float = 20.0, **more: Any) -> dict[str, Any]:
    reply = Notifications().carry(Notification("key-0", (url,), TEXT, **more), whole_s)
    assert isinstance(reply, Reply)
    (found,) = reply.object()["places"]
    return dict(found)


def unquoted(body: bytes) -> str:
    """What was said, out of JSON, XML or a form."""
    text = unquote_plus(body.decode())
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_gets_the_text_and_its_failures_are_told_apart(
    service: str, places: Receiver
) -> None:
    url = SERVICES[service].format(places.place)
    assert carried(url)["ok"] is True
    said = " ".join(unquoted(call.body) for call in places.calls)
    assert "Hällo" in said
    assert "wörld" in said
    for status in (400, 401, 404, 429, 500):
        places.script = lambda _, status=status: says(status)
        found = carried(url)
        assert (found["ok"], found["status"]) == (False, status)
    places.script = lambda _: Says(cut=True)
    cut = carried(url)
    assert (cut["ok"], cut["left"], "status" in cut) == (False, True, False)
    nobody = carried(SERVICES[service].format(f"127.0.0.1:{free_port()}"))
    assert (nobody["ok"], nobody["left"], "status" in nobody) == (False, False, False)


def test_one_that_hangs_is_left_in_time_and_only_so_often(
    places: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "AT_ONCE", 2)
    places.script = lambda _: Says(cut=True, after_s=20)
    url = SERVICES["json"].format(places.place)
    carrier = Notifications()
    notification = Notification("key-0", (url, url, url), TEXT)
    began = time.monotonic()
    reply = carrier.carry(notification, 0.3)
    assert time.monotonic() - began < 10
    assert isinstance(reply, Reply)
    first, second, third = reply.object()["places"]
    assert first == second == {"ok": False, "left": True, "words": "no answer in time"}
    assert (third["left"], third["words"]) == (False, "2 earlier calls have not come back")


def test_a_read_that_takes_too_long_may_have_arrived(places: Receiver) -> None:
    places.script = lambda _: Says(cut=True, after_s=5)
    found = carried(SERVICES["json"].format(places.place) + "?rto=0.2")
    assert (found["ok"], found["left"]) == (False, True)


def test_no_redirect_is_followed(places: Receiver) -> None:
    places.script = lambda _: Says(307, {"Location": f"{places.url}/elsewhere"})
    assert carried(SERVICES["json"].format(places.place))["ok"] is False
    assert [call.path for call in places.calls] == ["/planted-path"]


def a_file(content: bytes, name: str, media_type: str) -> File:
    return File(name, media_type, len(content), open=lambda: io.BytesIO(content))


def test_files_arrive_whole_under_their_names_and_leave_nothing_behind(
    places: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    picture, text = os.urandom(300_000), "naïve\n".encode() * 1000
    files = (a_file(picture, "übersicht.png", "image/png"), a_file(text, "a b.txt", "text/plain"))
    wanted = [("übersicht.png", picture), ("a b.txt", text)]
    assert carried(SERVICES["json"].format(places.place), files=files)["ok"]
    sent = places.calls[-1].json["attachments"]
    assert [(a["filename"], base64.b64decode(a["base64"])) for a in sent] == wanted
    assert [a["mimetype"] for a in sent] == ["image/png", "text/plain"]
    assert carried(SERVICES["form"].format(places.place), files=files)["ok"]
    form = places.calls[-1]
    head = f"Content-Type: {form.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + form.body).get_payload()
    got = [p.get_payload(decode=True) for p in parts if p.get_filename()]
    assert [hashlib.sha256(g).hexdigest() for g in got] == [
        hashlib.sha256(content).hexdigest() for _, content in wanted
    ]
    wait_until(lambda: not list(tmp_path.iterdir()), what="temporary files gone")


def test_a_file_that_is_gone_sends_nothing(places: Receiver) -> None:
    reply = Notifications().carry(
        Notification("k", (f"json://{places.place}",), "x", files=(File("a", "text/plain", 1),))
    )
    assert not isinstance(reply, Reply)
    assert not reply.left
    assert not places.calls


def test_a_place_is_known_by_its_service_and_what_it_takes() -> None:
    found = look("rocket://planted/token@127.0.0.1/#general")
    assert found
    assert (found.service, found.takes_files, found.limit) == ("Rocket.Chat", False, 1000)
    split = look("rocket://planted/token@127.0.0.1/#general?overflow=split")
    assert split
    assert split.limit == 0
    assert look("nonsense://planted-token") is None


# -- through the service


def accept(service: Service, uuid: str, *attachments: Attachment, body: str = TEXT) -> Message:
    new = NewMessage(body, (Recipient(uuid, "apprise"),), attachments=attachments)
    return service.accept(new)[0]


def state(service: Service, message: Message) -> State:
    return service.delivery(f"{message.id}-0", None).delivery.state


def send(service: Service, job_id: str) -> None:
    service.sender.deliver(job_id, Blocking(service.keep_note))


def test_a_stock_worker_sends_to_a_target(service: Service, places: Receiver) -> None:
    message = accept(service, "ops")
    send(service, f"{message.id}-0")
    assert state(service, message) is State.SENT
    assert places.calls[0].json["message"] == TEXT


def test_what_no_target_takes_is_refused_when_it_is_posted(service: Service) -> None:
    with pytest.raises(InvalidRequest, match="is no target; there are oncall, ops"):
        accept(service, "opps")
    with pytest.raises(InvalidRequest, match="ntfy takes 7800"):
        accept(service, "oncall", body="x" * 8000)
    incoming = service.files.incoming()
    incoming.write(b"x")
    stored = service.files.keep(incoming, "a.txt", "", service.store.now())
    incoming.close()
    with pytest.raises(InvalidRequest, match="Gotify takes no files"):
        accept(service, "oncall", Attachment(stored.file.id))
    assert accept(service, "ops", Attachment(stored.file.id))


def test_a_retry_goes_only_where_it_has_not_gone(
    service: Service, places: Receiver, client: redis.Redis
) -> None:
    places.script = lambda got: says(503 if got.path.endswith("/message") else 200)
    message = accept(service, "oncall")
    send(service, f"{message.id}-0")
    assert state(service, message) is State.RETRYING
    assert len(places.calls) == 2
    places.script = lambda _: says(200)
    wait_until(lambda: _sent_again(service, f"{message.id}-0-1"), what="the retry")
    assert len(places.calls) == 3
    (raw,) = client.hvals(client.keys("pr:a:*")[0])
    found = [[p and p.outcome for p in a.parts] for a in attempts(raw)]
    assert found == [["sent", "retry"], ["sent", "sent"]]


def _sent_again(service: Service, job_id: str) -> bool:
    send(service, job_id)
    return service.delivery(job_id.rpartition("-")[0], None).delivery.state is State.SENT


def test_what_one_place_refuses_for_good_is_partial(service: Service, places: Receiver) -> None:
    places.script = lambda got: says(404 if got.path.endswith("/message") else 200)
    message = accept(service, "oncall")
    with pytest.raises(DeliveryFailed, match="partial"):
        send(service, f"{message.id}-0")
    assert state(service, message) is State.FAILED


def test_a_target_that_hangs_delays_no_other_and_no_log_tells_a_secret(
    service: Service, places: Receiver, start: Start, env: dict[str, str], tmp_path: Path
) -> None:
    let_go = threading.Event()

    def script(got: Got) -> Says:
        if "planted-path" not in got.path:
            return says(200)
        let_go.wait(60)
        return says(404)

    places.script = script
    hung = [accept(service, "ops") for _ in range(10)]
    # Apprise itself gives up after 4 s; this one may take as long as an attempt.
    patient = env["APPRISE_TARGETS"].replace("planted-path", "planted-path?rto=30")
    start("postrider", "worker", LOG_LEVEL="debug", APPRISE_TARGETS=patient)
    wait_until(lambda: places.now == PLACES, 20, "all that may hang at once")
    told = [accept(service, "oncall") for _ in range(3)]
    wait_until(lambda: all(state(service, m) is State.SENT for m in told), 8, "the other target")
    found = Counter(state(service, m) for m in hung)
    assert found == {State.SENDING: PLACES, State.SCHEDULED: len(hung) - PLACES}
    let_go.set()
    wait_until(lambda: all(state(service, m) is State.FAILED for m in hung), 20)
    logged = (tmp_path / "processes.log").read_text()
    assert not PLAIN.findall(logged)
    assert TEXT not in logged


def test_nothing_that_is_logged_or_kept_tells_a_secret(
    places: Receiver, service: Service, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "apprise"):  # as postrider.logs has them
        caplog.set_level(logging.ERROR, name)
    for answer in (says(200), says(404), says(500), Says(cut=True)):
        places.script = lambda _, answer=answer: answer
        for url in SERVICES.values():
            found = carried(url.format(places.place))
            assert "ok" in found
        with suppress(DeliveryFailed):
            send(service, f"{accept(service, 'ops').id}-0")
    assert look(f"nonsense://{places.place}/planted-path") is None
    assert look("slack://planted-path") is None
    assert not PLAIN.findall(caplog.text)
    kept = [client.hgetall(key) for key in client.keys("pr:a:*")]
    assert kept
    assert not PLAIN.findall(str(kept))


def test_a_url_that_apprise_refuses_stops_the_start_by_its_name(
    env: dict[str, str], tmp_path: Path
) -> None:
    env["APPRISE_TARGETS"] += " odd=json://localhost odd=nonsense://planted-path"
    with pytest.raises(Misconfigured) as refused:
        open_accounts(Settings.from_env(env, None))
    assert refused.value.faults == ("apprise.odd: Apprise makes nothing of URL number 2",)


def test_a_table_is_a_target_with_a_pace_of_its_own(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    (tmp_path / "urls").write_text("json://localhost/planted-path\n")
    path.write_text(
        '[apprise.chat]\nurls = "json://localhost xml://localhost"\nrate = 3\n[apprise.in-file]\nurls_file = "urls"\n'
    )
    accounts = open_accounts(Settings.from_env(env | {"ACCOUNTS_FILE": str(path)}, None))
    mine = {name for service, name in accounts if service == "apprise"}
    assert mine == {"default", "ops", "oncall", "chat", "in-file"}
    assert accounts.paces["apprise", "chat"].rate == 3
    assert accounts.paces["apprise", "ops"].concurrency == 4
    assert accounts["apprise", "default"].check_recipient("chat") is None
    path.write_text(
        '[apprise.ops]\nurls = "json://localhost"\n[apprise.x]\nurls = "planted-path"\n'
    )
    with pytest.raises(Misconfigured) as refused:
        open_accounts(Settings.from_env(env | {"ACCOUNTS_FILE": str(path)}, None))
    assert not PLAIN.search(str(refused.value))


def test_doctor_shows_targets_without_secrets(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("doctor")
    shown = " ".join(capsys.readouterr().out.split())
    assert "JSON (json://***)" in shown
    assert not PLAIN.findall(shown)


def test_the_api_names_the_target_as_the_account(api: Api) -> None:
    sent = api.post(
        "/api/v1/messages",
        json={"body": "x", "recipients": [{"uuid": "ops", "service": "apprise"}], "send_in_s": 60},
    )
    assert sent.status_code == 201
    (delivery,) = sent.json()["deliveries"]
    found = api.get(f"/api/v1/deliveries/{delivery['id']}")
    assert found.json()["account"] == "ops"
    accounts = api.get("/api/v1/accounts")
    assert "ops" in accounts.text
    assert not PLAIN.findall(sent.text + found.text + accounts.text)


@pytest.mark.parametrize(("targets", "loaded"), [("", False), ("a=json://localhost", True)])
def test_apprise_is_loaded_only_where_a_target_is_set_up(targets: str, loaded: bool) -> None:
    code = (
        "import sys; from postrider.service import open_accounts; from postrider.settings import Settings;"
        f"open_accounts(Settings.from_env({{'APPRISE_TARGETS': {targets!r}}}, None));"
        "sys.exit('apprise' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == loaded


def test_files_stay_until_all_places_have_been_asked_and_have_ended() -> None:
    folder = Folder([File("a.txt", "text/plain", 2, open=lambda: io.BytesIO(b"Hi"))])
    (path,) = folder.paths
    folder.use()
    folder.leave()
    assert path.read_bytes() == b"Hi"  # the next place is still to be asked
    folder.leave()
    assert not path.exists()
