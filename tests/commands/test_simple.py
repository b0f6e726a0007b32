"""`postrider send`, `scheduled`, `finished`, `purge` and `hooks set`, as a script and as a person at a terminal use them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from postrider import listing
from postrider.audit import Audit, Wanted
from postrider.service import Service
from tests.conftest import CTRL_C, POSTRIDER, Api, AtTerminal, Postrider, wait_until
from tests.fake import Answer, FakeMessenger

AT = "2030-10-05 13:48:00"
EVIL = "first\x1b[31m red\x9b2J\n\u202esecond\ttab"


def put_stdin(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


# -- send


def test_send_says_what_the_api_says_and_the_id(
    postrider: Postrider, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("send", "--to", "whatsapp:1", "--to", "telegram:2", "--at", AT, "Hello") == 0
    [(first, message), _] = service.scheduled(9, None).rows
    assert capsys.readouterr().out.splitlines() == [
        f"Message to user: 1 with body: Hello Queued at {AT} to messenger: whatsapp",
        f"Message to user: 2 with body: Hello Queued at {AT} to messenger: telegram",
        f"Message: {message.id}",
    ]
    assert first.recipient.uuid == "1"
    (noted,), _ = Audit(service.store.redis, 100).page(Wanted(), 100)
    assert (noted.action, noted.what) == ("send", message.id)


def test_send_json_is_what_the_api_answers(
    postrider: Postrider, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("send", "--json", "--to", "telegram:2", "--at", AT, "Hello")
    ours = json.loads(capsys.readouterr().out)
    recipients = [{"uuid": "2", "service": "telegram"}]
    theirs = api.post(
        "/send_message", json={"body": "Hello", "send_at": AT, "recipients": recipients}
    ).json()
    for answer in (ours, theirs):
        mid = answer["message"].pop("id")
        assert [d.pop("id") for d in answer["message"]["deliveries"]] == [f"{mid}-0"]
    assert ours == theirs


def test_send_without_a_time_starts_at_once(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("send", "--json", "--to", "sandbox:1", "Hello")
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["started"]) == 1
    assert answer["scheduled"] == []


def test_send_reads_the_time_in_the_zone_it_is_given(
    postrider: Postrider, service: Service
) -> None:
    zone = ("--timezone", "Asia/Tokyo")
    assert postrider("send", "--to", "sandbox:1", "--at", AT, *zone, "Hello") == 0
    [(_, message)] = service.scheduled(9, None).rows
    assert f"{message.due_at:%F %T}" == "2030-10-05 04:48:00"


def test_send_reads_the_body_from_standard_input(
    postrider: Postrider, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_stdin(monkeypatch, "two\nlines 👋\n".encode())
    assert postrider("send", "--to", "sandbox:1", "--at", AT, "-") == 0
    [(_, message)] = service.scheduled(9, None).rows
    assert message.body == "two\nlines 👋"


def test_send_counts_what_it_does_not_list(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [word for n in range(listing.SHOWN + 2) for word in ("--to", f"sandbox:{n}")]
    assert postrider("send", *to, "--at", AT, "Hello") == 0
    *lines, more, _ = capsys.readouterr().out.splitlines()
    assert (len(lines), more) == (listing.SHOWN, "and 2 more")


@pytest.mark.parametrize(
    ("argv", "says_"),
    [
        (["--to", "pigeon:1", "Hi"], "recipients[0].service: unknown messenger 'pigeon'"),
        (["--to", "telegram:x y", "Hi"], "recipients[0].uuid: must be a chat id"),
        (["--to", "sandbox:1", " "], "body: must hold more than white space"),
        (["--to", "sandbox:1", "a\udcffb"], "body: must not hold lone surrogates"),
        (["--to", "sandbox:1", "--at", "2001-01-01 00:00:00", "Hi"], "send_at: Date must be"),
        (["--to", "sandbox:1", "--at", "tomorrow\x1b[2J", "Hi"], "send_at: write it as"),
        (["--to", "sandbox:1", "--timezone", "Mars\x1b[2J", "Hi"], "timezone: 'Mars"),
    ],
)
def test_what_is_refused_is_one_line_that_names_the_field(
    argv: list[str],
    says_: str,
    postrider: Postrider,
    service: Service,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert postrider("send", *argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"postrider: {says_}")
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert service.scheduled(1, None).total == 0


def test_a_body_that_is_not_utf_8_is_refused(
    postrider: Postrider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_stdin(monkeypatch, b"\xff\xfe")
    assert postrider("send", "--to", "sandbox:1", "-") == 1
    assert capsys.readouterr().err == "postrider: body: is not UTF-8\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["send", "--to", "42", "Hi"],
        ["send", "--to", ":42", "Hi"],
        ["scheduled", "--limit", "0"],
        ["finished", "--limit", "10001"],
        ["scheduled", "--limit", "x"],
        ["hooks", "set", "pigeon"],
    ],
)
def test_a_wrong_call_is_explained(
    argv: list[str], postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        postrider(*argv)
    assert left.value.code == 2
    assert "usage: postrider" in capsys.readouterr().err


def test_redis_away_is_one_line_that_says_what_to_do(
    postrider: Postrider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["scheduled"], ["send", "--to", "sandbox:1", "Hi"], ["purge", "--yes"]):
        assert postrider(*argv, REDIS_URL=f"unix://{tmp_path}/none.sock") == 1
        err = capsys.readouterr().err
        assert "Redis does not answer" in err
        assert "`./run.sh` starts Postrider, `postrider doctor` says what is wrong" in err
        assert err.count("\n") == 1


def test_a_wrong_setting_is_one_line(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("scheduled", TZ="Mars") == 2
    err = capsys.readouterr().err
    assert err.startswith("postrider: TZ: 'Mars' is no time zone")
    assert err.count("\n") == 1


def test_a_redis_that_forbids_a_call_is_one_line(
    postrider: Postrider, client: redis.Redis, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.acl_setuser("guest", enabled=True, nopass=True, commands=["+ping"])
    assert postrider("purge", REDIS_URL=f"unix://guest:x@{redis_url.removeprefix('unix://')}") == 1
    client.acl_deluser("guest")
    err = capsys.readouterr().err
    assert err.startswith("postrider: Redis: ")
    assert err.count("\n") == 1


# -- the lists


def test_the_lists_as_json_are_the_api_s(
    postrider: Postrider,
    api: Api,
    service: Service,
    worker: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    postrider("send", "--to", "sandbox:1", "--to", "sandbox:2", "--at", AT, EVIL)
    postrider("send", "--to", "sandbox:blocked", "--to", "sandbox:1", EVIL)
    wait_until(lambda: service.finished(9, None).total == 2)
    capsys.readouterr()
    for which in ("scheduled", "finished"):
        for limit in ("1", "9"):
            assert postrider(which, "--json", "--limit", limit) == 0
            out = capsys.readouterr().out
            assert json.loads(out) == api.get(f"/get_{which}?limit={limit}").json()
            assert out.isascii()


def test_piped_lists_are_one_line_a_delivery_with_tabs_between(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("send", "--to", "telegram:42", "--at", AT, EVIL)
    mid = capsys.readouterr().out.split()[-1]
    assert postrider("scheduled", TZ="Asia/Tokyo") == 0
    out, err = capsys.readouterr()
    text = r"first\x1b[31m red\x9b2J\n\u202esecond\ttab"
    assert out == f"2030-10-05 22:48:00\ttelegram\t42\tscheduled\t{text}\t{mid}-0\n"
    assert err == "1 of 1\n"


def test_what_is_due_and_not_claimed_is_queued(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("send", "--to", "sandbox:1", "Hi")
    capsys.readouterr()
    postrider("scheduled")
    assert capsys.readouterr().out.split("\t")[3] == "queued"


def test_a_part_of_a_list_names_the_next_one(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    postrider("send", "--to", "sandbox:1", "--to", "sandbox:2", "--at", AT, "Hi")
    capsys.readouterr()
    postrider("scheduled", "--limit", "1")
    first, told = capsys.readouterr()
    assert told.startswith("1 of 2; the next: postrider scheduled --cursor ")
    postrider("scheduled", "--cursor", told.split()[-1])
    rest = capsys.readouterr().out
    assert [line.split("\t")[2] for line in (first + rest).splitlines()] == ["1", "2"]


def test_a_cursor_of_somebody_else_is_refused(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("finished", "--cursor", "%%") == 1
    assert capsys.readouterr().err == "postrider: cursor: is not one that this service gave\n"


def test_a_terminal_gets_a_table_in_colour_that_nobody_s_text_can_command(
    postrider: Postrider, at_terminal: AtTerminal, service: Service
) -> None:
    postrider("send", "--to", "sandbox:[red]x", "--at", AT, EVIL)
    code, screen = at_terminal("scheduled")
    assert code == 0
    assert "Due (UTC)" in screen
    assert "\x1b[36mscheduled" in screen
    assert "[red]x" in screen
    assert service.scheduled(1, None).rows[0][0].id in screen
    assert r"first\x1b[31m red\x9b2J" in screen
    assert not {"\x9b", "\u202e"} & set(screen)
    assert "\x1b[31m" not in screen


def test_a_narrow_terminal_leaves_the_id_out_and_folds_nothing(
    postrider: Postrider, at_terminal: AtTerminal
) -> None:
    postrider("send", "--to", "telegram:42", "--at", AT, "A long text " * 20)
    _, screen = at_terminal("scheduled", columns=80)
    assert len(screen.splitlines()) == 4
    assert "Id" not in screen
    assert "…" in screen


def test_an_empty_list_says_so(at_terminal: AtTerminal) -> None:
    assert at_terminal("finished") == (0, "0 of 0\r\n")


def test_head_may_stop_reading(env: dict[str, str], postrider: Postrider) -> None:
    to = [word for n in range(1_000) for word in ("--to", f"sandbox:{n}")]
    postrider("send", *to, "--at", AT, "Hello " * 50)
    done = subprocess.run(
        f"{POSTRIDER} scheduled | head -n 1",
        shell=True,
        env={**os.environ, **env},
        capture_output=True,
        check=True,
    )
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


# -- purge


@pytest.fixture
def two_ended(postrider: Postrider, service: Service, worker: object) -> None:
    """One sent, one failed, and one that waits."""
    postrider("send", "--to", "sandbox:1", "--to", "sandbox:blocked", "Now")
    postrider("send", "--to", "sandbox:1", "--at", AT, "Later")
    wait_until(lambda: service.finished(9, None).total == 2)


@pytest.mark.usefixtures("two_ended")
def test_purge_forgets_what_ended_and_counts_it(
    postrider: Postrider, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert postrider("purge", "--yes") == 0
    assert capsys.readouterr().out == "2 deliveries forgotten.\n"
    assert service.finished(9, None).total == 0
    assert service.scheduled(9, None).total == 1


@pytest.mark.usefixtures("two_ended")
def test_purge_off_a_terminal_wants_yes(
    postrider: Postrider,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_stdin(monkeypatch, b"y\n")
    assert postrider("purge") == 1
    assert capsys.readouterr().err.startswith("postrider: --yes: is needed")
    assert service.finished(9, None).total == 2


@pytest.mark.usefixtures("two_ended")
@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [(b"y\n", 0, 0), (b"\n", 1, 2), (b"no\n", 1, 2), (b"\x04", 1, 2), (CTRL_C, 130, 2)],
    ids=["yes", "enter", "no", "end", "Ctrl-C"],
)
def test_purge_at_a_terminal_asks_first(
    answer: bytes, code: int, left: int, at_terminal: AtTerminal, service: Service
) -> None:
    ended, screen = at_terminal("purge", answer=answer)
    assert "Forget 2 finished and failed deliveries? [y/N]" in screen
    assert (ended, service.finished(9, None).total) == (code, left)


# -- hooks


def test_hooks_set_tells_viber_where_to_call(
    postrider: Postrider, messenger: FakeMessenger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("hooks", "set", "viber", PUBLIC_URL="https://example.org/postrider/") == 0
    [call] = messenger.calls
    url = "https://example.org/postrider/hooks/viber/default"
    assert (call.path, call.json["url"]) == ("/pa/set_webhook", url)
    assert f"viber calls {url} from now on" in capsys.readouterr().out


def test_hooks_set_takes_an_url_as_it_is(postrider: Postrider, messenger: FakeMessenger) -> None:
    assert postrider("hooks", "set", "viber", "--url", "https://other.example/x?y=1") == 0
    assert messenger.calls[0].json["url"] == "https://other.example/x?y=1"


@pytest.mark.parametrize(
    ("argv", "settings", "says_"),
    [
        (["viber"], {}, "PUBLIC_URL: is not set"),
        (["viber"], {"PUBLIC_URL": "http://example.org"}, "PUBLIC_URL: messengers call https://"),
        (["viber", "--url", "http://x.org"], {}, "--url: messengers call https://"),
        (["sandbox"], {}, "sandbox: calls no webhook"),
        (["viber"], {"VIBER_AUTH_TOKEN": None}, "viber: is not set up; it needs VIBER_AUTH_TOKEN"),
        (["viber", "--account", "shop"], {}, "viber: has no account 'shop', only default"),
    ],
)
def test_hooks_set_says_what_is_missing(
    argv: list[str],
    settings: dict[str, str | None],
    says_: str,
    postrider: Postrider,
    messenger: FakeMessenger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert postrider("hooks", "set", *argv, **settings) == 1
    assert capsys.readouterr().err.startswith(f"postrider: {says_}")
    assert messenger.calls == []


def test_hooks_set_passes_on_a_refusal(
    postrider: Postrider, messenger: FakeMessenger, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = b'{"status": 1, "status_message": "invalidUrl planted-viber-secret \\u001b[2J"}'
    messenger.script = lambda _: Answer(200, refusal)
    assert postrider("hooks", "set", "viber", PUBLIC_URL="https://example.org") == 1
    err = capsys.readouterr().err
    assert err.startswith("postrider: viber: invalidUrl *** ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_hooks_set_with_nobody_there(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    away = {"VIBER_API_URL": "http://127.0.0.1:1", "PUBLIC_URL": "https://example.org"}
    assert postrider("hooks", "set", "viber", **away) == 1
    assert capsys.readouterr().err.startswith("postrider: viber: could not connect")
