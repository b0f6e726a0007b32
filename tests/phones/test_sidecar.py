"""The sidecar of these tests, held against WAHA's own description and against a client that others wrote for it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.conftest import wait_until
from tests.messengers.specs import faults
from tests.receiver import Got, Receiver, Says
from tests.sidecar import Sidecar

waha = pytest.importorskip(
    "waha",
    reason="NOT JUDGED: waha-py is not installed, so the fake sidecar was not held against it",
)
SPEC = "waha-2026.7.1.openapi.json"
ANA = "375291234567@c.us"
SECRET = "secret"
EVENTS = {
    "session.status": "WASessionStatusBody",
    "message": "WAMessage",
    "message.reaction": "WAMessageReaction",
    "message.ack": "WAMessageAckBody",
}
"""Event -> what it carries."""


@pytest.fixture
def places() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def judge(sidecar: Sidecar) -> Iterator[Any]:
    """waha-py."""
    found = waha.WahaClient(sidecar.url, api_key=sidecar.key, timeout=10)
    yield found
    found.close()


def plain(told: Any) -> Any:
    """Without what is null: WAHA leaves out and nulls as it likes, its description knows the first only."""
    if isinstance(told, dict):
        return {name: plain(value) for name, value in told.items() if value is not None}
    return [plain(value) for value in told] if isinstance(told, list) else told


def is_a(schema: str, told: dict[str, Any]) -> None:
    """Holds an answer against WAHA's description, and against waha-py's own model of it where it has one."""
    nulls = {f": '{name}' is a required property" for name, value in told.items() if value is None}
    broken = faults(SPEC, f"/components/schemas/{schema}", plain(told))
    assert [fault for fault in broken if fault not in nulls] == [], schema
    model = getattr(waha.models, schema, None)
    if model and not nulls & {*broken}:
        # Its own WebhookConfig takes events for objects, as WAHA's description of then did.
        given = {name: value for name, value in plain(told).items() if name != "config"}
        model.model_validate(given)


def linked(judge: Any, sidecar: Sidecar, places: Receiver) -> list[Got]:
    """A linked session `shop` that tells everything to `places`."""
    hook = {
        "url": f"http://{places.place}/hook",
        "events": [*EVENTS],
        "hmac": {"key": SECRET},
        "retries": {"policy": "constant", "delaySeconds": 1, "attempts": 3},
    }
    is_a("SessionDTO", judge.sessions.create({"name": "shop", "config": {"webhooks": [hook]}}))
    wait_until(lambda: judge.sessions.get("shop")["status"] == "SCAN_QR_CODE")
    is_a("QRCodeValue", judge.auth.get_qr("shop", {"format": "raw"}))
    is_a("Base64File", judge.auth.get_qr("shop", {"format": "image"}))
    sidecar.scan("shop")
    return places.calls


def test_it_answers_a_client_of_others_as_waha_does(
    judge: Any, sidecar: Sidecar, places: Receiver
) -> None:
    linked(judge, sidecar, places)
    is_a("SessionInfo", judge.sessions.get("shop"))
    (listed,) = judge.sessions.list()
    is_a("SessionInfo", listed)
    is_a("MeInfo", judge.sessions.get_me("shop"))
    sent = judge.chatting.send_text({"session": "shop", "chatId": ANA, "text": "Hi"})
    is_a("WAMessage", sent)
    assert sent["id"] == f"true_{ANA}_{sidecar.messages[0]['id']}"
    there = {"session": "shop", "phone": "375291234567"}
    is_a("WANumberExistResult", judge.contacts.check_exists(there))
    sidecar.absent("375291234567")
    assert judge.contacts.check_exists(there) == {"numberExists": False}
    judge.presence.set_presence("shop", {"presence": "online"})
    judge.sessions.restart("shop")
    wait_until(lambda: judge.sessions.get("shop")["status"] == "WORKING")
    assert judge.sessions.stop("shop")["status"] == "STOPPED"
    assert judge.sessions.start("shop")["status"] == "STARTING"
    judge.sessions.logout("shop")
    wait_until(lambda: judge.sessions.get("shop")["status"] == "SCAN_QR_CODE")
    judge.sessions.delete("shop")
    judge.sessions.delete("shop")
    assert judge.sessions.list({"all": "true"}) == []


def test_passkeys_go_as_waha_says(judge: Any, sidecar: Sidecar) -> None:
    judge.sessions.create({"name": "shop"})
    wait_until(lambda: sidecar.status("shop") == "SCAN_QR_CODE")
    sidecar.scan("shop", passkey=True, confirms=True)
    is_a("PasskeyChallenge", judge.auth.get_passkey_challenge("shop"))
    keys = ("clientDataJSON", "authenticatorData", "signature")
    answer = {"id": "a", "rawId": "a", "type": "public-key", "response": dict.fromkeys(keys, "s")}
    is_a("PasskeyAssertionRequest", answer)
    judge.auth.submit_passkey("shop", answer)
    is_a("PasskeyConfirmationResponse", judge.auth.get_passkey_confirmation("shop"))
    judge.auth.confirm_passkey("shop")
    assert sidecar.status("shop") == "WORKING"


def test_what_it_tells_is_signed_and_as_waha_says(
    judge: Any, sidecar: Sidecar, places: Receiver
) -> None:
    calls = linked(judge, sidecar, places)
    sidecar.acks(1, 2, 3)
    judge.chatting.send_text({"session": "shop", "chatId": ANA, "text": "Hi"})
    sidecar.say("shop", "Hello")
    sidecar.say("shop", "Look", "image", data="iVBORw0KGgo=", mimetype="image/png")
    sidecar.say("shop", "", "location", latitude=53.9, longitude=27.6)
    sidecar.say("shop", "", "contact", vcard="BEGIN:VCARD\nEND:VCARD")
    sidecar.say("shop", "🙏", "reaction", to="true_1@c.us_AA")
    sidecar.say("shop", "All", group="120363402106@g.us")
    wait_until(lambda: len(calls) >= 12, 10, "all that was to be told")
    for call in calls:
        assert call.headers["x-webhook-hmac-algorithm"] == "sha512"
        signed = hmac.new(SECRET.encode(), call.body, hashlib.sha512).hexdigest()
        assert call.headers["x-webhook-hmac"] == signed
        told = json.loads(call.body)
        assert {"id", "timestamp", "event", "session", "me", "payload", "engine"} <= told.keys()
        is_a(EVENTS[told["event"]], told["payload"])
    assert {json.loads(call.body)["event"] for call in calls} == set(EVENTS)


def test_it_tells_again_what_was_not_taken(judge: Any, sidecar: Sidecar, places: Receiver) -> None:
    calls = linked(judge, sidecar, places)
    wait_until(lambda: any(b'"WORKING"' in call.body for call in calls))
    before = len(calls)
    places.script = lambda _: Says(500 if len(calls) < before + 1 else 200)
    sidecar.say("shop", "Hello")
    wait_until(lambda: len(calls) >= before + 2)
    assert calls[before].body == calls[before + 1].body


@pytest.mark.parametrize(
    ("session", "status"), [("none", 404), ("resting", 404), ("scanning", 422), ("linked", 201)]
)
def test_a_send_is_refused_as_waha_refuses_it(
    judge: Any, sidecar: Sidecar, session: str, status: int
) -> None:
    judge.sessions.create({"name": "resting", "start": False})
    for name in ("scanning", "linked"):
        judge.sessions.create({"name": name})
    wait_until(lambda: sidecar.status("linked") == "SCAN_QR_CODE")
    sidecar.scan("linked")
    said = {"session": session, "chatId": ANA, "text": "Hi"}
    headers = {"X-Api-Key": sidecar.key}
    answer = requests.post(f"{sidecar.url}/api/sendText", json=said, headers=headers, timeout=10)
    assert answer.status_code == status
    assert len(sidecar.messages) == (status == 201)


def test_nothing_is_told_to_who_does_not_know_the_key(sidecar: Sidecar) -> None:
    for headers in ({}, {"X-Api-Key": "wrong"}):
        answer = requests.get(f"{sidecar.url}/api/sessions", headers=headers, timeout=10)
        assert answer.status_code == 401
