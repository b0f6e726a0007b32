"""How fast a contestant drains what is due at once, what that costs, and what a delivery that waits takes in Redis."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

import install
from contestants import CONTESTANTS, Contestant
from stage import Failed, Stage

WARM_FIRST = 10**9
DAY_S = 86_400


@dataclass(frozen=True)
class Drained:
    """One drain."""

    places: int
    messages: int
    per_s: float
    cpu_ms: float
    """CPU time of the contestant's processes for each message."""
    redis_cpu_ms: float
    fill_per_s: float
    """Recipients that it took in a second."""
    first_after_ms: float
    """When the first one arrived, after they were due."""


def drain(
    who: Contestant, messages: int, places: int, delay_ms: float = 0, waiting: int = 0
) -> Drained:
    """With so many others that wait for their day. Raises Failed: it did not start, not all arrived, or some twice."""
    messages = int(messages * who.share)
    with Stage(delay_ms) as stage:
        if waiting:
            who.fill(stage, WARM_FIRST * 2, waiting, time.time() + DAY_S)
            stage.wait_settled()
        for command in who.commands(stage, places):
            stage.start(command)
        stage.wait_quiet()
        # What runs for long is compiled, connected and imported by then.
        warm_up = 50 if places == 1 else 1_000
        who.fill(stage, WARM_FIRST, warm_up, time.time() + 2 if who.takes_per_s else None)
        stage.wait_for(warm_up)
        stage.wait_quiet()
        stage.ask_sink("reset")
        if who.takes_per_s:
            # rq-scheduler knows whole seconds only
            due_at = float(int(time.time() + messages / who.takes_per_s) + 3)
            filled_s = who.fill(stage, 0, messages, due_at)
            if time.time() > due_at - 0.2:
                raise Failed(f"took {filled_s:.1f} s to take them: they were due before")
            time.sleep(due_at - 0.1 - time.time())
            cpu_s, redis_s = stage.tree.cpu_s(), stage.redis_tree.cpu_s()
        else:
            # Halted while the queue fills, all its processes start together, warm and connected.
            stage.tree.signal(signal.SIGSTOP)
            filled_s = who.fill(stage, 0, messages, None)
            cpu_s, redis_s = stage.tree.cpu_s(), stage.redis_tree.cpu_s()
            due_at = time.time()
            stage.tree.signal(signal.SIGCONT)
        stage.wait_for(messages)
        stage.wait_quiet(0.3)
        cpu_s, redis_s = stage.tree.cpu_s() - cpu_s, stage.redis_tree.cpu_s() - redis_s
        times = _exactly_once(stage, messages)
    return Drained(
        places,
        messages,
        messages / (max(times) + delay_ms / 1000 - due_at),  # until the last one is answered
        cpu_s / messages * 1000,
        redis_s / messages * 1000,
        messages / filled_s,
        (min(times) - due_at) * 1000,
    )


def _exactly_once(stage: Stage, messages: int) -> list[float]:
    """When each came. Raises Failed when one came twice, or a stranger did."""
    came = stage.ask_sink("report")
    counts = Counter(who for who, _ in came)
    wanted = {str(n) for n in range(messages)}
    if set(counts) != wanted:
        raise Failed(f"{len(wanted - set(counts))} missing, {len(set(counts) - wanted)} strangers")
    if twice := sum(count > 1 for count in counts.values()):
        raise Failed(f"{twice} of {messages} were sent twice")
    return [at for _, at in came]


def bytes_waiting(who: Contestant, messages: int) -> float:
    """Bytes of Redis for each delivery that waits for its day, with a text of 200 bytes."""
    with Stage() as stage:
        who.fill(stage, WARM_FIRST, 100, time.time() + DAY_S)
        before = stage.used_memory()
        who.fill(stage, 0, messages, time.time() + DAY_S)
        return (stage.used_memory() - before) / messages


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how often."""

    runs: int
    messages: int
    late_messages: int
    """With slow answers."""
    delay_ms: float = 50
    late_places: int = 100
    """Sends under way in each process while answers are slow: the same for all, or this setting is all there is to see."""
    serial_messages: int = 200
    """With slow answers, for those who send one at a time."""
    tries: bool = True
    """Whether each setting that a contestant names is tried."""


Say = Callable[[str], None]


class Board:
    """What every contestant has shown so far."""

    def __init__(self, keys: set[str], sizes: Sizes, say: Say) -> None:
        self.who = [c for c in CONTESTANTS if c.key in keys]
        self.sizes, self.say = sizes, say
        self.drains: dict[str, list[Drained]] = {c.key: [] for c in self.who}
        self.late: dict[str, list[Drained]] = {c.key: [] for c in self.who}
        self.bytes: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Everybody once, then everybody again: what else the machine does hits all of them."""
        for what in dict.fromkeys(c.needs for c in self.who if c.needs):
            try:
                install.ready(what, self.say)
            except Failed as error:
                self.failed |= {c.key: str(error) for c in self.who if c.needs == what}
        for turn in range(self.sizes.runs):
            for who in self.who:
                tried = who.places if turn == 0 and self.sizes.tries else (self.best(who),)
                for places in tried:
                    self._try(who, lambda w=who, p=places: self._drain(w, p))
            for who in self.who:
                self._try(who, lambda w=who: self._drain_late(w))
        for who in self.who:
            if who.schedules:
                self._try(who, lambda w=who: self._weigh(w))

    def best(self, who: Contestant) -> int:
        """The setting that drained fastest."""
        shown = self.drains[who.key]
        return (
            max(shown, key=lambda d: d.per_s).places if shown else who.places[len(who.places) // 2]
        )

    def _try(self, who: Contestant, measure: Callable[[], None]) -> None:
        if who.key in self.failed and not self.drains[who.key]:
            return  # it does not work here
        try:
            measure()
        except (Failed, OSError) as error:
            self.failed[who.key] = str(error)
            self.say(f"{who.key}: FAILED: {error}")

    def _drain(self, who: Contestant, places: int) -> None:
        shown = drain(who, self.sizes.messages, places)
        self.drains[who.key].append(shown)
        self.say(f"{who.key}: {shown.per_s:,.0f}/s, CPU {shown.cpu_ms:.2f} ms ({places} places)")

    def _drain_late(self, who: Contestant) -> None:
        serial = who.places == (1,)
        places = 1 if serial else self.sizes.late_places
        messages = self.sizes.late_messages
        if serial:
            messages = int(self.sizes.serial_messages / who.share)
        shown = drain(who, messages, places, self.sizes.delay_ms)
        self.late[who.key].append(shown)
        self.say(f"{who.key}: {shown.per_s:,.0f}/s with answers after {self.sizes.delay_ms:.0f} ms")

    def _weigh(self, who: Contestant) -> None:
        self.bytes[who.key] = bytes_waiting(who, self.sizes.messages)
        self.say(f"{who.key}: {self.bytes[who.key]:.0f} bytes for each that waits")

    def told(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            c.key: {
                "name": c.name,
                "kind": c.kind,
                "note": c.note,
                "best_places": self.best(c),
                "drains": [asdict(d) for d in self.drains[c.key]],
                "late_drains": [asdict(d) for d in self.late[c.key]],
                "bytes": self.bytes.get(c.key),
                "failed": self.failed.get(c.key),
            }
            for c in self.who
        }
