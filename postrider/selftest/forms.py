"""What a multipart body holds, read apart from whoever wrote it: RFC 7578, as strictly as a messenger's server."""

import hashlib
import re
from dataclasses import dataclass

_DISPOSITION = re.compile(rb'form-data; name="([^"]*)"(?:; filename="([^"]*)")?')


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it came."""

    name: str
    media_type: str
    size: int
    sha256: str


def parts_of(body: bytes, content_type: str) -> tuple[dict[str, str], dict[str, Upload]]:
    """Its fields and its files by their names. Raises ValueError for what is no such body."""
    _, _, boundary = content_type.partition("boundary=")
    mark = b"--" + boundary.strip('"').encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n" + mark)
    if first or last.rstrip(b"\r\n") != b"--" or not boundary:
        raise ValueError("this is no whole form")
    fields: dict[str, str] = {}
    uploads: dict[str, Upload] = {}
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n"))
        told = _DISPOSITION.fullmatch(headers[b"Content-Disposition"])
        if told is None:
            raise ValueError("a part without a name")
        name = told[1].decode()
        if told[2] is None:
            fields[name] = content.decode()
            continue
        kind = headers[b"Content-Type"].decode()
        digest = hashlib.sha256(content).hexdigest()
        uploads[name] = Upload(told[2].decode(), kind, len(content), digest)
    return fields, uploads
