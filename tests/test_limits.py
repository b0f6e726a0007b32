"""How fast accounts send, what holds them up, and what lets them go on. Against a real Redis, on its clock."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from secrets import token_hex
from typing import Any

import pytest
import redis

from messengers.base import Outcome, Rejected, Retry, Sent, Unclear
from messengers.telegram import Telegram
from postrider import verdicts
from postrider.changes import Change, Changes
from postrider.limits import Limits, limits_of
from postrider.model import Claim, Message, NewMessage, Recipient, State, new_message_id
from postrider.settings import Settings
from postrider.store import WAITING, Claimed, Store
from tests.conftest import leases_run_out, wait_until

TELEGRAM = "telegram"
FLOOD = Retry("429", pauses="account")
SILENCE = Retry("503")


@dataclass
class Engine:
    """The store with accounts that may do this much; what ends is judged as the service does."""

    store: Store
    client: redis.Redis
    limits: dict[str, Limits] = field(
        default_factory=lambda: {TELEGRAM: Limits(), "viber": Limits(), "sandbox": Limits()}
    )
    settings: Settings = field(default_factory=lambda: Settings(retry_interval=0.2))
    utc_offset_s: int = 0

    def post(
        self,
        *uuids: str,
        to: str = TELEGRAM,
        priority: str = "normal",
        body: str = "Hi",
        in_s: float | None = None,
        owner: str = "",
    ) -> Message:
        now = self.store.now()
        recipients = tuple(Recipient(uuid, to) for uuid in uuids)
        send_at = None if in_s is None else now + timedelta(seconds=in_s)
        new = NewMessage(body, recipients, send_at, priority=priority, owner=owner)  # type: ignore[arg-type]
        return self.store.accept(new_message_id(now), new, now)

    def specs(self, free: int = 100) -> dict[str, Any]:
        return {name: limit.spec(free, self.utc_offset_s) for name, limit in self.limits.items()}

    def ask(
        self,
        worker: str = "w1",
        *,
        free: int = 100,
        nonce: str = "",
        alone: bool = True,
        lease_s: float = 30,
    ) -> Claimed:
        nonce = nonce or token_hex(8)
        return self.store.claim(worker, nonce, self.specs(free), lease_s, alone=alone)

    def claim(self, worker: str = "w1", **more: Any) -> list[Claim]:
        return list(self.ask(worker, **more).claims)

    def claim_within(self, within_s: float = 5, **more: Any) -> list[Claim]:
        """The first claims there are."""
        found: list[Claim] = []
        wait_until(lambda: found.extend(self.claim(**more)) or found, within_s, "a claim")
        return found

    def end(self, *claims: Claim, by: Outcome, worker: str = "w1") -> list[bool]:
        return self.record([verdicts.verdict(c, by, self.settings) for c in claims], worker)

    def record(self, found: list[Any], worker: str = "w1") -> list[bool]:
        return self.store.record(
            worker,
            found,
            finished_ttl_s=600,
            failed_ttl_s=600,
            refused_s=self.settings.retry_interval,
        )

    def die(self, *claims: Claim) -> None:
        """As the sweep ends what a dead worker held."""
        self.record([verdicts.died(c, self.settings) for c in claims], "sweep")

    def account(self, name: str = TELEGRAM) -> dict[str, str]:
        found = self.client.hgetall(f"pr:account:{name}")
        return {key.decode(): value.decode() for key, value in found.items()}

    def pause_s(self, name: str = TELEGRAM) -> float:
        """How much longer it is paused; below 0 when it is not."""
        return float(self.account(name).get("until", 0)) - time.time()

    def let_pause_pass(self, name: str = TELEGRAM) -> None:
        self.client.hset(f"pr:account:{name}", "until", time.time() - 1)
        schedule = "rq:scheduler:scheduled_jobs"
        for job in self.client.zrange(schedule, 0, -1):
            self.client.zadd(schedule, {job: time.time() - 1})

    def states(self) -> Counter[str]:
        rows = [*self.store.scheduled(5000).rows, *self.store.finished(5000).rows]
        return Counter(delivery.state.value for delivery, _ in rows)

    def due_in_s(self, message: Message, index: int = 0) -> float:
        scores = (self.client.zscore(key, f"{message.id}-{index}") for key in WAITING)
        return next(filter(None, scores)) - time.time()

    def stock(self, job_id: str) -> Claim | None:
        """As a stock worker that rq-scheduler has given this job."""
        self.client.zrem("rq:scheduler:scheduled_jobs", job_id)
        return self.store.claim_one(job_id, self.specs(1), 30)

    def line(self, letter: str = "d", name: str = TELEGRAM) -> int:
        return self.client.zcard(f"pr:line:{letter} {name}")


@pytest.fixture
def engine(client: redis.Redis) -> Engine:
    return Engine(Store(client), client)


def names(count: int) -> Iterator[str]:
    return map(str, range(count))


def to(claims: Sequence[Claim]) -> list[str]:
    return [claim.recipient.uuid for claim in claims]


def until_there_are(count: int, claim: Callable[[], Sequence[Claim]]) -> list[Claim]:
    """Claims again and again until there are so many."""
    found: list[Claim] = []
    wait_until(lambda: found.extend(claim()) or len(found) >= count, 15, f"{count} claims")
    return found


# -- the rate of an account


def test_an_idle_account_sends_at_once_and_then_no_faster_than_its_rate_for_all_workers(
    engine: Engine,
) -> None:
    engine.limits[TELEGRAM] = Limits(rate=20)
    engine.post(*names(30))
    asked = engine.store.now()
    workers = iter(["w1", "w2"] * 10_000)
    claims = until_there_are(20, lambda: engine.claim(next(workers)))
    assert (claims[0].at - asked).total_seconds() < 1
    since = [(c.at - claims[0].at).total_seconds() for c in claims]
    for nth, at in enumerate(since):
        assert at >= (nth - 1) / 20 - 0.001  # two at once, as it was idle
    assert since[-1] < 5  # a second, when nothing else is at work


def test_a_claim_names_the_moment_of_the_next_slot(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=4)
    engine.post(*names(3))
    first = engine.ask()
    assert to(first.claims) == ["0"]
    assert first.next_look_in_s == pytest.approx(0.25, abs=0.001)
    early = engine.ask("w2")
    assert early.claims == []
    moment = first.at.timestamp() + first.next_look_in_s
    assert early.at.timestamp() + early.next_look_in_s == pytest.approx(moment, abs=0.001)
    (second,) = engine.claim_within()
    assert second.at.timestamp() >= moment - 0.001


def test_the_next_slot_is_named_to_who_has_just_put_the_rest_into_a_line(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=4)
    engine.post(*names(5))
    engine.post("x", to="viber")
    found = engine.ask()
    assert sorted(to(found.claims)) == ["0", "x"]
    assert engine.line() == 4
    assert found.next_look_in_s == pytest.approx(0.25, abs=0.001)


def test_a_rate_of_0_is_no_limit(engine: Engine) -> None:
    engine.post(*names(500))
    assert len(engine.claim(free=500)) == 500


@pytest.mark.parametrize(("rate", "at_once"), [(1, 1), (30, 3), (80, 8)])
def test_an_idle_account_may_send_at_once_what_goes_in_a_tenth_of_a_second(
    engine: Engine, rate: float, at_once: int
) -> None:
    engine.limits[TELEGRAM] = Limits(rate=rate)
    engine.post(*names(50))
    assert len(engine.claim()) == at_once


def test_no_place_is_no_slot(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=80)
    engine.post(*names(5))
    none = engine.ask(free=0)
    assert (none.claims, none.more) == ([], True)
    assert len(engine.claim()) == 5


def test_one_accounts_rate_holds_up_no_other(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=1)
    engine.post(*names(200))
    engine.post(*names(200), to="viber")
    assert Counter(c.recipient.service for c in engine.claim(free=200)) == {
        TELEGRAM: 1,
        "viber": 200,
    }


def test_a_gap_is_random_within_its_bounds(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(gap_s=(0.02, 0.06))
    engine.post(*names(15))
    waits = []
    while len(waits) < 12:
        found = engine.ask()
        assert len(found.claims) <= 1
        if found.claims:
            waits.append(found.next_look_in_s)
    assert all(0.0199 <= wait <= 0.0601 for wait in waits)
    assert len({round(wait, 4) for wait in waits}) > 3


def test_a_gap_beside_a_rate_never_waits_longer_than_the_slower_of_both(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=10, gap_s=(0.02, 0.06))
    engine.post(*names(3))
    assert engine.ask().next_look_in_s == pytest.approx(0.1, abs=0.001)


def test_a_slot_far_ahead_that_stock_workers_booked_does_not_hold_ours(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=5)
    message = engine.post(*names(100))
    for n in range(60):
        engine.stock(f"{message.id}-{n}")
    assert float(engine.account()["next"]) - time.time() > 8
    engine.post("x")
    assert engine.claim_within(1)


# -- the rate of a recipient


def test_a_recipient_gets_one_at_a_time_while_others_are_not_held_up(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=5)
    messages = [engine.post("ana") for _ in range(4)]
    engine.post("bob")
    first = engine.claim()
    assert to(first) == ["ana", "bob"]
    dues = [engine.due_in_s(m) for m in messages[1:]]
    assert dues == pytest.approx([0.2, 0.4, 0.6], abs=0.1)
    assert engine.states() == {"scheduled": 3}
    rest = until_there_are(3, engine.claim)
    for nth, claim in enumerate(rest, 1):
        assert (claim.at - first[0].at).total_seconds() >= nth * 0.2 - 0.001
    assert {(c.attempts, c.alarm) for c in rest} == {(0, 0)}


def test_turns_that_passed_while_no_worker_ran_are_not_used_at_once(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=5)
    for _ in range(5):
        engine.post("ana")
    assert len(engine.claim()) == 1
    assert engine.claim() == []  # the rest waits, 0.2 s each
    time.sleep(1)
    late = engine.claim()
    assert len(late) == 1
    rest = until_there_are(3, engine.claim)
    ats = [claim.at.timestamp() for claim in (*late, *rest)]
    assert min(later - earlier for earlier, later in pairwise(ats)) >= 0.18


@pytest.mark.parametrize("what", ["cancel", "pause", "expire", "move"])
def test_who_no_longer_waits_for_a_recipient_keeps_no_turn(engine: Engine, what: Change) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=2)
    engine.post("ana")
    many = engine.post(*["ana"] * 50)
    assert len(engine.claim()) == 1
    assert engine.claim() == []
    last = engine.post("ana")
    assert engine.claim() == []
    assert engine.due_in_s(last) > 20
    changes = Changes(engine.client)
    tomorrow = engine.store.now() + timedelta(days=1)
    changes.message(what, many.id, tomorrow if what == "move" else None)
    assert engine.due_in_s(last) < 0.5
    (claim,) = engine.claim_within(1)
    assert claim.message.id == last.id
    assert engine.client.keys("pr:turns:*") == []


def test_what_is_urgent_or_was_there_before_goes_first_to_its_recipient(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=5)
    first = engine.post("ana")
    (claim,) = engine.claim()
    low = engine.post(*["ana"] * 20, priority="low")
    assert engine.claim() == []
    engine.end(claim, by=Retry("502"))
    high = engine.post("ana", priority="high")
    time.sleep(0.5)
    found = until_there_are(4, engine.claim)
    assert [c.message.id for c in found] == [high.id, first.id, low.id, low.id]


def test_one_that_bears_the_mark_and_waits_nowhere_waits_again(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=5)
    for _ in range(3):
        engine.post("ana")
    assert len(engine.claim()) == 1
    assert engine.claim() == []
    (turns,) = engine.client.keys("pr:turns:*")
    engine.client.delete(turns)
    assert len(until_there_are(1, engine.claim)) == 1
    engine.store.rescue(late_s=-60)  # what nobody has called
    assert len(until_there_are(1, engine.claim)) == 1


def test_a_client_that_is_stopped_keeps_no_others_from_a_recipient(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=10)
    engine.post("ana")
    assert len(engine.claim()) == 1
    for _ in range(5):
        engine.post("ana", owner="shop")
    ours = engine.post("ana")
    assert engine.claim() == []
    changes = Changes(engine.client)
    changes.stop("client shop", "me", engine.store.now())
    (claim,) = engine.claim_within(2)
    assert claim.message.id == ours.id
    changes.go_on("client shop")
    assert len(until_there_are(5, engine.claim)) == 5


def test_two_accounts_each_have_a_turn_with_the_same_address(engine: Engine) -> None:
    engine.limits = {TELEGRAM: Limits(recipient_rate=1), "viber": Limits(recipient_rate=1)}
    engine.post("ana")
    engine.post("ana", to="viber")
    assert len(engine.claim()) == 2


def test_a_telegram_group_gets_less_than_a_chat(engine: Engine) -> None:
    engine.limits[TELEGRAM] = limits_of(Telegram("1:x"), Settings(telegram_rate=0))
    posted = {to: [engine.post(to) for _ in range(3)] for to in ("-100", "42")}
    assert sorted(to(engine.claim())) == ["-100", "42"]
    for address, gap_s in (("-100", 3), ("42", 1)):
        dues = [engine.due_in_s(message) for message in posted[address][1:]]
        assert dues == pytest.approx([gap_s, 2 * gap_s], abs=0.2)


# -- the daily cap


def test_what_is_over_the_daily_cap_waits_till_the_next_day_of_the_zone(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(daily_cap=3)
    to_midnight = 2 - time.time() % 1
    engine.utc_offset_s = round(86_400 - to_midnight - time.time() % 86_400)
    engine.post(*names(8))
    first = engine.ask()
    assert to(first.claims) == ["0", "1", "2"]
    assert first.next_look_in_s == pytest.approx(to_midnight, abs=0.2)
    assert engine.claim() == []
    rest = engine.claim_within()
    assert to(rest) == ["3", "4", "5"]
    assert {c.attempts for c in rest} == {0}
    midnight = first.at.timestamp() + first.next_look_in_s
    assert rest[0].at.timestamp() >= midnight - 0.001
    assert engine.claim() == []


def test_stock_workers_keep_the_cap_on_the_next_day_too(
    engine: Engine, client: redis.Redis
) -> None:
    engine.limits[TELEGRAM] = Limits(daily_cap=2)
    engine.utc_offset_s = round(86_400 - 1.5 - time.time() % 86_400)
    message = engine.post(*names(8))
    jobs = [f"{message.id}-{n}" for n in range(8)]
    assert sum(bool(engine.stock(j)) for j in jobs) == 2
    assert client.zcard("rq:scheduler:scheduled_jobs") == 6
    wait_until(lambda: client.zcount("rq:scheduler:scheduled_jobs", 0, time.time()) == 6, 5)
    again = client.zrange("rq:scheduler:scheduled_jobs", 0, -1)
    got = [engine.stock(j.decode()) for j in again]
    assert len([c for c in got if c]) == 2


# -- pauses


def in_flight(engine: Engine, count: int, waiting: int = 0) -> list[Claim]:
    """So many at work, and so many that wait behind them."""
    engine.post(*names(count + waiting))
    claims = engine.claim(free=count)
    assert len(claims) == count
    return claims


def test_a_429_pauses_the_whole_account_as_long_as_it_says_and_then_one_finds_out(
    engine: Engine,
) -> None:
    first, *others = in_flight(engine, 5, waiting=15)
    engine.end(first, by=Retry("slow down", after_s=0.7, pauses="account"))
    paused_at = time.time()
    engine.end(*others, by=Sent("1"))  # had left before; no sign that the pause is over
    early = engine.ask()
    assert early.claims == []
    assert early.next_look_in_s == pytest.approx(0.7, abs=0.3)
    (probe,) = engine.claim_within()
    assert probe.at.timestamp() - paused_at >= 0.69
    assert probe.how == "probe"
    assert engine.claim("w1") == engine.claim("w2") == []
    engine.end(probe, by=Sent("1"))
    rest = engine.claim("w2")
    assert len(rest) == 15
    assert {c.attempts for c in rest} == {0}
    assert {c.how for c in rest} == {""}
    assert "until" not in engine.account()


def test_after_a_probes_no_the_account_is_paused_again(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=5)
    flood = Retry("slow down", after_s=1.0, pauses="account")
    engine.end(first, by=flood)
    (probe,) = engine.claim_within()
    engine.end(probe, by=flood)
    assert engine.claim() == []
    assert 0 < engine.pause_s() <= 1
    (probe,) = engine.claim_within()
    assert probe.how == "probe"


def test_a_probe_that_is_refused_for_good_lets_the_rest_go(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=5)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (probe,) = engine.claim()
    engine.end(probe, by=Rejected("blocked"))
    assert len(engine.claim()) == 5


def test_a_probe_whose_recipient_has_to_wait_lets_the_rest_go(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=5)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (probe,) = engine.claim()
    engine.end(probe, by=Retry("one at a time", after_s=60, pauses="recipient"))
    assert len(engine.claim()) == 5


def test_a_probe_that_was_handed_back_is_no_answer(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=5)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (probe,) = engine.claim()
    engine.record([verdicts.handed_back(probe)])
    (probe,) = engine.claim()
    assert (probe.how, probe.attempts) == ("probe", 0)


@pytest.mark.parametrize("after_s", [None, 2.0])
def test_many_429s_of_one_burst_do_not_multiply_the_pause(
    engine: Engine, after_s: float | None
) -> None:
    claims = in_flight(engine, 60)
    engine.settings = Settings(retry_interval=2)
    for part in (claims[:30], claims[30:50], claims[50:]):
        engine.end(*part, by=Retry("429", after_s=after_s, pauses="account"))
    assert 1 < engine.pause_s() <= 2
    assert engine.states() == {"retrying": 60}


def test_a_pause_without_a_named_wait_doubles_from_the_retry_interval_up_to_five_minutes(
    engine: Engine,
) -> None:
    engine.settings = Settings(retry_interval=50)
    in_flight_ = in_flight(engine, 1, waiting=10)
    pauses = []
    for _ in range(5):
        engine.end(*in_flight_, by=FLOOD)
        pauses.append(engine.pause_s())
        engine.let_pause_pass()
        in_flight_ = engine.claim()
    assert pauses == pytest.approx([50, 100, 200, 300, 300], abs=2)
    assert in_flight_[0].attempts == 0
    engine.end(*in_flight_, by=Sent("1"))
    engine.end(engine.claim()[0], by=FLOOD)
    assert engine.pause_s() == pytest.approx(50, abs=2)


def test_a_pause_that_is_over_costs_an_idle_account_one_probe_only(engine: Engine) -> None:
    (first,) = in_flight(engine, 1)
    engine.end(first, by=Retry("429", after_s=0.5, pauses="account"))
    (again,) = engine.claim_within()
    engine.end(again, by=Sent("1"))
    engine.post(*names(50))
    assert len(engine.claim()) == 50


def test_a_429_that_comes_late_pauses_under_the_probe_and_another_is_sent(engine: Engine) -> None:
    first, late = in_flight(engine, 2, waiting=5)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (probe,) = engine.claim()
    engine.end(late, by=Retry("429", after_s=0.5, pauses="account"))
    engine.end(probe, by=Sent("1"))  # it had left before
    assert engine.claim() == []
    (probe,) = engine.claim_within()
    engine.end(probe, by=Sent("1"))
    assert len(engine.claim()) == 5


def test_a_pause_survives_what_others_learn(engine: Engine) -> None:
    engine.limits["viber"] = Limits()
    (first,) = in_flight(engine, 1, waiting=3)
    engine.end(first, by=Retry("429", after_s=60, pauses="account"))
    engine.post(*names(3), to="viber")
    claims = engine.claim()
    assert {c.recipient.service for c in claims} == {"viber"}
    engine.end(*claims, by=Sent("1"))
    assert engine.claim() == []
    assert engine.pause_s() > 50


# -- the circuit breaker


def test_five_in_a_row_without_an_answer_open_the_breaker(engine: Engine) -> None:
    claims = in_flight(engine, 5, waiting=5)
    engine.end(*claims[:4], by=SILENCE)
    assert "until" not in engine.account()
    engine.end(claims[4], by=SILENCE)
    assert 0 < engine.pause_s() <= 1
    assert engine.claim() == []
    (probe,) = engine.claim_within()
    assert (probe.how, probe.attempts) == ("probe", 0)
    engine.end(probe, by=Sent("1"))
    assert len(engine.claim()) >= 4


def test_one_answer_between_them_keeps_the_breaker_closed(engine: Engine) -> None:
    claims = in_flight(engine, 9)
    engine.end(*claims[:4], by=SILENCE)
    engine.end(claims[4], by=Rejected("blocked"))
    engine.end(*claims[5:], by=SILENCE)
    assert "until" not in engine.account()


def test_what_fails_while_the_breaker_is_open_does_not_open_it_further(engine: Engine) -> None:
    claims = in_flight(engine, 50)
    engine.end(*claims, by=SILENCE)
    assert engine.pause_s() <= 1
    assert engine.account()["opened"] == "1"


def test_an_open_breaker_waits_twice_as_long_each_time_up_to_half_a_minute(engine: Engine) -> None:
    engine.end(*in_flight(engine, 5, waiting=20), by=SILENCE)
    pauses = []
    for _ in range(7):
        engine.let_pause_pass()
        probes = [c for c in engine.claim() if c.how == "probe"]
        assert len(probes) == 1
        engine.end(*probes, by=SILENCE)
        pauses.append(engine.pause_s())
    assert pauses == pytest.approx([2, 4, 8, 16, 30, 30, 30], abs=1)


def test_a_failed_probe_uses_up_no_try(engine: Engine) -> None:
    engine.settings = Settings(retry_interval=0.2, retry_count=1)
    (first,) = in_flight(engine, 1)
    engine.end(first, by=FLOOD)
    for _ in range(10):
        engine.let_pause_pass()
        (probe,) = engine.claim_within()
        assert (probe.how, probe.attempts) == ("probe", 0)
        engine.end(probe, by=SILENCE)
    engine.let_pause_pass()
    engine.end(*engine.claim_within(), by=Sent("1"))
    assert engine.states() == {"sent": 1}


def test_one_that_always_fails_opens_no_breaker_and_ends_failed_after_its_tries(
    engine: Engine,
) -> None:
    engine.settings = Settings(retry_interval=0.02)
    engine.post("poison")
    tries = 0
    while engine.states()["failed"] == 0:
        (claim,) = engine.claim_within()
        engine.end(claim, by=SILENCE)
        tries += 1
        assert "until" not in engine.account()
    assert tries == 6
    engine.post("ana")
    assert len(engine.claim()) == 1


def test_a_probe_whose_worker_died_is_replaced(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=3)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (dead,) = engine.claim(lease_s=1)
    assert engine.claim() == []
    (probe,) = engine.claim_within()
    assert probe.how == "probe"
    engine.die(dead)
    assert engine.claim() == []
    engine.end(probe, by=Sent("1"))
    assert len(engine.claim_within()) >= 1


# -- a pair's pause


def test_a_pairs_pause_holds_back_others_to_that_recipient_only(engine: Engine) -> None:
    engine.post("ana")
    (first,) = engine.claim()
    engine.end(first, by=Retry("one at a time", after_s=0.5, pauses="recipient"))
    ended = time.time()
    messages = [engine.post("ana"), engine.post("ana")]
    engine.post("bob")
    engine.post("ana", to="viber")
    assert sorted((c.recipient.service, c.recipient.uuid) for c in engine.claim()) == [
        (TELEGRAM, "bob"),
        ("viber", "ana"),
    ]
    assert [engine.due_in_s(m) for m in messages] == pytest.approx([0.5, 0.5], abs=0.2)
    rest = until_there_are(3, engine.claim)
    assert min(c.at.timestamp() for c in rest) >= ended + 0.45
    assert {c.attempts for c in rest} == {0}


def test_a_pairs_pause_holds_back_even_what_had_its_turn_booked(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(recipient_rate=10)
    for _ in range(4):
        engine.post("ana")
    (first,) = engine.claim()
    assert [engine.claim() for _ in range(2)] == [[], []]  # the rest has its turns, 0.1 s apart
    engine.end(first, by=Retry("one at a time", after_s=0.8, pauses="recipient"))
    ended = time.time()
    rest = until_there_are(4, engine.claim)
    for nth, claim in enumerate(rest):
        assert claim.at.timestamp() >= ended + 0.75 + nth * 0.1


# -- lines


@pytest.mark.parametrize("paused_first", [True, False])
def test_an_account_behind_1500_of_a_paused_one_is_claimed_at_once(
    engine: Engine, paused_first: bool
) -> None:
    engine.post("first")
    engine.end(*engine.claim(), by=Retry("429", after_s=600, pauses="account"))
    engine.post(*names(1500))
    if paused_first:
        for _ in range(3):
            assert engine.claim() == []
    engine.post("ana", to="viber")
    found = [to(engine.claim()) for _ in range(3)]
    assert ["ana"] in (found[:2] if paused_first else found)


def test_what_waits_in_a_line_goes_before_what_comes_later(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=10)
    engine.post(*names(10))
    engine.post("x", to="viber")  # so that the rest of the first goes into a line
    claims = engine.claim()
    assert engine.line() == 9
    engine.post(*(f"later {n}" for n in range(10)))
    claims += until_there_are(12, engine.claim)
    assert [to for to in to(claims) if to != "x"][:10] == list(names(10))


def test_a_line_is_served_by_weight_high_before_normal_before_low(engine: Engine) -> None:
    engine.post("first")
    engine.end(*engine.claim(), by=Retry("429", after_s=600, pauses="account"))
    for priority in ("low", "normal", "high"):
        engine.post(*names(100), priority=priority, body=priority)
    engine.post("x", to="viber", priority="low")  # behind all of them
    engine.claim()
    assert [engine.line(letter) for letter in "hdl"] == [100, 100, 100]
    engine.let_pause_pass()
    engine.end(*engine.claim(), by=Sent("1"))
    first = [c.message.body for c in engine.claim(free=50)]
    assert [first.count(p) for p in ("high", "normal", "low")] == [30, 15, 5]
    for free in (10, 20, 30):
        assert [c.message.body for c in engine.claim(free=free)].count("low") == free / 10


def test_a_high_one_overtakes_what_waits_in_its_account_s_line(engine: Engine) -> None:
    engine.limits[TELEGRAM] = Limits(rate=20)
    engine.post(*names(400))
    engine.post("x", to="viber")  # so that the rest of the first goes into a line
    engine.claim()
    assert engine.line() > 390
    engine.post("high", priority="high")
    claims = until_there_are(10, engine.claim)
    assert "high" in to(claims)


def test_lines_of_accounts_in_step_are_each_served_by_weight(engine: Engine) -> None:
    accounts = [f"telegram/{n}" for n in range(5)]
    engine.limits = {name: Limits(rate=20) for name in accounts}
    for priority in ("normal", "high"):
        for n in range(5):
            recipients = tuple(Recipient(to, TELEGRAM, str(n)) for to in names(100))
            now = engine.store.now()
            new = NewMessage("Hi", recipients, priority=priority)  # type: ignore[arg-type]
            engine.store.accept(new_message_id(now), new, now)
        engine.claim()
    claims = until_there_are(5 * 20, engine.claim)
    high = Counter(
        claim.recipient.account
        for claim in claims
        if engine.client.hget(f"rq:job:{claim.job_id}", "origin") == b"high"
    )
    assert len(high) == 5


def test_who_may_go_does_not_wait_behind_a_bulk_that_may_not(engine: Engine) -> None:
    """The bulk stands in RQ's queues for a part, in its line for the rest; nobody else looks through it."""
    for _ in range(5):
        engine.post(*names(2000))
    wait_until(lambda: not engine.claim(free=0) and engine.line() > 8000)
    assert engine.client.llen("rq:queue:default") <= 1500
    engine.post("x", to="viber")
    specs = engine.specs(0) | {"viber": engine.limits["viber"].spec(100, 0)}
    found = [engine.store.claim("w1", token_hex(8), specs, 30) for _ in range(3)]
    assert [claim.recipient.uuid for each in found for claim in each.claims] == ["x"]


def test_more_lines_than_one_claim_looks_at_are_all_served(engine: Engine) -> None:
    accounts = [f"telegram/{n}" for n in range(1_200)]
    engine.limits = dict.fromkeys(accounts, Limits())
    for n in range(2):
        recipients = tuple(Recipient(f"{n}", TELEGRAM, name.partition("/")[2]) for name in accounts)
        now = engine.store.now()
        engine.store.accept(new_message_id(now), NewMessage("Hi", recipients), now)
    engine.client.sadd("pr:lines", *(f"d {name}" for name in accounts))
    wait_until(lambda: not engine.claim(free=0) and engine.line("d", accounts[-1]) == 2)
    engine.limits = dict.fromkeys(accounts, Limits())
    claims = until_there_are(2_400, lambda: engine.claim(free=1))
    assert set(Counter(c.recipient.account for c in claims).values()) == {2}


def test_one_accounts_long_line_holds_up_no_other_account(engine: Engine) -> None:
    engine.limits["viber"] = Limits(receivers=300)
    engine.post("first", to="viber")
    (first,) = engine.claim()
    engine.end(first, by=Retry("429", after_s=600, pauses="account"))
    engine.post(*names(5000), to="viber")
    for n in range(7):  # somebody behind them, so that they go into a line
        engine.post(f"x{n}")
        engine.claim()
    wait_until(lambda: engine.claim() == [] and engine.line("d", "viber") == 5000)
    engine.let_pause_pass("viber")
    engine.end(*(c for c in engine.claim() if c.how), by=Sent("1"))
    engine.post("ana")
    assert "ana" in to(engine.claim())


def test_lines_go_back_to_rqs_queues_when_no_worker_of_ours_claims(
    engine: Engine, client: redis.Redis
) -> None:
    engine.limits[TELEGRAM] = Limits(rate=2)
    engine.post(*names(6))
    engine.post("x", to="viber")
    engine.claim()
    assert engine.line() == 5
    engine.store.release(10)
    assert engine.line() == 5  # ours have claimed a moment ago
    client.set("pr:served", time.time() - 11)
    engine.store.release(10)
    assert engine.line() == 0
    jobs = client.lrange("rq:queue:default", 0, -1)
    assert len(jobs) == 5
    assert client.exists("pr:lines") == 0
    # A stock worker pops them: the account's slots are half a second apart.
    client.delete("rq:queue:default")
    claims = [engine.stock(job.decode()) for job in jobs]
    assert claims == [None] * 5
    waiting = client.zrange("rq:scheduler:scheduled_jobs", 0, -1, withscores=True)
    assert [job for job, _ in waiting] == [job + b"-1" for job in jobs]
    gaps = [b[1] - a[1] for a, b in pairwise(waiting)]
    assert gaps == pytest.approx([0.5] * 4, abs=0.01)
    assert engine.states() == {"scheduled": 5}
    job, at = waiting[0]
    wait_until(lambda: time.time() >= at, 2)
    claim = engine.stock(job.decode())
    assert claim is not None
    assert claim.attempts == 0


def test_what_was_released_is_claimed_by_ours_when_they_are_back(
    engine: Engine, client: redis.Redis
) -> None:
    (first,) = in_flight(engine, 1, waiting=40)
    engine.end(first, by=Retry("429", after_s=600, pauses="account"))
    engine.post("x", to="viber")
    engine.claim()
    assert engine.line() == 40
    client.set("pr:served", time.time() - 11)
    engine.store.release(10)
    assert client.hget("pr:queued", TELEGRAM) == b"40"
    client.delete(f"pr:account:{TELEGRAM}")
    assert len(engine.claim()) >= 40
    assert client.llen("rq:queue:default") == 0


def test_a_stock_worker_is_the_probe_of_a_paused_account_and_the_others_come_later(
    engine: Engine, client: redis.Redis
) -> None:
    first, _, _, _ = in_flight(engine, 4)
    engine.end(first, by=FLOOD)
    message = engine.post(*names(3))
    jobs = [f"{message.id}-{n}" for n in range(3)]
    assert engine.stock(jobs[0]) is None
    engine.let_pause_pass()
    probe = engine.stock(jobs[1])
    assert probe is not None
    assert probe.how == "probe"
    assert engine.stock(jobs[2]) is None
    assert engine.due_in_s(message, 2) == pytest.approx(5, abs=0.5)
    engine.end(probe, by=Sent("1"))
    assert "until" not in engine.account()


def test_an_account_that_nobody_has_set_up_waits_without_a_try(
    engine: Engine, client: redis.Redis
) -> None:
    message = engine.post(*names(3), to="gone")
    engine.post("ana")
    assert to(engine.claim()) == ["ana"]
    assert engine.claim() == []
    assert engine.states() == {"scheduled": 3}
    (stuck,) = [client.zrange(key, 0, 0) for key in client.keys("pr:line:*")]
    assert stuck == [f"{message.id}-0".encode()]
    engine.limits["gone"] = Limits()
    back = engine.claim()
    assert to(back) == ["0", "1", "2"]
    assert {c.attempts for c in back} == {0}


def test_a_stock_worker_leaves_an_account_it_does_not_know_for_a_minute(engine: Engine) -> None:
    message = engine.post("ana", to="gone")
    assert engine.stock(f"{message.id}-0") is None
    assert engine.due_in_s(message) == pytest.approx(60, abs=1)


def test_what_stock_workers_take_is_not_counted_as_queued(
    engine: Engine, client: redis.Redis
) -> None:
    telegram = engine.post(*names(5))
    engine.ask(free=0)  # into the queue, counted
    assert client.hget("pr:queued", TELEGRAM) == b"5"
    engine.end(engine.stock(f"{telegram.id}-0"), by=FLOOD)
    client.lrem("rq:queue:default", 1, f"{telegram.id}-0")
    assert client.hget("pr:queued", TELEGRAM) == b"4"
    # rq-scheduler puts one of another account there, which nobody counts
    viber = engine.post("x", to="viber")
    client.zrem("rq:scheduler:scheduled_jobs", f"{viber.id}-0")
    client.rpush("rq:queue:default", f"{viber.id}-0")
    assert to(engine.claim()) == ["x"]


# -- an answer that was lost


def test_the_same_nonce_gives_the_same_claims(engine: Engine) -> None:
    engine.post(*names(5))
    lost = engine.claim(nonce="n1", free=3)
    assert len(lost) == 3
    again = engine.claim(nonce="n1", free=3)
    assert [c.job_id for c in again] == [c.job_id for c in lost]
    assert len(engine.claim(nonce="n2", free=3)) == 2
    assert to(engine.claim("w2", nonce="n1")) == []


def test_a_replayed_claim_leaves_out_what_has_ended(engine: Engine) -> None:
    engine.post(*names(3))
    lost = engine.claim(nonce="n1")
    engine.end(lost[0], by=Sent("1"))
    assert to(engine.claim(nonce="n1")) == ["1", "2"]


def test_a_replayed_probe_is_still_the_probe(engine: Engine) -> None:
    (first,) = in_flight(engine, 1, waiting=3)
    engine.end(first, by=FLOOD)
    engine.let_pause_pass()
    (lost,) = engine.claim(nonce="n1")
    (again,) = engine.claim(nonce="n1")
    assert (again.job_id, again.how) == (lost.job_id, "probe")
    engine.end(again, by=Sent("1"))
    assert "until" not in engine.account()


def test_a_replayed_lone_one_is_still_alone(engine: Engine) -> None:
    engine.post("ana")
    engine.die(*engine.claim())
    (lost,) = engine.claim_within(nonce="n1")
    (again,) = engine.claim(nonce="n1")
    assert (again.job_id, again.how, again.deaths) == (lost.job_id, "alone", 0)


# -- one whose worker died


def test_what_a_worker_died_with_is_claimed_alone_one_per_claim(engine: Engine) -> None:
    engine.settings = Settings(retry_interval=0.01)
    engine.die(*in_flight(engine, 4))
    engine.post(*(f"new {n}" for n in range(5)))
    alone = engine.claim_within()
    while not alone[0].how:  # the new ones may come first
        assert {c.how for c in alone} == {""}
        alone = engine.claim_within()
    (first,) = alone
    assert (first.how, first.deaths) == ("alone", 0)
    beside = engine.ask(alone=False)
    assert {c.how for c in beside.claims} <= {""}
    assert beside.more
    assert engine.claim(alone=False) == []
    sent = [first]
    while len(sent) < 4:
        engine.end(sent[-1], by=Sent("1"))
        more = [c for c in engine.claim_within() if c.how == "alone"]
        assert len(more) <= 1
        sent += more
    assert sorted(to(sent)) == ["0", "1", "2", "3"]


def test_one_that_kills_each_time_fails_after_three_lone_deaths_and_no_innocent_does(
    engine: Engine,
) -> None:
    engine.settings = Settings(retry_interval=0.01)
    claims = in_flight(engine, 5)
    poison = claims[2].delivery_id
    engine.die(*claims)
    lone = 0
    while engine.states()["sent"] + engine.states()["failed"] < 5:
        (claim,) = engine.claim_within()
        assert claim.how == "alone"
        if claim.delivery_id == poison:
            lone += 1
            engine.die(claim)
        else:
            engine.end(claim, by=Sent("1"))
    assert lone == 3
    assert engine.states() == {"sent": 4, "failed": 1}
    reason = engine.client.hget(f"rq:job:{claim.job_id}", "exc_info") or b""
    failed = [d for d, _ in engine.store.finished(10).rows if d.state is State.FAILED]
    assert [d.id for d in failed] == [poison]
    if claim.delivery_id == poison:
        assert reason.startswith(b"crashed_worker")


def test_a_lone_one_that_gets_any_answer_is_an_ordinary_one_again(engine: Engine) -> None:
    engine.settings = Settings(retry_interval=0.01)
    engine.post("ana")
    engine.die(*engine.claim())
    (alone,) = engine.claim_within()
    engine.end(alone, by=SILENCE)
    (again,) = engine.claim_within()
    assert (again.how, again.deaths) == ("", None)


def test_a_lone_one_that_was_handed_back_stays_alone(engine: Engine) -> None:
    engine.post("ana")
    engine.die(*engine.claim())
    (alone,) = engine.claim_within()
    engine.record([verdicts.handed_back(alone)])
    (again,) = engine.claim_within()
    assert (again.how, again.deaths) == ("alone", 0)


def test_a_lone_one_that_finds_out_for_its_account_uses_up_no_try(engine: Engine) -> None:
    engine.settings = Settings(retry_interval=0.01)
    engine.post("ana")
    engine.die(*engine.claim())
    engine.client.hset(f"pr:account:{TELEGRAM}", "until", time.time() - 1)
    (alone,) = engine.claim_within()
    assert (alone.how, alone.deaths, alone.attempts) == ("probe", 0, 1)
    engine.end(alone, by=SILENCE)
    engine.let_pause_pass()
    (again,) = engine.claim_within()
    assert again.attempts == 1


def test_lone_ones_of_a_paused_account_hold_up_no_other_accounts(
    engine: Engine, client: redis.Redis
) -> None:
    engine.settings = Settings(retry_interval=0.01)
    engine.die(*in_flight(engine, 200))
    wait_until(lambda: engine.claim(alone=False) == [] and client.zcard("pr:alone") == 200, 5)
    client.hset(f"pr:account:{TELEGRAM}", "until", time.time() + 600)
    engine.post("ana", to="viber")
    engine.die(*engine.claim())
    (alone,) = engine.claim_within()
    assert (alone.recipient.service, alone.how) == ("viber", "alone")


def test_lone_ones_of_an_account_that_is_gone_wait_and_are_sent_when_it_is_back(
    engine: Engine,
) -> None:
    engine.limits["gone"] = Limits()
    engine.post("ana", to="gone")
    engine.die(*engine.claim())
    del engine.limits["gone"]
    for _ in range(5):
        assert engine.claim() == []
    engine.limits["gone"] = Limits()
    assert to(engine.claim_within()) == ["ana"]


def test_lone_ones_go_to_rqs_queues_too_when_no_worker_of_ours_claims(
    engine: Engine, client: redis.Redis
) -> None:
    engine.die(*in_flight(engine, 3))
    engine.claim(alone=False)
    assert client.zcard("pr:alone") == 3
    client.set("pr:served", time.time() - 11)
    engine.store.release(10)
    assert client.zcard("pr:alone") == 0
    job = client.lpop("rq:queue:default")
    claim = engine.stock(job.decode())
    assert claim is not None
    assert (claim.how, claim.deaths) == ("alone", 0)
    while claim := engine.claim():
        assert len(claim) == 1
        engine.end(*claim, by=Sent("1"))
    assert engine.states()["sent"] == 2


# -- on hold


def test_hold_keeps_what_got_no_answer_until_somebody_decides(engine: Engine) -> None:
    engine.settings = Settings(on_unknown="hold")
    first, second = in_flight(engine, 2)
    engine.end(first, by=Unclear("no answer"))
    engine.die(second)
    assert engine.states() == {"unknown": 2}
    assert engine.store.counts().held == 2
    assert engine.claim() == []
    assert engine.end(first, by=Sent("1")) == [True]  # a late yes
    assert engine.states() == {"unknown": 1, "sent": 1}


# -- what must not break it


def test_a_batch_of_any_size_is_recorded(engine: Engine) -> None:
    engine.post(*names(9000))
    claims = until_there_are(9000, lambda: engine.claim(free=9000))
    assert all(engine.end(*claims, by=Sent("1")))
    assert engine.store.counts().finished == 9000
    engine.store.renew((c.job_id for c in claims), 30)


@pytest.mark.parametrize(
    "record", ["", "s", "sd", "sd telegram", "sd 1 2", "sx telegram 1", "Hello!", "sd? telegram 1"]
)
def test_a_record_that_nobody_can_read_holds_up_nothing(
    engine: Engine, client: redis.Redis, record: str
) -> None:
    message = engine.post(*names(3))
    client.hset(f"pr:d:{message.id}:0", "1", record)
    assert to(engine.claim()) == ["0", "2"]
    engine.store.rescue(0)
    engine.post("ana")
    assert to(engine.claim()) == ["ana"]


@pytest.mark.parametrize("wait_s", [1e9, 1e12])
def test_no_wait_lasts_longer_than_a_day(engine: Engine, wait_s: float) -> None:
    (first, second) = in_flight(engine, 2)
    engine.end(second, by=Retry("503", after_s=wait_s))
    assert engine.due_in_s(first.message, 1) <= 86_400
    engine.end(first, by=Retry("429", after_s=wait_s, pauses="account"))
    assert engine.pause_s() <= 86_400


class Chaos:
    """Claims, records, dies, sweeps and releases as it comes, beside stock workers that do, too."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.client = engine.client
        self.rng = random.Random(seed)
        self.held: list[Claim] = []
        self.seen: set[str] = set()
        engine.settings = Settings(retry_interval=0.01, retry_count=9)
        engine.limits = {
            TELEGRAM: Limits(rate=self.rng.choice([0, 200]), recipient_rate=50, slower={"-": 20}),
            "viber": Limits(receivers=self.rng.choice([1, 5])),
            "sandbox": Limits(rate=self.rng.choice([0, 100])),
        }

    def step(self) -> None:
        deeds = (
            *(self.post,) * 3,
            *(self.claim,) * 6,
            *(self.end,) * 6,
            self.sweep,
            lambda: self.engine.store.rescue(0),
            self.release,
            self.rqscheduler,
            self.rq_worker,
        )
        self.rng.choice(deeds)()

    def post(self) -> None:
        uuids = {self.rng.choice(("", "-")) + str(self.rng.randint(1, 30)) for _ in range(12)}
        account = self.rng.choice(tuple(self.engine.limits))
        priority = self.rng.choice(("high", "normal", "low"))
        self.engine.post(*uuids, to=account, priority=priority)

    def keep(self, *claims: Claim) -> None:
        assert self.seen.isdisjoint(c.job_id for c in claims), "claimed twice"
        self.seen.update(c.job_id for c in claims)
        self.held += claims

    def claim(self) -> None:
        asked = {
            "worker": self.rng.choice(("w1", "w2")),
            "nonce": token_hex(8),
            "free": self.rng.randint(0, 10),
            "lease_s": self.rng.choice((0.05, 1)),
            "alone": self.rng.random() < 0.7,
        }
        claims = self.engine.claim(**asked)
        if claims and self.rng.random() < 0.1:
            again = self.engine.claim(**asked)
            assert [c.job_id for c in again] == [c.job_id for c in claims]
        self.keep(*claims)

    def end(self) -> None:
        self.rng.shuffle(self.held)
        count = self.rng.randint(0, len(self.held))
        ended, self.held = self.held[:count], self.held[count:]
        outcomes = (
            *(Sent("1"),) * 6,
            SILENCE,
            FLOOD,
            Retry("429", after_s=0.5, pauses="account"),
            Retry("x", after_s=0.5, pauses="recipient"),
            Retry("y", after_s=0, pauses="nobody"),
            Unclear("?"),
        )
        found = [
            verdicts.verdict(c, self.rng.choice(outcomes), self.engine.settings) for c in ended
        ]
        found += map(verdicts.handed_back, self.held[:1])
        self.held = self.held[1:]
        self.engine.record(found)
        if self.rng.random() < 0.1:  # the answer was lost
            assert not any(self.engine.record(found))

    def sweep(self) -> None:
        leases_run_out(self.client, ())
        self.engine.die(*self.engine.store.overdue(15))

    def release(self) -> None:
        self.client.set("pr:served", 1)
        self.engine.store.release(0)

    def rqscheduler(self) -> None:
        schedule = "rq:scheduler:scheduled_jobs"
        for job in self.client.zrange(schedule, "-inf", time.time(), byscore=True, offset=0, num=9):
            self.client.zrem(schedule, job)
            origin = (self.client.hget(b"rq:job:" + job, "origin") or b"low").decode()
            self.client.rpush(f"rq:queue:{origin}", job)

    def rq_worker(self) -> None:
        job = self.client.lpop("rq:queue:" + self.rng.choice(("high", "default", "low")))
        if job and self.rng.random() < 0.8 and (claim := self.engine.stock(job.decode())):
            self.keep(claim)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_whatever_order_nothing_is_claimed_twice_and_all_of_it_ends(
    engine: Engine, client: redis.Redis, seed: int
) -> None:
    chaos = Chaos(engine, seed)
    for _ in range(300):
        chaos.step()

    def all_of_it_has_ended() -> bool:
        chaos.sweep()
        engine.store.rescue(0.5)
        engine.end(*engine.claim(), by=Sent("1"))
        counts = engine.store.counts()
        return counts.waiting == counts.sending == 0

    wait_until(all_of_it_has_ended, 40)
    engine.claim()
    left = {k for k in client.scan_iter("pr:*") if not k.startswith((b"pr:m:", b"pr:d:", b"pr:a:"))}
    assert not left & {b"pr:alone", b"pr:lines", b"pr:in:scheduled", b"pr:leases"}
    assert sum(client.llen(key) for key in client.scan_iter("rq:queue:*")) == 0
    assert client.zcard("rq:scheduler:scheduled_jobs") == 0
