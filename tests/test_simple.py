"""The simple API over real HTTP: its exact shapes, and what it says to bad input."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from messengers.base import Rejected, Sent
from postrider.model import State
from postrider.service import Service
from postrider.settings import Settings
from tests.conftest import Api, connected_to, post_head

MANY_DEEP = 100_000
ANA = {"uuid": "1", "service": "whatsapp"}
BEN = {"uuid": "2", "service": "telegram"}
SOON = {"send_at": "2030-10-05 13:48:00"}


def message(**changes: Any) -> dict[str, Any]:
    return {"body": "Hello", "recipients": [ANA, BEN], **changes}


def stored(client: redis.Redis) -> list[bytes]:
    """Every key, but for the books about who came in."""
    return [key for key in client.scan_iter() if not key.startswith((b"pr:tries:", b"pr:audit:"))]


# -- what it promises


def test_a_scheduled_message_is_answered_in_the_exact_words(api: Api) -> None:
    reply = api.post("/send_message", json=message(**SOON))
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "application/json"
    answer = reply.json()
    assert answer["scheduled"] == [
        "Message to user: 1 with body: Hello Queued at 2030-10-05 13:48:00 to messenger: whatsapp",
        "Message to user: 2 with body: Hello Queued at 2030-10-05 13:48:00 to messenger: telegram",
    ]
    assert answer["started"] == []
    mid = answer["message"]["id"]
    assert answer["message"]["deliveries"] == [
        {"id": f"{mid}-0", "uuid": "1", "service": "whatsapp", "state": "scheduled"},
        {"id": f"{mid}-1", "uuid": "2", "service": "telegram", "state": "scheduled"},
    ]
    assert set(answer) == {"scheduled", "started", "message"}


def test_without_a_time_it_is_started_and_shows_when_it_was_accepted(api: Api) -> None:
    answer = api.post("/send_message", json=message()).json()
    assert answer["scheduled"] == []
    at = re.search(r"Queued at (\S+ \S+) to", answer["started"][0])
    assert at is not None
    accepted = datetime.fromisoformat(at[1]).replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - accepted) < timedelta(seconds=5)
    assert answer["message"]["deliveries"][0]["state"] == "queued"


def test_times_are_shown_in_the_zone_of_the_service(env: dict[str, str], api: Api) -> None:
    offset = message(send_at="2030-10-05T13:48:00.5+05:00")
    assert (
        "Queued at 2030-10-05 08:48:00 to"
        in api.post("/send_message", json=offset).json()["scheduled"][0]
    )
    zoned = message(**SOON, timezone="Asia/Tokyo")
    assert (
        "Queued at 2030-10-05 04:48:00 to"
        in api.post("/send_message", json=zoned).json()["scheduled"][0]
    )


def test_both_lists_show_what_there_is(api: Api, service: Service) -> None:
    api.post("/send_message", json=message(body="now"))
    api.post("/send_message", json=message(body="later", **SOON))
    api.post("/send_message", json=message(body="soon", send_at="2029-01-01 00:00:00"))
    for claim, state in zip(
        service.sender.claim("w", 2).claims, (State.SENT, State.FAILED), strict=True
    ):
        service.sender.record(
            "w",
            [service.sender.verdict(claim, Sent("1") if state is State.SENT else Rejected("no"))],
        )
    waits = api.get("/get_scheduled").json()
    assert [re.search(r"body: (\w+)", line)[1] for line in waits["scheduled"]] == [
        "soon",
        "soon",
        "later",
        "later",
    ]  # type: ignore[index]
    assert (waits["total"], waits["next"]) == (4, None)
    ended = api.get("/get_finished").json()
    assert set(ended) == {
        "finished_main",
        "finished_scheduled",
        "finished_with_fail",
        "total",
        "next",
    }
    assert [
        len(ended[k]) for k in ("finished_main", "finished_scheduled", "finished_with_fail")
    ] == [1, 0, 1]


def test_lists_go_on_behind_a_cursor(api: Api) -> None:
    recipients = [{"uuid": str(n), "service": "telegram"} for n in range(25)]
    api.post("/send_message", json=message(recipients=recipients, **SOON))
    seen: list[str] = []
    path = "/get_scheduled?limit=10"
    while path:
        page = api.get(path).json()
        seen += page["scheduled"]
        assert page["total"] == 25
        path = f"/get_scheduled?limit=10&cursor={page['next']}" if page["next"] else ""
    assert len(set(seen)) == 25


def test_delete_all_says_success_and_spares_what_waits(api: Api, service: Service) -> None:
    api.post("/send_message", json=message(**SOON))
    api.post("/send_message", json=message())

    claims = service.sender.claim("w", 2).claims
    service.sender.record("w", [service.sender.verdict(claim, Sent("1")) for claim in claims])
    reply = api.delete("/delete_all")
    assert (reply.status_code, reply.json()) == (200, "Success")
    assert api.get("/get_finished").json()["total"] == 0
    assert api.get("/get_scheduled").json()["total"] == 2


def test_over_a_thousand_recipients_the_answer_lists_the_first_and_counts_all(api: Api) -> None:
    recipients = [{"uuid": str(n), "service": "telegram"} for n in range(2500)]
    answer = api.post("/send_message", json=message(recipients=recipients, **SOON)).json()
    assert len(answer["scheduled"]) == len(answer["message"]["deliveries"]) == 1000
    assert answer["total"] == 2500
    assert api.get("/get_scheduled?limit=1").json()["total"] == 2500


def test_a_whatsapp_template_needs_no_body(api: Api) -> None:
    template = {"name": "hello_world", "language": "en_US"}
    reply = api.post("/send_message", json={"template": template, "recipients": [ANA]})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦",
        "\u202eabc\u202c",
        "a\u200bb",
        "e" + "\u0301" * 1000,
        "line\r\nline\ttab",
        "\x7f\x1b[31m",
        "\ufeffx\uffff",
    ],
)
def test_every_text_that_can_be_sent_is_kept_exactly(api: Api, service: Service, text: str) -> None:
    assert api.post("/send_message", json=message(body=text)).status_code == 200
    assert service.sender.claim("w", 1).claims[0].message.body == text


# -- who may come in


@pytest.mark.parametrize(
    "path", ["/send_message", "/get_scheduled", "/get_finished", "/delete_all", "/sandbox"]
)
@pytest.mark.parametrize(
    "auth", [None, ("postrider", "wrong"), ("nobody", "planted-api-secret"), ("", ""), ("ü", "ß")]
)
def test_nobody_comes_in_without_the_password(
    api: Api, path: str, auth: tuple[str, str] | None
) -> None:
    api.auth = None if auth is None else tuple(part.encode() for part in auth)  # type: ignore[assignment]
    method = {"/send_message": "POST", "/delete_all": "DELETE"}.get(path, "GET")
    reply = api.request(method, path)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="Postrider"'
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json() == {"error": "Unauthorized access"}


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic Og==", "Bearer x", "Digest x", "Basic " + "A" * 5000]
)
def test_a_malformed_login_is_a_401_too(api: Api, header: str) -> None:
    api.auth = None
    assert api.get("/get_scheduled", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/docs"])
def test_what_is_open_to_all_needs_no_password(api: Api, path: str) -> None:
    api.auth = None
    assert api.get(path).status_code == 200


# -- bad input: a clear word, and nothing accepted


def to(*recipients: Any) -> dict[str, Any]:
    return message(recipients=list(recipients))


BAD: list[tuple[str, Any, str]] = [
    # types
    ("a list for a message", [], "body"),
    ("a string for a message", "x", "body"),
    ("null for a message", None, "recipients"),
    ("nothing at all", {}, "recipients"),
    ("body a number", message(body=1), "body"),
    ("body null", message(body=None), "body"),
    ("body a list", message(body=["x"]), "body"),
    ("body an object", message(body={"text": "x"}), "body"),
    ("body true", message(body=True), "body"),
    ("recipients left out", {"body": "x"}, "recipients"),
    ("recipients null", message(recipients=None), "recipients"),
    ("recipients empty", message(recipients=[]), "recipients"),
    ("recipients an object", message(recipients=ANA), "recipients"),
    ("recipients a string", message(recipients="1"), "recipients"),
    ("a recipient that is a string", to("1"), "recipients[0]"),
    ("a recipient that is null", to(ANA, None), "recipients[1]"),
    ("a recipient without uuid", to({"service": "telegram"}), "recipients[0].uuid"),
    ("a recipient without service", to({"uuid": "1"}), "recipients[0].service"),
    ("a uuid that is a number", to({"uuid": 1, "service": "telegram"}), "recipients[0].uuid"),
    ("a uuid that is null", to({"uuid": None, "service": "telegram"}), "recipients[0].uuid"),
    ("a service that is a number", to({"uuid": "1", "service": 1}), "recipients[0].service"),
    ("a recipient with a field too many", to({**ANA, "color": "red"}), "recipients[0].color"),
    ("a misspelt field", message(sendat="2030-10-05 13:48:00"), "sendat"),
    ("send_at a number", message(send_at=1900000000), "send_at"),
    ("send_at true", message(send_at=True), "send_at"),
    ("send_at an object", message(send_at={}), "send_at"),
    ("timezone a number", message(**SOON, timezone=2), "timezone"),
    ("template a string", message(template="hello"), "template"),
    ("template without a language", message(template={"name": "hello"}), "template.language"),
    (
        "template with components no list",
        message(template={"name": "a", "language": "en", "components": {}}),
        "template",
    ),
    # lengths
    ("body empty", message(body=""), "body"),
    ("body white space", message(body=" \n\u00a0\u3000"), "body"),
    ("body over telegram's limit", message(body="x" * 4097), "body"),
    ("body over telegram's limit in UTF-16", message(body="😀" * 2049), "body"),
    ("body of a megabyte", message(body="x" * 2**20), "body"),
    ("uuid empty", to({"uuid": "", "service": "telegram"}), "recipients[0].uuid"),
    ("viber id too long", to({"uuid": "x" * 65, "service": "viber"}), "recipients[0].uuid"),
    ("sandbox uuid too long", to({"uuid": "x" * 201, "service": "sandbox"}), "recipients[0].uuid"),
    ("phone too long", to({"uuid": "1" * 16, "service": "whatsapp"}), "recipients[0].uuid"),
    # forms of recipients
    ("telegram id with letters", to({"uuid": "12a", "service": "telegram"}), "recipients[0].uuid"),
    (
        "telegram id of 53 bits",
        to({"uuid": str(2**52), "service": "telegram"}),
        "recipients[0].uuid",
    ),
    (
        "telegram id of 5000 digits",
        to({"uuid": "9" * 5000, "service": "telegram"}),
        "recipients[0].uuid",
    ),
    (
        "telegram id in other digits",
        to({"uuid": "١٢٣", "service": "telegram"}),
        "recipients[0].uuid",
    ),
    ("telegram name empty", to({"uuid": "@", "service": "telegram"}), "recipients[0].uuid"),
    ("phone with spaces", to({"uuid": "+49 151", "service": "whatsapp"}), "recipients[0].uuid"),
    ("phone with two plus", to({"uuid": "++49151", "service": "whatsapp"}), "recipients[0].uuid"),
    ("viber id with a space", to({"uuid": "a b", "service": "viber"}), "recipients[0].uuid"),
    ("viber id with a control", to({"uuid": "a\tb", "service": "viber"}), "recipients[0].uuid"),
    # unicode
    ("NUL in the body", message(body="a\0b"), "body"),
    ("NUL in a sandbox uuid", to({"uuid": "a\0", "service": "sandbox"}), "recipients[0].uuid"),
    # services
    ("unknown service", to({"uuid": "1", "service": "pigeon"}), "recipients[0].service"),
    ("service in capitals", to({"uuid": "1", "service": "Telegram"}), "recipients[0].service"),
    ("service empty", to({"uuid": "1", "service": ""}), "recipients[0].service"),
    (
        "one bad among good ones",
        to(ANA, BEN, {"uuid": "x y", "service": "viber"}, ANA),
        "recipients[2].uuid",
    ),
    # times
    ("a day only", message(send_at="2030-10-05"), "send_at"),
    ("no such day", message(send_at="2030-02-30 10:00:00"), "send_at"),
    ("no such hour", message(send_at="2030-02-20 25:00:00"), "send_at"),
    ("words", message(send_at="tomorrow"), "send_at"),
    ("year 9999", message(send_at="9999-12-31 23:59:59"), "send_at"),
    ("year 10000", message(send_at="10000-01-01 00:00:00"), "send_at"),
    ("an offset of 99 h", message(send_at="2030-01-01T00:00:00+99:00"), "send_at"),
    ("a gap", message(send_at="2027-03-28 02:30:00", timezone="Europe/Berlin"), "send_at"),
    ("a fold", message(send_at="2027-10-31 02:30:00", timezone="Europe/Berlin"), "send_at"),
    ("an unknown zone", message(**SOON, timezone="Mars/Olympus"), "timezone"),
    ("a path for a zone", message(**SOON, timezone="../../etc/passwd"), "timezone"),
    (
        "a template for telegram",
        to(BEN) | {"template": {"name": "a", "language": "en"}},
        "template",
    ),
    (
        "a template with a lone surrogate",
        to(ANA) | {"template": {"name": "a", "language": "en", "components": [{"type": "\ud800"}]}},
        "template",
    ),
    (
        "a template without end",
        to(ANA)
        | {"template": {"name": "a", "language": "en", "components": [{"type": "x" * 70_000}]}},
        "template",
    ),
    (
        "a template's name in capitals",
        to(ANA) | {"template": {"name": "A", "language": "en"}},
        "template",
    ),
]


@pytest.mark.parametrize(
    ("data", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_input_names_field_and_reason_and_accepts_nothing(
    api: Api, client: redis.Redis, data: Any, field: str
) -> None:
    reply = api.post("/send_message", json=data if data is not None else {})
    assert reply.status_code == 400
    assert reply.headers["Content-Type"] == "application/json"
    error = reply.json()["error"]
    assert error.startswith(f"{field}") or f"{field}:" in error
    assert len(error) > len(field) + 5
    assert not stored(client)


RAW: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{", "is not JSON"),
    ("nothing", b"", "is not JSON"),
    ("NaN", b'{"body": NaN}', "NaN"),
    ("Infinity", b'{"body": -Infinity}', "Infinity"),
    ("a key twice", b'{"body": "a", "body": "b", "recipients": []}', "'body' twice"),
    (
        "a recipient's key twice",
        b'{"body":"a","recipients":[{"uuid":"1","uuid":"2","service":"viber"}]}',
        "'uuid' twice",
    ),
    ("nested without end", b"[" * MANY_DEEP, "nested too deeply"),
    ("objects nested without end", b'{"body":' * MANY_DEEP, "nested too deeply"),
    ("a number of 5000 digits", b'{"body": ' + b"9" * 5000 + b"}", "too many digits"),
    ("not UTF-8", b'{"body": "\xff"}', "UTF-8"),
    ("UTF-16", '{"body": "x"}'.encode("utf-16"), "UTF-8"),
    (
        "a lone surrogate",
        b'{"body": "\\ud800", "recipients": [{"uuid": "1", "service": "telegram"}]}',
        "surrogates",
    ),
    (
        "a lone surrogate in a uuid",
        b'{"body":"x","recipients":[{"uuid":"\\udc00","service":"sandbox"}]}',
        "surrogates",
    ),
    ("a lone surrogate in a key", b'{"\\ud800": 1}', "body"),
    (
        "a lone surrogate beside NUL",
        b'{"body": "\\u0000\\udfff"}',
        "body: must not hold lone surrogates",
    ),
    (
        "a lone surrogate far down",
        b'{"template": ' + b"[" * 900 + b'"\\uDBFF"' + b"]" * 900 + b"}",
        "[0][0][0]: must not hold lone surrogates",
    ),
    ("a field that is none", b'{"sendat": 1}', "sendat: there is no such field"),
    ("nobody", b'{"recipients": []}', "recipients: must not be empty"),
    ("a name for a recipient", b'{"recipients": ["ana"]}', "recipients[0]: must be an object"),
    ("two values", b"{} {}", "is not JSON"),
    ("single quotes", b"{'body': 'x'}", "is not JSON"),
    ("a comment", b'{"body": "x" /* hi */}', "is not JSON"),
]


@pytest.mark.parametrize(("raw", "says"), [case[1:] for case in RAW], ids=[case[0] for case in RAW])
def test_what_is_no_proper_json_is_refused_in_words(
    api: Api, client: redis.Redis, raw: bytes, says: str
) -> None:
    reply = api.post("/send_message", data=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert says in reply.json()["error"]
    assert not stored(client)


def test_the_past_is_refused_in_the_words_that_clients_know(api: Api) -> None:
    reply = api.post("/send_message", json=message(send_at="2020-10-05 13:48:00"))
    assert (reply.status_code, reply.json()) == (400, {"error": "Date must be in a future!"})


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/xml",
    ],
)
def test_another_content_type_is_a_415(api: Api, kind: str) -> None:
    reply = api.post("/send_message", data=json.dumps(message()), headers={"Content-Type": kind})
    assert reply.status_code == 415
    assert "application/json" in reply.json()["error"]


def test_a_body_of_50_mb_is_a_413(api: Api) -> None:
    """By what its head says; what is still to come is not waited for."""
    head = post_head("/send_message", "Content-Type: application/json", "Content-Length: 50000000")
    with connected_to(api.url) as connection:
        connection.sendall(head + b"x" * 65_536)
        answer = b""
        while b"MAX_BODY_BYTES" not in answer and (part := connection.recv(65_536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"MAX_BODY_BYTES" in answer


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=10001", "limit=x", "limit=1e3", "cursor=x", "page=2"]
)
@pytest.mark.parametrize("path", ["/get_scheduled", "/get_finished"])
def test_a_wrong_query_names_the_parameter(api: Api, path: str, query: str) -> None:
    reply = api.get(f"{path}?{query}")
    assert reply.status_code == 400
    assert query.partition("=")[0] in reply.json()["error"]


def test_404_and_405_are_json_and_keep_their_headers(api: Api) -> None:
    missing = api.get("/nothing/here")
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "there is nothing at /nothing/here"},
    )
    wrong = api.get("/send_message")
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["Allow"]
    assert wrong.json() == {"error": "GET is not allowed here"}


def test_redis_away_is_a_503_with_retry_after(env: dict[str, str], tmp_path: object) -> None:
    from postrider.web import create_app  # noqa: PLC0415

    settings = Settings.from_env(env | {"REDIS_URL": f"unix://{tmp_path}/none.sock"}, None)
    client = create_app(settings, sweeps=False).test_client()
    reply = client.post("/send_message", json=message(), auth=("postrider", "planted-api-secret"))
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "1"
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_readyz_wants_a_worker(api: Api) -> None:
    reply = api.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"error": "no worker is running"})
