"""What needs somebody, told to the places that ALERT_URLS names: once, and once more when it is over.

Whoever raises an alert only writes it down. A thread of its own, in every process that sweeps, tells it, so that no place
that hangs holds up anything else; one that does not take it is tried again for a day. Nothing is loaded before it is needed.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis

from messengers.apprise import Notification
from messengers.base import Reply
from postrider.errors import Unavailable
from postrider.masking import Mask
from postrider.notifications import Notifications
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.settings import Settings
from postrider.standing import standings

log = logging.getLogger("postrider.alerts")

AGAIN_S = 3600
"""Seconds for which the same is not told again."""
LOOK_S = 5.0
MOST_WAITING = 1_000
AT_ONCE = 10
TELL_S = 30.0
"""Seconds that one place gets to take an alert."""
RETRY_S = (30, 3600)
"""Shortest and longest wait before a place that did not take one is tried again."""
GIVE_UP_S = 86_400.0
REFUSED = "refused"


class Alerts:
    """Alerts in one Redis; none are kept while the settings name no place."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._scripts = Scripts(client)
        self._places = settings.alert_places
        self._mask = Mask.of(settings)
        self._carrier = Notifications(tls_verify=settings.tls_verify)

    @property
    def wanted(self) -> bool:
        """Whether anybody is to be told."""
        return bool(self._places)

    def alert(self, kind: str, key: str, text: str, *, lasts: bool = False) -> bool:
        """Has `text` told, unless the same kind and key was within the hour; whether it will be.

        `lasts`: something that goes on until `over` is called.
        """
        return self._write("raise", kind, key, text, lasts=lasts)

    def over(self, kind: str, key: str, text: str) -> bool:
        """Has it told that this is over, if it was told that it began; whether it will be."""
        return self._write("over", kind, key, text)

    @unavailable_when_redis_is
    def _write(self, what: str, kind: str, key: str, text: str, *, lasts: bool = False) -> bool:
        if not self.wanted:
            return False
        limits = (AGAIN_S, len(self._places), MOST_WAITING, int(lasts))
        return bool(self._scripts.run("alert", what, f"{kind} {key}", self._mask(text), *limits))

    def watch(self, accounts: Sequence[str]) -> None:
        """Raises an alert for each account that its messenger refuses, and ends it when it goes again."""
        for account, stands in standings(self._redis, accounts).items():
            pause = stands.pause
            if pause and pause.kind == REFUSED:
                text = f"{account} is refused, and its deliveries wait: {pause.why}"
                self.alert(REFUSED, account, text, lasts=True)
            elif pause is None:
                self.over(REFUSED, account, f"{account} goes again")

    @unavailable_when_redis_is
    def tell(self) -> None:
        """Tells what is due; what a place does not take is due again later."""
        client: Any = self._redis
        now, entries = self._scripts.run("alert", "take", AT_ONCE, *RETRY_S)
        for entry in entries:
            place, at, text = entry.decode().split(" ", 2)
            known = int(place) < len(self._places)
            if not known or float(now) - float(at) > GIVE_UP_S:
                log.error("an alert was told to nobody: %s", text)
            elif not self._takes(self._places[int(place)], text):
                log.warning("number %d of ALERT_URLS did not take an alert", int(place) + 1)
                continue
            client.zrem("pr:alerts", entry)

    def _takes(self, url: str, text: str) -> bool:
        alert = Notification("alert", (url,), text, title="Postrider")
        reply = self._carrier.carry(alert, TELL_S)
        match reply.object() if isinstance(reply, Reply) else {}:
            case {"places": [{"ok": True}]}:
                return True
        return False

    def start(self, accounts: Callable[[], Sequence[str]]) -> None:
        """Watches those there are then and tells, from here on, in a thread; nothing where nobody is to be told."""
        if self.wanted:
            args = (accounts,)
            threading.Thread(target=self._work, args=args, name="alerts", daemon=True).start()

    def _work(self, accounts: Callable[[], Sequence[str]]) -> None:
        while True:
            time.sleep(LOOK_S)
            with suppress(Unavailable):  # who needs Redis more has said so
                self.watch(accounts())
                self.tell()
