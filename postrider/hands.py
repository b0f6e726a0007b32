"""A few threads for calls that may hang: bounded in number, and in what waits for them. None keeps a process alive."""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("postrider.hands")


class Late(Exception):
    """A call that has not come back in time, or was not even made as too many others have not."""


class Hands:
    """At most so many threads, which begin as they are needed, and at most so many jobs that wait for one."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name = name
        self._most = threads
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(waiting)
        self._lock = threading.Lock()
        self._begun = 0

    def give(self, job: Callable[[], None]) -> bool:
        """Has it done as soon as a thread is free; False when too much waits already."""
        with suppress(queue.Full):
            self._jobs.put_nowait(job)
            with self._lock:
                if self._begun < self._most:
                    self._begun += 1
                    threading.Thread(target=self._work, name=self._name, daemon=True).start()
            return True
        return False

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - what it was about may be secret, and stand in its words
                log.error("%s: a job broke: %s", self._name, type(error).__name__)  # noqa: TRY400
            del job  # what it holds must not outlive it


class Bounded:
    """Makes calls that end in time for their caller. One that does not is left behind, at most so many of them."""

    def __init__(self, name: str, at_once: int) -> None:
        self._name = name
        self._places = threading.BoundedSemaphore(at_once)

    def __call__(self, seconds: float, call: Callable[[], T]) -> T:
        """What `call` gives. Raises what it raises, and Late."""
        if not self._places.acquire(blocking=False):
            raise Late("earlier calls have not come back")
        given: queue.SimpleQueue[tuple[T, None] | tuple[None, Exception]] = queue.SimpleQueue()

        def run() -> None:
            try:
                given.put((call(), None))
            except Exception as error:  # noqa: BLE001 - raised where it was asked for
                given.put((None, error))
            finally:
                self._places.release()

        threading.Thread(target=run, name=self._name, daemon=True).start()
        try:
            value, error = given.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise Late("no answer in time") from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value] # None only beside an error
