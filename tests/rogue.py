"""A worker with a messenger whose adapter breaks as an adapter can: run it instead of `postrider worker`."""

import os
import re
import sys
from typing import ClassVar

from messengers import MESSENGERS
from messengers.base import Note, Outbound, Request
from messengers.sandbox import Sandbox
from postrider.settings import Settings
from postrider.worker import run


class Rogue(Sandbox):
    """The sandbox, but for some recipients."""

    name: ClassVar[str] = "rogue"

    def request(self, out: Outbound) -> Request | Note:
        match out.to:
            case "loop":
                while True:
                    pass
            case "regex":  # never lets go of the interpreter
                re.match(r"(a|a)+$", "a" * 64 + "b")
            case "hog":
                hoard = [b"x" * 1024 * 1024]
                while True:
                    hoard.append(hoard[-1] * 2)
            case "exit":
                os._exit(7)
            case "unsendable":  # half a character
                return Request("POST", "http://127.0.0.1:1/", {"X-To": "\ud83d"})
        return super().request(out)


if __name__ == "__main__":
    MESSENGERS[Rogue.name] = Rogue
    sys.exit(run(Settings.from_env()))
