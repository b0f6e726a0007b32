"""How fast an account may send: its rate, each recipient's, a gap, a daily cap. Redis keeps count for all workers.

`lua/_accounts.lua` says go, or wait this long. A delivery that waits for its account or its recipient uses up no try.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from messengers.abilities import Broadcast
from messengers.base import Messenger
from postrider.accounts import Paces, PhonePaces
from postrider.settings import Settings

BURST_S = 0.1
"""An account that was idle may send what it could have sent in this time, at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may do; 0 everywhere: as fast as it can.

    Rates are per second; a broadcast counts as one. `gap_s`: least and most seconds between two messages, at random.
    """

    rate: float = 0.0
    recipient_rate: float = 0.0
    slower: Mapping[str, float] | None = None
    """Rates of recipients whose address begins so."""
    gap_s: tuple[float, float] = (0.0, 0.0)
    daily_cap: int = 0
    receivers: int = 1
    """How many one call can reach."""
    places: int | None = None
    """Sends under way at once in one worker; None: as many as anybody's."""
    goes: bool = True
    """False: nothing goes, and what is due waits, as for an account that nobody has set up."""

    def spec(self, free: int, utc_offset_s: int) -> dict[str, Any]:
        """What the scripts are told: `free` places, intervals in seconds, where the day begins."""
        least, most = self.gap_s
        interval = max(_interval_s(self.rate), least)
        return {
            "free": free,
            "interval": interval,
            "burst": max(1, int(self.rate * BURST_S)) if most == 0 else 1,
            "gap": max(0.0, most - interval),
            "cap": self.daily_cap,
            "offset": utc_offset_s,
            "call": self.receivers,
            "paces": self._paces(),
        }

    def _paces(self) -> list[tuple[str, float]]:
        """(how the address begins, seconds between two messages to it); the first that fits holds."""
        if not self.recipient_rate:
            return []
        everybody = _interval_s(self.recipient_rate)
        some = [(begins, _interval_s(rate)) for begins, rate in (self.slower or {}).items()]
        return [*((begins, max(s, everybody)) for begins, s in some), ("", everybody)]


def _interval_s(rate: float) -> float:
    return 1 / rate if rate else 0.0


def limits_of(adapter: Messenger, settings: Settings, paces: Paces | None = None) -> Limits:
    """What the settings allow an account of this messenger; `paces`: what it has of its own."""
    broadcast: object = adapter

    def own(pace: str) -> float:
        given = getattr(paces, pace, None)
        setting = f"{adapter.name.replace('-', '_')}_{pace}"
        found: float = getattr(settings, setting, 0) if given is None else given
        return found

    return Limits(
        rate=own("rate"),
        recipient_rate=own("recipient_rate"),
        slower=adapter.slower,
        daily_cap=int(own("daily_cap")),
        gap_s=paces.gap_s if isinstance(paces, PhonePaces) else (0.0, 0.0),
        goes=paces.there if isinstance(paces, PhonePaces) else True,
        receivers=broadcast.BROADCAST_LIMIT if isinstance(broadcast, Broadcast) else 1,
        places=paces.concurrency if paces else None,
    )
