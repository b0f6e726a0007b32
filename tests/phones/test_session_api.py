"""The older session interface, over HTTP: register, scan, send; with and without the slash; and what others see of it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import requests

from postrider.clients import Clients
from postrider.errors import Forbidden, InvalidRequest, Unavailable
from postrider.model import Client, Quota, Role
from postrider.sender import DeliveryFailed
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.transport import Blocking
from tests.conftest import Api, wait_until
from tests.sidecar import Sidecar
from tests.test_callbacks import SECRET

CHAT = "375447034810@s.whatsapp.net"
SLASHES = pytest.mark.parametrize("slash", ["/", ""])


@pytest.fixture(scope="module")
def running() -> Iterator[Sidecar]:
    with Sidecar() as found:
        yield found


@pytest.fixture
def sidecar(running: Sidecar) -> Sidecar:
    running.reset(scale=0.01)
    return running


@pytest.fixture
def env(env: dict[str, str], sidecar: Sidecar) -> dict[str, str]:
    return env | sidecar.env()


Ask = Callable[..., requests.Response]


def caller(api: Api, clients: Clients, name: str, role: Role = "sender") -> Ask:
    _, key = clients.add_key(name, role, "tests", Quota())
    api.auth = None

    def ask(method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Token token={key}"} | more.pop("headers", {})
        answer = api.request(method, path, headers=headers, allow_redirects=False, **more)
        shown = answer.text.strip() if answer.headers["Content-Type"] != "image/png" else "(a PNG)"
        print(f"$ curl -X {method} HOST{path} {json.dumps(more)}\n{answer.status_code} {shown}")  # noqa: T201 - each answer is to be seen
        return answer

    return ask


@pytest.fixture
def clients(client: redis.Redis) -> Clients:
    return Clients(client)


@pytest.fixture
def ana(api: Api, clients: Clients) -> Ask:
    return caller(api, clients, "ana")


def register(ask: Ask, name: str = "shop", slash: str = "/") -> requests.Response:
    return ask("POST", f"/register-session{slash}", json={"session_id": name})


def comes_to(service: Service, state: str) -> str:
    """Looks, as a keeper does, until the only session stands so; gives its id."""
    (session,) = service.phones.sessions.every()

    def stands() -> bool:
        service.phones.look(session.id)
        (now,) = service.phones.sessions.every()
        return now.state == state

    wait_until(stands, what=state)
    return session.id


@SLASHES
def test_a_session_is_registered_scanned_and_sends(
    ana: Ask, service: Service, sidecar: Sidecar, slash: str
) -> None:
    made = register(ana, slash=slash)
    assert made.status_code == 201
    assert (made.json()["session_id"], made.json()["status"]) == ("shop", "starting")
    id_ = comes_to(service, "scan")
    picture = ana("GET", f"/get-qr-code/shop{slash}")
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG\r\n")
    assert picture.headers["Cache-Control"] == "no-store"
    text = ana("GET", f"/get-qr-code/shop{slash}", headers={"Accept": "text/plain"})
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text.text.startswith("2@")
    sidecar.scan(id_, "375447000000")
    comes_to(service, "linked")
    info = ana("GET", f"/get-session-info/shop{slash}").json()
    assert (info["session_id"], info["status"], info["number"]) == (
        "shop",
        "linked",
        "375447000000",
    )
    assert set(info) == {"session_id", "status", "since", "number", "name", "reason"}
    assert ana("GET", f"/get-qr-code/shop{slash}").status_code == 409
    said = {"chat_id": CHAT, "text": "Grüße", "session_name": "shop"}
    sent = ana("POST", f"/send-message{slash}", json=said)
    assert sent.status_code == 200
    assert sent.json() == {
        "chat_id": CHAT,
        "session_name": "shop",
        "status": "queued",
        "message_id": sent.json()["message_id"],
    }
    service.phones.sync()
    service.sender.deliver(f"{sent.json()['message_id']}-0", Blocking(service.keep_note))
    (message,) = sidecar.messages
    assert (message["session"], message["to"], message["text"]) == (
        id_, CHAT.replace("s.whatsapp.net", "c.us"), "Grüße",
    )  # fmt: skip
    found = ana("GET", f"/api/v1/messages/{sent.json()['message_id']}").json()
    assert found["state"] == "delivered"


def test_registering_again_starts_what_has_ended(
    ana: Ask, service: Service, sidecar: Sidecar
) -> None:
    assert register(ana).status_code == 201
    again = register(ana)
    assert (again.status_code, again.json()["session_id"]) == (200, "shop")
    id_ = comes_to(service, "scan")
    (session,) = service.phones.sessions.every()
    service.phones.sessions.change(session, wanted=False, state="unlinked")
    sidecar.reset()  # nobody has scanned it, and it is gone
    assert register(ana).json()["status"] == "starting"
    comes_to(service, "scan")
    assert sidecar.status(id_) == "SCAN_QR_CODE"


def test_a_message_waits_for_its_phone(ana: Ask, service: Service, sidecar: Sidecar) -> None:
    register(ana)
    said = {"chat_id": CHAT, "text": "later", "session_name": "shop"}
    sent = ana("POST", "/send-message/", json=said).json()["message_id"]
    service.phones.sync()
    assert service.sender.claim("w", 5).claims == []
    sidecar.scan(comes_to(service, "scan"))
    comes_to(service, "linked")
    service.phones.sync()
    try:
        service.sender.deliver(f"{sent}-0", Blocking(service.keep_note))
    except DeliveryFailed as failed:
        pytest.fail(str(failed))
    assert [m["text"] for m in sidecar.messages] == ["later"]


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/register-session/", {}, "session_id"),
        ("/register-session/", {"session_id": "a b"}, "session_id"),
        ("/register-session/", {"session_id": 7}, "session_id"),
        ("/register-session/", {"session_id": "shop", "more": 1}, "more"),
        ("/register-session/", [], ""),
        ("/send-message/", {"chat_id": CHAT, "text": "x"}, "session_name"),
        ("/send-message/", {"chat_id": "x", "text": "x", "session_name": "shop"}, "chat_id"),
        ("/send-message/", {"chat_id": CHAT, "text": " ", "session_name": "shop"}, "text"),
        ("/send-message/", {"chat_id": CHAT, "text": "x" * 5000, "session_name": "shop"}, "text"),
    ],
)
def test_what_is_wrong_is_said_in_words(ana: Ask, path: str, body: Any, word: str) -> None:
    register(ana)
    wrong = ana("POST", path, json=body)
    assert wrong.status_code == 400
    assert word in wrong.json()["error"]
    assert set(wrong.json()) == {"error"}


def test_a_form_is_not_read(ana: Ask) -> None:
    assert ana("POST", "/register-session/", data={"session_id": "shop"}).status_code == 415


def test_another_clients_session_is_not_there(
    api: Api, clients: Clients, ana: Ask, service: Service, sidecar: Sidecar
) -> None:
    bob = caller(api, clients, "bob")
    register(ana)
    id_ = comes_to(service, "scan")
    for name in ("shop", id_, "nobodys"):
        said = {"chat_id": CHAT, "text": "x", "session_name": name}
        answers = [
            bob("GET", f"/get-qr-code/{name}/"),
            bob("GET", f"/get-session-info/{name}/"),
            bob("POST", "/send-message/", json=said),
        ]
        assert [a.status_code for a in answers] == [404, 404, 404]
        assert {a.json()["error"] for a in answers} == {"there is no such session"}
    # A name is each client's own.
    assert register(bob).status_code == 201
    assert len(service.phones.sessions.every()) == 2
    assert ana("GET", "/get-session-info/shop/").json()["status"] == "scan"


def test_a_viewer_sees_how_it_stands_and_no_code(
    api: Api, clients: Clients, service: Service, sidecar: Sidecar
) -> None:
    eve = caller(api, clients, "eve", "viewer")
    assert register(eve).status_code == 403
    assert eve("GET", "/get-qr-code/shop/").status_code == 403
    assert eve("GET", "/get-session-info/shop/").status_code == 404


def test_every_way_in_is_open(api: Api, clients: Clients, sidecar: Sidecar) -> None:
    _, key = clients.add_key("any", "sender", "tests", Quota())
    api.auth = None
    for header in (f"Bearer {key}", f"Token token={key}", f'Token token="{key}"'):
        found = api.get("/get-session-info/none/", headers={"Authorization": header})
        assert found.status_code == 404
    assert api.get("/get-session-info/none/").status_code == 401


def test_the_same_call_again_sends_nothing_twice(ana: Ask, service: Service) -> None:
    register(ana)
    said = {"chat_id": CHAT, "text": "once", "session_name": "shop"}
    ids = {
        ana("POST", "/send-message", json=said, headers={"Idempotency-Key": "k"}).json()[
            "message_id"
        ]
        for _ in range(2)
    }
    assert len(ids) == 1


# -- which session the other older interface means


BACK = "https://example.com/"
OWNER = Client("", "postrider", "admin")
ANN = Client("ann", "ann", "sender")


@pytest.fixture
def meant(env: dict[str, str], client: redis.Redis) -> Callable[..., Service]:
    def make(**more: str) -> Service:
        settings = Settings.from_env(env | {"WEBHOOK_SECRET": SECRET, **more}, None)
        return Service(Store(client), settings, open_accounts(settings))

    return make


def test_a_session_that_is_shared_is_sent_by_and_not_logged_out(
    meant: Callable[..., Service],
) -> None:
    service = meant()
    service.phones.add(OWNER, "default", shared=True)
    id_ = service.older.message(ANN, CHAT, "Hi", BACK)
    found = service.delivery(f"{id_}-0", "ann")
    assert found.delivery.recipient.account == "default"
    for call in (service.older.login, service.older.logout):
        with pytest.raises(Forbidden):
            call(ANN, BACK)
    assert len(service.phones.sessions.every()) == 1


def test_a_call_that_is_answered_with_an_error_has_kept_no_message(
    meant: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever makes it again sends it twice."""
    service = meant()
    service.phones.add(ANN, "default")
    service.phones.stop(ANN, "default")

    def away(*_: object, **__: object) -> None:
        raise Unavailable("Redis is away")

    monkeypatch.setattr(service.phones.sessions, "look_now", away)
    with pytest.raises(Unavailable):
        service.older.message(ANN, CHAT, "Hi", BACK)
    assert not service.store.redis.exists("pr:messages")


def test_the_setting_names_the_session(meant: Callable[..., Service]) -> None:
    service = meant(WS_SESSION="shop")
    service.phones.add(ANN, "other")
    service.older.login(ANN, BACK)
    assert [one.id for one in service.phones.sessions.every()] == ["other_ann", "shop_ann"]


def test_a_session_that_rests_is_left_so_until_somebody_logs_in(
    meant: Callable[..., Service],
) -> None:
    service = meant()
    sessions = service.phones.sessions
    added = service.phones.add(ANN, "shop")
    sessions.change(added, wanted=False, state="stopped", number="375447000000")
    service.older.check(ANN, CHAT, BACK)
    service.older.message(ANN, CHAT, "Hi", BACK)
    (now,) = sessions.every()
    assert (now.state, now.wanted) == ("stopped", False)
    service.older.login(ANN, BACK)
    (now,) = sessions.every()
    assert (now.state, now.wanted) == ("starting", True)


def test_without_a_sidecar_nothing_is_taken(
    env: dict[str, str], meant: Callable[..., Service]
) -> None:
    service = meant(WAHA_URL="")
    with pytest.raises(InvalidRequest, match="WAHA_URL"):
        service.older.check(ANN, CHAT, BACK)
