"""`check_first`: nothing is written to a number that is not on WhatsApp, and looking that up keeps to the cap."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import redis

from messengers.phones import Checked
from postrider.model import Attempt, NewMessage, Recipient, State, Terms
from postrider.service import Service
from postrider.transport import Blocking
from tests.conftest import Api, Start, wait_until
from tests.phones.conftest import link
from tests.phones.test_numbers import asked_of
from tests.sidecar import Sidecar

THERE, NOT_THERE = "375447034810", "375447034811"


@pytest.fixture
def linked(service: Service, sidecar: Sidecar) -> str:
    sidecar.absent(NOT_THERE)
    return link(service, sidecar, "shop")


def accept(service: Service, *numbers: str, check_first: bool = True) -> str:
    to = tuple(Recipient(number, "whatsapp-web", "shop") for number in numbers)
    new = NewMessage("x", to, terms=Terms(check_first=check_first))
    return service.accept(new)[0].id


def work(service: Service) -> int:
    """Sends what may go now, as a worker does; how many claims there were."""
    service.phones.sync()
    claims = service.sender.claim("w", 5).claims
    transport = Blocking(service.keep_note)
    for claim in claims:
        exchange = service.sender.attempt([claim])
        try:
            request = next(exchange)
            while True:
                request = exchange.send(transport.send(request))
        except StopIteration as stop:
            service.sender.record("w", stop.value)
    return len(claims)


def work_off(service: Service) -> None:
    while work(service):
        pass


def states(service: Service, mid: str, count: int) -> list[State]:
    return [service.delivery(f"{mid}-{n}", None).delivery.state for n in range(count)]


def tries(service: Service, mid: str, n: int = 0) -> Sequence[Attempt]:
    found: Sequence[Attempt] = service.store.attempts([f"{mid}-{n}"])[f"{mid}-{n}"]
    return found


def sent_to(sidecar: Sidecar) -> list[str]:
    return [message["to"] for message in sidecar.messages]


def test_a_number_that_is_not_there_fails_at_once_and_nothing_is_sent(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    mid = accept(service, THERE, NOT_THERE)
    work_off(service)
    assert states(service, mid, 2) == [State.SENT, State.FAILED]
    assert sent_to(sidecar) == [f"{THERE}@c.us"]
    (only,) = tries(service, mid, 1)
    assert (only.outcome, only.reason) == ("rejected", f"+{NOT_THERE} is not on WhatsApp")
    assert sorted(asked_of(sidecar)) == [THERE, NOT_THERE]


def test_what_is_known_is_not_asked_again(service: Service, sidecar: Sidecar, linked: str) -> None:
    for _ in range(3):
        mid = accept(service, THERE, NOT_THERE)
        work_off(service)
        assert states(service, mid, 2) == [State.SENT, State.FAILED]
    assert len(asked_of(sidecar)) == 2


def test_it_is_written_to_the_address_that_the_messenger_has_for_it(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    sidecar.chats({"5511987654321": "551187654321@c.us", "525512345678": "5215512345678@c.us"})
    for _ in range(2):  # asked, then known
        accept(service, "+5511987654321", "525512345678")
        work_off(service)
        assert sorted(sent_to(sidecar)[-2:]) == ["5215512345678@c.us", "551187654321@c.us"]
    assert len(asked_of(sidecar)) == 2


def test_nobody_else_is_looked_up(service: Service, sidecar: Sidecar, linked: str) -> None:
    accept(service, NOT_THERE, check_first=False)
    accept(service, "120363041234567890@g.us")
    work_off(service)
    assert len(sidecar.messages) == 2
    assert asked_of(sidecar) == []


@pytest.mark.parametrize("how", ["garbage", "cut"])
def test_a_lookup_that_gets_no_answer_is_tried_again_and_nothing_was_sent(
    service: Service, sidecar: Sidecar, linked: str, how: str
) -> None:
    sidecar.spoil(how, "check-exists", times=1)
    mid = accept(service, THERE)
    work(service)
    assert states(service, mid, 1) == [State.RETRYING]
    assert sidecar.messages == []
    wait_until(lambda: work(service) and states(service, mid, 1) == [State.SENT])
    assert [a.outcome for a in tries(service, mid)] == ["retry", "sent"]


def test_a_restricted_phone_is_stopped_by_its_lookup(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    sidecar.spoil("463", "check-exists")
    mid = accept(service, THERE)
    work_off(service)
    assert states(service, mid, 1) == [State.RETRYING]
    assert sidecar.messages == []
    assert any("whatsapp-web/shop" in name for name in _stops(service))


def _stops(service: Service) -> list[str]:
    return [key.decode() for key in service.store.redis.hkeys("pr:stops")]


class TestCapped:
    @pytest.fixture
    def env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"WHATSAPP_WEB_CHECK_CAP": "2", "WHATSAPP_WEB_DAILY_CAP": "4"}

    def test_over_the_cap_it_waits_and_uses_up_no_try_and_nothing_of_the_day(
        self, service: Service, client: redis.Redis, sidecar: Sidecar, linked: str
    ) -> None:
        mid = accept(service, *(f"37529123456{n}" for n in range(5)))
        work_off(service)
        assert sorted(states(service, mid, 5)) == sorted([State.SENT] * 2 + [State.SCHEDULED] * 3)
        assert len(asked_of(sidecar)) == 2
        assert client.hget("pr:account:whatsapp-web/shop", "sent") == b"2"
        now = service.store.now()
        waits = []
        for n in range(5):
            found = service.delivery(f"{mid}-{n}", None)
            if found.delivery.state is State.SCHEDULED:
                assert (found.delivery.attempts, tries(service, mid, n)) == (0, [])
                waits.append((found.at - now) / timedelta(hours=1))
        waits.sort()
        assert all(0.9 < wait - n * 0.5 <= 1.01 for n, wait in enumerate(waits)), waits

    def test_what_is_known_goes_past_those_that_wait(
        self, service: Service, sidecar: Sidecar, linked: str
    ) -> None:
        now = service.store.now()
        service.lookups.numbers.keep("", "375291234567", Checked("yes"), now)
        accept(service, *(f"37529123450{n}" for n in range(3)))
        work_off(service)
        mid = accept(service, "375291234567")
        work_off(service)
        assert states(service, mid, 1) == [State.SENT]


def test_a_worker_looks_up_and_sends(
    service: Service, sidecar: Sidecar, linked: str, start: Start, client: redis.Redis
) -> None:
    start("postrider", "worker")
    mid = accept(service, THERE, NOT_THERE)
    wait_until(lambda: states(service, mid, 2) == [State.SENT, State.FAILED], 20)
    assert sent_to(sidecar) == [f"{THERE}@c.us"]
    wait_until(lambda: client.exists(f"pr:number: {THERE}", f"pr:number: {NOT_THERE}") == 2)


# -- over HTTP


def body(**more: Any) -> dict[str, Any]:
    to = [{"uuid": THERE, "service": "whatsapp-web"}]
    return {"body": "x", "recipients": to, "check_first": True} | more


def test_both_ways_to_send_take_it_and_show_it(api: Api, service: Service, linked: str) -> None:
    sent = api.post("/api/v1/messages", json=body(account="shop"))
    assert sent.json()["check_first"] is True
    mid = sent.json()["id"]
    assert api.get(f"/api/v1/messages/{mid}").json()["check_first"] is True
    simple = api.post("/send_message", json=body())
    assert simple.status_code == 200, simple.text
    assert service.message(simple.json()["message"]["id"], None).message.terms.check_first
    plain = api.post("/send_message", json=body(check_first=False)).json()["message"]["id"]
    assert api.get(f"/api/v1/messages/{plain}").json()["check_first"] is False


def test_a_schedule_keeps_it(api: Api, service: Service, linked: str) -> None:
    made = api.post("/api/v1/schedules", json=body(account="shop", repeat={"cron": "0 9 * * *"}))
    assert made.status_code == 201, made.text
    service.schedules.sweep()
    shown = api.get(f"/api/v1/schedules/{made.json()['id']}").json()
    assert api.get(f"/api/v1/messages/{shown['message']}").json()["check_first"] is True


@pytest.mark.parametrize("path", ["/api/v1/messages", "/send_message"])
def test_it_is_for_linked_phones_alone(api: Api, linked: str, path: str) -> None:
    to = [{"uuid": THERE, "service": "whatsapp-web"}, {"uuid": "ana", "service": "sandbox"}]
    mixed = api.post(path, json=body(recipients=to))
    assert mixed.status_code == 400
    assert "check_first" in mixed.json()["error"]
    wrong = api.post(path, json=body(check_first="yes"))
    assert wrong.status_code == 400
