"""accounts.toml: what it may hold, every fault at once, and accounts that stand for themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from postrider.diagnosis import examine
from postrider.errors import Misconfigured
from postrider.model import NewMessage, Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests.conftest import Api, Start, wait_until
from tests.fake import FakeMessenger

Write = Callable[..., Settings]


@pytest.fixture
def write(env: dict[str, str], tmp_path: Path) -> Write:
    """Writes the file and gives the settings that name it. Keywords are further settings."""

    def write(text: str, **more: str) -> Settings:
        path = tmp_path / "accounts.toml"
        path.write_text(text)
        path.chmod(0o600)
        return Settings.from_env(env | {"ACCOUNTS_FILE": str(path)} | more, None)

    return write


def faults(settings: Settings) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        open_accounts(settings)
    return [fault.partition("accounts.toml: ")[2] for fault in caught.value.faults]


def test_there_need_be_no_file(settings: Settings) -> None:
    assert {name for _, name in open_accounts(settings)} == {"default"}


def test_a_table_is_an_account_and_what_it_leaves_out_is_the_environments(write: Write) -> None:
    settings = write('[telegram.shop]\ntoken = "9:shop"\n[viber.shop]\nauth_token = "v"\n')
    accounts: Any = open_accounts(settings)
    assert accounts["telegram", "shop"].token == "9:shop"
    assert accounts["telegram", "shop"].base_url == settings.telegram_api_url.rstrip("/")
    assert accounts["viber", "shop"].token == "v"
    assert ("telegram", "default") in accounts


def test_ids_and_secrets_of_the_environment_are_no_other_accounts(write: Write) -> None:
    told = faults(write('[whatsapp.shop]\ntoken = "t"\n[telegram.shop]\nrate = 3\n'))
    assert told == [
        "whatsapp.shop: phone_number_id is missing",
        "telegram.shop: bot_token is missing",
    ]


def test_a_secret_may_stand_in_a_file_beside_it(write: Write, tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("9:file\n")
    accounts: Any = open_accounts(write('[telegram.shop]\ntoken_file = "shop"\n'))
    assert accounts["telegram", "shop"].token == "9:file"


def test_an_account_has_limits_of_its_own(write: Write, client: redis.Redis) -> None:
    settings = write(
        '[telegram.shop]\ntoken = "9:s"\nrate = 5\ndaily_cap = 7\nconcurrency = 2\n'
        '[telegram.club]\ntoken = "9:c"\nrecipient_rate = 0.5\n'
    )
    limits = Service(Store(client), settings, open_accounts(settings)).sender.limits
    shop, club, default = (limits["telegram", n] for n in ("shop", "club", "default"))
    assert (shop.rate, shop.daily_cap, shop.places) == (5, 7, 2)
    assert shop.recipient_rate == default.recipient_rate == settings.telegram_recipient_rate
    assert (club.rate, club.recipient_rate, club.places) == (settings.telegram_rate, 0.5, None)


def test_every_fault_is_named_at_once_and_no_secret_with_it(write: Write) -> None:
    told = faults(
        write(
            '[pigeon.x]\ntoken = "planted"\n'
            '[telegram]\ntoken = "planted"\n'
            '[telegram.default]\ntoken = "1:planted"\n'
            '[telegram."a b"]\ntoken = "1:planted"\n'
            '[telegram.b]\ntoken = "1:planted"\ntokn = "planted"\nrate = -1\nconcurrency = "planted"\n'
            '[telegram.c]\ntoken = ["planted"]\n'
            '[telegram.d]\ntoken_file = "none"\n'
            '[telegram.e]\ntoken = "1:planted"\nbot_token = "planted"\n'
            '[telegram.f]\ntoken = " "\napi_url = "ftp://planted"\n'
            '[telegram.h]\ntoken = "planted"\n'
            '[whatsapp.g]\ntoken = "planted"\nphone_number_id = "planted"\n'
        )
    )
    assert "planted" not in "".join(told)
    assert [fault.partition(": ")[0] for fault in told] == [
        "pigeon",
        "telegram.token",
        "telegram.default",
        "telegram.a b",
        *("telegram.b.tokn", "telegram.b.rate", "telegram.b.concurrency"),
        "telegram.c.token",
        "telegram.d.token_file",
        "telegram.e.bot_token",
        *("telegram.f.token", "telegram.f.api_url"),
        "telegram.h.token",
        "whatsapp.g.phone_number_id",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[telegram.a]\ntoken = "planted', "cannot be read as TOML (at end of document)"),
        ("telegram = 5", "telegram.: belongs below a line [telegram.NAME]"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_not_what(
    write: Write, text: str, says: str
) -> None:
    assert faults(write(text)) == [says]


def test_bytes_that_are_no_utf_8_are_refused(write: Write) -> None:
    settings = write("")
    settings.accounts_file.write_bytes(b"\xff")
    assert faults(settings) == ["is not UTF-8"]


def test_a_token_does_not_show_in_what_is_made_of_it(write: Write) -> None:
    accounts = open_accounts(write('[telegram.shop]\ntoken = "9:planted"\n'))
    assert "planted" not in repr(accounts) + repr(accounts.paces)


def test_a_file_that_others_can_read_is_warned_of(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    settings = write('[telegram.shop]\ntoken = "9:shop"\n')
    settings.accounts_file.chmod(0o644)
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    checks = {check.name: check for check in examine().checks}
    assert checks["accounts.toml"].state == "warning"
    assert checks["telegram/shop"].name == "telegram/shop"  # and it is asked who it is


def test_the_api_does_not_start_on_a_file_with_faults(
    start: Start, tmp_path: Path, env: dict[str, str]
) -> None:
    (tmp_path / "accounts.toml").write_text("[telegram.shop]\n")
    for command in ("api", "worker", "preflight"):
        assert start("postrider", command).wait(30) == 2
    log = (tmp_path / "processes.log").read_text()
    assert log.count("accounts.toml: telegram.shop: bot_token is missing") == 3


def test_a_delivery_goes_out_by_the_account_it_names(
    write: Write, client: redis.Redis, messenger: FakeMessenger, start: Start
) -> None:
    settings = write('[telegram.shop]\ntoken = "9:shop"\n')
    service = Service(Store(client), settings, open_accounts(settings))
    start("postrider", "worker", ACCOUNTS_FILE=str(settings.accounts_file))
    service.accept(NewMessage("Hi", (Recipient("42", "telegram", "shop"),)))
    wait_until(lambda: client.zcard("pr:in:sent"), 15, "a send")
    (call,) = messenger.took
    assert "9:shop" in call.path


# -- /api/v1/accounts


@pytest.fixture
def two(write: Write, env: dict[str, str]) -> None:
    settings = write('[telegram.shop]\ntoken = "9:planted-shop"\nrate = 5\nconcurrency = 3\n')
    env["ACCOUNTS_FILE"] = str(settings.accounts_file)


@pytest.mark.usefixtures("two")
def test_accounts_are_listed_with_their_state_and_no_secret(client: redis.Redis, api: Api) -> None:
    client.hset(
        "pr:account:telegram/shop",
        mapping={"until": "1900000000", "kind": "x", "why": "Unauthorized"},
    )
    client.zadd("pr:line:d telegram/shop", {"a": 1, "b": 2})
    answer = api.get("/api/v1/accounts")
    assert answer.status_code == 200
    found = {(a["service"], a["name"]): a for a in answer.json()["accounts"]}
    assert found["telegram", "shop"] == {
        "service": "telegram",
        "name": "shop",
        "state": "paused",
        "pause": {
            "until": "2030-03-17T17:46:40Z",
            "kind": "refused",
            "reason": "Unauthorized",
        },
        "waiting": 2,
        "rate": 5.0,
        "recipient_rate": 0.0,
        "daily_cap": 0,
        "concurrency": 3,
    }
    assert (found["sandbox", "default"]["state"], found["sandbox", "default"]["pause"]) == (
        "open",
        None,
    )
    assert "planted" not in answer.text


@pytest.mark.usefixtures("two")
def test_accounts_are_paged_without_a_gap(api: Api) -> None:
    whole = api.get("/api/v1/accounts").json()
    found: list[Any] = []
    cursor = None
    while True:
        page = api.get("/api/v1/accounts", params={"limit": 2, "cursor": cursor}).json()
        found += page["accounts"]
        assert page["total"] == whole["total"] == len(whole["accounts"])
        if (cursor := page["next"]) is None:
            break
    assert found == whole["accounts"]


def test_the_list_of_accounts_needs_a_login_and_a_cursor_of_ours(api: Api) -> None:
    assert api.get("/api/v1/accounts", params={"cursor": "?"}).status_code == 400
    assert api.get("/api/v1/accounts", params={"surprise": "1"}).status_code == 400
    api.auth = None
    assert api.get("/api/v1/accounts").status_code == 401
