"""/hooks over real HTTP: what a messenger tells us, if it signed it."""

import hashlib
import hmac
import json
import time

import pytest

from messengers.base import Person
from postrider.service import Service
from tests.conftest import Api

SUBSCRIBED = json.dumps(
    {
        "event": "subscribed",
        "timestamp": time.time_ns() // 1_000_000,
        "user": {"id": "01234567890A=", "name": "Ana"},
        "message_token": 1,
    }
).encode()


def signed(body: bytes, key: bytes = b"planted-viber-secret") -> dict[str, str]:
    return {"X-Viber-Content-Signature": hmac.new(key, body, hashlib.sha256).hexdigest()}


@pytest.fixture(autouse=True)
def _logged_out(api: Api) -> None:
    api.auth = None  # messengers sign, they do not log in


def test_who_writes_to_the_bot_is_remembered(api: Api, service: Service) -> None:
    reply = api.post("/hooks/viber/default", data=SUBSCRIBED, headers=signed(SUBSCRIBED))
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
    assert service.inbox.people("viber/default") == [Person("01234567890A=", "Ana")]


def test_the_call_that_proves_the_webhook_is_answered(api: Api) -> None:
    now_ms = time.time_ns() // 1_000_000
    body = b'{"event":"webhook","timestamp":%d,"message_token":241256543215}' % now_ms
    assert api.post("/hooks/viber/default", data=body, headers=signed(body)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Viber-Content-Signature": ""},
        {"X-Viber-Content-Signature": "é"},
        signed(SUBSCRIBED, b"another key"),
        signed(SUBSCRIBED + b" "),
    ],
)
def test_what_is_not_signed_is_refused(api: Api, service: Service, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    reply = api.post("/hooks/viber/default", data=SUBSCRIBED, headers=raw)  # type: ignore[arg-type]
    assert reply.status_code == 401
    assert service.inbox.people("viber/default") == []


@pytest.mark.parametrize(
    "path", ["viber/shop", "telegram/default", "sandbox/default", "pigeon/default"]
)
def test_a_webhook_that_is_not_there_is_a_404(api: Api, path: str) -> None:
    assert (
        api.post(f"/hooks/{path}", data=SUBSCRIBED, headers=signed(SUBSCRIBED)).status_code == 404
    )


def test_a_webhook_that_is_never_asked_answers_no_question(api: Api) -> None:
    assert api.get("/hooks/viber/default?hub.challenge=1").status_code == 404
