"""Apprise's adapter: what a target is, what it takes, what the words of its places mean."""

import json

import pytest

from messengers.abilities import TakesFiles
from messengers.apprise import Apprise, Notification, Place, read_targets, secrets_in
from messengers.base import File, NoReply, Outbound, Rejected, Reply, Retry, Sent, Unclear

SLACK = "slack://TA1BCDEFG/B1234567/xXxXxXxXxXxX"
NTFY = "ntfy://ana:hemligt-ord@push.example.org/oncall-topic?priority=max&token=tk-abcdef"
OUT = Outbound("ops", "Hello", "351EIkkf1SpmhoPKEJTRQ-0")


def adapter(*places: Place) -> Apprise:
    return Apprise({"ops": places}).single()["ops"]


ONE = adapter(Place(SLACK, "Slack", takes_files=True, limit=100))
TWO = adapter(Place(SLACK, "Slack", takes_files=True), Place(NTFY, "ntfy"))


def told(*places: object) -> Reply:
    return Reply(200, json.dumps({"key": OUT.key, "places": places}).encode())


def failed(status: int | None = None, words: str = "no", *, left: bool = False) -> Reply:
    found = {"ok": False, "words": words, "left": left}
    return told(found | ({"status": status} if status else {}))


@pytest.mark.parametrize(
    "text",
    [
        f"ops={SLACK} oncall={NTFY} json://x/",
        f"ops={SLACK},oncall={NTFY},json://x/",
        f"\n  ops={SLACK}\n oncall={NTFY} ,\n json://x/\n",
        f"ops={SLACK} oncall={NTFY} oncall=json://x/",
    ],
)
def test_targets_are_read_however_they_are_parted(text: str) -> None:
    assert read_targets(text) == {"ops": (SLACK,), "oncall": (NTFY, "json://x/")}


def test_a_comma_within_a_url_belongs_to_it() -> None:
    url = "mailto://u:p@example.org?to=a@example.org,b@example.org"
    assert read_targets(f"a={url},b=json://x") == {"a": (url,), "b": ("json://x",)}


@pytest.mark.parametrize(
    "text", [SLACK, "ops=slack", "ops=", "ops slack://x", f"default={SLACK}", f"o/ps={SLACK}", "="]
)
def test_what_is_no_target_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="number 1") as refused:
        read_targets(text)
    assert "TA1BCDEFG" not in str(refused.value)


def test_every_part_of_a_url_that_may_be_secret_is_known() -> None:
    assert {SLACK, "TA1BCDEFG", "B1234567", "xXxXxXxXxXxX"} <= set(secrets_in(SLACK))
    known = set(secrets_in(NTFY))
    assert {NTFY, "ana:hemligt-ord", "hemligt-ord", "oncall-topic", "tk-abcdef"} <= known
    assert not {"push.example.org", "ana", "max"} & known
    assert "123456:AAHdqTcv" in set(secrets_in("tgram://123456:AAHdqTcv/12345"))


def test_an_unknown_target_is_refused_with_those_that_there_are() -> None:
    every = Apprise({"ops": (), "oncall": ()})
    assert every.check_recipient("ops") is None
    assert every.check_recipient("opps") == "is no target; there are oncall, ops"
    assert "oncall" in str(every.single()["oncall"].check_recipient("ops"))


def test_a_text_longer_than_a_service_takes_is_refused_by_its_name() -> None:
    assert ONE.check_text("x" * 100) is None
    assert ONE.check_text("x" * 101) == "has 101 characters; Slack takes 100"
    assert TWO.check_text("x" * 5000) is None  # they cut it themselves


def test_files_are_refused_where_one_place_takes_none() -> None:
    file = File("a.txt", "text/plain", 1)
    assert isinstance(ONE, TakesFiles)
    assert ONE.check_files([file], "") is None
    assert TWO.check_files([file], "") == (0, "cannot be sent: ntfy takes no files")
    half = File("b", "video/mp4", ONE.FILE_LIMIT // 2)
    assert ONE.check_files([half, half], "") is None
    assert (ONE.check_files([half, half, file], "") or (0,))[0] == 2
    assert (ONE.check_files([file, File("c", "text/plain", 0)], "") or (0,))[0] == 1


def test_a_notification_shows_neither_urls_nor_text() -> None:
    request = TWO.request_to(OUT, [1])
    assert request == Notification(OUT.key, (NTFY,), "Hello")
    shown = repr([TWO, request, TWO.described(), *map(str, TWO.places)])
    assert TWO.described() == "Slack (slack://***) and ntfy (ntfy://***)"
    assert not [s for s in (*secrets_in(SLACK), *secrets_in(NTFY), "Hello") if s and s in shown]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (told({"ok": True}), Sent(OUT.key)),
        (failed(400), Rejected("no")),
        (failed(404), Rejected("no")),
        (failed(413), Rejected("no")),
        (failed(401), Retry("no", pauses="account", refused=True)),
        (failed(403), Retry("no", pauses="account", refused=True)),
        (failed(429), Retry("no", pauses="account")),
        (failed(408), Retry("no")),
        (failed(500), Retry("no")),
        (failed(503), Retry("no")),
        (failed(), Retry("no")),
        (failed(words=""), Retry("Apprise did not say why")),
        (failed(left=True), Unclear("no")),
        (failed(302), Retry("no")),
    ],
)
def test_what_the_words_of_one_place_mean(reply: Reply, outcome: object) -> None:
    assert ONE.read(reply) == outcome


@pytest.mark.parametrize(("status", "kind"), [(401, Rejected), (404, Rejected), (429, Retry)])
def test_one_of_several_places_pauses_no_other(status: int, kind: type) -> None:
    reply = told({"ok": True}, {"ok": False, "words": "no", "status": status})
    assert TWO.read_each(reply, [0, 1]) == [Sent(OUT.key), kind("no")]


def test_no_answer_is_one_for_each() -> None:
    assert TWO.read_each(NoReply(left=False, reason="x"), [0, 1]) == [Retry("x")] * 2
    assert TWO.read_each(NoReply(left=True, reason="x"), [1]) == [Unclear("x")]
    assert [type(o) for o in TWO.read_each(told({"ok": True}), [0, 1])] == [Unclear] * 2


def test_words_that_quote_a_url_are_told_without_its_secrets() -> None:
    (outcome,) = ONE.read_each(failed(404, f"no {SLACK} for B1234567"), [0])
    assert outcome == Rejected("no *** for ***")
