"""The WAHA driver, judged by WAHA's own OpenAPI file: every request is one of it, every answer and event of it is read."""

import hashlib
import hmac
import io
import json

import pytest

from messengers.base import File, NoReply, Rejected, Reply, Retry, Sent, Unclear
from messengers.message_ids import id_of, key_of, part_key
from messengers.phones import Checked, Code, Hook, Link, Passkey, Trouble
from messengers.sidecars import AGAIN_S
from messengers.waha import WINDOW_S, Waha
from messengers.waha_events import EVENTS, STATES
from tests.messengers import junk, openapi
from tests.messengers.openapi import WAHA
from tests.messengers.talks import AT, gives, said, talked

BASE, S = "http://127.0.0.1:3000", "shop_0AbCdEfGhIjK"
HOOK = Hook(f"http://postrider:8080/hooks/whatsapp-web/{S}", "planted-secret")
DRIVER = Waha(BASE, "planted-key")
KEY = "0AbCdEfGhIjKlMnOpQrSt-17"
OLD = {"webhooks": [{"url": "http://else", "events": ["message"]}], "metadata": {"user.id": "1"}}
ASSERTION = {
    "id": "AX8bTgH2",
    "rawId": "AX8bTgH2",
    "type": "public-key",
    "response": {"clientDataJSON": "e30", "authenticatorData": "e30", "signature": "e30"},
}
GONE = said(404, statusCode=404, message="Session not found", error="Not Found")
RUNS = said(
    name=S, status="WORKING", config=OLD, me={"id": "4915112345678@c.us", "pushName": "Ana"}
)
DONE = Reply(201)
NOT_NOW = said(
    422,
    error="Session status is not as expected. Try again later or restart the session",
    session=S,
    status="SCAN_QR_CODE",
    expected=["WORKING"],
)
NOTHING_PENDING = said(422, statusCode=422, message="No passkey challenge is pending", error="x")


def file(kind="document", media_type="application/pdf", size=7, name="отчёт.pdf", **more):
    return File(
        name, media_type, size, kind, "A" * 22, open=lambda: io.BytesIO(b"x" * size), **more
    )


FILES = [
    file("image", "image/jpeg", name="a.jpg"),
    file("video", "video/mp4", name="a.mp4"),
    file("animation", "video/mp4", name="a.mp4"),
    file("voice", "audio/ogg", name="a.ogg"),
    file(),
    file(link="https://example.org/a.pdf"),
]


def requests():
    found = [request for talk, replies in _fresh() for request in talked(talk, *replies)[1]]
    found.append(DRIVER.text(S, "4915112345678", "Hello", KEY))
    for one in FILES:
        caption = "" if one.kind == "voice" else "see"
        found.append(DRIVER.file(S, "1-2@g.us", one, caption, KEY))
    return found


def _fresh():
    return [
        (DRIVER.create(S, HOOK), (GONE, RUNS)),
        (DRIVER.create(S, HOOK), (GONE, NOT_NOW, RUNS)),
        (DRIVER.create(S, HOOK), (RUNS,)),
        (DRIVER.start(S), (RUNS,)),
        (DRIVER.stop(S), (DONE,)),
        (DRIVER.restart(S), (RUNS,)),
        (DRIVER.logout(S), (DONE,)),
        (DRIVER.delete(S), (DONE,)),
        (DRIVER.look(S), (RUNS,)),
        (DRIVER.code(S), (said(value="2@abc"),)),
        (DRIVER.pair(S, "4915112345678"), (said(201, code="ABCD-ABCD"),)),
        (DRIVER.passkey(S), (NOTHING_PENDING, said(code="1234"))),
        (DRIVER.answer_passkey(S, ASSERTION), (DONE,)),
        (DRIVER.confirm_passkey(S), (DONE,)),
        (DRIVER.check(S, "4915112345678"), (said(numberExists=False),)),
        (DRIVER.presence(S, online=True), (DONE,)),
        (DRIVER.presence(S, online=False), (DONE,)),
    ]


def test_every_request_is_one_of_its_description():
    found = requests()
    for request in found:
        # `id` is told of texts only; its engines take it of every message: chatting.dto.ts hides it
        wrong = openapi.request_faults(WAHA, request, BASE, beyond={"id"})
        assert not wrong, (request.method, request.url, wrong)
        assert request.headers["X-Api-Key"] == "planted-key"
    assert len({(r.method, r.url.split("?")[0]) for r in found}) == 21


def test_what_is_not_in_the_description_is_found_out():
    text = DRIVER.text(S, "4915112345678", "Hello", KEY)
    for wrong in ({"textt": "x"}, {"text": 7}, {"session": None}):
        broken = type(text)("POST", text.url, text.headers, {**text.json, **wrong})
        assert openapi.request_faults(WAHA, broken, BASE, beyond={"id"})
    assert openapi.request_faults(WAHA, type(text)("GET", f"{BASE}/api/nowhere"), BASE)


# -- answers


def documented(method, template):
    return [
        Reply(status, b"" if value is None else json.dumps(value).encode())
        for status, value in openapi.answers(WAHA, method, template)
    ]


@pytest.mark.parametrize(
    ("method", "template", "talk"),
    [
        ("get", "/api/sessions/{session}", lambda: DRIVER.look(S)),
        ("post", "/api/sessions/{session}/start", lambda: DRIVER.start(S)),
    ],
)
def test_every_status_of_its_description_is_a_state(method, template, talk):
    found = {gives(talk(), reply).state for reply in documented(method, template)}
    assert found == set(STATES.values())


@pytest.mark.parametrize(
    ("method", "template", "talk", "wanted"),
    [
        ("post", "/api/sessions", lambda: _after_404(DRIVER.create(S, HOOK)), Link),
        ("put", "/api/sessions/{session}", lambda: _after_404(DRIVER.create(S, HOOK)), Link),
        ("get", "/api/contacts/check-exists", lambda: DRIVER.check(S, "1213213213"), Checked),
        ("get", "/api/{session}/auth/passkey/challenge", lambda: DRIVER.passkey(S), Passkey),
        ("post", "/api/sessions/{session}/logout", lambda: DRIVER.logout(S), type(None)),
        ("delete", "/api/sessions/{session}", lambda: DRIVER.delete(S), type(None)),
        ("post", "/api/{session}/presence", lambda: DRIVER.presence(S, online=True), type(None)),
        ("post", "/api/{session}/auth/passkey", lambda: DRIVER.answer_passkey(S, {}), type(None)),
    ],
)
def test_every_documented_answer_is_read(method, template, talk, wanted):
    found = documented(method, template)
    assert found
    for reply in found:
        assert isinstance(gives(talk(), reply), wanted)


def _after_404(talk):
    next(talk)
    talk.send(GONE)
    return _rest(talk)


def _rest(talk):
    """The talk from its second request on."""
    reply = yield "already asked"
    try:
        while True:
            reply = yield talk.send(reply)
    except StopIteration as stop:
        return stop.value


def test_a_qr_code_is_read_as_its_text():
    found = [gives(DRIVER.code(S), r) for r in documented("get", "/api/{session}/auth/qr")]
    assert Code(b"", "text") in found


def test_a_confirmation_is_read_once_no_challenge_is_pending():
    (reply,) = documented("get", "/api/{session}/auth/passkey/confirmation")
    assert gives(DRIVER.passkey(S), NOTHING_PENDING, reply) == Passkey(code="1234")
    assert gives(DRIVER.passkey(S), NOTHING_PENDING).kind == "unlinked"


@pytest.mark.parametrize(
    "body",
    [
        {"id": "true_11111111111@c.us_AAAA", "_data": {}},
        {"id": "true_120363402931855007@g.us_AAAA_551137774071@c.us"},
        {
            "id": {
                "fromMe": True,
                "remote": "1@c.us",
                "id": "AAAA",
                "_serialized": "true_1@c.us_AAAA",
            }
        },
        {"id": {"_serialized": "true_1@c.us_AAAA"}},
        {"key": {"remoteJid": "1@s.whatsapp.net", "fromMe": True, "id": "AAAA"}, "status": 1},
    ],
    ids=["GOWS", "GOWS, a group", "WEBJS", "WEBJS, older", "NOWEB"],
)
def test_each_engine_s_answer_to_a_send_names_the_message(body):
    assert DRIVER.read_sent(said(201, **body)) == Sent("AAAA")


def test_the_documented_answer_to_a_send_names_the_message():
    for reply in documented("post", "/api/sendText"):
        assert DRIVER.read_sent(reply) == Sent("AAAAAAAAAAAAAAAAAAAA")


def test_what_holds_no_message_id_is_no_proof():
    assert isinstance(DRIVER.read_sent(Reply(201, b"{}")), Unclear)


# -- what goes wrong


def engine_says(message):
    return said(500, statusCode=500, exception={"message": message, "code": 2, "name": "Error"})


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (engine_says("2 UNKNOWN: server returned error 463"), Retry),
        (engine_says("rate-overlimit"), Retry),
    ],
)
def test_a_restriction_by_whatsapp_stops_the_session(reply, wanted):
    found = DRIVER.read_sent(reply)
    assert isinstance(found, wanted)
    assert (found.stops, found.refused, found.pauses) == (True, True, "account")
    assert gives(DRIVER.check(S, "1"), reply).kind == "limited"


@pytest.mark.parametrize("reply", [NOT_NOW, GONE])
def test_a_session_that_is_not_there_waits_and_uses_up_no_attempt(reply):
    found = DRIVER.read_sent(reply)
    assert (found.pauses, found.stops, found.refused) == ("account", False, False)
    assert found.after_s == AGAIN_S
    assert ("SCAN_QR_CODE" in found.reason) is (reply is NOT_NOW)


def test_a_wrong_key_waits_for_whoever_mends_it():
    found = DRIVER.read_sent(said(401, statusCode=401, message="Unauthorized"))
    assert (found.refused, found.stops, found.pauses) == (True, False, "account")


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (engine_says("4 DEADLINE_EXCEEDED: Deadline exceeded"), Unclear),
        (engine_says("2 UNKNOWN: timed out waiting for message send response"), Unclear),
        (engine_says("2 UNKNOWN: websocket not connected"), Retry),
        (engine_says("request entity too large"), Rejected),
        (
            said(422, statusCode=422, message="The method is not implemented by the engine."),
            Rejected,
        ),
        (said(400, message=["chatId must be a string", "text is missing"]), Rejected),
        (said(429, message="ThrottlerException: Too Many Requests"), Retry),
        (Reply(502, b"<html>"), Retry),
        (Reply(302), Unclear),
    ],
)
def test_what_else_may_be_said_to_a_send(reply, wanted):
    assert isinstance(DRIVER.read_sent(reply), wanted)


def test_reasons_are_the_words_not_the_status():
    assert DRIVER.read_sent(GONE).reason == "Session not found"
    reply = said(400, message=["chatId must be a string", "text is missing"])
    assert DRIVER.read_sent(reply).reason == "chatId must be a string text is missing"


@pytest.mark.parametrize(
    "talk", ["start", "stop", "restart", "logout", "delete", "code", "passkey"]
)
def test_no_answer_is_told_as_such(talk):
    found = gives(getattr(DRIVER, talk)(S), NoReply(left=False, reason="could not connect"))
    assert found == Trouble("away", "could not connect")


# -- sessions


def test_a_session_that_is_there_keeps_what_else_its_operator_set():
    _, asked = talked(DRIVER.create(S, HOOK), RUNS)
    (put,) = [request for request in asked if request.method == "PUT"]
    assert put.json["config"]["metadata"] == {"user.id": "1"}
    assert [one["url"] for one in put.json["config"]["webhooks"]] == ["http://else", HOOK.url]


def test_a_session_that_has_our_hook_is_not_restarted_for_it():
    config = {"webhooks": [{"url": HOOK.url, "events": [*EVENTS], "hmac": {"key": HOOK.secret}}]}
    _, asked = talked(DRIVER.create(S, HOOK), said(name=S, status="WORKING", config=config))
    assert [request.method for request in asked] == ["GET", "POST"]
    assert asked[1].url.endswith("/start")


def test_logging_out_stops_it_too_so_that_no_code_is_shown_unasked():
    _, asked = talked(DRIVER.logout(S), DONE)
    assert [request.url.rpartition("/")[2] for request in asked] == ["logout", "stop"]
    assert gives(DRIVER.logout(S), GONE).kind == "missing"


def test_a_linked_phone_is_known_by_its_number():
    assert gives(DRIVER.look(S), RUNS) == Link("linked", "4915112345678", "Ana")
    assert gives(DRIVER.look(S), GONE) == Link("missing", reason="Session not found")
    assert gives(DRIVER.delete(S), GONE) is None


def test_a_number_is_written_to_where_whatsapp_says():
    found = said(numberExists=True, chatId="553198982288@c.us")
    assert gives(DRIVER.check(S, "5531998982288"), found) == Checked("yes", "553198982288")
    assert gives(DRIVER.check(S, "553198982288"), found) == Checked("yes")
    assert gives(DRIVER.check(S, "1"), said(numberExists=False)) == Checked("no")
    assert gives(DRIVER.check(S, "1"), NOT_NOW).kind == "unlinked"


# -- message ids


def test_a_message_bears_the_same_id_each_time_and_another_than_any_other():
    keys = [KEY, "0AbCdEfGhIjKlMnOpQrSt-18", part_key(KEY, 1), part_key(KEY, 2), "odd"]
    ids = [DRIVER.text(S, "1", "x", key).json["id"] for key in keys]
    assert len(set(ids)) == len(keys)
    assert ids == [DRIVER.text(S, "1", "y", key).json["id"] for key in keys]
    assert all(id_.startswith("3EB0") and "_" not in id_ for id_ in ids)


@pytest.mark.parametrize("key", [KEY, "0" * 21 + "-0", "z" * 21 + "-999999"])
def test_an_id_names_its_delivery(key):
    assert key_of(id_of(key)) == key
    assert key_of(id_of(part_key(key, 15))) == ""


@pytest.mark.parametrize(
    "id_", ["", "3EB0" + "F" * 38, "3EB0B430B6F8F1D0E053AC120E0A9E5C", "3EB0" + "0" * 18]
)
def test_another_s_id_names_none(id_):
    assert key_of(id_) == ""


# -- events


def event(name, /, **payload):
    told = {"id": "evt_1", "event": name, "session": S, "timestamp": int(AT.timestamp() * 1000)}
    return json.dumps({**told, "me": {"id": "1@c.us"}, "payload": payload}).encode()


def documented_events(name):
    schema = openapi.load(WAHA)["webhooks"][name]["post"]["requestBody"]
    return openapi.examples(WAHA, schema["content"]["application/json"]["schema"])


def test_every_event_of_its_description_is_read():
    for name in openapi.load(WAHA)["webhooks"]:
        for value in documented_events(name):
            junk.judge(DRIVER, json.dumps(value).encode())


def test_every_status_that_is_told_is_a_state():
    found = set()
    for value in documented_events("session.status"):
        for status in STATES:
            value["payload"]["status"] = status
            body = json.dumps(value).encode()
            assert DRIVER.session_of(body) == "default"
            found |= {link.state for link in DRIVER.links(body)}
    assert found == set(STATES.values())


@pytest.mark.parametrize("name", ["message", "message.reaction"])
def test_every_documented_message_comes_in(name):
    for value in documented_events(name):
        value["payload"]["fromMe"] = False
        (found,) = DRIVER.incoming(json.dumps(value).encode())
        assert (found.sender, found.at.year) == ("11111111111", 2022)
        assert found.id == "false_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    ("ack", "state"), [(-1, "failed"), (1, "sent"), (2, "delivered"), (3, "read"), (4, "read")]
)
def test_every_ack_is_a_receipt_that_names_its_delivery(ack, state):
    for value in documented_events("message.ack"):
        value["payload"] |= {"fromMe": True, "ack": ack, "id": f"true_1@c.us_{id_of(KEY)}"}
        (found,) = DRIVER.receipts(json.dumps(value).encode())
        assert (found.provider_id, found.state, found.key) == (id_of(KEY), state, KEY)
        assert found.at.isoformat() == "2021-10-18T14:38:10.123000+00:00"


def test_what_is_pending_or_another_s_is_no_receipt():
    for told in (
        {"ack": 0, "fromMe": True},
        {"ack": 3, "fromMe": False},
        {"ack": True, "fromMe": True},
    ):
        assert DRIVER.receipts(event("message.ack", id="true_1@c.us_AAAA", **told)) == []


def test_one_reader_of_a_group_proves_no_more_than_that_it_was_sent():
    told = {"id": f"true_1-2@g.us_{id_of(KEY)}_3@lid", "from": "1-2@g.us", "fromMe": True, "ack": 3}
    (found,) = DRIVER.receipts(event("message.ack.group", **told))
    assert (found.provider_id, found.state, found.key) == (id_of(KEY), "sent", KEY)


FROM = {"id": "false_49@c.us_A", "from": "4915112345678@c.us", "fromMe": False, "timestamp": 1.5e9}


@pytest.mark.parametrize(
    ("told", "kind", "text"),
    [
        ({"body": "Hi"}, "text", "Hi"),
        ({"location": {"latitude": 52.5, "longitude": "13.4"}}, "location", "52.5,13.4"),
        ({"vCards": ["BEGIN:VCARD"]}, "contact", "BEGIN:VCARD"),
        ({"reaction": {"text": "👍", "messageId": "x"}}, "reaction", "👍"),
        ({"hasMedia": True, "media": None, "body": "see"}, "file", "see"),
        ({"media": {"mimetype": "image/jpeg", "url": "http://x/api/files/a.jpg"}}, "image", ""),
        ({"media": {"mimetype": "image/webp", "url": "http://x/api/files/a.webp"}}, "sticker", ""),
        ({"media": {"mimetype": "application/pdf"}, "body": "see"}, "file", "see"),
        ({"body": None}, "other", ""),
    ],
)
def test_what_people_send_is_told_by_its_kind(told, kind, text):
    (found,) = DRIVER.incoming(event("message", **FROM, **told))
    assert (found.kind, found.text, found.sender, found.group) == (
        kind,
        text,
        "4915112345678",
        False,
    )


@pytest.mark.parametrize(
    "data", [{"Info": {"PushName": "Eva"}}, {"pushName": "Eva"}, {"notifyName": "Eva"}]
)
def test_each_engine_s_name_of_a_sender_is_known(data):
    (found,) = DRIVER.incoming(event("message", **FROM, body="x", _data=data))
    assert found.name == "Eva"


def test_a_group_is_answered_as_a_group_and_channels_are_nobody():
    (found,) = DRIVER.incoming(event("message", **{**FROM, "from": "120-363@g.us"}, body="x"))
    assert (found.sender, found.group) == ("120-363@g.us", True)
    for nobody in ("status@broadcast", "123@newsletter", "x@c.us"):
        assert DRIVER.incoming(event("message", **{**FROM, "from": nobody}, body="x")) == []
    assert DRIVER.incoming(event("message", **{**FROM, "fromMe": True}, body="x")) == []


def test_media_is_fetched_from_the_sidecar_whatever_host_is_named():
    media = {"mimetype": "application/pdf", "filename": "a.pdf"}
    url = "http://localhost:3000/waha/api/files/shop/false_49@c.us_A.pdf"
    (found,) = DRIVER.incoming(event("message", **FROM, media={**media, "url": url}))
    assert found.media.name == "a.pdf"
    request = DRIVER.media(found.media.url)
    assert request.url == f"{BASE}/api/files/shop/false_49@c.us_A.pdf"
    assert request.headers["X-Api-Key"] == "planted-key"


@pytest.mark.parametrize(
    "url",
    [
        "http://x/api/sessions",
        "http://x/api/files/../sessions",
        "/api/files/%2e%2e/x",
        "http://[",
        7,
    ],
)
def test_media_that_is_elsewhere_is_not_fetched(url):
    (found,) = DRIVER.incoming(event("message", **FROM, media={"mimetype": "a/b", "url": url}))
    assert found.media is None


def test_nothing_that_is_posted_breaks_it():
    media = {"mimetype": "a/b", "url": "http://x/api/files/a", "filename": "a"}
    whole = [
        event("message", **FROM, body="x", media=media, _data={"Info": {"PushName": "E"}}),
        event("message", **FROM, vCards=["x"], location={"latitude": 1, "longitude": 2}),
        event("message.reaction", **FROM, reaction={"text": "x"}),
        event("message.ack", id="true_1@c.us_A", fromMe=True, ack=3, **{"from": "1@g.us"}),
        event("session.status", name=S, status="WORKING", statuses=[]),
    ]
    for body in whole:
        for broken in junk.bodies(json.loads(body)):
            junk.judge(DRIVER, broken)


# -- signatures


def signed(body, secret="planted-secret"):
    made = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return {"x-webhook-hmac": made, "x-webhook-hmac-algorithm": "sha512"}


def test_the_documented_signature_is_the_one_we_make():
    body, secret = b'{"event":"message","session":"default","engine":"WEBJS"}', "my-secret-key"
    assert signed(body, secret)["x-webhook-hmac"].startswith("208f8a55dde9e05519e898b10b89bf0d")


def test_only_what_is_signed_lately_with_our_secret_is_the_sidecar_s():
    body, now = event("message", body="x"), AT.timestamp()
    right = signed(body)
    assert DRIVER.authentic(right, body, "planted-secret", now)
    assert DRIVER.authentic(
        {"x-webhook-hmac": right["x-webhook-hmac"].upper()}, body, "planted-secret", now
    )
    assert DRIVER.authentic(right, body, "planted-secret", now + WINDOW_S)
    assert not DRIVER.authentic(right, body, "planted-secret", now + WINDOW_S + 1)
    assert not DRIVER.authentic(right, body, "planted-secret", now - WINDOW_S - 1)
    assert not DRIVER.authentic(right, body, "another", now)
    assert not DRIVER.authentic(right, body + b" ", "planted-secret", now)
    assert not DRIVER.authentic({}, body, "planted-secret", now)
    assert not DRIVER.authentic({"x-webhook-hmac": "é"}, body, "planted-secret", now)
    undated = b'{"event": "message"}'
    assert not DRIVER.authentic(signed(undated), undated, "planted-secret", now)


def test_nothing_it_shows_holds_a_secret():
    shown = repr([DRIVER, HOOK, *requests(), DRIVER.code(S), Code(b"png", "2@abc")])
    assert "planted" not in shown
    assert "2@abc" not in shown


def test_it_is_offered_when_its_place_is_known():
    assert Waha.from_env({}) is None
    assert Waha.from_env({"WAHA_URL": " "}) is None
    assert Waha.from_env({"WAHA_URL": f"{BASE}/ ", "WAHA_API_KEY": "planted-key"}) == DRIVER
    assert "X-Api-Key" not in Waha(BASE).text(S, "1", "x", KEY).headers
