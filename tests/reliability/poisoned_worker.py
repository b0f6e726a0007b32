"""A worker with a messenger whose adapter is deadly: what its text says is what happens to the process.

Started by a test as `python -m tests.reliability.poisoned_worker`; POISON_LOG is where it tells of each try beforehand.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from messengers import MESSENGERS
from messengers.base import Note, Outbound, Rejected, Reply, Sent
from postrider import cli

HOG_GB = 2


def exit_at_once() -> None:
    os._exit(9)


def crash() -> None:
    ctypes.string_at(0)


def eat_memory() -> None:
    eaten = []
    while (
        len(eaten) < HOG_GB
    ):  # by then, if nobody else has ended us, we do what the kernel does to a hog
        eaten.append(b"x" * 1024**3)
    os.kill(os.getpid(), signal.SIGKILL)


def loop() -> None:
    while True:
        pass


def hold_the_lock() -> None:
    """Within one instruction of the interpreter, so that no other thread of the process ever runs."""
    re.match(r"(a+)+$", "a" * 64 + "b")


DEADLY = {each.__name__: each for each in (exit_at_once, crash, eat_memory, loop, hold_the_lock)}


@dataclass(frozen=True, slots=True)
class Poison:
    """Takes any text; one of `DEADLY` ends the process, any other is sent nowhere, and well."""

    name: ClassVar[str] = "poison"
    needs: ClassVar[tuple[str, ...]] = ()
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = False
    slower: ClassVar[Mapping[str, float]] = {}

    log: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        del env
        return cls(Path(os.environ["POISON_LOG"]))

    def check_recipient(self, uuid: str) -> str | None:
        del uuid

    def check_text(self, text: str) -> str | None:
        del text

    def request(self, out: Outbound) -> Note:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{time.time()} {os.getpid()} {out.text}\n")
        if out.text in DEADLY:
            DEADLY[out.text]()
        return Note(out.to, out.text, out.key, out.nth)

    def read(self, reply: Reply) -> Sent | Rejected:
        return Sent("1") if reply.status == 200 else Rejected("no")

    def whoami(self) -> None:
        return None

    def read_whoami(self, reply: Reply) -> Rejected:
        del reply
        return Rejected("nobody")


def main() -> int:
    MESSENGERS["poison"] = Poison
    return cli.main(["worker"])


if __name__ == "__main__":
    sys.exit(main())
