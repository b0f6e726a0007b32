"""The Viber adapter: its requests beside viberbot's, its readings against literals.

Viber publishes no machine-readable description, so its own Python library is the judge.
"""

import hashlib
import hmac
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from viberbot import Api, BotConfiguration
from viberbot.api.api_request_sender import ApiRequestSender
from viberbot.api.message_sender import MessageSender
from viberbot.api.messages import TextMessage, get_message
from viberbot.api.viber_requests import create_request

from messengers.base import Identity, Outbound, Rejected, Reply, Request, Retry, Sent, Unclear
from messengers.viber import Viber

TOKEN = "445da6az1s345z78-dazcczb2542zv51a-e0vc5fva17480im9"
BOT = Viber(TOKEN)
CONFIGURATION = BotConfiguration(TOKEN, "Postrider", avatar=None)
HEADERS = {"X-Viber-Auth-Token": TOKEN}
ADA = "01234567890A="
NOW = datetime(2031, 1, 1, tzinfo=UTC)
EVENTS = ["delivered", "seen", "failed", "subscribed", "unsubscribed", "conversation_started"]


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), headers)


def wire(request: Request) -> bytes:
    """The body as transport.py writes it."""
    return json.dumps(request.json, ensure_ascii=False, separators=(",", ":")).encode()


class Recorder(ApiRequestSender):
    """viberbot's own sender, keeping what it would post."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("viberbot"), "", CONFIGURATION, "")
        self.posted: dict[str, dict] = {}

    def post_request(self, endpoint: str, payload: str) -> dict:
        self.posted[endpoint] = json.loads(payload)
        return {"status": 0, "message_token": 1, "event_types": []}


# Settings


def test_without_a_token_it_is_not_offered():
    assert Viber.from_env({}) is None
    assert Viber.from_env({"VIBER_AUTH_TOKEN": " ", "VIBER_SENDER_NAME": "Shop"}) is None
    assert Viber.needs == ("VIBER_AUTH_TOKEN",)


def test_sender_and_url_have_defaults():
    assert Viber.from_env({"VIBER_AUTH_TOKEN": TOKEN}) == BOT
    env = {"VIBER_AUTH_TOKEN": TOKEN, "VIBER_SENDER_NAME": "Shop", "VIBER_API_URL": "http://[::1]/"}
    assert Viber.from_env(env) == Viber(TOKEN, "Shop", "http://[::1]")


def test_a_sender_has_28_characters_and_not_one_more():
    assert Viber(TOKEN, "я" * 28).sender == "я" * 28
    with pytest.raises(ValueError, match="VIBER_SENDER_NAME: has 29 characters; viber takes 28"):
        Viber.from_env({"VIBER_AUTH_TOKEN": TOKEN, "VIBER_SENDER_NAME": "я" * 29})


def test_the_token_is_in_no_repr():
    requests = BOT.request(Outbound(ADA, "Hi", "k")), BOT.whoami(), BOT.webhook_request("https://x")
    for shown in map(repr, (BOT, *requests)):
        assert TOKEN not in shown


# Recipients and texts


@pytest.mark.parametrize("uuid", ["1", ADA, "a" * 64, "+/=", "я" * 64])
def test_64_printable_characters_are_a_recipient(uuid):
    assert BOT.check_recipient(uuid) is None


@pytest.mark.parametrize(
    "uuid", ["", " ", "a b", "a\n", "a\t", "a\x00", "a\u00a0", "\u200b", "\ud800", "a" * 65]
)
def test_anything_else_is_no_recipient(uuid):
    assert BOT.check_recipient(uuid) == "must be 1 to 64 printable characters without spaces"


@pytest.mark.parametrize("text", ["a", "a" * 7000, "😀" * 7000, "\n" * 7000, '"' * 7000, "\ud800"])
def test_7000_characters_can_be_sent(text):
    assert BOT.check_text(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty; viber takes 1 to 7000 characters"),
        ("a" * 7001, "has 7001 characters; viber takes 7000"),
        ("\x01" * 4833, None),
        ("\x01" * 4833 + "a", "has 29001 bytes as JSON; viber takes 29000"),
    ],
)
def test_a_text_over_a_limit_is_refused_with_limit_and_length(text, reason):
    assert BOT.check_text(text) == reason


@pytest.mark.parametrize("text", ["😀" * 7000, '"' * 7000, "\x01" * 4833])
def test_the_largest_message_stays_within_30_kb(text):
    assert BOT.check_text(text) is None
    largest = Viber(TOKEN, "\x01" * 28).request(Outbound("😀" * 64, text, "k" * 200))
    assert len(wire(largest)) <= 30_000


# Requests


@pytest.mark.parametrize("text", ["Hi", "a" * 7000, "<b> & *stars* \u202e\u200d 😀"])
def test_a_message_goes_out_as_viberbot_would_send_it(text):
    request = BOT.request(Outbound(ADA, text, "key-1"))
    viberbot = Recorder()
    message = TextMessage(text=text, tracking_data="key-1", min_api_version=1)
    MessageSender(viberbot._logger, viberbot, CONFIGURATION).send_message(  # noqa: SLF001
        ADA, "Postrider", None, message
    )
    expected = viberbot.posted["send_message"]
    # viberbot still writes the token into the body, and an avatar that is not there.
    assert expected.pop("auth_token") == request.headers["X-Viber-Auth-Token"]
    assert expected["sender"].pop("avatar") is None

    assert (request.method, request.headers) == ("POST", HEADERS)
    assert request.url == "https://chatapi.viber.com/pa/send_message"
    assert request.json == expected
    assert get_message(request.json).validate()


def test_asking_who_we_are_needs_the_token_only():
    url = "https://chatapi.viber.com/pa/get_account_info"
    assert BOT.whoami() == Request("POST", url, HEADERS, {})


def test_a_webhook_is_set_as_viberbot_would_set_it():
    request = BOT.webhook_request("https://example.com/hooks/viber/default")
    viberbot = Recorder()
    viberbot.set_webhook("https://example.com/hooks/viber/default", EVENTS)
    expected = viberbot.posted["set_webhook"]

    assert (request.method, request.headers) == ("POST", HEADERS)
    assert request.url == "https://chatapi.viber.com/pa/set_webhook"
    assert {name: request.json[name] for name in ("url", "event_types")} == {
        name: expected[name] for name in ("url", "event_types")
    }
    assert (request.json["send_name"], request.json["send_photo"]) == (True, False)


# Answers to a send


@pytest.mark.parametrize(
    ("raw", "token"),
    [
        ("5741311803571721087", "5741311803571721087"),
        ("9007199254740993", "9007199254740993"),
        ('"5741311803571721087"', "5741311803571721087"),
        ("18446744073709551615", "18446744073709551615"),
    ],
)
def test_a_message_token_is_kept_as_text_to_the_last_digit(raw, token):
    body = f'{{"status":0,"status_message":"ok","message_token":{raw},"billing_status":1}}'
    assert BOT.read(Reply(200, body.encode())) == Sent(token)


@pytest.mark.parametrize(
    "token",
    [None, True, False, 1.0, 5.741e18, -1, "", "ok", "٤", "1" * 21, 10**4000, float("nan"), [1]],
)
def test_ok_without_a_message_token_proves_nothing(token):
    answer = reply({"status": 0, "status_message": "ok", "message_token": token})
    assert BOT.read(answer) == Unclear("ok, but without a message_token")
    assert BOT.read(reply({"status": 0})) == Unclear("ok, but without a message_token")


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (1, "invalidUrl"),
        (2, "invalidAuthToken"),
        (7, "publicAccountBlocked"),
        (8, "publicAccountNotFound"),
        (9, "publicAccountSuspended"),
        (10, "webhookNotSet"),
        (15, "publicAccountNotAuthorized"),
        (19, "cannotSendBroadcast"),
        (20, "broadcastNotAllowed"),
    ],
)
def test_a_fault_of_the_account_holds_it(status, why):
    answer = reply({"status": status, "status_message": why})
    assert BOT.read(answer) == Retry(why, pauses="account", refused=True)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (3, "badData"),
        (4, "missingData"),
        (5, "receiverNotRegistered"),
        (6, "receiverNotSubscribed"),
        (11, "receiverNoSuitableDevice"),
        (13, "apiVersionNotSupported"),
        (14, "incompatibleWithVersion"),
        (16, "inchatReplyMessageNotAllowed"),
        (17, "publicAccountIsNotInline"),
        (18, "noPublicChat"),
    ],
)
def test_a_fault_of_recipient_or_request_is_refused_in_vibers_words(status, why):
    dead = status in {5, 6}
    assert BOT.read(reply({"status": status, "status_message": why})) == Rejected(why, dead)


def test_too_many_messages_to_one_person_wait_and_hold_nobody_else():
    body = {"status": 12, "status_message": "Too many requests", "message_token": "1234567890"}
    assert BOT.read(reply(body)) == Retry("Too many requests", after_s=600, pauses="recipient")
    assert BOT.read(reply(body, **{"retry-after": "60"})) == Retry(
        "Too many requests", after_s=60, pauses="recipient"
    )


@pytest.mark.parametrize("status", [-1, 21, 99, 10**400])
def test_any_other_status_is_vibers_own_trouble_and_tried_again(status):
    answer = reply({"status": status, "status_message": "general error"})
    assert BOT.read(answer) == Retry("general error")


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_is_tried_again(status):
    assert BOT.read(Reply(status, b"<html>")) == Retry(f"HTTP {status}")
    assert BOT.read(reply({"status": 0, "message_token": 1}, status)) == Retry(f"HTTP {status}")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Retry("HTTP 401", pauses="account", refused=True)),
        (403, Retry("HTTP 403", pauses="account", refused=True)),
        (404, Retry("HTTP 404", pauses="account", refused=True)),
        (413, Rejected("HTTP 413")),
        (429, Retry("HTTP 429", after_s=9, pauses="account")),
    ],
)
def test_an_http_error_without_vibers_words_is_judged_by_its_status(status, outcome):
    assert BOT.read(Reply(status, b"<html>", {"retry-after": "9"})) == outcome


@pytest.mark.parametrize("message", [None, "", " \n", 5, []])
def test_a_refusal_without_words_shows_its_status(message):
    assert BOT.read(reply({"status": 6, "status_message": message})) == Rejected(
        "status 6", dead=True
    )


def test_a_reason_never_holds_the_token_and_can_be_stored():
    why = f"bad token {TOKEN}\x00\ud800\n{'x' * 1000}"
    outcome = BOT.read(reply({"status": 2, "status_message": why}))
    assert outcome.reason.startswith("bad token *** xxx")
    assert outcome.reason.encode()
    assert len(outcome.reason) == 300


JUNK = [
    *(b"", b"{", b"<html>502</html>", b"\xff\xfe\x00", b"null", b"[]", b'"ok"', b"1e999", b"NaN"),
    *(b"[" * 100_000, b'{"status":' * 50_000, b'{"status": ' + b"9" * 5000 + b"}"),
    *(b'{"status": false, "message_token": 1}', b'{"status": 0.0, "message_token": 1}'),
    *(b'{"status": "0", "message_token": 1}', b'{"status": NaN}', b'{"status": [0]}'),
    *(b'{"status": null, "name": "x"}', b'{"status": false, "name": "x"}'),
]


@pytest.mark.parametrize("body", JUNK, ids=lambda body: ascii(body[:30]))
@pytest.mark.parametrize(
    "status", [0, 100, 200, 204, 302, 400, 401, 403, 404, 409, 429, 500, 599, 999]
)
def test_junk_gives_an_outcome_and_is_never_taken_for_a_yes(status, body):
    answer = Reply(status, body, {"retry-after": "soon"})
    assert isinstance(BOT.read(answer), Retry | Rejected | Unclear)
    assert isinstance(BOT.read_whoami(answer), Retry | Rejected | Unclear)
    assert isinstance(BOT.read_webhook(answer), Rejected)
    assert BOT.receipts(body) == []
    assert BOT.incoming(body) == []


# Broadcasts


IDS = [f"{n:022d}==" for n in range(700)]
"""As long as real ones."""


def outs(count: int, text: str = "Hi", *, tos: list[str] | None = None) -> list[Outbound]:
    return [Outbound(to, text, f"key-{n}") for n, to in enumerate((tos or IDS)[:count])]


def test_a_broadcast_names_its_receivers_and_says_everything_once():
    request = BOT.broadcast(outs(3))
    assert (request.method, request.headers) == ("POST", HEADERS)
    assert request.url == "https://chatapi.viber.com/pa/broadcast_message"
    assert request.json == {
        "broadcast_list": IDS[:3],
        "min_api_version": 1,
        "type": "text",
        "text": "Hi",
        "sender": {"name": "Postrider"},
    }
    assert get_message(request.json).validate()


def test_a_broadcast_has_300_receivers_and_not_one_more():
    assert BOT.most_receivers("Hi", IDS) == 300
    assert BOT.most_receivers("я" * 5000, IDS) == 300
    assert BOT.most_receivers("Hi", IDS[:1]) == 300


LONGEST_IDS = {
    "as they are": IDS,
    "64 letters": [f"{n:064d}" for n in range(300)],
    "64 emoji": [chr(0x1F600 + n % 64) * 64 for n in range(300)],
    "quotes": ['"' * 64] * 300,
}


@pytest.mark.parametrize("tos", LONGEST_IDS.values(), ids=LONGEST_IDS)
@pytest.mark.parametrize(
    "text", ["a", "a" * 7000, "я" * 7000, "😀" * 7000, '"' * 7000, "\x01" * 4833]
)
def test_the_largest_broadcast_stays_within_30_kb(text, tos):
    bot = Viber(TOKEN, "\x01" * 28)
    assert bot.check_text(text) is None
    count = bot.most_receivers(text, tos)
    assert 1 <= count <= 300
    assert len(wire(bot.broadcast(outs(count, text, tos=tos)))) <= 30_000


@pytest.mark.parametrize("what", ["name", "first_name", "anything"])
def test_a_text_that_viber_would_fill_in_is_never_broadcast(what):
    assert BOT.most_receivers(f"Dear replace_me_with_{what}!", IDS) == 1


def test_one_token_answers_for_all_of_a_broadcast():
    answer = reply({"status": 0, "status_message": "ok", "message_token": 40808912438712})
    assert BOT.read_broadcast(answer, outs(300)) == [Sent("40808912438712")] * 300
    answer = reply({"status": 0, "message_token": 7, "failed_list": []})
    assert BOT.read_broadcast(answer, outs(2)) == [Sent("7")] * 2


def failed(*rows: object) -> Reply:
    return reply({"status": 0, "status_message": "ok", "message_token": 7, "failed_list": rows})


def row(to: object, status: object, why: object = "because") -> dict:
    return {"receiver": to, "status": status, "status_message": why}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Rejected("because")) for status in (3, 4, 11, 13, 14, 16, 17, 18)),
        *((status, Rejected("because", dead=True)) for status in (5, 6)),
        (12, Retry("because", after_s=600, pauses="recipient")),
        *((status, Retry("because")) for status in (1, 2, 7, 8, 9, 10, 15, 19, 20)),
        *((status, Retry("because")) for status in (-1, 21, 99)),
    ],
)
def test_who_is_named_as_failed_did_not_get_it_and_holds_up_nobody_else(status, outcome):
    found = BOT.read_broadcast(failed(row(IDS[1], status)), outs(3))
    assert found == [Sent("7"), outcome, Sent("7")]


@pytest.mark.parametrize("status", [None, True, False, 0, 6.0, "6", [6], {"6": 6}])
def test_who_is_named_as_failed_without_a_status_proves_nothing(status):
    first, second = BOT.read_broadcast(failed(row(IDS[0], status)), outs(2))
    assert isinstance(first, Unclear)
    assert second == Sent("7")


@pytest.mark.parametrize(
    "rows",
    [
        None,
        5,
        "x",
        {},
        {"receiver": IDS[0], "status": 6},
        [None, 5, "x", [], {}],
        [row(None, 6), row(5, 6), row([IDS[0]], 6), row({}, 6), row(True, 6)],
        [row("somebody else", 6)],
    ],
)
def test_a_list_of_failed_ones_that_names_nobody_of_ours_fails_nobody(rows):
    answer = reply({"status": 0, "message_token": 7, "failed_list": rows})
    assert BOT.read_broadcast(answer, outs(2)) == [Sent("7")] * 2


@pytest.mark.parametrize("status", [*range(-1, 19), 21, 99])
def test_a_refused_broadcast_is_refused_for_all_as_a_single_one_is(status):
    body = {"status": status, "status_message": "because", "failed_list": [row(IDS[0], 6)]}
    answer = reply(body)
    expected = BOT.read(answer)
    assert not isinstance(expected, Sent)
    assert BOT.read_broadcast(answer, outs(3)) == [expected] * 3


@pytest.mark.parametrize("status", [19, 20])
@pytest.mark.parametrize("http", [200, 400, 403])
def test_an_account_that_may_not_broadcast_is_told_from_all_else(status, http):
    assert BOT.read_broadcast(reply({"status": status}, http), outs(3)) is None


@pytest.mark.parametrize("status", [19.0, 20.0, "19", "20", True, [19], {"status": 19}, None])
def test_what_only_looks_like_such_a_refusal_is_none(status):
    found = BOT.read_broadcast(reply({"status": status, "status_message": "x"}), outs(3))
    assert found is not None
    assert [type(outcome) for outcome in found] == [Unclear] * 3


@pytest.mark.parametrize("body", JUNK, ids=lambda body: ascii(body[:30]))
@pytest.mark.parametrize("status", [0, 200, 302, 400, 401, 404, 429, 500, 999])
def test_junk_gives_each_receiver_an_outcome_and_is_never_taken_for_a_yes(status, body):
    found = BOT.read_broadcast(Reply(status, body, {"retry-after": "soon"}), outs(3))
    assert len(found) == 3
    assert all(isinstance(outcome, Retry | Rejected | Unclear) for outcome in found)


# Who we are, and the webhook


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"name": "Shop", "uri": "shopbot"}, "Shop (shopbot)"),
        ({"name": "Shop"}, "Shop"),
        ({"name": "Shop\n\x1b", "uri": 5}, "Shop"),
        ({"name": "x" * 290, "uri": "y" * 400}, "x" * 290 + " (" + "y" * 8),
    ],
)
def test_a_bot_is_shown_by_its_name(info, name):
    answer = reply({"status": 0, "status_message": "ok", "id": "pa:75346594275468546724", **info})
    assert BOT.read_whoami(answer) == Identity(name)


def test_a_refused_token_is_no_identity():
    answer = reply({"status": 2, "status_message": "invalidAuthToken"})
    assert BOT.read_whoami(answer) == Retry("invalidAuthToken", pauses="account", refused=True)


def test_an_answer_to_something_else_is_no_identity():
    assert isinstance(BOT.read_whoami(reply({"status": 0, "message_token": 1})), Unclear)
    assert isinstance(BOT.read_whoami(reply({"status": 0, "name": 5})), Unclear)


def test_a_webhook_that_was_set_names_its_events():
    answer = reply({"status": 0, "status_message": "ok", "event_types": ["delivered", 5, "seen"]})
    assert BOT.read_webhook(answer) == Identity("delivered, seen")


@pytest.mark.parametrize("events", [None, 5, "delivered", [], [None]])
def test_a_webhook_that_was_set_without_saying_for_what_is_set(events):
    assert BOT.read_webhook(reply({"status": 0, "event_types": events})) == Identity("ok")


def test_a_webhook_that_viber_cannot_reach_is_refused_in_its_words():
    answer = reply({"status": 1, "status_message": "Result code: hookFailure(17)"})
    assert BOT.read_webhook(answer) == Rejected("Result code: hookFailure(17)")
    assert BOT.read_webhook(Reply(502, b"<html>")) == Rejected("HTTP 502")


# Callbacks


TOKEN_OF_IT = 4912661846655238145


def callback(event: str, **fields: object) -> dict:
    return {
        "event": event,
        "timestamp": int(NOW.timestamp() * 1000),
        "message_token": TOKEN_OF_IT,
    } | fields


PERSON = {
    "id": ADA,
    "name": "Ada",
    "avatar": "",
    "country": "GB",
    "language": "en",
    "api_version": 1,
}
BODY = json.dumps(callback("message", sender=PERSON), separators=(",", ":")).encode()
SIGNATURE = hmac.digest(TOKEN.encode(), BODY, hashlib.sha256).hex()


def test_our_reading_of_a_signature_is_viberbots():
    viberbot = Api(CONFIGURATION)
    theirs = viberbot._calculate_message_signature(BODY)  # noqa: SLF001
    assert viberbot.verify_signature(BODY, SIGNATURE)
    assert BOT.authentic({"x-viber-content-signature": theirs}, BODY, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-viber-content-signature": ""},
        {"x-viber-content-signature": SIGNATURE[:-1]},
        {"x-viber-content-signature": SIGNATURE + "0"},
        {"x-viber-content-signature": SIGNATURE[::-1]},
        {"x-viber-content-signature": f" {SIGNATURE}"},
        {"x-viber-content-signature": "not hex"},
        {"x-viber-content-signature": "é" * 64},
        {"x-viber-content-signature": "\ud800\x00"},
        {"x-viber-auth-token": SIGNATURE},
    ],
)
def test_a_missing_or_malformed_signature_is_refused(headers):
    assert not BOT.authentic(headers, BODY, NOW)


def test_a_signature_fits_one_body_and_one_token():
    headers = {"x-viber-content-signature": SIGNATURE}
    assert not BOT.authentic(headers, BODY + b" ", NOW)
    assert not BOT.authentic(headers, b"", NOW)
    assert not Viber("another token").authentic(headers, BODY, NOW)


@pytest.mark.parametrize(
    "event",
    [
        callback("message", sender=PERSON, message={"type": "text", "text": "Hi"}),
        callback("subscribed", user=PERSON),
        callback("conversation_started", user=PERSON, type="open", subscribed=False),
    ],
)
def test_whoever_writes_subscribes_or_opens_the_chat_is_found_as_by_viberbot(event):
    theirs = create_request(event)
    who = theirs.sender if event["event"] == "message" else theirs.user

    (found,) = BOT.incoming(json.dumps(event).encode())

    assert (found.sender, found.name, found.at) == (ADA, "Ada", NOW)
    assert (found.sender, found.name) == (who.id, who.name)
    assert found.id == str(theirs.message_token if event["event"] == "message" else TOKEN_OF_IT)


@pytest.mark.parametrize("name", [None, "", 5, "\x00"])
def test_a_name_is_not_needed(name):
    event = callback("subscribed", user={"id": ADA, "name": name})
    (found,) = BOT.incoming(json.dumps(event).encode())
    assert (found.sender, found.name, found.kind) == (ADA, ADA, "joined")


@pytest.mark.parametrize(
    "event",
    [
        callback("delivered", user_id=ADA),
        callback("seen", user_id=ADA),
        callback("failed", user_id=ADA, desc="failure description"),
        callback("webhook"),
        callback("message", user=PERSON),
        callback("subscribed", sender=PERSON),
        *(
            callback("message", sender=who)
            for who in (None, 5, "x", [], {}, {"id": 5}, {"id": "a b"})
        ),
        *(callback("subscribed", user={"id": i}) for i in (None, True, "", "a" * 65, float("nan"))),
        {"event": ["message"], "sender": PERSON},
        {"sender": PERSON},
    ],
)
def test_receipts_and_junk_are_no_message(event):
    assert BOT.incoming(json.dumps(event).encode()) == []


@pytest.mark.parametrize(
    ("event", "state"), [("delivered", "delivered"), ("seen", "read"), ("failed", "failed")]
)
def test_a_receipt_is_read_as_by_viberbot(event, state):
    raw = callback(event, user_id=ADA, desc="because")
    theirs = create_request(raw)
    (found,) = BOT.receipts(json.dumps(raw).encode())
    assert (found.provider_id, found.to) == (str(theirs.message_token), theirs.user_id)
    assert (found.state, found.at, found.reason) == (state, NOW, "because")


@pytest.mark.parametrize(
    "fields",
    [
        {"message_token": None},
        {"message_token": True},
        {"message_token": -1},
        {"message_token": 10**40},
        {"message_token": "x"},
        {"message_token": 1.5},
        {"user_id": None},
        {"user_id": "a b"},
        {"event": "subscribed"},
        {"event": ["seen"]},
    ],
)
def test_a_receipt_without_its_message_or_recipient_is_none(fields):
    event = callback("seen", user_id=ADA) | fields
    assert BOT.receipts(json.dumps(event).encode()) == []


def test_who_unsubscribes_is_told_as_gone():
    (found,) = BOT.incoming(json.dumps(callback("unsubscribed", user_id=ADA)).encode())
    assert (found.sender, found.kind) == (ADA, "left")


@pytest.mark.parametrize("hours", [-4, 4, 24 * 365])
def test_a_callback_that_is_too_old_is_refused_however_well_signed(hours):
    at = int((NOW - timedelta(hours=hours)).timestamp() * 1000)
    body = json.dumps(callback("seen", user_id=ADA) | {"timestamp": at}).encode()
    headers = {"x-viber-content-signature": Api(CONFIGURATION)._calculate_message_signature(body)}  # noqa: SLF001
    assert not BOT.authentic(headers, body, NOW)
    assert BOT.authentic(headers, body, NOW - timedelta(hours=hours))
