"""Carries what does not go by HTTP: each kind of `Errand` by who knows its protocol, in a thread of the caller's."""

import logging
from typing import Protocol

from messengers.apprise import Notification
from messengers.base import Errand, NoReply, Reply
from messengers.letters import Letter, Login
from postrider.notifications import Notifications
from postrider.smtp import Smtp

log = logging.getLogger("postrider.errands")
BROKE = "internal error"


class Carrier(Protocol):
    """Carries one kind of errand. Its threads may be many; it closes what has long been idle."""

    def carry(self, errand: Errand) -> Reply | NoReply:
        """What came back, within the limits of `transport`. Never raises for anything the other side does."""


class Errands:
    """Carries errands of every kind."""

    def __init__(self, *, tls_verify: bool = True) -> None:
        smtp = Smtp(tls_verify=tls_verify)
        self._carriers: dict[type[Errand], Carrier] = {
            Letter: smtp,
            Login: smtp,
            Notification: Notifications(tls_verify=tls_verify),
        }

    def carry(self, errand: Errand) -> Reply | NoReply:
        """What came back. Never raises: what broke may have left."""
        carrier = self._carriers.get(type(errand))
        if carrier is None:
            log.error("nobody carries a %s", type(errand).__name__)
            return NoReply(left=False, reason=BROKE)
        try:
            return carrier.carry(errand)
        except Exception:
            log.exception("an errand broke")
            return NoReply(left=True, reason=BROKE)
