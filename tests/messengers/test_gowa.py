"""The gowa driver, judged by gowa's own OpenAPI file and by its documented webhook payloads."""

import base64
import hashlib
import hmac
import io
import json
from datetime import timedelta

import pytest

from messengers.base import File, NoReply, Rejected, Reply, Retry, Sent, Unclear
from messengers.gowa import CODES, Gowa
from messengers.phones import Checked, Code, Hook, Link, Passkey, Trouble
from messengers.sidecars import AGAIN_S
from tests.messengers import junk, openapi
from tests.messengers.openapi import GOWA
from tests.messengers.talks import AT, gives, said, talked

BASE, S = "http://127.0.0.1:3000", "shop_0AbCdEfGhIjK"
HOOK = Hook(f"http://postrider:8080/hooks/whatsapp-web/{S}", "planted-secret")
OWN = "628123456789"
PNG = b"\x89PNG\r\n\x1a\n and what is drawn"
ASSERTION = {
    "id": "AX8bTgH2",
    "rawId": "AX8bTgH2",
    "type": "public-key",
    "response": {"clientDataJSON": "e30", "authenticatorData": "e30", "signature": "e30"},
}


def ok(status=200, at=AT, /, **results):
    return said(status, at, status=status, code="SUCCESS", message="Success", results=results)


def device(state, jid="", at=AT):
    return ok(200, at, id=S, state=state, jid=jid, display_name="Ana" if jid else "")


GONE = said(500, status=500, code="INTERNAL_SERVER_ERROR", message=f"device {S} not found")
GONE_TOO = said(404, status=404, code="DEVICE_NOT_FOUND", message="device not found; create one")
NEW, WAITS = device("disconnected"), device("connected")
LINKED = device("logged_in", f"{OWN}:12@s.whatsapp.net")
DROPPED = device("disconnected", f"{OWN}@s.whatsapp.net")
LINK = "http://else:3000/base/statics/qrcode/scan-qr-b0b7bb43.png"
LOGIN = ok(device_id=S, qr_link=LINK, qr_duration=30)
PICTURE = Reply(200, PNG, at=AT)
DONE = ok()
NOT_LOGGED_IN = said(401, code="AUTHENTICATION_ERROR", message="you are not logged in")


def driver():
    return Gowa(BASE, "user", "planted-password")


DRIVER = driver()


def file(kind="document", media_type="application/pdf", size=7, name="отчёт.pdf", **more):
    return File(
        name, media_type, size, kind, "A" * 22, open=lambda: io.BytesIO(b"x" * size), **more
    )


FILES = [
    file("image", "image/jpeg", name="a.jpg"),
    file("video", "video/mp4", name="a.mp4"),
    file("animation", "video/mp4", name="a.mp4"),
    file("audio", "audio/mpeg", name="a.mp3"),
    file("voice", "audio/ogg", name="a.ogg"),
    file("sticker", "image/webp", name="a.webp"),
    file(),
]


def requests():
    d = driver()
    talks = [
        (d.create(S, HOOK), (GONE, DONE, ok(webhook_url=""), DONE, NEW, LOGIN)),
        (d.start(S), (DROPPED, DONE)),
        (d.stop(S), (LINKED,)),
        (d.restart(S), (LINKED, DONE)),
        (d.logout(S), (DONE,)),
        (d.delete(S), (DONE,)),
        (d.look(S), (WAITS, ok(status="none"))),
        (d.code(S), (WAITS, LOGIN, PICTURE)),
        (d.pair(S, OWN), (ok(pair_code="ABCD-1234"),)),
        (d.passkey(S), (ok(status="none"),)),
        (d.answer_passkey(S, ASSERTION), (DONE,)),
        (d.confirm_passkey(S), (DONE,)),
        (d.check(S, "4915112345678"), (ok(is_on_whatsapp=False), LINKED, ok(is_on_whatsapp=True))),
        (d.presence(S, online=True), (DONE,)),
        (d.presence(S, online=False), (DONE,)),
    ]
    found = [request for talk, replies in talks for request in talked(talk, *replies)[1]]
    found.append(d.text(S, "4915112345678", "Hello", "key-0"))
    for one in FILES:
        caption = "see" if one.kind in {"image", "video", "animation", "document"} else ""
        found.append(d.file(S, "1-2@g.us", one, caption, "key-0"))
        linked = file(one.kind, one.media_type, link="https://example.org/a")
        found.append(d.file(S, "4915112345678", linked, "", "key-0"))
    return found


def test_every_request_is_one_of_its_description():
    found = requests()
    told = base64.b64encode(b"user:planted-password").decode()
    for request in found:
        assert request.headers["Authorization"] == f"Basic {told}"
        if "/statics/" in request.url:  # the picture of a code, where `qr_link` says
            assert request.url == f"{BASE}/statics/qrcode/scan-qr-b0b7bb43.png"
            continue
        wrong = openapi.request_faults(GOWA, request, BASE)
        assert not wrong, (request.method, request.url, wrong)
        if not request.url.startswith(f"{BASE}/devices"):
            assert request.headers["X-Device-Id"] == S
    assert len({(r.method, r.url.split("?")[0]) for r in found}) == 21


def test_what_is_not_in_the_description_is_found_out():
    image = DRIVER.file(S, "1", FILES[0], "", "k")
    for more in (("imagee", "x"), ("view_once", "perhaps")):
        broken = type(image)("POST", image.url, image.headers, form=[*image.form, more])
        assert openapi.request_faults(GOWA, broken, BASE)


# -- answers


@pytest.mark.parametrize(
    ("method", "template", "talk", "wanted"),
    [
        ("get", "/devices/{device_id}", lambda d: d.stop(S), type(None)),
        ("post", "/devices/{device_id}/logout", lambda d: d.logout(S), type(None)),
        ("delete", "/devices/{device_id}", lambda d: d.delete(S), type(None)),
        ("post", "/devices/{device_id}/login/code", lambda d: d.pair(S, OWN), str),
        ("get", "/user/check", lambda d: d.check(S, OWN), Checked),
        ("get", "/app/passkey", lambda d: d.passkey(S), Passkey),
        ("post", "/app/passkey/response", lambda d: d.answer_passkey(S, ASSERTION), type(None)),
        ("post", "/app/passkey/confirm", lambda d: d.confirm_passkey(S), type(None)),
        ("post", "/send/presence", lambda d: d.presence(S, online=True), type(None)),
    ],
)
def test_every_documented_answer_is_read(method, template, talk, wanted):
    kinds = set()
    for status, value in openapi.answers(GOWA, method, template):
        found = gives(talk(driver()), Reply(status, json.dumps(value).encode()))
        kinds.add(type(found))
        if status != 200:
            assert isinstance(found, Trouble) or status == 404
            assert not isinstance(found, Trouble) or found.kind != "away"
    assert wanted in kinds


def test_every_documented_state_of_a_device_is_a_state():
    schema = openapi.load(GOWA)["components"]["schemas"]["DeviceInfo"]["properties"]["state"]
    found = {
        gives(driver().look(S), device(state, jid), ok(status="none")).state
        for state in schema["enum"]
        for jid in ("", "628123456789@s.whatsapp.net")
    }
    assert found == {"stopped", "starting", "scan", "linked"}


@pytest.mark.parametrize("call", ["message", "image", "audio", "file", "sticker", "video"])
def test_the_documented_answer_to_a_send_names_the_message(call):
    for status, value in openapi.answers(GOWA, "post", f"/send/{call}"):
        found = DRIVER.read_sent(Reply(status, json.dumps(value).encode()))
        wanted = {200: Sent, 400: Rejected, 500: Retry}[status]
        assert isinstance(found, wanted)


# -- sessions


def test_a_device_is_made_with_our_hook_and_shows_codes():
    found, asked = talked(DRIVER.create(S, HOOK), GONE, DONE, ok(webhook_url=""), DONE, NEW, LOGIN)
    assert found == Link("scan")
    assert [(r.method, r.url.removeprefix(f"{BASE}/devices")) for r in asked] == [
        ("GET", f"/{S}"),
        ("POST", ""),
        ("GET", f"/{S}/webhook"),
        ("PATCH", f"/{S}/webhook"),
        ("GET", f"/{S}"),
        ("GET", f"/{S}/login"),
    ]
    assert asked[1].json["device_id"] == S
    assert asked[3].json["webhook_secret"] == "planted-secret"


def test_a_device_that_is_there_and_hooked_is_left_alone():
    hook = ok(
        webhook_url=HOOK.url,
        webhook_secret=HOOK.secret,
        webhook_events="message,message.reaction,message.ack",
    )
    found, asked = talked(DRIVER.create(S, HOOK), LINKED, hook, LINKED)
    assert found == Link("linked", OWN, "Ana")
    assert [request.method for request in asked] == ["GET", "GET", "GET"]


def test_a_device_that_another_has_made_meanwhile_is_taken():
    exists = said(500, code="INTERNAL_SERVER_ERROR", message=f"device {S} already exists")
    assert gives(DRIVER.create(S, HOOK), GONE, exists, DONE, DONE, NEW, LOGIN) == Link("scan")
    full = said(500, code="INTERNAL_SERVER_ERROR", message="disk full")
    assert gives(DRIVER.create(S, HOOK), GONE, full).kind == "later"


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (LINKED, Link("linked", OWN, "Ana")),
        (DROPPED, Link("stopped", OWN, "Ana")),
        (NEW, Link("stopped")),
        (device("connecting"), Link("starting")),
        (device("connected", f"{OWN}@s.whatsapp.net"), Link("starting", OWN, "Ana")),
        (GONE, Link("missing", reason=f"device {S} not found")),
        (GONE_TOO, Link("missing", reason="device not found; create one")),
        (said(500, message="disk full"), Trouble("later", "disk full")),
    ],
)
def test_how_a_device_stands_is_told_by_one_call(reply, wanted):
    found, asked = talked(DRIVER.look(S), reply)
    assert found == wanted
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "state"),
    [("none", "scan"), ("awaiting_response", "passkey"), ("awaiting_confirmation", "passkey")],
)
def test_what_a_device_waits_for_is_told_by_another(status, state):
    assert gives(DRIVER.look(S), WAITS, ok(status=status)).state == state


def test_a_phone_is_reconnected_and_not_asked_for_again():
    for talk in (DRIVER.start(S), DRIVER.restart(S)):
        found, asked = talked(talk, DROPPED, DONE)
        assert found == Link("starting", OWN, "Ana")
        assert asked[1].url.endswith("/reconnect")
    assert talked(DRIVER.start(S), LINKED)[0].state == "linked"


def test_stopping_changes_nothing_there_and_deleting_what_is_gone_is_done():
    _, asked = talked(DRIVER.stop(S), LINKED)
    assert [request.method for request in asked] == ["GET"]
    assert gives(DRIVER.stop(S), GONE).kind == "missing"
    assert gives(DRIVER.delete(S), GONE_TOO) is None


# -- codes


def at(seconds):
    return AT + timedelta(seconds=seconds)


def test_a_code_is_asked_for_once_for_as_long_as_it_is_good():
    d = driver()
    assert gives(d.code(S), WAITS, LOGIN, PICTURE) == Code(PNG, lives_s=30.0)
    found, asked = talked(d.code(S), device("connected", at=at(12)))
    assert found == Code(PNG, lives_s=18.0)
    assert len(asked) == 1
    assert gives(d.code("other"), WAITS, LOGIN, PICTURE).lives_s == 30


def test_a_code_that_has_ended_is_followed_by_five_more_and_then_none_until_it_starts_anew():
    d = driver()
    for nth in range(CODES):
        waits, login = device("connected", at=at(31 * nth)), Reply(200, LOGIN.body, at=at(31 * nth))
        assert isinstance(gives(d.code(S), waits, login, PICTURE), Code)
    found = gives(d.code(S), device("connected", at=at(31 * CODES)), LOGIN, PICTURE)
    assert found == Trouble("unlinked", "no phone was linked in time; start it again")
    gives(d.start(S), NEW, LOGIN)
    assert isinstance(gives(d.code(S), WAITS, LOGIN, PICTURE), Code)
    d.look(S)
    long_after = device("connected", at=at(31 + 301))
    assert isinstance(gives(d.code(S), long_after, LOGIN, PICTURE), Code)


@pytest.mark.parametrize("reply", [LINKED, NEW])
def test_there_is_no_code_where_nothing_waits(reply):
    found, asked = talked(driver().code(S), reply)
    assert found.kind == "unlinked"
    assert len(asked) == 1


def test_what_is_no_picture_is_no_code():
    for picture in (Reply(200, b"<html>"), Reply(404), NoReply(left=True, reason="cut")):
        assert isinstance(gives(driver().code(S), WAITS, LOGIN, picture), Trouble)
    for link in ("http://x/secret", "http://x/statics/../secret", None, 7):
        login = ok(qr_link=link, qr_duration=30)
        assert isinstance(gives(driver().code(S), WAITS, login, PICTURE), Trouble)


def test_a_passkey_is_handed_over():
    asked = {"challenge": "dGVzdA", "rpId": "whatsapp.com"}
    assert gives(DRIVER.passkey(S), ok(status="awaiting_response", challenge=asked)) == Passkey(
        asked
    )
    code = ok(status="awaiting_confirmation", challenge=None, code="ABCD-EFGH")
    assert gives(DRIVER.passkey(S), code) == Passkey(code="ABCD-EFGH")
    assert gives(DRIVER.passkey(S), ok(status="none")).kind == "unlinked"


# -- numbers


def test_a_no_counts_only_while_its_own_number_is_found():
    yes, no = ok(is_on_whatsapp=True), ok(is_on_whatsapp=False)
    assert gives(DRIVER.check(S, "49"), yes) == Checked("yes")
    assert gives(DRIVER.check(S, "49"), no, LINKED, yes) == Checked("no")
    assert gives(DRIVER.check(S, "49"), no, LINKED, no).found == "unknown"
    assert gives(DRIVER.check(S, "49"), no, NEW).found == "unknown"
    assert gives(DRIVER.check(S, OWN), no, LINKED) == Checked("yes")
    assert gives(DRIVER.check(S, "49"), NOT_LOGGED_IN).kind == "unlinked"
    assert gives(DRIVER.check(S, "49"), no, GONE).kind == "missing"


# -- what goes wrong


def test_a_restriction_by_whatsapp_stops_the_session():
    reply = said(429, code="WA_REACHOUT_TIMELOCK", message="WhatsApp rejected this send")
    found = DRIVER.read_sent(reply)
    assert (found.stops, found.refused, found.pauses) == (True, True, "account")


@pytest.mark.parametrize(
    "reply",
    [
        NOT_LOGGED_IN,
        GONE_TOO,
        said(500, code="INVALID_WA_CLI", message="your WhatsApp CLI is empty"),
    ],
)
def test_a_session_that_is_not_there_waits_and_uses_up_no_attempt(reply):
    found = DRIVER.read_sent(reply)
    assert (found.pauses, found.after_s, found.stops, found.refused) == (
        "account",
        AGAIN_S,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (Reply(401, b"Unauthorized"), Retry("HTTP 401", pauses="account", refused=True)),
        (said(400, code="INVALID_JID", message="not on whatsapp"), Rejected("not on whatsapp")),
        (said(504, code="GATEWAY_TIMEOUT", message="slow"), Unclear("slow")),
        (said(500, message="context deadline exceeded"), Unclear("context deadline exceeded")),
        (said(500, message="websocket not connected"), Retry("websocket not connected")),
        (Reply(502, b"<html>"), Retry("HTTP 502")),
    ],
)
def test_what_else_may_be_said_to_a_send(reply, wanted):
    assert DRIVER.read_sent(reply) == wanted


@pytest.mark.parametrize(
    "talk", ["start", "stop", "restart", "logout", "delete", "code", "passkey", "look"]
)
def test_no_answer_is_told_as_such(talk):
    found = gives(getattr(driver(), talk)(S), NoReply(left=False, reason="could not connect"))
    assert found == Trouble("away", "could not connect")


@pytest.mark.parametrize("body", junk.NASTY.values(), ids=junk.NASTY.keys())
def test_no_answer_at_all_breaks_it_or_passes_for_a_yes(body):
    for status in (200, 302, 400, 401, 404, 429, 500, 504):
        reply = Reply(status, body)
        assert not isinstance(DRIVER.read_sent(reply), Sent)
        for talk in ("look", "code", "passkey", "start"):
            assert isinstance(gives(getattr(driver(), talk)(S), reply), Trouble | Link)


# -- events


def event(name, at_top=None, /, **payload):
    told = {"event": name, "device_id": f"{OWN}@s.whatsapp.net", "session_id": S}
    return json.dumps({**told, **(at_top or {}), "payload": payload}).encode()


FROM = {
    "id": "3EB0C127D7BACC83D6A1",
    "chat_id": "628987654321@s.whatsapp.net",
    "from": "628987654321@s.whatsapp.net",
    "from_lid": "251556368777322@lid",
    "from_name": "John Doe",
    "timestamp": "2023-10-15T10:30:00Z",
    "is_from_me": False,
}
PATH = "statics/media/1752404751-ad9e37ac.jpeg"


@pytest.mark.parametrize(
    ("told", "kind", "text", "where"),
    [
        ({"body": "Hello"}, "text", "Hello", ""),
        ({"image": PATH}, "image", "", PATH),
        ({"image": {"path": PATH, "caption": "see"}, "body": "see"}, "image", "see", PATH),
        ({"image": {"url": "https://mmg.whatsapp.net/x"}}, "image", "", ""),
        ({"video_note": "statics/media/a.mp4"}, "video", "", "statics/media/a.mp4"),
        ({"audio": "statics/media/a.ogg"}, "audio", "", "statics/media/a.ogg"),
        ({"document": "statics/../x"}, "file", "", ""),
        ({"sticker": "statics/media/a.webp"}, "sticker", "", "statics/media/a.webp"),
        ({"contact": {"displayName": "3Care", "vcard": "BEGIN"}}, "contact", "BEGIN", ""),
        ({"contacts_array": [{"vcard": "BEGIN"}, {}]}, "contact", "BEGIN", ""),
        (
            {"location": {"degreesLatitude": -6.2, "degreesLongitude": 106.8}},
            "location",
            "-6.2,106.8",
            "",
        ),
        ({"live_location": {"degreesLatitude": 1, "degreesLongitude": 2}}, "location", "1,2", ""),
        ({"list": {}}, "other", "", ""),
    ],
)
def test_what_people_send_is_told_by_its_kind(told, kind, text, where):
    (found,) = DRIVER.incoming(event("message", **FROM, **told))
    assert (found.kind, found.text, found.sender) == (kind, text, "628987654321")
    assert (found.name, found.also, found.group) == ("John Doe", ("251556368777322@lid",), False)
    assert found.at.isoformat() == "2023-10-15T10:30:00+00:00"
    assert (found.media.url if found.media else "") == where
    if found.media:
        assert DRIVER.media(found.media.url).url == f"{BASE}/{where}"


def test_a_file_is_known_by_its_name():
    (found,) = DRIVER.incoming(event("message", **FROM, image=PATH))
    assert (found.media.media_type, found.media.name) == ("image/jpeg", "1752404751-ad9e37ac.jpeg")


def test_a_reaction_comes_in_and_a_group_is_answered_as_one():
    (found,) = DRIVER.incoming(event("message.reaction", **FROM, reaction="👍"))
    assert (found.kind, found.text) == ("reaction", "👍")
    (found,) = DRIVER.incoming(event("message", **{**FROM, "chat_id": "12036-363@g.us"}, body="x"))
    assert (found.sender, found.group, found.also) == ("12036-363@g.us", True, ())
    assert DRIVER.incoming(event("message", **{**FROM, "is_from_me": True}, body="x")) == []
    assert DRIVER.incoming(event("message", **{**FROM, "chat_id": "1@newsletter"}, body="x")) == []


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        ("delivered", ["delivered", "delivered"]),
        ("read", ["read", "read"]),
        ("played", ["read", "read"]),
        ("sender", []),
        ("read-self", []),
        ("retry", []),
    ],
)
def test_a_receipt_is_of_each_of_its_messages(kind, states):
    told = {
        "ids": ["3EB00106", 7, "3EB00107"],
        "chat_id": "49@s.whatsapp.net",
        "receipt_type": kind,
    }
    found = DRIVER.receipts(event("message.ack", {"timestamp": "2025-07-18T22:44:20Z"}, **told))
    assert [receipt.state for receipt in found] == states
    if found:
        assert [receipt.provider_id for receipt in found] == ["3EB00106", "3EB00107"]
        assert found[0].at.isoformat() == "2025-07-18T22:44:20+00:00"
    told["chat_id"] = "1-2@g.us"
    assert {r.state for r in DRIVER.receipts(event("message.ack", **told))} <= {"sent"}


def test_nothing_that_is_posted_breaks_it():
    whole = [
        event("message", **FROM, body="x", image={"path": PATH, "caption": "x"}),
        event("message", **FROM, contact={"vcard": "x"}, document=PATH),
        event("message", **FROM, location={"degreesLatitude": 1, "degreesLongitude": 2}),
        event("message.reaction", **FROM, reaction="x"),
        event("message.ack", {"timestamp": "2025-07-18T22:44:20Z"}, ids=["A"], receipt_type="read"),
    ]
    for body in whole:
        for broken in junk.bodies(json.loads(body)):
            junk.judge(DRIVER, broken)
            assert DRIVER.links(broken) == []


# -- signatures


def test_only_what_is_signed_with_our_secret_is_the_sidecar_s():
    body = event("message", body="x")
    made = "sha256=" + hmac.new(b"planted-secret", body, hashlib.sha256).hexdigest()
    assert DRIVER.authentic({"x-hub-signature-256": made}, body, "planted-secret", 0)
    assert not DRIVER.authentic({"x-hub-signature-256": made}, body, "another", 0)
    assert not DRIVER.authentic({"x-hub-signature-256": made}, body + b" ", "planted-secret", 0)
    for wrong in (made[7:], "", "sha256=", "é", made + "0"):
        assert not DRIVER.authentic({"x-hub-signature-256": wrong}, body, "planted-secret", 0)
    assert not DRIVER.authentic({}, body, "planted-secret", 0)
    assert DRIVER.session_of(body) == S
    assert DRIVER.session_of(b'{"device_id": "1@s.whatsapp.net"}') == ""


def test_nothing_it_shows_holds_a_secret():
    d = driver()
    gives(d.code(S), WAITS, LOGIN, PICTURE)
    shown = repr(
        [d, [getattr(d, name) for name in d.__slots__ if name != "password"], HOOK, *requests()]
    )
    assert "planted" not in shown
    assert "PNG" not in shown


def test_it_is_offered_when_its_place_is_known():
    assert Gowa.from_env({"GOWA_USER": "x"}) is None
    env = {"GOWA_URL": f"{BASE}/", "GOWA_USER": "user", "GOWA_PASSWORD": "planted-password"}
    assert Gowa.from_env(env) == DRIVER
    assert "Authorization" not in Gowa(BASE).text(S, "1", "x", "k").headers
