"""Files that come in with messages, fetched from the sidecar and kept: as long as their messages, for whose session it is.

A keeper does so, never who takes the message: a sidecar that gives a file slowly, or without end, holds up nobody else.
"""

import json
import logging
import mimetypes
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from messengers.base import NoReply, Reply
from postrider import records
from postrider.accounts import DEFAULT, Accounts
from postrider.arriving import Arriving, clean_name
from postrider.errors import TooManyRequests, Unavailable
from postrider.files import Files, Left, Stored, over
from postrider.guard import Guard, Refused
from postrider.hands import Hands
from postrider.media import Attached, Awaited, Due
from postrider.outward import Outward
from postrider.sessions import owner_of
from postrider.settings import Settings

log = logging.getLogger("postrider.gathering")

THREADS = 8
OF_ONE = 2
"""Of one session at once: a phone that is sent much keeps no other's waiting."""
WHOLE_S = 120.0
"""Seconds for one file: the sidecar stands beside us."""
LEASE_S = 180.0
AGAIN_S = (2.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds before the second try, the third, ...: WAHA keeps a file for 180 s unless it is told otherwise."""
TRIES = len(AGAIN_S) + 1


class TooLarge(Exception):
    """It has more bytes than we keep, whatever was told of it."""


class Missing(Exception):
    """It cannot be had; in words for whoever asks for it."""


class Later(Exception):
    """It could not be had now."""


class Gathering:
    """Fetches what is awaited, a few files at once. `turn` is called all the time, and waits for none of them."""

    def __init__(
        self,
        awaited: Awaited,
        files: Files,
        settings: Settings,
        accounts: Mapping[Any, Any],
        *,
        within_s: float = WHOLE_S,
        lease_s: float = LEASE_S,
        again_s: tuple[float, ...] = AGAIN_S,
    ) -> None:
        self._awaited = awaited
        self._files = files
        self._phone = accounts.phone if isinstance(accounts, Accounts) else None
        self._limit = min(settings.incoming_max_bytes, settings.max_file_bytes)
        urls = {"waha": settings.waha_url, "gowa": settings.gowa_url}
        self._sidecar = urlsplit(urls[settings.whatsapp_web_driver] or "").netloc
        # Where it may go is checked here: to the sidecar, which is seldom public.
        self._outward = Outward(Guard(everything=True), tls_verify=settings.tls_verify)
        self._within_s, self._lease_s, self._again_s = within_s, lease_s, again_s
        self._hands = Hands("gathering", THREADS, THREADS)
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()

    def turn(self) -> None:
        """Begins to fetch what is due, as far as there is room."""
        if self._phone is None:
            return
        with self._lock:
            busy = dict(self._busy)
        room = THREADS - sum(busy.values())
        if room <= 0:
            return
        for due in self._awaited.take(room, OF_ONE, busy, self._lease_s):
            with self._lock:
                self._busy[due.account] += 1
            if not self._hands.give(
                partial(self._gather, due)
            ):  # it is due again at its lease's end
                self._left(due)

    def _left(self, due: Due) -> None:
        with self._lock:
            self._busy[due.account] -= 1
            if self._busy[due.account] <= 0:
                del self._busy[due.account]

    def _gather(self, due: Due) -> None:
        try:
            self._settle(due)
        except Unavailable as error:  # Redis is away: it is due again at its lease's end
            log.warning("a file of session %s: %s", _session(due), error)
        except Exception:
            log.exception("a file of session %s: the try broke", _session(due))
        finally:
            self._left(due)

    def _settle(self, due: Due) -> None:
        """Fetches one, and writes down what became of it."""
        told = due.media
        became = Attached("missing", "", clean_name(told.name), told.media_type, told.size)
        try:
            kept = self._fetched(due)
        except (Missing, TooLarge, TooManyRequests) as error:
            became = replace(became, reason=str(error))
        except (Later, Unavailable, OSError) as error:
            if due.tries < TRIES:
                self._awaited.again(due, self._again_s[due.tries - 1])
                return
            said = str(error) if not isinstance(error, OSError) else "it could not be written"
            became = replace(became, reason=said)
        else:
            file = kept.file
            became = Attached("kept", file.id, file.name, file.media_type, file.size)
        if became.reason:
            log.warning("a file of session %s is not kept: %s", _session(due), became.reason)
        if not self._awaited.end(due, became, self._event(due, became)):
            self._awaited.again(due, 0)

    # -- fetching

    def _fetched(self, due: Due) -> Stored:
        """The file, kept for its session's owner. Raises Missing, TooLarge, Later, TooManyRequests, Unavailable, OSError."""
        if due.tries > TRIES:
            raise Missing(f"it was not fetched in {TRIES} tries")
        if due.media.size > self._limit:
            raise TooLarge(self._too_large())
        owner = owner_of(_session(due))
        incoming = self._files.incoming()
        try:
            self._fetch(due, incoming, self._files.left(owner))
            if not incoming.size:
                raise Later("the sidecar gave nothing")
            return self._files.keep(incoming, _name(due), owner, self._now())
        finally:
            incoming.close()

    def _fetch(self, due: Due, incoming: Arriving, left: Left | None) -> None:
        if self._phone is None:
            raise Later("no sidecar is set up")
        request = self._phone.driver.media(due.media.url)
        # Its key is for nobody else, whatever stands in a message.
        if urlsplit(request.url).netloc != self._sidecar:
            raise Missing("it does not lie at the sidecar")
        until = time.monotonic() + self._within_s

        def write(part: bytes) -> None:
            size = incoming.size + len(part)
            if size > self._limit:
                raise TooLarge(self._too_large())
            if left is not None and size > left.left:
                raise over(left.most)
            incoming.write(part)

        try:
            within_s = until - time.monotonic()
            reply = self._outward.fetch(request.url, write, within_s, request.headers)
        except Refused as error:
            raise Missing(f"its URL {error}") from None
        _judge(reply)

    def _too_large(self) -> str:
        return f"it has over {self._limit} bytes (INCOMING_MAX_BYTES)"

    def _now(self) -> datetime:
        return records.moment_of(self._files.redis)

    # -- telling

    def _event(self, due: Due, became: Attached) -> str:
        """What callbacks are told: the message, and now its file."""
        if not due.event:
            return ""
        line = json.loads(due.event)
        told: dict[str, Any] = {
            "id": became.id or None,
            "name": became.name,
            "media_type": became.media_type,
            "size": became.size,
            "reason": became.reason,
            "url": None,
        }
        if became.id and self._files.links:
            try:
                told["url"] = self._files.links.url(became.id, became.name)
            except OSError:
                log.warning("no link can be made to a file: its key cannot be written")
        line["data"]["file"] = told
        return json.dumps(line, ensure_ascii=False)


def _session(due: Due) -> str:
    return due.account.partition("/")[2] or DEFAULT


def _name(due: Due) -> str:
    """As it was sent; else by its kind."""
    if due.media.name:
        return due.media.name
    media_type = due.media.media_type.partition(";")[0].strip()
    kind = media_type.partition("/")[0]
    stem = kind if kind in {"image", "video", "audio"} else "file"
    return stem + (mimetypes.guess_extension(media_type) or "")


def _judge(reply: Reply | NoReply) -> None:
    """Raises Later, or Missing, for what is no file."""
    if isinstance(reply, NoReply):
        raise Later(f"the sidecar did not give it: {reply.reason}")
    if reply.status == 200:
        return
    why = f"the sidecar answers {reply.status}"
    if 300 <= reply.status <= 499 and reply.status not in {401, 403, 408, 425, 429}:
        raise Missing(why)
    raise Later(why)
