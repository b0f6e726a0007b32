"""Every filter, alone and together, finds exactly what a look at all deliveries finds; pages neither repeat nor skip."""

import random
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis

from postrider.changes import Changes
from postrider.errors import InvalidRequest
from postrider.finding import Finder, Found, Wanted
from postrider.model import Attempt, NewMessage, Recipient, State, Verdict, new_message_id
from postrider.store import Store
from tests.test_changes import SPECS, TTL

OWNERS = ("", "k1", "k2")


@pytest.fixture(scope="module")
def dice() -> random.Random:
    return random.Random(7)


@pytest.fixture
def finder(client: redis.Redis, dice: random.Random) -> Finder:
    """Over 60 messages of every kind, with deliveries in every state that the engine gives them."""
    store, changes = Store(client), Changes(client)
    for n in range(60):
        now = store.now()
        count = dice.choice((1, 1, 2, 5, 130))
        recipients = tuple(
            Recipient(str(dice.randrange(40)), dice.choice(("telegram", "sandbox")))
            for _ in range(count)
        )
        new = NewMessage(
            f"text {n}",
            tuple(dict.fromkeys(recipients)),
            now + timedelta(seconds=dice.choice((0, 3600))),
            owner=dice.choice(OWNERS),
            reference=dice.choice(("", "order-1", "order-2")),
            tags=tuple(dice.sample(["a", "b", "c"], dice.randrange(3))),
        )
        store.accept(new_message_id(now), new, now)
    claims = store.claim("w", "1", SPECS, 15).claims
    ends = (State.SENT, State.FAILED, State.RETRYING, State.UNKNOWN, State.EXPIRED)
    verdicts = [
        Verdict(
            c, state, Attempt(c.at, c.at, "sent", "why"), 60 if state is State.RETRYING else None
        )
        for c in claims[: len(claims) // 2]
        if (state := dice.choice(ends))
    ]
    store.record("w", verdicts, **TTL)
    finder = Finder(client)
    everything = all_of(finder, Wanted())
    changes.deliveries("cancel", [f.delivery.id for f in everything[::7]])
    changes.deliveries("pause", [f.delivery.id for f in everything[::5]])
    return finder


def all_of(finder: Finder, wanted: Wanted, page: int = 1000) -> list[Found]:
    return list(finder.all_deliveries(wanted, page))


FILTERS: dict[str, Callable[[Found], bool]] = {
    "service=telegram": lambda f: f.delivery.recipient.service == "telegram",
    "uuid=7": lambda f: f.delivery.recipient.uuid == "7",
    "reference=order-1": lambda f: f.message.reference == "order-1",
    "tag=a": lambda f: "a" in f.message.tags,
    "owner=k1": lambda f: f.message.owner == "k1",
    "owner=": lambda f: f.message.owner == "",
    **{
        f"state={state}": lambda f, state=state: f.delivery.state is state
        for state in State
        if state not in {State.SCHEDULED, State.DELIVERED, State.READ, State.SUPPRESSED}
    },
}


@pytest.mark.parametrize("page", [1, 7, 1000])
@pytest.mark.parametrize("first", FILTERS)
def test_filters_find_what_a_look_at_all_finds(finder: Finder, first: str, page: int) -> None:
    everything = all_of(finder, Wanted())
    assert len({f.delivery.id for f in everything}) == len(everything) > 300
    for second, fits in FILTERS.items():
        if first.partition("=")[0] == second.partition("=")[0] and first != second:
            continue
        wanted = Wanted(**dict(text.split("=") for text in (first, second)))  # type: ignore[arg-type]
        found = [f.delivery.id for f in all_of(finder, wanted, page)]
        expected = {f.delivery.id for f in everything if FILTERS[first](f) and fits(f)}
        assert len(found) == len(set(found))
        assert set(found) == expected
        if page == 1:
            break


def test_nothing_is_lost_between_reference_and_message_lists(finder: Finder) -> None:
    for wanted in (Wanted(), Wanted(owner="k2"), Wanted(tag="b", reference="order-2")):
        messages, cursor, by_message = [], None, 0
        while True:
            page, cursor = finder.messages(wanted, 3, cursor)
            messages += page
            if cursor is None:
                break
        ids = [summary.message.id for summary in messages]
        assert ids == sorted(set(ids), reverse=True)
        found = all_of(finder, wanted)
        assert set(ids) == {f.message.id for f in found}
        by_message = sum(sum(summary.counts.values()) for summary in messages)
        assert by_message == len(found)


def test_what_is_due_is_queued_and_the_rest_is_scheduled(
    finder: Finder, client: redis.Redis
) -> None:
    now = Store(client).now()
    for state in ("queued", "scheduled"):
        found = all_of(finder, Wanted(state=state))
        assert {f.state(now) for f in found} == ({state} if found else set())
    assert all_of(finder, Wanted(state="scheduled"))


def test_a_span_of_time_is_that_of_acceptance(finder: Finder) -> None:
    everything = all_of(finder, Wanted())
    times = sorted({f.message.accepted_at for f in everything})
    low, high = times[len(times) // 3], times[len(times) // 2]
    for state in (None, "sent", "cancelled"):
        found = all_of(finder, Wanted(state=state, accepted_from=low, accepted_to=high))
        # ids know milliseconds
        expected = {
            f.delivery.id
            for f in everything
            if int(low.timestamp() * 1000) <= int(f.message.accepted_at.timestamp() * 1000)
            and int(f.message.accepted_at.timestamp() * 1000) < int(high.timestamp() * 1000)
            and (state is None or f.delivery.state == state)
        }
        assert {f.delivery.id for f in found} == expected


def test_one_delivery_and_one_message_are_there_for_their_owner_only(finder: Finder) -> None:
    found = next(f for f in all_of(finder, Wanted()) if f.message.owner == "k1")
    for owner, there in ((None, True), ("k1", True), ("k2", False), ("", False)):
        assert (finder.delivery(found.delivery.id, owner) is not None) == there
        assert (finder.message(found.message.id, owner) is not None) == there
        inside = all_of(finder, Wanted(message=found.message.id, owner=owner))
        assert bool(inside) == there


@pytest.mark.parametrize("id_", ["", "x", "0" * 21, "0" * 21 + "-0", "../" * 7, "é" * 21])
def test_an_unknown_id_is_nobodys(finder: Finder, id_: str) -> None:
    assert finder.delivery(id_, None) is None
    assert finder.message(id_, None) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "e30",
        "W10",
        "WyJtZXNzYWdlcyBwcjptZXNzYWdlcyIsIFsiYSIsICJiIl1d",
        "\0",
        "é",
        "W" * 9000,
        # ["messages pr:messages", ["AAAAAAAAAAAAAAAAAAAAA", true]], and the same with that id alone
        "WyJtZXNzYWdlcyBwcjptZXNzYWdlcyIsIFsiQUFBQUFBQUFBQUFBQUFBQUFBQUFBIiwgdHJ1ZV1d",
        "WyJtZXNzYWdlcyBwcjptZXNzYWdlcyIsICJBQUFBQUFBQUFBQUFBQUFBQUFBQUEiXQ",
    ],
)
def test_a_cursor_that_is_none_of_ours_is_refused(finder: Finder, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        finder.deliveries(Wanted(), 10, cursor)
    with pytest.raises(InvalidRequest):
        finder.messages(Wanted(), 10, cursor)


def test_messages_of_a_messenger_are_found_by_whichever_list_is_walked(
    client: redis.Redis,
) -> None:
    store = Store(client)
    ours = (("telegram", "k1", "a"), ("sandbox", "k1", "a"))
    others = (("telegram", "", ""), ("sandbox", "", "")) * 3
    for service, owner, tag in ours + others:
        now = store.now()
        new = NewMessage("Hi", (Recipient("1", service),), owner=owner, tags=(tag,) if tag else ())
        store.accept(new_message_id(now), new, now)
    for wanted in (Wanted(owner="k1", service="telegram"), Wanted(tag="a", service="sandbox")):
        found, _ = Finder(client).messages(wanted, 10)
        assert [s.message.services for s in found] == [(wanted.service,)]


def test_a_cursor_belongs_to_its_filters(finder: Finder) -> None:
    _, cursor = finder.deliveries(Wanted(uuid="7"), 1)
    assert cursor
    with pytest.raises(InvalidRequest):
        finder.deliveries(Wanted(state="sent"), 1, cursor)
