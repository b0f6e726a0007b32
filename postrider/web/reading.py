"""Request bodies whose length nobody said (`Transfer-Encoding: chunked`): read whole, or refused.

Werkzeug hands on the first `max_content_length` bytes of such a body as if they were all of it
(werkzeug 3.1, `LimitedStream.readall`); here it is a 413, and what is refused never stood in memory.
"""

from tempfile import TemporaryFile
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

STEP = 64 * 1024


class WholeRequest(Request):
    """A request whose body is all that was sent."""

    def get_data(self, cache: bool = True, *args: Any, **kwargs: Any) -> Any:
        """The body. Raises RequestEntityTooLarge."""
        if self.content_length is None and not hasattr(self, "_cached_data"):
            self._cached_data = self._read()
        return super().get_data(cache, *args, **kwargs)

    def _read(self) -> bytes:
        if not self.environ.get("wsgi.input_terminated"):
            return b""
        incoming, length, limit = self.environ["wsgi.input"], 0, self.max_content_length
        with TemporaryFile() as file:
            while part := incoming.read(STEP):
                length += file.write(part)
                if limit is not None and length > limit:
                    raise RequestEntityTooLarge
            file.seek(0)
            return file.read()
