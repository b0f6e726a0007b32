"""One run: a service of its own, messengers in a bad mood, a client that posts, and a hand that kills."""

import os
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from postrider import embedded
from postrider.errors import Misconfigured
from postrider.link import connect
from postrider.selftest.balance import Balance, read, wait_until_still, weigh
from postrider.selftest.fake import Answer, Call, FakeMessenger, says, yes
from postrider.selftest.fleet import Fleet, free_port, private_env
from postrider.selftest.load import Load
from postrider.settings import Settings
from postrider.store import Store

WORKERS = 3
SETTINGS = {
    "API_PROCESSES": "2",
    # Short, so that what is tried again ends within the run.
    "RETRY_INTERVAL": "1",
    "UNKNOWN_GRACE": "2",
    # It measures whether all arrives, not how fast a messenger lets us send.
    **{f"{service}_RATE": "0" for service in ("TELEGRAM", "VIBER", "WHATSAPP")},
}
SHUT_EVERY_S, SHUT_S = 20.0, 1.0
"""How often the messengers refuse every connection, and for how long."""
REFUSED = 0.01
"""Part of the recipients whom the messengers refuse for good."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. The seed decides on loads, victims and moods; the machine on the rest."""

    messages: int
    seconds: float
    kills: int
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `still`: nothing moved any more when the balance was drawn."""

    balance: Balance
    kills: Counter[str]
    calls: int
    still: bool
    took_s: float


Tell = Callable[[str], None]
"""Is told what happens now, often."""


class Mood:
    """How the messengers answer: mostly well, at times late, badly, or not at all."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a plan to repeat, no secret

    def __call__(self, call: Call) -> Answer | None:
        """What to answer to `call`."""
        if len(call.receivers) == 1 and zlib.crc32(call.to.encode()) % 1000 < 1000 * REFUSED:
            return _refusal(call)
        draw = self._random.random()
        if draw < 0.90:
            return None
        if draw < 0.94:  # slow, and well
            return yes(call, zlib.crc32(call.to.encode()), self._random.uniform(0.1, 2.0))
        if draw < 0.945:
            return _flood(call)
        if draw < 0.965:
            return Answer(self._random.choice((500, 502, 503)), b"<html>Bad Gateway</html>")
        if draw < 0.985:  # taken, and the reply is lost
            return Answer(cut=True)
        return Answer(200, self._random.choice((b"", b"<html>", b'{"ok": tr', b"[1]", b"\xff\xfe")))


def _refusal(call: Call) -> Answer:
    if call.service == "telegram":
        why = "Forbidden: bot was blocked by the user"
        return says(403, ok=False, error_code=403, description=why)
    if call.service == "viber":
        # Not taken, though Viber says even that with a 200.
        return Answer(400, b'{"status": 6, "status_message": "receiverNotSubscribed"}')
    return says(400, error={"code": 131026, "message": "Message undeliverable"})


def _flood(call: Call) -> Answer:
    if call.service == "telegram":
        why = "Too Many Requests: retry after 1"
        return says(429, ok=False, error_code=429, description=why, parameters={"retry_after": 1})
    return Answer(429, b"{}", {"Retry-After": "1"})


def run(plan: Plan, folder: Path, tell: Tell) -> Result:
    """Does it all in `folder`. Raises Misconfigured when the service cannot start on this machine."""
    started_at = time.monotonic()
    dice = random.Random(plan.seed)  # noqa: S311 - a plan to repeat, no secret
    with FakeMessenger() as messenger:
        env = private_env(folder, free_port(), {**messenger.env(), **SETTINGS})
        _demand_room(Settings.from_env(env, None))
        with Fleet(folder, env) as fleet:
            tell("starting Redis, the API and the workers")
            fleet.start("redis")
            fleet.start("api")
            for _ in range(WORKERS):
                fleet.start("worker")
            fleet.wait_ready()
            messenger.script = Mood(plan.seed)
            load = Load(fleet, dice)
            load.progress = lambda posted: tell(
                f"{posted} of {plan.messages} messages posted, {len(fleet.kills)} kills"
            )
            trouble = _Trouble(fleet, messenger, plan, dice)
            trouble.start()
            load.run(plan.messages, plan.seconds)
            trouble.join()
            with connect(fleet.settings.redis_address) as client:
                store = Store(client)
                still = wait_until_still(
                    store, messenger, lambda left: tell(f"{left} deliveries have not ended yet")
                )
                tell("drawing the balance")
                found = read(store)
                balance = weigh(load.posts, found, messenger.calls, messenger.took, fleet.kills)
            return Result(
                balance,
                Counter(kill.name for kill in fleet.kills),
                len(messenger.calls),
                still,
                time.monotonic() - started_at,
            )


def _demand_room(settings: Settings) -> None:
    """A server can be started in our folder, or Misconfigured says what is in the way, in terms of what can be set here."""
    if len(os.fsencode(settings.redis_socket)) > embedded.SOCKET_PATH_MAX:
        raise Misconfigured(
            f"TMPDIR: the path of Redis's socket, {settings.redis_socket}, is too long for the system:"
            " set TMPDIR to a shorter path, /tmp for example"
        )
    embedded.preflight(settings)


class _Trouble(threading.Thread):
    """Kills, and shuts the messengers' door, at moments that the dice chose."""

    def __init__(
        self, fleet: Fleet, messenger: FakeMessenger, plan: Plan, dice: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self.fleet = fleet
        self.messenger = messenger
        self.dice = random.Random(dice.random())  # noqa: S311 - of its own: two threads share none
        victims = _victims(plan.kills, self.dice)
        shuts = int(plan.seconds / SHUT_EVERY_S)
        self.acts = sorted(
            (self.dice.uniform(0.05, 0.95) * plan.seconds, act)
            for act in (*victims, *["door"] * shuts)
        )

    def run(self) -> None:
        began = time.monotonic()
        for at_s, act in self.acts:
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            if act == "door":
                self.messenger.shut()
                time.sleep(SHUT_S)
                self.messenger.open()
            else:
                self.fleet.kill(self.dice.choice(self.fleet.named(act)))


def _victims(kills: int, dice: random.Random) -> list[str]:
    """Mostly workers; of ten, one each is the API and Redis."""
    tenth = kills // 10 or int(kills > 2)
    victims = ["api", "redis"] * tenth + ["worker"] * (kills - 2 * tenth)
    dice.shuffle(victims)
    return victims
