"""Redis's time, asked for now and then."""

import time
from datetime import datetime

import pytest
import redis

from postrider.clock import FRESH_S, Clock
from postrider.errors import Unavailable
from postrider.store import Store


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def test_it_is_redis_s_time_and_asked_for_only_when_it_is_old(store: Store) -> None:
    asked = 0

    def ask() -> datetime:
        nonlocal asked
        asked += 1
        return store.now()

    clock = Clock(ask)
    began_at = time.monotonic()
    times = [clock.now() for _ in range(200)]
    assert asked <= 1 + (time.monotonic() - began_at) / FRESH_S
    assert times == sorted(times)
    assert clock.now() <= store.now()
    time.sleep(FRESH_S)
    before = store.now()
    assert before <= clock.now() <= store.now()
    assert asked > 1


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    told: list[datetime | Unavailable] = [Unavailable("away"), datetime.now().astimezone()]

    def ask() -> datetime:
        answer = told.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    clock = Clock(ask)
    with pytest.raises(Unavailable):
        clock.now()
    assert clock.now()


def test_a_post_asks_for_it_but_now_and_then(client: redis.Redis, store: Store) -> None:
    clock = Clock(store.now)
    client.config_resetstat()
    for _ in range(50):
        clock.now()
    assert client.info("commandstats")["cmdstat_time"]["calls"] < 10
