"""What people send: kept once, listed, obeyed where it says stop; and who is sent nothing. Over real HTTP, with a real worker."""

import hashlib
import hmac
import itertools
import json
import subprocess
import time
from typing import Any
from urllib.parse import quote

import pytest
import redis

from messengers.base import Rejected
from messengers.inward import Incoming
from postrider.incoming import plain, plain_words, wish
from postrider.model import NewMessage, Recipient, State
from postrider.service import Service
from tests.conftest import Api, Postrider, Start, wait_until
from tests.fake import Answer, FakeMessenger, says

APP_SECRET, HOOK_SECRET, NUMBER_ID = "planted-app-secret", "planted-hook-secret", "106540352242922"
ADA = "491701234567"
IDS = itertools.count(1)


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {
        "WHATSAPP_APP_SECRET": APP_SECRET,
        "WHATSAPP_VERIFY_TOKEN": "planted-verify-token",
        "TELEGRAM_WEBHOOK_SECRET": HOOK_SECRET,
        "WHATSAPP_RECIPIENT_RATE": "0",
        "INCOMING_KEPT": "50",
    }


def meta(**value: object) -> bytes:
    metadata = {"phone_number_id": NUMBER_ID, "display_phone_number": "1"}
    change = {"field": "messages", "value": {"metadata": metadata, **value}}
    return json.dumps({"entry": [{"changes": [change]}]}).encode()


def wrote(text: str, sender: str = ADA) -> bytes:
    stamp, id_ = str(int(time.time())), f"wamid.in{next(IDS)}"
    raw = {"from": sender, "id": id_, "timestamp": stamp, "type": "text", "text": {"body": text}}
    return meta(messages=[raw])


def status(state: str, wamid: str, key: str = "") -> bytes:
    stamp = str(int(time.time()))
    raw = {"id": wamid, "status": state, "timestamp": stamp, "biz_opaque_callback_data": key}
    return meta(statuses=[raw])


def hook(api: Api, body: bytes, secret: str = APP_SECRET, path: str = "whatsapp/default") -> int:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}
    return api.post(f"/hooks/{path}", data=body, headers=headers, auth=()).status_code  # type: ignore[arg-type]


def send(api: Api, *tos: tuple[str, str]) -> list[str]:
    recipients = [{"service": service, "uuid": uuid} for service, uuid in tos]
    answer = api.post("/send_message", json={"body": "Hi", "recipients": recipients})
    return [d["id"] for d in answer.json()["message"]["deliveries"]]


def states(service: Service) -> dict[str, str]:
    rows = [*service.scheduled(100, None).rows, *service.finished(100, None).rows]
    return {delivery.id: delivery.state.value for delivery, _ in rows}


# -- whole ways, by a real worker


def test_a_delivery_goes_from_sent_to_read_by_what_the_messenger_posts(
    api: Api, service: Service, worker: subprocess.Popen[bytes]
) -> None:
    (id_,) = send(api, ("whatsapp", ADA))
    wait_until(lambda: states(service).get(id_) == "sent")
    wamid = service.store.attempts([id_])[id_][0].provider_id
    for said in ("read", "delivered", "sent", "read", "failed"):
        assert hook(api, status(said, wamid)) == 200
        assert states(service)[id_] == "read"
    assert [r.state for r in service.receipts.of([id_])[id_]] == [State.READ]
    assert len(api.get("/get_finished").json()["finished_main"]) == 1


def test_a_receipt_within_the_grace_settles_a_lost_answer_and_it_is_sent_once(
    api: Api, service: Service, start: Start, client: redis.Redis, messenger: FakeMessenger
) -> None:
    start("postrider", "worker", UNKNOWN_GRACE="6")
    messenger.script = lambda _: Answer(cut=True)
    (id_,) = send(api, ("whatsapp", ADA))
    wait_until(lambda: states(service).get(id_) == "unknown")
    assert hook(api, status("delivered", "wamid.never-seen", key=id_)) == 200
    assert states(service)[id_] == "delivered"
    (other,) = send(api, ("whatsapp", "4917099"))  # to know that the grace of the first is over
    wait_until(lambda: sum(call.to == "4917099" for call in messenger.calls) > 1, 15)
    assert sum(call.to == ADA for call in messenger.calls) == 1
    assert states(service)[id_] == "delivered"
    wait_until(lambda: other in states(service))  # it stands in none while it is sent


@pytest.mark.parametrize("how", ["ours", "stock"])
def test_who_answers_stop_is_sent_nothing_until_start(
    api: Api, service: Service, start: Start, messenger: FakeMessenger, how: str
) -> None:
    assert hook(api, wrote(" Stop! ")) == 200
    stopped, plus, other = send(
        api, ("whatsapp", ADA), ("whatsapp", f"+{ADA}"), ("whatsapp", "4917099")
    )
    if how == "ours":
        start("postrider", "worker")
    else:
        start("rqscheduler", "-i", "1", "--url", service.settings.redis_address)
        start("rq", "worker", "--url", service.settings.redis_address, "high", "default", "low")
    wait_until(lambda: set(states(service).values()) == {"suppressed", "sent"}, 30)
    assert states(service) == {stopped: "suppressed", plus: "suppressed", other: "sent"}
    assert [call.to for call in messenger.calls] == ["4917099"]
    assert service.store.attempts([stopped])[stopped] == []
    assert len(api.get("/get_finished").json()["finished_with_fail"]) == 2

    assert hook(api, wrote("START")) == 200
    (again,) = send(api, ("whatsapp", ADA))
    wait_until(lambda: states(service).get(again) == "sent", 30)


def test_who_blocked_us_is_sent_nothing_more_until_they_write(
    api: Api, service: Service, client: redis.Redis
) -> None:
    service.accept(NewMessage("Hi", (Recipient("42", "telegram"),)))
    (mine,) = service.sender.claim("w", 1).claims
    service.sender.record(
        "w", [service.sender.verdict(mine, Rejected("Forbidden: blocked", dead=True))]
    )
    found = service.suppressions.get("telegram", "42")
    assert found
    assert (found.why, found.reason) == ("dead", "Forbidden: blocked")
    service.accept(NewMessage("Hi", (Recipient("42", "telegram"),)))
    wait_until(lambda: (got := service.sender.claim("w", 1).claims) and got[0].how == "suppressed")

    chat = {"id": 42, "type": "private", "first_name": "Ana"}
    body = {"update_id": 7, "message": {"date": 1, "chat": chat, "from": chat, "text": "hello?"}}
    headers = {"X-Telegram-Bot-Api-Secret-Token": HOOK_SECRET}
    assert api.post("/hooks/telegram/default", json=body, headers=headers).status_code == 200
    assert service.suppressions.get("telegram", "42") is None


def test_a_suppressed_probe_leaves_the_way_to_the_next(service: Service) -> None:
    service.suppressions.add([("telegram", "1")])
    service.store.redis.hset("pr:account:telegram", mapping={"until": 1, "why": "x", "opened": 1})
    service.accept(NewMessage("Hi", (Recipient("1", "telegram"),)))
    (probe,) = service.sender.claim("w", 1).claims
    assert probe.how == "suppressed"
    exchange = service.sender.attempt([probe])
    with pytest.raises(StopIteration) as stop:
        next(exchange)
    service.sender.record("w", stop.value.value)
    service.accept(NewMessage("Hi", (Recipient("2", "telegram"),)))
    (following,) = service.sender.claim("w", 1).claims
    assert following.how == "probe"


def test_a_suppressed_one_in_a_broadcast_takes_nobody_with_it(
    service: Service, messenger: FakeMessenger, worker: subprocess.Popen[bytes]
) -> None:
    tos = [f"{n:022d}==" for n in range(5)]
    service.suppressions.add([("viber", tos[2])])
    service.accept(NewMessage("Hi", tuple(Recipient(to, "viber") for to in tos)))
    wait_until(lambda: len(service.finished(10, None).rows) == 5)
    got = [to for call in messenger.calls for to in call.receivers]
    assert sorted(got) == sorted(set(tos) - {tos[2]})


# -- forged, old, swapped, re-encoded


def test_no_forged_old_swapped_or_reencoded_call_gets_in(
    api: Api, service: Service, client: redis.Redis
) -> None:
    body = wrote("STOP")
    old = body.replace(str(int(time.time()))[:6].encode(), b"160000")
    digest = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    tries = [
        (body, {}),
        (body, {"X-Hub-Signature-256": ""}),
        (body, {"X-Hub-Signature-256": "sha256=" + "0" * 64}),
        (body, {"X-Hub-Signature-256": digest}),
        (body.replace(ADA.encode(), b"4917099"), {"X-Hub-Signature-256": f"sha256={digest}"}),
        (json.dumps(json.loads(body), indent=1).encode(), {"X-Hub-Signature-256": f"sha256={digest}"}),
        (body + b"\n", {"X-Hub-Signature-256": f"sha256={digest}"}),
        (old, {"X-Hub-Signature-256": "sha256=" + hmac.new(APP_SECRET.encode(), old, hashlib.sha256).hexdigest()}),
    ]  # fmt: skip
    for raw, headers in tries:
        reply = api.post("/hooks/whatsapp/default", data=raw, headers=headers, auth=())  # type: ignore[arg-type]
        assert reply.status_code == 401
    assert hook(api, body, "another secret") == 401
    assert hook(api, body, path="whatsapp/shop") == 404
    assert client.keys("pr:in*") == client.keys("pr:suppressed*") == []
    assert hook(api, body) == 200


def test_metas_question_is_answered_in_plain_text(api: Api) -> None:
    api.auth = None
    ask = {
        "hub.mode": "subscribe",
        "hub.verify_token": "planted-verify-token",
        "hub.challenge": "11",
    }
    reply = api.get("/hooks/whatsapp/default", params=ask)
    assert (reply.status_code, reply.text) == (200, "11")
    assert reply.headers["Content-Type"].startswith("text/plain")
    ask["hub.verify_token"] = "wrong"
    assert api.get("/hooks/whatsapp/default", params=ask).status_code == 401
    assert api.get("/hooks/telegram/default", params=ask).status_code == 404


def test_what_is_of_nobody_or_makes_no_sense_is_thanked_for(api: Api) -> None:
    for body in (b"", b"{}", b"[1", status("read", "wamid.nobody"), meta(statuses=[5, {}])):
        assert hook(api, body) == 200


# -- keeping and listing


def test_a_message_is_kept_once_however_often_it_is_told(api: Api, service: Service) -> None:
    body = wrote("Hello 👋\x00")
    digest = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    for _ in range(3):
        headers = {"x-hub-signature-256": f"sha256={digest}"}
        service.webhooks.receive("whatsapp", "default", headers, body)
    (found,) = api.get("/api/v1/incoming").json()["incoming"]
    assert (found["text"], found["uuid"], found["kind"]) == ("Hello 👋", ADA, "text")
    assert [p.to for p in service.inbox.people("whatsapp/default")] == [ADA]


def test_the_list_is_newest_first_filtered_paged_and_capped(api: Api) -> None:
    for n in range(60):
        hook(api, wrote(f"text {n}", sender=f"4917{n % 3}"))
    seen, cursor = [], None
    while True:
        params = {"limit": 7} | ({"cursor": cursor} if cursor else {})
        page = api.get("/api/v1/incoming", params=params).json()
        seen += [row["text"] for row in page["incoming"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == [f"text {n}" for n in range(59, 9, -1)]
    mine = api.get("/api/v1/incoming", params={"uuid": "+49171", "limit": 100}).json()
    assert {row["uuid"] for row in mine["incoming"]} == {"49171"}
    for filters in ({"service": "viber"}, {"account": "shop"}, {"uuid": "1"}):
        assert api.get("/api/v1/incoming", params=filters).json()["incoming"] == []
    assert api.get("/api/v1/incoming", params={"cursor": "x"}).status_code == 400


# -- words


STOP, START = plain_words("STOP, Opt out,стоп"), plain_words("START")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *((text, "o") for text in ("STOP", "stop", " Stop. ", "S.T.O.P!", "«стоп»", "opt-out", "/stop", "\uff33\uff34\uff2f\uff30")),
        *((text, "i") for text in ("start", "/start", "START!!")),
        *((text, "l") for text in ("", "stop it", "don't stop", "...", "stopp", "👋")),
    ],
)  # fmt: skip
def test_only_the_word_alone_counts_whatever_its_case_and_punctuation(
    text: str, wanted: str
) -> None:
    message = Incoming("1", None, "42", "Ana", text)
    assert wish(message, STOP, START) == wanted
    assert wish(Incoming("1", None, "-1", "Choir", text, group=True), STOP, START) == "l"


def test_no_words_at_all_can_be_set() -> None:
    assert plain_words("-") == plain_words(" , !") == frozenset()
    assert plain("é\u0301") == plain("É\u0301")


@pytest.mark.parametrize(
    ("kind", "wanted"), [("left", "o"), ("joined", "i"), ("other", "l"), ("image", "l")]
)
def test_leaving_and_joining_count_like_the_words(kind: Any, wanted: str) -> None:
    assert wish(Incoming("1", None, "42", "Ana", "STOP", kind=kind), STOP, START) == wanted


# -- the list of the suppressed


def test_addresses_are_put_read_listed_and_lifted(api: Api) -> None:
    odd = "a//b+c=="
    for service, uuid in (("viber", odd), ("telegram", "42"), ("whatsapp", "+4917")):
        path = f"/api/v1/suppressions/{service}/{quote(uuid, safe='')}"
        put = api.put(path, json={"reason": "asked by phone"})
        assert (put.status_code, put.json()["why"]) == (200, "manual")
        assert api.get(path).json() == put.json()
    page = api.get("/api/v1/suppressions", params={"limit": 2}).json()
    rest = api.get("/api/v1/suppressions", params={"limit": 2, "cursor": page["next"]}).json()
    rows = [(row["service"], row["uuid"]) for row in page["suppressions"] + rest["suppressions"]]
    assert rows == [("telegram", "42"), ("viber", odd), ("whatsapp", "4917")]
    assert (page["total"], rest["next"]) == (3, None)
    only = api.get("/api/v1/suppressions", params={"service": "viber"}).json()
    assert [row["uuid"] for row in only["suppressions"]] == [odd]
    assert api.delete("/api/v1/suppressions/whatsapp/4917").status_code == 204
    assert api.delete("/api/v1/suppressions/whatsapp/4917").status_code == 404
    assert api.get("/api/v1/suppressions/whatsapp/4917").status_code == 404


def test_what_is_no_address_is_refused(api: Api) -> None:
    assert api.put("/api/v1/suppressions/pigeon/1", json={}).status_code == 404
    assert api.put("/api/v1/suppressions/telegram/x", json={}).status_code == 400
    assert api.put("/api/v1/suppressions/telegram/1", data="{}").status_code == 415
    assert api.put("/api/v1/suppressions/telegram/1", json={"why": "x"}).status_code == 400


@pytest.mark.parametrize("path", ["/api/v1/incoming", "/api/v1/suppressions"])
def test_nobody_reads_them_without_a_login(api: Api, path: str) -> None:
    api.auth = None
    assert api.get(path).status_code == 401


def test_what_somebody_put_there_by_hand_no_reply_lifts(api: Api, service: Service) -> None:
    service.suppressions.add([("whatsapp", ADA)], "manual", "court order")
    for text in ("STOP", "START", "hello"):
        assert hook(api, wrote(text)) == 200
        found = service.suppressions.get("whatsapp", ADA)
        assert found
        assert (found.why, found.reason) == ("manual", "court order")


def test_the_command_lists_adds_and_removes(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("suppressions", "add", "telegram:42", "viber:a=", "--reason", "asked") == 0
    assert postrider("suppressions", "list", "--json") == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert [(row["uuid"], row["reason"]) for row in told["suppressions"]] == [
        ("42", "asked"),
        ("a=", "asked"),
    ]
    assert postrider("suppressions", "remove", "telegram:42") == 0
    assert postrider("suppressions", "remove", "telegram:42") == 1
    assert postrider("suppressions", "list") == 0
    assert "viber\ta=\tmanual" in capsys.readouterr().out
    assert postrider("suppressions", "add", "telegram:x") == 1


@pytest.mark.parametrize("name", ["telegram", "whatsapp"])
def test_no_webhook_is_set_that_could_be_forged(
    postrider: Postrider, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    off = {"TELEGRAM_WEBHOOK_SECRET": None, "WHATSAPP_APP_SECRET": None}
    assert postrider("hooks", "set", name, "--url", "https://x.example/h", **off) == 1
    assert "could not be told from a forger" in capsys.readouterr().err


def test_telegram_and_whatsapp_are_told_where_to_call(
    postrider: Postrider, messenger: FakeMessenger, capsys: pytest.CaptureFixture[str]
) -> None:
    messenger.script = lambda _: says(ok=True, result=True, success=True)
    for name in ("telegram", "whatsapp"):
        assert postrider("hooks", "set", name, "--url", "https://x.example/h") == 0
    assert [call.path.rpartition("/")[2] for call in messenger.calls] == ["setWebhook", NUMBER_ID]
    told = capsys.readouterr().out
    assert HOOK_SECRET not in told
    assert "`messages`" in told
