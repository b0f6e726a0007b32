"""A messenger that is down: its deliveries wait without using up their tries, and the others do not notice."""

import threading
import time
from collections.abc import Iterator

import pytest

from postrider.selftest.balance import share, wait_until_still
from postrider.selftest.fake import Answer, FakeMessenger
from postrider.selftest.load import Recipients
from tests.reliability.rig import Rig

BACK_WITHIN_S = 90


@pytest.fixture
def broken() -> Iterator[FakeMessenger]:
    """Telegram, on a server of its own."""
    with FakeMessenger() as fake:
        yield fake


@pytest.fixture
def fleet_env(fleet_env: dict[str, str], broken: FakeMessenger) -> dict[str, str]:
    return fleet_env | {"TELEGRAM_API_URL": broken.url}


@pytest.mark.minutes
def test_nothing_fails_while_a_messenger_is_down_and_others_are_on_time(
    rig: Rig, messenger: FakeMessenger, broken: FakeMessenger, long: bool
) -> None:
    """Telegram refuses connections for 4 s, then answers 5xx for 4 s (long: 5 minutes each), while 200 (long: 2,000) are
    due there and as many on Viber. Its tries alone would last about 6 s.

    Failed 0, lost 0; all out within 90 s after it is back; Viber's lateness p99 at most 2 s meanwhile.
    """
    half_s, total = (300.0, 2_000) if long else (4.0, 200)
    rig.start(workers=2)
    broken.shut()
    rig.spread(total // 2, 1.0, source=rig.recipients)
    loads = [
        threading.Thread(target=rig.spread, args=(total // 2, 2 * half_s)),
        threading.Thread(
            target=rig.spread, args=(total, 2 * half_s), kwargs={"source": Recipients("viber")}
        ),
    ]
    for load in loads:
        load.start()
    time.sleep(half_s)
    broken.script = lambda _: Answer(503, b"<html>Service Unavailable</html>")
    broken.open()
    time.sleep(half_s)
    broken.script = lambda _: None
    back_at = time.monotonic()
    for load in loads:
        load.join()
    wait_until_still(rig.store, broken)
    took_s = time.monotonic() - back_at
    balance = rig.balance(broken)
    due = {post.recipients[0].service: {} for post in rig.posts}
    for post in rig.posts:
        for each in post.recipients:
            due[each.service][each.uuid] = post.due_at
    viber = sorted(call.at - due["viber"][to] for call in messenger.calls for to in call.receivers)
    print(f"all out {took_s:.1f} s after it was back; Viber's p99 {share(viber, 0.99):.3f} s")
    assert balance.ok
    assert balance.columns["sent"] == balance.accepted == 2 * total
    assert took_s <= BACK_WITHIN_S
    assert share(viber, 0.99) <= 2
