"""The parts of a multipart body as they come: a file is never whole in memory, and a value is its raw bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

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

from postrider.errors import InvalidRequest

STEP = 64 * 1024
PENDING = 16 * STEP
"""Bytes that may be held back until one knows what they are: headers, and what could be a boundary."""
MOST_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name in the form, its file's name if it has one, and what it holds, to be read before the next part."""

    part: str
    name: str | None
    content: Iterator[bytes]


def parts(stream: IO[bytes], content_type: str) -> Iterator[Part]:
    """What a body of this type holds. Raises InvalidRequest when it is no multipart/form-data, or was cut off."""
    mimetype, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if mimetype != "multipart/form-data" or not 0 < len(boundary) <= 200:
        raise InvalidRequest("", "send the files as multipart/form-data")
    decoder = MultipartDecoder(boundary.encode(), PENDING, max_parts=MOST_PARTS)
    events = _events(decoder, stream)
    for event in events:
        if isinstance(event, Field | File):
            content = _content(events)
            yield Part(event.name or "", getattr(event, "filename", None), content)
            for _ in content:  # what nobody wanted
                pass


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, Data):
            yield event.data
            if not event.more_data:
                return


def _events(decoder: MultipartDecoder, stream: IO[bytes]) -> Iterator[Event]:
    while True:
        some = stream.read(STEP)
        decoder.receive_data(some or None)
        while not isinstance(event := _next(decoder), NeedData):
            if isinstance(event, Epilogue):
                return
            yield event


def _next(decoder: MultipartDecoder) -> Event:
    try:
        return decoder.next_event()
    except ValueError:  # also when the body ends before its last boundary
        raise InvalidRequest("", "the body is cut off, or no multipart/form-data") from None
