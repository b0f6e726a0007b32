"""Uploads as they come: each file of a form goes straight to where it is kept, and is never whole in memory."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import IO

from flask import Request
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
    NeedData,
)

from postrider.errors import InvalidRequest, TooLarge
from postrider.files import Files, Incoming

READ = 64 * 1024
HEAD_BYTES = 4 * READ
"""Held back until one knows what it is: the head of a part, and what could be a boundary."""
FIELD_BYTES = 64 * 1024
"""Of one field that is no file."""
PARTS = 100
"""Files and fields in one form."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a form held: (name of the part, name of the file, the file) in order, and fields that are no files."""

    files: list[tuple[str, str, Incoming]] = field(default_factory=list)
    fields: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def received(
    request: Request, files: Files, limit: int, *, as_fields: Collection[str] = ()
) -> Iterator[Received]:
    """What `request` uploads, until the block ends: what nobody has kept by then is gone.

    `limit`: bytes of all. `as_fields`: parts that are fields though they have a file name. Raises InvalidRequest, TooLarge.
    """
    mimetype, options = parse_options_header(request.headers.get("Content-Type", ""))
    boundary = options.get("boundary", "")
    if mimetype != "multipart/form-data" or not 0 < len(boundary) <= 200:
        raise InvalidRequest("", "send the files as multipart/form-data")
    request.max_content_length = limit
    found = Received()
    with ExitStack() as stack:
        for event, content in _parts(
            MultipartDecoder(boundary.encode(), HEAD_BYTES), request.stream
        ):
            if len(found.files) + len(found.fields) == PARTS:
                raise InvalidRequest("", f"there are more than {PARTS} files")
            if isinstance(event, File) and event.name not in as_fields:
                incoming = stack.enter_context(closing(files.incoming()))
                for some in content:
                    incoming.write(some)
                found.files.append((event.name or "", event.filename, incoming))
            else:
                found.fields[event.name or ""] = _value(event.name or "", content)
        yield found


def _value(name: str, content: Iterator[bytes]) -> bytes:
    whole = b""
    for some in content:
        whole += some
        if len(whole) > FIELD_BYTES:
            raise TooLarge(f"{name[:100]}: is over {FIELD_BYTES} bytes")
    return whole


def _parts(
    decoder: MultipartDecoder, stream: IO[bytes]
) -> Iterator[tuple[Field | File, Iterator[bytes]]]:
    events = _events(decoder, stream)
    for event in events:
        if isinstance(event, Field | File):
            yield event, _content(events)


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, Data):
            yield event.data
            if not event.more_data:
                return


def _events(decoder: MultipartDecoder, stream: IO[bytes]) -> Iterator[Event]:
    while True:
        decoder.receive_data(stream.read(READ) or None)
        while not isinstance(event := _next(decoder), NeedData):
            if isinstance(event, Epilogue):
                return
            yield event


def _next(decoder: MultipartDecoder) -> Event:
    try:
        return decoder.next_event()
    except ValueError:  # also when the body ends before its last boundary
        raise InvalidRequest("", "the body is cut off, or no multipart/form-data") from None
