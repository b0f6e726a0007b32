"""What linked phones are sent: verified, kept once, its files fetched from the sidecar, told to WEBHOOK_URL/<session>."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import redis
import requests
from standardwebhooks import Webhook
from werkzeug.serving import make_server

from messengers.inward import Media
from messengers.whatsapp_web import WhatsAppWeb
from postrider.forwarding import place
from postrider.gathering import TRIES, Gathering
from postrider.media import Awaited
from postrider.model import Client
from postrider.selftest.fleet import free_port
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.web import create_app
from tests.conftest import Api, Start, wait_until
from tests.receiver import Got, Receiver
from tests.sidecar import Sidecar
from tests.test_callbacks import SECRET

ADMIN = Client("", "postrider", "admin")
HOOK_SECRET = "planted-hook-secret"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VCARD = "BEGIN:VCARD\nVERSION:3.0\nFN:Ana\nTEL;waid=375291234567:+375 29 123-45-67\nEND:VCARD"
QUICK = (0.05,) * (TRIES - 1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def env(env: dict[str, str], receiver: Receiver) -> dict[str, str]:
    port = free_port()
    return env | {
        "WHATSAPP_WEB_HOOK_URL": f"http://127.0.0.1:{port}",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "WEBHOOK_URL": f"{receiver.url}/in?key=1",
        "WEBHOOK_SECRET": SECRET,
        "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8",
        "INCOMING_MAX_BYTES": "200000",
    }


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """The API where the sidecar was told that it is."""
    port = urlsplit(settings.hooks_url).port or 0
    server = make_server("127.0.0.1", port, create_app(settings, sweeps=False), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with Api(f"http://127.0.0.1:{port}") as found:
        yield found
    server.shutdown()
    thread.join(10)
    server.server_close()


def linked(service: Service, sidecar: Sidecar, client: Client = ADMIN, name: str = "shop") -> str:
    """A session with a phone; gives its id."""
    id_ = service.phones.add(client, name).id
    wait_until(lambda: sidecar.status(id_) == "SCAN_QR_CODE")
    sidecar.scan(id_)

    def looked() -> bool:
        service.phones.look(id_)
        found = service.phones.sessions.get(id_)
        return found is not None and found.state == "linked"

    wait_until(looked)
    service.phones.sync()
    return id_


def picture(content: bytes = PNG, **more: Any) -> dict[str, Any]:
    told = {"kind": "image", "data": base64.b64encode(content).decode(), "mimetype": "image/png"}
    return told | more


def gathering(service: Service, **how: Any) -> Gathering:
    how = {"again_s": QUICK, "within_s": 5.0} | how
    return Gathering(service.awaited, service.files, service.settings, service.accounts, **how)


def heard(api: Api, **filters: str) -> list[dict[str, Any]]:
    answer = api.get("/api/v1/incoming", params=filters)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["incoming"]
    return rows


def content(service: Service, id_: str) -> bytes:
    with service.files.open(id_) as file:
        return file.read()


def file_of(api: Api) -> Any:
    rows = heard(api)
    return rows[0]["file"] if rows else None


def settled(api: Api, gatherer: Gathering) -> dict[str, Any]:
    """The newest message's file, once it is fetched or given up."""
    found: dict[str, Any] = {}

    def turned() -> bool:
        gatherer.turn()
        found.update(file_of(api) or {})
        return found.get("state") in {"kept", "missing"}

    wait_until(turned)
    return found


# -- the whole way: real processes


def told(receiver: Receiver, kind: str) -> list[Got]:
    return [got for got in list(receiver.calls) if got.json["type"] == kind]


def test_each_kind_comes_in_is_kept_and_is_told_signed_at_the_sessions_own_address(
    api: Api, service: Service, sidecar: Sidecar, receiver: Receiver, start: Start
) -> None:
    start("postrider", "courier")
    start("postrider", "keeper")
    linked(service, sidecar)
    sidecar.say("shop", "Hello 👋", id="A1")
    sidecar.say("shop", "See", id="A2", **picture(filename="../we ird\n.png"))
    sidecar.say("shop", kind="location", latitude=53.9, longitude=27.56, id="A3")
    sidecar.say("shop", kind="contact", vcard=VCARD, id="A4")
    sidecar.say("shop", "❤️", kind="reaction", to="true_1@c.us_3EB0", id="A5")
    sidecar.say("shop", "STOP", id="A6")
    wait_until(lambda: len(told(receiver, "message.received")) == 6, 20)
    rows = {row["provider_id"].rpartition("_")[2]: row for row in heard(api)}
    assert {i: (r["kind"], r["text"]) for i, r in rows.items()} == {
        "A1": ("text", "Hello 👋"),
        "A2": ("image", "See"),
        "A3": ("location", "53.9,27.56"),
        "A4": ("contact", VCARD),
        "A5": ("reaction", "❤️"),
        "A6": ("text", "STOP"),
    }
    assert {r["session"] for r in rows.values()} == {"shop"}
    assert service.suppressions.get("whatsapp-web", "375291234567")

    kept = rows["A2"]["file"]
    assert kept["state"] == "kept"
    assert (kept["media_type"], kept["size"]) == ("image/png", len(PNG))
    assert "/" not in kept["name"]
    assert "\n" not in kept["name"]
    assert api.get(f"/api/v1/files/{kept['id']}/content").content == PNG
    assert api.delete(f"/api/v1/files/{kept['id']}").status_code == 409

    for got in receiver.calls:
        assert got.path == "/in/shop?key=1"
        Webhook(SECRET).verify(got.body, got.headers)
    assert len({got.id for got in receiver.calls}) == len(receiver.calls)
    by_id = {
        g.json["data"]["provider_id"].rpartition("_")[2]: g.json["data"]
        for g in told(receiver, "message.received")
    }
    assert by_id["A1"]["file"] is None
    assert by_id["A1"]["session"] == "shop"
    file = by_id["A2"]["file"]
    assert file["id"] == kept["id"]
    assert requests.get(file["url"], timeout=10).content == PNG
    assert "session.linked" in {got.json["type"] for got in receiver.calls}
    (got,) = told(receiver, "session.linked")
    assert got.json["data"]["session"] == "shop"
    assert got.json["data"]["number"] == "375447034810"

    service.phones.logout(ADMIN, "shop")
    wait_until(lambda: told(receiver, "session.unlinked"))
    service.phones.delete(ADMIN, "shop")
    wait_until(lambda: told(receiver, "session.deleted"))


def test_what_is_told_of_a_session_goes_nowhere_else(
    api: Api, service: Service, sidecar: Sidecar, client: redis.Redis
) -> None:
    linked(service, sidecar)
    sidecar.say("shop", "Hello")
    wait_until(lambda: heard(api))
    service.phones.delete(ADMIN, "shop")
    claimed, _ = service.outbox.claim(
        50, per_host=50, busy={}, lease_s=30, webhook_url=service.settings.webhook_url
    )
    assert {urlsplit(one.url).path for one in claimed} == {"/in/shop"}
    types = {json.loads(one.line)["type"] for one in claimed}
    assert {"message.received", "session.linked", "session.deleted"} <= types


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://x.example", "https://x.example/shop"),
        ("https://x.example/", "https://x.example/shop"),
        ("https://x.example/a/b?c=1", "https://x.example/a/b/shop?c=1"),
    ],
)
def test_a_sessions_address_is_that_of_all_with_its_name(url: str, wanted: str) -> None:
    assert place(url, "shop") == wanted


# -- forged, old, swapped, re-encoded, repeated


def signed(body: bytes, secret: str = HOOK_SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return {"X-Webhook-Hmac": digest, "Content-Type": "application/json"}


def posted(api: Api, body: bytes, headers: dict[str, str], account: str = "shop") -> int:
    path = f"/hooks/{WhatsAppWeb.name}/{account}"
    return api.post(path, data=body, headers=headers, auth=()).status_code  # type: ignore[arg-type]


def wrote(session: str = "shop", id_: str = "A1", age_s: float = 0, **more: Any) -> bytes:
    payload = {"id": f"false_375291234567@c.us_{id_}", "from": "375291234567@c.us", "fromMe": False}
    payload |= {"timestamp": int(time.time()), "body": "Hé", "hasMedia": False} | more
    at = int((time.time() - age_s) * 1000)
    told = {"event": "message", "session": session, "timestamp": at, "payload": payload}
    return json.dumps(told, ensure_ascii=False).encode()


def test_no_forged_old_swapped_or_reencoded_call_gets_in(
    api: Api, service: Service, sidecar: Sidecar
) -> None:
    for name in ("shop", "office"):
        assert service.phones.add(ADMIN, name)
    body, old = wrote(), wrote(age_s=3600)
    again = json.dumps(json.loads(body)).encode()
    tries = [
        (body, {}),
        (body, {"X-Webhook-Hmac": ""}),
        (body, {"X-Webhook-Hmac": "0" * 128}),
        (body, {"X-Webhook-Hmac": "é"}),
        (body, signed(body, "another secret")),
        (again, signed(body)),
        (body + b"\n", signed(body)),
        (body.replace(b"375291234567", b"375291234568"), signed(body)),
        (old, signed(old)),
        (wrote("office"), signed(wrote("office"))),
    ]
    for raw, headers in tries:
        assert posted(api, raw, headers) == 401
    assert posted(api, body, signed(body), account="nobody") == 404
    assert heard(api) == []
    assert posted(api, body, signed(body)) == 200
    assert [row["text"] for row in heard(api)] == ["Hé"]


def test_a_repeat_is_kept_and_told_once(
    api: Api, service: Service, sidecar: Sidecar, client: redis.Redis
) -> None:
    service.phones.add(ADMIN, "shop")
    media = {
        "hasMedia": True,
        "media": {"url": "http://localhost:3000/api/files/x", "mimetype": "image/png"},
    }
    for _ in range(3):
        for body in (wrote(), wrote(id_="A2", **media)):
            assert posted(api, body, signed(body)) == 200
    assert len(heard(api)) == 2
    assert client.zcard("pr:media:due") == 1
    texts = [line for line in client.lrange("pr:outbox", 0, -1) if b"message.received" in line]
    assert len(texts) == 1


# -- files


def test_a_file_is_fetched_by_a_keeper_never_by_who_takes_the_message(
    api: Api, service: Service, sidecar: Sidecar, client: redis.Redis
) -> None:
    linked(service, sidecar)
    sidecar.spoil("slow", "/api/files/", value=120)
    began = time.monotonic()
    sidecar.say("shop", **picture())
    wait_until(lambda: heard(api))
    assert time.monotonic() - began < 60
    assert file_of(api)["state"] == "waits"
    assert not [r for r in sidecar.requests if r["path"].startswith("/api/files/")]
    assert b"message.received" not in b"".join(client.lrange("pr:outbox", 0, -1))


def test_it_is_fetched_again_until_it_is_here_and_told_once(
    api: Api, service: Service, sidecar: Sidecar, client: redis.Redis
) -> None:
    linked(service, sidecar)
    sidecar.spoil("status", "/api/files/", value=503, times=2)
    sidecar.spoil("cut", "/api/files/", times=1)
    sidecar.say("shop", **picture())
    wait_until(lambda: heard(api))
    assert settled(api, gathering(service))["state"] == "kept"
    lines = [json.loads(line) for line in client.lrange("pr:outbox", 0, -1)]
    (event,) = [line for line in lines if line["type"] == "message.received"]
    assert event["data"]["file"]["id"] == file_of(api)["id"]


@pytest.mark.parametrize(
    ("status", "tries"), [(404, 1), (410, 1), (302, 1), (500, TRIES), (429, TRIES)]
)
def test_it_is_given_up_after_some_tries_with_the_reason(
    api: Api, service: Service, sidecar: Sidecar, client: redis.Redis, status: int, tries: int
) -> None:
    linked(service, sidecar)
    sidecar.spoil("status", "/api/files/", value=status)
    sidecar.say("shop", "See", **picture(filename="cat.png"))
    wait_until(lambda: heard(api))
    found = settled(api, gathering(service))
    assert (found["state"], found["id"]) == ("missing", None)
    assert found["reason"] == f"the sidecar answers {status}"
    assert found["name"] == "cat.png"
    asked = [r for r in sidecar.requests if r["path"].startswith("/api/files/")]
    assert len(asked) == tries
    lines = [json.loads(line) for line in client.lrange("pr:outbox", 0, -1)]
    (event,) = [line for line in lines if line["type"] == "message.received"]
    assert event["data"]["text"] == "See"
    assert event["data"]["file"]["reason"] == found["reason"]
    assert client.keys("pr:media*") == []


def test_what_a_killed_keeper_was_fetching_another_fetches(
    api: Api, service: Service, sidecar: Sidecar
) -> None:
    linked(service, sidecar)
    sidecar.say("shop", **picture())
    wait_until(lambda: heard(api))
    (lost,) = service.awaited.take(5, 5, {}, lease_s=0.5)
    assert service.awaited.take(5, 5, {}, lease_s=0.5) == []
    found = settled(api, gathering(service))
    assert found["state"] == "kept"
    late = replace(found_as_attached(service, found), name="late")
    assert service.awaited.end(lost, late)
    assert file_of(api)["name"] != "late"


def found_as_attached(service: Service, found: dict[str, Any]) -> Any:
    from postrider.media import Attached  # noqa: PLC0415 - for this one

    return Attached(**found)


def test_one_that_kills_its_keeper_each_time_is_given_up(
    api: Api, service: Service, sidecar: Sidecar
) -> None:
    linked(service, sidecar)
    sidecar.say("shop", **picture())
    wait_until(lambda: heard(api))
    for _ in range(TRIES):
        wait_until(lambda: service.awaited.take(5, 5, {}, lease_s=0.01))
    found = settled(api, gathering(service))
    assert found["reason"] == f"it was not fetched in {TRIES} tries"


def test_a_killed_keeper_process_loses_no_file(
    long: bool, api: Api, service: Service, sidecar: Sidecar, start: Start
) -> None:
    if not long:
        pytest.skip("takes the length of a lease, 3 minutes: --long")
    linked(service, sidecar)
    keeper = start("postrider", "keeper")
    sidecar.spoil("slow", "/api/files/", value=5)
    sidecar.say("shop", **picture())
    wait_until(lambda: [r for r in sidecar.requests if r["path"].startswith("/api/files/")], 20)
    keeper.kill()
    keeper.wait()
    sidecar.heal()
    start("postrider", "keeper")
    wait_until(lambda: file_of(api)["state"] == "kept", 240)


@dataclass
class Serves:
    """What somebody answers who ought to be a sidecar."""

    status: int = 200
    length: int | None = None
    parts: Callable[[], Iterator[bytes]] = lambda: iter([PNG])
    headers: tuple[tuple[str, str], ...] = ()


class Odd:
    """A sidecar for files alone that keeps to nothing."""

    def __init__(self) -> None:
        self.serves = Serves()
        self.asked: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                odd.asked.append({k.lower(): v for k, v in self.headers.items()})
                self.send_response(odd.serves.status)
                for name, value in odd.serves.headers:
                    self.send_header(name, value)
                if odd.serves.length is not None:
                    self.send_header("Content-Length", str(odd.serves.length))
                self.end_headers()
                try:
                    for part in odd.serves.parts():
                        self.wfile.write(part)
                except OSError:  # who asked has had enough
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # nor is that one of ours
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def odd() -> Iterator[Odd]:
    with Odd() as found:
        yield found


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65_536)


def dripping() -> Iterator[bytes]:
    while True:
        yield b"."
        time.sleep(0.05)


@pytest.fixture
def oddly(env: dict[str, str], odd: Odd, client: redis.Redis) -> Service:
    """A service whose sidecar is that one."""
    settings = Settings.from_env(env | {"WAHA_URL": odd.url}, None)
    return Service(Store(client), settings, open_accounts(settings))


def came(service: Service, session: str = "shop", **media: Any) -> None:
    """A message with a file has come in."""
    body = wrote(session, hasMedia=True, media={"mimetype": "image/png"} | media)
    adapter = service.phones.phone
    assert adapter
    messages = adapter.incoming(body)
    assert messages[0].media
    nothing: frozenset[str] = frozenset()
    owner = session.partition("_")[2]
    service.arrivals.take(
        WhatsAppWeb.name, session, messages, kept=100, opt_out=nothing, opt_in=nothing, owner=owner
    )


def became(service: Service, gatherer: Gathering) -> Any:
    def row() -> Any:
        gatherer.turn()
        file = service.arrivals.page(1).rows[0].file
        return file if file and file.state != "waits" else None

    wait_until(row)
    return row()


@pytest.mark.parametrize(
    ("serves", "why"),
    [
        (Serves(parts=endless), "it has over 200000 bytes (INCOMING_MAX_BYTES)"),
        (Serves(length=10**12, parts=endless), "it has over 200000 bytes (INCOMING_MAX_BYTES)"),
        (Serves(parts=dripping), "the sidecar did not give it: "),
        (Serves(length=500), "the sidecar did not give it: the connection broke before an answer came"),
        (Serves(length=0, parts=lambda: iter([])), "the sidecar gave nothing"),
        (Serves(302, 0, lambda: iter([]), (("Location", "http://127.0.0.1:1/"),)), "the sidecar answers 302"),
    ],
)  # fmt: skip
def test_endless_dripping_cut_and_empty_bodies_are_survived(
    oddly: Service, odd: Odd, tmp_path: Path, serves: Serves, why: str
) -> None:
    odd.serves = serves
    came(oddly, url=f"{odd.url}/api/files/x")
    within_s = 0.5 if serves.parts is dripping else 10.0
    found = became(oddly, gathering(oddly, within_s=within_s, again_s=(0.0,) * (TRIES - 1)))
    assert found.state == "missing"
    assert found.reason.startswith(why)
    assert [p for p in (tmp_path / "files").iterdir() if not p.name.startswith(".")] == []


def test_a_size_that_is_a_lie_and_a_type_that_is_another_change_nothing(
    oddly: Service, odd: Odd
) -> None:
    odd.serves = Serves(parts=lambda: iter([b"<html><script>1</script>"]))
    came(oddly, url=f"{odd.url}/api/files/x", filename="cat.png", mimetype="image/png")
    (due,) = oddly.awaited.take(1, 1, {}, 0.0)
    assert due.media.name == "cat.png"
    found = became(oddly, gathering(oddly))
    assert (found.state, found.media_type, found.size) == ("kept", "text/plain", 24)


def test_one_that_says_itself_that_it_is_too_large_is_not_asked_for(
    oddly: Service, odd: Odd, client: redis.Redis
) -> None:
    came(oddly, url=f"{odd.url}/api/files/x")
    (due,) = oddly.awaited.take(1, 1, {}, 60)
    told = {"url": due.media.url, "media_type": "video/mp4", "name": "", "size": 10**9}
    client.hset(f"pr:media:{due.id}", "what", json.dumps(told))
    client.zadd("pr:media:due", {due.id: 0})
    assert became(oddly, gathering(oddly)).reason.startswith("it has over 200000 bytes")
    assert odd.asked == []


def test_our_key_goes_to_the_sidecar_alone_whatever_a_message_says(
    oddly: Service, odd: Odd
) -> None:
    with Odd() as other:
        came(oddly, url=f"{other.url}/api/files/x")
        found = became(oddly, gathering(oddly))
        assert other.asked == []
    assert found.state == "kept"
    assert odd.asked[0]["x-api-key"] == "planted-key"


def test_a_driver_that_leads_elsewhere_is_not_followed(
    oddly: Service, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Odd() as other:
        came(oddly, url="/api/files/x")
        adapter = oddly.phones.phone
        assert adapter
        gatherer = gathering(oddly)
        elsewhere = replace(adapter.driver, base_url=other.url)  # type: ignore[type-var]
        gatherer._phone = replace(adapter, driver=elsewhere)  # noqa: SLF001 - no driver of ours does so
        assert became(oddly, gatherer).reason == "it does not lie at the sidecar"
        assert other.asked == []


def test_a_phone_that_is_sent_much_keeps_no_others_waiting(oddly: Service, odd: Odd) -> None:
    odd.serves = Serves(parts=dripping)
    nothing: frozenset[str] = frozenset()
    adapter = oddly.phones.phone
    assert adapter
    for n in range(20):
        body = wrote(
            "busy", f"B{n}", hasMedia=True, media={"mimetype": "image/png", "url": "/api/files/x"}
        )
        oddly.arrivals.take(
            WhatsAppWeb.name,
            "busy",
            adapter.incoming(body),
            kept=100,
            opt_out=nothing,
            opt_in=nothing,
        )
    gatherer = gathering(oddly, within_s=30.0)
    wait_until(lambda: (gatherer.turn(), len(odd.asked) == 2)[1])
    odd.serves = Serves()
    came(oddly, "calm", url="/api/files/x")
    wait_until(
        lambda: (gatherer.turn(), oddly.arrivals.page(1).rows[0].file.state == "kept")[1]  # type: ignore[union-attr]
    )


def test_a_clients_limit_of_bytes_counts_for_what_it_is_sent(
    api: Api, oddly: Service, odd: Odd
) -> None:
    made = api.post(
        "/api/v1/keys", json={"name": "alpha", "role": "sender", "limits": {"file_bytes": 10}}
    )
    assert made.status_code == 201, made.text
    came(oddly, f"shop_{made.json()['id']}", url="/api/files/x")
    found = became(oddly, gathering(oddly))
    assert found.state == "missing"
    assert "over this client's limit of 10 bytes" in found.reason


def test_a_file_is_kept_as_long_as_its_message(
    oddly: Service, odd: Odd, client: redis.Redis, tmp_path: Path
) -> None:
    came(oddly, url="/api/files/x")
    found = became(oddly, gathering(oddly))
    oddly.sweep()
    client.zadd("pr:files:unused", {found.id: 0}, xx=True)
    oddly.sweep()
    assert content(oddly, found.id) == PNG
    client.xtrim("pr:incoming", maxlen=0)
    oddly.sweep()
    client.zadd("pr:files:unused", {found.id: 0}, xx=True)
    oddly.sweep()
    assert not (tmp_path / "files" / found.id).exists()
    assert client.keys("pr:incoming:files*") == []


def test_too_many_that_wait_are_told_of_without_their_file(
    oddly: Service, odd: Odd, client: redis.Redis
) -> None:
    client.zadd("pr:media:due", {f"{n}-0": 4e9 for n in range(10_000)})
    came(oddly, url="/api/files/x")
    file = oddly.arrivals.page(1).rows[0].file
    assert file
    assert (file.state, file.reason) == ("missing", "too many files wait to be fetched")


def test_a_file_and_where_it_lies_are_encrypted_where_that_is_wanted(
    env: dict[str, str], odd: Odd, client: redis.Redis, tmp_path: Path
) -> None:
    settings = Settings.from_env(env | {"WAHA_URL": odd.url, "ENCRYPT_AT_REST": "on"}, None)
    service = Service(Store(client), settings, open_accounts(settings))
    came(service, url="http://localhost:3000/api/files/planted-place")
    (key,) = client.keys("pr:media:[0-9]*")
    assert b"planted-place" not in b"".join(client.hvals(key))
    found = became(service, gathering(service))
    assert PNG not in (tmp_path / "files" / f"{found.id}.sealed").read_bytes()
    assert content(service, found.id) == PNG


def test_what_is_kept_of_a_file_is_what_was_told(client: redis.Redis) -> None:
    assert Awaited(client).take(5, 5, {}, 1) == []
    assert Media("http://x").size == 0


# -- who sees what


def test_a_client_sees_what_came_to_its_own_sessions_and_no_other(
    api: Api, service: Service, sidecar: Sidecar
) -> None:
    keys = {
        name: api.post("/api/v1/keys", json={"name": name, "role": role}).json()
        for name, role in (("alpha", "viewer"), ("beta", "sender"), ("gamma", "sender"))
    }
    ids = {
        name: service.phones.add(Client(key["id"], name, "sender"), "shop").id
        for name, key in keys.items()
        if name != "gamma"
    }
    service.phones.add(ADMIN, "shop")
    for n in range(12):
        for who, id_ in (*ids.items(), ("ours", "shop")):
            body = wrote(id_, f"{who}{n}", body=f"to {who} {n}")
            assert posted(api, body, signed(body), id_) == 200

    def seen(who: str, **params: Any) -> list[str]:
        found, cursor = [], None
        while True:
            more = {"cursor": cursor} if cursor else {}
            headers = {"Authorization": f"Bearer {keys[who]['key']}"}
            answer = api.get(
                "/api/v1/incoming",
                params={"limit": 5} | params | more,
                headers=headers,
                auth=(),  # type: ignore[arg-type]
            )
            assert answer.status_code == 200, answer.text
            assert {row["session"] for row in answer.json()["incoming"]} <= {"shop"}
            found += [row["text"] for row in answer.json()["incoming"]]
            if (cursor := answer.json()["next"]) is None:
                return found

    for who in ("alpha", "beta"):
        mine = [f"to {who} {n}" for n in range(11, -1, -1)]
        assert seen(who) == seen(who, session="shop") == mine
        assert seen(who, account=ids[who]) == mine
        assert seen(who, session="office") == seen(who, account="shop") == []
    assert (
        seen("alpha", account=ids["beta"]) == seen("gamma") == seen("gamma", session="shop") == []
    )
    assert len(heard(api, limit="100")) == 36
    assert {row["text"][:7] for row in heard(api, session="shop", limit="100")} == {"to ours"}
    assert len(heard(api, account=ids["beta"], limit="100")) == 12
    both = api.get("/api/v1/incoming", params={"session": "a", "account": "b"})
    assert both.status_code == 400


def test_a_clients_file_is_its_own(api: Api, service: Service, sidecar: Sidecar) -> None:
    alpha, beta = (
        api.post("/api/v1/keys", json={"name": name, "role": "viewer"}).json()
        for name in ("alpha", "beta")
    )
    id_ = linked(service, sidecar, Client(alpha["id"], "alpha", "sender"))
    sidecar.say(id_, **picture())
    wait_until(lambda: heard(api))
    found = settled(api, gathering(service))
    for key, status in ((alpha, 200), (beta, 404)):
        headers = {"Authorization": f"Bearer {key['key']}"}
        path = f"/api/v1/files/{found['id']}"
        assert api.get(path, headers=headers, auth=()).status_code == status  # type: ignore[arg-type]
