"""A terminal and a camera: what a command draws, as pixels, and what a scanner makes of that."""

import io
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pyte
import zxingcpp
from PIL import Image

from tests.conftest import POSTRIDER, wait_until

COLUMNS, LINES = 130, 70
CELL = 4
"""Pixels of a character, across; twice as many down."""


def scanned(picture: bytes | Image.Image) -> str:
    """What the QR code on a picture (a PNG, or one that is open) says; '' when there is none."""
    if isinstance(picture, bytes):
        picture = Image.open(io.BytesIO(picture))
    found = zxingcpp.read_barcodes(picture, formats=zxingcpp.BarcodeFormat.QRCode)
    return found[0].text if found else ""


def seen(output: str, *, theme: str = "000000") -> str:
    """What a scanner reads off a terminal that was sent `output`. `theme`: the colour of its background."""
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(output.replace("\r\n", "\n").replace("\n", "\r\n"))
    picture = Image.new("RGB", (COLUMNS * CELL, LINES * CELL * 2))
    ink = "ffffff" if theme == "000000" else "000000"
    for y in range(LINES):
        for x in range(COLUMNS):
            cell = screen.buffer[y][x]
            fore = f"#{ink if cell.fg == 'default' else cell.fg}"
            back = f"#{theme if cell.bg == 'default' else cell.bg}"
            left, top = x * CELL, y * CELL * 2
            picture.paste(fore if cell.data in "█▀" else back, (left, top, left + CELL, top + CELL))
            picture.paste(
                fore if cell.data in "█▄" else back, (left, top + CELL, left + CELL, top + 2 * CELL)
            )
    return scanned(picture)


class Terminal:
    """A command at a terminal, and what it has written so far."""

    def __init__(self, env: Mapping[str, str], folder: Path, *argv: str) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.process = subprocess.Popen(
            [POSTRIDER, *argv],
            env={**os.environ, **env, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        os.close(self._ours)

    def _read(self) -> None:
        raw = b""
        while True:
            try:
                raw += os.read(self._ours, 65_536)
            except OSError:  # EIO: the other side is closed
                return
            self.output = raw.decode(errors="ignore")

    def shows(self, text: str, within_s: float = 15.0) -> None:
        """Waits until it has written this."""
        wait_until(lambda: text in self.output, within_s, f"{text!r} in {self.output!r}")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def ended(self, within_s: float = 15.0) -> int:
        """Its exit code."""
        wait_until(lambda: self.process.poll() is not None, within_s, "its end")
        deadline = time.monotonic() + 5
        while self._reader.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.process.returncode
