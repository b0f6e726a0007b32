"""What an outcome means for its delivery and its account. Pure functions, so literals only."""

from datetime import UTC, datetime
from typing import Any

import pytest

from messengers.base import Outcome, Rejected, Retry, Sent, Unclear
from postrider.model import Claim, Message, Recipient, Signal, State, Verdict
from postrider.settings import Settings
from postrider.verdicts import FREE_PROBES, died, handed_back, verdict

NOW = datetime(2031, 1, 1, tzinfo=UTC)
MID = "0" * 21
MESSAGE = Message(MID, "Hi", NOW, NOW, timed=False, total=1)
SETTINGS = Settings(retry_interval=10, retry_count=5)
HOLD = Settings(retry_interval=10, retry_count=5, on_unknown="hold")


def claim(*, alarm: int = 0, to: str = "42", **fields: Any) -> Claim:
    job_id = f"{MID}-0" if alarm == 0 else f"{MID}-0-{alarm}"
    return Claim(job_id, NOW, Recipient("42", "telegram"), to, fields.pop("attempts", 0), MESSAGE, **fields)  # fmt: skip


def judged(outcome: Outcome, settings: Settings = SETTINGS, grace_s: float = 0, **of: Any) -> Verdict:  # fmt: skip
    return verdict(claim(**of), outcome, settings, grace_s=grace_s)


# -- ends


def test_a_yes_ends_it_with_the_providers_id() -> None:
    found = verdict(claim(), Sent("17"), SETTINGS, took_s=2)
    assert (found.state, found.due_in_s, found.counts) == (State.SENT, None, False)
    assert found.signal is Signal.ANSWERS
    assert found.attempt is not None
    assert (found.attempt.outcome, found.attempt.provider_id) == ("sent", "17")
    assert (found.attempt.ended_at - found.attempt.started_at).total_seconds() == 2


def test_a_permanent_no_ends_it_in_the_messengers_words_and_is_an_answer() -> None:
    found = judged(Rejected("blocked"))
    assert (found.state, found.due_in_s, found.counts) == (State.FAILED, None, True)
    assert found.signal is Signal.ANSWERS
    assert found.attempt is not None
    assert found.attempt.reason == "blocked"


# -- a passing trouble


@pytest.mark.parametrize(("attempts", "wait_s"), [(0, 10), (1, 20), (2, 40), (4, 160)])
def test_a_passing_trouble_uses_up_a_try_and_waits_twice_as_long_each_time(
    attempts: int, wait_s: float
) -> None:
    found = judged(Retry("503"), attempts=attempts)
    assert (found.state, found.counts, found.signal) == (State.RETRYING, True, Signal.FAILS)
    assert found.due_in_s is not None
    assert 0.75 * wait_s <= found.due_in_s <= wait_s


def test_with_the_last_try_used_up_it_fails() -> None:
    found = judged(Retry("503"), attempts=5)
    assert (found.state, found.due_in_s, found.signal) == (State.FAILED, None, Signal.FAILS)


def test_without_retries_the_first_trouble_fails_it() -> None:
    assert judged(Retry("503"), Settings(retry_count=0)).state is State.FAILED


@pytest.mark.parametrize("attempts", [0, 3])
def test_a_wait_that_the_messenger_names_wins(attempts: int) -> None:
    assert judged(Retry("503", after_s=10_072), attempts=attempts).due_in_s == 10_072
    assert judged(Retry("503", after_s=0), attempts=attempts).due_in_s == 0


@pytest.mark.parametrize("pauses", [None, "account", "recipient"])
def test_no_wait_is_longer_than_a_day(pauses: Any) -> None:
    found = judged(Retry("later", after_s=1e9, pauses=pauses))
    assert max(found.due_in_s or 0, found.pause_s or 0) == 86_400


# -- what waits without a try


@pytest.mark.parametrize("attempts", [0, 5, 50])
def test_a_paused_account_uses_up_no_try_and_the_delivery_is_due_at_once(attempts: int) -> None:
    found = judged(Retry("429", after_s=30, pauses="account"), attempts=attempts)
    assert (found.state, found.counts, found.due_in_s) == (State.RETRYING, False, 0)
    assert (found.signal, found.pause_s) == (Signal.PAUSES, 30)


def test_an_account_paused_without_a_wait_is_paused_as_long_as_we_see_fit() -> None:
    assert judged(Retry("401", pauses="account")).pause_s is None


@pytest.mark.parametrize("pauses", ["account", "recipient"])
@pytest.mark.parametrize("after_s", [0, 0.1, -5])
def test_a_pause_is_never_so_short_that_it_spins(pauses: Any, after_s: float) -> None:
    found = judged(Retry("429", after_s=after_s, pauses=pauses))
    assert found.pause_s == 0.5


def test_a_recipients_pause_holds_the_delivery_as_long_as_the_recipient() -> None:
    found = judged(Retry("slow down", after_s=60, pauses="recipient"))
    assert (found.signal, found.pause_s, found.due_in_s) == (Signal.RECIPIENT_PAUSES, 60, 60)
    assert not found.counts


def test_a_recipients_pause_without_a_wait_grows_with_each_alarm() -> None:
    waits = [judged(Retry("x", pauses="recipient"), alarm=n).pause_s for n in (0, 1, 2)]
    assert waits == [pytest.approx(w * 0.875, rel=0.15) for w in (10, 20, 40)]


def test_what_holds_nobody_goes_again_at_once() -> None:
    found = judged(Retry("not so", pauses="nobody"), attempts=3)
    assert (found.state, found.due_in_s, found.counts) == (State.RETRYING, 0, False)
    assert found.signal is Signal.ANSWERS


# -- an address that has moved


def test_a_moved_address_is_followed_at_once() -> None:
    found = judged(Retry("moved", after_s=0, moved_to="-1001"))
    assert (found.state, found.moved_to, found.due_in_s) == (State.RETRYING, "-1001", 0)
    assert not found.counts


@pytest.mark.parametrize(("to", "moved_to"), [("-1001", "-1002"), ("-1001", "42"), ("42", "42")])
def test_an_address_that_keeps_moving_or_moves_to_itself_is_given_up(
    to: str, moved_to: str
) -> None:
    assert judged(Retry("moved", moved_to=moved_to), to=to).state is State.FAILED


# -- probes


def test_a_failed_probe_uses_up_no_try() -> None:
    found = judged(Retry("503", after_s=3600), how="probe", attempts=5)
    assert (found.state, found.counts, found.due_in_s) == (State.RETRYING, False, 0)
    assert found.signal is Signal.FAILS


def test_a_delivery_does_not_probe_for_ever() -> None:
    found = judged(Retry("503"), how="probe", attempts=5, alarm=FREE_PROBES)
    assert found.state is State.FAILED


# -- no answer


def test_no_answer_waits_for_a_receipt_and_counts() -> None:
    found = judged(Unclear("no answer"), grace_s=15)
    assert (found.state, found.due_in_s, found.counts) == (State.UNKNOWN, 15, True)
    assert found.signal is Signal.FAILS


def test_no_answer_again_waits_longer_than_for_a_receipt() -> None:
    assert judged(Unclear("?"), grace_s=0).due_in_s == 0
    again = judged(Unclear("?"), grace_s=15, attempts=3)
    assert again.due_in_s is not None
    assert 30 <= again.due_in_s <= 40


@pytest.mark.parametrize(
    ("settings", "attempts"), [(SETTINGS, 5), (HOLD, 0), (Settings(retry_count=0), 0)]
)
def test_no_answer_goes_on_hold_when_no_try_is_left_or_none_is_wanted(
    settings: Settings, attempts: int
) -> None:
    found = judged(Unclear("?"), settings, grace_s=15, attempts=attempts)
    assert (found.state, found.due_in_s) == (State.UNKNOWN, None)


# -- a dead worker


def test_what_a_worker_died_with_is_sent_again_alone_and_says_nothing_of_the_account() -> None:
    found = died(claim(), SETTINGS)
    assert (found.state, found.due_in_s, found.deaths) == (State.UNKNOWN, 0, 0)
    assert (found.counts, found.signal) == (True, Signal.NOTHING)


@pytest.mark.parametrize(("deaths", "then"), [(0, 1), (1, 2)])
def test_only_deaths_of_lone_ones_count(deaths: int, then: int) -> None:
    found = died(claim(deaths=deaths, how="alone", attempts=1), SETTINGS)
    assert (found.state, found.deaths) == (State.UNKNOWN, then)


def test_the_third_lone_death_fails_it_and_says_why() -> None:
    found = died(claim(deaths=2, how="alone", attempts=3), SETTINGS)
    assert (found.state, found.due_in_s, found.signal) == (State.FAILED, None, Signal.NOTHING)
    assert found.attempt is not None
    assert found.attempt.reason.startswith("crashed_worker")


def test_hold_holds_what_a_worker_died_with() -> None:
    assert died(claim(), HOLD).due_in_s is None


# -- handed back


@pytest.mark.parametrize(("attempts", "state"), [(0, State.SCHEDULED), (2, State.RETRYING)])
def test_what_is_handed_back_is_as_if_it_had_not_been_claimed(attempts: int, state: State) -> None:
    found = handed_back(claim(attempts=attempts, deaths=1, how="alone"))
    assert (found.state, found.due_in_s, found.counts, found.attempt) == (state, 0, False, None)
    assert (found.signal, found.deaths) == (Signal.HANDED_BACK, 1)
