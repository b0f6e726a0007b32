"""What every adapter owes, whatever it speaks to: no answer breaks it, nothing it shows holds a secret."""

import copy
import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messengers import MESSENGERS
from messengers.base import (
    Errand,
    Identity,
    Note,
    Outbound,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Unclear,
)

ENV = {
    "TELEGRAM_BOT_TOKEN": "123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
    "VIBER_AUTH_TOKEN": "445da6az1s345z78-dazcczb2542zv51a-e0vc5fva17480im9",
    "VIBER_SENDER_NAME": "Postrider",
    "WHATSAPP_ACCESS_TOKEN": "EAAGm0PX4ZCpsBAKZCZB",
    "WHATSAPP_PHONE_NUMBER_ID": "106540352242922",
    "APPRISE_TARGETS": "ops=json://ana:YRwrdLhBpjPFJ6aQ@127.0.0.1/Q29kZXggZm9y?key=PJwNNiT7Vd0",
    "SMTP_URL": "smtp://shop:planted-Sm7pPassword@127.0.0.1:2525",
    "MAIL_FROM": "Shop <shop@example.org>",
    "WAHA_URL": "http://127.0.0.1:3000",
    "WAHA_API_KEY": "planted-Wa7hKey",
    "WHATSAPP_WEB_SECRET": "planted-Ho5oKsecret",
}
NEEDS = {name: kind.needs for name, kind in MESSENGERS.items()}
NEEDS["whatsapp-web"] = ("WAHA_URL",)  # or another sidecar's, with the driver for it
SECRETS = {
    name: [ENV[need] for need in kind.needs if need.endswith("_TOKEN")]
    for name, kind in MESSENGERS.items()
}
SECRETS["apprise"] = ["YRwrdLhBpjPFJ6aQ", "Q29kZXggZm9y", "PJwNNiT7Vd0"]
SECRETS["mail"] = ["planted-Sm7pPassword"]
SECRETS["whatsapp-web"] = ["planted-Wa7hKey"]
QUOTED = " ".join(secret for secrets in SECRETS.values() for secret in secrets)

RECIPIENTS = {
    "telegram": "123456789",
    "viber": "01234567890A=",
    "whatsapp": "16505551234",
    "whatsapp-web": "16505551234",
    "mail": "eva@example.net",
    "sandbox": "anyone",
    "apprise": "ops",
}
LIMITS = {
    "telegram": 4096,
    "viber": 7000,
    "whatsapp": 4096,
    "whatsapp-web": 4096,
    "mail": 250_000,
    "apprise": 32_768,
    "sandbox": 10_000,
}
KEY = "01JA2B3C4D5E6F7G8H9J0K-0"
TEXT = "Привет, мир 👋\n\"quoted\" <b>&amp; \\ 'done'"

STATUSES = [200, 201, 204, 302, 304, 400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504]
ODD_STATUSES = [-1, 0, 99, 100, 299, 300, 399, 499, 599, 600, 999]


def refusal(why):
    """A no in every messenger's tongue."""
    body = {"ok": False, "description": why, "status": 2, "status_message": why}
    body["error"] = {"code": 190, "message": why, "error_data": {"details": why}}
    body["exception"] = {"message": why}
    return json.dumps(body).encode()


NASTY = {
    "empty": b"",
    "blank": b" \r\n\t",
    "HTML": b"<!doctype html><title>502 Bad Gateway</title>",
    "half an object": b'{"ok": true, "result": {"message_id": 1',
    "half a string": b'{"error": {"message": "It did',
    "two objects": b'{"ok": true}{"ok": true}',
    "null": b"null",
    "true": b"true",
    "a number": b"42",
    "a string": b'"ok"',
    "a list": b'[{"ok": true}]',
    "an empty object": b"{}",
    "a BOM": b'\xef\xbb\xbf{"ok": true}',
    "UTF-16": '{"ok": true}'.encode("utf-16"),
    "invalid UTF-8": b'{"error": "\xff\xfe\xc3\x28", "description": "\xed\xa0\x80"}',
    "NULs": b"\0" * 64,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"error":' * 100_000 + b"1" + b"}" * 100_000,
    "a huge status": b'{"ok": false, "status": ' + b"9" * 5_000 + b"}",
    "a huge code": b'{"error": {"code": -' + b"9" * 5_000 + b"}}",
    "a large code": b'{"error": {"code": ' + b"9" * 4_000 + b'}, "status": ' + b"9" * 4_000 + b"}",
    "a large wait": b'{"ok": false, "error_code": 429, "description": "x", "retry_after": '
    + b"9" * 4_000
    + b', "parameters": {"retry_after": '
    + b"9" * 4_000
    + b"}}",
    "NaN": b'{"ok": NaN, "status": NaN, "error": {"code": NaN}, "parameters": {"retry_after": NaN}}',
    "Infinity": b'{"ok": false, "description": "x", "parameters": {"retry_after": Infinity}}',
    "overflow": b'{"ok": false, "status": 1e999, "error": {"code": 1e999, "message": "x"}}',
    "ok: false": b'{"ok": false, "result": {"message_id": 1}, "status": 99, "error": {"code": -7}}',
    "bools for numbers": b'{"ok": true, "result": {"message_id": true}, "status": true, '
    b'"status_message": "ok", "message_token": true, "messages": [{"id": true}], "id": true}',
    "a false for zero": b'{"status": false, "status_message": "ok", "message_token": false}',
    "lone surrogates": b'{"ok": false, "description": "\\ud800", "error": {"code": 1, "message": '
    b'"\\udfff"}, "status": 2, "status_message": "\\ud800\\ud800"}',
    "a flat error": b'{"error": "\\ud800", "retry_after": true}',
    "long words": refusal("x" * 100_000),
    "long flat words": json.dumps({"ok": False, "error": "x" * 100_000}).encode(),
}
"""None of these is a messenger's yes, under any status."""

REAL = [
    {"ok": True, "result": {"message_id": 7, "chat": {"id": 5, "type": "private"}, "text": "x"}},
    {"ok": True, "result": {"id": 123456, "is_bot": True, "first_name": "B", "username": "b_bot"}},
    {
        "ok": False,
        "error_code": 429,
        "description": "Too Many Requests: retry after 3",
        "parameters": {"retry_after": 3},
    },
    {
        "ok": False,
        "error_code": 400,
        "description": "Bad Request: group chat was upgraded to a supergroup chat",
        "parameters": {"migrate_to_chat_id": -1001234567890},
    },
    {
        "status": 0,
        "status_message": "ok",
        "message_token": 5741311803571721087,
        "chat_hostname": "h",
    },
    {"status": 12, "status_message": "tooManyRequests", "billing_status": 1},
    {
        "status": 0,
        "status_message": "ok",
        "failed_list": [{"receiver": "01", "status": 6, "status_message": "notSubscribed"}],
    },
    {
        "status": 0,
        "status_message": "ok",
        "id": "pa:1",
        "name": "Account",
        "uri": "u",
        "members": [],
    },
    {
        "messaging_product": "whatsapp",
        "contacts": [{"wa_id": "1"}],
        "messages": [{"id": "wamid.A"}],
    },
    {
        "error": {
            "message": "(#131026) Undeliverable",
            "type": "OAuthException",
            "code": 131026,
            "error_subcode": 33,
            "is_transient": False,
            "error_data": {"messaging_product": "whatsapp", "details": "why"},
        }
    },
    {"verified_name": "Acme", "display_phone_number": "+1 555-078-3881", "id": "106540352242922"},
    {"id": "true_1@c.us_3EB0", "_data": {}, "key": {"id": "3EB0"}},
    {"name": "shop", "status": "WORKING", "me": {"id": "1@c.us", "pushName": "Ana"}, "config": {}},
    {"error": "not as expected", "status": "STARTING", "expected": ["WORKING"]},
    {"statusCode": 500, "exception": {"message": "2 UNKNOWN: server returned error 463"}},
    {"ok": True, "id": KEY},
    {"key": KEY, "places": [{"ok": True, "service": "JSON"}]},
    {"key": KEY, "places": [{"ok": False, "left": False, "words": "no", "status": 404}]},
    {"ok": False, "error": "Too Many Requests: retry after 3", "retry_after": 3},
]
"""Answers as they come, to be broken one value at a time."""

WRONG = [None, True, False, -1, 0, 1.5, math.nan, -math.inf, 10**4000, "", "\ud800", "x" * 9999]
WRONG += [QUOTED, [], {}, [[]], [{}], {"": None}, [None], {"code": {}}]


def paths(value, path=()):
    """The way to every value inside `value`, itself included."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*path, name))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*path, index))


def put(value, path, wrong):
    """`value` with `wrong` at `path`."""
    if not path:
        return wrong
    broken = copy.deepcopy(value)
    inner = broken
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    return broken


def adapter(name, **changes):
    return MESSENGERS[name].from_env(ENV | changes)


def outbound(name, text=TEXT):
    return Outbound(RECIPIENTS[name], text, KEY)


def leaks(name, word):
    """Whether `word` holds the secret of `name`, or what is left of it after a cut."""
    return any(secret.rpartition(":")[2][:12] in word for secret in SECRETS[name])


def judge_words(name, *said):
    """Whoever stores or shows these can: short, in UTF-8, and with no secret in them."""
    for word in said:
        assert isinstance(word, str)
        assert len(word) <= 500
        word.encode()
        assert not leaks(name, word)


def judge(name, outcome):
    assert isinstance(outcome, Sent | Retry | Rejected | Unclear)
    match outcome:
        case Sent(provider_id):
            judge_words(name, provider_id)
            assert provider_id
        case Retry(reason, after_s, pauses, moved_to):
            judge_words(name, reason, moved_to or "")
            assert pauses in (None, "account", "recipient")
            assert not isinstance(after_s, bool)
            assert math.isfinite(after_s or 0)
            assert (after_s or 0) >= 0
        case Rejected(reason) | Unclear(reason):
            judge_words(name, reason)


def judge_both(name, reply):
    """What `reply` means as an answer to a message."""
    outcome, answer = adapter(name).read(reply), adapter(name).read_whoami(reply)
    judge(name, outcome)
    if isinstance(answer, Identity):
        judge_words(name, answer.name)
    else:
        judge(name, answer)
        assert not isinstance(answer, Sent)
    return outcome


every_messenger = pytest.mark.parametrize("name", MESSENGERS)


@every_messenger
@pytest.mark.parametrize("body", NASTY.values(), ids=NASTY.keys())
def test_no_body_breaks_an_adapter_or_passes_for_a_yes(name, body):
    for status in STATUSES + ODD_STATUSES:
        assert not isinstance(judge_both(name, Reply(status, body)), Sent)


@every_messenger
@pytest.mark.parametrize("answer", REAL, ids=lambda answer: json.dumps(answer)[:40])
@pytest.mark.parametrize("status", [200, 400, 429, 503])
def test_no_wrong_value_anywhere_breaks_an_adapter(name, answer, status):
    for path in paths(answer):
        for wrong in WRONG:
            judge_both(name, Reply(status, json.dumps(put(answer, path, wrong)).encode()))


@every_messenger
def test_a_secret_that_is_quoted_back_is_not_even_shown_in_part(name):
    for padding in range(0, 520, 4):
        for status in (200, 401, 502):
            judge_both(name, Reply(status, refusal("x" * padding + QUOTED)))


@every_messenger
@pytest.mark.parametrize("field", ["ok", "error", "status", "description", "messages", "result"])
def test_what_parses_but_is_too_deep_to_show_breaks_nothing(name, field):
    for depth in range(500, 1000, 10):
        body = b'{"%s":' % field.encode() + b'{"code":' * depth + b"1" + b"}" * depth + b"}"
        judge_both(name, Reply(400, body))


NAMES = sorted({step for answer in REAL for path in paths(answer) for step in path if step != 0})
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([QUOTED, 0, 429, 131026])
) | st.text(st.characters(exclude_categories=()))  # any code point, lone surrogates too
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
WAITS = (
    st.text() | st.integers().map(str) | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y"))
)


@every_messenger
@settings(deadline=None)  # a busy machine is no fault of an adapter
@given(
    status=st.integers() | st.sampled_from(STATUSES),
    body=BODIES,
    headers=st.just({}) | st.fixed_dictionaries({"retry-after": WAITS}),
)
def test_no_reply_at_all_breaks_an_adapter(name, status, body, headers):
    judge_both(name, Reply(status, body, headers))


@every_messenger
def test_it_is_offered_when_all_it_needs_is_set(name):
    assert isinstance(adapter(name), MESSENGERS[name])
    assert MESSENGERS[name].name == name


@pytest.mark.parametrize(
    ("name", "need"), [(name, need) for name, needs in NEEDS.items() for need in needs]
)
def test_it_is_not_offered_when_something_is_missing(name, need):
    assert MESSENGERS[name].from_env({k: v for k, v in ENV.items() if k != need}) is None
    assert adapter(name, **{need: ""}) is None


@every_messenger
def test_nothing_it_shows_holds_a_secret(name):
    messenger = adapter(name)
    shown = repr([messenger, messenger.request(outbound(name)), messenger.whoami()])
    assert not leaks(name, shown)
    assert TEXT not in shown
    assert repr(TEXT) not in shown


def leaves(value):
    if isinstance(value, dict):
        return {leaf for inner in value.values() for leaf in leaves(inner)}
    if isinstance(value, list):
        return {leaf for inner in value for leaf in leaves(inner)}
    return {str(value)}


@every_messenger
def test_a_request_carries_address_and_text_to_the_wire(name):
    request = adapter(name).request(outbound(name))
    assert isinstance(request, Request | Note | Errand)
    if name == "mail":
        assert (request.to.address, request.text) == (RECIPIENTS[name], TEXT)
        return
    payload = request.json if isinstance(request, Request) else asdict(request)
    if name == "apprise":
        assert asdict(request)["body"] == TEXT
        return
    to = RECIPIENTS[name] + ("@c.us" if name == "whatsapp-web" else "")
    assert {to, TEXT} <= leaves(json.loads(json.dumps(payload, allow_nan=False)))


@every_messenger
def test_a_request_is_the_same_every_time(name):
    assert adapter(name).request(outbound(name)) == adapter(name).request(outbound(name))


@every_messenger
def test_a_text_may_be_as_long_as_the_limit_and_no_longer(name):
    assert adapter(name).check_text("x" * LIMITS[name]) is None
    assert str(LIMITS[name]) in adapter(name).check_text("x" * (LIMITS[name] + 1))


@every_messenger
def test_its_own_example_of_a_recipient_is_one_and_an_empty_one_is_not(name):
    assert adapter(name).check_recipient(RECIPIENTS[name]) is None
    judge_words(name, adapter(name).check_recipient(""))
