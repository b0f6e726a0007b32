"""`postrider sessions` at a terminal: the code that it draws is scanned off the screen."""

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
import zxingcpp
from PIL import Image

from postrider import qr
from postrider.service import Service
from tests.conftest import Postrider, wait_until
from tests.phones.conftest import link
from tests.phones.screen import Terminal, seen
from tests.sidecar import Sidecar

TEXT = "2@AbCdEf0123456789,GhIjKl+/=,MnOpQr,StUvWx" * 5


@contextmanager
def kept(service: Service, id_: str) -> Iterator[None]:
    """A keeper at work."""
    stops = Event()

    def work() -> None:
        while not stops.wait(0.05):
            for due in service.phones.sessions.take_due(10, 60):
                service.phones.look(due)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stops.set()
        thread.join(10)


def drawn(terminal: Terminal) -> str:
    """What it has written up to the end of its last drawing."""
    terminal.shows("NUMBER\r\n")
    return terminal.output


@pytest.mark.parametrize("theme", ["000000", "ffffff", "002b36"])
def test_the_code_is_read_off_a_terminal_of_any_theme(theme: str) -> None:
    lines = qr.in_terminal(qr.matrix(TEXT))
    assert seen("\n".join(lines), theme=theme) == TEXT


def test_without_colours_it_is_read_off_a_dark_terminal() -> None:
    lines = qr.in_terminal(qr.matrix(TEXT), coloured=False)
    assert "\x1b" not in "".join(lines)
    assert seen("\n".join(lines)) == TEXT


def test_a_session_is_added_its_code_drawn_anew_and_followed_until_it_is_linked(
    env: dict[str, str], tmp_path: Path, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.1)
    with kept(service, "shop"), Terminal(env, tmp_path, "sessions", "add", "shop") as terminal:
        first = drawn(terminal)
        code = seen(first)
        assert code.startswith("2@")
        wait_until(lambda: sidecar.sessions["shop"]["code"] not in {code, ""}, 15, "the next code")
        second = sidecar.sessions["shop"]["code"]
        wait_until(lambda: seen(terminal.output) == second, 15, "the next code on the screen")
        sidecar.scan("shop")
        assert terminal.ended() == 0
        terminal.shows("shop is linked: +375447034810 (Shop)")
        assert seen(terminal.output) == ""


def test_where_no_keeper_runs_it_looks_itself(
    env: dict[str, str], tmp_path: Path, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.3)
    with Terminal(env, tmp_path, "sessions", "add", "shop") as terminal:
        drawn(terminal)
        sidecar.scan("shop")
        assert terminal.ended() == 0


def test_ctrl_c_leaves_no_code_on_the_screen_and_says_how_to_go_on(
    env: dict[str, str], tmp_path: Path, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.3)
    with kept(service, "shop"), Terminal(env, tmp_path, "sessions", "add", "shop") as terminal:
        drawn(terminal)
        terminal.interrupt()
        assert terminal.ended() == 130
        terminal.shows("postrider sessions link shop")
        assert "Traceback" not in terminal.output
        assert seen(terminal.output) == ""
    with kept(service, "shop"), Terminal(env, tmp_path, "sessions", "link", "shop") as terminal:
        now = sidecar.sessions["shop"]
        wait_until(
            lambda: seen(terminal.output) == now["code"], 15, "the code of the moment on the screen"
        )


class Impatient(io.StringIO):
    """A terminal on which Ctrl-C is pressed as soon as a code stands there, before the command goes on."""

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        if self.getvalue().endswith("NUMBER\n"):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_the_code_is_drawn_leaves_none(
    postrider: Postrider, service: Service, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.reset(scale=0.3)
    terminal = Impatient()
    monkeypatch.setattr(sys, "stdout", terminal)
    with kept(service, "shop"):
        assert postrider("sessions", "add", "shop") == 130
    assert terminal.getvalue().endswith("postrider sessions link shop\n")
    assert seen(terminal.getvalue()) == ""


def test_nobody_scans_and_it_says_so(
    env: dict[str, str], tmp_path: Path, service: Service, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.005)
    with kept(service, "shop"), Terminal(env, tmp_path, "sessions", "add", "shop") as terminal:
        assert terminal.ended() == 1
        terminal.shows("no phone was linked in time")


def test_sessions_are_listed_stopped_started_and_deleted(
    postrider: Postrider,
    service: Service,
    sidecar: Sidecar,
    capsys: pytest.CaptureFixture[str],
) -> None:
    link(service, sidecar, "shop")
    assert postrider("sessions", "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["sessions"]
    assert (row["name"], row["state"], row["number"]) == ("shop", "linked", "375447034810")
    assert postrider("sessions", "list") == 0
    assert capsys.readouterr().out.startswith("shop\tlinked\t")
    for act, said in (
        ("stop", "shop is stopped."),
        ("start", "shop is starting."),
        ("restart", "shop is starting."),
        ("logout", "shop is unlinked."),
        ("delete", "shop is deleted."),
    ):
        assert postrider("sessions", act, "shop") == 0
        assert capsys.readouterr().out == f"{said}\n"
    assert sidecar.sessions == {}
    assert postrider("sessions", "stop", "shop") == 1
    assert "there is no such session" in capsys.readouterr().err


def test_a_pairing_code_is_given(
    postrider: Postrider, sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecar.reset(scale=0.3)
    assert postrider("sessions", "add", "shop", "--no-follow") == 0
    wait_until(lambda: sidecar.status("shop") == "SCAN_QR_CODE", what="its code")
    assert postrider("sessions", "pair", "shop", "+375447034810") == 0
    assert "ABCD-EFGH" in capsys.readouterr().out
    assert postrider("sessions", "pair", "shop", "me") == 1


def test_a_picture_of_another_program_is_drawn_too() -> None:
    """gowa gives no more than a picture."""
    text = TEXT[:60]
    code = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.QRCode).to_image(scale=5)
    height, width = code.shape
    picture = io.BytesIO()
    Image.frombytes("L", (width, height), bytes(code)).save(picture, "PNG")
    matrix = qr.read(picture.getvalue())
    assert matrix is not None
    assert seen("\n".join(qr.in_terminal(matrix))) == text
