"""Receipts against a real Redis: each edge of the table, and what repeats, comes early, late or for somebody else."""

import itertools
from datetime import UTC, datetime

import pytest
import redis
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from messengers.base import Outcome, Rejected, Retry, Sent, Unclear
from messengers.inward import Receipt
from postrider import verdicts
from postrider.model import LETTERS, MOVES, Claim, NewMessage, Recipient, State
from postrider.service import Service
from tests.conftest import wait_until

AT = datetime(2031, 1, 1, tzinfo=UTC)
ADA = Recipient("491701", "whatsapp")


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {"UNKNOWN_GRACE": "30", "WHATSAPP_RECIPIENT_RATE": "0", "RETRY_INTERVAL": "0.01"}


def post(service: Service, *recipients: Recipient) -> str:
    message, _ = service.accept(NewMessage("Hi", recipients or (ADA,)))
    return f"{message.id}-0"


def claim(service: Service) -> Claim:
    (mine,) = service.sender.claim("w", 1).claims
    return mine


def ends(service: Service, mine: Claim, outcome: Outcome) -> None:
    service.sender.record("w", [service.sender.verdict(mine, outcome)])


def sent(service: Service, provider_id: str = "wamid.1", to: Recipient = ADA) -> str:
    id_ = post(service, to)
    ends(service, claim(service), Sent(provider_id))
    return id_


def hear(service: Service, *receipts: Receipt, account: str = "whatsapp") -> dict[str, int]:
    return dict(service.receipts.take(account, receipts, finished_ttl_s=600, failed_ttl_s=600))


def receipt(state: str, provider_id: str = "wamid.1", **fields: str) -> Receipt:
    return Receipt(provider_id, state, AT, **fields)  # type: ignore[arg-type]


def state(service: Service, id_: str) -> str:
    rows = [*service.scheduled(100, None).rows, *service.finished(100, None).rows]
    return next((d.state.value for d, _ in rows if d.id == id_), "in flight")


def told(service: Service, id_: str) -> list[tuple[str, str]]:
    return [(r.state.value, r.reason) for r in service.receipts.of([id_])[id_]]


MOVED, EARLY, NO_NEWS = {"moved": 1}, {"early": 1}, {"news": 1}


# -- each edge


RECEIPTS = ("sent", "delivered", "read", "failed")


@pytest.mark.parametrize("order", list(itertools.product(RECEIPTS, repeat=3)), ids="-".join)
def test_in_whatever_order_they_come_a_delivery_goes_where_the_table_lets_it(
    service: Service, order: tuple[str, ...]
) -> None:
    id_ = sent(service)
    at, moves = State.SENT, []
    for said in order:
        news = State(said) in MOVES[at]
        if news:
            at = State(said)
            moves.append((said, ""))
        # What failed may be retried, but no receipt does that.
        assert hear(service, receipt(said)) == (MOVED if news else NO_NEWS)
    assert (state(service, id_), told(service, id_)) == (at.value, moves)


@pytest.mark.parametrize("said", RECEIPTS)
@pytest.mark.parametrize("waits", [True, False], ids=["waits for its resend", "on hold"])
def test_a_receipt_settles_what_got_no_answer_and_it_is_not_sent_again(
    service: Service, client: redis.Redis, said: str, *, waits: bool
) -> None:
    id_ = post(service)
    mine = claim(service)
    settings = service.settings.model_copy(update={"on_unknown": "resend" if waits else "hold"})
    service.sender.record("w", [verdicts.verdict(mine, Unclear("no answer"), settings, grace_s=30)])
    assert state(service, id_) == "unknown"

    assert hear(service, receipt(said, key=id_)) == MOVED

    assert state(service, id_) == said
    assert client.zcard("rq:scheduler:scheduled_jobs") == 0
    assert service.store.counts().waiting == service.store.counts().held == 0
    assert service.sender.claim("w", 1).claims == []
    registry = FailedJobRegistry if said == "failed" else FinishedJobRegistry
    other = FinishedJobRegistry if said == "failed" else FailedJobRegistry
    assert len(registry("default", connection=client).get_job_ids()) == 1
    assert other("default", connection=client).get_job_ids() == []


@pytest.mark.parametrize("letter", sorted(set(LETTERS.values()) - set("tdug")))
def test_no_receipt_moves_what_is_in_any_other_state(
    service: Service, client: redis.Redis, letter: str
) -> None:
    id_ = sent(service)
    mid, index = id_.split("-")
    raw = client.hget(f"pr:d:{mid}:0", index) or b""
    client.hset(f"pr:d:{mid}:0", index, letter.encode() + raw[1:])
    for said in RECEIPTS:
        assert "moved" not in hear(service, receipt(said, key=id_))
    assert (client.hget(f"pr:d:{mid}:0", index) or b"").startswith(letter.encode())


# -- before it is recorded


@pytest.mark.parametrize(
    ("early", "ends_as"),
    [
        (["delivered"], "delivered"),
        (["read", "delivered"], "read"),
        (["delivered", "read", "delivered"], "read"),
        (["failed"], "failed"),
        (["sent"], "sent"),
    ],
)
def test_receipts_that_come_before_the_answer_wait_for_it(
    service: Service, client: redis.Redis, early: list[str], ends_as: str
) -> None:
    id_ = post(service)
    mine = claim(service)
    for said in early:
        hear(service, receipt(said, reason="their words" if said == "failed" else ""))
    ends(service, mine, Sent("wamid.1"))
    assert state(service, id_) == ends_as
    assert client.keys("pr:early:*") == []
    finished = FinishedJobRegistry("default", connection=client).get_job_ids()
    failed = FailedJobRegistry("default", connection=client).get_job_ids()
    assert (finished, failed) == (([], [id_]) if ends_as == "failed" else ([id_], []))


@pytest.mark.parametrize(
    ("outcome", "without"),
    [(Unclear("no answer"), "unknown"), (Retry("503"), "retrying"), (Rejected("no"), "failed")],
)
@pytest.mark.parametrize("said", ["sent", "delivered", "read"])
def test_a_receipt_in_flight_outweighs_a_lost_answer(
    service: Service, client: redis.Redis, outcome: Outcome, without: str, said: str
) -> None:
    id_ = post(service)
    mine = claim(service)
    assert hear(service, receipt(said, key=id_)) == EARLY
    ends(service, mine, outcome)
    assert state(service, id_) == said
    assert client.zcard("rq:scheduler:scheduled_jobs") == 0
    other = post(service)
    ends(service, claim(service), outcome)
    assert state(service, other) == without


def test_what_is_early_for_nobody_is_gone_in_ten_minutes(
    service: Service, client: redis.Redis
) -> None:
    for n in range(20):
        assert hear(service, receipt("read"), receipt("delivered", f"wamid.{n}")) == {"early": 2}
    for key in client.keys("pr:early*"):
        assert 0 < client.ttl(key) <= 600
    assert max(client.llen(key) for key in client.keys("pr:early:*")) <= 8


# -- what is of somebody else, or of an earlier attempt


def test_one_id_stands_for_many_and_each_recipient_has_receipts_of_its_own(
    service: Service,
) -> None:
    tos = [Recipient(f"{n:022d}==", "viber") for n in range(3)]
    message, _ = service.accept(NewMessage("Hi", tuple(tos)))
    claims = service.sender.claim("w", 3).claims
    service.sender.record("w", [service.sender.verdict(c, Sent("77")) for c in claims])
    for said, to in (("read", 1), ("failed", 2)):
        assert hear(service, receipt(said, "77", to=tos[to].uuid), account="viber") == MOVED
    assert [state(service, f"{message.id}-{n}") for n in range(3)] == ["sent", "read", "failed"]


def test_another_account_cannot_speak_of_it(service: Service) -> None:
    id_ = sent(service)
    for account in ("whatsapp/shop", "viber"):
        for key in ("", id_):
            assert hear(service, receipt("read", key=key), account=account) == EARLY
    assert state(service, id_) == "sent"


def test_that_an_earlier_attempt_failed_says_nothing_of_the_last(service: Service) -> None:
    id_ = post(service)
    mine = claim(service)
    service.sender.record("w", [verdicts.verdict(mine, Unclear("lost"), service.settings)])
    again: list[Claim] = []
    wait_until(lambda: again or again.extend(service.sender.claim("w", 1).claims))
    ends(service, again[0], Sent("wamid.2"))
    assert hear(service, receipt("failed", "wamid.1", key=id_)) == NO_NEWS
    assert hear(service, receipt("delivered", "wamid.1", key=id_)) == MOVED
    assert state(service, id_) == "delivered"


def test_a_purged_delivery_is_nobodys_business_any_more(
    service: Service, client: redis.Redis
) -> None:
    sent(service)
    service.purge()
    assert hear(service, receipt("read")) == NO_NEWS
    assert client.keys("pr:d:*") == client.keys("pr:early:*") == []


@pytest.mark.parametrize("key", ["", "x", "0-0", "é", "A" * 21 + "-0", "A" * 21 + "-9999999"])
def test_a_key_of_nobody_finds_nobody(service: Service, key: str) -> None:
    assert hear(service, receipt("sent", key=key)) == NO_NEWS


# -- what it costs, and what is kept


def test_a_batch_is_taken_whole_in_bounded_parts(service: Service) -> None:
    to = tuple(Recipient(f"4917{n:06d}", "whatsapp") for n in range(1300))
    message, _ = service.accept(NewMessage("Hi", to))
    claims = [c for _ in range(2) for c in service.sender.claim("w", 1000).claims]
    service.sender.record(
        "w", [service.sender.verdict(c, Sent(f"wamid.{c.delivery_id}")) for c in claims]
    )
    ids = [f"{message.id}-{n}" for n in range(1300)]
    assert hear(service, *(receipt("delivered", f"wamid.{id_}") for id_ in ids)) == {"moved": 1300}
    assert {d.state for d, _ in service.finished(2000, None).rows} == {State.DELIVERED}


def test_what_is_sent_where_no_receipts_come_pays_nothing(
    service: Service, client: redis.Redis
) -> None:
    post(service, Recipient("42", "telegram"))
    ends(service, claim(service), Sent("1"))
    assert client.keys("pr:ids:*") == []


def test_looking_it_up_costs_at_most_100_bytes_a_delivery(
    service: Service, client: redis.Redis
) -> None:
    to = tuple(Recipient(f"4917{n:06d}", "whatsapp") for n in range(20_000))
    service.accept(NewMessage("Hi", to))
    while claims := service.sender.claim("w", 1000).claims:
        service.sender.record(
            "w", [service.sender.verdict(c, Sent(f"wamid.{c.delivery_id}")) for c in claims]
        )
    keys = client.keys("pr:ids:*")
    used = sum(client.memory_usage(key) or 0 for key in keys)
    assert sum(client.hlen(key) for key in keys) == 20_000
    assert all(client.ttl(key) > service.settings.delete_finished_timeout for key in keys)
    assert used / 20_000 <= 100


def test_receipts_are_kept_with_time_and_the_messengers_words_beside_the_attempts(
    service: Service,
) -> None:
    id_ = sent(service)
    hear(service, receipt("failed", reason="131026: Message undeliverable"))
    (kept,) = service.receipts.of([id_])[id_]
    assert (kept.at, kept.state, kept.reason) == (AT, State.FAILED, "131026: Message undeliverable")
    (attempt,) = service.store.attempts([id_])[id_]
    assert attempt.provider_id == "wamid.1"


def test_an_address_that_a_receipt_calls_dead_is_suppressed(service: Service) -> None:
    sent(service)
    hear(service, Receipt("wamid.1", "failed", AT, "131050: opted out", dead=True))
    found = service.suppressions.get("whatsapp", ADA.uuid)
    assert found
    assert (found.why, found.reason) == ("dead", "131050: opted out")


def test_a_late_answer_finds_a_delivery_that_a_receipt_has_settled(service: Service) -> None:
    id_ = post(service)
    mine = claim(service)
    ends(service, mine, Unclear("no answer"))
    hear(service, receipt("delivered", key=id_))
    ends(service, mine, Sent("wamid.1"))
    assert state(service, id_) == "delivered"
    assert hear(service, receipt("read")) == MOVED
