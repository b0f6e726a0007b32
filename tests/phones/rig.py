"""What tests of linked phones do: a user, what is due and looked at, what is due and sent, what operators are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import redis

from messengers.base import Reply, Request
from postrider.model import Client, NewMessage, Recipient
from postrider.phones import SERVICE, Phones
from postrider.service import Service, open_accounts
from postrider.sessions import Session
from postrider.settings import Settings
from postrider.store import Store
from postrider.transport import Blocking
from tests.conftest import wait_until
from tests.sidecar import Sidecar

USER = Client("", "postrider", "admin")
ANA = "375291234567"
NUMBER = "375447034810"


@dataclass
class Rig:
    """A service in this process, and the sidecar that it uses."""

    service: Service
    sidecar: Sidecar
    transport: Blocking = field(default_factory=lambda: Blocking(lambda _: None))

    @classmethod
    def of(cls, env: Mapping[str, str], client: redis.Redis, sidecar: Sidecar) -> Self:
        """One with these settings, and operators whom nobody reaches."""
        settings = Settings.from_env({"ALERT_URLS": "json://127.0.0.1:9", **env}, None)
        return cls(Service(Store(client), settings, open_accounts(settings)), sidecar)

    def later(self, seconds: float) -> None:
        """As if so many seconds had gone by for who judges how sessions stand."""
        now = self.phones.now
        self.phones.now = lambda: now() + timedelta(seconds=seconds)

    @property
    def phones(self) -> Phones:
        return self.service.phones

    # -- sessions

    def session(self, id_: str = "shop") -> Session:
        found = self.phones.sessions.get(id_)
        assert found is not None
        return found

    def look(self, id_: str = "shop") -> Session:
        """What a keeper finds now."""
        self.phones.look(id_)
        return self.session(id_)

    def look_until(self, state: str, id_: str = "shop") -> Session:
        """As a keeper does that is told of each change."""
        wait_until(lambda: self.look(id_).state == state, 10, f"{id_} {state}")
        return self.session(id_)

    def linked(self, id_: str = "shop", number: str = NUMBER) -> Session:
        """A session of the settings' user that is linked."""
        self.phones.add(USER, id_)
        self.look_until("scan", id_)
        self.sidecar.scan(id_, number)
        return self.look_until("linked", id_)

    def told(self) -> list[str]:
        """What operators are told, in that order."""
        client: Any = self.service.store.redis
        entries = [entry.decode().split(" ", 2) for entry in client.zrange("pr:alerts", 0, -1)]
        return [text for _, _, text in sorted(entries, key=lambda entry: float(entry[1]))]

    # -- deliveries

    def post(self, *uuids: str, account: str = "shop", body: str = "Hi", owner: str = "") -> str:
        """Has a message accepted; gives its id."""
        to = tuple(Recipient(uuid, SERVICE, account) for uuid in uuids or (ANA,))
        return self.service.accept(NewMessage(body, to, owner=owner))[0].id

    def send(self, free: int = 1) -> int:
        """Sends what may go now, as a worker does; gives how many it tried."""
        self.phones.sync()
        sender = self.service.sender
        claimed = sender.claim("rig", free)
        for claims in sender.calls(claimed.claims):
            exchange = sender.attempt(claims)
            try:
                request = next(exchange)
                while True:
                    request = exchange.send(self._carried(request))
            except StopIteration as stop:
                sender.record("rig", stop.value)
        return len(claimed.claims)

    def _carried(self, request: object) -> Reply | Any:
        assert isinstance(request, Request)
        return self.transport.send(request)

    def send_until(self, sent: int, within_s: float = 10) -> None:
        """Sends until the sidecar has so many."""
        wait_until(lambda: self.send() >= 0 and len(self.sidecar.messages) >= sent, within_s)

    def state(self, message: str, index: int = 0) -> tuple[str, int]:
        """A delivery's state, and how many attempts it has used up."""
        found = self.service.delivery(f"{message}-{index}", None).delivery
        return str(found.state), found.attempts
