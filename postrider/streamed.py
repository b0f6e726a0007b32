"""Bodies that are read part by part as they are sent, so that no file of theirs ever stands in memory."""

import base64
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from requests_toolbelt import MultipartEncoder  # type: ignore[import-untyped]

from messengers.base import File


class Body(ABC):
    """A body with files in it, as it is sent, part by part: `len` bytes in all, of `content_type`; to be closed.

    Both of our clients take what has a `read`. One file is open at a time.
    """

    content_type: str
    len: int

    def __init__(self) -> None:
        self._contents: list[_Content] = []
        self.given = 0
        self.broken: OSError | None = None

    def read(self, most: int = -1) -> bytes:
        """The next bytes. Raises OSError."""
        try:
            part = self._next(most)
        except OSError as error:
            self.broken = error
            raise
        self.given += len(part)
        return part

    @abstractmethod
    def _next(self, most: int) -> bytes:
        """The next bytes; at most so many, or all that is left for -1. Raises OSError."""

    def _content(self, file: File) -> "_Content":
        content = _Content(file)
        content.look()
        self._contents.append(content)
        return content

    @property
    def is_cut(self) -> bool:
        """Whether no more than a part was handed out: then nobody can have taken it for the whole."""
        return self.given < self.len

    def close(self) -> None:
        """Closes what is open of its files."""
        for content in self._contents:
            content.close()


class FormBody(Body):
    """A form. requests-toolbelt's encoder streams it."""

    def __init__(self, form: Sequence[tuple[str, str | File]]) -> None:
        super().__init__()
        fields: list[tuple[str, object]] = []
        for name, value in form:
            if isinstance(value, str):
                fields.append((name, value))
            else:
                fields.append((name, (value.name, self._content(value), value.media_type)))
        self._encoder = MultipartEncoder(fields)
        self.content_type = self._encoder.content_type
        self.len = self._encoder.len

    def _next(self, most: int) -> bytes:
        part: bytes = self._encoder.read(most)
        return part


class JsonBody(Body):
    """JSON in which each file stands as a string: its content in base64."""

    content_type = "application/json"

    def __init__(self, said: Mapping[str, object]) -> None:
        super().__init__()
        mark = secrets.token_hex(16)  # stands where a file is to be; nobody's words hold it
        files: list[File] = []

        def marked(value: object) -> str:
            if not isinstance(value, File):
                raise TypeError(f"{type(value).__name__} is no JSON")
            files.append(value)
            return mark

        around = json.dumps(said, ensure_ascii=False, separators=(",", ":"), default=marked)
        texts = [text.encode() for text in around.split(mark)]
        encoded = [_Base64(self._content(file)) for file in files]
        self.len = sum(map(len, texts)) + sum(one.len for one in encoded)
        self._parts = self._in_turn(texts, encoded)
        self._ready = b""

    @staticmethod
    def _in_turn(texts: list[bytes], encoded: "list[_Base64]") -> Iterator[bytes]:
        yield texts[0]
        for one, text in zip(encoded, texts[1:], strict=True):
            yield from one.parts()
            yield text

    def _next(self, most: int) -> bytes:
        while most < 0 or not self._ready:
            part = next(self._parts, None)
            if part is None:
                break
            self._ready += part
        end = len(self._ready) if most < 0 else most
        part, self._ready = self._ready[:end], self._ready[end:]
        return part


class _Base64:
    """A file's content in base64; `len` characters in all."""

    PART = 3 * 16 * 1024
    """Bytes that are encoded at once; a multiple of three, so that the parts join."""

    def __init__(self, content: "_Content") -> None:
        self._content = content
        self.len = (content.len + 2) // 3 * 4

    def parts(self) -> Iterator[bytes]:
        """All of it, in order. Raises OSError."""
        left = b""
        while self._content.len:
            left += self._content.read(self.PART - len(left))
            whole = len(left) - (len(left) % 3 if self._content.len else 0)
            yield base64.b64encode(left[:whole])
            left = left[whole:]


class _Content:
    """A file's content, of a length that is known before it is read. What has been cut since is an error."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._opened: BinaryIO | None = None
        self.len = file.size

    def look(self) -> None:
        """Raises OSError when there is nothing to read."""
        self._file.open().close()

    def read(self, most: int = -1) -> bytes:
        if not self.len:
            return b""
        if self._opened is None:
            self._opened = self._file.open()
        part = self._opened.read(self.len if most < 0 else min(most, self.len))
        if not part and most:
            raise OSError("a file has become shorter since it was uploaded")
        self.len -= len(part)
        if not self.len:
            self.close()
        return part

    def close(self) -> None:
        if self._opened:
            self._opened.close()
            self._opened = None
