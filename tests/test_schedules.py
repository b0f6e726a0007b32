"""Schedules: one message for each occurrence, at the right local hour, whoever sweeps and wherever it is killed."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from postrider.errors import IllegalTransition, InvalidRequest, NotFound, Unavailable
from postrider.link import connect
from postrider.model import Attempt, Client, NewMessage, Recipient, State, Verdict, new_message_id
from postrider.planning import Planner
from postrider.recurrence import Occurrence
from postrider.schedules import Missed, Schedule, Schedules
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import CHUNK, Store
from tests.conftest import Api, Start, wait_until

ADMIN = Client("", "postrider", "admin")
BERLIN = ZoneInfo("Europe/Berlin")
BODY = {"body": "Hello", "recipients": [{"uuid": "ana", "service": "sandbox"}]}
MINUTELY = {"cron": "* * * * *"}
DAILY = {"cron": "0 9 * * *"}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def planner(service: Service, clock: Callable[[], datetime] | None = None, **more: Any) -> Planner:
    """What another process has: nothing of its own but the Redis."""
    schedules = Schedules(service.store.redis, service.store.room)
    return Planner(schedules, service, clock or service.store.now, 600, **more)


@pytest.fixture
def clock(service: Service) -> Clock:
    """Three days ago: what is made is due, and the engine's own clock does not wait."""
    return Clock(service.store.now().replace(second=0, microsecond=0) - timedelta(days=3))


@pytest.fixture
def plan(service: Service, clock: Clock) -> Planner:
    return planner(service, clock)


def create(plan: Planner, repeat: dict[str, Any] = MINUTELY, **more: Any) -> Schedule:
    body = more.pop("body", BODY)
    return plan.create("", body, repeat, more.pop("zone", BERLIN), **more)


def again(plan: Planner, schedule: Schedule) -> Schedule:
    return plan.get(ADMIN, schedule.id)


def made(service: Service) -> list[datetime]:
    """When the messages are due that are there, whatever became of them."""
    rows = [*service.scheduled(10_000, None).rows, *service.finished(10_000, None).rows]
    return sorted(m.due_at for d, m in rows if d.state is not State.CANCELLED)


# -- one ahead, then the next


def test_the_first_message_stands_ready_with_the_occurrence_as_its_time(
    plan: Planner, service: Service
) -> None:
    schedule = create(plan)
    assert schedule.ready
    assert schedule.next
    assert made(service) == [schedule.next.at]
    assert schedule.message in {m.id for _, m in service.scheduled(10, None).rows}


def test_nothing_happens_before_its_moment_and_the_next_is_made_after_it(
    plan: Planner, service: Service, clock: Clock
) -> None:
    schedule = create(plan)
    for _ in range(3):
        plan.sweep()
    assert len(made(service)) == 1
    assert schedule.next
    clock.at = schedule.next.at + timedelta(seconds=2)
    plan.sweep()
    plan.sweep()
    assert made(service) == [schedule.next.at, schedule.next.at + timedelta(minutes=1)]
    assert again(plan, schedule).made == 2


def test_a_schedule_is_not_looked_at_before_its_moment(
    plan: Planner, clock: Clock, client: redis.Redis
) -> None:
    schedule = create(plan)
    assert schedule.next
    assert plan.schedules.due(clock.at, 10, 15) == []
    client.zadd("pr:schedules:due", {schedule.id: clock.at.timestamp()})
    plan.sweep()
    assert client.zscore("pr:schedules:due", schedule.id) == schedule.next.at.timestamp()


def test_count_and_until_end_it(plan: Planner, service: Service, clock: Clock) -> None:
    until = (clock.at + timedelta(minutes=4)).isoformat()
    three, four = create(plan, {**MINUTELY, "count": 3}), create(plan, {**MINUTELY, "until": until})
    assert len(plan.dates(three)) == 3
    for _ in range(8):
        clock.at += timedelta(minutes=1)
        plan.sweep()
    assert len(made(service)) == 3 + 4
    assert {again(plan, s).state for s in (three, four)} == {"ended"}
    assert plan.dates(again(plan, three)) == []
    clock.at += timedelta(seconds=700)
    plan.sweep()
    with pytest.raises(NotFound):
        again(plan, three)


def test_what_cannot_be_accepted_makes_no_schedule(plan: Planner) -> None:
    with pytest.raises(InvalidRequest, match="unknown messenger"):
        create(plan, body={**BODY, "recipients": [{"uuid": "1", "service": "pigeon"}]})
    with pytest.raises(InvalidRequest, match="MAX_AHEAD_DAYS"):
        create(plan, start=plan.clock() + timedelta(days=4000))
    assert plan.page(ADMIN, 10, None) == []


def test_a_message_that_is_refused_later_is_tried_until_it_is_taken(
    plan: Planner, service: Service, clock: Clock, settings: Settings
) -> None:
    schedule = create(plan, body={**BODY, "recipients": [{"uuid": "42", "service": "telegram"}]})
    without = Service(
        service.store, settings, {("sandbox", "default"): service.accounts["sandbox", "default"]}
    )
    clock.at += timedelta(seconds=70)
    planner(without, clock).sweep()
    assert "not set up here" in again(plan, schedule).trouble
    assert len(made(service)) == 1
    clock.at += timedelta(seconds=61)
    plan.sweep()
    assert again(plan, schedule).trouble == ""
    assert len(made(service)) == 2 + 1  # the one in trouble, a little late, and the next


# -- exactly one, whoever sweeps


def test_two_that_sweep_at_once_make_one_of_each(
    service: Service, clock: Clock, settings: Settings, redis_url: str
) -> None:
    schedules = [
        create(planner(service, clock), {**MINUTELY, "missed": "all"}, missed="all")
        for _ in range(5)
    ]
    clock.at += timedelta(minutes=30)
    others = [
        Service(Store(connect(redis_url)), settings, open_accounts(settings)) for _ in range(4)
    ]
    plans = [planner(other, clock) for other in others]
    start = threading.Barrier(len(plans))

    def race(mine: Planner) -> None:
        start.wait()
        for schedule in schedules * 2:
            mine.look(schedule.id)
            mine.sweep()

    threads = [threading.Thread(target=race, args=(p,)) for p in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for other in others:
        other.store.redis.close()
    counted = Counter(made(service))
    assert set(counted.values()) == {len(schedules)}
    assert len(counted) == 31
    moments = sorted(counted)
    assert all(b - a == timedelta(minutes=1) for a, b in itertools.pairwise(moments))
    assert {again(plans[0], s).made for s in schedules} == {31}


def test_who_read_it_before_somebody_changed_it_changes_nothing(plan: Planner) -> None:
    read = create(plan)
    plan.change(ADMIN, read.id, pause=True)
    assert not plan.schedules.put(replace(read, made=7), plan.clock())
    assert again(plan, read).state == "paused"


def test_who_read_it_before_its_message_was_accepted_changes_nothing(
    plan: Planner, service: Service
) -> None:
    accepted = create(plan)
    planned = replace(accepted, ready=False, made=0, message=new_message_id(plan.clock()))
    assert plan.schedules.put(planned, None)
    read = again(plan, accepted)
    plan.look(read.id)
    assert not plan.schedules.put(replace(read, state="paused"), None)
    assert again(plan, accepted).ready


class Killed(BaseException):
    """Where a process dies: nothing of ours catches it."""


class KilledAt:
    """A Redis client that dies before or after its n-th script."""

    def __init__(self, client: redis.Redis, n: int, *, after: bool) -> None:
        self.client, self.n, self.after = client, n, after

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        if args[0] not in {"EVALSHA", "EVAL"}:
            return self.client.execute_command(*args, **kwargs)
        self.n -= 1
        if self.n == 0 and not self.after:
            raise Killed
        answer = self.client.execute_command(*args, **kwargs)
        if self.n == 0:
            raise Killed
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", [1, 2 * CHUNK + 1])
def test_wherever_one_is_killed_each_occurrence_is_made_once(
    service: Service, clock: Clock, settings: Settings, count: int, *, after: bool
) -> None:
    recipients = [{"uuid": f"u{n}", "service": "sandbox"} for n in range(count)]
    plan = planner(service, clock)
    schedule = create(plan, missed="all", body={**BODY, "recipients": recipients})
    for kill_at in range(1, 12):
        clock.at += timedelta(minutes=1)
        client: Any = KilledAt(service.store.redis, kill_at, after=after)
        victim = Service(Store(client), settings, service.accounts)
        try:
            planner(victim, clock).look(schedule.id)
            killed = False
        except Killed:
            killed = True
        plan.look(schedule.id)
        service.store.finish_accepting()
        assert killed or kill_at > 2
    _finish_accepting(service)
    assert again(plan, schedule).made == 12
    ids = service.store.redis.zrange("pr:in:scheduled", 0, -1)
    per_message = Counter(id_.partition(b"-")[0] for id_ in ids)
    assert list(per_message.values()) == [count] * 12
    assert len(set(made_at(service))) == 12


def _finish_accepting(service: Service) -> None:
    """What a dead process committed is armed once its deadline is over; that is ten seconds, which nobody waits for here."""
    client: Any = service.store.redis
    for mid in client.zrange("pr:accepting", 0, -1):
        client.zadd("pr:accepting", {mid: 0})
    service.store.finish_accepting()


def made_at(service: Service) -> list[bytes]:
    client: Any = service.store.redis
    mids = {id_.partition(b"-")[0] for id_ in client.zrange("pr:in:scheduled", 0, -1)}
    return [client.hget(b"pr:m:" + mid, "due") for mid in mids]


def test_an_occurrence_that_was_accepted_is_not_accepted_again(
    plan: Planner, service: Service
) -> None:
    schedule = create(plan)
    before = service.store.redis.hgetall(f"pr:m:{schedule.message}")
    new = NewMessage("Other", (Recipient("ben", "sandbox"),))
    with pytest.raises(IllegalTransition):
        service.accept_occurrence(new, schedule.message, schedule.id)
    with pytest.raises(IllegalTransition):
        service.accept_occurrence(new, new_message_id(service.store.now()), schedule.id)
    assert service.store.redis.hgetall(f"pr:m:{schedule.message}") == before
    assert service.scheduled(10, None).total == 1


# -- changes of clocks


@pytest.mark.parametrize(
    "repeat", [{"cron": "30 2 * * *"}, {"rrule": "FREQ=DAILY;BYHOUR=2;BYMINUTE=30"}]
)
@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        ("Europe/Berlin", "2027-03-26", ["01:30", "01:30", "01:00", "00:30", "00:30"]),
        ("Europe/Berlin", "2027-10-29", ["00:30", "00:30", "00:30", "01:30", "01:30"]),
        ("America/New_York", "2027-03-12", ["07:30", "07:30", "07:00", "06:30", "06:30"]),
        ("Australia/Lord_Howe", "2027-10-01", ["16:00", "16:00", "15:30", "15:30", "15:30"]),
        ("Pacific/Auckland", "2027-04-02", ["13:30", "13:30", "13:30", "14:30", "14:30"]),
    ],
)
def test_over_a_change_of_clocks_with_two_processes_and_a_restart_between(
    service: Service, zone: str, first: str, hours: list[str], repeat: dict[str, Any]
) -> None:
    day = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone), hour=1)
    clock = Clock(day.astimezone(UTC))
    two = [planner(service, clock), planner(service, clock)]
    create(two[0], repeat, zone=ZoneInfo(zone), missed="all")
    for step in range(5 * 24 * 2 - 8):
        clock.at += timedelta(minutes=30)
        for each in two:
            each.sweep()
        if step % 40 == 20:
            two = [planner(service, clock), planner(service, clock)]
    found = made(service)
    assert [f"{at:%H:%M}" for at in found[:5]] == hours
    days = [(at.astimezone(ZoneInfo(zone)) + timedelta(minutes=30)).date() for at in found[:5]]
    assert days == [day.date() + timedelta(days=n) for n in range(5)]


def test_a_local_time_that_newer_time_zones_put_elsewhere_is_moved(
    service: Service, clock: Clock
) -> None:
    """The record of a process whose zones said an hour later; one that starts with ours finds it."""
    plan = planner(service, clock)
    schedule = create(plan, DAILY)
    assert schedule.next
    wrong = Occurrence(schedule.next.at + timedelta(hours=1), schedule.next.local)
    assert plan.schedules.put(
        replace(schedule, next=wrong, ready=False, message=new_message_id(clock.at), made=0),
        clock.at,
    )
    plan.stop(schedule.message)
    plan.look(schedule.id)
    assert made(service) == [wrong.at]
    planner(service, clock).sweep()
    assert made(service) == [schedule.next.at]
    assert again(plan, schedule).made == 1


# -- outages

DAYS = 3


@pytest.mark.parametrize(
    ("missed", "went", "makes"),
    [
        ("skip", "in time", 0),
        ("once", "in time", 1),
        ("all", "in time", DAYS),
        ("skip", "late", 0),
        ("once", "late", 0),
        ("all", "late", DAYS),
        ("once", "not yet", 0),
    ],
)
def test_what_was_missed_during_an_outage(
    service: Service, missed: Missed, went: str, makes: int
) -> None:
    """The one that stood ready went before the outage, or only after it; then it stands for all (`once`)."""
    real = service.store.now()
    clock = Clock(real - timedelta(days=DAYS, hours=2))
    plan = planner(service, clock)
    at = (clock.at + timedelta(hours=1)).astimezone(BERLIN)
    schedule = create(plan, {"cron": f"{at.minute} {at.hour} * * *"}, missed=missed)
    assert schedule.next
    if went != "not yet":
        _sent_at(service, schedule, schedule.next.at if went == "in time" else real)
    clock.at = real
    planner(service, clock).sweep()
    planner(service, clock).sweep()
    late = [t for t in made(service) if schedule.next.at < t <= real]
    ahead = [t for t in made(service) if t > real]
    assert len(late) == makes
    assert len(ahead) == 1
    assert ahead[0].astimezone(BERLIN).hour == at.hour


def _sent_at(service: Service, schedule: Schedule, at: datetime) -> None:
    """Sends it, and writes down that it was then."""
    (claim,) = service.sender.claim("w", 1).claims
    assert claim.message.id == schedule.message
    verdict = Verdict(claim, State.SENT, Attempt(at, at, "sent"))
    assert service.sender.record("w", [verdict]) == [True]


def test_a_sweep_that_is_a_little_behind_has_missed_nothing(
    plan: Planner, service: Service, clock: Clock
) -> None:
    create(plan)
    clock.at += timedelta(seconds=125)
    plan.sweep()
    assert len(made(service)) == 3


def test_all_after_a_long_outage_goes_on_with_the_next_sweep(
    plan: Planner, service: Service, clock: Clock
) -> None:
    schedule = create(plan, missed="all")
    clock.at += timedelta(minutes=200)
    before = len(made(service))
    plan.look(schedule.id)
    assert before < len(made(service)) < 200
    wait_until(lambda: plan.sweep() or len(made(service)) == 201, 20)


# -- paused, changed, removed


def test_a_paused_schedule_makes_nothing_and_its_next_message_is_stopped(
    plan: Planner, service: Service, clock: Clock
) -> None:
    schedule = create(plan)
    paused = plan.change(ADMIN, schedule.id, pause=True)
    assert (paused.state, paused.made, paused.next) == ("paused", 0, None)
    clock.at += timedelta(minutes=5)
    plan.sweep()
    assert made(service) == []
    active = plan.change(ADMIN, schedule.id, pause=False)
    assert active.next
    assert made(service) == [active.next.at]
    assert active.next.at > clock.at


def test_a_changed_text_is_what_goes_and_goes_once(plan: Planner, service: Service) -> None:
    schedule = create(plan)
    changed = plan.change(ADMIN, schedule.id, body={"body": "Other"})
    assert changed.next == schedule.next
    assert changed.made == 1
    waiting = service.scheduled(10, None).rows
    assert [m.body for _, m in waiting] == ["Other"]
    assert plan.body(changed)["recipients"] == BODY["recipients"]


def test_a_change_that_comes_when_the_message_has_gone_does_not_make_it_again(
    plan: Planner, service: Service, clock: Clock
) -> None:
    schedule = create(plan, {**MINUTELY, "count": 2})
    assert service.sender.claim("w", 1).claims  # due by the engine's clock, so it is on its way
    changed = plan.change(ADMIN, schedule.id, body={"body": "Other"})
    assert changed.next
    assert schedule.next
    assert changed.next.at == schedule.next.at + timedelta(minutes=1)
    assert changed.made == 2
    clock.at += timedelta(minutes=9)
    plan.sweep()
    assert again(plan, schedule).state == "ended"
    assert len(service.store.redis.keys("pr:m:*")) == 2


def test_a_deleted_schedule_is_gone_and_its_message_stopped(
    plan: Planner, service: Service
) -> None:
    schedule, other = create(plan), create(plan)
    plan.delete(ADMIN, schedule.id)
    with pytest.raises(NotFound):
        again(plan, schedule)
    assert plan.page(ADMIN, 10, None) == [other]
    assert {m.id for d, m in service.scheduled(10, None).rows} == {other.message}
    assert not service.store.redis.exists(f"pr:s:{schedule.id}")


def test_one_that_dies_while_it_pauses_leaves_it_to_the_sweep(
    service: Service, clock: Clock
) -> None:
    def dies(_: str) -> int:
        raise Killed

    schedule = create(planner(service, clock))
    with pytest.raises(Killed):
        planner(service, clock, stop=dies).change(ADMIN, schedule.id, pause=True)
    assert len(made(service)) == 1
    planner(service, clock).sweep()
    assert made(service) == []
    assert again(planner(service, clock), schedule).made == 0


def test_redis_away_while_it_pauses_leaves_it_to_the_sweep(service: Service, clock: Clock) -> None:
    def away(_: str) -> int:
        raise Unavailable("away")

    schedule = create(planner(service, clock))
    planner(service, clock, stop=away).change(ADMIN, schedule.id, pause=True)
    planner(service, clock).sweep()
    assert made(service) == []


def test_a_late_accept_of_what_is_no_longer_planned_changes_nothing(
    plan: Planner, service: Service, clock: Clock
) -> None:
    """One process reads the plan and stalls; another pauses; then the first goes on."""
    schedule = create(plan)
    planned = replace(schedule, ready=False, made=0, message=new_message_id(clock.at))
    assert plan.schedules.put(planned, clock.at)
    plan.stop(schedule.message)
    plan.change(ADMIN, schedule.id, pause=True)
    new = NewMessage("Hello", (Recipient("ana", "sandbox"),), clock.at)
    with pytest.raises(IllegalTransition):
        service.accept_occurrence(new, planned.message, schedule.id)
    assert made(service) == []


def test_another_s_schedule_is_as_unknown_as_none(plan: Planner, clock: Clock) -> None:
    eve = Client("eve", "eve", "sender")
    mine = create(plan)
    clock.at += timedelta(seconds=1)
    hers = plan.create("eve", BODY, MINUTELY, BERLIN)
    for act in (
        lambda: plan.get(eve, mine.id),
        lambda: plan.change(eve, mine.id, pause=True),
        lambda: plan.delete(eve, mine.id),
        lambda: plan.get(eve, "0" * 21),
        lambda: plan.get(eve, "../x"),
    ):
        with pytest.raises(NotFound, match="no such schedule"):
            act()
    assert [s.id for s in plan.page(eve, 10, None)] == [hers.id]
    assert [s.id for s in plan.page(ADMIN, 10, None)] == [hers.id, mine.id]


# -- over HTTP


def test_a_schedule_over_http(api: Api, client: redis.Redis) -> None:
    body = {**BODY, "repeat": {"cron": "30 9 * * 1-5", "count": 30, "missed": "once"}}
    posted = api.post("/api/v1/schedules", json={**body, "timezone": "Europe/Berlin"})
    assert posted.status_code == 201
    told = posted.json()
    assert told["makes"] == BODY
    assert len(told["dates"]) == 10
    for date in told["dates"]:
        utc, local = (datetime.fromisoformat(date[key]) for key in ("utc", "local"))
        assert utc == local
        assert f"{local:%H:%M}" == "09:30"
        assert local.weekday() < 5
    assert told["next"] == told["dates"][0]
    assert told["message"]

    one = f"/api/v1/schedules/{told['id']}"
    assert api.get(one).json() == told
    assert api.patch(one, json={"state": "paused"}).json()["next"] is None
    moved = api.patch(one, json={"state": "active", "timezone": "Asia/Tokyo"}).json()
    assert moved["next"]["local"].endswith("T09:30:00+09:00")
    assert moved["repeat"] == told["repeat"]
    weekly = api.patch(one, json={"repeat": {"rrule": "FREQ=WEEKLY;BYDAY=MO;BYHOUR=7;BYMINUTE=0"}})
    assert weekly.json()["next"]["local"].endswith("T07:00:00+09:00")
    assert weekly.json()["repeat"]["cron"] is None
    assert api.get("/api/v1/schedules").json()["schedules"][0]["id"] == told["id"]
    assert api.delete(one).status_code == 204
    assert api.get(one).status_code == 404
    assert api.get("/api/v1/schedules").json() == {"schedules": [], "next": None}
    assert client.zcard("pr:in:scheduled") == 0


def test_the_list_is_paged_newest_first(api: Api) -> None:
    ids = [
        api.post("/api/v1/schedules", json={**BODY, "repeat": DAILY}).json()["id"] for _ in range(5)
    ]
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/schedules", params={"limit": 2, "cursor": cursor}).json()
        seen += [s["id"] for s in page["schedules"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "repeat"),
        ({"repeat": {"cron": "0 0 31 2 *"}}, "repeat.cron"),
        ({"repeat": {"rrule": "FREQ=SECONDLY;COUNT=3155760000"}}, "repeat.rrule"),
        ({"repeat": {**DAILY, "often": 1}}, "repeat.often"),
        ({"repeat": {**DAILY, "count": 0}}, "repeat.count"),
        ({"repeat": DAILY, "timezone": "Mars"}, "timezone"),
        ({"repeat": DAILY, "send_at": "2001-01-01 00:00:00"}, "send_at"),
        (
            {"repeat": DAILY, "recipients": [{"uuid": "", "service": "telegram"}]},
            "recipients[0].uuid",
        ),
    ],
)
def test_what_is_refused_names_the_field(api: Api, more: dict[str, Any], field: str) -> None:
    answer = api.post("/api/v1/schedules", json={**BODY, **more})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_one_that_has_ended_is_not_changed(api: Api, service: Service) -> None:
    made = api.post("/api/v1/schedules", json={**BODY, "repeat": {**MINUTELY, "count": 1}}).json()
    later = Clock(service.store.now() + timedelta(minutes=2))
    planner(service, later).sweep()
    one = f"/api/v1/schedules/{made['id']}"
    assert api.get(one).json()["state"] == "ended"
    assert api.patch(one, json={"state": "paused"}).status_code == 409


def test_without_a_login_nothing_is_shown(api: Api) -> None:
    api.auth = None
    assert api.get("/api/v1/schedules").status_code == 401
    assert api.post("/api/v1/schedules", json=BODY).status_code == 401


# -- with real processes


def test_two_workers_of_which_one_is_killed_again_and_again_make_each_occurrence_once(
    service: Service, start: Start, client: redis.Redis, long: bool
) -> None:
    behind = timedelta(minutes=300 if long else 150)
    clock = Clock(service.store.now().replace(microsecond=0) - behind)
    schedules = [create(planner(service, clock), missed="all") for _ in range(3)]
    start("postrider", "worker")
    for _ in range(3):
        victim = start("postrider", "worker")
        before = len(made(service))
        wait_until(lambda before=before: len(made(service)) > before, 20, "a sweep at work")
        victim.kill()
        victim.wait()
    now = service.store.now()
    wait_until(lambda: all(_is_ahead(service, s, now) for s in schedules), 40, "all of them ahead")
    # Also what the killed one was just sending: that is the engine's to find, once its lease is over.
    counted = Counter(float(client.hget(key, "due") or 0) for key in client.scan_iter("pr:m:*"))
    for minute in [due for due in counted if due > now.timestamp()]:
        del counted[minute]  # one that has begun since: not all three need be made yet
    assert set(counted.values()) == {3}
    steps = {b - a for a, b in itertools.pairwise(sorted(counted))}
    assert steps == {60.0}


def _is_ahead(service: Service, schedule: Schedule, now: datetime) -> bool:
    found = again(planner(service), schedule)
    return bool(found.ready and found.next and found.next.at > now)


def test_what_names_a_single_moment_does_not_repeat(api: Api) -> None:
    for single in ({"send_in_s": 60.0}, {"expires_at": "2030-01-01 00:00:00"}):
        answer = api.post("/api/v1/schedules", json={**BODY, "repeat": DAILY, **single})
        assert answer.status_code == 400
        assert "does not go with repeat" in answer.json()["error"]


def test_its_messages_are_its_owner_s_with_all_that_was_asked(
    plan: Planner, service: Service
) -> None:
    body = {**BODY, "tags": ["daily"], "reference": "r-1", "late_s": 60.0}
    schedule = plan.create("eve", body, DAILY, BERLIN)
    message = service.message(schedule.message, "eve").message
    assert (message.tags, message.reference, message.terms.late_s) == (("daily",), "r-1", 60.0)
