"""The kill switch and the balance, over real HTTP and with a real worker."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from messengers.base import Rejected, Sent
from postrider.changes import Changes
from postrider.ledger import Ledger
from postrider.model import NewMessage, Recipient, State, new_message_id
from postrider.service import Service
from postrider.store import Store
from tests.conftest import Api, wait_until
from tests.test_changes import claim, end, post

STOPS = "/api/v1/stops"
TO_SANDBOX = {"body": "Hi", "recipients": [{"uuid": "1", "service": "sandbox"}]}


@pytest.mark.parametrize(
    "scope", [{}, {"service": "sandbox"}, {"service": "sandbox", "account": "default"}]
)
def test_nothing_leaves_once_it_is_stopped_and_all_leaves_when_it_goes_on(
    api: Api, worker: object, service: Service, scope: dict[str, str]
) -> None:
    assert api.post(STOPS, json=scope).status_code == 200
    (stop,) = api.get(STOPS).json()["stops"]
    assert {k: v for k, v in stop.items() if v and k in {"service", "account"}} == scope
    for _ in range(5):
        assert api.post("/api/v1/messages", json=TO_SANDBOX).status_code == 201
    time.sleep(1)
    assert service.notes(10) == []
    assert api.delete(STOPS, params=scope).json() == {"stops": []}
    wait_until(lambda: len(service.notes(10)) == 5, 2)
    assert api.delete(STOPS, params=scope).status_code == 404


@pytest.mark.parametrize(
    "scope",
    [
        {"service": "fax"},
        {"account": "default"},
        {"service": "telegram", "account": "shop"},
        {"client": "k", "service": "telegram"},
        {"all": True},
    ],
)
def test_a_stop_names_what_there_is(api: Api, scope: dict[str, Any]) -> None:
    assert api.post(STOPS, json=scope).status_code == 400
    assert api.get(STOPS).json() == {"stops": []}


def test_the_balance_adds_up_and_stays_so_after_a_purge(api: Api, service: Service) -> None:
    for _ in range(4):
        api.post(
            "/send_message",
            json={
                "body": "x",
                "recipients": [{"uuid": str(n), "service": "telegram"} for n in range(60)],
            },
        )
    claims = service.sender.claim("w", 1000).claims
    outcomes = [Sent("1")] * 100 + [Rejected("no")] * 20
    service.sender.record(
        "w", [service.sender.verdict(c, o) for c, o in zip(claims, outcomes, strict=False)]
    )
    expected = {"accepted": 240, "sent": 100, "failed": 20, "waiting": 120, "difference": 0}
    assert expected.items() <= api.get("/api/v1/ledger").json().items()
    api.delete("/delete_all")
    assert expected.items() <= api.get("/api/v1/ledger").json().items()
    assert api.get("/api/v1/ledger", params={"from": "x"}).status_code == 400


def test_a_span_counts_what_was_accepted_in_it(client: redis.Redis) -> None:
    store, changes, ledger = Store(client), Changes(client), Ledger(client)
    now = store.now()
    old = now - timedelta(hours=3)
    # as if accepted three hours ago
    new = NewMessage(
        "x", tuple(Recipient(str(n), "sandbox") for n in range(150)), now + timedelta(hours=1)
    )
    mid = new_message_id(old)
    store.accept(mid, new, now)
    post(store, 10)
    end(store, claim(store)[:4], State.SENT)
    changes.message("cancel", mid)
    before = ledger.balance(None, now)
    after = ledger.balance(now, None)
    assert (before.accepted, before.cancelled, before.waiting) == (150, 150, 0)
    assert (after.accepted, after.sent, after.waiting) == (10, 4, 6)
    assert before.difference == after.difference == ledger.balance().difference == 0
    assert ledger.balance(now + timedelta(hours=1)).accepted == 0
    assert before.end == datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def test_a_lost_delivery_shows_in_the_balance(client: redis.Redis) -> None:
    """Else the test above would pass whatever we count."""
    store = Store(client)
    message = post(store, 3, in_s=60)
    client.zrem("pr:in:scheduled", f"{message.id}-1")
    assert Ledger(client).balance().difference == 1
