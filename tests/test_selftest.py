"""`postrider selftest` as a user runs it, and the balance it draws, held against losses and doubles made by hand."""

import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postrider.model import Attempt, Delivery, Recipient, State
from postrider.selftest import lines, verdict
from postrider.selftest.balance import Balance, Found, share, weigh
from postrider.selftest.fake import Call
from postrider.selftest.fleet import Fleet, Kill, private_env
from postrider.selftest.load import Post, Recipients
from postrider.selftest.run import Plan, Result
from tests.conftest import POSTRIDER, AtTerminal, Postrider, wait_until

AT = 1_800_000_000.0
ANA = Recipient("42", "telegram")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it makes its folder: on a short path, as a socket demands."""
    with tempfile.TemporaryDirectory(prefix="pr-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def figures(out: str) -> dict[str, str]:
    """Name -> value of each line in two columns."""
    return {line[:22].strip(): line[22:] for line in out.splitlines()}


def test_without_kills_all_arrives_and_nothing_is_left_behind(
    postrider: Postrider, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    assert postrider("selftest", "--messages", "60", "--seconds", "2", "--seed", "7") == 0
    out = capsys.readouterr().out
    found = figures(out)
    assert out.startswith("seed 7\n")
    assert out.endswith("Nothing was lost, and nothing was doubled in silence.\n")
    assert (found["kills"], found["lost"], found["silent doubles"]) == ("0", "0", "0")
    columns = ("sent", "failed", "cancelled", "expired", "suppressed", "unknown", "waiting")
    assert sum(int(found[c].partition(":")[0]) for c in columns) == int(
        found["accepted deliveries"]
    )
    assert list(temporary.iterdir()) == []


def test_with_kills_all_arrives_too_and_a_terminal_sees_marks(at_terminal: AtTerminal) -> None:
    argv = ("selftest", "--kill", "--messages", "100", "--seconds", "5", "--kills", "4")
    code, screen = at_terminal(*argv, "--seed", "8")
    assert code == 0, screen
    assert "Nothing was lost, and nothing was doubled in silence." in screen
    assert "✓" in screen
    assert "✗" not in screen
    assert "1 api, 1 redis, 2 worker" in screen


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--messages", "-5"), "--messages: '-5' is not a whole number between 1 and 1000000"),
        (("--messages", "0"), "--messages: '0' is not a whole number"),
        (("--messages", "ten"), "--messages: 'ten' is not a whole number"),
        (("--seconds", "1.5"), "--seconds: '1.5' is not a whole number between 1 and 86400"),
        (("--kill", "--kills", "-1"), "--kills: '-1' is not a whole number"),
        (("--kills", "3"), "--kills: says how many processes --kill kills; give --kill, too"),
        (("--seed", "x"), "--seed: 'x' is not a whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(
    postrider: Postrider, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        postrider("selftest", *argv)
    assert stop.value.code == 2
    assert why in capsys.readouterr().err


def test_a_temporary_folder_on_too_long_a_path_is_told_by_its_name(
    postrider: Postrider,
    capsys: pytest.CaptureFixture[str],
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (long := temporary / ("x" * 90)).mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert postrider("selftest", "--messages", "1") == 2
    assert capsys.readouterr().err.startswith("postrider: TMPDIR: the path of Redis's socket")
    assert list(long.iterdir()) == []


def test_it_knows_nothing_of_the_service_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://live.example:6379")
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN_FILE", "/run/secrets/live")
    monkeypatch.setenv("VIBER_AUTH_TOKEN", "live")
    env = private_env(tmp_path, 5001, {})
    assert not {"REDIS_URL", "TELEGRAM_BOT_TOKEN_FILE", "VIBER_AUTH_TOKEN"} & env.keys()
    assert env["DATA_DIR"] == str(tmp_path / "data")


def test_a_fleet_restarts_what_is_killed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with Fleet(tmp_path, private_env(tmp_path, 5001, {})) as fleet:
        killed, ended = (fleet.start("api", "sleep", "600") for _ in range(2))
        first = killed.pid
        fleet.kill(killed)
        wait_until(lambda: killed.pid != first, 5, "another process")
        fleet.end(ended)
        assert fleet.named("api") == [killed]
        assert [kill.name for kill in fleet.kills] == ["api"]
    assert killed.process.returncode == ended.process.returncode == -signal.SIGTERM


def test_ctrl_c_ends_all_of_it(temporary: Path) -> None:
    process = subprocess.Popen([POSTRIDER, "selftest"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: list(temporary.glob("*/processes.log")), 15, "its processes")
    (folder,) = temporary.iterdir()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("seed ")
    assert not folder.exists()


def test_recipients_are_never_given_twice() -> None:
    source = Recipients()
    taken = [*source.take(10), *source.take(1), *source.take(100)]
    assert len(set(taken)) == 111
    assert {r.service for r in taken} == {"telegram", "viber", "whatsapp"}


# -- the balance


def call(at: float = AT, to: str = "42") -> Call:
    return Call(at, "/bot1:x/sendMessage", {}, {"chat_id": int(to), "text": "Hello"})


def attempt(ended_at: float = AT, outcome: str = "sent") -> Attempt:
    ended = datetime.fromtimestamp(ended_at, UTC)
    return Attempt(ended - timedelta(seconds=0.1), ended, outcome, "because")


def drawn(
    *,
    accepted: str = "yes",
    state: State | None = State.SENT,
    calls: tuple[Call, ...] = (call(),),
    attempts: tuple[Attempt, ...] = (attempt(),),
    waits: bool = False,
    kills: tuple[Kill, ...] = (),
) -> Balance:
    """The balance of one delivery to Ana, `x-0`, that was due at `AT`."""
    post = Post("Hello", (ANA,), AT, accepted)  # type: ignore[arg-type]
    rows = [] if state is None else [Delivery("x-0", state, ANA)]
    found = Found(rows if waits else [], [] if waits else rows, {"x-0": attempts})
    return weigh([post], found, calls, calls, kills)


def test_what_was_sent_once_is_well() -> None:
    balance = drawn()
    assert balance.ok
    assert (balance.accepted, balance.columns["sent"], balance.doubles) == (1, 1, 0)


def test_what_was_accepted_and_is_on_no_record_is_lost() -> None:
    balance = drawn(state=None, calls=())
    assert balance.lost == [("telegram", "42")]
    assert not balance.holds
    assert not balance.ok


def test_what_waits_and_moves_no_more_is_lost() -> None:
    balance = drawn(state=State.RETRYING, waits=True, calls=())
    assert balance.lost
    assert balance.holds
    assert not balance.ok


def test_what_is_called_sent_and_never_came_is_lost() -> None:
    assert drawn(calls=()).lost


def test_a_double_without_a_second_attempt_on_record_is_silent() -> None:
    balance = drawn(calls=(call(), call(AT + 9)))
    assert balance.silent == [("telegram", "42")]
    assert not balance.ok


def test_a_double_with_both_attempts_on_record_is_none_in_silence() -> None:
    tries = (attempt(outcome="unclear"), attempt(AT + 9))
    balance = drawn(calls=(call(), call(AT + 9)), attempts=tries)
    assert balance.ok
    assert balance.doubles == 1


def test_what_comes_before_its_time_is_early() -> None:
    assert not drawn(calls=(call(AT - 0.001),)).ok


def test_a_message_without_an_answer_counts_when_it_is_on_record() -> None:
    assert drawn(accepted="nobody knows").accepted == 1
    balance = drawn(accepted="nobody knows", state=None, calls=())
    assert (balance.accepted, balance.in_doubt, balance.ok) == (0, 1, True)


def test_what_was_refused_and_is_sent_all_the_same_breaks_the_balance() -> None:
    post = Post("Hello", (Recipient("1", "telegram"),), AT, "yes")
    calls = [call(), call(to="1")]
    found = Found([], [Delivery("x-0", State.SENT, Recipient("1", "telegram"))], {"x-0": ()})
    balance = weigh([post], found, calls, calls)
    assert balance.unasked == [("telegram", "42")]
    assert not balance.holds


def test_an_orphan_is_picked_up_with_its_next_attempt() -> None:
    tries = (attempt(AT - 5, "retry"), attempt(AT + 17, "unclear"), attempt(AT + 18))
    assert drawn(attempts=tries, kills=(Kill(AT, "worker", ("x-0",)),)).orphans_s == [17.0]


def test_a_broken_promise_is_marked_and_says_what_to_do_next(tmp_path: Path) -> None:
    result = Result(drawn(state=None, calls=()), Counter(worker=3), 0, still=True, took_s=9.0)
    broken = [name for well, name, _ in lines(Plan(1, 9, 3, 7), result) if well is False]
    assert broken == ["accepted deliveries", "lost"]
    told = str(verdict(result, tmp_path))
    assert told.startswith("A promise was broken. That is a fault of Postrider: report it")
    assert str(tmp_path / "processes.log") in told
    assert str(verdict(replace(result, still=False), tmp_path)).startswith("Something waits")


def test_shares_of_values() -> None:
    values = [float(n) for n in range(100)]
    assert [share(values, part) for part in (0.5, 0.99, 1)] == [50, 99, 99]
    assert share([], 0.5) == 0
