"""The rig, the dice, and which form of a test is asked for."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from postrider.selftest.fake import FakeMessenger
from postrider.selftest.fleet import Fleet, free_port, private_env
from tests.reliability import clock
from tests.reliability.rig import Rig

SETTINGS = {
    "RETRY_INTERVAL": "0.2",
    "UNKNOWN_GRACE": "0.2",
    "API_PASSWORD": "reliability",
    # Rates have their own tests; here they would only slow the load down.
    **{f"{service}_RATE": "0" for service in ("TELEGRAM", "VIBER", "WHATSAPP")},
}


SEEDS = 5
"""How often what is thrown is thrown anew, in the long form."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What throws dice is run with so many seeds in the long form."""
    throws = metafunc.definition.get_closest_marker("dice")
    if throws and metafunc.config.getoption("--long", default=False):
        metafunc.parametrize("dice", range(SEEDS), indirect=True, ids=lambda n: f"seed {n + 1}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if not Path("/proc").is_dir():
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="looks into /proc"))


@pytest.fixture
def dice() -> random.Random:
    """Choices that can be repeated: the seed is printed."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is put under a process to shift its clock."""
    return clock.build(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def fleet_env(tmp_path: Path, messenger: FakeMessenger) -> dict[str, str]:
    """The fleet's environment; a test may change it before it uses `rig`."""
    return private_env(tmp_path, free_port(), {**messenger.env(), **SETTINGS})


@pytest.fixture
def rig(
    tmp_path: Path, fleet_env: dict[str, str], messenger: FakeMessenger, dice: random.Random
) -> Iterator[Rig]:
    """A service of this test alone."""
    with Fleet(tmp_path, fleet_env) as fleet:
        made = Rig(fleet, messenger, dice)
        yield made
        made.redis.close()
