"""Deliveries by linked phones: at their pace, waiting while a phone is away, stopped when WhatsApp restricts it."""

import time
from collections import Counter
from itertools import pairwise

import pytest
import redis

from postrider.errors import InvalidRequest
from postrider.model import NewMessage, Recipient
from postrider.phones import SERVICE
from postrider.service import Service
from postrider.settings import Settings
from tests.conftest import Api, Start, wait_until
from tests.phones.rig import ANA, USER, Rig
from tests.sidecar import Sidecar

NUMBERS = [f"37529{n:07d}" for n in range(200)]


def texts(sidecar: Sidecar) -> Counter[str]:
    return Counter(message["text"] for message in sidecar.messages)


def test_a_message_goes_by_its_session_and_its_receipts_come_back(rig: Rig, api: Api) -> None:
    rig.linked()
    id_ = rig.post("+" + ANA)
    rig.send_until(1)
    (message,) = rig.sidecar.messages
    assert (message["session"], message["to"], message["text"]) == ("shop", f"{ANA}@c.us", "Hi")
    assert rig.state(id_) == ("sent", 0)
    config = rig.sidecar.sessions["shop"]["config"]
    assert config["webhooks"][0]["url"].endswith("/hooks/whatsapp-web/shop")
    assert api.get("/api/v1/accounts").json()["accounts"][-1]["service"] == "whatsapp-web"


def test_without_a_sidecar_it_is_said_what_is_missing(service: Service) -> None:
    to = (Recipient(ANA, SERVICE),)
    with pytest.raises(InvalidRequest, match="WAHA_URL or GOWA_URL"):
        Service(service.store, Settings(), {}).accept(NewMessage("Hi", to))


def test_the_only_session_is_meant_where_none_is_named(rig: Rig) -> None:
    rig.linked()
    rig.post(account="default")
    rig.send_until(1)
    assert rig.sidecar.messages[0]["session"] == "shop"


def test_what_waits_for_an_unlinked_phone_uses_up_no_attempt_and_goes_when_it_is_linked(
    rig: Rig, client: redis.Redis
) -> None:
    rig.linked()
    rig.sidecar.unlink("shop")
    rig.look_until("scan")
    id_ = rig.post()
    assert [rig.send() for _ in range(5)] == [0] * 5
    assert rig.state(id_)[1] == 0
    assert rig.state(id_)[0] in {"scheduled", "queued"}
    assert rig.sidecar.messages == []
    rig.sidecar.scan("shop")
    rig.look_until("linked")
    rig.send_until(1)
    assert rig.state(id_) == ("sent", 0)


def test_a_send_that_finds_the_phone_away_uses_up_no_attempt_and_has_it_looked_at(
    rig: Rig,
) -> None:
    rig.linked()
    id_ = rig.post()
    rig.phones.sessions.take_due(10, 60)
    rig.sidecar.drop("shop", "FAILED")  # nobody has told us
    wait_until(rig.send)
    assert rig.state(id_) == ("retrying", 0)
    assert rig.phones.sessions.take_due(10, 60) == ["shop"]
    rig.look()
    rig.look_until("linked")
    rig.send_until(1, within_s=6)  # it is soon tried again
    assert rig.state(id_) == ("sent", 0)


def test_a_sidecar_that_hangs_is_no_answer_and_one_that_takes_nothing_no_attempt_of_others(
    rig: Rig,
) -> None:
    rig.linked()
    first = rig.post(ANA, body="one")
    rig.sidecar.spoil("lose", "sendText", times=1)
    wait_until(rig.send)
    assert rig.state(first)[0] == "unknown"
    assert texts(rig.sidecar) == {"one": 1}


@pytest.mark.parametrize("how", ["463", "429"])
def test_whatsapps_restriction_stops_the_account_until_an_operator_lets_it_go_on(
    rig: Rig, how: str
) -> None:
    rig.linked()
    rig.linked("other", "375290000000")
    rig.sidecar.spoil(how, "sendText", session="shop", times=1)
    first, second = rig.post(ANA, body="1"), rig.post(NUMBERS[0], body="2")
    wait_until(rig.send)
    stops = rig.service.changes.stops()
    assert list(stops) == ["account whatsapp-web/shop"]
    assert how in stops["account whatsapp-web/shop"][1]
    (told,) = rig.told()
    assert "whatsapp-web/shop is stopped" in told
    assert "postrider go-on --service whatsapp-web --account shop" in told
    tried = len([r for r in rig.sidecar.requests if "sendText" in r["path"]])
    assert tried == 1
    time.sleep(0.5)  # longer than any pause of these settings
    assert [rig.send() for _ in range(5)] == [0] * 5
    assert rig.state(first)[1] == rig.state(second)[1] == 0

    rig.post(ANA, account="other", body="3")  # which is no concern of the other phone
    rig.send_until(1)
    assert texts(rig.sidecar) == {"3": 1}

    assert rig.service.changes.go_on("account whatsapp-web/shop")
    rig.send_until(3)
    assert texts(rig.sidecar) == {"1": 1, "2": 1, "3": 1}


def test_a_phone_that_is_away_holds_up_no_other(rig: Rig) -> None:
    rig.linked()
    rig.linked("other", "375290000000")
    rig.sidecar.drop("shop", away=True)
    rig.look()
    for n in range(5):
        rig.post(NUMBERS[n], body=f"away {n}")
        rig.post(NUMBERS[n], account="other", body=f"there {n}")
    rig.send_until(5)
    assert texts(rig.sidecar) == {f"there {n}": 1 for n in range(5)}


def test_what_waits_for_a_deleted_session_waits_for_one_of_that_name(rig: Rig) -> None:
    rig.linked()
    rig.sidecar.drop("shop", away=True)
    rig.look()
    id_ = rig.post()
    assert rig.send() == 0
    rig.phones.delete(USER, "shop")
    assert [rig.send() for _ in range(3)] == [0] * 3
    assert rig.state(id_)[1] == 0
    with pytest.raises(InvalidRequest, match="no session"):
        rig.post()
    rig.linked()
    rig.send_until(1)
    assert rig.state(id_) == ("sent", 0)


def test_a_session_deleted_between_claim_and_call_hands_its_deliveries_back(rig: Rig) -> None:
    rig.linked()
    id_ = rig.post()
    sender = rig.service.sender
    claims: list = []
    wait_until(lambda: claims.extend(sender.claim("rig", 1).claims) or claims)
    rig.phones.delete(USER, "shop")
    (call,) = sender.calls(claims)
    with pytest.raises(StopIteration) as stop:
        next(sender.attempt(call))
    assert sender.record("rig", stop.value.value) == [True]
    assert rig.state(id_)[1] == 0
    assert rig.sidecar.messages == []


# -- at its pace


def demand_gaps(sidecar: Sidecar, since: float, gap_s: float) -> None:
    """The n-th message came n gaps after `since` at the earliest; one may be late, and the next one then follows sooner."""
    came = [message["at"] - since for message in sidecar.messages]
    assert all(at >= n * gap_s for n, at in enumerate(came)), came


def test_between_two_messages_lies_a_gap_that_differs(env: dict[str, str], rig: Rig) -> None:
    env["WHATSAPP_WEB_GAP"] = "0.1-0.3"
    paced = Rig.of(env, rig.service.store.redis, rig.sidecar)
    paced.linked()
    since = time.time()
    for number in NUMBERS[:8]:
        paced.post(number)
    paced.send_until(8, 20)
    demand_gaps(rig.sidecar, since, 0.1)
    times = [message["at"] for message in rig.sidecar.messages]
    assert len({round(after - before, 3) for before, after in pairwise(times)}) > 3


def test_the_rate_holds(env: dict[str, str], rig: Rig) -> None:
    env["WHATSAPP_WEB_RATE"] = "5"
    paced = Rig.of(env, rig.service.store.redis, rig.sidecar)
    paced.linked()
    since = time.time()
    for number in NUMBERS[:5]:
        paced.post(number)
    paced.send_until(5, 20)
    demand_gaps(rig.sidecar, since, 0.2)


def test_the_daily_cap_holds(env: dict[str, str], rig: Rig) -> None:
    env["WHATSAPP_WEB_DAILY_CAP"] = "3"
    paced = Rig.of(env, rig.service.store.redis, rig.sidecar)
    paced.linked()
    for number in NUMBERS[:5]:
        paced.post(number)
    paced.send_until(3)
    assert [paced.send() for _ in range(5)] == [0] * 5
    assert len(rig.sidecar.messages) == 3


def test_a_new_phone_is_warmed_up_and_grows_by_the_day(env: dict[str, str], rig: Rig) -> None:
    env |= {"WHATSAPP_WEB_DAILY_CAP": "200", "WHATSAPP_WEB_WARMUP": "2"}
    warmed = Rig.of(env, rig.service.store.redis, rig.sidecar)
    warmed.linked()
    limits = warmed.service.sender.limits
    warmed.phones.sync()
    assert warmed.service.sender.limits[SERVICE, "shop"].daily_cap == 20
    warmed.later(86_400)
    warmed.phones.sync()
    assert warmed.service.sender.limits[SERVICE, "shop"].daily_cap == 110
    warmed.later(86_400)
    warmed.phones.sync()
    assert warmed.service.sender.limits[SERVICE, "shop"].daily_cap == 200
    assert limits is not warmed.service.sender.limits


# -- in every process


def test_each_process_follows_the_sessions(
    rig: Rig, api: Api, start: Start, client: redis.Redis
) -> None:
    start("postrider", "worker")
    wait_until(lambda: client.scard("rq:workers"), 15)
    to = {"uuid": ANA, "service": "whatsapp-web", "account": "shop"}
    refused = api.post("/api/v1/messages", json={"body": "Hi", "recipients": [to]})
    assert refused.status_code == 400
    rig.linked()
    taken = api.post("/api/v1/messages", json={"body": "Hi", "recipients": [to]})
    assert taken.status_code == 201
    wait_until(lambda: len(rig.sidecar.messages) == 1, 5)
    rig.phones.stop(USER, "shop")
    time.sleep(1.5)  # what the worker may take to hear of it
    taken = api.post("/api/v1/messages", json={"body": "Ho", "recipients": [to]})
    assert taken.status_code == 201
    time.sleep(0.5)
    assert len(rig.sidecar.messages) == 1
    rig.phones.start(USER, "shop")
    rig.look_until("linked")
    wait_until(lambda: len(rig.sidecar.messages) == 2, 5)


def test_accounts_and_numbers_show_a_session_to_whose_it_is(rig: Rig, api: Api) -> None:
    rig.linked()
    shown = {a["name"]: a for a in api.get("/api/v1/accounts").json()["accounts"]}
    assert shown["shop"]["state"] == "open"
    rig.phones.stop(USER, "shop")
    shown = {a["name"]: a for a in api.get("/api/v1/accounts").json()["accounts"]}
    assert shown["shop"]["state"] == "away"
    made = api.post("/api/v1/keys", json={"name": "k", "role": "sender"}).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    numbers = api.get("/metrics").text
    assert 'postrider_sessions{state="stopped"} 1.0' in numbers
    assert 'account="shop"' in numbers
    api.auth = None
    theirs = api.get("/api/v1/accounts", headers=bearer).json()["accounts"]
    assert "telegram" in {a["service"] for a in theirs}
    assert "whatsapp-web" not in {a["service"] for a in theirs}
    assert 'account="shop"' not in api.get("/metrics", headers=bearer).text
