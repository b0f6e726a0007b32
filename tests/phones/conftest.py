"""A sidecar for the tests of linked phones: one process for all of a test process, empty for each test."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from postrider.model import Client
from postrider.service import Service
from tests.conftest import wait_until
from tests.phones.rig import Rig
from tests.sidecar import Sidecar


@pytest.fixture(scope="session")
def waha() -> Iterator[Sidecar]:
    """WAHA, as a process."""
    with Sidecar() as found:
        yield found


@pytest.fixture
def sidecar(waha: Sidecar) -> Sidecar:
    """WAHA without any session."""
    waha.reset(scale=0.02, key="planted-key")
    return waha


@pytest.fixture
def env(env: dict[str, str], sidecar: Sidecar) -> dict[str, str]:
    """A service that uses it, paces nothing, and has operators whom nobody reaches."""
    return env | sidecar.env() | {"ALERT_URLS": "json://127.0.0.1:9"}


@pytest.fixture
def rig(env: dict[str, str], client: redis.Redis, sidecar: Sidecar) -> Rig:
    """A service in this process; a test may change its settings before, by `env`."""
    return Rig.of(env, client, sidecar)


OPERATOR = Client("", "postrider", "admin")


def link(service: Service, sidecar: Sidecar, name: str, who: Client = OPERATOR, **scan: Any) -> str:
    """Adds a session and links a phone to it; gives its id."""
    id_ = service.phones.add(who, name).id
    look_until(service, id_, "scan")
    sidecar.scan(id_, **scan)
    look_until(service, id_, "linked")
    service.phones.sync()
    return id_


def look_until(service: Service, id_: str, state: str) -> None:
    """Looks at a session, as a keeper does, until it stands so."""

    def stands() -> bool:
        service.phones.look(id_)
        found = service.phones.sessions.get(id_)
        return found is not None and found.state == state

    wait_until(stands, what=f"{id_} is {state}")
