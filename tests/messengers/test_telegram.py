"""The Telegram adapter: its requests against the Bot API's own description, its readings against literals."""

import json
from datetime import UTC, datetime

import pytest
from telegram import Update

from messengers.base import (
    Identity,
    Outbound,
    Person,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Unclear,
)
from messengers.telegram import Telegram
from tests.messengers.specs import TELEGRAM, faults, request_body

TOKEN = "123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
BOT = Telegram(TOKEN)
ADA = {"id": 42, "is_bot": False, "first_name": "Ada", "last_name": "Lovelace", "username": "ada"}
ADA_CHAT = {"id": 42, "type": "private", "first_name": "Ada", "last_name": "Lovelace"}
ADA_CHAT |= {"username": "ada"}
GROUP = {"id": -1001234567890, "type": "supergroup", "title": "Engines"}
CHANNEL = {"id": -1009876543210, "type": "channel", "title": "News"}


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), headers)


def refusal(code: int, description: str, **parameters: object) -> Reply:
    body = {"ok": False, "error_code": code, "description": description}
    return reply(body | ({"parameters": parameters} if parameters else {}), code)


def message_from(chat: dict, user: dict | None = None) -> dict:
    sender = {"from": user} if user else {}
    return {"message_id": 1, "date": 1_700_000_000, "chat": chat, **sender}


def updates(*events: dict) -> Reply:
    return reply({"ok": True, "result": [{"update_id": n, **e} for n, e in enumerate(events, 1)]})


# Settings


def test_without_a_token_it_is_not_offered():
    assert Telegram.from_env({}) is None
    assert Telegram.from_env({"TELEGRAM_BOT_TOKEN": " "}) is None
    assert Telegram.needs == ("TELEGRAM_BOT_TOKEN",)


def test_the_api_url_has_a_default_and_loses_its_trailing_slash():
    assert Telegram.from_env({"TELEGRAM_BOT_TOKEN": TOKEN}) == BOT
    own = {"TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_API_URL": "http://127.0.0.1:8081/"}
    assert Telegram.from_env(own) == Telegram(TOKEN, "http://127.0.0.1:8081")


def test_the_token_is_in_no_repr():
    requests = [BOT.request(Outbound("42", "Hi", "k")), BOT.whoami(), BOT.people_request()]
    for shown in map(repr, (BOT, *requests)):
        assert TOKEN not in shown
        assert TOKEN.partition(":")[2] not in shown


# Recipients and texts


@pytest.mark.parametrize(
    "uuid",
    [
        *("0", "1", "42", "-1001234567890", str(2**52 - 1), str(-(2**52) + 1)),
        *("@ada_", "@AdaLovelace1815", "@" + "a" * 32),
    ],
)
def test_a_chat_id_or_a_name_is_a_recipient(uuid):
    assert BOT.check_recipient(uuid) is None


@pytest.mark.parametrize(
    "uuid",
    [
        *(
            "",
            "-",
            "+42",
            " 42",
            "42 ",
            "42\n",
            "042",
            "-0",
            "-042",
            "4.2",
            "1e3",
            "1_000",
            "\u0664\u0662",
            "\uff14\uff12",
        ),
        *(str(2**52), str(-(2**52)), "9" * 16, "9" * 5000),
        *(
            "ada",
            "@",
            "@ada",
            "@1ada",
            "@_ada",
            "@ada-l",
            "@adä_",
            "@ada_\n",
            "@" + "a" * 33,
            "@@ada_",
        ),
    ],
)
def test_anything_else_is_no_recipient(uuid):
    assert "52 bits" in BOT.check_recipient(uuid)


@pytest.mark.parametrize("text", ["a", "a" * 4096, "😀" * 2048, "\ud800"])
def test_4096_utf16_units_can_be_sent(text):
    assert BOT.check_text(text) is None


@pytest.mark.parametrize(
    ("text", "length"), [("", "is empty"), ("a" * 4097, "4097"), ("😀" * 2048 + "a", "4097")]
)
def test_a_text_over_the_limit_is_refused_with_limit_and_length(text, length):
    assert length in BOT.check_text(text)
    assert "4096" in BOT.check_text(text)


# Requests


@pytest.mark.parametrize(
    ("to", "chat_id"),
    [
        ("42", 42),
        ("-1001234567890", -1001234567890),
        (str(2**52 - 1), 2**52 - 1),
        ("@ada_", "@ada_"),
    ],
)
@pytest.mark.parametrize("text", ["Hi", "a" * 4096, "<b> & *stars* \u202e\u200d 😀"])
def test_a_message_goes_out_as_it_is_and_the_bot_api_takes_it(to, chat_id, text):
    request = BOT.request(Outbound(to, text, "k"))

    url = f"https://api.telegram.org/bot{TOKEN}/sendMessage"
    assert request == Request("POST", url, json={"chat_id": chat_id, "text": text})
    assert faults(TELEGRAM, request_body("/bot{token}/sendMessage"), request.json) == []


def test_the_bot_api_takes_the_question_who_we_are():
    request = BOT.whoami()
    assert request == Request("POST", f"https://api.telegram.org/bot{TOKEN}/getMe", json={})
    assert faults(TELEGRAM, request_body("/bot{token}/getMe"), request.json) == []


def test_asking_for_people_consumes_and_changes_nothing():
    request = BOT.people_request()
    assert request.url.endswith("/getUpdates")
    assert request.json == {"limit": 100, "timeout": 0}
    assert faults(TELEGRAM, request_body("/bot{token}/getUpdates"), request.json) == []


# Answers to a send


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**63 - 1])
def test_a_message_id_is_kept_as_text(number):
    answer = {"ok": True, "result": {"message_id": number, "chat": {"id": 42}}}
    assert BOT.read(reply(answer)) == Sent(str(number))


@pytest.mark.parametrize(
    "result",
    [
        *(None, True, [], {}, "1", 1),
        *(
            {"message_id": value}
            for value in (None, True, "1", 1.0, -1, 2**63, 10**4000, float("nan"))
        ),
    ],
)
def test_ok_without_a_message_id_proves_nothing(result):
    assert BOT.read(reply({"ok": True, "result": result})) == Unclear(
        "ok, but without a message_id"
    )
    assert BOT.read(reply({"ok": True})) == Unclear("ok, but without a message_id")


def test_flood_control_waits_as_long_as_telegram_asks_and_holds_the_account():
    answer = refusal(429, "Too Many Requests: retry after 10072", retry_after=10072)
    assert BOT.read(answer) == Retry(
        "Too Many Requests: retry after 10072", after_s=10072, pauses="account"
    )


@pytest.mark.parametrize("told", [None, True, "7", 7.5, -1, 10**9, 10**400, float("nan"), [7]])
def test_flood_control_falls_back_to_the_retry_after_header(told):
    body = {"ok": False, "error_code": 429, "parameters": {"retry_after": told}}
    answer = reply(body, 429, **{"retry-after": "30"})
    assert BOT.read(answer) == Retry("HTTP 429", after_s=30, pauses="account")


def test_flood_control_reads_a_retry_after_date():
    headers = {"retry-after": "Wed, 01 Jan 2031 00:00:30 GMT"}
    answer = Reply(429, b"<html>", headers, datetime(2031, 1, 1, tzinfo=UTC))
    assert BOT.read(answer) == Retry("HTTP 429", after_s=30, pauses="account")


@pytest.mark.parametrize(
    "parameters", [[], "7", None, {"retry_after": {}}, {"migrate_to_chat_id": True}]
)
def test_flood_control_without_a_readable_wait_still_holds_the_account(parameters):
    body = {"ok": False, "error_code": 429, "parameters": parameters}
    assert BOT.read(reply(body, 429)) == Retry("HTTP 429", pauses="account")


def test_an_upgraded_group_is_followed_at_once():
    why = "Bad Request: group chat was upgraded to a supergroup chat"
    answer = refusal(400, why, migrate_to_chat_id=-1001234567890)
    assert BOT.read(answer) == Retry(why, after_s=0, moved_to="-1001234567890")


@pytest.mark.parametrize("to", [None, True, "-1001234567890", 1.5, 2**52, 10**4000])
def test_an_upgraded_group_without_a_readable_address_is_refused(to):
    why = "Bad Request: group chat was upgraded to a supergroup chat"
    assert BOT.read(refusal(400, why, migrate_to_chat_id=to)) == Rejected(why)


RECIPIENT = [
    (400, "Bad Request: chat not found"),
    (400, "Bad Request: PEER_ID_INVALID"),
    (400, "Bad Request: user not found"),
    (400, "Bad Request: private chat not found"),
    (403, "Forbidden: bot was blocked by the user"),
    (403, "Forbidden: user is deactivated"),
    (403, "Forbidden: bot can't initiate conversation with a user"),
    (403, "Forbidden: bot was kicked from the supergroup chat"),
    (403, "Forbidden: bot is not a member of the channel chat"),
    (403, "Forbidden: the group chat was deleted"),
    (403, "Forbidden: bot can't send messages to bots"),
    (400, "Bad Request: not enough rights to send text messages to the chat"),
]
DEAD = {
    "Forbidden: bot was blocked by the user",
    "Forbidden: user is deactivated",
    "Forbidden: the group chat was deleted",
}
REQUEST = [
    (400, "Bad Request: message text is empty"),
    (400, "Bad Request: message is too long"),
    (400, "Bad Request: can't parse entities: Unsupported start tag"),
    (400, "Bad Request: Wrong HTTP URL specified"),
    (400, "Bad Request: Failed to get HTTP URL content"),
    (400, "Bad Request: file is too big"),
    (400, "Bad Request: wrong file_id or the file is temporarily unavailable"),
    (413, "Request Entity Too Large"),
]


@pytest.mark.parametrize(("code", "why"), RECIPIENT + REQUEST)
def test_a_fault_of_recipient_or_request_is_refused_in_telegrams_words(code, why):
    assert BOT.read(refusal(code, why)) == Rejected(why, dead=why in DEAD)


@pytest.mark.parametrize(("_", "why"), RECIPIENT + REQUEST)
@pytest.mark.parametrize("code", [400, 404, 500, None])
def test_the_description_counts_more_than_the_code(_, why, code):
    body = {"ok": False, "error_code": code, "description": why}
    assert BOT.read(reply(body)) == Rejected(why, dead=why in DEAD)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (401, "Unauthorized"),
        (401, "Unauthorized: invalid token specified"),
        (404, "Not Found"),
        (404, "Not Found: method not found"),
        (421, "Misdirected Request: unallowed token specified"),
        (400, "Logged out"),
        (400, "Bad Request: logged out"),
    ],
)
def test_a_refused_token_holds_the_account(code, why):
    assert BOT.read(refusal(code, why)) == Retry(why, pauses="account", refused=True)


@pytest.mark.parametrize(
    "why",
    [
        "Conflict: terminated by other getUpdates request",
        "Conflict: can't use getUpdates method while webhook is active",
    ],
)
def test_a_conflict_about_receiving_is_tried_again(why):
    assert BOT.read(refusal(409, why)) == Retry(why)


@pytest.mark.parametrize("code", [500, 502, 504])
def test_telegrams_own_trouble_is_tried_again(code):
    assert BOT.read(refusal(code, "Internal Server Error: restart")) == Retry(
        "Internal Server Error: restart"
    )
    assert BOT.read(Reply(code, b"<html>")) == Retry(f"HTTP {code}")


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"error_code": 429}, Retry("HTTP 429", pauses="account")),
        ({"error_code": 401}, Retry("HTTP 401", pauses="account", refused=True)),
        ({"error_code": 409}, Retry("HTTP 409")),
        ({"error_code": 502}, Retry("HTTP 502")),
        ({"error_code": 403}, Rejected("HTTP 403")),
        ({"description": "Bad Request: no idea"}, Rejected("Bad Request: no idea")),
        ({"description": "Unauthorized"}, Retry("Unauthorized", pauses="account", refused=True)),
        ({"error_code": True}, Unclear("HTTP 200 with an answer that could not be read")),
        ({"error_code": 200, "description": "Hm"}, Unclear("Hm")),
        ({"error_code": 10**400, "description": 5}, None),
        ({}, None),
    ],
)
def test_a_refusal_under_http_200_is_judged_by_what_it_says(body, outcome):
    read = BOT.read(reply({"ok": False, **body}))
    assert read == (outcome or Unclear("HTTP 200 with an answer that could not be read"))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Retry("HTTP 401", pauses="account", refused=True)),
        (413, Rejected("HTTP 413")),
        (503, Retry("HTTP 503")),
    ],
)
def test_an_ok_under_a_failed_http_status_is_not_believed(status, outcome):
    assert BOT.read(reply({"ok": True, "result": {"message_id": 1}}, status)) == outcome


@pytest.mark.parametrize(
    "quoted", [TOKEN, TOKEN.replace(":", "%3A"), f"/bot{TOKEN}/sendMessage\x00\ud800\n"]
)
def test_a_reason_never_holds_the_token_and_can_be_stored(quoted):
    outcome = BOT.read(refusal(400, f"Bad Request: {quoted} {'x' * 1000}"))
    assert TOKEN.partition(":")[2] not in outcome.reason
    assert outcome.reason.encode()
    assert outcome.reason.isprintable()
    assert len(outcome.reason) == 300


JUNK = [
    *(b"", b"{", b"<html>502</html>", b"\xff\xfe\x00", b"null", b"[]", b'"ok"', b"1e999", b"NaN"),
    *(b"[" * 100_000, b'{"ok":' * 50_000, b'{"ok": true, "result": ' + b"9" * 5000 + b"}"),
    *(b'{"ok": 1, "result": {"message_id": 1}}', b'{"ok": "true"}', b'{"ok": NaN}'),
    *(b'{"ok": false, "description": []}', b'{"ok": false, "parameters": {"retry_after": NaN}}'),
]


@pytest.mark.parametrize("body", JUNK, ids=lambda body: ascii(body[:30]))
@pytest.mark.parametrize(
    "status", [0, 100, 200, 204, 302, 400, 401, 403, 404, 409, 429, 500, 599, 999]
)
def test_junk_gives_an_outcome_and_is_never_taken_for_sent(status, body):
    answer = Reply(status, body, {"retry-after": "soon"})
    assert isinstance(BOT.read(answer), Retry | Rejected | Unclear)
    assert isinstance(BOT.read_whoami(answer), Retry | Rejected | Unclear)
    assert BOT.read_people(answer) == []


# Who we are


@pytest.mark.parametrize(
    ("who", "name"),
    [
        (
            {"first_name": "Post", "last_name": "Rider", "username": "rider_bot"},
            "@rider_bot (Post Rider)",
        ),
        ({"first_name": "Post", "username": "rider_bot"}, "@rider_bot (Post)"),
        ({"first_name": 5, "username": "rider_bot"}, "@rider_bot"),
        ({"first_name": "Post\u202e\x1b[31m"}, "Post [31m"),
        ({}, "a bot without a name"),
        ({"first_name": "x" * 400, "username": "y" * 400}, "@" + "y" * 299),
    ],
)
def test_a_bot_is_shown_by_its_names(who, name):
    answer = reply({"ok": True, "result": {"id": 1, "is_bot": True, **who}})
    assert BOT.read_whoami(answer) == Identity(name)


def test_a_refused_token_is_no_identity():
    answer = refusal(401, "Unauthorized")
    assert BOT.read_whoami(answer) == Retry("Unauthorized", pauses="account", refused=True)


def test_an_answer_to_something_else_is_no_identity():
    assert isinstance(BOT.read_whoami(reply({"ok": True, "result": {"message_id": 1}})), Unclear)
    assert isinstance(BOT.read_whoami(reply({"ok": True, "result": {"is_bot": False}})), Unclear)


# Who has written

IN_PRIVATE = [("42", "@ada (Ada Lovelace)")]
IN_GROUP = [("-1001234567890", "Engines"), *IN_PRIVATE]
IN_CHANNEL = [("-1009876543210", "News")]
ANSWER = {"poll_id": "1", "user": ADA, "option_ids": [], "option_persistent_ids": []}
PRESSED = {"id": "1", "chat_instance": "1", "from": ADA, "message": message_from(GROUP)}
JOINED = {
    "chat": GROUP,
    "from": ADA,
    "date": 1_700_000_000,
    "old_chat_member": {"status": "left", "user": ADA},
    "new_chat_member": {"status": "left", "user": ADA},
}
EVENTS = [
    ({"message": message_from(ADA_CHAT, ADA)}, IN_PRIVATE),
    ({"message": message_from(GROUP, ADA)}, IN_GROUP),
    ({"edited_message": message_from(GROUP, ADA)}, IN_GROUP),
    ({"channel_post": message_from(CHANNEL)}, IN_CHANNEL),
    ({"callback_query": PRESSED}, IN_GROUP),
    ({"my_chat_member": JOINED}, IN_GROUP),
    ({"poll_answer": ANSWER}, IN_PRIVATE),
]


@pytest.mark.parametrize(("event", "people"), EVENTS)
def test_whoever_appears_in_an_update_is_found(event, people):
    assert BOT.read_people(updates(event)) == [Person(to, name) for to, name in people]


@pytest.mark.parametrize(("event", "_"), EVENTS)
def test_the_updates_of_these_tests_are_updates_to_others_too(event, _):
    update = {"update_id": 1, **event}
    assert faults(TELEGRAM, "/components/schemas/Update", update) == []
    assert Update.de_json(update).update_id == 1


def test_everybody_is_listed_once():
    people = BOT.read_people(updates(*(event for event, _ in EVENTS + EVENTS)))
    assert [person.to for person in people] == ["42", "-1001234567890", "-1009876543210"]


def test_the_newest_name_is_shown():
    renamed = {**ADA_CHAT, "username": "countess"}
    events = ({"message": message_from(chat)} for chat in (ADA_CHAT, renamed))
    assert BOT.read_people(updates(*events)) == [Person("42", "@countess (Ada Lovelace)")]


def test_a_bot_is_nobody_to_write_to_and_a_name_is_not_needed():
    bot = {"id": 7, "is_bot": True, "first_name": "Other"}
    nameless = {"id": -5, "type": "group"}
    assert BOT.read_people(updates({"message": message_from(nameless, bot)})) == [
        Person("-5", "-5")
    ]


def test_with_a_webhook_set_nobody_can_be_listed():
    why = "Conflict: can't use getUpdates method while webhook is active"
    assert BOT.read_people(refusal(409, why)) == []


@pytest.mark.parametrize(
    "result",
    [
        *(None, True, 5, "x", {}, [None, 5, "x", []], [{}], [{"message": None}]),
        *([{"message": {"chat": chat}}] for chat in (None, 5, [], {}, {"id": True}, {"id": "42"})),
        *([{"message": {"from": who}}] for who in ({"id": 2**52}, {"id": 4.2}, {"id": None})),
        [{"callback_query": {"message": 5, "user": {"id": float("nan")}}}],
    ],
)
def test_junk_in_updates_is_passed_over(result):
    assert BOT.read_people(reply({"ok": True, "result": result})) == []
