"""/api/v1/sessions over real HTTP, with a sidecar as a process: from nothing to a linked phone, and back."""

import base64
from typing import Any

import pytest
import redis
import requests

from postrider import qr
from postrider.clients import Clients
from postrider.model import Client, Quota, Role
from postrider.service import Service
from postrider.sessions import NAME
from tests.conftest import PASSWORD, Api
from tests.phones.conftest import link, look_until
from tests.phones.screen import scanned
from tests.sidecar import Sidecar

OWNER = ("postrider", PASSWORD)
ASSERTION = {"id": "AX8bTgH2", "rawId": "AX8bTgH2", "type": "public-key", "response": {}}


class Caller:
    """A key of the API."""

    def __init__(self, api: Api, clients: Clients, name: str, role: Role) -> None:
        made, key = clients.add_key(name, role, "tests", Quota())
        self.client = Client(made.id, made.name, role)
        self._api, self._headers = api, {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = self._headers | more.pop("headers", {})
        return self._api.request(method, f"/api/v1{path}", headers=headers, auth=None, **more)


@pytest.fixture
def clients(client: redis.Redis) -> Clients:
    return Clients(client)


@pytest.fixture
def ana(api: Api, clients: Clients) -> Caller:
    api.auth = None
    return Caller(api, clients, "ana", "sender")


@pytest.fixture
def bob(api: Api, clients: Clients) -> Caller:
    api.auth = None
    return Caller(api, clients, "bob", "sender")


def add(caller: Caller, name: str = "shop") -> dict[str, Any]:
    answer = caller("POST", "/sessions", json={"name": name})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_phone_is_linked_by_the_code_that_is_shown_and_unlinked_again(
    ana: Caller, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.3)
    made = add(ana)
    assert (made["name"], made["state"], made["wanted"]) == ("shop", "starting", True)
    id_ = f"shop_{made['owner']}"
    look_until(service, id_, "scan")

    code = sidecar.sessions[id_]["code"]
    text = ana("GET", "/sessions/shop/qr", headers={"Accept": "text/plain"})
    assert (text.text, text.headers["Content-Type"]) == (code, "text/plain; charset=utf-8")
    picture = ana("GET", "/sessions/shop/qr")
    assert picture.headers["Content-Type"] == "image/png"
    assert scanned(picture.content) == code
    both = ana("GET", "/sessions/shop/qr", headers={"Accept": "application/json"})
    assert both.json()["text"] == code
    assert base64.b64decode(both.json()["png"]) == picture.content
    assert {a.headers["Cache-Control"] for a in (text, picture, both)} == {"no-store"}

    sidecar.scan(id_, "375447034810")
    look_until(service, id_, "linked")
    linked = ana("GET", "/sessions/shop").json()
    assert (linked["state"], linked["number"], linked["phone"]) == (
        *("linked", "375447034810", "Shop"),
    )
    assert linked["linked_at"] >= linked["created_at"]
    assert ana("GET", "/sessions/shop/qr").status_code == 409
    assert ana("PUT", "/sessions/shop/presence", json={"online": True}).status_code == 204
    assert ana("POST", "/sessions/shop/stop").json()["state"] == "stopped"
    assert sidecar.status(id_) == "STOPPED"
    assert ana("POST", "/sessions/shop/start").json()["wanted"] is True
    look_until(service, id_, "linked")
    out = ana("POST", "/sessions/shop/logout").json()
    assert (out["state"], out["number"], out["wanted"]) == ("unlinked", None, False)
    assert sidecar.sessions[id_]["number"] == ""
    assert ana("DELETE", "/sessions/shop").status_code == 204
    assert ana("GET", "/sessions/shop").status_code == 404
    assert sidecar.sessions == {}


def test_a_number_links_it_by_a_code_to_type(
    ana: Caller, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.3)
    id_ = f"shop_{add(ana)['owner']}"
    look_until(service, id_, "scan")
    answer = ana("POST", "/sessions/shop/pair", json={"number": "+375447034810"})
    assert (answer.json(), answer.headers["Cache-Control"]) == ({"code": "ABCD-EFGH"}, "no-store")
    wrong = ana("POST", "/sessions/shop/pair", json={"number": "shop"})
    assert wrong.status_code == 400


def test_a_phone_with_a_passkey_gets_its_challenge_answered_and_its_code_confirmed(
    ana: Caller, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.3)
    id_ = f"shop_{add(ana)['owner']}"
    look_until(service, id_, "scan")
    assert ana("GET", "/sessions/shop/passkey").status_code == 409
    sidecar.scan(id_, passkey=True, confirms=True)
    asked = ana("GET", "/sessions/shop/passkey")
    assert asked.json()["challenge"]["rpId"] == "web.whatsapp.com"
    assert asked.headers["Cache-Control"] == "no-store"
    for wrong in ({}, {"assertion": ASSERTION, "confirm": True}, {"assertion": {}}):
        assert ana("POST", "/sessions/shop/passkey", json=wrong).status_code == 400
    answered = ana("POST", "/sessions/shop/passkey", json={"assertion": ASSERTION})
    assert (answered.status_code, answered.content) == (204, b"")
    assert ana("GET", "/sessions/shop/passkey").json() == {"challenge": None, "code": "1234"}
    assert ana("POST", "/sessions/shop/passkey", json={"confirm": True}).status_code == 204
    look_until(service, id_, "linked")


def test_a_viewer_sees_how_it_stands_and_no_code(
    api: Api, clients: Clients, ana: Caller, service: Service, sidecar: Sidecar
) -> None:
    viewer = Caller(api, clients, "eve", "viewer")
    service.phones.add(viewer.client, "shop")
    look_until(service, f"shop_{viewer.client.id}", "scan")
    assert viewer("GET", "/sessions/shop").json()["state"] == "scan"
    assert [s["name"] for s in viewer("GET", "/sessions").json()["sessions"]] == ["shop"]
    codes = ("GET", "/sessions/shop/qr"), ("GET", "/sessions/shop/passkey")
    for method, path in (*codes, ("POST", "/sessions/shop/pair")):
        assert viewer(method, path).status_code == 403


def test_names_are_each_clients_own_and_an_admin_sees_all(
    api: Api, ana: Caller, bob: Caller, sidecar: Sidecar
) -> None:
    hers, his = add(ana), add(bob)
    assert ana("POST", "/sessions", json={"name": "shop"}).status_code == 409
    assert hers["owner"] != his["owner"]
    for who, told in ((ana, hers), (bob, his)):
        seen = who("GET", "/sessions").json()["sessions"]
        assert [(s["name"], s["owner"]) for s in seen] == [("shop", told["owner"])]
        accounts = who("GET", "/accounts").json()["accounts"]
        assert [a["name"] for a in accounts if a["service"] == "whatsapp-web"] == ["shop"]
    every = api.get("/api/v1/sessions", auth=OWNER).json()["sessions"]
    assert {s["name"] for s in every} == {f"shop_{hers['owner']}", f"shop_{his['owner']}"}
    one = api.get(f"/api/v1/sessions/shop_{his['owner']}", auth=OWNER)
    assert one.json()["owner"] == his["owner"]


def test_a_list_goes_on_where_its_page_left_off(ana: Caller, sidecar: Sidecar) -> None:
    for n in range(5):
        add(ana, f"s{n}")
    names, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = ana("GET", "/sessions", params=query).json()
        names += [s["name"] for s in page["sessions"]]
        if (cursor := page["next"]) is None:
            break
    assert names == [f"s{n}" for n in range(5)]


@pytest.mark.parametrize(
    "body", [{}, {"name": "a b"}, {"name": "x" * 33}, {"name": "shop", "owner": "me"}, [], None]
)
def test_what_cannot_be_a_session_is_refused(ana: Caller, body: object) -> None:
    assert ana("POST", "/sessions", json=body).status_code in {400, 415}
    assert ana("GET", "/sessions").json() == {"sessions": [], "next": None}


def test_only_the_user_of_the_settings_shares_one(api: Api, ana: Caller, sidecar: Sidecar) -> None:
    shared = {"name": "all", "shared": True}
    assert ana("POST", "/sessions", json=shared).status_code == 400
    assert api.post("/api/v1/sessions", json=shared, auth=OWNER).status_code == 201


def test_it_tells_what_waits_and_what_it_may_send_today(
    ana: Caller, env: dict[str, str], service: Service, sidecar: Sidecar
) -> None:
    link(service, sidecar, "shop", ana.client)
    to = [{"uuid": f"37544703481{n}", "service": "whatsapp-web"} for n in range(3)]
    sent = ana("POST", "/messages", json={"body": "x", "recipients": to, "account": "shop"})
    assert sent.status_code == 201, sent.text
    assert ana("GET", "/sessions/shop").json()["today"] == {"cap": None, "sent": None}


class TestCapped:
    @pytest.fixture
    def env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"WHATSAPP_WEB_DAILY_CAP": "1"}

    def test_what_goes_over_the_day_waits_and_is_counted(
        self, ana: Caller, service: Service, sidecar: Sidecar
    ) -> None:
        link(service, sidecar, "shop", ana.client)
        to = [{"uuid": f"37544703481{n}", "service": "whatsapp-web"} for n in range(3)]
        ana("POST", "/messages", json={"body": "x", "recipients": to, "account": "shop"})
        assert len(service.sender.claim("w", 5).claims) == 1
        told = ana("GET", "/sessions/shop").json()
        assert (told["today"], told["waiting"]) == ({"cap": 1, "sent": 1}, 2)


def test_a_delivery_shows_its_session_by_the_name_that_its_client_knows(
    api: Api, ana: Caller, service: Service, sidecar: Sidecar
) -> None:
    id_ = link(service, sidecar, "shop", ana.client)
    to = [{"uuid": "375447034810", "service": "whatsapp-web", "account": "shop"}]
    mid = ana("POST", "/messages", json={"body": "x", "recipients": to}).json()["id"]
    assert ana("GET", f"/deliveries/{mid}-0").json()["account"] == "shop"
    query = {"service": "whatsapp-web", "account": "shop"}
    (found,) = ana("GET", "/deliveries", params=query).json()["deliveries"]
    assert found["account"] == "shop"
    seen = api.get(f"/api/v1/deliveries/{mid}-0", auth=OWNER).json()
    assert seen["account"] == id_


def test_a_sidecar_that_is_away_is_told_and_costs_no_session(
    api: Api, ana: Caller, sidecar: Sidecar
) -> None:
    sidecar.spoil("cut")
    made = add(ana)
    assert made["reason"]
    for method, path in (("GET", "qr"), ("POST", "start"), ("POST", "stop"), ("POST", "restart")):
        assert ana(method, f"/sessions/shop/{path}").status_code == 503
    assert ana("GET", "/sessions/shop").status_code == 200


class TestWithoutSidecar:
    @pytest.fixture
    def env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"WAHA_URL": ""}

    def test_no_session_is_added(self, ana: Caller) -> None:
        answer = ana("POST", "/sessions", json={"name": "shop"})
        assert answer.status_code == 400
        assert "WAHA_URL" in answer.json()["error"]
        assert ana("GET", "/sessions/shop/qr").status_code == 404


def test_the_name_in_the_description_is_the_one_that_is_kept(ana: Caller, api: Api) -> None:
    described = api.get("/openapi.json").json()["components"]["schemas"]["SessionIn"]
    assert described["properties"]["name"]["pattern"] == f"^{NAME}$"


# -- pictures


@pytest.mark.parametrize("length", [1, 60, 237, 600])
def test_a_code_is_drawn_as_it_says_and_read_off_its_own_picture(length: int) -> None:
    text = ("2@AbCdEf,GhIjKl+/=" * 40)[:length]
    assert scanned(qr.png(text)) == text
    assert [list(map(bool, row)) for row in qr.read(qr.png(text)) or ()] == [
        list(map(bool, row)) for row in qr.matrix(text)
    ]


@pytest.mark.parametrize(
    "picture", [b"", b"no png", qr.png("x")[:-30], qr.png("x")[:40], b"\x89PNG\r\n\x1a\n" * 9]
)
def test_a_picture_that_is_none_gives_no_code(picture: bytes) -> None:
    assert qr.read(picture) is None
