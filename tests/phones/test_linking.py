"""What becomes of a session, by what its sidecar says. Pure."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from messengers.phones import Link, LinkState, Trouble
from postrider.linking import EARLIEST, FIRST_S, LONGEST_S, Step, backoff_s, step
from postrider.sessions import Session, SessionState
from postrider.warmup import FIRST_DAY, GROWN, daily_cap

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AWAY = Trouble("away", "no answer in time")


class Least(random.Random):
    """Draws the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def follows(
    state: SessionState,
    found: LinkState | Trouble,
    *,
    standing_s: float = 1000,
    tried_s: float | None = None,
    **more: Any,
) -> Step:
    session = Session("shop", "shop", "", NOW, NOW, state, **more)
    link = found if isinstance(found, Trouble) else Link(found)
    times = {"standing_s": standing_s, "tried_s": tried_s}
    return step(session, link, check_s=600, rng=Least(), **times)


@pytest.mark.parametrize("state", ["starting", "scan", "passkey", "dropped", "linked"])
def test_who_is_linked_is_looked_at_in_the_interval(state: SessionState) -> None:
    assert follows(state, "linked") == Step("linked", look_in_s=600)


@pytest.mark.parametrize("waits", ["scan", "passkey"])
def test_who_waits_for_its_user_is_looked_at_often_and_left_alone(waits: LinkState) -> None:
    found = follows("starting", waits)
    assert (found.state, found.act) == (waits, None)
    assert found.look_in_s < 20


@pytest.mark.parametrize(
    ("found", "act"), [("failed", "restart"), ("stopped", "start"), ("missing", "create")]
)
def test_who_drops_is_brought_back_at_once_the_way_it_needs(found: LinkState, act: str) -> None:
    after = follows("linked", found)
    assert (after.state, after.act, after.tries) == ("dropped", act, 1)
    assert after.look_in_s == FIRST_S


def test_the_wait_between_two_tries_doubles_up_to_five_minutes() -> None:
    waits = [follows("dropped", "failed", tries=n, tried_s=10_000).look_in_s for n in range(9)]
    assert waits == [5, 10, 20, 40, 80, 160, LONGEST_S, LONGEST_S, LONGEST_S]


def test_who_is_looked_at_early_is_not_brought_back_again() -> None:
    early = follows("dropped", "failed", tries=3, tried_s=10)
    assert (early.act, early.tries) == (None, 3)
    assert early.look_in_s == EARLIEST * 20 - 10
    assert follows("dropped", "failed", tries=3, tried_s=10 + early.look_in_s).act == "restart"


def test_what_was_tried_before_it_stood_well_counts_no_more() -> None:
    assert follows("linked", "failed", tries=5, tried_s=60, standing_s=61).tries == 1
    assert follows("linked", "failed", tries=5, tried_s=60, standing_s=59).act is None
    assert follows("linked", "linked", tries=5, standing_s=61).tries == 0
    fresh = follows("linked", "linked", tries=5, standing_s=1)
    assert (fresh.tries, fresh.look_in_s) == (5, 60)


def test_a_sidecar_that_is_away_drops_the_phone_and_starts_nothing() -> None:
    after = follows("linked", AWAY)
    assert (after.state, after.act, after.reason) == ("dropped", None, "no answer in time")
    assert follows("scan", AWAY).state == "scan"
    assert follows("dropped", AWAY, tries=4).look_in_s == 80


def test_a_code_that_nobody_scanned_ends_it() -> None:
    after = follows("scan", "failed")
    assert (after.state, after.gives_up, after.act) == ("unlinked", True, None)
    assert after.look_in_s is None


def test_a_sidecar_that_forgot_it_while_it_was_to_be_scanned_makes_it_anew() -> None:
    assert follows("scan", "missing").act == "create"


def test_a_start_that_takes_too_long_is_begun_anew_but_not_at_each_look() -> None:
    assert follows("starting", "starting", standing_s=100).act is None
    assert follows("starting", "starting", standing_s=121).act == "restart"
    assert follows("starting", "starting", standing_s=500, tried_s=100).act is None
    assert follows("starting", "starting", standing_s=500, tried_s=121).act == "restart"


def test_a_phone_that_is_reached_again_is_away_until_it_is_there() -> None:
    after = follows("linked", "starting")
    assert (after.state, after.act) == ("dropped", None)


@pytest.mark.parametrize("found", ["linked", "starting", "scan", "passkey"])
def test_what_is_not_to_run_and_does_is_stopped(found: LinkState) -> None:
    after = follows("unlinked", found, wanted=False)
    assert (after.state, after.act) == ("unlinked", "stop")
    assert follows("stopped", found, wanted=False, tries=1, tried_s=1).act is None


@pytest.mark.parametrize("found", ["stopped", "failed", "missing"])
def test_what_is_not_to_run_and_rests_is_left_alone(found: LinkState) -> None:
    assert follows("unlinked", found, wanted=False) == Step("unlinked")
    assert follows("linked", found, wanted=False) == Step("stopped")


def test_the_waits_of_many_sessions_differ() -> None:
    rng = random.Random(1)
    waits = {backoff_s(3, rng) for _ in range(50)}
    assert len(waits) == 50
    assert all(16 <= wait <= 20 for wait in waits)


# -- warming up


def cap(days: float, cap: int = 200, over: int = 14) -> int:
    return daily_cap(cap, over, NOW, NOW + timedelta(days=days))


def test_a_new_phone_begins_with_few_and_comes_evenly_to_its_cap() -> None:
    grown = [cap(day) for day in range(16)]
    assert grown[0] == FIRST_DAY
    assert grown[14] == grown[15] == 200
    steps = {after - before for before, after in pairwise(grown[:15])}
    assert steps <= {12, 13}


def test_a_cap_below_the_first_days_holds_from_the_start() -> None:
    assert {cap(day, 5) for day in range(20)} == {5}


def test_without_a_cap_a_new_phone_is_warmed_up_all_the_same() -> None:
    assert cap(0, 0) == FIRST_DAY
    assert FIRST_DAY < cap(13, 0) < GROWN
    assert cap(14, 0) == 0


def test_without_a_warm_up_the_cap_holds_at_once() -> None:
    assert cap(0, 200, 0) == 200
    assert daily_cap(200, 14, None, NOW) == 200


def test_a_clock_that_is_behind_changes_nothing() -> None:
    assert cap(-3) == FIRST_DAY
