"""A sidecar for the tests of linked phones: one process for all of a test process, empty for each test."""

from collections.abc import Iterator

import pytest
import redis

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
    """A service that uses it, and paces nothing."""
    return env | sidecar.env()


@pytest.fixture
def rig(env: dict[str, str], client: redis.Redis, sidecar: Sidecar) -> Rig:
    """A service in this process; a test may change its settings before, by `env`."""
    return Rig.of(env, client, sidecar)
