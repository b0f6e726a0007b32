"""What every command says at a terminal: answers, refusals and exit codes. No text reaches it as it is."""

import argparse
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from postrider import listing, queue
from postrider.errors import InvalidRequest, Misconfigured, PostriderError, Unavailable

Run = Callable[[argparse.Namespace], int]


def told(run: Run) -> Run:
    """`run`, whose refusals become one line on stderr and exit code 1. What is Misconfigured, cli.main tells."""

    @functools.wraps(run)
    def wrapped(args: argparse.Namespace) -> int:
        try:
            code = run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # `| head` has seen enough; the flush at exit must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Misconfigured:
            raise
        except Unavailable as error:
            next_step = (
                "`postrider scheduled` and `postrider finished` show which, once Redis is back"
                if error.accepted_unknown
                else "`./run.sh` starts Postrider, `postrider doctor` says what is wrong"
            )
            return refuse(f"{error}: {next_step}")
        except PostriderError as error:
            if isinstance(error, InvalidRequest):
                return refuse(f"{error.field}: {error.reason}")
            return refuse(str(error))
        except queue.ERRORS as error:  # it refuses a command that we need
            return refuse(f"Redis: {error}: `postrider doctor` says what is wrong")
        except OSError as error:  # of a file that it reads or writes
            return refuse(": ".join(str(s) for s in (error.filename, error.strerror or error) if s))
        return code

    return wrapped


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Has Ctrl-C wait for the end of what must not stay half done. For the main thread."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that was not there before, to be written; gone again when that fails. Raises OSError."""
    file = path.open("xb")
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def say(line: str) -> None:
    """One line, whatever is in it."""
    sys.stdout.write(listing.printable(line) + "\n")


def say_json(answer: dict[str, Any]) -> int:
    """ASCII only, so that no text in it can reach the terminal as a command."""
    sys.stdout.write(json.dumps(answer, indent=2 if sys.stdout.isatty() else None) + "\n")
    return 0


def refuse(words: str) -> int:
    """One line on stderr; 1, the exit code that goes with it."""
    sys.stderr.write(f"postrider: {listing.printable(words)}\n")
    return 1
