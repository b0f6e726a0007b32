"""DURABILITY=always: acceptance answers once it is on disk, or says that nobody knows. On Redis with and without WAITAOF."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from postrider import embedded
from postrider.errors import Unavailable
from postrider.fsync import Fsync
from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests.reliability.redis.conftest import Server, newer_server

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Server]:
    """A Redis that does not know WAITAOF, where there is one; it fsyncs always."""
    program = embedded.find_server()
    if embedded._version_of(str(program)) >= (7, 2):  # noqa: SLF001 - nobody else asks
        pytest.skip("needs a Redis older than 7.2")
    found = Server(tmp_path / "older", ALWAYS, program).start()
    yield found
    found.end()


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "newer", EVERYSEC, newer_server()).start()
    yield found
    found.end()


def accept(client: redis.Redis, recipients: int = 1) -> int:
    """How many wait after one more message to so many."""
    settings = Settings.from_env({"TELEGRAM_BOT_TOKEN": "1:x"}, None)
    service = Service(Store(client, durability="always"), settings, open_accounts(settings))
    to = tuple(Recipient(str(n), "telegram") for n in range(recipients))
    service.accept(NewMessage("Hello", to))
    return service.scheduled(1, None).total


@pytest.mark.parametrize("recipients", [1, 2500])
def test_what_waitaof_confirms_is_accepted(newer: Server, recipients: int) -> None:
    with connect(newer.url) as client:
        assert accept(client, recipients) == recipients
        assert "cmdstat_waitaof" in newer.ask("INFO", "commandstats")


def test_what_waitaof_does_not_confirm_may_or_may_not_be_accepted(newer: Server) -> None:
    newer.ask("CONFIG", "SET", "appendfsync", "no")
    with connect(newer.url) as client:
        with pytest.raises(Unavailable, match="may or may not be accepted") as caught:
            accept(client)
        assert caught.value.accepted_unknown
        newer.ask("CONFIG", "SET", "appendfsync", "always")
        assert accept(client) == 2


def test_an_older_one_that_fsyncs_always_is_taken_at_its_word(older: Server) -> None:
    with connect(older.url) as client:
        assert accept(client, 2500) == 2500
        assert "cmdstat_waitaof" not in older.ask("INFO", "commandstats")


def test_an_older_one_that_no_longer_does_is_noticed(older: Server) -> None:
    with connect(older.url) as client:
        fsync = Fsync(client)
        assert fsync.command("SET", "a", "1") is True
        older.ask("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(Unavailable) as unsure:
            fsync.command("SET", "a", "2")
        assert unsure.value.accepted_unknown
        with pytest.raises(Unavailable, match="nothing was accepted") as refused:
            fsync.command("SET", "a", "3")
        assert not refused.value.accepted_unknown
        assert client.get("a") == b"2"
        older.ask("CONFIG", "SET", "appendfsync", "always")
        assert fsync.command("SET", "a", "4") is True


def test_an_older_one_in_the_place_of_a_newer_never_passes_for_a_yes(
    newer: Server, older: Server
) -> None:
    with connect(newer.url) as client:
        fsync = Fsync(client)
        assert fsync.command("SET", "a", "1") is True
        newer.kill()
        older.kill()
        older.port = newer.port
        older.flags = EVERYSEC
        older.start()
        with pytest.raises(Unavailable) as unsure:
            fsync.command("SET", "a", "2")
        assert unsure.value.accepted_unknown
        with pytest.raises(Unavailable, match="nothing was accepted"):
            fsync.command("SET", "a", "3")


def test_config_forbidden_is_a_warning_at_the_start_and_no_refusal_later(older: Server) -> None:
    older.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
    url = older.url.replace("//", "//app:pw@")
    with connect(url) as client:
        assert accept(client) == 1


def test_the_commands_own_error_is_its_answer(newer: Server) -> None:
    with connect(newer.url) as client, pytest.raises(redis.exceptions.NoScriptError):
        Fsync(client).command("EVALSHA", "0" * 40, 0)


def test_a_yes_is_for_this_command_alone(newer: Server) -> None:
    """WAITAOF on another connection would answer at once: it goes where the command went."""
    newer.ask("CONFIG", "SET", "appendfsync", "no")
    client: Any
    with connect(newer.url) as client:
        client.waitaof(1, 0, 100)
        with pytest.raises(Unavailable):
            Fsync(client).command("SET", "a", "1")
