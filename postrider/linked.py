"""Sessions of linked phones as answers show them: how each stands, what waits for it, what it may send today and has sent."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from messengers.whatsapp_web import WhatsAppWeb
from postrider.lookups import Looked
from postrider.model import Client
from postrider.records import account_key
from postrider.scripts import unavailable_when_redis_is
from postrider.service import Service
from postrider.sessions import Session
from postrider.showing import iso
from postrider.standing import standings


def sessions(service: Service, who: Client, found: Sequence[Session]) -> list[dict[str, Any]]:
    """These sessions, as `who` sees them. Raises Unavailable."""
    names = [account_key(WhatsAppWeb.name, one.id) for one in found]
    stands = standings(service.store.redis, names) if names else {}
    days = _sent_today(service, names)
    return [
        _session(one, who) | {"waiting": stands[name].waiting, "today": _today(service, one, sent)}
        for one, name, sent in zip(found, names, days, strict=True)
    ]


def session(service: Service, who: Client, found: Session) -> dict[str, Any]:
    """One session, as `who` sees it. Raises Unavailable."""
    return sessions(service, who, [found])[0]


def name_of(s: Session, who: Client) -> str:
    """What `who` calls a session: one's own by its name, as all do a shared one; anybody else's by its id."""
    return s.name if s.owner == who.id else s.id


def _session(s: Session, who: Client) -> dict[str, Any]:
    return {
        "name": name_of(s, who),
        "owner": s.owner,
        "shared": s.shared,
        "state": s.state,
        "since": iso(s.since),
        "wanted": s.wanted,
        "reason": s.reason,
        "number": s.number or None,
        "phone": s.phone or None,
        "linked_at": iso(s.linked_at),
        "created_at": iso(s.created_at),
    }


def _today(service: Service, s: Session, sent: int) -> dict[str, Any]:
    """What its phone may send today and has sent; where nothing limits that, nobody counts it."""
    cap = service.phones.cap(s)
    return {"cap": cap or None, "sent": sent if cap else None}


@unavailable_when_redis_is
def _sent_today(service: Service, names: Sequence[str]) -> list[int]:
    """What each account was given on this day of the service's zone: see lua/_accounts.lua."""
    if not names:
        return []
    pipe: Any = service.store.redis.pipeline(transaction=False)
    for name in names:
        pipe.hmget(f"pr:account:{name}", "day", "sent")
    today = _day(service.store.now(), ZoneInfo(service.settings.tz))
    return [
        int(sent or 0) if day is not None and int(float(day)) == today else 0
        for day, sent in pipe.execute()
    ]


def _day(now: datetime, zone: ZoneInfo) -> int:
    offset = now.astimezone(zone).utcoffset() or timedelta()
    return int((now.timestamp() + offset.total_seconds()) // 86_400)


def looked(found: Looked) -> dict[str, Any]:
    """What came of looking up a number."""
    return {
        "given": found.given,
        "number": f"+{found.number}" if found.number else None,
        "found": found.found,
        "to": found.to or None,
        "known_from": found.known_from or None,
        "known_at": iso(found.at),
        "reason": found.reason,
        "again_at": iso(found.again_at),
    }
