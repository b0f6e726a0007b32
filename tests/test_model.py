"""The words of the service: the table of moves, ids."""

from datetime import UTC, datetime, timedelta

import pytest

from postrider.model import ALPHABET, LETTERS, MOVES, State, new_message_id

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FINAL = {
    State.SENT,
    State.DELIVERED,
    State.READ,
    State.FAILED,
    State.CANCELLED,
    State.EXPIRED,
    State.SUPPRESSED,
}


def test_every_state_stands_in_the_table_and_has_a_letter_of_its_own() -> None:
    assert set(MOVES) == set(State)
    assert len(set(LETTERS.values())) == len(State)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_final_is_ever_sent_without_being_asked_to_retry(state: State) -> None:
    assert State.SENDING not in MOVES[state]


@pytest.mark.parametrize("state", sorted(set(State) - FINAL - {State.SENDING, State.PAUSED}))
def test_what_waits_can_be_claimed(state: State) -> None:
    assert State.SENDING in MOVES[state]


def test_every_state_but_the_first_can_be_reached() -> None:
    reached = {to for moves in MOVES.values() for to in moves}
    assert reached == set(State)


def test_ids_are_in_order_of_time_and_short() -> None:
    ids = [new_message_id(NOW + timedelta(milliseconds=n)) for n in range(2_000)]
    assert ids == sorted(ids)
    assert {len(i) for i in ids} == {21}
    assert set("".join(ids)) <= set(ALPHABET)


def test_ids_of_the_same_moment_differ() -> None:
    assert len({new_message_id(NOW) for _ in range(10_000)}) == 10_000


def test_the_last_year_that_can_be_written_still_fits() -> None:
    assert len(new_message_id(datetime(2900, 1, 1, tzinfo=UTC))) == 21
