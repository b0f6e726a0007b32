"""Uploads as they come: each file of a multipart form goes straight to where it is kept, and no more of it stands in memory
than one read of the network."""

import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Field,
    File,
    MultipartDecoder,
    NeedData,
)

from postrider.arriving import Arriving
from postrider.errors import InvalidRequest, TooLarge, Unavailable, WrongMediaType
from postrider.files import Files, Left, over
from postrider.patience import UPLOADS

READ = 64 * 1024
PARTS = 100
"""Files and fields in one form."""
FIELD_BYTES = 64 * 1024
"""Of one field that is no file."""
HEAD_BYTES = 256 * 1024
"""Of what stands in memory at once: the head of a part, and what was read."""

AGAIN_S = 5
"""When one may try again that found no place."""
PLACES = threading.BoundedSemaphore(UPLOADS)
"""Of this process, as its threads are: slow uploads must not keep all of them."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a form held: (name of the field, name of the file, the file) in order, and fields that are no files."""

    files: list[tuple[str, str, Arriving]] = field(default_factory=list)
    fields: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def received(
    request: Request,
    files: Files,
    limit: int,
    *,
    left: Left | None = None,
    as_fields: Collection[str] = (),
) -> Iterator[Received]:
    """What `request` uploads, until the block ends: what nobody has kept by then is gone.

    `limit`: bytes of one file. `left`: of all of them, None for as many as there are. `as_fields`: names of parts that are
    fields though they have a file name. Raises InvalidRequest, TooLarge, TooManyRequests, WrongMediaType, Unavailable.
    """
    if not PLACES.acquire(blocking=False):
        raise Unavailable("too many files are being uploaded", retry_after_s=AGAIN_S)
    with ExitStack() as opened:
        opened.callback(PLACES.release)
        try:
            form = _Form(request, files, limit, left=left, as_fields=as_fields, opened=opened)
            yield form.read()
        except RequestEntityTooLarge:
            raise TooLarge(
                f"the form has over {PARTS} parts, or a head over {HEAD_BYTES} bytes"
            ) from None


class _Form:
    """One form, read once."""

    def __init__(
        self,
        request: Request,
        files: Files,
        limit: int,
        *,
        left: Left | None,
        as_fields: Collection[str],
        opened: ExitStack,
    ) -> None:
        self._request, self._files, self._limit, self._left = request, files, limit, left
        self._as_fields, self._opened = as_fields, opened
        self._found = Received()
        self._size = 0
        self._file: tuple[str, Arriving] | None = None
        self._field = ""

    def read(self) -> Received:
        kind, options = parse_options_header(self._request.content_type)
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data":
            raise WrongMediaType("send files as multipart/form-data")
        if not (boundary.isascii() and 0 < len(boundary) <= 200):
            raise InvalidRequest("Content-Type", "names no boundary between the parts")
        decoder = MultipartDecoder(boundary.encode(), HEAD_BYTES, max_parts=PARTS)
        try:
            for part in self._parts():
                decoder.receive_data(part)
                while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                    self._take(event)
        except UnicodeDecodeError:
            raise InvalidRequest("body", "has names that are not in UTF-8") from None
        except ValueError:
            raise InvalidRequest(
                "body", "is cut short, or no form; nothing of it was kept"
            ) from None
        return self._found

    def _parts(self) -> Iterator[bytes | None]:
        """What comes, and None at the end. Whoever keeps it coming is not hung up on."""
        incoming = self._request.environ["wsgi.input"]
        renew = getattr(incoming, "renew", None)
        left = None
        if not self._request.environ.get("wsgi.input_terminated"):
            left = self._request.content_length or 0
        while part := _some(incoming, READ if left is None else min(READ, left)):
            if left is not None:
                left -= len(part)
            if renew and len(part) == READ:
                renew()
            yield part
        yield None

    def _take(self, event: object) -> None:
        match event:
            case File(filename=str(name), name=str(field_name)) if (
                field_name not in self._as_fields
            ):
                incoming = self._files.incoming()
                self._opened.callback(incoming.close)
                self._file = name, incoming
                self._found.files.append((field_name, name, incoming))
            case Field(name=str(name)) | File(name=str(name)):
                if name in self._found.fields:
                    raise InvalidRequest(name[:100], "is given more than once")
                self._file, self._field = None, name
                self._found.fields[name] = b""
            case File() | Field():
                raise InvalidRequest("body", "has a part without a name")
            case Data(data=bytes(data)) if data:
                self._write(data)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            whole = self._found.fields[self._field] + data
            if len(whole) > FIELD_BYTES:
                raise TooLarge(f"{self._field[:100]}: is over {FIELD_BYTES} bytes")
            self._found.fields[self._field] = whole
            return
        name, incoming = self._file
        self._size += len(data)
        if incoming.size + len(data) > self._limit:
            raise TooLarge(f"{name[:100]}: is over {self._limit} bytes (MAX_FILE_BYTES)")
        if self._left is not None and self._size > self._left.left:
            raise over(self._left.most)
        incoming.write(data)


def _some(incoming: object, size: int) -> bytes:
    """Up to so many bytes; none at the end, also one that came too soon: the form itself says where it ends."""
    try:
        part: bytes = incoming.read(size) if size else b""  # type: ignore[attr-defined]
    except OSError:
        return b""
    return part
