"""Which numbers are on WhatsApp: asked of a linked phone, kept, and never more than the cap allows."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
import redis

from messengers.phones import Checked
from postrider.numbers import (
    HOUR_S,
    NOT_LINKED,
    STOPPED,
    Known,
    Numbers,
    Place,
    digits_of,
    number_of,
)
from postrider.service import Service
from tests.conftest import Api, Postrider
from tests.phones.conftest import OPERATOR, link
from tests.phones.test_sessions_api import Caller, ana, bob, clients  # noqa: F401 - fixtures
from tests.sidecar import Sidecar

MINSK = [f"37544703{n:04}" for n in range(1_000)]


@pytest.mark.parametrize(
    ("given", "digits"),
    [
        ("+375 44 703-48-10", "375447034810"),
        ("375447034810", "375447034810"),
        ("00375447034810", "375447034810"),
        ("+1 (212) 555.0100", "12125550100"),
        ("+52 1 55 1234 5678", "525512345678"),
        ("+55 11 98765-4321", "5511987654321"),
        ("+39 06 1234 5678", "390612345678"),
        ("5491123456789", "5491123456789"),
        ("", ""),
        ("shop", ""),
        ("+0", ""),
        ("123", ""),
        ("+999999999999999", ""),
        ("+375 44 703-48-10 ext. 5", ""),
        ("+٣٧٥٤٤٧٠٣٤٨١٠", ""),
        ("tel:+375447034810", ""),
        ("+37544703481037544703481037", ""),
    ],
)
def test_a_number_is_what_messengers_know_it_as(given: str, digits: str) -> None:
    assert digits_of(given) == digits


@pytest.mark.parametrize(
    ("uuid", "digits"),
    [
        ("+375447034810", "375447034810"),
        ("375447034810@s.whatsapp.net", "375447034810"),
        ("375447034810@c.us", "375447034810"),
        ("123123123@lid", ""),
        ("120363041234567890@g.us", ""),
    ],
)
def test_who_has_no_number_is_not_looked_up(uuid: str, digits: str) -> None:
    assert number_of(uuid) == digits


# -- what is kept


@pytest.fixture
def linked(service: Service, sidecar: Sidecar) -> str:
    return link(service, sidecar, "shop")


def asked_of(sidecar: Sidecar) -> list[str]:
    path = "/api/contacts/check-exists"
    return [r["query"]["phone"] for r in sidecar.requests if r["path"] == path]


def test_a_yes_is_kept_for_30_days_a_no_for_one_and_nothing_else(
    service: Service, client: redis.Redis
) -> None:
    numbers, now = Numbers(client, 0), service.store.now()
    numbers.keep("", "1", Checked("yes", "11"), now)
    numbers.keep("", "2", Checked("no"), now)
    numbers.keep("", "3", Checked("unknown"), now)
    yes, no, unknown = numbers.known("", ["1", "2", "3"])
    assert yes is not None
    assert no is not None
    assert ((yes.found, yes.to), (no.found, no.to), unknown) == (("yes", "11"), ("no", ""), None)
    assert abs((yes.at - now).total_seconds()) < 1e-3
    assert 30 * 86_400 - 5 <= client.ttl("pr:number: 1") <= 30 * 86_400
    assert 86_400 - 5 <= client.ttl("pr:number: 2") <= 86_400
    assert numbers.known("somebody", ["1", "2", "3"]) == [None] * 3


def test_what_is_known_is_not_asked_again(service: Service, sidecar: Sidecar, linked: str) -> None:
    sidecar.absent("375447034811")
    given = ["+375 44 703-48-10", "375447034811", "375447034810", "shop"]
    for known_from in ("asked", "cache"):
        found = service.lookups.look_up(OPERATOR, linked, given)
        assert [(f.given, f.number, f.found) for f in found] == [
            ("+375 44 703-48-10", "375447034810", "yes"),
            ("375447034811", "375447034811", "no"),
            ("375447034810", "375447034810", "yes"),
            ("shop", "", "unknown"),
        ]
        assert [f.known_from for f in found] == [known_from] * 3 + [""]
        assert asked_of(sidecar) == ["375447034810", "375447034811"]


def test_the_address_to_write_to_is_the_messengers_own(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    sidecar.chats({"5511987654321": "551187654321@c.us"})
    for _ in range(2):
        (found,) = service.lookups.look_up(OPERATOR, linked, ["+55 11 98765-4321"])
        assert (found.number, found.to) == ("5511987654321", "551187654321")


# -- the cap


def places(client: redis.Redis, numbers: Numbers, count: int, session: str = "s") -> list[Place]:
    client.hset(f"pr:session:{session}", "state", "linked")
    found = [numbers.ask([("", str(n), session)])[0] for n in range(count)]
    assert all(isinstance(one, Place) for one in found)
    return [one for one in found if isinstance(one, Place)]


def age(client: redis.Redis, session: str, seconds: float) -> None:
    """Has what was asked been asked so much earlier."""
    for member, _ in client.zrange(f"pr:checks:{session}", 0, -1, withscores=True):
        client.zincrby(f"pr:checks:{session}", -seconds, member)


def test_in_any_hour_no_more_are_asked_than_the_cap_allows(client: redis.Redis) -> None:
    numbers = Numbers(client, 5)
    assert [p.may for p in places(client, numbers, 8)] == [True] * 5 + [False] * 3
    age(client, "s", 1_800)
    over = places(client, numbers, 1)[0]
    assert over.wait_s is not None
    assert 1_700 < over.wait_s <= 1_800
    age(client, "s", 1_795)
    assert not places(client, numbers, 1)[0].may
    age(client, "s", 6)
    assert [p.may for p in places(client, numbers, 6)] == [True] * 5 + [False]
    assert client.ttl("pr:checks:s") <= HOUR_S


def test_each_session_has_a_cap_of_its_own_and_0_is_none(client: redis.Redis) -> None:
    numbers = Numbers(client, 2)
    for session in ("a", "b"):
        assert [p.may for p in places(client, numbers, 3, session)] == [True, True, False]
    assert all(p.may for p in places(client, Numbers(client, 0), 100, "c"))


def test_who_comes_back_is_told_a_time_of_its_own(client: redis.Redis) -> None:
    numbers = Numbers(client, 4)
    places(client, numbers, 4)
    told = [numbers.ask([("", f"x{n}", "s")], comes_back=True)[0] for n in range(3)]
    waits = [p.wait_s or 0.0 for p in told if isinstance(p, Place)]
    steps = [late - soon for soon, late in itertools.pairwise(waits)]
    assert all(899 < step < 901 for step in steps), waits
    asks = numbers.ask([("", "y", "s")])[0]
    assert isinstance(asks, Place)
    assert (asks.wait_s or 0) <= waits[0]


def test_a_session_that_is_not_linked_or_is_stopped_is_not_asked(
    service: Service, client: redis.Redis
) -> None:
    numbers = Numbers(client, 5)
    client.hset("pr:session:s", "state", "dropped")
    assert numbers.ask([("", "1", "s")]) == [Place(False, NOT_LINKED)]
    client.hset("pr:session:s", "state", "linked")
    service.changes.stop("account whatsapp-web/s", "tests", service.store.now())
    assert numbers.ask([("", "1", "s")]) == [Place(False, STOPPED)]
    assert not client.exists("pr:checks:s")
    numbers.keep("", "1", Checked("yes"), service.store.now())
    (known,) = numbers.ask([("", "1", "s")])
    assert isinstance(known, Known)


class TestThousand:
    @pytest.fixture
    def env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"WHATSAPP_WEB_CHECK_CAP": "40"}

    def test_a_check_of_a_thousand_never_exceeds_the_cap(
        self, api: Api, service: Service, sidecar: Sidecar, linked: str
    ) -> None:
        def check(part: int) -> dict[str, Any]:
            body = {"numbers": MINSK[part * 250 :] if part else MINSK}
            answer = api.post("/api/v1/numbers/check", json=body)
            assert answer.status_code == 200, answer.text
            told: dict[str, Any] = answer.json()
            return told

        with ThreadPoolExecutor(4) as pool:
            first, *_ = pool.map(check, range(4))
        asked = asked_of(sidecar)
        assert len(asked) == 40
        assert len(set(asked)) >= 10
        assert len(first["numbers"]) == 1_000
        assert first["session"] == "shop"
        late = [n for n in first["numbers"] if n["found"] == "unknown"]
        assert late
        now = service.store.now()
        for one in late:
            again_at = datetime.fromisoformat(one["again_at"])
            assert 3_500 < (again_at - now).total_seconds() <= 3_600
        # What is known costs nothing, and what is not is not asked for.
        again = check(0)["numbers"]
        assert {n["number"][1:] for n in again if n["found"] == "yes"} == set(asked)
        assert len(asked_of(sidecar)) == 40


# -- what goes wrong


def test_an_unlinked_phone_is_asked_nothing(service: Service, sidecar: Sidecar) -> None:
    service.phones.add(OPERATOR, "shop")
    service.phones.sync()
    found = service.lookups.look_up(OPERATOR, "shop", MINSK[:3])
    assert {(f.found, f.reason, f.again_at) for f in found} == {("unknown", NOT_LINKED, None)}
    assert asked_of(sidecar) == []


def test_a_restricted_phone_is_stopped_and_asked_no_more(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    sidecar.spoil("429", "check-exists")
    found = service.lookups.look_up(OPERATOR, linked, MINSK[:3])
    assert {f.found for f in found} == {"unknown"}
    assert "rate-overlimit" in found[0].reason
    assert len(asked_of(sidecar)) == 1
    sidecar.heal()
    (again,) = service.lookups.look_up(OPERATOR, linked, MINSK[:1])
    assert (again.found, again.reason) == ("unknown", STOPPED)
    assert len(asked_of(sidecar)) == 1


def test_what_is_not_answered_in_time_is_unknown_and_kept_once_it_is(
    service: Service, sidecar: Sidecar, linked: str
) -> None:
    sidecar.spoil("slow", "check-exists", value=1.0, times=1)
    began = time.monotonic()
    found = service.lookups.look_up(OPERATOR, linked, MINSK[:3], within_s=0.3)
    assert time.monotonic() - began < 20
    assert [(f.found, bool(f.again_at)) for f in found] == [("unknown", True)] * 3
    assert len(asked_of(sidecar)) == 1
    deadline = time.monotonic() + 30
    while service.lookups.numbers.known("", MINSK[:1]) == [None]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["garbage", "cut"])
def test_a_sidecar_that_is_away_is_asked_once(
    service: Service, sidecar: Sidecar, linked: str, how: str
) -> None:
    sidecar.spoil(how, "check-exists")
    found = service.lookups.look_up(OPERATOR, linked, MINSK[:3])
    assert {f.found for f in found} == {"unknown"}
    assert len(asked_of(sidecar)) == 1


# -- over HTTP


def test_each_client_has_its_own_sessions_asked(
    api: Api,
    service: Service,
    sidecar: Sidecar,
    ana: Caller,  # noqa: F811
    bob: Caller,  # noqa: F811
) -> None:
    link(service, sidecar, "hers", ana.client)
    one = {"number": MINSK[0]}
    told = ana("POST", "/numbers/check", json=one).json()
    assert (told["session"], told["numbers"][0]["known_from"]) == ("hers", "asked")
    named = ana("POST", "/numbers/check", json=one | {"session": "hers"}).json()
    assert named["numbers"][0]["known_from"] == "cache"
    answers = [
        bob("POST", "/numbers/check", json=one | more)
        for more in (
            {},
            {"session": "hers"},
            {"session": f"hers_{ana.client.id}"},
            {"session": "x"},
        )
    ]
    assert {a.status_code for a in answers} == {404}
    assert len({a.text for a in answers}) == 1
    link(service, sidecar, "his", bob.client)
    assert bob("POST", "/numbers/check", json=one).json()["numbers"][0]["known_from"] == "asked"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"numbers": []},
        {"numbers": ["1"] * 1_001},
        {"number": "1", "numbers": ["1"]},
        {"number": 375447034810},
        {"number": "1", "more": 1},
        {"number": "1", "service": "telegram"},
        [],
    ],
)
def test_what_asks_for_nothing_is_refused(api: Api, body: object) -> None:
    assert api.post("/api/v1/numbers/check", json=body).status_code == 400


class TestCloud:
    @pytest.fixture
    def env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"WHATSAPP_ACCESS_TOKEN": "planted", "WHATSAPP_PHONE_NUMBER_ID": "1"}

    def test_the_cloud_api_knows_of_nobody(self, api: Api) -> None:
        body = {"numbers": MINSK[:2], "service": "whatsapp"}
        told = api.post("/api/v1/numbers/check", json=body).json()
        assert told["session"] is None
        assert {n["found"] for n in told["numbers"]} == {"unknown"}
        assert all("Cloud API" in n["reason"] for n in told["numbers"])


def test_numbers_are_checked_at_the_shell(
    postrider: Postrider, sidecar: Sidecar, linked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecar.absent("375447034811")
    assert postrider("numbers", "check", "+375447034810", "375447034811") == 0
    assert capsys.readouterr().out == (
        "+375447034810\tyes\t375447034810\tasked\t\n+375447034811\tno\t\tasked\t\n"
    )
    assert postrider("numbers", "check", "--json", "shop", "--session", "shop") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["session"], told["numbers"][0]["number"]) == ("shop", None)
    assert postrider("numbers", "check", "1", "--session", "nobodys") == 1
