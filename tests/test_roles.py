"""Who may do what: every route of the application against every role, and one tenant's ids against another."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import requests

from messengers.base import Note, Rejected, Sent
from postrider.clients import Clients
from postrider.errors import TooManyRequests
from postrider.model import Client, NewMessage, Quota, Recipient, Role
from postrider.service import Service
from postrider.settings import Settings
from postrider.web import create_app
from tests.conftest import PASSWORD, Api

ROLES: tuple[Role, ...] = ("viewer", "sender", "admin")
OPEN = "open"
OWNER = ("postrider", PASSWORD)
ANA = {"uuid": "ana", "service": "sandbox"}
SOON = "2030-10-05 13:48:00"
WHO_MAY = {
    "GET /": OPEN,
    "GET /docs": OPEN,
    "GET /healthz": OPEN,
    "GET /openapi.json": OPEN,
    "GET /readyz": OPEN,
    "GET /static/<path:filename>": OPEN,
    "POST /hooks/<messenger>/<account>": OPEN,
    "GET /sandbox": "viewer",
    "GET /sandbox.json": "viewer",
    "GET /get_scheduled": "viewer",
    "GET /get_finished": "viewer",
    "POST /send_message": "sender",
    "DELETE /delete_all": "admin",
    "GET /key": "viewer",
    "GET /key.crt": "viewer",
    "GET /init": "sender",
    "POST /init": "sender",
    "POST /data": "sender",
    "POST /msg": "sender",
    "POST /cons": "sender",
    "POST /ws/check/<anything:phone>/<anything:return_url>": "sender",
    "POST /ws/message/<anything:phone>/<anything:message>/<anything:return_url>": "sender",
    "POST /ws/login/<anything:return_url>": "sender",
    "POST /ws/logout/<anything:return_url>": "sender",
    "POST /ws/<anything:call>": "sender",
    "POST /register-session/": "sender",
    "GET /get-qr-code/<session_id>/": "sender",
    "GET /get-session-info/<session_id>/": "viewer",
    "POST /send-message/": "sender",
    "POST /api/v1/messages": "sender",
    "GET /api/v1/messages": "viewer",
    "DELETE /api/v1/messages": "sender",
    "GET /api/v1/messages/<message_id>": "viewer",
    "PATCH /api/v1/messages/<message_id>": "sender",
    "DELETE /api/v1/messages/<message_id>": "sender",
    "GET /api/v1/deliveries": "viewer",
    "GET /api/v1/deliveries/<delivery_id>": "viewer",
    "DELETE /api/v1/deliveries/<delivery_id>": "sender",
    "POST /api/v1/deliveries/<delivery_id>/retry": "sender",
    "GET /hooks/<messenger>/<account>": OPEN,
    "GET /api/v1/callbacks": "viewer",
    "GET /api/v1/callbacks/<string(minlength=21):id_>": "viewer",
    "POST /api/v1/callbacks/<string(minlength=21):id_>/replay": "sender",
    "POST /api/v1/callbacks/replay": "sender",
    "GET /api/v1/incoming": "viewer",
    "GET /api/v1/suppressions": "admin",
    "GET /api/v1/suppressions/<service_name>/<path:uuid>": "admin",
    "PUT /api/v1/suppressions/<service_name>/<path:uuid>": "admin",
    "DELETE /api/v1/suppressions/<service_name>/<path:uuid>": "admin",
    "GET /api/v1/stops": "admin",
    "POST /api/v1/stops": "admin",
    "DELETE /api/v1/stops": "admin",
    "GET /api/v1/ledger": "admin",
    "GET /api/v1/accounts": "viewer",
    "GET /metrics": "viewer",
    "GET /api/v1/schedules": "viewer",
    "POST /api/v1/schedules": "sender",
    "GET /api/v1/schedules/<id>": "viewer",
    "PATCH /api/v1/schedules/<id>": "sender",
    "DELETE /api/v1/schedules/<id>": "sender",
    "GET /files/<id>/<name>": OPEN,
    "GET /api/v1/files": "viewer",
    "POST /api/v1/files": "sender",
    "GET /api/v1/files/<id>": "viewer",
    "GET /api/v1/files/<id>/content": "viewer",
    "DELETE /api/v1/files/<id>": "sender",
    "GET /api/v1/me": "viewer",
    "GET /api/v1/audit": "admin",
    "GET /api/v1/keys": "admin",
    "POST /api/v1/keys": "admin",
    "GET /api/v1/keys/<id>": "admin",
    "PATCH /api/v1/keys/<id>": "admin",
    "DELETE /api/v1/keys/<id>": "admin",
    "GET /api/v1/users": "admin",
    "POST /api/v1/users": "admin",
    "GET /api/v1/users/<id>": "admin",
    "PATCH /api/v1/users/<id>": "admin",
    "DELETE /api/v1/users/<id>": "admin",
    "POST /api/v1/sessions": "sender",
    "GET /api/v1/sessions": "viewer",
    "GET /api/v1/sessions/<name>": "viewer",
    "DELETE /api/v1/sessions/<name>": "sender",
    "POST /api/v1/sessions/<name>/start": "sender",
    "POST /api/v1/sessions/<name>/stop": "sender",
    "POST /api/v1/sessions/<name>/restart": "sender",
    "POST /api/v1/sessions/<name>/logout": "sender",
    "GET /api/v1/sessions/<name>/qr": "sender",
    "POST /api/v1/sessions/<name>/pair": "sender",
    "GET /api/v1/sessions/<name>/passkey": "sender",
    "POST /api/v1/sessions/<name>/passkey": "sender",
    "PUT /api/v1/sessions/<name>/presence": "sender",
    "POST /api/v1/numbers/check": "sender",
}
"""Every route there is. A new one has to say here who may call it."""
GUARDED = {route: role for route, role in WHO_MAY.items() if role != OPEN}


def routes(settings: Settings) -> set[str]:
    return {
        f"{method} {rule.rule}"
        for rule in create_app(settings, sweeps=False).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.fixture
def clients(client: redis.Redis) -> Clients:
    return Clients(client)


def key_of(clients: Clients, role: Role, name: str = "", **quota: Any) -> dict[str, str]:
    _, key = clients.add_key(name or f"a {role}", role, "tests", Quota(**quota))
    return {"Authorization": f"Bearer {key}"}


def call(api: Api, route: str, headers: dict[str, str], id_: str = "0" * 22) -> requests.Response:
    method, path = route.split(" ")
    path = re.sub(r"<[^>]+>", id_, path)
    body = {} if method in {"POST", "PATCH"} else None
    return api.request(method, path, headers=headers, json=body, allow_redirects=False)


def test_every_route_says_who_may_call_it(settings: Settings) -> None:
    assert routes(settings) == set(WHO_MAY)


@pytest.mark.parametrize("route", GUARDED)
def test_a_route_takes_the_role_it_says_and_no_lesser_one(
    api: Api, clients: Clients, client: redis.Redis, route: str
) -> None:
    api.auth = None
    wanted = ROLES.index(GUARDED[route])
    for n, role in enumerate(ROLES):
        status = call(api, route, key_of(clients, role)).status_code
        assert (status == 403) == (n < wanted), (role, status)
        assert status not in {401, 429, 500}
    assert call(api, route, {}).status_code == 401
    assert call(api, route, {"Authorization": "Bearer pr_nobodys"}).status_code == 401


@pytest.mark.parametrize("route", [route for route, role in WHO_MAY.items() if role == OPEN])
def test_an_open_route_asks_nobody(api: Api, route: str) -> None:
    api.auth = None
    assert call(api, route, {}).status_code not in {401, 403, 500} or "/hooks" in route


@pytest.mark.parametrize("route", [r for r in GUARDED if r.startswith("GET ")])
def test_head_takes_what_get_takes(api: Api, clients: Clients, route: str) -> None:
    api.auth = None
    path = route.removeprefix("GET ").replace("<id>", "nobody")
    assert api.head(path).status_code == 401
    status = api.head(path, headers=key_of(clients, "viewer")).status_code
    assert (status == 403) == (GUARDED[route] != "viewer")


@pytest.mark.parametrize("route", [r for r, role in GUARDED.items() if role == "admin"])
def test_what_is_refused_stands_in_the_audit_log(api: Api, clients: Clients, route: str) -> None:
    api.auth = None
    refused = call(api, route, key_of(clients, "sender", "curious"))
    assert refused.status_code == 403
    assert "takes the role admin" in refused.json()["error"]
    entries = api.get("/api/v1/audit?actor=curious", auth=OWNER).json()["entries"]
    assert [(e["action"], e["result"], e["address"]) for e in entries] == [
        (re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", route), "403", "127.0.0.1")
    ]


def test_a_refused_call_does_nothing(api: Api, clients: Clients, service: Service) -> None:
    api.post("/send_message", json={"body": "x", "recipients": [ANA]})
    service.sender.record(
        "w", [service.sender.verdict(c, Sent("1")) for c in service.sender.claim("w", 1).claims]
    )
    api.auth = None
    sender = key_of(clients, "sender")
    assert api.delete("/delete_all", headers=sender).status_code == 403
    assert api.post("/api/v1/keys", headers=sender, json={}).status_code == 403
    assert api.get("/get_finished", auth=OWNER).json()["total"] == 1
    assert len(clients.page("key", 10)[0]) == 1


# -- tenants


@pytest.fixture
def tenants(api: Api, clients: Clients) -> tuple[dict[str, str], dict[str, str]]:
    api.auth = None
    return key_of(clients, "sender", "A"), key_of(clients, "sender", "B")


def post(api: Api, headers: dict[str, str], body: str, **more: Any) -> dict[str, Any]:
    reply = api.post(
        "/send_message", json={"body": body, "recipients": [ANA], **more}, headers=headers
    )
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def bodies(lines: list[str]) -> list[str]:
    return re.findall(r"with body: (\S+) Queued", "\n".join(lines))


def test_a_key_lists_what_it_sent_and_nothing_else(
    api: Api, tenants: tuple[dict[str, str], dict[str, str]], service: Service
) -> None:
    a, b = tenants
    for n in range(3):
        post(api, a, f"a{n}", send_at=SOON)
        post(api, b, f"b{n}", send_at=SOON)
    theirs = {"body": "theirs", "recipients": [ANA], "send_at": SOON}
    assert api.post("/send_message", json=theirs, auth=OWNER).status_code == 200
    found = api.get("/get_scheduled", headers=a).json()
    assert (bodies(found["scheduled"]), found["total"], found["next"]) == (
        ["a0", "a1", "a2"],
        3,
        None,
    )
    seen = api.get("/get_scheduled", auth=OWNER).json()
    assert seen["total"] == 7


def test_what_ended_is_listed_to_its_owner_alone(
    api: Api, tenants: tuple[dict[str, str], dict[str, str]], service: Service
) -> None:
    for n in range(4):
        for headers, name in zip(tenants, "ab", strict=True):
            post(api, headers, f"{name}{n}")
    claims = service.sender.claim("w", 10).claims
    ends = [Sent("1"), Rejected("no")]
    for n, claim in enumerate(claims):
        service.sender.record("w", [service.sender.verdict(claim, ends[n // 2 % 2])])
    for headers, name in zip(tenants, "ab", strict=True):
        found: list[str] = []
        path = "/get_finished?limit=1"
        while path:
            page = api.get(path, headers=headers).json()
            assert page["total"] == 4
            found += page["finished_main"] + page["finished_with_fail"]
            path = f"/get_finished?limit=1&cursor={page['next']}" if page["next"] else ""
        assert sorted(bodies(found)) == [f"{name}{n}" for n in range(4)]


def test_a_cursor_of_another_shows_nothing_of_theirs(
    api: Api, tenants: tuple[dict[str, str], dict[str, str]]
) -> None:
    a, b = tenants
    for n in range(3):
        post(api, a, f"a{n}", send_at=f"2030-10-0{n + 1} 00:00:00")
        post(api, b, f"b{n}", send_at=f"2030-10-0{n + 1} 00:00:00")
    cursor = api.get("/get_scheduled?limit=1", headers=a).json()["next"]
    rest = api.get(f"/get_scheduled?cursor={cursor}", headers=b).json()["scheduled"]
    assert set(bodies(rest)) <= {"b0", "b1", "b2"}


def test_an_owner_is_found_among_thousands_of_others(service: Service, client: redis.Redis) -> None:
    crowd = tuple(Recipient(str(n), "sandbox") for n in range(2_500))
    for name in ("x", "y", "z"):
        service.accept(NewMessage(name, crowd, owner="other"))
        service.accept(NewMessage(name, crowd[:2], owner="mine"))
    mine = Client("mine", "mine", "viewer")
    found, cursor = [], None
    while True:
        page = service.scheduled(4, cursor, mine)
        assert page.total == 6
        found += [message.body for _, message in page.rows]
        if (cursor := page.next) is None:
            break
    assert found == ["x", "x", "y", "y", "z", "z"]


def test_the_sandbox_shows_no_key_what_others_sent(
    api: Api, tenants: tuple[dict[str, str], dict[str, str]], service: Service
) -> None:
    mid = post(api, tenants[0], "secret")["message"]["id"]
    service.keep_note(Note("ana", "secret", f"{mid}-0"))
    assert "secret" in api.get("/sandbox.json", auth=OWNER).text
    assert "secret" in api.get("/sandbox.json", headers=tenants[0]).text
    assert "secret" not in api.get("/sandbox.json", headers=tenants[1]).text


# -- limits of a key


def test_a_key_over_its_rate_is_told_when_to_come_again(api: Api, clients: Clients) -> None:
    slow = key_of(clients, "viewer", rate=0.1)
    api.auth = None
    assert api.get("/api/v1/me", headers=slow).status_code == 200
    over = api.get("/api/v1/me", headers=slow)
    assert over.status_code == 429
    assert 1 <= int(over.headers["Retry-After"]) <= 11
    assert over.headers["Content-Type"] == "application/problem+json"
    assert api.get("/api/v1/me", headers=key_of(clients, "sender")).status_code == 200


def test_a_key_names_no_more_recipients_than_it_may(api: Api, clients: Clients) -> None:
    few = key_of(clients, "sender", recipients=2)
    api.auth = None
    three = [{"uuid": str(n), "service": "sandbox"} for n in range(3)]
    reply = api.post("/send_message", json={"body": "x", "recipients": three}, headers=few)
    assert (reply.status_code, "2 that this client may name" in reply.json()["error"]) == (
        400,
        True,
    )
    reply = api.post("/send_message", json={"body": "x", "recipients": three[:2]}, headers=few)
    assert reply.status_code == 200


def test_a_key_has_no_more_waiting_than_it_may_until_some_have_ended(
    api: Api, clients: Clients, service: Service, client: redis.Redis
) -> None:
    few = key_of(clients, "sender", waiting=2)
    api.auth = None
    for _ in range(2):
        post(api, few, "x")
    message = {"body": "x", "recipients": [ANA]}
    over = api.post("/send_message", json=message, headers=few)
    assert (over.status_code, "Retry-After" in over.headers) == (429, True)
    assert "2 waiting deliveries" in over.json()["error"]
    claim, other = service.sender.claim("w", 2).claims
    service.sender.record("w", [service.sender.verdict(claim, Sent("1"))])
    post(api, few, "x")
    assert api.post("/send_message", json=message, headers=few).status_code == 429
    service.sender.record("w", [service.sender.verdict(other, Rejected("no"))])
    post(api, few, "x")


def test_of_a_hundred_at_once_no_more_are_taken_than_the_limit_allows(
    clients: Clients, service: Service, client: redis.Redis
) -> None:
    made, _ = clients.add_key("busy", "sender", "tests", Quota(waiting=7))

    def accept(n: int) -> bool:
        try:
            service.accept(NewMessage("x", (Recipient(str(n), "sandbox"),), owner=made.id))
        except TooManyRequests:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(accept, range(100))) == 7
    assert client.get(f"pr:waits:{made.id}") == b"7"


def test_what_was_never_committed_gives_its_place_back(
    clients: Clients, service: Service, client: redis.Redis
) -> None:
    made, _ = clients.add_key("busy", "sender", "tests", Quota(waiting=5_000))
    crowd = tuple(Recipient(str(n), "sandbox") for n in range(2_500))
    service.accept(NewMessage("x", crowd, owner=made.id))
    assert client.get(f"pr:waits:{made.id}") == b"2500"
    (key,) = client.scan_iter("pr:m:*")
    mid = key.removeprefix(b"pr:m:").decode()
    client.hdel(key, "committed")
    client.zadd("pr:accepting", {mid: 1})
    for _ in range(3):
        service.store.finish_accepting()
    assert client.get(f"pr:waits:{made.id}") is None


def test_a_key_without_a_limit_is_not_counted(
    clients: Clients, service: Service, client: redis.Redis
) -> None:
    made, _ = clients.add_key("free", "sender", "tests", Quota())
    service.accept(NewMessage("x", (Recipient("1", "sandbox"),), owner=made.id))
    assert not list(client.scan_iter("pr:waits:*"))
    (record,) = (v for key in client.scan_iter("pr:d:*") for v in client.hvals(key))
    assert record == b"sd sandbox 1"
