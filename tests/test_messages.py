"""/api/v1/messages and /api/v1/deliveries over real HTTP: sent once, found, moved, stopped, exported."""

import csv
import io
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from messengers.base import Rejected, Sent
from messengers.inward import Receipt
from postrider.errors import IdempotencyConflict
from postrider.model import NewMessage, Recipient, new_message_id
from postrider.repeats import Once
from postrider.service import Service
from postrider.store import Store
from tests.conftest import Api, wait_until

ANA = {"uuid": "1", "service": "whatsapp"}
BEN = {"uuid": "2", "service": "telegram"}
SOON = {"send_at": "2030-10-05 13:48:00"}
ALL = "/api/v1/messages"


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def message(**changes: Any) -> dict[str, Any]:
    return {"body": "Hello", "recipients": [ANA, BEN], **changes}


def post(api: Api, **changes: Any) -> dict[str, Any]:
    reply = api.post(ALL, json=message(**changes))
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


def end_all(service: Service, *outcomes: object) -> None:
    claims = service.sender.claim("w", 10).claims
    verdicts = [service.sender.verdict(c, o) for c, o in zip(claims, outcomes, strict=True)]  # type: ignore[arg-type]
    assert all(service.sender.record("w", verdicts))


def test_the_try_that_was_taken_counts_too(api: Api, service: Service) -> None:
    mid = post(api, recipients=[{"uuid": str(n), "service": "telegram"} for n in range(2)])["id"]
    end_all(service, Sent("7"), Rejected("Forbidden"))
    found = [api.get(f"/api/v1/deliveries/{mid}-{n}").json() for n in range(2)]
    assert [(d["state"], d["attempts"]) for d in found] == [("sent", 1), ("failed", 1)]


@pytest.mark.parametrize(
    "path", ["/get_scheduled?limit=1", "/api/v1/deliveries?limit=1", "/api/v1/messages?limit=1"]
)
def test_what_is_asked_twice_is_refused(api: Api, path: str) -> None:
    assert api.get(path).status_code == 200
    answer = api.get(f"{path}&limit=2")
    assert answer.status_code == 400
    assert "limit: is given more than once" in answer.json()["error"]


def test_a_message_is_answered_as_a_resource(api: Api) -> None:
    answer = post(api, **SOON, reference="order-1", tags=["a", "b", "a"])
    mid = answer.pop("id")
    assert answer.pop("accepted_at").endswith("Z")
    assert answer == {
        "body": "Hello",
        "state": "scheduled",
        "reference": "order-1",
        "tags": ["a", "b"],
        "due_at": "2030-10-05T13:48:00Z",
        "due_local": "2030-10-05 13:48:00",
        "expires_at": None,
        "check_first": False,
        "total": 2,
        "counts": {"scheduled": 2},
        "files": [],
        "format": "plain",
        "mail": None,
        "notices": [],
        "deliveries": [
            {"id": f"{mid}-0", "uuid": "1", "service": "whatsapp", "state": "scheduled"},
            {"id": f"{mid}-1", "uuid": "2", "service": "telegram", "state": "scheduled"},
        ],
    }
    again = api.get(f"{ALL}/{mid}").json()
    assert [again] == api.get(ALL).json()["messages"]
    assert again["counts"] == {"scheduled": 2}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"send_in_s": 0}, "send_in_s"),
        ({"send_in_s": 5, **SOON}, "send_in_s"),
        ({"send_in_s": 1e300}, "send_in_s"),
        ({"send_in_s": "5"}, "send_in_s"),
        ({"expires_at": "2020-01-01 00:00:00"}, "expires_at"),
        ({"expires_at": "2029-01-01 00:00:00", **SOON}, "expires_at"),
        ({"expires_at": "never"}, "expires_at"),
        ({"late_s": -1}, "late_s"),
        ({"priority": "urgent"}, "priority"),
        ({"on_unknown": "guess"}, "on_unknown"),
        ({"reference": ""}, "reference"),
        ({"reference": "two words"}, "reference"),
        ({"tags": ["x"] * 11}, "tags"),
        ({"tags": "x"}, "tags"),
        ({"dedupe_within_s": 0}, "dedupe_within_s"),
        ({"account": "shop"}, "recipients[0].account"),
        ({"recipients": [{**ANA, "name": "x"}]}, "recipients[0].name"),
        ({"recipients": [ANA, {**BEN, "uuid": "x y"}]}, "recipients[1].uuid"),
        ({"recipients": [ANA, {**BEN, "send_at": "soon"}]}, "recipients[1].send_at"),
        ({"recipients": [ANA, {**BEN, "send_at": "2020-01-01 00:00:00"}]}, "recipients[1].send_at"),
        ({"recipients": [{**ANA, "timezone": "Asia/Tokyo"}]}, "recipients[0].timezone"),
        ({"recipients": [{**ANA, "timezone": "Mars"}], **SOON}, "recipients[0].timezone"),
        ({"recipients": [{**ANA, "timezone": "Asia/Tokyo"}], "late_s": 5, **SOON}, "late_s"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_a_problem_that_names_the_field(
    api: Api, client: redis.Redis, changes: dict[str, Any], field: str
) -> None:
    reply = api.post(ALL, json=message(**changes))
    assert reply.status_code == 400
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json()
    assert problem["type"] == "/problems/bad-request"
    assert problem["status"] == 400
    assert problem["error"] == problem["detail"]
    assert field in {fault["field"] for fault in problem["errors"]}
    assert client.keys("pr:m:*") == []


def test_what_is_not_there_is_a_problem_too(api: Api) -> None:
    for method, path in (
        ("GET", f"{ALL}/{'0' * 21}"),
        ("DELETE", f"{ALL}/{'0' * 21}"),
        ("GET", f"/api/v1/deliveries/{'0' * 21}-0"),
        ("POST", f"/api/v1/deliveries/{'0' * 21}-0/retry"),
        ("GET", "/api/v1/nothing"),
    ):
        reply = api.request(method, path)
        assert reply.status_code == 404
        assert reply.headers["Content-Type"] == "application/problem+json"
    assert api.put(ALL).status_code == 405


def test_each_recipient_gets_it_at_the_local_hour(api: Api) -> None:
    mid = post(
        api,
        send_at="2030-10-05 09:00:00",
        recipients=[
            {**BEN, "timezone": "Asia/Tokyo"},
            {**ANA, "timezone": "America/New_York"},
            {"uuid": "3", "service": "telegram"},
            {"uuid": "4", "service": "telegram", "send_at": "2030-01-01T00:00:00Z"},
        ],
    )["id"]
    found = api.get("/api/v1/deliveries", params={"message": mid}).json()["deliveries"]
    assert [d["due_at"] for d in found] == [
        "2030-10-05T00:00:00Z",
        "2030-10-05T13:00:00Z",
        "2030-10-05T09:00:00Z",
        "2030-01-01T00:00:00Z",
    ]
    assert api.get(f"{ALL}/{mid}").json()["due_at"] == "2030-01-01T00:00:00Z"


def test_own_times_of_a_large_message_survive_a_death_before_it_is_armed(
    store: Store, client: redis.Redis
) -> None:
    class DiesOnceItIsCommitted(Store):
        def arm(self, *_: object) -> None:
            raise redis.ConnectionError

    now = store.now()
    at = now + timedelta(hours=1)
    recipients = tuple(
        Recipient(str(n), "telegram", send_at=at + timedelta(seconds=n)) for n in range(2500)
    )
    message = DiesOnceItIsCommitted(client).accept(
        new_message_id(now), NewMessage("x", recipients), now
    )
    assert store.scheduled(1).total == 0
    client.zadd("pr:accepting", {message.id: 1.0})
    store.finish_accepting()
    due = dict(client.zrange("pr:in:scheduled", 0, -1, withscores=True))
    assert due == {
        f"{message.id}-{n}".encode(): pytest.approx(
            (at + timedelta(seconds=n)).timestamp(), abs=1e-5
        )
        for n in range(2500)
    }
    assert client.keys("pr:w:*") == []


def hours_around(now: datetime, *, is_open: bool) -> dict[str, str]:
    """A window that is open now, or opens in two hours."""
    first, last = (-1, 2) if is_open else (2, 4)
    opens, closes = (f"{(now + timedelta(hours=h)):%H}:00" for h in (first, last))
    return {"from": opens, "to": closes}


def test_outside_its_window_a_message_waits_until_it_opens(api: Api, service: Service) -> None:
    now = service.store.now()
    shut = post(api, window=hours_around(now, is_open=False))
    assert shut["state"] == "scheduled"
    opens_at = datetime.fromisoformat(shut["due_at"])
    assert timedelta(hours=1) < opens_at - now <= timedelta(hours=2)
    post(api, body="open", window=hours_around(now, is_open=True))
    assert {c.message.body for c in service.sender.claim("w", 10).claims} == {"open"}


def test_a_window_is_meant_where_the_recipient_is(api: Api) -> None:
    mid = post(
        api,
        send_at="2030-10-05T02:00:00Z",
        window={"from": "09:00", "to": "20:00"},
        recipients=[
            {"uuid": "1", "service": "telegram", "timezone": "Asia/Tokyo"},
            {"uuid": "2", "service": "telegram", "timezone": "America/New_York"},
            {"uuid": "3", "service": "telegram"},
        ],
    )["id"]
    found = api.get("/api/v1/deliveries", params={"message": mid}).json()["deliveries"]
    assert [d["due_at"] for d in found] == [
        "2030-10-05T02:00:00Z",  # 11:00
        "2030-10-05T13:00:00Z",  # 09:00, after 22:00
        "2030-10-05T09:00:00Z",
    ]


def test_a_retry_outside_the_window_waits_for_it(
    api: Api, service: Service, client: redis.Redis
) -> None:
    """Also where the window is meant in the recipient's own zone, which stands beside the message."""
    now = service.store.now()
    to = {"uuid": "2", "service": "telegram", "timezone": "UTC"}
    mid = post(api, window=hours_around(now, is_open=True), recipients=[to])["id"]
    shut = {**hours_around(now, is_open=False)}
    more = json.loads(client.hget(f"pr:m:{mid}", "more"))  # type: ignore[arg-type]
    client.hset(f"pr:m:{mid}", "more", json.dumps(more | {"window": shut, "zone": "Asia/Tokyo"}))
    assert client.ttl(f"pr:z:{mid}") == -1
    (claims,) = service.sender.calls(service.sender.claim("w", 10).claims)
    assert claims[0].zone == "UTC"
    with pytest.raises(StopIteration) as stop:
        next(service.sender.attempt(claims))
    service.sender.record("w", stop.value.value)
    found = api.get(f"/api/v1/deliveries/{mid}-0").json()
    assert (found["state"], found["attempts"], found["tries"]) == ("scheduled", 0, [])
    assert datetime.fromisoformat(found["due_at"]) - now > timedelta(hours=1)


@pytest.mark.parametrize(
    ("window", "field"),
    [
        ({"from": "9", "to": "20:00"}, "window.from"),
        ({"from": "09:00"}, "window.to"),
        ({"from": "09:00", "to": "09:00"}, "window"),
        ({"from": "09:00", "to": "20:00", "days": [0]}, "window.days[0]"),
        ({"from": "09:00", "to": "20:00", "timezone": "Mars"}, "window.timezone"),
    ],
)
def test_a_window_that_is_none_is_refused(api: Api, window: dict[str, Any], field: str) -> None:
    reply = api.post(ALL, json=message(window=window))
    assert reply.status_code == 400
    assert reply.json()["errors"][0]["field"] == field


def test_with_repeat_the_answer_is_a_schedule_and_its_next_ten_dates(api: Api) -> None:
    window = {"from": "09:00", "to": "20:00"}
    reply = api.post(
        ALL,
        json=message(
            repeat={"cron": "30 9 * * *"}, timezone="Asia/Tokyo", window=window, reference="r"
        ),
    )
    assert reply.status_code == 201
    schedule = reply.json()
    assert [d["local"][11:16] for d in schedule["dates"]] == ["09:30"] * 10
    assert [d["utc"][11:16] for d in schedule["dates"]] == ["00:30"] * 10
    assert schedule["makes"]["window"] == {**window, "timezone": "Asia/Tokyo"}
    (ready,) = api.get(ALL, params={"reference": "r"}).json()["messages"]
    assert ready["id"] == schedule["message"]
    assert ready["due_at"] == schedule["next"]["utc"].replace("+00:00", "Z")
    for refused in (
        {"send_in_s": 5},
        {"recipients": [{**BEN, "timezone": "Asia/Tokyo"}]},
        {"repeat": {"cron": "* * *"}},
        {"repeat": {"cron": "30 9 * * *", "rrule": "FREQ=DAILY"}},
    ):
        body = message(**{"repeat": {"cron": "30 9 * * *"}, **refused})
        assert api.post(ALL, json=body).status_code == 400
    headers = {"Idempotency-Key": "k"}
    again = api.post(ALL, json=message(repeat={"cron": "30 9 * * *"}), headers=headers)
    assert again.status_code == 400


# -- once


def test_a_repeated_post_answers_as_the_first_and_sends_nothing_twice(
    api: Api, client: redis.Redis
) -> None:
    for path in (ALL, "/send_message"):
        client.flushdb()
        body = json.dumps(message(send_in_s=60) if path == ALL else message())
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        first = api.post(path, data=body, headers=headers)
        again = api.post(path, data=body, headers=headers)
        assert first.status_code in {200, 201}
        assert client.zcard("pr:messages") == 1
        assert again.status_code == first.status_code
        assert again.content == first.content
        assert api.post(path, data=body.replace("Hello", "Bye"), headers=headers).status_code == 409


def test_of_a_hundred_posts_at_once_with_one_key_one_is_accepted(
    api: Api, client: redis.Redis
) -> None:
    body = json.dumps(message(**SOON))
    headers = {"Idempotency-Key": "same", "Content-Type": "application/json"}
    answers: list[tuple[int, bytes]] = []

    def ask() -> None:
        reply = api.post(ALL, data=body, headers=headers)
        answers.append((reply.status_code, reply.content))

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = api.post(ALL, data=body, headers=headers)
    assert client.zcard("pr:messages") == 1
    assert len(answers) == 100
    assert {status for status, _ in answers} <= {201, 409}
    assert {content for status, content in answers if status == 201} == {final.content}


def test_a_key_is_free_again_when_nothing_was_accepted(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    past = message(send_at="2020-01-01 00:00:00")
    assert api.post(ALL, json=past, headers=headers).status_code == 400
    assert api.post(ALL, json=message(), headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(api: Api, key: str) -> None:
    reply = api.post(ALL, json=message(), headers={"Idempotency-Key": key})
    assert reply.status_code == 400


def test_the_same_text_is_refused_to_the_same_recipient(api: Api, client: redis.Redis) -> None:
    post(api, dedupe_within_s=60)
    reply = api.post(
        ALL,
        json=message(recipients=[{"uuid": "3", "service": "telegram"}, BEN], dedupe_within_s=60),
    )
    assert reply.status_code == 400
    assert reply.json()["errors"][0]["field"] == "recipients[1]"
    post(api, body="Another", dedupe_within_s=60)
    post(api, recipients=[{"uuid": "3", "service": "telegram"}], dedupe_within_s=60)
    assert client.zcard("pr:messages") == 3


# -- changed


def test_what_expires_is_neither_moved_behind_that_nor_sent_again(
    api: Api, service: Service
) -> None:
    mid = post(api, send_in_s=0.2, expires_at="2035-01-01T00:00:00Z")["id"]
    refused = api.patch(f"{ALL}/{mid}", json={"send_at": "2035-01-02 00:00:00"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "send_at")
    assert "2035-01-01T00:00:00Z" in refused.text
    assert api.get(f"{ALL}/{mid}").json()["due_at"] < "2035"
    soon = service.store.now() + timedelta(seconds=0.5)
    gone = post(api, send_in_s=0.4, expires_at=soon.isoformat())["id"]
    wait_until(lambda: service.store.now() > soon, 5, "its end")
    service.sweep()
    again = api.post(f"/api/v1/deliveries/{gone}-0/retry", json={})
    assert again.status_code == 409
    assert "has expired; send it as a new one" in again.text


def test_what_was_accepted_up_to_the_end_of_time_is_all(api: Api) -> None:
    post(api)
    far = {"to": "9999-12-31 23:59:59"}
    assert len(api.get(ALL, params=far).json()["messages"]) == 1
    assert len(api.get("/api/v1/deliveries", params=far).json()["deliveries"]) == 2
    assert api.get(ALL, params={"from": far["to"]}).json()["messages"] == []


def test_it_is_moved_paused_resumed_and_rewritten(api: Api, service: Service) -> None:
    mid = post(api, **SOON)["id"]
    url = f"{ALL}/{mid}"
    assert api.patch(url, json={"paused": True}).json() == {"changed": 2, "unchanged": {}}
    assert api.get(url).json()["counts"] == {"paused": 2}
    assert api.patch(url, json={"body": "Newer"}).json() == {"changed": 2, "unchanged": {}}
    assert (
        api.patch(url, json={"paused": False, "send_in_s": 0.05, "body": "New"}).json()["changed"]
        == 2
    )
    shown = api.get(url).json()
    assert shown["body"] == "New"
    assert shown["due_at"] < "2030"
    import time  # noqa: PLC0415

    time.sleep(0.1)
    assert {c.message.body for c in service.sender.claim("w", 10).claims} == {"New"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ({"timezone": "Europe/Berlin"}, None),
        ({"send_at": "2020-01-01 00:00:00"}, None),
        ({"send_at": "2030-03-31 02:30:00", "timezone": "Europe/Berlin"}, "send_at"),
        ({"paused": 1}, "paused"),
        ({"body": " "}, "body"),
        ({"body": "x" * 5000}, "body"),
        ({"state": "sent"}, "state"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    api: Api, body: dict[str, Any], field: str | None
) -> None:
    mid = post(api, **SOON)["id"]
    before = api.get(f"{ALL}/{mid}").json()
    reply = api.patch(f"{ALL}/{mid}", json=body)
    assert reply.status_code == 400
    if field:
        assert reply.json()["errors"][0]["field"] == field
    assert api.get(f"{ALL}/{mid}").json() == before


def test_it_is_stopped_by_message_delivery_reference_and_tag(api: Api) -> None:
    one, two = post(api, **SOON, reference="r"), post(api, **SOON, tags=["t"])
    three, four = post(api, **SOON, reference="r"), post(api, **SOON)
    stopped = api.delete(f"/api/v1/deliveries/{four['id']}-1")
    assert stopped.json()["state"] == "cancelled"
    assert api.delete(f"/api/v1/deliveries/{four['id']}-1").status_code == 409
    assert api.get(f"{ALL}/{four['id']}").json()["counts"] == {"cancelled": 1, "scheduled": 1}
    assert api.delete(f"{ALL}/{four['id']}").json() == {
        "changed": 1,
        "unchanged": {"cancelled": 1},
    }
    assert api.delete(ALL, params={"reference": "r"}).json()["changed"] == 4
    assert api.delete(ALL, params={"tag": "t"}).json()["changed"] == 2
    assert api.delete(ALL, params={"tag": "none"}).json() == {"changed": 0, "unchanged": {}}
    assert api.delete(ALL).status_code == 400
    assert api.delete(ALL, params={"tag": "t", "reference": "r"}).status_code == 400
    states = {m["id"]: m["state"] for m in api.get(ALL).json()["messages"]}
    assert set(states) == {m["id"] for m in (one, two, three, four)}
    assert set(states.values()) == {"cancelled"}


def test_a_delivery_shows_what_its_messenger_said_later(api: Api, service: Service) -> None:
    mid = post(api, recipients=[ANA])["id"]
    end_all(service, Sent("wamid.1"))
    url, at = f"/api/v1/deliveries/{mid}-0", datetime(2031, 1, 1, tzinfo=UTC)
    assert api.get(url).json()["receipts"] == []
    for state, reason in (("delivered", ""), ("failed", "no news"), ("read", "on a phone")):
        said = Receipt("wamid.1", state, at, reason=reason)  # type: ignore[arg-type]
        service.receipts.take("whatsapp", [said], finished_ttl_s=60, failed_ttl_s=60)
    shown = api.get(url).json()
    assert shown["receipts"] == [
        {"at": "2031-01-01T00:00:00Z", "state": "delivered", "reason": ""},
        {"at": "2031-01-01T00:00:00Z", "state": "read", "reason": "on a phone"},
    ]
    assert [a["provider_id"] for a in shown["tries"]] == ["wamid.1"]
    assert (shown["state"], shown["provider_id"]) == ("read", "wamid.1")


def test_what_failed_is_sent_again_when_asked_and_its_tries_stay(
    api: Api, service: Service
) -> None:
    mid = post(api, recipients=[BEN])["id"]
    end_all(service, Rejected("chat not found"))
    url = f"/api/v1/deliveries/{mid}-0"
    failed = api.get(url).json()
    assert (failed["state"], failed["reason"]) == ("failed", "chat not found")
    assert api.get(f"{ALL}/{mid}").json()["state"] == "failed"
    assert api.post(f"{url}/retry").json()["state"] == "queued"
    assert api.post(f"{url}/retry").status_code == 409
    end_all(service, Sent("77"))
    sent = api.get(url).json()
    assert (sent["state"], sent["provider_id"]) == ("sent", "77")
    assert [a["outcome"] for a in sent["tries"]] == ["rejected", "sent"]
    assert api.get(f"{ALL}/{mid}").json()["state"] == "delivered"


# -- found


def test_filters_and_pages(api: Api, service: Service) -> None:
    for n in range(7):
        post(
            api,
            **SOON,
            recipients=[{"uuid": str(n), "service": "telegram"}, ANA],
            reference=f"r{n % 2}",
        )
    found, cursor = [], None
    while True:
        params = {"limit": 3, "service": "telegram", **({"cursor": cursor} if cursor else {})}
        page = api.get("/api/v1/deliveries", params=params).json()
        found += page["deliveries"]
        if (cursor := page["next"]) is None:
            break
    assert sorted(d["uuid"] for d in found) == [str(n) for n in range(7)]
    for params, count in (
        ({"uuid": "1", "service": "whatsapp"}, 7),
        ({"uuid": "1"}, 8),
        ({"reference": "r1"}, 6),
        ({"state": "scheduled"}, 14),
        ({"state": "sent"}, 0),
        ({"to": "2020-01-01 00:00:00"}, 0),
        ({"from": "2020-01-01T00:00:00Z"}, 14),
    ):
        assert len(api.get("/api/v1/deliveries", params=params).json()["deliveries"]) == count
    assert len(api.get(ALL, params={"uuid": "3"}).json()["messages"]) == 1
    assert (
        len(api.get(ALL, params={"state": "scheduled", "reference": "r0"}).json()["messages"]) == 4
    )
    for params in (
        {"limit": 0},
        {"limit": 1001},
        {"cursor": "x"},
        {"account": "shop"},
        {"state": "lost"},
        {"from": "x"},
        {"colour": "red"},
    ):
        assert api.get("/api/v1/deliveries", params=params).status_code == 400


def test_an_export_holds_everything(api: Api) -> None:
    recipients = [{"uuid": f"+{n}", "service": "whatsapp"} for n in range(1, 1501)]
    post(api, **SOON, recipients=recipients, reference="-1+1")
    reply = api.get("/api/v1/deliveries", headers={"Accept": "text/csv"})
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert {row["uuid"] for row in rows} == {f"'+{n}" for n in range(1, 1501)}
    lines = api.get(
        "/api/v1/deliveries", headers={"Accept": "application/x-ndjson"}
    ).text.splitlines()
    assert {json.loads(line)["uuid"] for line in lines} == {f"+{n}" for n in range(1, 1501)}
    (line,) = api.get(ALL, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert json.loads(line)["total"] == 1500


@pytest.mark.parametrize("path", [ALL, "/api/v1/deliveries"])
def test_an_export_of_nothing_has_its_names(api: Api, path: str) -> None:
    post(api, tags=["there"])
    found, none = (
        api.get(path, headers={"Accept": "text/csv"}, params={"tag": tag}).text.splitlines()
        for tag in ("there", "not there")
    )
    assert none == found[:1]
    (shown, *_) = api.get(path).json()[path.rpartition("/")[2]]
    assert none == [",".join(shown)]


def test_what_is_late_is_dropped_when_that_was_asked(
    api: Api, service: Service, client: redis.Redis
) -> None:
    mid = post(api, recipients=[BEN], late_s=0)["id"]
    at = datetime.now(UTC) - timedelta(seconds=10)
    client.hset(f"pr:m:{mid}", "due", f"{at.timestamp():.6f}")
    (claims,) = service.sender.calls(service.sender.claim("w", 10).claims)
    exchange = service.sender.attempt(claims)
    with pytest.raises(StopIteration) as stop:
        next(exchange)
    service.sender.record("w", stop.value.value)
    assert api.get(f"/api/v1/deliveries/{mid}-0").json()["state"] == "expired"


def test_a_call_that_ran_too_long_takes_its_key_from_nobody(service: Service) -> None:
    once, now = Once("k", b"asked"), service.store.now()
    ids = [new_message_id(now) for _ in range(3)]
    for mid in ids[:2]:  # the first has run out of time when the second comes
        assert (
            service.repeats.begin("", once, mid, now, runs_s=0 if mid == ids[0] else 60, kept_s=60)
            is None
        )
    service.repeats.end("", once, ids[0], accepted=False)
    with pytest.raises(IdempotencyConflict) as conflict:
        service.repeats.begin("", once, ids[2], now, runs_s=60, kept_s=60)
    assert conflict.value.runs
    other = Once("k", b"asked otherwise")
    with pytest.raises(IdempotencyConflict) as conflict:
        service.repeats.begin("", other, ids[2], now, runs_s=60, kept_s=60)
    assert not conflict.value.runs
    service.repeats.end("", once, ids[1], accepted=True)
    found = service.repeats.begin("", once, ids[2], now, runs_s=60, kept_s=60)
    assert found
    assert found[0] == ids[1]
