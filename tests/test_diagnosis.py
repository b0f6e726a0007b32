"""The diagnosis: what it finds in healthy and in broken set-ups, what it advises, whom it names."""

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from werkzeug.serving import make_server

from messengers.base import Person
from postrider import diagnosis
from postrider.diagnosis import Check, Report
from postrider.room import Memory
from postrider.service import Service
from postrider.settings import Settings
from postrider.web import create_app
from tests.certificates import make_certificate, tls_of
from tests.conftest import Api, redis_with
from tests.fake import Answer, FakeMessenger, introduces_itself, says

Examine = Callable[..., Report]


@pytest.fixture
def examine(
    env: dict[str, str],
    messenger: FakeMessenger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Examine:
    """Examines this set-up. Keywords are settings; None takes one away."""
    monkeypatch.chdir(tmp_path)
    messenger.script = introduces_itself

    def examined(**settings: str | None) -> Report:
        for name, value in ({"PUBLIC_URL": "https://example.org"} | env | settings).items():
            monkeypatch.setenv(name, value or "")
        return diagnosis.examine()

    return examined


def of(report: Report, name: str) -> Check:
    """The only check of that name."""
    [check] = [check for check in report.checks if check.name == name]
    return check


# -- all is well


@pytest.mark.usefixtures("worker")
def test_a_healthy_set_up_has_no_fault(examine: Examine, api: Api) -> None:
    report = examine(BIND=api.url.removeprefix("http://"))
    assert report.ok
    # The Redis of the tests may use all the memory there is.
    assert {c.name: c.state for c in report.checks} == {
        ".env": "ok",
        "settings": "ok",
        "PUBLIC_URL": "ok",
        "keys": "off",
        "at rest": "off",
        "Redis": "ok",
        "durability": "ok",
        "Redis memory": "warning",
        "clock": "ok",
        "workers": "ok",
        "deliveries": "ok",
        "API": "ok",
        "telegram": "ok",
        "viber": "ok",
        "whatsapp": "ok",
        "mail": "off",
        "apprise": "off",
        "whatsapp-web": "off",
        "sandbox": "ok",
    }
    assert of(report, "API").detail == f"{api.url}, for the user postrider"
    assert of(report, "telegram").detail == "we are @post_bot"
    assert of(report, "viber").detail == "we are Shop (shop)"
    assert of(report, "whatsapp").detail == "we are Shop (+49 30 123)"


def test_it_names_who_has_written(examine: Examine, service: Service) -> None:
    service.inbox.remember_people("viber/default", [Person("abc==", "Ben")])
    people = {account: list(them.values()) for account, them in examine().people.items()}
    assert people == {
        "telegram/default": [Person("42", "@ana (Ana)"), Person("-100123", "Choir [red]")],
        "viber/default": [Person("abc==", "Ben")],
    }


def test_it_counts_what_stands_where(examine: Examine, service: Service) -> None:
    client: Any = service.store.redis
    client.zadd("pr:in:scheduled", {"a-0": 4e9, "b-0": 4e9})
    client.zadd("pr:in:failed", {"c-0": 1})
    assert (
        of(examine(), "deliveries").detail
        == "2 waiting (0 queued), 0 being sent, 0 finished, 1 failed"
    )


# -- what is wrong


def assert_fault(report: Report, name: str, detail: str, remedy: str) -> None:
    check = of(report, name)
    assert check.state == "fault"
    assert detail in check.detail
    assert remedy in check.remedy
    assert not report.ok


def test_every_wrong_setting_is_named(examine: Examine) -> None:
    report = examine(TZ="Mars", WORKERS="many", TELEGRAM_BOT_TOKEN=None)
    faults = [check.detail for check in report.checks if check.state == "fault"]
    assert [fault.partition(":")[0] for fault in faults] == ["TZ", "WORKERS"]
    assert (report.ok, report.people) == (False, {})


def test_no_password_for_the_api(examine: Examine) -> None:
    assert_fault(examine(API_PASSWORD=None), "API", "API_PASSWORD is not set", "./run.sh")


def test_an_api_that_is_not_there(examine: Examine) -> None:
    check = of(examine(BIND="127.0.0.1:1"), "API")
    assert (check.state, check.detail) == (
        "warning",
        "http://127.0.0.1:1 does not answer: could not connect",
    )
    assert "./run.sh starts it" in check.remedy


def test_an_api_with_a_certificate_for_its_name(
    examine: Examine, settings: Settings, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "post.example.org")
    server = make_server(
        "127.0.0.1", 0, create_app(settings, sweeps=False), ssl_context=tls_of(certificate)
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        check = of(
            examine(
                BIND=f"127.0.0.1:{server.server_port}",
                TLS_CERT_FILE=str(certificate),
                TLS_KEY_FILE=str(certificate.with_name("key.pem")),
            ),
            "API",
        )
    finally:
        server.shutdown()
        server.server_close()
    assert (check.state, check.detail.partition("://")[0]) == ("ok", "https")


def test_something_else_where_the_api_should_be(examine: Examine, messenger: FakeMessenger) -> None:
    messenger.script = lambda call: (
        Answer(404) if call.path == "/healthz" else introduces_itself(call)
    )
    check = of(examine(BIND=messenger.url.removeprefix("http://")), "API")
    assert (check.state, check.detail.partition("answer: ")[2]) == ("warning", "HTTP 404")


def test_a_token_that_telegram_refuses(examine: Examine, messenger: FakeMessenger) -> None:
    unauthorized = says(401, ok=False, error_code=401, description="Unauthorized")
    messenger.script = lambda c: unauthorized if c.path.startswith("/bot") else introduces_itself(c)
    found = examine()
    assert_fault(found, "telegram", "refuses us: Unauthorized", "check TELEGRAM_BOT_TOKEN")
    assert not [call for call in messenger.calls if call.path.endswith("getUpdates")]


@pytest.mark.parametrize(
    ("answer", "state", "detail"),
    [
        (
            says(429, ok=False, error_code=429, description="Too Many Requests"),
            "warning",
            "not now",
        ),
        (says(502, ok=False, error_code=502, description="Bad Gateway"), "warning", "not now"),
        (Answer(200, b"<html>It works!</html>"), "fault", "makes no sense"),
        (Answer(302, b"", {"Location": "https://x.org"}), "fault", "makes no sense"),
        (says(400, ok=False, error_code=400, description="Bad Request"), "fault", "refuses us"),
        (Answer(cut=True), "fault", "cannot be asked"),
    ],
)
def test_what_else_a_messenger_may_say(
    answer: Answer, state: str, detail: str, examine: Examine, messenger: FakeMessenger
) -> None:
    messenger.script = lambda call: (
        answer if call.path.startswith("/bot") else introduces_itself(call)
    )
    check = of(examine(), "telegram")
    assert check.state == state
    assert check.detail.startswith(detail)
    assert check.remedy


def test_a_messenger_that_nobody_answers_for(examine: Examine) -> None:
    found = examine(VIBER_API_URL="http://127.0.0.1:1")
    assert_fault(found, "viber", "cannot be asked: could not connect", "VIBER_API_URL")


def test_updates_that_cannot_be_asked_for_are_no_fault(
    examine: Examine, messenger: FakeMessenger
) -> None:
    messenger.script = lambda c: (
        says(409, ok=False, error_code=409, description="Conflict")
        if c.path.endswith("getUpdates")
        else introduces_itself(c)
    )
    report = examine()
    assert of(report, "telegram").state == "ok"
    assert report.people["telegram/default"] == {}


def test_a_sidecar_without_a_session_names_how_to_link_a_phone(examine: Examine) -> None:
    found = of(examine(WAHA_URL="http://127.0.0.1:9"), "whatsapp-web")
    assert (found.state, found.detail) == ("off", "no phone is linked yet")
    assert found.remedy == "postrider sessions add NAME"


def test_what_is_not_set_up_names_what_it_lacks(examine: Examine) -> None:
    taken = dict.fromkeys(("TELEGRAM_BOT_TOKEN", "VIBER_AUTH_TOKEN", "WHATSAPP_ACCESS_TOKEN"))
    report = examine(**taken, SANDBOX="off", PUBLIC_URL=None)
    off = {c.name: c.remedy for c in report.checks if c.state == "off"}
    assert off == {
        "PUBLIC_URL": "",
        "keys": "",
        "at rest": "",
        "telegram": "set TELEGRAM_BOT_TOKEN",
        "viber": "set VIBER_AUTH_TOKEN",
        "mail": "set SMTP_URL and MAIL_FROM",
        "apprise": "set APPRISE_TARGETS",
        "whatsapp-web": "set WAHA_URL or GOWA_URL",
        "sandbox": "set SANDBOX=on",
    }
    half = of(report, "whatsapp")
    assert half.state == "warning"
    assert half.detail == "half set up: WHATSAPP_ACCESS_TOKEN is missing"


@pytest.mark.parametrize("url", [None, "http://example.org"])
def test_viber_needs_an_https_address(url: str | None, examine: Examine) -> None:
    found = examine(PUBLIC_URL=url)
    assert_fault(found, "PUBLIC_URL", "viber sends nothing", "postrider hooks set viber")


@pytest.mark.parametrize(
    ("flags", "detail", "remedy"),
    [
        (["--appendonly", "no"], "keeps no append-only file", "CONFIG SET appendonly yes"),
        (
            ["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"],
            "allkeys-lru",
            "CONFIG SET maxmemory-policy noeviction",
        ),
    ],
)
def test_a_redis_that_would_lose_messages(
    flags: list[str], detail: str, remedy: str, examine: Examine, tmp_path: Path
) -> None:
    with redis_with(tmp_path, *flags) as url:
        assert_fault(examine(REDIS_URL=url), "durability", detail, remedy)


def test_a_loss_that_was_accepted_is_no_fault(examine: Examine, tmp_path: Path) -> None:
    with redis_with(tmp_path) as url:
        check = of(examine(REDIS_URL=url, DURABILITY="none"), "durability")
    assert check.state == "ok"
    assert "DURABILITY=none" in check.detail


def test_a_redis_that_forbids_config_is_a_warning(
    examine: Examine, client: redis.Redis, redis_url: str
) -> None:
    client.acl_setuser(
        "guest",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-config"],
    )
    path = redis_url.removeprefix("unix://")
    check = of(examine(REDIS_URL=f"unix://guest:pw@{path}"), "durability")
    client.acl_deluser("guest")
    assert check.state == "warning"


def test_a_redis_that_refuses_what_we_need(
    examine: Examine, client: redis.Redis, redis_url: str
) -> None:
    client.acl_setuser("guest", enabled=True, passwords=["+pw"], commands=["+ping"])
    path = redis_url.removeprefix("unix://")
    found = examine(REDIS_URL=f"unix://guest:pw@{path}")
    client.acl_deluser("guest")
    assert_fault(found, "Redis", "fails a call: ", "ACL")


def test_a_redis_that_is_away_leaves_the_rest_to_be_told(examine: Examine, tmp_path: Path) -> None:
    found = examine(REDIS_URL=f"unix://{tmp_path}/none.sock")
    assert_fault(found, "Redis", "does not answer", "start that Redis")
    assert of(found, "telegram").state == "ok"
    assert found.people["telegram/default"]


def test_an_embedded_redis_that_is_away(examine: Examine) -> None:
    assert_fault(examine(REDIS_URL=None), "Redis", "does not answer", "./run.sh starts it")


def test_an_account_that_has_to_wait_says_why(examine: Examine, client: redis.Redis) -> None:
    client.hset("pr:account:viber", mapping={"until": "1900000000", "why": "Too Many Requests"})
    [found] = [check for check in examine().checks if "sends nothing" in check.detail]
    assert (found.name, found.state) == ("viber", "warning")
    assert found.detail == "sends nothing before 2030-03-17 17:46:40 UTC: Too Many Requests"


def test_an_account_that_is_refused_is_a_fault(examine: Examine, client: redis.Redis) -> None:
    pause = {"until": "1900000000", "kind": "x", "why": "Unauthorized"}
    client.hset("pr:account:viber", mapping=pause)
    [found] = [check for check in examine().checks if "sends nothing" in check.detail]
    assert (found.name, found.state) == ("viber", "fault")
    assert "correct its settings" in found.remedy


def test_no_worker(examine: Examine) -> None:
    assert_fault(examine(), "workers", "none is alive", "./run.sh starts them")
    assert_fault(
        examine(WORKERS="0"), "workers", "none is alive", "start rqscheduler and rq worker"
    )


def test_events_that_no_courier_takes(
    examine: Examine, client: redis.Redis, service: Service
) -> None:
    now = service.store.now()
    service.outbox.tell("message.received", {}, now - timedelta(seconds=5))
    assert "callbacks" not in {check.name for check in examine().checks}
    client.delete("pr:outbox")
    service.outbox.tell("message.received", {}, now - timedelta(minutes=2))
    (found,) = (check for check in examine().checks if check.name == "callbacks")
    assert found.state == "fault"
    assert found.detail.startswith("1 events wait to be posted, the oldest for 12")
    assert "postrider courier starts one" in found.remedy


def test_deliveries_that_are_late_or_unknown(examine: Examine, client: redis.Redis) -> None:
    client.zadd("pr:in:held", {"a-0": 1})
    held = of(examine(), "deliveries")
    assert (held.state, held.detail[:9]) == ("warning", "1 unknown")
    client.zadd("pr:in:scheduled", {"b-0": 1, "c-0": 4e9})
    late = of(examine(), "deliveries")
    assert (late.state, late.detail[:28]) == ("warning", "1 are more than 30 s late; 2")


def test_what_is_stopped_and_how_to_undo_it(
    examine: Examine, client: redis.Redis, service: Service
) -> None:
    assert not [check for check in examine().checks if check.name == "stops"]
    service.changes.stop("all", "ana", service.store.now())
    client.zadd("pr:in:scheduled", {"b-0": 1})
    report = examine()
    found = of(report, "stops")
    assert found.state == "warning"
    assert found.detail.startswith("everything is stopped since ")
    assert found.detail.endswith("by ana")
    assert "postrider go-on" in found.remedy
    assert "stopped above" in of(report, "deliveries").remedy


def test_misspelt_settings(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TELEGRAM_BOT_TOKN=1:x\nAPI_PASSWORD_FILE=\nMY_OWN=1\n")
    found = of(examine(), "misspelt")
    assert found.detail.startswith("TELEGRAM_BOT_TOKN is no setting")
    assert found.detail.endswith("do you mean TELEGRAM_BOT_TOKEN?")


@pytest.mark.parametrize(
    ("used", "limit", "state", "detail"),
    [
        (1023, 0, "warning", "1023 B used, and no limit"),
        (512 * 1024, 1024**2, "ok", "512 KiB of 1 MiB used (50%)"),
        (7 * 1024**3, 10 * 1024**3, "warning", "7.0 GiB of 10.0 GiB used (70%)"),
        (85, 100, "fault", "85 B of 100 B used (85%): nothing more is accepted"),
    ],
)
def test_memory_is_judged_by_its_limit(used: int, limit: int, state: str, detail: str) -> None:
    check = diagnosis.judge_memory(Memory(used, limit, waiting=0))
    assert check.state == state
    assert check.detail.startswith(detail)


def test_memory_counts_what_waiting_deliveries_will_take() -> None:
    check = diagnosis.judge_memory(Memory(60_000_000, 100_000_000, waiting=100_000))
    assert check.state == "fault"
    assert "(60%), 122% once all that waits is sent: nothing more is accepted" in check.detail


@pytest.mark.parametrize(
    ("here", "state", "detail"),
    [
        (1000.0, "ok", "within 0.001 s"),
        (1002.0, "ok", "within 2.000 s"),
        (1002.1, "fault", "2.1 s ahead of Redis's"),
        (997.5, "fault", "2.5 s behind Redis's"),
    ],
)
def test_a_clock_may_be_two_seconds_off(here: float, state: str, detail: str) -> None:
    check = diagnosis.judge_clock(here, 1000.0)
    assert check.state == state
    assert check.detail.startswith(detail)


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o640, "warning"), (0o604, "warning")])
def test_env_is_for_its_owner_only(mode: int, state: str, examine: Examine, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TZ=Asia/Tokyo\n")
    (tmp_path / ".env").chmod(mode)
    report = examine()
    check = of(report, ".env")
    assert check.state == state
    assert ("chmod 600" in check.remedy) == (state == "warning")
    assert "Asia/Tokyo" in of(report, "settings").detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_env_that_cannot_be_read(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / ".env").touch(0o000)
    report = examine()
    assert not report.ok
    assert ".env: cannot be read" in report.checks[-1].detail
