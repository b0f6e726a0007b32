"""Clocks that are wrong, for processes: a library under them shifts what they are told of the time."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shifted_clock.c")
COMPILER = shutil.which("cc") or ""


def build(folder: Path) -> Path:
    """The library; skips the test where it cannot be made."""
    if sys.platform != "linux" or not COMPILER:
        pytest.skip("needs Linux and a C compiler")
    made = folder / "shifted_clock.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-o", made, SOURCE], check=True)
    return made


class Clock:
    """A clock that is wrong by as much as it is told; `env` makes it the clock of a process."""

    def __init__(self, library: Path, file: Path, wrong_by_s: int = 0) -> None:
        self._file = file
        self.env = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(file)}
        file.write_bytes(bytes(8))
        self.set(wrong_by_s)

    def set(self, wrong_by_s: int) -> None:
        """From now on it is wrong by so much."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", wrong_by_s))
