"""What messengers post to us, beside how other people's code signs and reads it: pywa, python-telegram-bot, npm's
whatsapp-api-js. viberbot judges in test_viber.py. And junk, for every adapter."""

import hashlib
import hmac
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pywa
import telegram
from pywa import types as pywa_types
from pywa.utils import webhook_updates_validator

from messengers.base import Identity, Rejected, Reply, Retry
from messengers.telegram import Telegram
from messengers.viber import Viber
from messengers.whatsapp import WhatsApp
from tests.messengers import specs

NOW = datetime(2031, 1, 1, tzinfo=UTC)
SECRET, VERIFY, NUMBER_ID = "app-secret-é", "verify-me", "106540352242922"
WHATSAPP = WhatsApp("EAAG0", NUMBER_ID, app_secret=SECRET, verify_token=VERIFY)
TELEGRAM = Telegram("123:abc", secret="hook_secret-1")
VIBER = Viber("445da6az1s345z78-dazcczb2542zv51a-e0vc5fva17480im9")
KEY = "351EIkkf1SpmhoPKEJTRQ-7"
WAMID = "wamid.HBgLMTY1MDM4Nzk0MzkVAgARGBI="
STAMP = str(int(NOW.timestamp()))
PYWA = pywa.WhatsApp(
    phone_id=NUMBER_ID, token="t", app_secret=SECRET, verify_token=VERIFY, server=None
)


def callback(**value: object) -> dict[str, Any]:
    metadata = {"display_phone_number": "15550783881", "phone_number_id": NUMBER_ID}
    value = {"messaging_product": "whatsapp", "metadata": metadata, **value}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "1", "changes": [{"value": value, "field": "messages"}]}],
    }


def status(state: str, **more: object) -> dict[str, Any]:
    return {
        "id": WAMID,
        "status": state,
        "timestamp": STAMP,
        "recipient_id": "16505551234",
        "biz_opaque_callback_data": KEY,
        **more,
    }


CONTACT = {
    "profile": {"name": "Ada"},
    "wa_id": "16505551234",
    "user_id": "US.13491208655302741918",
}


def message(type_: str = "text", **more: object) -> dict[str, Any]:
    return {"from": "16505551234", "id": WAMID, "timestamp": STAMP, "type": type_, **more}


def as_bytes(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}"}


# -- WhatsApp: who calls


BODY = as_bytes(callback(statuses=[status("read")], contacts=[CONTACT]))


def test_pywa_accepts_what_we_accept_and_refuses_what_we_refuse():
    ours = signed(BODY)
    for body, headers in [
        (BODY, ours),
        (BODY + b" ", ours),
        (json.dumps(json.loads(BODY)).encode(), ours),
        (BODY, signed(BODY, "another")),
        (BODY, {"x-hub-signature-256": "sha256="}),
        (BODY, {"x-hub-signature-256": "sha256=é"}),
    ]:
        header = headers["x-hub-signature-256"]
        if header.isascii():
            theirs = webhook_updates_validator(SECRET, body, header)
            assert PYWA.webhook_update_validator(body, header) is None or not theirs
            assert WHATSAPP.authentic(headers, body, NOW) == theirs
        else:
            assert not WHATSAPP.authentic(headers, body, NOW)
    assert WHATSAPP.authentic(ours, BODY, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": signed(BODY)["x-hub-signature-256"].removeprefix("sha256=")},
        {"x-hub-signature-256": signed(BODY)["x-hub-signature-256"].upper()},
        {"x-hub-signature-256": "sha1=" + hmac.new(b"s", BODY, hashlib.sha1).hexdigest()},
        {"x-hub-signature-256": "\ud800"},
        {"x-hub-signature": signed(BODY)["x-hub-signature-256"]},
    ],
)
def test_a_missing_or_malformed_signature_is_refused(headers):
    assert not WHATSAPP.authentic(headers, BODY, NOW)


def test_nothing_is_authentic_without_a_secret_of_ours():
    assert not WhatsApp("t", NUMBER_ID).authentic(signed(BODY, ""), BODY, NOW)
    assert not Telegram("t").authentic({"x-telegram-bot-api-secret-token": ""}, b"{}", NOW)
    assert WhatsApp("t", NUMBER_ID).webhook_lacks() == (
        "WHATSAPP_APP_SECRET",
        "WHATSAPP_VERIFY_TOKEN",
    )
    assert Telegram("t").webhook_lacks() == ("TELEGRAM_WEBHOOK_SECRET",)


@pytest.mark.parametrize(("days", "fresh"), [(-9, False), (-1, True), (7, True), (9, False)])
def test_meta_may_repeat_for_a_week_and_no_longer(days, fresh):
    assert WHATSAPP.authentic(signed(BODY), BODY, NOW + timedelta(days=days)) == fresh


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ({"hub.mode": "subscribe", "hub.verify_token": VERIFY, "hub.challenge": "115"}, "115"),
        ({"hub.mode": "subscribe", "hub.verify_token": "wrong", "hub.challenge": "115"}, None),
        ({"hub.mode": "subscribe", "hub.challenge": "115"}, None),
        ({"hub.mode": "x", "hub.verify_token": VERIFY, "hub.challenge": "115"}, None),
        ({"hub.mode": "subscribe", "hub.verify_token": VERIFY}, None),
        ({"hub.mode": "subscribe", "hub.verify_token": VERIFY, "hub.challenge": "<a b>"}, None),
        ({}, None),
    ],
)
def test_metas_question_is_answered_as_by_pywa(query, answer):
    assert WHATSAPP.challenge(query) == answer
    if answer:
        token, word = query.get("hub.verify_token"), query.get("hub.challenge")
        assert PYWA.webhook_challenge_handler(vt=token, ch=word) == (answer, 200)


def test_without_a_verify_token_no_question_is_answered():
    query = {"hub.mode": "subscribe", "hub.verify_token": "", "hub.challenge": "1"}
    assert WhatsApp("t", NUMBER_ID, app_secret="s").challenge(query) is None


JUDGE = """
import { WhatsAppAPI } from "whatsapp-api-js";
import { readFileSync } from "node:fs";
const { secret, token, cases, query } = JSON.parse(readFileSync(0, "utf8"));
const api = new WhatsAppAPI({ token: "t", appSecret: secret, webhookVerifyToken: token, v: "v23.0",
  ponyfill: { subtle: globalThis.crypto.subtle, fetch } });
const verdicts = [];
for (const [body, signature] of cases) verdicts.push(await api.verifyRequestSignature(body, signature));
console.log(JSON.stringify({ verdicts, challenge: api.get(query) }));
"""


def test_npms_whatsapp_api_js_judges_signatures_and_challenge_as_we_do(tmp_path: Path):
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("NOT JUDGED: npm is not on this machine")
    npm = ["npm", "install", "--no-audit", "--no-fund", "--silent", "whatsapp-api-js@6"]
    try:
        subprocess.run(npm, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("NOT JUDGED: npm cannot install whatsapp-api-js here")
    (tmp_path / "judge.mjs").write_text(JUDGE)
    ours = signed(BODY)["x-hub-signature-256"]
    umlaut = as_bytes(callback(messages=[message(text={"body": "Grüße 👋"})]))
    cases = [
        (BODY, ours),
        (umlaut, signed(umlaut)["x-hub-signature-256"]),
        (BODY + b" ", ours),
        (json.dumps(json.loads(BODY)).encode(), ours),
        (BODY, signed(BODY, "another")["x-hub-signature-256"]),
        (BODY, "sha256="),
        (BODY, ""),
    ]
    query = {"hub.mode": "subscribe", "hub.verify_token": VERIFY, "hub.challenge": "115"}
    asked = {"secret": SECRET, "token": VERIFY, "query": query}
    asked["cases"] = [(body.decode(), signature) for body, signature in cases]  # type: ignore[assignment]
    run = subprocess.run(
        ["node", "judge.mjs"],
        cwd=tmp_path,
        input=json.dumps(asked),
        text=True,
        capture_output=True,
        timeout=30,
        check=True,
    )
    said = json.loads(run.stdout)
    assert said["verdicts"] == [
        WHATSAPP.authentic({"x-hub-signature-256": signature}, body, NOW)
        for body, signature in cases
    ]
    assert said["verdicts"].count(True) == 2
    assert said["challenge"] == WHATSAPP.challenge(query)


# -- WhatsApp: what it tells


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sent", "sent"),
        ("delivered", "delivered"),
        ("read", "read"),
        ("played", "read"),
        ("failed", "failed"),
    ],
)
def test_a_status_is_read_as_by_pywa(theirs, ours):
    body = callback(statuses=[status(theirs)], contacts=[CONTACT])
    judged = pywa_types.MessageStatus.from_update(PYWA, body)
    (found,) = WHATSAPP.receipts(as_bytes(body))
    assert (found.provider_id, found.key) == (judged.id, judged.tracker)
    assert found.at == judged.timestamp.astimezone(UTC)
    assert (judged.status, found.state) == (theirs, ours)


def test_a_failed_status_brings_metas_words_and_says_who_is_dead():
    error = {
        "code": 131050,
        "title": "x",
        "message": "Opted out",
        "error_data": {"details": "of marketing"},
    }
    (found,) = WHATSAPP.receipts(as_bytes(callback(statuses=[status("failed", errors=[error])])))
    assert found.reason.startswith("131050: Opted out / of marketing")
    assert found.dead
    error["code"] = 131026
    (found,) = WHATSAPP.receipts(as_bytes(callback(statuses=[status("failed", errors=[error])])))
    assert not found.dead


def test_all_statuses_of_all_changes_of_all_entries_are_found_but_for_other_numbers():
    one = callback(statuses=[status("sent"), status("read")])["entry"][0]
    other = json.loads(json.dumps(one).replace(NUMBER_ID, "999"))
    body = {"entry": [{"changes": [*one["changes"], *one["changes"]]}, one, other]}
    assert len(WHATSAPP.receipts(as_bytes(body))) == 6


@pytest.mark.parametrize("key", ["x", "", 5, None, KEY + "\n", "A" * 22 + "-0", "A" * 21 + "-é"])
def test_a_key_that_is_none_of_ours_is_left_out(key):
    raw = status("read") | {"biz_opaque_callback_data": key}
    (found,) = WHATSAPP.receipts(as_bytes(callback(statuses=[raw])))
    assert found.key == ""


@pytest.mark.parametrize(
    ("raw", "text", "kind"),
    [
        (message(text={"body": "Hi 👋"}), "Hi 👋", "text"),
        (message("button", button={"payload": "p", "text": "Unsubscribe"}), "Unsubscribe", "button"),
        (message("interactive", interactive={"type": "button_reply", "button_reply": {"id": "1", "title": "Yes"}}), "Yes", "button"),
        (message("interactive", interactive={"type": "list_reply", "list_reply": {"id": "1", "title": "No"}}), "No", "button"),
        (message("image", image={"id": "1", "caption": "Taj"}), "Taj", "image"),
        (message("audio", audio={"id": "1"}), "", "audio"),
        (message("reaction", reaction={"message_id": "m", "emoji": "👍"}), "👍", "reaction"),
        (message("unsupported"), "", "other"),
    ],
)  # fmt: skip
def test_a_message_gives_its_words_and_every_address_of_its_sender(raw, text, kind):
    (found,) = WHATSAPP.incoming(as_bytes(callback(messages=[raw], contacts=[CONTACT])))
    assert (found.text, found.kind, found.id, found.at) == (text, kind, WAMID, NOW)
    assert (found.sender, found.also) == ("16505551234", ("US.13491208655302741918",))
    assert found.name == "Ada"


def test_who_hides_the_number_is_answered_by_bsuid():
    raw = message(text={"body": "Hi"}) | {"from_user_id": "US.1", "from": None}
    (found,) = WHATSAPP.incoming(as_bytes(callback(messages=[raw])))
    assert (found.sender, found.name) == ("US.1", "US.1")


def test_metas_own_examples_are_read():
    examples = specs.load(specs.WHATSAPP)["paths"]["/whatsapp/webhooks"]["post"]["requestBody"]
    found = {
        name: WHATSAPP.incoming(as_bytes(example["value"]))
        for name, example in examples["content"]["application/json"]["examples"].items()
    }
    assert found["Text Message"][0].text == "Does it come in another color?"
    assert sum(map(len, found.values())) >= 12


def test_the_address_is_set_for_the_number_as_pywa_does_it():
    request = WHATSAPP.webhook_request("https://example.org/hooks/whatsapp/default")
    posted: dict[str, Any] = {}
    api = pywa.api.GraphAPI.__new__(pywa.api.GraphAPI)
    api._request = lambda **call: posted.update(call) or {"success": True}  # type: ignore[method-assign]  # noqa: SLF001
    api.set_phone_alternate_callback_url(
        "https://example.org/hooks/whatsapp/default", VERIFY, NUMBER_ID
    )
    assert request.json == posted["json"]
    assert request.url.endswith(posted["endpoint"].strip("/"))
    assert isinstance(WHATSAPP.read_webhook(Reply(200, b'{"success": true}')), Identity)
    refused = b'{"error": {"code": 100, "message": "Callback verification failed"}}'
    assert isinstance(WHATSAPP.read_webhook(Reply(400, refused)), Rejected)


# -- Telegram


def update(**event: object) -> dict[str, Any]:
    return {"update_id": 91, **event}


def private(text: str = "Hi") -> dict[str, Any]:
    who = {"id": 42, "first_name": "Ada", "username": "ada", "is_bot": False}
    chat = {"id": 42, "type": "private", "first_name": "Ada", "username": "ada"}
    return {"message_id": 5, "date": int(STAMP), "chat": chat, "from": who, "text": text}


def test_a_message_is_read_as_by_python_telegram_bot():
    raw = update(message=private())
    theirs = telegram.Update.de_json(raw, None)
    (found,) = TELEGRAM.incoming(as_bytes(raw))
    assert theirs.message
    assert (found.id, found.sender) == (str(theirs.update_id), str(theirs.message.chat.id))
    assert (found.text, found.at) == (theirs.message.text, theirs.message.date)
    assert (found.name, found.kind, found.group) == ("@ada (Ada)", "text", False)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"photo": [], "caption": "Taj"}, "image"),
        ({"document": {}}, "file"),
        ({"voice": {}}, "audio"),
        ({"dice": {}}, "other"),
    ],
)
def test_what_is_no_text_has_a_kind_and_its_caption(event, kind):
    raw = {k: v for k, v in private().items() if k != "text"} | event
    (found,) = TELEGRAM.incoming(as_bytes(update(message=raw)))
    assert (found.kind, found.text) == (kind, event.get("caption", ""))


def test_in_a_group_the_group_is_answered_and_the_writer_named():
    raw = private() | {"chat": {"id": -1001, "type": "supergroup", "title": "Choir"}}
    (found,) = TELEGRAM.incoming(as_bytes(update(message=raw)))
    assert (found.sender, found.name, found.group) == ("-1001", "@ada (Ada)", True)


@pytest.mark.parametrize(("theirs", "kind"), [("kicked", "left"), ("member", "joined")])
def test_who_blocks_the_bot_or_comes_back_is_told(theirs, kind):
    event = private() | {"new_chat_member": {"status": theirs, "user": {}}}
    (found,) = TELEGRAM.incoming(as_bytes(update(my_chat_member=event)))
    assert (found.sender, found.kind, found.text) == ("42", kind, "")


@pytest.mark.parametrize(
    ("given", "right"),
    [("hook_secret-1", True), ("hook_secret-2", False), ("", False), ("é\ud800", False)],
)
def test_telegram_shows_our_secret(given, right):
    headers = {"x-telegram-bot-api-secret-token": given}
    assert TELEGRAM.authentic(headers, b"{}", NOW) == right


def test_the_webhook_is_asked_for_with_secret_and_updates():
    request = TELEGRAM.webhook_request("https://example.org/x")
    assert request.url.endswith("/setWebhook")
    assert request.json == {
        "url": "https://example.org/x",
        "secret_token": "hook_secret-1",
        "allowed_updates": ["message", "channel_post", "my_chat_member"],
    }
    pointer = specs.request_body("/bot{token}/setWebhook")
    assert specs.faults(specs.TELEGRAM, pointer, request.json) == []
    assert isinstance(TELEGRAM.read_webhook(Reply(200, b'{"ok":true,"result":true}')), Identity)
    no = b'{"ok":false,"error_code":400,"description":"Bad Request: bad webhook: HTTPS url must be provided"}'
    assert isinstance(TELEGRAM.read_webhook(Reply(400, no)), Rejected)
    assert isinstance(TELEGRAM.read_webhook(Reply(401, b"")), Retry)


# -- junk


JUNK = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"NaN",
    b"[" * 100_000,
    b'{"entry":' * 50_000,
    b'{"update_id": ' + b"9" * 5000 + b"}",
]
VALUES: list[object] = [None, True, 5, -1, 1e300, "x", "", [], {}, [None], [[]], [{}], {"id": {}}]


def everywhere(value: object, junk: object) -> list[object]:
    """`value`, with `junk` in the place of each of its parts in turn."""
    found = [junk]
    if isinstance(value, dict):
        for key, part in value.items():
            found += [{**value, key: each} for each in everywhere(part, junk)]
    elif isinstance(value, list) and value:
        found += [[each, *value[1:]] for each in everywhere(value[0], junk)]
    return found


WELL_FORMED: list[object] = [
    callback(statuses=[status("failed", errors=[{"code": 1, "error_data": {"details": "x"}}])]),
    callback(messages=[message(text={"body": "x"})], contacts=[CONTACT]),
    callback(messages=[message("image", image={"caption": "x"})], contacts=[CONTACT, CONTACT]),
    update(message=private()),
    update(my_chat_member=private() | {"new_chat_member": {"status": "kicked"}}),
    {"event": "failed", "timestamp": 1, "message_token": 1, "user_id": "a", "desc": "x"},
    {"event": "message", "timestamp": 1, "message_token": 1, "sender": {"id": "a", "name": "x"}, "message": {"type": "text", "text": "x"}},
]  # fmt: skip


@pytest.mark.parametrize("adapter", [TELEGRAM, VIBER, WHATSAPP], ids=lambda a: a.name)
def test_whatever_is_posted_gives_a_list_and_never_an_error(adapter):
    bodies = JUNK + [
        as_bytes(each)
        for well_formed in WELL_FORMED
        for junk in VALUES
        for each in everywhere(well_formed, junk)
    ]
    for body in bodies:
        for receipt in adapter.receipts(body):
            assert receipt.provider_id
            assert receipt.reason.encode() is not None
        for told in adapter.incoming(body):
            assert not adapter.check_recipient(told.sender)
            assert (told.id + told.name + told.text).encode()
        headers = signed(body) | {
            "x-viber-content-signature": hmac.new(
                VIBER.token.encode(), body, hashlib.sha256
            ).hexdigest()
        }
        assert adapter.authentic(headers, body, NOW) in {True, False}
    assert len(bodies) > 1000
