"""A call that stands whole in its path, a URL at its end: read as the client wrote it, before anybody has decoded it.

PATH_INFO would not do: there `%2F` is a slash, `%3F` a question mark, and what stood behind the `?` is gone.
"""

import re
import string
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from werkzeug.routing import BaseConverter

from postrider.errors import InvalidRequest

_URL = re.compile("https?(?::|%3A)", re.IGNORECASE)
_TO_URL = re.compile("/(?=https?(?::|%3A))", re.IGNORECASE)
_ASCII = string.punctuation
_ASKED = ("", "a number and ", "a number, a text and ")


class Anything(BaseConverter):
    """A part of a path that may hold whatever there is, also nothing, slashes and line ends."""

    regex = r"[\s\S]*?"
    part_isolating = False
    weight = 300


def words(environ: Mapping[str, Any], prefix: str, count: int) -> tuple[list[str], str]:
    """The `count` words (0 to 2) behind `prefix`, decoded, and the URL behind them. Raises InvalidRequest.

    The last of the words may hold slashes as they are, where nothing in it looks like the URL's beginning.
    """
    _, _, rest = _target(environ).partition(prefix)
    told: list[str] = []
    if count > 0:
        word, _, rest = rest.lstrip("/").partition("/")
        told.append(word)
    rest = rest.lstrip("/")
    if count > 1:
        end = _TO_URL.search(rest, 1)
        told.append(rest[: end.start()].rstrip("/") if end else "")
        rest = rest[end.end() :] if end else ""
    if not all(told) or not _URL.match(rest):
        why = f"{prefix} is followed by {_ASKED[count]}the return URL, http://... or https://..."
        raise InvalidRequest("path", why, alone=True)
    return [_decoded(word) for word in told], _url(rest)


def _target(environ: Mapping[str, Any]) -> str:
    """What was asked for, in ASCII: gunicorn and others keep it; else it is put together from what is left of it."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not raw:
        query = environ.get("QUERY_STRING")
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        raw = quote(path.encode("latin-1")) + (f"?{query}" if query else "")
    return quote(raw.encode("latin-1"), safe=_ASCII)


def _decoded(word: str) -> str:
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("path", "holds what is no UTF-8", alone=True) from None


def _url(given: str) -> str:
    """The URL, whether it was encoded or not. A `//` that a proxy has made one slash of is mended."""
    if not re.match("https?:/", given, re.IGNORECASE):
        encoded, mark, query = given.partition("?")
        given = quote(_decoded(encoded), safe=_ASCII)
        if mark:
            given += ("&" if "?" in given else "?") + query
    return re.sub("^(https?):/+", r"\1://", given, flags=re.IGNORECASE)
