"""Redis's time, which is everybody's, without asking Redis each time."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

FRESH_S = 0.25
"""How long an answer is counted on from, by this machine's steady clock: nothing that drifts, or is set, matters in that time."""


class Clock:
    """Asks `now` for the time, at most once in `FRESH_S` s. Never ahead of it: an answer counts from when it was there."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._ask = now
        self._lock = threading.Lock()
        self._told: tuple[float, datetime] | None = None

    def now(self) -> datetime:
        """Aware UTC. Raises what `now` does."""
        with self._lock:  # one asks, the others wait for its answer
            told = self._told
            if told is None or time.monotonic() - told[0] > FRESH_S:
                answer = self._ask()
                told = self._told = (time.monotonic(), answer)
        return told[1] + timedelta(seconds=time.monotonic() - told[0])
