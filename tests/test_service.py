"""The use cases: what is accepted, what an outcome means for a delivery, what the sweep finds."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import pytest
import redis

from messengers.base import (
    NoReply,
    Note,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Template,
    Unclear,
)
from postrider.errors import BadSignature, InvalidRequest, Misconfigured, NotFound
from postrider.model import Claim, NewMessage, Recipient, Signal, State, Verdict
from postrider.sender import DeliveryFailed
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.transport import Blocking
from tests.conftest import wait_until
from tests.fake import FakeMessenger, says

ANA = Recipient("42", "telegram")


def post(service: Service, *recipients: Recipient, body: str = "Hello") -> str:
    message, _ = service.accept(NewMessage(body, recipients or (ANA,)))
    return message.id


def claim(service: Service) -> Claim:
    (mine,) = service.sender.claim("w", 1).claims
    return mine


def where(service: Service) -> dict[str, str]:
    rows = [*service.scheduled(100, None).rows, *service.finished(100, None).rows]
    return {delivery.recipient.uuid: delivery.state.value for delivery, _ in rows}


# -- accepting


def test_exact_duplicates_are_dropped(service: Service) -> None:
    _, recipients = service.accept(NewMessage("x", (ANA, Recipient("7", "viber"), ANA)))
    assert recipients == (ANA, Recipient("7", "viber"))
    assert service.scheduled(10, None).total == 2


@pytest.mark.parametrize(
    ("message", "field", "says_so"),
    [
        (NewMessage("x", ()), "recipients", "names nobody"),
        (NewMessage("", (ANA,)), "body", "white space"),
        (NewMessage(" \n\t\u2003", (ANA,)), "body", "white space"),
        (NewMessage("a\0b", (ANA,)), "body", "NUL"),
        (NewMessage("a\ud800b", (ANA,)), "body", "surrogates"),
        (NewMessage("x" * 4097, (ANA,)), "body", "4096"),
        (
            NewMessage("x" * 5000, (Recipient("a", "sandbox"), ANA)),
            "body",
            r"recipients\[1\], telegram",
        ),
        (NewMessage("x", (ANA, Recipient("4 2", "telegram"))), "recipients[1].uuid", "integer"),
        (NewMessage("x", (Recipient("a\0", "sandbox"),)), "recipients[0].uuid", "NUL"),
        (NewMessage("x", (Recipient("a\udfff", "sandbox"),)), "recipients[0].uuid", "surrogates"),
        (
            NewMessage("x", (Recipient("1", "pigeon"),)),
            "recipients[0].service",
            "unknown messenger",
        ),
        (
            NewMessage("x", (Recipient("1", "telegram", "shop"),)),
            "recipients[0].account",
            "no account 'shop' here; it has default",
        ),
        (NewMessage("x", (ANA,), template=Template("hi", "en")), "template", "whatsapp"),
        (
            NewMessage("", (Recipient("49", "whatsapp"),), template=Template("NO!", "en")),
            "template",
            "name",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_with_field_and_reason(
    service: Service, client: redis.Redis, message: NewMessage, field: str, says_so: str
) -> None:
    with pytest.raises(InvalidRequest, match=says_so) as caught:
        service.accept(message)
    assert caught.value.field == field
    assert list(client.scan_iter()) == []


def test_a_messenger_that_is_not_set_up_says_which_settings_it_lacks(
    env: dict[str, str], service: Service
) -> None:
    del env["VIBER_AUTH_TOKEN"]
    settings = Settings.from_env(env, None)
    bare = Service(service.store, settings, open_accounts(settings))
    with pytest.raises(InvalidRequest, match="VIBER_AUTH_TOKEN"):
        post(bare, Recipient("1", "viber"))


def test_with_a_template_whatsapp_needs_no_body_but_others_do(service: Service) -> None:
    template = Template("hello_world", "en_US")
    service.accept(NewMessage("", (Recipient("49", "whatsapp"),), template=template))
    with pytest.raises(InvalidRequest, match="white space"):
        service.accept(NewMessage("", (Recipient("49", "whatsapp"), ANA), template=template))


def test_the_past_and_the_far_future_are_refused_by_redis_time(service: Service) -> None:
    now = service.store.now()
    with pytest.raises(InvalidRequest, match=r"^Date must be in a future!$"):
        service.accept(NewMessage("x", (ANA,), now - timedelta(milliseconds=1)))
    with pytest.raises(InvalidRequest, match="3660 days"):
        service.accept(NewMessage("x", (ANA,), now + timedelta(days=3661)))
    service.accept(NewMessage("x", (ANA,), now + timedelta(days=3659)))


def test_more_recipients_than_allowed_are_refused_with_the_limit(
    env: dict[str, str], service: Service
) -> None:
    settings = Settings.from_env(env | {"MAX_RECIPIENTS": "3"}, None)
    small = Service(service.store, settings, service.accounts)
    with pytest.raises(InvalidRequest, match="at most 3"):
        post(small, *(Recipient(str(n), "telegram") for n in range(4)))


# -- what an outcome means


def test_sent_ends_it(service: Service) -> None:
    post(service)
    verdict = service.sender.verdict(claim(service), Sent("1"))
    assert (verdict.state, verdict.due_in_s, verdict.counts) == (State.SENT, None, False)


def test_a_permanent_no_ends_it(service: Service) -> None:
    post(service)
    verdict = service.sender.verdict(claim(service), Rejected("blocked"))
    assert (verdict.state, verdict.due_in_s) == (State.FAILED, None)


def test_a_retry_backs_off_and_uses_up_a_try(service: Service) -> None:
    post(service)
    verdict = service.sender.verdict(claim(service), Retry("503"))
    assert (verdict.state, verdict.counts) == (State.RETRYING, True)
    assert verdict.due_in_s == pytest.approx(0.2, rel=0.26)


def test_a_wait_that_the_messenger_names_wins(service: Service) -> None:
    post(service)
    assert service.sender.verdict(claim(service), Retry("503", after_s=10_072)).due_in_s == 10_072


@pytest.mark.parametrize("pauses", ["account", "recipient"])
def test_waiting_for_a_rate_limit_is_no_attempt_however_often(
    service: Service, pauses: Literal["account", "recipient"]
) -> None:
    post(service)
    mine = claim(service)
    for alarm in range(1, 100):
        again = replace(mine, job_id=f"{mine.delivery_id}-{alarm}")
        verdict = service.sender.verdict(again, Retry("429", after_s=3.0, pauses=pauses))
        assert (verdict.state, verdict.pause_s, verdict.counts) == (State.RETRYING, 3.0, False)


def test_a_pause_that_names_no_wait_does_not_spin(service: Service) -> None:
    post(service)
    verdict = service.sender.verdict(claim(service), Retry("429", after_s=0.0, pauses="account"))
    assert verdict.pause_s is not None
    assert verdict.pause_s >= 0.5


def retried_out(service: Service, outcome: Retry | Unclear) -> list[Verdict]:
    post(service)
    verdicts = []
    while True:
        found = service.sender.claim("w", 1).claims
        if not found:
            waits = service.scheduled(1, None).total
            if not waits:
                return verdicts
            continue
        verdicts.append(service.sender.verdict(found[0], outcome))
        service.sender.record("w", verdicts[-1:])


def test_after_the_last_retry_it_fails(env: dict[str, str], service: Service) -> None:
    quick = Service(
        service.store, Settings.from_env(env | {"RETRY_INTERVAL": "0.001"}, None), service.accounts
    )
    verdicts = retried_out(quick, Retry("503"))
    assert [v.state for v in verdicts] == [State.RETRYING] * 5 + [State.FAILED]
    assert where(quick) == {"42": "failed"}


def test_an_unknown_is_sent_again_until_its_tries_are_used_up_and_then_held(
    env: dict[str, str], service: Service
) -> None:
    quick = Service(
        service.store, Settings.from_env(env | {"RETRY_INTERVAL": "0.001"}, None), service.accounts
    )
    verdicts = retried_out(quick, Unclear("no answer"))
    assert [v.state for v in verdicts] == [State.UNKNOWN] * 6
    assert [v.due_in_s is None for v in verdicts] == [False] * 5 + [True]
    assert where(quick) == {"42": "unknown"}


def test_an_unknown_waits_for_a_receipt_only_where_there_are_any(service: Service) -> None:
    post(service, ANA, Recipient("x", "viber"))
    claims = service.sender.claim("w", 2).claims
    waits = {c.recipient.service: service.sender.verdict(c, Unclear("?")).due_in_s for c in claims}
    assert waits == {"telegram": 0.0, "viber": 0.2}


def test_a_moved_chat_is_followed_once(service: Service) -> None:
    post(service)
    first = service.sender.verdict(claim(service), Retry("moved", after_s=0, moved_to="-1001"))
    assert (first.state, first.due_in_s, first.counts) == (State.RETRYING, 0.0, False)
    service.sender.record("w", [first])
    again = claim(service)
    assert again.to == "-1001"
    assert (
        service.sender.verdict(again, Retry("moved", after_s=0, moved_to="-1002")).state
        is State.FAILED
    )


def test_an_account_whose_settings_are_gone_waits_for_them(service: Service) -> None:
    post(service)
    bare = Service(service.store, service.settings, {})
    assert bare.sender.claim("w", 1).claims == []
    assert where(service) == {"42": "scheduled"}
    assert claim(service).attempts == 0


def test_an_adapter_that_breaks_counts_as_no_answer(service: Service) -> None:
    class Broken(type(service.accounts["telegram", "default"])):  # type: ignore[misc]
        def read(self, _: Reply) -> Sent:
            raise ZeroDivisionError

    post(service)
    adapter = Broken.from_env(service.settings.messenger_env())
    exchange = Service(
        service.store, service.settings, {("telegram", "default"): adapter}
    ).sender.attempt([claim(service)])
    next(exchange)
    with pytest.raises(StopIteration) as stop:
        exchange.send(Reply(200))
    assert stop.value.value[0].state is State.UNKNOWN


@pytest.mark.parametrize(("left", "state"), [(True, State.UNKNOWN), (False, State.RETRYING)])
def test_no_answer_is_unknown_only_if_something_can_have_left(
    service: Service, left: bool, state: State
) -> None:
    post(service)
    exchange = service.sender.attempt([claim(service)])
    next(exchange)
    with pytest.raises(StopIteration) as stop:
        exchange.send(NoReply(left, "because"))
    assert stop.value.value[0].state is state


# -- calls to many


def to_viber(service: Service, count: int, body: str = "Hello") -> list[Claim]:
    post(service, *(Recipient(f"{n:022d}==", "viber") for n in range(count)), body=body)
    return list(service.sender.claim("w", 1000).claims)


def ends(service: Service, claims: Sequence[Claim], reply: Reply) -> list[Verdict]:
    exchange = service.sender.attempt(claims)
    next(exchange)
    with pytest.raises(StopIteration) as stop:
        exchange.send(reply)
    return stop.value.value


def viber_says(**body: object) -> Reply:
    return Reply(200, json.dumps({"status": 0, "message_token": 7, **body}).encode())


def test_one_call_reaches_300_of_one_message(service: Service) -> None:
    claims = to_viber(service, 650)
    assert [len(call) for call in service.sender.calls(claims)] == [300, 300, 50]


def test_two_messages_never_share_a_call(service: Service) -> None:
    for n in range(2):
        post(service, *(Recipient(f"{n}{m}", "viber") for m in range(5)))
    claims = service.sender.claim("w", 100).claims
    calls = list(service.sender.calls(claims))
    assert [len({c.message.id for c in call}) for call in calls] == [1, 1]
    assert [len(call) for call in calls] == [5, 5]


def test_a_text_that_is_filled_in_for_each_goes_out_one_by_one(service: Service) -> None:
    claims = to_viber(service, 5, "Dear replace_me_with_name")
    assert [len(call) for call in service.sender.calls(claims)] == [1] * 5


@pytest.mark.parametrize(
    ("body", "calls"), [("Hello", 3), ("я" * 7000, 3), ("😀" * 7000, 20), ("replace_me_with_", 5)]
)
def test_no_more_calls_are_claimed_than_there_are_places_whatever_the_text(
    service: Service, body: str, calls: int
) -> None:
    post(service, *(Recipient(f"{n:022d}==", "viber") for n in range(900)), body=body)
    claims = service.sender.claim("w", calls).claims
    assert len(list(service.sender.calls(claims))) == calls


def test_one_that_goes_alone_or_finds_out_is_never_broadcast(service: Service) -> None:
    claims = to_viber(service, 4)
    marked = [replace(claims[0], how="probe"), replace(claims[1], how="alone"), *claims[2:]]
    assert sorted(len(call) for call in service.sender.calls(marked)) == [1, 1, 2]


def test_a_broadcast_is_one_sign_of_the_messengers_health(service: Service) -> None:
    verdicts = ends(service, to_viber(service, 3), viber_says())
    assert [v.state for v in verdicts] == [State.SENT] * 3
    assert [v.signal for v in verdicts] == [Signal.ANSWERS, Signal.NOTHING, Signal.NOTHING]


def test_whoever_failed_in_a_broadcast_says_nothing_of_the_account_and_each_waits_for_itself(
    service: Service,
) -> None:
    claims = to_viber(service, 4)
    rows = [
        {"receiver": claims[0].to, "status": 99, "status_message": "trouble"},
        {"receiver": claims[1].to, "status": 2, "status_message": "trouble"},
        {"receiver": claims[2].to, "status": 12, "status_message": "trouble"},
    ]
    verdicts = ends(service, claims, viber_says(failed_list=rows))
    assert [(v.state.value, v.counts) for v in verdicts] == [
        ("retrying", True),
        ("retrying", True),
        ("retrying", False),
        ("sent", False),
    ]
    assert [v.signal.name for v in verdicts] == [
        *("NOTHING", "NOTHING", "RECIPIENT_PAUSES", "ANSWERS"),
    ]


@pytest.mark.parametrize("status", [19, 20])
def test_an_account_that_may_not_broadcast_sends_one_by_one_for_good(
    service: Service, status: int
) -> None:
    claims = to_viber(service, 5)
    (call,) = service.sender.calls(claims)
    verdicts = ends(service, call, viber_says(status=status))
    assert {(v.state, v.due_in_s, v.counts) for v in verdicts} == {(State.RETRYING, 0.0, False)}
    service.sender.record("w", verdicts)
    again = list(service.sender.calls(service.sender.claim("w", 100).claims))
    assert [len(call) for call in again] == [1] * 5
    assert [len(call) for call in service.sender.calls(to_viber(service, 3))] == [1] * 3


def test_an_adapter_that_loses_count_of_its_broadcast_counts_as_no_answer(service: Service) -> None:
    class Miscounts(type(service.accounts["viber", "default"])):  # type: ignore[misc]
        def read_broadcast(self, _: Reply, __: Sequence[Outbound]) -> list[Outcome]:
            return [Sent("1")]

    adapter = Miscounts.from_env(service.settings.messenger_env())
    odd = Service(service.store, service.settings, {("viber", "default"): adapter})
    verdicts = ends(odd, to_viber(service, 3), viber_says())
    assert [v.state for v in verdicts] == [State.UNKNOWN] * 3


# -- delivering for a stock worker


def deliver(service: Service) -> None:
    job_ids = service.store.redis.zrange("rq:scheduler:scheduled_jobs", 0, 0)
    service.sender.deliver(job_ids[0].decode(), Blocking(service.keep_note))


def test_a_stock_delivery_is_sent_and_recorded(service: Service, messenger: FakeMessenger) -> None:
    post(service)
    deliver(service)
    assert [call.to for call in messenger.calls] == ["42"]
    assert where(service) == {"42": "sent"}


def test_a_second_run_of_the_same_job_sends_nothing(
    service: Service, messenger: FakeMessenger
) -> None:
    message_id = post(service)
    for _ in range(3):
        service.sender.deliver(f"{message_id}-0", Blocking(service.keep_note))
    assert len(messenger.calls) == 1


def test_a_stock_delivery_that_fails_says_so_to_rq(
    service: Service, messenger: FakeMessenger
) -> None:
    messenger.script = lambda _: says(
        403, ok=False, error_code=403, description="Forbidden: bot was blocked by the user"
    )
    post(service)
    with pytest.raises(DeliveryFailed, match="blocked by the user"):
        deliver(service)
    assert where(service) == {"42": "failed"}


@pytest.mark.parametrize("job_id", ["nonsense", "A" * 21 + "-0"])
def test_an_unknown_job_returns_quietly(service: Service, job_id: str) -> None:
    service.sender.deliver(job_id, Blocking(service.keep_note))


# -- sweeping


def test_the_sweep_ends_what_a_dead_worker_held(service: Service, client: redis.Redis) -> None:
    post(service)
    service.sender.claim("dead", 1, lease_s=0.01)
    service.sweep()  # the first one after a pause gives live workers time to renew
    client.delete("pr:patience")

    def found() -> bool:
        service.sweep()
        return where(service).get("42") == "unknown"

    wait_until(found, 3)
    again = claim(service)
    assert (again.alarm, again.attempts) == (1, 1)


def test_the_sweep_forgets_what_was_kept_long_enough(env: dict[str, str], service: Service) -> None:
    brief = Service(
        service.store,
        Settings.from_env(
            env | {"DELETE_FINISHED_TIMEOUT": "1", "DELETE_FAILED_TIMEOUT": "3600"}, None
        ),
        service.accounts,
    )
    post(brief, ANA, Recipient("43", "telegram"))
    sent, failed = brief.sender.claim("w", 2).claims
    brief.sender.record(
        "w", [brief.sender.verdict(sent, Sent("1")), brief.sender.verdict(failed, Rejected("no"))]
    )

    def forgotten() -> bool:
        brief.sweep()
        return len(where(brief)) == 1

    wait_until(forgotten, 3)
    assert list(where(brief).values()) == ["failed"]


# -- hearing from messengers


def test_a_webhook_that_nobody_set_up_is_not_found(service: Service) -> None:
    for name, account in [("pigeon", "default"), ("viber", "shop"), ("sandbox", "default")]:
        with pytest.raises(NotFound):
            service.webhooks.receive(name, account, {}, b"{}")


def test_an_unsigned_call_is_refused_and_leaves_nothing(
    service: Service, client: redis.Redis
) -> None:
    with pytest.raises(BadSignature):
        service.webhooks.receive("viber", "default", {"x-viber-content-signature": "00"}, b"{}")
    assert list(client.scan_iter()) == []


def test_a_sandbox_note_is_kept_once_per_key(service: Service) -> None:
    for _ in range(2):
        service.keep_note(Note("ana", "hello", "key-1"))
    assert [note["text"] for _, note in service.notes(10)] == ["hello"]


def test_no_secret_shows_in_what_is_logged(service: Service) -> None:
    request = service.accounts["telegram", "default"]
    assert "planted" not in repr(service.settings) + repr(request) + repr(service)
    assert "planted" not in repr(
        Request("POST", "https://x/planted", {"a": "planted"}, {"b": "planted"})
    )


def test_settings_without_a_password_refuse_to_serve(env: dict[str, str]) -> None:
    from postrider.web import create_app  # noqa: PLC0415

    del env["API_PASSWORD"]
    with pytest.raises(Misconfigured, match="API_PASSWORD"):
        create_app(Settings.from_env(env, None))
