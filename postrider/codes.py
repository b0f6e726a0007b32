"""QR codes, handed to the operator's chat: a Slack channel, and each place of ALERT_URLS that takes files.

A code is a credential. It is held in memory until it is posted, and nowhere else: in Redis stand Slack's ids, by which any keeper
takes a picture away once its code has expired or its phone is linked. Whoever looks at sessions waits for none of this.
"""

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial

import redis
import segno

from messengers.apprise import Notification
from messengers.base import File, Reply
from messengers.phones import Code
from postrider import notifications, records
from postrider.hands import Hands
from postrider.notifications import Notifications
from postrider.posted import MOST, Posted, Posts
from postrider.sessions import Session, Sessions
from postrider.settings import Settings
from postrider.slack import NotTaken, Slack

log = logging.getLogger("postrider.codes")

THREADS, WAITING = 4, 200
"""Of each kind of place: what is done at once, and what waits for that."""
LEASE_S = 60.0
"""Seconds that the end of a code may take to be told; then it is told again."""
TELL_S = 30.0
AFTER_S = 4.0
"""Seconds after its end at which a code is marked as dead: by then its successor has been seen."""
AGAIN_S = 5.0
"""Seconds between two looks at a session that waits for its user, though no code is to be scanned."""
TAKEN = 20
SCALE = 8
"""Pixels of a picture for each dot of its code."""
PASSKEY = "passkey"


@dataclass(frozen=True, slots=True)
class Shown:
    """A code that is to be shown. `until`: of the monotonic clock."""

    session: str
    n: int
    ends_at: datetime
    until: float
    png: bytes = field(repr=False)

    @property
    def lives(self) -> str:
        """How long it does."""
        left = max(0, round(self.until - time.monotonic()))
        return f"{left} s, until {self.ends_at:%H:%M:%S} UTC"


def drawn(code: Code) -> bytes:
    """The code as a PNG."""
    if code.png:
        return code.png
    picture = io.BytesIO()
    segno.make_qr(code.text, error="l", boost_error=False).save(
        picture, kind="png", scale=SCALE, border=4
    )
    return picture.getvalue()


class Codes:
    """A `Watcher` of `postrider.phones`, for a keeper, which calls `turn` all the time."""

    def __init__(
        self,
        client: redis.Redis,
        sessions: Sessions,
        settings: Settings,
        *,
        after_s: float = AFTER_S,
    ) -> None:
        self._redis = client
        self._sessions = sessions
        self._after_s = after_s
        self._posts = Posts(client)
        self._slack = Slack.of(settings)
        self._places = settings.alert_places
        self._tls_verify = settings.tls_verify
        self._carrier = Notifications(tls_verify=settings.tls_verify)
        self._for_slack = Hands("codes", THREADS, WAITING)
        self._for_others = Hands("codes-others", THREADS, WAITING)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._refused: set[str] = set()
        self._with_files = cache(self._asked_for_files)

    # -- as told by those who look at sessions

    def scans(self, session: Session, code: Code) -> None:
        """A new code waits to be scanned: it is handed on, unless that was done."""
        if not (self._slack or self._places):
            return
        told = self._posts.next(session.id, session.code, code.lives_s, self._after_s)
        if told is None:
            return
        n, ends_at = told
        left_s = (ends_at - records.moment_of(self._redis)).total_seconds()
        shown = Shown(session.id, n, ends_at, time.monotonic() + left_s, drawn(code))
        if self._slack:
            self._give(self._for_slack, partial(self._post, self._slack, shown))
        if self._places:
            self._give(self._for_others, partial(self._send, shown))

    def settled(self, session: Session) -> None:
        """Nothing waits to be scanned any more: what shows a code is looked at at once."""
        asks = session.state == PASSKEY and self._slack is not None
        self._posts.look_in(session.id, 0, also_without=asks)

    def turn(self) -> None:
        """Has what has expired marked so, and what is over taken away."""
        for id_ in self._posts.take_due(TAKEN, LEASE_S):
            self._give(self._for_slack, partial(self._settle, id_))

    def _give(self, hands: Hands, job: Callable[[], None]) -> None:
        if not hands.give(job):
            self._tell("queue", "QR codes are not handed on: too many wait for their turn")

    # -- Slack

    def _post(self, slack: Slack, shown: Shown) -> None:
        """Shows a code in the channel, instead of the one before."""
        with self._alone(shown.session):
            post = self._posts.get(shown.session)
            if post is None or post.n != shown.n:
                return
            try:
                channel, ts = self._say(slack, post, _alive(shown), shown.until)
                if not self._posts.says(shown.session, shown.n, channel, ts):
                    if ts != post.ts:
                        slack.forget(channel, ts, time.monotonic() + TELL_S)
                    return
                name = f"{shown.session}-{shown.n}.png"
                title = f"QR code {shown.n} of {MOST} for session {shown.session}"
                file = slack.upload(shown.png, name, title, shown.until)
                if not self._posts.shows(shown.session, shown.n, file):
                    slack.delete(file, time.monotonic() + TELL_S)
                    return
                self._hide(slack, shown.session, post, time.monotonic() + TELL_S)
            except NotTaken as error:
                self._tell("Slack", f"Slack did not take a QR code: {error}")
                return
        self._refused.discard("Slack")

    def _say(self, slack: Slack, post: Posted, text: str, until: float) -> tuple[str, str]:
        """Has its message say something else; a new one, where there is none."""
        if post.ts and slack.change(post.channel, post.ts, text, until):
            return post.channel, post.ts
        return slack.post(text, until)

    def _hide(self, slack: Slack, session: str, post: Posted, until: float) -> None:
        """Takes the pictures away that were there."""
        now = self._posts.get(session)
        for file in post.files:
            slack.delete(file, until)
            self._posts.hides(session, now.n if now else post.n, file)

    # -- what becomes of it

    def _settle(self, id_: str) -> None:
        """Marks a code as dead that is, and takes away what shows it."""
        with self._alone(id_):
            if (post := self._posts.get(id_)) is None:
                return
            session = self._sessions.get(id_)
            word = self._word(session, post)
            if word == "alive" and post.ends_at:
                now = records.moment_of(self._redis)
                left_s = (post.ends_at - now).total_seconds() + self._after_s
                self._posts.look_in(id_, max(0.0, left_s))
                return
            try:
                if self._slack:
                    self._mark(self._slack, id_, post, word)
            except NotTaken as error:
                self._tell("Slack", f"Slack did not take away a QR code: {error}")
                self._posts.look_in(id_, max(error.after_s or 0.0, LEASE_S))
                return
            if word in {"expired", "last", PASSKEY}:
                self._posts.look_in(id_, AGAIN_S)
            elif self._posts.end(id_, post.n) and post.n and self._places:
                self._give(self._for_others, partial(self._note, id_, word))

    def _mark(self, slack: Slack, id_: str, post: Posted, word: str) -> None:
        until = time.monotonic() + TELL_S
        for file in post.files:
            slack.delete(file, until)
            self._posts.hides(id_, post.n, file)
        if word != post.shown and (post.ts or word == PASSKEY):
            channel, ts = self._say(slack, post, _text(word, id_), until)
            self._posts.says(id_, post.n, channel, ts, word)

    def _word(self, session: Session | None, post: Posted) -> str:
        """How it stands with a session's codes: `alive`, `expired`, `last`, `deleted`, or the session's state."""
        if session is None:
            return "deleted"
        if session.state not in {
            "scan",
            "starting",
        }:  # a sidecar may start it anew between two codes
            return session.state
        if post.ends_at and records.moment_of(self._redis) < post.ends_at:
            return "alive"
        return "last" if post.n >= MOST else "expired"

    # -- other places

    def _send(self, shown: Shown) -> None:
        """Sends a code to each other place that takes files, to all of them at once."""
        post = self._posts.get(shown.session)
        left_s = shown.until - time.monotonic()
        urls = self._with_files()
        if not urls or left_s <= 0 or post is None or post.n != shown.n:
            return
        png = shown.png
        file = File(
            f"{shown.session}-{shown.n}.png",
            "image/png",
            len(png),
            "image",
            open=lambda: io.BytesIO(png),
        )
        self._carry(_newest(shown), min(left_s, TELL_S), (file,))

    def _note(self, id_: str, word: str) -> None:
        """Says to the others that no code counts any more."""
        self._carry(_text(word, id_), TELL_S)

    def _carry(self, text: str, within_s: float, files: tuple[File, ...] = ()) -> None:
        urls = self._with_files()
        if not urls:
            return
        told = Notification("QR code", urls, text, title="Postrider", files=files)
        reply = self._carrier.carry(told, within_s)
        places = reply.object().get("places", []) if isinstance(reply, Reply) else []
        for n, url in enumerate(urls):
            where = f"number {self._places.index(url) + 1} of ALERT_URLS"
            if n < len(places) and places[n].get("ok") is True:
                self._refused.discard(where)
            else:
                self._tell(where, f"{where} did not take a QR code")

    def _asked_for_files(self) -> tuple[str, ...]:
        """The places that take files; asked for once, as Apprise is large."""
        found = (
            (url, notifications.look(url, tls_verify=self._tls_verify)) for url in self._places
        )
        return tuple(url for url, place in found if place and place.takes_files)

    # -- besides

    def _tell(self, where: str, text: str) -> None:
        """Says what is refused, once, until it is taken again. `text` holds neither codes nor keys."""
        with self._lock:
            known = where in self._refused
            self._refused.add(where)
        if not known:
            log.warning("%s", text)

    @contextmanager
    def _alone(self, session: str) -> Iterator[None]:
        """One at a time for a session: a message must not say less than one that came after."""
        until = time.monotonic() + TELL_S
        while True:
            with self._lock:
                if session not in self._busy:
                    self._busy.add(session)
                    break
            if time.monotonic() > until:
                raise TimeoutError("another call for this session does not end")
            time.sleep(0.02)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(session)


def _alive(shown: Shown) -> str:
    return (
        f"Session {shown.session} waits for its phone. Scan QR code {shown.n} of {MOST} in WhatsApp, under Linked devices:"
        f" it lives {shown.lives}. Whoever scans it, is in."
    )


def _newest(shown: Shown) -> str:
    older = "" if shown.n == 1 else " It is the newest: those before it are dead."
    return f"{_alive(shown)}{older}"


def _text(word: str, id_: str) -> str:
    """What a message says that shows no code."""
    again = f"postrider sessions link {id_}"
    match word:
        case "linked":
            return f"Session {id_} is linked. Its QR codes are dead."
        case "expired":
            return f"Session {id_}: this QR code is dead. The next one comes here in a moment."
        case "last":
            return f"Session {id_}: nobody scanned the last of {MOST} QR codes; they are dead. Begin again: {again}"
        case "passkey":
            return (
                f"Session {id_}: the phone asks for its passkey. Finish in the sidecar's dashboard, or by"
                f" /api/v1/sessions/{id_}/passkey: GET gives the challenge, POST takes the answer."
            )
        case "deleted":
            return f"Session {id_} was deleted. Its QR codes are dead."
    return f"Session {id_} is {word}; no phone was linked, and its QR codes are dead. Begin again: {again}"
