"""Attachments by URL: fetched once, when a message is accepted, from where its client may have us call; or only linked to."""

import mimetypes
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from email.message import Message
from urllib.parse import unquote, urljoin, urlsplit

from messengers.base import UNSEEN, File, NoReply, Reply
from postrider.arriving import Arriving, clean_name
from postrider.errors import InvalidRequest, Unavailable
from postrider.files import Files, Left, Stored, over
from postrider.guard import Guard, Refused
from postrider.model import Attachment
from postrider.outward import Outward
from postrider.sniffing import kind_of

WITHIN_S = 60.0
"""For all attachments of one message: its client waits for the answer."""
REDIRECTS = 5
AT_ONCE = 16
"""Fetched at the same time in one process: slow servers must not keep its threads from everybody else."""
MOVED = {301, 302, 303, 307, 308}


class Fetching:
    """What gets files from elsewhere into `files`; each at most `limit` bytes."""

    def __init__(
        self, files: Files, guard: Guard, limit: int, outward: Outward | None = None
    ) -> None:
        self._files, self._guard, self._limit = files, guard, limit
        self._outward = outward or Outward(guard)
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def fetch_all(
        self, attachments: Sequence[Attachment], owner: str, clock: Callable[[], datetime]
    ) -> tuple[tuple[Attachment, ...], list[Stored]]:
        """`attachments` with what is behind their URLs kept for `owner`, all of it or nothing; and what that is.

        Raises InvalidRequest, TooManyRequests, Unavailable.
        """
        until = time.monotonic() + WITHIN_S
        found: list[Attachment] = []
        fetched: list[Stored] = []
        try:
            for n, asked in enumerate(attachments):
                if asked.url and not asked.link:
                    kept = self.fetch(f"attachments[{n}].url", asked.url, owner, clock, until)
                    fetched.append(kept)
                    found.append(replace(asked, file=kept.file.id, url=""))
                else:
                    found.append(asked)
        except BaseException:
            if fetched:
                self._files.forget([stored.file.id for stored in fetched], fetched[-1].at)
            raise
        return tuple(found), fetched

    def resolve(self, attachments: Sequence[Attachment], owner: str) -> tuple[File, ...]:
        """The files that these name, of which none is to be fetched any more. Raises InvalidRequest."""
        return tuple(
            self.linked(f"attachments[{n}].url", asked)
            if asked.link
            else self._files.resolved(f"attachments[{n}]", asked, owner)
            for n, asked in enumerate(attachments)
        )

    def fetch(
        self, field: str, url: str, owner: str, clock: Callable[[], datetime], until: float
    ) -> Stored:
        """The file behind `url`, kept for `owner`. `until`: of the monotonic clock.

        Raises InvalidRequest, TooManyRequests, Unavailable.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable("too many files are being fetched", retry_after_s=5)
        try:
            with closing(self._files.incoming()) as incoming:
                reply, final = self._follow(field, url, incoming, self._files.left(owner), until)
                name = _said(reply) or unquote(urlsplit(final).path.rpartition("/")[2])
                return self._files.keep(incoming, name, owner, clock())
        finally:
            self._places.release()

    def _follow(
        self, field: str, url: str, incoming: Arriving, left: Left | None, until: float
    ) -> tuple[Reply, str]:
        """The answer that is none to go elsewhere, and the URL that gave it."""

        def write(part: bytes) -> None:
            size = incoming.size + len(part)
            if size > self._limit:
                raise InvalidRequest(field, f"is over {self._limit} bytes (MAX_FILE_BYTES)")
            if left is not None and size > left.left:
                raise over(left.most)
            incoming.write(part)

        for _ in range(REDIRECTS + 1):
            try:
                reply = self._outward.fetch(url, write, until - time.monotonic())
            except Refused as error:
                raise InvalidRequest(field, str(error)) from None
            if isinstance(reply, NoReply):
                raise InvalidRequest(field, f"could not be fetched: {reply.reason}")
            to = reply.headers.get("location", "")
            if reply.status == 200:
                return reply, url
            if reply.status not in MOVED or not to:
                raise InvalidRequest(field, f"could not be fetched: it answers {reply.status}")
            url = _elsewhere(field, url, to)
        raise InvalidRequest(field, f"leads to over {REDIRECTS} other URLs")

    def linked(self, field: str, asked: Attachment) -> File:
        """The file behind a URL that we never fetch. Raises InvalidRequest."""
        try:
            self._guard.target(asked.url)
        except Refused as error:
            raise InvalidRequest(field, str(error)) from None
        name = clean_name(asked.name or unquote(urlsplit(asked.url).path.rpartition("/")[2]))
        media_type = mimetypes.guess_type(name)[0] or UNSEEN
        return File(
            name=name,
            media_type=media_type,
            size=0,
            kind=asked.kind or kind_of(media_type),
            inline=asked.inline,
            link=asked.url,
        )


def _elsewhere(field: str, url: str, to: str) -> str:
    """Where a redirect leads. Raises InvalidRequest for one out of HTTPS, and for what is no URL."""
    try:
        found = urljoin(url, to)
    except ValueError:  # http://[1.2.3.4]/, where Python looks at what stands in the brackets
        raise InvalidRequest(field, "leads to what is no URL") from None
    if url.lower().startswith("https:") and not found.lower().startswith("https:"):
        raise InvalidRequest(field, "leads out of https")
    return found


def _said(reply: Reply) -> str:
    """The name that the answer gives the file, or nothing."""
    told = Message()
    told["Content-Disposition"] = reply.headers.get("content-disposition", "")
    try:
        return told.get_filename("") or ""
    except (LookupError, ValueError):  # a charset that is none
        return ""
