"""Linked phones against a sidecar that behaves: added, linked, dropped, brought back, unlinked, stopped, forgotten."""

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from messengers.phones import Code
from messengers.waha import Waha
from postrider.errors import IllegalTransition, InvalidRequest, NotFound, Unavailable
from postrider.model import Client
from postrider.phones import SERVICE
from postrider.sessions import Session
from tests.conftest import wait_until
from tests.phones.rig import NUMBER, USER, Rig
from tests.sidecar import CODES, Sidecar

KEY = Client("k1", "shop", "sender")
OTHER = Client("k2", "other", "sender")


class Watch:
    """Keeps what it is told of codes."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.over: list[str] = []

    def scans(self, _: Session, code: Code) -> None:
        self.codes.append(code.text)

    def settled(self, session: Session) -> None:
        self.over.append(session.id)


@pytest.fixture
def watch(rig: Rig) -> Watch:
    found = Watch()
    rig.phones.watchers.append(found)
    return found


# -- linking


def test_a_session_is_added_scanned_and_linked(rig: Rig, watch: Watch) -> None:
    assert rig.phones.add(USER, "shop").state == "starting"
    scanning = rig.look_until("scan")
    assert scanning.number == ""
    assert watch.codes == [rig.sidecar.sessions["shop"]["code"]]
    assert rig.phones.code(USER, "shop").text == watch.codes[0]
    rig.sidecar.scan("shop")
    linked = rig.look_until("linked")
    assert (linked.number, linked.phone, linked.code) == (NUMBER, "Shop", "")
    assert linked.linked_at is not None
    assert watch.over == ["shop"]
    assert rig.told() == []


def test_the_sidecar_is_told_where_to_post_and_what_to_sign_with(rig: Rig) -> None:
    rig.phones.add(USER, "shop")
    (hook,) = rig.sidecar.sessions["shop"]["config"]["webhooks"]
    assert hook["url"].endswith("/hooks/whatsapp-web/shop")
    assert hook["hmac"] == {"key": "planted-hook-secret"}
    assert "session.status" in hook["events"]


def test_no_code_is_kept_in_redis(rig: Rig, client: redis.Redis) -> None:
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    code = rig.sidecar.sessions["shop"]["code"].encode()
    assert code
    values = b"".join(
        b"".join(client.hgetall(key).values())
        for key in client.keys("pr:*")
        if client.type(key) == b"hash"
    )
    assert b"scan" in values
    assert code not in values


def test_each_code_is_shown_once_and_after_six_nobody_is_waited_for(rig: Rig, watch: Watch) -> None:
    rig.sidecar.reset(scale=0.004)  # 240 ms, then 80 ms each
    rig.phones.add(USER, "shop")
    wait_until(lambda: rig.look().state == "unlinked", 15)
    assert 1 <= len(watch.codes) == len(set(watch.codes)) <= CODES
    after = rig.session()
    assert (after.wanted, after.code) == (False, "")
    assert "start it again" in after.reason
    assert watch.over[-1] == "shop"
    asked = len(rig.sidecar.requests)
    rig.look()
    assert [r["method"] for r in rig.sidecar.requests[asked:]] == ["GET"]  # nothing is started
    rig.phones.start(USER, "shop")
    assert rig.sidecar.status("shop") != ""


def test_who_starts_again_after_six_codes_gets_new_ones(rig: Rig) -> None:
    rig.sidecar.reset(scale=0.004)
    rig.phones.add(USER, "shop")
    wait_until(lambda: rig.look().state == "unlinked", 15)
    rig.sidecar.spoil("slow", "^GET /api/sessions/other$", value=0)  # a rule for nobody
    rig.phones.start(USER, "shop")
    wait_until(lambda: rig.look().state in {"scan", "unlinked"}, 15)
    assert rig.sidecar.sessions["shop"]["codes_shown"] >= 1


def test_a_passkey_is_asked_for_answered_and_confirmed(rig: Rig) -> None:
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    rig.sidecar.scan("shop", passkey=True, confirms=True)
    rig.look_until("passkey")
    assert rig.phones.passkey(USER, "shop").challenge["rpId"] == "web.whatsapp.com"
    assert ["asks for the passkey" in text for text in rig.told()] == [True]
    answer = {"id": "a", "rawId": "a", "type": "public-key", "response": {"signature": "s"}}
    rig.phones.answer_passkey(USER, "shop", answer)
    assert rig.phones.passkey(USER, "shop").code == "1234"
    rig.phones.answer_passkey(USER, "shop", {})
    assert rig.look_until("linked").number == NUMBER


def test_a_pairing_code_is_given_for_a_number(rig: Rig) -> None:
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    assert rig.phones.pair(USER, "shop", "+375447034810") == "ABCD-EFGH"
    for wrong in ("", "12a45", "1234", "1" * 16, "١٢٣٤٥٦"):
        with pytest.raises(InvalidRequest, match="number"):
            rig.phones.pair(USER, "shop", wrong)


def test_a_code_that_is_not_there_is_no_fault_of_ours(rig: Rig) -> None:
    rig.linked()
    with pytest.raises(IllegalTransition, match="not allow that now"):
        rig.phones.code(USER, "shop")


# -- dropping


def test_a_phone_that_drops_is_brought_back_and_told_of_once_and_once_when_it_is_there(
    rig: Rig,
) -> None:
    rig.linked()
    rig.sidecar.drop("shop")
    assert rig.look().state == "dropped"
    rig.look_until("linked")
    assert rig.session().tries == 1  # it has not stood well for long
    assert [r["path"] for r in rig.sidecar.requests if r["path"].endswith("/restart")] == [
        "/api/sessions/shop/restart"
    ]
    first, second = rig.told()
    assert "has dropped" in first
    assert "is there again" in second


def test_a_phone_that_stays_away_is_brought_back_with_backoff_however_often_it_is_looked_at(
    rig: Rig,
) -> None:
    rig.linked()
    rig.sidecar.drop("shop", away=True)
    for _ in range(30):
        rig.look()
    wait_until(lambda: rig.sidecar.status("shop") == "FAILED", 5)
    for _ in range(30):
        rig.look()
    restarts = [r for r in rig.sidecar.requests if r["path"].endswith("/restart")]
    assert len(restarts) == 1
    due = rig.service.store.redis.zscore("pr:sessions:due", "shop")
    assert due - rig.service.store.now().timestamp() < 6
    assert len(rig.told()) == 1
    rig.sidecar.come_back("shop")
    assert rig.look().state == "linked"
    assert len(rig.told()) == 2


def test_the_next_try_comes_when_its_time_has_come(rig: Rig) -> None:
    rig.linked()
    rig.sidecar.drop("shop", away=True)
    rig.look()
    wait_until(lambda: rig.sidecar.status("shop") == "FAILED", 5)
    rig.later(6)
    assert rig.look().tries == 2


@pytest.mark.parametrize("status", ["STOPPED", "FAILED"])
def test_what_its_sidecar_has_stopped_is_started(rig: Rig, status: str) -> None:
    rig.linked()
    rig.sidecar.drop("shop", status)
    rig.look()
    rig.look_until("linked")


def test_a_phone_that_unlinks_us_is_told_of_and_can_be_linked_again(rig: Rig, watch: Watch) -> None:
    first = rig.linked()
    rig.sidecar.unlink("shop")
    rig.look_until("scan")
    dropped, unlinked = rig.told()
    assert "has dropped" in dropped
    assert "is no longer linked" in unlinked
    assert rig.session().number == ""
    rig.sidecar.scan("shop")
    again = rig.look_until("linked")
    assert again.linked_at == first.linked_at  # the same number need not be warmed up again
    assert "is there again" in rig.told()[-1]
    assert len(watch.codes) == 2


def test_another_number_is_warmed_up_anew(rig: Rig) -> None:
    first = rig.linked()
    rig.phones.logout(USER, "shop")
    rig.phones.start(USER, "shop")
    rig.look_until("scan")
    rig.sidecar.scan("shop", "375290000000")
    again = rig.look_until("linked")
    assert first.linked_at is not None
    assert again.linked_at is not None
    assert again.linked_at > first.linked_at
    assert again.number == "375290000000"


def test_a_banned_phone_is_tried_no_more_often_than_any(rig: Rig) -> None:
    rig.linked()
    rig.sidecar.ban("shop")
    for _ in range(10):
        rig.look()
    assert rig.session().state == "dropped"
    assert len([r for r in rig.sidecar.requests if r["path"].endswith("/restart")]) == 1


# -- stopping


def test_stop_keeps_the_phone_and_start_finds_it(rig: Rig) -> None:
    rig.linked()
    assert rig.phones.stop(USER, "shop").state == "stopped"
    assert rig.sidecar.sessions["shop"]["number"] == NUMBER
    assert rig.look().state == "stopped"
    assert rig.phones.start(USER, "shop").state == "starting"
    assert rig.look_until("linked").number == NUMBER
    assert rig.told() == []


def test_logout_unlinks_and_shows_no_code_until_it_is_started(rig: Rig, watch: Watch) -> None:
    rig.linked()
    shown = len(watch.codes)
    assert rig.phones.logout(USER, "shop").state == "unlinked"
    assert rig.sidecar.sessions["shop"]["number"] == ""
    wait_until(lambda: rig.sidecar.status("shop") == "STOPPED", 5)
    assert rig.look().state == "unlinked"
    assert len(watch.codes) == shown
    rig.phones.start(USER, "shop")
    rig.look_until("scan")
    assert len(watch.codes) == shown + 1


def test_what_runs_though_it_is_to_rest_is_stopped(rig: Rig) -> None:
    rig.linked()
    rig.phones.stop(USER, "shop")
    rig.sidecar.come_back("shop")
    assert rig.sidecar.status("shop") == "WORKING"
    assert rig.look().state == "stopped"
    assert rig.sidecar.status("shop") == "STOPPED"


def test_starting_what_is_there_changes_nothing(rig: Rig) -> None:
    before = rig.linked()
    assert rig.phones.start(USER, "shop").state == "linked"
    assert rig.look().since == before.since
    assert rig.sidecar.status("shop") == "WORKING"


def test_restart_keeps_the_phone(rig: Rig) -> None:
    rig.linked()
    rig.phones.restart(USER, "shop")
    rig.look_until("linked")
    assert rig.session().number == NUMBER


def test_delete_forgets_the_session_here_and_there(rig: Rig) -> None:
    rig.linked()
    rig.phones.delete(USER, "shop")
    assert rig.sidecar.sessions == {}
    assert (SERVICE, "shop") not in rig.service.accounts
    with pytest.raises(NotFound):
        rig.phones.get(USER, "shop")
    rig.phones.look("shop")  # a look that was under way
    assert rig.sidecar.sessions == {}


def test_a_name_is_taken_once_by_each_owner(rig: Rig) -> None:
    rig.phones.add(USER, "shop")
    with pytest.raises(IllegalTransition, match="already"):
        rig.phones.add(USER, "shop")
    rig.phones.add(KEY, "shop")
    assert sorted(rig.sidecar.sessions) == ["shop", "shop_k1"]


def test_each_sees_its_own_and_an_admin_all(rig: Rig) -> None:
    rig.phones.add(USER, "shop")
    rig.phones.add(KEY, "mine")
    for name in ("mine", "mine_k1", "shop"):
        with pytest.raises(NotFound):
            rig.phones.get(OTHER, name)
    assert rig.phones.get(KEY, "mine").id == rig.phones.get(USER, "mine_k1").id == "mine_k1"
    assert [s.id for s in rig.phones.page(KEY, 10, None)[0]] == ["mine_k1"]
    assert [s.id for s in rig.phones.page(USER, 10, None)[0]] == ["mine_k1", "shop"]


# -- whose account


def test_a_client_names_its_own_or_one_that_is_shared(rig: Rig) -> None:
    rig.phones.add(USER, "all", shared=True)
    rig.phones.add(USER, "house")
    rig.phones.add(KEY, "mine")
    of = rig.phones.account_of
    assert of("mine", "k1") == of("mine_k1", "k1") == of("default", "k1") == "mine_k1"
    assert of("all", "k1") == of("all", "k2") == "all"
    assert of("house", "k1") == of("mine", "k2") == of("mine_k1", "k2") == of("default", "k2") == ""
    assert of("house", "") == "house"
    assert of("default", "") == ""  # it has two
    with pytest.raises(InvalidRequest, match="shares"):
        rig.phones.add(KEY, "x", shared=True)


def test_a_message_to_nobodys_session_is_refused(rig: Rig) -> None:
    rig.phones.add(USER, "house")
    with pytest.raises(InvalidRequest, match="no session 'house' of yours"):
        rig.post(account="house", owner="k1")


# -- a sidecar in trouble


def test_a_session_that_is_added_while_the_sidecar_is_away_is_made_when_it_is_back(
    env: dict[str, str], client: redis.Redis, tmp_path: Path
) -> None:
    with Sidecar(state=tmp_path / "state") as own:
        rig = Rig.of(env | own.env(), client, own)
        own.end()
        new = rig.phones.add(USER, "shop")
        assert "sidecar" in new.reason
        assert rig.look().state == "starting"
        own.start()
        rig.look_until("scan")
        own.scan("shop")
        rig.look_until("linked")

        # away for a while
        own.end()
        assert rig.look().state == "dropped"
        assert len(rig.told()) == 1
        with pytest.raises(Unavailable):
            rig.phones.code(USER, "shop")

        # started anew, with what it kept; it starts nothing by itself
        own.start()
        assert own.status("shop") == "STOPPED"
        rig.later(60)
        assert rig.look().state == "dropped"
        assert rig.look_until("linked").number == NUMBER
        assert len(rig.told()) == 2

        # started anew, and all is lost there
        own.end()
        (tmp_path / "state").unlink()
        own.start()
        rig.later(60)
        assert rig.look().state == "dropped"
        rig.look_until("scan")
        assert "is no longer linked" in " ".join(rig.told())


class Remakes(Waha):
    """A sidecar that makes a new code whenever it is asked for one."""

    remakes_codes = True


def test_a_pairing_code_is_not_ended_by_the_next_qr_code(rig: Rig) -> None:
    assert rig.phones.phone is not None
    remakes = Remakes(rig.sidecar.url, rig.sidecar.key)
    rig.phones.accounts.phone = replace(rig.phones.phone, driver=remakes)
    rig.sidecar.reset(scale=0.1)

    def asked() -> int:
        return len([r for r in rig.sidecar.requests if r["path"].endswith("/auth/qr")])

    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    shown = asked()
    assert rig.phones.pair(USER, "shop", NUMBER) == "ABCD-EFGH"
    rig.later(100)
    assert rig.look().state == "scan"
    assert asked() == shown
    rig.later(100)
    rig.look()
    assert asked() == shown + 1


def test_garbage_drops_a_phone_and_breaks_nothing(rig: Rig) -> None:
    rig.linked()
    rig.sidecar.spoil("garbage", "/api/sessions")
    assert rig.look().state == "dropped"
    rig.sidecar.heal()
    rig.look_until("linked")


def test_a_key_that_is_refused_is_said(rig: Rig) -> None:
    rig.linked()
    rig.sidecar.reset(key="another")
    after = rig.look()
    assert (after.state, after.reason) == ("dropped", "Unauthorized")
    with pytest.raises(Unavailable, match="Unauthorized"):
        rig.phones.restart(USER, "shop")


def test_who_loses_the_race_writes_nothing_and_looks_again(rig: Rig) -> None:
    before = rig.linked()
    sessions, change = rig.phones.sessions, rig.phones.sessions.change
    rig.sidecar.drop("shop")

    def late(session: Session, **new: object) -> Session | None:
        sessions.change = change  # type: ignore[method-assign]
        change(session, reason="somebody else was first")
        return change(session, **new)

    sessions.change = late  # type: ignore[method-assign]
    rig.look()
    assert rig.session().state == before.state
    assert rig.session().reason == "somebody else was first"
    assert rig.phones.sessions.take_due(10, 60) == ["shop"]
    assert not [r for r in rig.sidecar.requests if r["path"].endswith("/restart")]


def test_two_accounts_of_one_moment_are_the_same_for_who_reads_them(rig: Rig) -> None:
    rig.linked()
    seen = rig.service.accounts.items()
    rig.linked("other", "375290000000")
    assert (SERVICE, "other") not in dict(seen)
    assert (SERVICE, "other") in rig.service.accounts


def test_all_processes_show_one_code_of_a_sidecar_that_makes_a_new_one_each_time(
    rig: Rig, env: dict[str, str], client: redis.Redis
) -> None:
    other = Rig.of(env, client, rig.sidecar)
    for one in (rig, other):
        assert one.phones.phone is not None
        remakes = Remakes(rig.sidecar.url, rig.sidecar.key)
        one.phones.accounts.phone = replace(one.phones.phone, driver=remakes)
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    shown = {one.phones.code(USER, "shop").text for one in (rig, other, rig)}
    assert len([r for r in rig.sidecar.requests if r["path"].endswith("/auth/qr")]) == 1
    (text,) = shown
    kept = client.get("pr:session:shown:shop")
    assert kept
    assert text.encode() not in kept
    assert 0 < client.pttl("pr:session:shown:shop") <= 60_000
    rig.sidecar.scan("shop", NUMBER)
    rig.look_until("linked")
    assert not client.exists("pr:session:shown:shop")


def test_a_code_that_was_shown_is_taken_back_when_its_session_is_stopped(
    rig: Rig, watch: Watch
) -> None:
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    over = len(watch.over)
    rig.phones.stop(USER, "shop")  # as the API does: what shows codes is another process
    rig.look()
    assert watch.over[over:] == ["shop"]
    rig.look()
    assert watch.over[over:] == ["shop"]


def test_a_pairing_code_that_could_not_be_had_keeps_no_qr_code_back(rig: Rig) -> None:
    assert rig.phones.phone is not None
    remakes = Remakes(rig.sidecar.url, rig.sidecar.key)
    rig.phones.accounts.phone = replace(rig.phones.phone, driver=remakes)
    rig.sidecar.reset(scale=0.1)
    rig.phones.add(USER, "shop")
    rig.look_until("scan")
    rig.sidecar.spoil("status", "POST .*/request-code", value=500)
    with pytest.raises(Unavailable):
        rig.phones.pair(USER, "shop", NUMBER)
    asked = len(rig.sidecar.requests)
    rig.look()
    assert [r["path"] for r in rig.sidecar.requests[asked:]][-1].endswith("/auth/qr")
