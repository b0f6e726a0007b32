"""`postrider doctor`: how it tells a person and a script what it found, and what it never shows."""

import json
from pathlib import Path

import pytest

from messengers.base import Person
from postrider.link import connect
from postrider.service import Service
from tests.conftest import Api, AtTerminal, Postrider, Start, redis_with, wait_until
from tests.fake import Answer, Call, FakeMessenger, introduces_itself, says


def test_as_json_it_is_checks_and_people(
    postrider: Postrider, messenger: FakeMessenger, capsys: pytest.CaptureFixture[str]
) -> None:
    messenger.script = introduces_itself
    assert postrider("doctor", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"ok", "checks", "people"}
    assert report["ok"] is False
    for check in report["checks"]:
        assert set(check) == {"name", "state", "detail", "remedy"}
    assert report["people"]["telegram/default"] == [
        {"uuid": "42", "name": "@ana (Ana)"},
        {"uuid": "-100123", "name": "Choir [red]"},
    ]


def test_piped_it_is_one_line_a_check_and_a_person(
    postrider: Postrider, messenger: FakeMessenger, capsys: pytest.CaptureFixture[str]
) -> None:
    messenger.script = introduces_itself
    assert postrider("doctor") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ok      telegram: we are @post_bot" in lines
    assert any(
        line.startswith("fault   workers: none is alive") and " -> ./run.sh" in line
        for line in lines
    )
    assert "person  telegram/default: 42 @ana (Ana)" in lines


def test_a_terminal_gets_colours_marks_and_people(
    at_terminal: AtTerminal, messenger: FakeMessenger
) -> None:
    messenger.script = introduces_itself
    code, screen = at_terminal("doctor")
    assert code == 1
    for part in (
        "✓",
        "✗",
        "→ ./run.sh starts them",
        "\x1b[1;31m",
        "Choir [red]",
        "-100123",
        "faults",
    ):
        assert part in screen


def test_a_terminal_is_told_when_nobody_has_written_and_when_all_is_well(
    at_terminal: AtTerminal,
    env: dict[str, str],
    messenger: FakeMessenger,
    tmp_path: Path,
    start: Start,
    api: Api,
) -> None:
    messenger.script = lambda c: None if c.path.endswith("getUpdates") else introduces_itself(c)
    with redis_with(tmp_path, "--appendonly", "yes", "--maxmemory", "100mb") as url:
        bind = api.url.removeprefix("http://")
        env |= {"REDIS_URL": url, "VIBER_AUTH_TOKEN": "", "BIND": bind}
        worker = start("postrider", "worker")
        with connect(url) as client:
            wait_until(lambda: client.scard("rq:workers"), 15, "a worker")
        code, screen = at_terminal("doctor")
        worker.terminate()
        worker.wait(15)
    assert "Nobody has written to telegram yet" in screen
    assert (code, "All is well." in screen) == (0, True)


def test_a_crowd_is_cut_short_on_a_terminal(at_terminal: AtTerminal, service: Service) -> None:
    crowd = [Person(f"id{n:03}", "x\x1b[2J") for n in range(30)]
    service.inbox.remember_people("viber/default", crowd)
    _, screen = at_terminal("doctor")
    assert "id019" in screen
    assert "id020" not in screen
    assert "and 10 more" in screen
    assert "\x1b[2J" not in screen


@pytest.mark.parametrize("refuses", [True, False])
def test_no_secret_is_ever_shown(
    refuses: bool,
    postrider: Postrider,
    env: dict[str, str],
    messenger: FakeMessenger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def repeats_what_it_got(call: Call) -> Answer:
        got = f"{call.path} {call.headers}"
        error = {"message": got, "code": 190}
        return says(400, ok=False, description=got, status_message=got, error=error)

    messenger.script = repeats_what_it_got if refuses else introduces_itself
    secrets = [env[name] for name in env if name.endswith(("PASSWORD", "TOKEN"))]
    secret_url = env["REDIS_URL"].replace("unix://", "unix://:planted-redis-secret@")
    for url in (env["REDIS_URL"], secret_url):
        postrider("doctor", REDIS_URL=url)
        postrider("doctor", "--json", REDIS_URL=url)
    out, err = capsys.readouterr()
    assert ("***" in out) == refuses
    for secret in (*secrets, "planted-redis-secret"):
        assert secret not in out + err
