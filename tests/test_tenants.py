"""One tenant's things in another's hands: every route and method that takes an id answers as for an id of nobody."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import requests

from messengers.base import Rejected, Sent
from postrider.service import Service
from postrider.settings import Settings
from postrider.web import create_app
from tests.conftest import Api
from tests.test_callbacks import SECRET
from tests.test_outbox import DEAD, record, take

ADMINS_ALONE = ("/api/v1/keys", "/api/v1/users", "/api/v1/suppressions")
"""Their ids are nobody's; tests/test_roles.py shows that a sender gets 403."""
NO_IDS = ("/static/", "/hooks/", "/files/", "/ws/")
TAKES = {
    "GET /api/v1/messages/<message_id>": ("message", None),
    "PATCH /api/v1/messages/<message_id>": ("message", {"body": "taken", "paused": True}),
    "DELETE /api/v1/messages/<message_id>": ("message", None),
    "GET /api/v1/deliveries/<delivery_id>": ("delivery", None),
    "DELETE /api/v1/deliveries/<delivery_id>": ("delivery", None),
    "POST /api/v1/deliveries/<delivery_id>/retry": ("delivery", None),
    "GET /api/v1/callbacks/<string(minlength=21):id_>": ("callback", None),
    "POST /api/v1/callbacks/<string(minlength=21):id_>/replay": ("callback", None),
    "GET /api/v1/schedules/<id>": ("schedule", None),
    "PATCH /api/v1/schedules/<id>": ("schedule", {"state": "paused", "body": "taken"}),
    "DELETE /api/v1/schedules/<id>": ("schedule", None),
    "GET /api/v1/files/<id>": ("file", None),
    "GET /api/v1/files/<id>/content": ("file", None),
    "DELETE /api/v1/files/<id>": ("file", None),
    "GET /api/v1/sessions/<name>": ("session", None),
    "DELETE /api/v1/sessions/<name>": ("session", None),
    "POST /api/v1/sessions/<name>/start": ("session", None),
    "POST /api/v1/sessions/<name>/stop": ("session", None),
    "POST /api/v1/sessions/<name>/restart": ("session", None),
    "POST /api/v1/sessions/<name>/logout": ("session", None),
    "GET /api/v1/sessions/<name>/qr": ("session", None),
    "POST /api/v1/sessions/<name>/pair": ("session", {"number": "375447034810"}),
    "GET /api/v1/sessions/<name>/passkey": ("session", None),
    "POST /api/v1/sessions/<name>/passkey": ("session", {"confirm": True}),
    "PUT /api/v1/sessions/<name>/presence": ("session", {"online": True}),
    "GET /get-qr-code/<session_id>/": ("session", None),
    "GET /get-session-info/<session_id>/": ("session", None),
}
"""Every route with an id: whose kind it is, and a body. A new one has to stand here."""
NOBODYS = {
    "message": "0" * 21,
    "delivery": "0" * 21 + "-0",
    "callback": "0" * 21 + "_000001",
    "schedule": "0" * 21,
    "file": "0" * 22,
    "session": "nobodys",
}
LISTS = {
    "/api/v1/messages": "messages",
    "/api/v1/deliveries": "deliveries",
    "/api/v1/callbacks": "callbacks",
    "/api/v1/schedules": "schedules",
    "/api/v1/files": "files",
    "/api/v1/sessions": "sessions",
    "/api/v1/incoming": "incoming",
    "/get_scheduled": "scheduled",
    "/get_finished": "finished_main",
    "/sandbox.json": "messages",
}
"""Every list that a sender may read, and where its rows stand."""
NOT_OF_TENANTS = {
    "/",
    "/init",
    "/key",
    "/key.crt",
    "/api/v1/me",
    "/api/v1/accounts",
    "/metrics",
    "/sandbox",
}
SECRETS = ("alphas-secret", "alphas-order", "alphas-tag", "555001")


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    nobody = {"WAHA_URL": "http://127.0.0.1:9", "WHATSAPP_WEB_SECRET": "planted-hook-secret"}
    return env | {"WEBHOOK_SECRET": SECRET, "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8"} | nobody


def rules(settings: Settings) -> Iterator[tuple[str, str]]:
    for rule in create_app(settings, sweeps=False).url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule


def test_every_route_that_takes_an_id_is_tried_here(settings: Settings) -> None:
    skipped = (*ADMINS_ALONE, *NO_IDS)
    found = {f"{m} {r}" for m, r in rules(settings) if "<" in r and not r.startswith(skipped)}
    assert found == set(TAKES)


def test_every_list_that_a_sender_may_read_is_tried_here(
    settings: Settings, api: Api, tenants: "Tenants"
) -> None:
    paths = {r for m, r in rules(settings) if m == "GET" and "<" not in r}
    read = {p for p in paths if tenants.b("GET", p).status_code == 200}
    opened = {p for p in paths if api.get(p, auth=None).status_code in {200, 503}}
    assert read - opened - NOT_OF_TENANTS == set(LISTS)


Ask = Callable[..., requests.Response]


class Tenants:
    """Two keys of role sender; `a` has one of everything, with its ids by kind."""

    def __init__(self, api: Api, service: Service) -> None:
        self.a, self.b, self.c = (self._key(api, name) for name in ("alpha", "beta", "gamma"))
        api.auth = None
        terms: dict[str, Any] = {
            "body": "alphas-secret",
            "reference": "alphas-order",
            "tags": ["alphas-tag"],
            "callback_url": "http://127.0.0.1:9/",
        }
        tos = [{"uuid": f"555001{n}", "service": "telegram"} for n in range(2)]
        self.once = {"Idempotency-Key": "alphas-key"}
        self.sent = terms | {"recipients": tos}
        gone = self.a("POST", "/api/v1/messages", json=self.sent, headers=self.once).json()["id"]
        claims = service.sender.claim("w", 5).claims
        ends = (Sent("alphas-secret-1"), Rejected("alphas-secret-2"))
        service.sender.record(
            "w", [service.sender.verdict(c, e) for c, e in zip(claims, ends, strict=True)]
        )
        events = take(service.outbox, 50)
        record(service.outbox, events, DEAD)
        waits = self.a(
            "POST", "/api/v1/messages", json=self.sent | {"send_at": "2030-01-01 00:00:00"}
        ).json()["id"]
        plan = terms | {"recipients": tos, "repeat": {"cron": "0 9 * * *"}}
        for name in ("callback_url", "dedupe_within_s"):
            plan.pop(name, None)
        made = self.a("POST", "/api/v1/schedules", json=plan)
        assert made.status_code == 201, made.text
        form = {"f": ("alphas-secret.txt", b"x")}
        (kept,) = self.a("POST", "/api/v1/files", files=form).json()["files"]
        phone = self.a("POST", "/api/v1/sessions", json={"name": "alphas-secret"}).json()
        self.ids: dict[str, list[str]] = {
            "message": [gone, waits],
            "delivery": [f"{mid}-{n}" for mid in (gone, waits) for n in range(2)],
            "callback": [event.id for event in events],
            "schedule": [made.json()["id"]],
            "file": [kept["id"]],
            "session": ["alphas-secret", f"alphas-secret_{phone['owner']}"],
        }

    def _key(self, api: Api, name: str) -> Ask:
        key = api.post("/api/v1/keys", json={"name": name, "role": "sender"}).json()["key"]

        def ask(method: str, path: str, **more: Any) -> requests.Response:
            headers = {"Authorization": f"Bearer {key}"} | more.pop("headers", {})
            return api.request(method, path, headers=headers, **more)

        return ask


@pytest.fixture
def tenants(api: Api, service: Service) -> Tenants:
    return Tenants(api, service)


def stored(client: redis.Redis) -> dict[bytes, bytes]:
    """All of Redis but what a call by itself leaves: who was there, who did what, what is counted."""
    besides = re.compile(rb"pr:(clients:used|audit|rate|tries|metrics|once|served|claimed)")
    return {key: client.dump(key) or b"" for key in client.scan_iter() if not besides.match(key)}


@pytest.mark.parametrize("route", TAKES)
def test_anothers_id_answers_as_nobodys_does_and_nothing_changes(
    tenants: Tenants, client: redis.Redis, route: str
) -> None:
    method, path = route.split(" ")
    kind, body = TAKES[route]

    def asked(ask: Ask, id_: str) -> tuple[int, str, str]:
        found = ask(method, re.sub("<[^>]+>", id_, path), json=body)
        return found.status_code, found.headers["Content-Type"], found.text.replace(id_, "ID")

    assert tenants.ids[kind]
    before = stored(client)
    for id_ in tenants.ids[kind]:
        theirs = asked(tenants.b, id_)
        assert theirs == asked(tenants.b, NOBODYS[kind])
        assert theirs[0] == 404
    assert stored(client) == before
    assert asked(tenants.a, tenants.ids[kind][0])[0] != 404


@pytest.mark.parametrize("accept", ["application/json", "text/csv", "application/x-ndjson"])
@pytest.mark.parametrize("path", LISTS)
def test_no_list_and_no_export_shows_what_is_anothers(
    tenants: Tenants, path: str, accept: str
) -> None:
    gone, waits = tenants.ids["message"]
    of = {"message": [gone, waits], "reference": ["alphas-order"], "tag": ["alphas-tag"]}
    of |= {"uuid": ["5550010"], "service": ["telegram"], "state": ["dead", "sent", "scheduled"]}
    for query in ({}, *({k: v} for k, vs in of.items() for v in vs)):
        found = tenants.b("GET", path, params=query, headers={"Accept": accept})
        assert found.status_code in {200, 400}
        assert not [word for word in (*SECRETS, gone, waits) if word in found.text]
        never_a_row = tenants.c("GET", path, params=query, headers={"Accept": accept})
        assert never_a_row.text == found.text


def test_a_cursor_of_another_leads_nowhere_else(tenants: Tenants) -> None:
    for path in ("/api/v1/messages", "/api/v1/deliveries", "/get_scheduled", "/get_finished"):
        cursor = tenants.a("GET", f"{path}?limit=1").json()["next"]
        assert cursor
        found = tenants.b("GET", path, params={"cursor": cursor})
        assert found.status_code in {200, 400}
        assert not [w for w in (*SECRETS, *tenants.ids["message"]) if w in found.text]


def test_stopping_by_tag_or_reference_stops_only_ones_own(
    tenants: Tenants, client: redis.Redis
) -> None:
    before = stored(client)
    for query in ("tag=alphas-tag", "reference=alphas-order", "tag=nobodys"):
        answer = tenants.b("DELETE", f"/api/v1/messages?{query}")
        assert answer.json() == {"changed": 0, "unchanged": {}}
    assert tenants.b("POST", "/api/v1/callbacks/replay").json() == {"replayed": 0, "left": 0}
    assert stored(client) == before
    assert tenants.a("DELETE", "/api/v1/messages?tag=alphas-tag").json()["changed"] > 0


def test_an_idempotency_key_of_another_is_free(tenants: Tenants) -> None:
    other = tenants.sent | {"body": "betas"}
    for body in (tenants.sent, other):
        key = tenants.once if body is tenants.sent else {"Idempotency-Key": "betas-key"}
        answer = tenants.b("POST", "/api/v1/messages", json=body, headers=key)
        assert answer.status_code == 201
        assert answer.json()["id"] not in tenants.ids["message"]
    again = tenants.a("POST", "/api/v1/messages", json=tenants.sent, headers=tenants.once)
    assert again.json()["id"] == tenants.ids["message"][0]


# -- cursors that nobody gave


def made_up(*parts: object) -> str:
    text = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else json.dumps(parts)
    return base64.urlsafe_b64encode(str(text).encode()).decode().rstrip("=")


MID = "A" * 21
WALKS = ("messages pr:messages", "message " + MID, "recipient pr:to:b:0", "list pr:in:sent")
AFTER: tuple[Any, ...] = (
    [MID, True], [MID, 1.5], [MID, -1], [MID, 10**30], MID, [MID], [f"{MID}-0"], ["1_0", f"{MID}-0"],
    ["nan", "x"], ["1e999", "x"], [" 1", "x"], ["\u0661", "x"], ["1", "\0"], {}, {"1": MID}, 1, "", [[]], [None, 0],
)  # fmt: skip
PLAIN = ("nan x", "inf x", "-inf x", "1_0 x", "0.0 zz", "0.0 ", "1e400 x", "x y", "1 é", "1")
QUERIES: tuple[dict[str, str], ...] = ({}, {"message": MID}, {"uuid": "1"}, {"state": "sent"})
"""What has the deliveries walked each of these ways."""


def test_a_cursor_made_by_hand_is_no_fault_of_ours(
    api: Api, settings: Settings, long: bool
) -> None:
    """Of the walks that only deliveries and messages have, each other list is asked for four, one of each; long: all."""
    paths = [
        r
        for m, r in rules(settings)
        if m == "GET" and "<" not in r and r not in {"/metrics", "/readyz"}
    ]
    plain = [made_up(text) for text in PLAIN]
    plain += ["x", "", "=", "é", "0-0", "9" * 30 + "-1", MID]
    walks = [made_up(walk, after) for walk, after in itertools.product(WALKS, AFTER)]
    walked = {"/api/v1/deliveries", "/api/v1/messages"}
    asked = [(path, cursor) for path in paths for cursor in plain]
    asked += [(path, cursor) for path in paths if long or path in walked for cursor in walks]
    after = itertools.cycle(AFTER)  # so that over all lists each has its turn
    others = [path for path in paths if not long and path not in walked]
    asked += [(path, made_up(walk, next(after))) for path in others for walk in WALKS]
    seen = set()
    for path, cursor in asked:
        queries = QUERIES if path == "/api/v1/deliveries" else ({},)
        for query in queries:
            status = api.get(path, params=query | {"cursor": cursor}).status_code
            assert status < 500, (path, cursor, query)
            seen.add(status)
    assert {200, 400} <= seen


@pytest.mark.parametrize("moment", ["0001-01-01 00:00:00", "9999-12-31T23:59:59+00:00"])
@pytest.mark.parametrize("path", ["/api/v1/messages", "/api/v1/deliveries", "/api/v1/ledger"])
def test_no_moment_is_too_far_to_ask_about(api: Api, path: str, moment: str) -> None:
    for name in ("from", "to"):
        assert api.get(path, params={name: moment}).status_code in {200, 400}
